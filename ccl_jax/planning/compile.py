"""Compiles programs for chips that may be absent: do they fit, how fast are they?"""

import dataclasses
import itertools
import json
import math
import time
from typing import Annotated, NotRequired

import jax
import pydantic
from typing_extensions import TypedDict

from ccl_jax.data.spec import ClipSpec
from ccl_jax.documents import Number
from ccl_jax.errors import UsageError, bind
from ccl_jax.generation.memory import held, worked_in
from ccl_jax.generation.meshes import chosen_shape
from ccl_jax.generation.sampling import Sampling, sample_latents
from ccl_jax.models.byte_text import LENGTHS
from ccl_jax.models.flops import forward_flops
from ccl_jax.models.joint import geometry_of
from ccl_jax.models.precision import stored_as
from ccl_jax.models.presets import build_model, parameter_shapes
from ccl_jax.models.stream import CLIP_TOKENS, CLIP_WIDTH
from ccl_jax.planning.chips import CHIPS, GIB, STAND_INS, Chip
from ccl_jax.planning.phases import Phase, codec_shapes, decoding_phase, text_phase
from ccl_jax.planning.traffic import collectives, table
from ccl_jax.sharding import batch_sharding, make_mesh, parameter_shardings
from ccl_jax.tasks import GENERATIONS
from ccl_jax.training.build import build_run

WORSE = 1.02  # of an earlier report's memory or traffic: more is a regression
POLICIES = ("full", "save_attention")


@dataclasses.dataclass(frozen=True)
class Report:
  """The facts about one compiled program; bytes and FLOPs are of one chip.

  Attributes:
    topology, mesh, batch, program, remat: what was compiled.
    hbm_bytes, hbm_limit: peak memory, and what the chip has.
    model_flops, hardware_flops: without and with what is recomputed.
    traffic_bytes: sent per step.
    collectives: (kind, runs, bytes sent).
    largest: the collective that sends most.
    seconds: floors of a step: "arithmetic", "memory", "network".
    mfu: if nothing overlaps, and if everything does.
    compile_seconds: of the compiler.
    phases: of a generation, what each needs, in the order in which they run.
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
  phases: dict[str, Phase] = dataclasses.field(default_factory=dict)

  @property
  def fits(self) -> bool:
    """Whether the program, and every phase of a generation, is within the memory."""
    needs = [self.hbm_bytes, *(phase.bytes for phase in self.phases.values())]
    return max(needs) <= self.hbm_limit


def parse_topology(name: str) -> tuple[Chip, list]:
  """The chip, and the devices that the topology has.

  Args:
    name: KIND:AxB or KIND:AxBxC of TPUs, a GPU such as H100:1, or cpu:N.

  Raises:
    UsageError: no such kind or arrangement, or no libtpu.
  """
  kind, _, shape = name.partition(":")
  if kind == "cpu" and shape.isdigit():
    devices = jax.devices("cpu")
    if len(devices) < int(shape):
      raise UsageError(
        f"--topology {name}: this host shows {len(devices)} devices; set "
        f"JAX_NUM_CPU_DEVICES={shape}"
      )
    return CHIPS[kind], devices[: int(shape)]
  kinds = [k for k in CHIPS if k.startswith("v")]
  stand_in = kind in STAND_INS and STAND_INS[kind].get(shape)
  if not stand_in and (kind not in kinds or not shape):
    raise UsageError(
      f"--topology {name}: expected KIND:AxB or AxBxC with KIND one of "
      f"{', '.join(kinds)}, e.g. v5p:4x4x4 or v6e:8x8; or cpu:8; or a GPU as H100:1, "
      f"with 1, 4 or 8 of {', '.join(STAND_INS)}"
    )
  from jax.experimental import topologies

  try:
    topology = topologies.get_topology_desc(
      platform="tpu", topology_name=stand_in or name
    )
  except Exception as e:  # the compiler's own, of several types
    text = str(e).splitlines()[0][:200]
    if "libtpu" in str(e).lower() and "topology" not in str(e).lower():
      raise UsageError(
        f"cannot compile for {name}: {text}; pip install 'ccl_jax[tpu]'"
      ) from e
    raise UsageError(
      f"--topology {name}: {text}; v5p and v4 take AxBxC with sides 2, 4, 8, 12, 16, "
      "v6e and v5e AxB such as 4x4, 8x8, 16x16"
    ) from e
  return CHIPS[kind], topology.devices


def lower_train(config, mesh, batch: int):
  """The train step of a config before it is compiled, for `batch` clips on the mesh."""
  text = (config.codec.text_length or LENGTHS[1], config.codec.text_dim)
  run = build_run(config, mesh, text, batch=batch)
  spec = bind("clip", config.clip, ClipSpec)
  rows = batch_sharding(mesh)
  data = _latents(run.model, spec, batch, rows) | _image(run.model, spec, batch, rows)
  data["text"] = _array((batch, *text), rows)
  data["null_text"] = _array(text, jax.NamedSharding(mesh, jax.P()))
  _, step = run.step_of(0, data)
  with jax.set_mesh(mesh):  # from here on nothing may be computed, only traced
    base = {} if run.base is None else {"base": run.base}
    return step.lower(run.state, data, **base)


def compile_train(config, mesh, batch: int):
  """The compiled train step of a config, for `batch` clips on the mesh."""
  lowered = lower_train(config, mesh, batch)
  with jax.set_mesh(mesh):
    return lowered.compile()


def compile_generate(config, mesh, batch: int):
  """The compiled sampling of `batch` clips, of joint generation with guidance.

  It has 50 steps, in one scan.
  """
  spec = bind("clip", config.clip, ClipSpec)
  model = bind("model", config.model, build_model)
  text = (config.codec.text_length or LENGTHS[1], config.codec.text_dim)
  streams = tuple(s for s, _ in model.streams)
  # The task that generates every stream of the model.
  kind = next(g for g in GENERATIONS.values() if g.generated == streams)
  guidance = "ucg2" if len(streams) == 2 else "text"

  def program(params, noise, text, image):
    conditions = {"text": text, "given": {}}
    if image:
      conditions |= {"condition": image["condition"], "clip": image["image"]}
    return sample_latents(
      model,
      params,
      kind,
      noise,
      conditions,
      Sampling(guidance=guidance, steps=50, shift=5.0),
    )

  shapes = _parameters(model, text, mesh, batch)
  # Conditional and null prompt, as guidance stacks them; whole on every device, as
  # `Pipeline.generate` has them.
  whole = jax.NamedSharding(mesh, jax.P())
  texts = _array((2, batch, *text), whole)
  noise = _latents(model, spec, batch, whole)
  with jax.set_mesh(mesh):
    image = _image(model, spec, batch, whole)
    return jax.jit(program).lower(shapes, noise, texts, image).compile()


def compile_phases(
  config, mesh, batch: int, limit: float, sampling
) -> dict[str, Phase]:
  """What the phases of a generation need of a chip: those beside its sampling are
  compiled.

  Args:
    config, mesh, batch: of the run to plan.
    limit: bytes of a chip.
    sampling: of `compile_generate`.
  """
  spec = bind("clip", config.clip, ClipSpec)
  model = bind("model", config.model, build_model)
  text = (config.codec.text_length or LENGTHS[1], config.codec.text_dim)
  codecs = codec_shapes(model, text, mesh)
  rest = held(codecs._replace(text=None))
  parameters = held(_parameters(model, text, mesh, batch))
  return {
    "text": text_phase(codecs, text[0], mesh),
    # All its arguments are used: it makes every stream of the model.
    "sampling": Phase(
      sampling.memory_analysis().argument_size_in_bytes + worked_in(sampling) + rest,
      rest,
    ),
    "decoding": decoding_phase(codecs, spec, batch, mesh, parameters, limit),
  }


def _parameters(model, text, mesh, batch: int):
  """Shapes of a model's parameters for generation, spread over a mesh."""
  shapes = stored_as(parameter_shapes(model, text, batch=batch), model.dtype)
  return jax.tree.map(
    lambda x, s: x.update(sharding=s), shapes, parameter_shardings(shapes, mesh)
  )


def _latents(model, spec: ClipSpec, batch: int, rows):
  sizes = {"video": spec.latent_shape, "audio": (spec.audio_tokens,)}
  return {s: _array((batch, *sizes[s], c.out_channels), rows) for s, c in model.streams}


def _image(model, spec: ClipSpec, batch: int, rows):
  """Shapes of a model's image condition beside the latents, {} if it takes none: the
  mask with the image's latent, and CLIP tokens (`codecs.images.image_condition`).
  """
  video = dict(model.streams).get("video")
  if video is None or not video.image_tokens:
    return {}
  condition = (batch, *spec.latent_shape, video.in_channels - video.out_channels)
  tokens = (batch, CLIP_TOKENS, CLIP_WIDTH)
  return {"condition": _array(condition, rows), "image": _array(tokens, rows)}


def _array(shape, sharding):
  return jax.ShapeDtypeStruct(shape, jax.numpy.float32, sharding=sharding)


def plan(config, topology: str, shape, batch: int, generate: bool) -> Report:
  """Compiles a program, and reports on it.

  Args:
    config: of the run.
    topology: see `parse_topology`.
    shape: of the mesh; None: see `default_mesh`.
    batch: clips, over all chips.
    generate: a sampling step, in place of a train step.

  Raises:
    UsageError: the mesh, the batch or the clip do not fit one another.
  """
  chip, devices = parse_topology(topology)
  if shape is None:
    shape = default_mesh(config, chip, len(devices), batch, generate)
  mesh = make_mesh(shape, devices, tuple(config.slices))
  check(config, mesh, batch, generate)
  start = time.perf_counter()
  compiled = (compile_generate if generate else compile_train)(config, mesh, batch)
  phases = {}
  if generate:
    phases = compile_phases(config, mesh, batch, chip.hbm, compiled)
  took = time.perf_counter() - start
  memory = compiled.memory_analysis()
  instructions = collectives(compiled.as_text())
  model = build_model(**config.model)
  geometry = geometry_of(model, ClipSpec(**config.clip))
  text = (config.codec.text_length or LENGTHS[1], config.codec.text_dim)
  forward = sum(forward_flops(model, geometry, *text).values()) * batch / len(devices)
  # A train step is three forward passes; what remat makes again is a fourth. A step of
  # guided sampling is two.
  useful = (2 if generate else 3) * forward
  again = forward if config.model.remat != "none" and not generate else 0.0
  traffic = int(sum(c.times * c.moved for c in instructions))
  if generate:
    # The scan's trips are in `times`: a step is one of 50.
    traffic //= 50
  moved = (
    # Bytes through HBM, at the least: arguments in, results out, temporaries both ways.
    memory.argument_size_in_bytes
    + memory.output_size_in_bytes
    + 2 * memory.temp_size_in_bytes
  )
  seconds = {
    "arithmetic": (useful + again) / chip.flops,
    "memory": moved / chip.hbm_rate,
    "network": traffic / chip.link_rate,
  }
  ideal = useful / chip.flops
  largest = max(instructions, key=lambda c: c.moved, default="none")
  return Report(
    topology=topology,
    mesh=tuple(mesh.shape.values()),
    batch=batch,
    program="sampling step" if generate else "train step",
    remat=config.model.remat,
    hbm_bytes=memory.peak_memory_in_bytes,
    hbm_limit=chip.hbm,
    model_flops=useful,
    hardware_flops=useful + again,
    traffic_bytes=traffic,
    collectives=table(instructions),
    largest=str(largest),
    seconds=seconds,
    # Model FLOPs utilisation: useful arithmetic over the time of all floors, in turn or
    # all at once (PaLM, appendix B).
    mfu=(ideal / sum(seconds.values()), ideal / max(seconds.values())),
    compile_seconds=took,
    phases=phases,
  )


def default_mesh(
  config, chip: Chip, devices: int, batch: int, generate: bool
) -> tuple[int, ...]:
  """The sizes of a mesh that nobody names: of a train step all chips are fsdp, of a
  generation as `generate` has it on such chips.

  Args:
    config, batch, generate: see `plan`.
    chip: one of them, and `devices` how many there are.
  """
  if not generate:
    return 1, devices, 1, 1
  model = bind("model", config.model, build_model)
  spec = bind("clip", config.clip, ClipSpec)
  # With a negative evaluation a clip.
  return chosen_shape(model, spec, 2 * batch, devices, int(chip.hbm))


def check(config, mesh, batch: int, generate: bool = False) -> None:
  """Checks that clips and model divide as the mesh asks.

  Args:
    config, batch, generate: see `plan`.
    mesh: of the chips.

  Raises:
    UsageError: they do not; it names the nearest sizes that do.
  """
  rows = mesh.shape["data"] * mesh.shape["fsdp"] * config.accumulate
  if batch % rows and not generate:
    below = batch // rows * rows
    near = " or ".join(str(n) for n in (below, below + rows) if n)
    raise UsageError(
      f"--batch {batch}: expected a multiple of {rows} (data x fsdp devices x "
      f"accumulated microbatches): {near}"
    )
  model = bind("model", config.model, build_model)
  geometry = geometry_of(model, bind("clip", config.clip, ClipSpec))
  space, parts = geometry.h * geometry.w, mesh.shape["context"]
  # Tokens are split within latent frames, so that windows of time stay whole.
  if parts > 1 and space % parts:
    valid = [n for n in range(1, min(space, mesh.size) + 1) if space % n == 0]
    near = sorted(valid, key=lambda n: abs(n - parts))[:3]
    raise UsageError(
      f"mesh context {parts} does not divide the {space} tokens of a latent frame "
      f"({geometry.h} x {geometry.w}): nearest that do: {', '.join(map(str, near))}"
    )
  for name, c in model.streams:
    if c.heads % mesh.shape["tensor"]:
      valid = [n for n in range(1, c.heads + 1) if c.heads % n == 0]
      raise UsageError(
        f"mesh tensor {mesh.shape['tensor']} does not divide the {c.heads} heads of "
        f"{name}: expected one of {', '.join(map(str, valid))}"
      )


def show(r: Report) -> str:
  """A report as lines of text for people."""
  verdict = "fits" if r.fits else "DOES NOT FIT"
  lines = [
    f"{r.program} on {r.topology}, mesh {r.mesh} (data, fsdp, context, tensor), "
    f"batch {r.batch}, remat {r.remat}",
    f"  memory      {r.hbm_bytes / GIB:.2f} of {r.hbm_limit / GIB:.2f} GiB a chip: "
    f"{verdict}",
    f"  FLOPs       {r.model_flops / 1e12:.1f} TFLOP a chip, with recomputation "
    f"{r.hardware_flops / 1e12:.1f}",
    f"  network     {r.traffic_bytes / 1e9:.2f} GB a chip; largest {r.largest}",
  ]
  lines += [f"  {name:12}{phase}" for name, phase in r.phases.items()]
  for kind, count, size in r.collectives:
    lines.append(f"    {kind:20} x {count:<6} {size / 1e9:9.3f} GB")
  floors = ", ".join(f"{k} {v:.3f} s" for k, v in r.seconds.items())
  lines.append(f"  floors      {floors}")
  lines.append(
    f"  step        {max(r.seconds.values()):.2f} s if all overlaps, "
    f"{sum(r.seconds.values()):.2f} s if nothing does: MFU at most {r.mfu[1]:.0%}, "
    f"{r.mfu[0]:.0%}"
  )
  lines.append(f"  compiled in {r.compile_seconds:.0f} s")
  return "\n".join(lines)


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
  phases: NotRequired[dict[str, dict[str, int | None]]]


def regressions(new: Report, old: dict) -> list[str]:
  """Lines on what is worse than in an earlier report of the same program.

  Args:
    new: the report.
    old: the earlier one, as JSON.

  Raises:
    UsageError: the reports are of different programs.
  """
  same = ("topology", "mesh", "batch", "program", "remat")
  for key in same:
    value = getattr(new, key)
    if json.loads(json.dumps(value)) != old[key]:
      raise UsageError(f"--compare: that report has {key} {old[key]}, this one {value}")
  names = ("hbm_bytes", "traffic_bytes", "hardware_flops")
  pairs = {key: (old[key], getattr(new, key)) for key in names}
  then = old.get("phases", {})
  for name in (name for name in new.phases if name in then):
    pairs[f"bytes of {name}"] = then[name]["bytes"], new.phases[name].bytes
  return [
    f"{key}: {before} -> {now} ({now / before:.3f}x)"
    for key, (before, now) in pairs.items()
    if now > WORSE * before
  ]


def meshes(devices: int, batch: int, space: int, heads: int):
  """Shapes of meshes worth trying.

  All chips are fsdp, but for powers of two of them as context or tensor.

  Args:
    devices: chips.
    batch: clips, which fsdp must divide.
    space: tokens of a latent frame, which context must divide.
    heads: which tensor must divide.
  """
  for context, tensor in itertools.product((1, 2, 4, 8), (1, 2, 4)):
    rows, rest = divmod(devices, context * tensor)
    if rest or batch % rows or space % context or heads % tensor:
      continue
    yield (1, rows, context, tensor)


def sweep(config, topology: str, batch: int, generate: bool):
  """Yields reports of every mesh and policy that compiles, and prints each.

  Args:
    config, topology, batch, generate: see `plan`.
  """
  _, devices = parse_topology(topology)
  model = build_model(**config.model)
  geometry = geometry_of(model, ClipSpec(**config.clip))
  # Tensor parallelism splits heads, of both streams alike.
  heads = math.gcd(*(c.heads for _, c in model.streams))
  policies = (config.model.remat,) if generate else POLICIES
  space = geometry.h * geometry.w
  for shape in meshes(len(devices), batch, space, heads):
    for policy in policies:
      with config.unlocked():
        config.model.remat = policy
      try:
        report = plan(config, topology, shape, batch, generate)
      except Exception as e:  # out of memory, or of what the compiler can do
        if isinstance(e, UsageError) or "RESOURCE_EXHAUSTED" not in str(e):
          raise
        print(
          f"mesh {shape} remat {policy}: {str(e).splitlines()[0][:160]}", flush=True
        )
        continue
      print(show(report), flush=True)
      yield report
