"""What a plan tells of a compiled program, for people and as JSON."""

import dataclasses
import json
from typing import Annotated, NotRequired

import pydantic
from typing_extensions import TypedDict

from ccl_jax.documents import Number
from ccl_jax.errors import UsageError
from ccl_jax.planning.chips import GIB
from ccl_jax.planning.phases import Phase
from ccl_jax.planning.predict import KINDS, MEASURED_OVER_PREDICTED, Prediction, Time

# Of an earlier report's memory, traffic or FLOPs, and of its predicted time: more is a
# regression.
WORSE, SLOWER = 1.02, 1.05


@dataclasses.dataclass(frozen=True)
class Report:
  """The facts about one compiled program; bytes and FLOPs are of one chip.

  Attributes:
    topology, mesh, batch, program, remat: what was compiled.
    hbm_bytes, hbm_limit: peak memory, and what the chip has.
    model_flops, hardware_flops: without and with what is recomputed.
    traffic_bytes: sent per step; and `outside_bytes` of these, from a machine of GPUs.
    collectives: (kind, runs, bytes sent).
    largest: the collective that sends most.
    seconds: floors of a step: "arithmetic", "memory", "network".
    mfu: if nothing overlaps, and if everything does.
    compile_seconds: of the compiler.
    slices: of the topology, which a data-centre network joins.
    prediction: the time of a step by the compiler's estimates; None if it makes none.
    predicted_mfu: by both sums of the prediction.
    compiler: versions of the packages that compiled it.
    phases: of a generation, what each needs, in the order in which they run.
    launches: of a GPU program, kernels and calls of libraries by kind.
  """

  topology: str
  mesh: tuple[int, ...]
  batch: int
  program: str
  remat: str
  hbm_bytes: int
  hbm_limit: float
  model_flops: float
  hardware_flops: float
  traffic_bytes: int
  collectives: list[tuple[str, int, float]]
  largest: str
  seconds: dict[str, float]
  mfu: tuple[float, float]
  compile_seconds: float
  slices: int = 1
  prediction: Prediction | None = None
  predicted_mfu: tuple[float, float] | None = None
  compiler: str = ""
  phases: dict[str, Phase] = dataclasses.field(default_factory=dict)
  outside_bytes: int = 0
  launches: dict[str, int] = dataclasses.field(default_factory=dict)

  @property
  def fits(self) -> bool:
    """Whether the program, and every phase of a generation, is within the memory."""
    needs = [self.hbm_bytes, *(phase.bytes for phase in self.phases.values())]
    return max(needs) <= self.hbm_limit

  @property
  def rank(self) -> tuple[bool, float]:
    """A key to sort by, the fastest first: by the prediction or, without one, by the
    sum of the floors. A prediction that lacks a price comes last.
    """
    if self.prediction is None:
      return False, sum(self.seconds.values())
    return bool(self.prediction.unknown), self.prediction.est


def show(r: Report) -> str:
  """A report as lines of text for people."""
  verdict = "fits" if r.fits else "DOES NOT FIT"
  slices = f" x {r.slices} slices" if r.slices > 1 else ""
  lines = [
    f"{r.program} on {r.topology}{slices}, mesh {r.mesh} (data, fsdp, context, "
    f"tensor), batch {r.batch}, remat {r.remat}",
    f"  memory      {r.hbm_bytes / GIB:.2f} of {r.hbm_limit / GIB:.2f} GiB a chip: "
    f"{verdict}",
    f"  FLOPs       {r.model_flops / 1e12:.1f} TFLOP a chip, with recomputation "
    f"{r.hardware_flops / 1e12:.1f}",
    f"  network     {r.traffic_bytes / 1e9:.2f} GB a chip{_outside(r)}; largest "
    f"{r.largest}",
  ]
  lines += [f"  {name:12}{phase}" for name, phase in r.phases.items()]
  for kind, count, size in r.collectives:
    lines.append(f"    {kind:20} x {count:<6} {size / 1e9:9.3f} GB")
  floors = ", ".join(f"{k} {v:.3f} s" for k, v in r.seconds.items())
  lines.append(f"  floors      {floors}")
  lines.append(
    f"    no step is faster than {max(r.seconds.values()):.2f} s, MFU {r.mfu[1]:.0%}, "
    f"if all overlaps; {sum(r.seconds.values()):.2f} s, {r.mfu[0]:.0%}, if nothing does"
  )
  if r.launches:
    counts = ", ".join(f"{kind} {n}" for kind, n in r.launches.items())
    lines += [f"  launches    {counts}", "    what cuDNN works in is not in the memory"]
  lines += _predicted(r)
  lines.append(f"  compiled in {r.compile_seconds:.0f} s by {r.compiler}")
  return "\n".join(lines)


def _outside(r: Report) -> str:
  if not r.outside_bytes:
    return ""
  return f", of which {r.outside_bytes / 1e9:.2f} to other machines"


def _predicted(r: Report) -> list[str]:
  """Lines on the prediction: what it is, and the time by module and by kind of work."""
  if r.prediction is None:
    return ["  predicted   nothing: the compiler for this chip makes no estimates"]
  p, mfu = r.prediction, r.predicted_mfu
  least = "at least " if p.unknown else ""
  lines = [
    f"  predicted   {least}{p.est:.2f} s (low {p.low:.2f} s): MFU {mfu[0]:.0%} "
    f"({mfu[1]:.0%})",
    "    the compiler's own estimates, never run; the one published step took "
    f"{MEASURED_OVER_PREDICTED} times its prediction: {least}"
    f"{MEASURED_OVER_PREDICTED * p.est:.1f} s here",
  ]
  lines += [f"    WITHOUT A PRICE, and not in the sums: {name}" for name in p.unknown]
  by_kind = p.by("kind")
  kinds = [kind for kind in KINDS if (kind,) in by_kind]
  row = lambda name, values: f"    {name:22}" + "".join(f"{v:>12}" for v in values)
  lines.append(row("seconds", [*kinds, "est", "low", "share"]))

  def told(name: str, times: dict[str, Time]) -> str:
    total = sum(times.values(), Time(0, 0))
    cells = [f"{times[k].est:.3f}" if k in times else "" for k in kinds]
    share = total.est / p.est if p.est else 0.0
    return row(name, [*cells, f"{total.est:.3f}", f"{total.low:.3f}", f"{share:.0%}"])

  split = p.by("module", "kind")
  for (module,) in p.by("module"):
    lines.append(told(module, {k: v for (m, k), v in split.items() if m == module}))
  lines.append(told("all", {k: v for (k,), v in by_kind.items()}))
  passes = ", ".join(f"{step} {t.est:.2f} s" for (step,), t in p.by("step").items())
  lines.append(f"    passes: {passes}")
  lines += [f"    {name}" for name in p.kernels]
  return lines


class EarlierPrediction(TypedDict):
  """What is read of the prediction in a report that was written as JSON."""

  est: Annotated[float, pydantic.Field(gt=0)]
  unknown: list[str]


class Earlier(TypedDict):
  """What is read of a report that was written as JSON."""

  topology: str
  mesh: list[int]
  batch: int
  program: str
  remat: str
  hbm_bytes: Annotated[float, pydantic.Field(gt=0)]
  traffic_bytes: Number
  hardware_flops: Annotated[float, pydantic.Field(gt=0)]
  slices: NotRequired[int]
  phases: NotRequired[dict[str, dict[str, int | None]]]
  prediction: NotRequired[EarlierPrediction | None]


def regressions(new: Report, old: dict) -> list[str]:
  """Lines on what is worse than in an earlier report of the same program.

  Args:
    new: the report.
    old: the earlier one, as JSON. If it has no prediction, times are not compared.

  Raises:
    UsageError: the reports are of different programs.
  """
  old = {"slices": 1, "prediction": None} | old
  same = ("topology", "slices", "mesh", "batch", "program", "remat")
  for key in same:
    value = getattr(new, key)
    if json.loads(json.dumps(value)) != old[key]:
      raise UsageError(f"--compare: that report has {key} {old[key]}, this one {value}")
  pairs = {
    key: (old[key], getattr(new, key), WORSE)
    for key in ("hbm_bytes", "traffic_bytes", "hardware_flops")
  }
  then = old.get("phases", {})
  for name in (name for name in new.phases if name in then):
    pairs[f"bytes of {name}"] = then[name]["bytes"], new.phases[name].bytes, WORSE
  lines = []
  if old["prediction"] and new.prediction:
    before, now = old["prediction"], new.prediction
    # Less is known than before: the sums do not compare.
    if lost := sorted(set(now.unknown) - set(before["unknown"])):
      lines.append(f"predicted seconds: no price of {'; '.join(lost)}")
    pairs["predicted seconds"] = before["est"], now.est, SLOWER
  return lines + [
    f"{key}: {a} -> {b}" + (f" ({b / a:.3f}x)" if a else "")
    for key, (a, b, worse) in pairs.items()
    if b > worse * a
  ]
