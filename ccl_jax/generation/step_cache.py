"""Steps that run no block: MagCache (arXiv 2506.09045), its rule and its calibration.

From step to step, what the blocks add to the tokens (the residual r) changes little but
for its size. A calibration is one whole run, of one prompt, that notes by step

  gamma_i = mean over tokens of |r_i| / |r_{i-1}|,   gamma_0 = 1

for each evaluation of a guidance form and each stream. A step whose blocks are left out
adds the last r that was computed. The first fifth of the steps is computed; after that,
since the last computed step,

  ratio *= gamma_i,   error += |1 - ratio|,   n += 1

and step i is left out while every error is below the threshold and n is at most 2. This
depends on no latent: the steps are chosen before the first one. For another number of
steps, gamma_i is that of the nearest place of the run. Reference: Zehong-Ma/MagCache,
MagCache4Wan2.1.
"""

import functools
import math
import pathlib
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np
import pydantic
from typing_extensions import TypedDict

from ccl_jax.documents import Path, check, read_json
from ccl_jax.errors import UsageError
from ccl_jax.files import write_json
from ccl_jax.names import with_number
from ccl_jax.sharding import constrain

THRESHOLD, MOST, COMPUTED = 0.12, 2, 0.2  # MagCache's defaults for Wan2.1
_Ratios = Annotated[
  list[Annotated[float, pydantic.Field(gt=0, allow_inf_nan=False)]],
  pydantic.Field(min_length=1),
]


class Calibration(TypedDict):
  """A calibration as JSON.

  `ratios` are gamma_i by evaluation and stream; the rest is what they were measured of:
  the form of guidance, the task, and the fingerprint of the parameters.
  """

  task: str
  guidance: str
  params: str | None
  ratios: dict[str, dict[str, _Ratios]]


def parse_cache(text: str) -> tuple[str, float]:
  """(file, threshold) of "FILE:THRESHOLD"; without a threshold it is 0.12.

  Raises:
    UsageError: the threshold is no number above 0.
  """
  file, threshold = with_number(text, THRESHOLD)
  if not file or not 0 < threshold < math.inf:
    raise UsageError(
      f"--cache {text}: expected FILE:THRESHOLD, as calibration.json:0.12, with a "
      "threshold above 0"
    )
  return file, threshold


def absolute_cache(text: str) -> str:
  """FILE:THRESHOLD with the whole path of the file.

  Raises:
    UsageError: see `parse_cache`.
  """
  file, threshold = parse_cache(text)
  return f"{pathlib.Path(file).absolute()}:{threshold!r}"


def read_calibration(file: Path) -> Calibration:
  """What `Recorder.write` has written.

  Raises:
    UsageError: it cannot be read, or is none.
  """
  advice = "expected the file that generate --calibrate wrote"
  return check(read_json(file), Calibration, file, advice)


def check_cache(text: str, task: str, guidance: str, params: str | None = None) -> None:
  """Whether a calibration is of such a run.

  Args:
    text: FILE:THRESHOLD.
    task, guidance: of the run.
    params: the fingerprint of the parameters; None: not yet known.

  Raises:
    UsageError: it is of another one, or cannot be read.
  """
  file, _ = parse_cache(text)
  about = read_calibration(file)
  wanted = {"task": task, "guidance": guidance} | ({"params": params} if params else {})
  for name, value in wanted.items():
    if about[name] != value:
      raise UsageError(
        f"--cache {file} was measured with {name} {str(about[name])[:16]}, and this is "
        f"{value[:16]}: measure anew with --calibrate"
      )


def cached_steps(text: str, wanted: Sequence[Sequence[str]]) -> list[bool]:
  """Which steps run no block.

  Args:
    text: FILE:THRESHOLD.
    wanted: by step what runs together, each "EVALUATION+EVALUATION".

  Raises:
    UsageError: the calibration cannot be read, or lacks an evaluation.
  """
  file, threshold = parse_cache(text)
  ratios = read_calibration(file)["ratios"]
  curves = {}
  for name in dict.fromkeys(name for names in wanted for name in names):
    evaluations = name.split("+")
    if missing := [e for e in evaluations if e not in ratios]:
      raise UsageError(
        f"--cache {file} has no evaluation {missing[0]}: measure anew with --calibrate"
      )
    own = [curve for e in evaluations for curve in ratios[e].values()]
    curves[name] = np.stack([nearest(curve, len(wanted)) for curve in own])
  return skipped(wanted, curves, threshold)


def nearest(ratios: Sequence[float], steps: int) -> np.ndarray:
  """The ratios of a run of another number of steps: those of the nearest places."""
  places = np.linspace(0, len(ratios) - 1, steps) if steps > 1 else [len(ratios) - 1]
  return np.asarray(ratios)[np.rint(places).astype(int)]


def skipped(
  wanted: Sequence[Sequence[str]],
  curves: Mapping[str, np.ndarray],
  threshold: float,
  most: int = MOST,
  computed: float = COMPUTED,
) -> list[bool]:
  """Which steps are left out, by the rule of the module.

  Args:
    wanted: by step the names of what it needs.
    curves: by name gamma_i (k, steps): all k errors count.
    threshold: of the errors.
    most: steps in a row that are left out.
    computed: the part of the steps, from the first on, that is computed.
  """
  ratio, error, n, out = {}, {}, {}, []
  for i, names in enumerate(wanted):
    for name in n:
      ratio[name] = ratio[name] * curves[name][:, i]
      error[name] = error[name] + abs(1 - ratio[name])
      n[name] += 1
    fits = lambda name: name in n and n[name] <= most and max(error[name]) < threshold
    skip = i >= int(computed * len(wanted)) and all(map(fits, names))
    if not skip:
      for name in names:
        ratio[name], error[name], n[name] = np.ones(len(curves[name])), 0.0, 0
    out.append(skip)
  return out


class Recorder:
  """Measures a calibration while a clip is made: `watch` of `LoadedModel.generate`."""

  def __init__(self):
    self._before: dict[str, jax.Array] = {}
    self.ratios: dict[str, dict[str, list[float]]] = {}

  def __call__(self, step: int, memory: Mapping[str, jax.Array]) -> None:
    """Notes the ratios of a step.

    Args:
      step: its number.
      memory: by "EVALUATION+EVALUATION/STREAM" what the blocks have added (b, t, s, d).
    """
    for name, added in memory.items():
      group, stream = name.split("/")
      evaluations = group.split("+")
      before = self._before.get(name, added)
      values = np.asarray(_mean_ratios(before, added, len(evaluations)))
      for e, value in zip(evaluations, values, strict=True):
        curve = self.ratios.setdefault(e, {}).setdefault(stream, [])
        curve.append(float(value) if step else 1.0)
    self._before = dict(memory)

  def write(self, file: Path, task: str, guidance: str, params: str | None) -> None:
    """Writes the calibration.

    Args:
      file: to be written.
      task, guidance, params: of the run; see `check_cache`.

    Raises:
      UsageError: the blocks add nothing, so that there is no ratio.
    """
    about: dict[str, Any] = {"task": task, "guidance": guidance, "params": params}
    about["ratios"] = self.ratios
    check(about, Calibration, file, "no calibration of a network without blocks")
    write_json(file, about, indent=1)


@functools.partial(jax.jit, static_argnums=2)
def _mean_ratios(before, added, n):
  """Mean over tokens of the ratio of norms, for each of n evaluations."""
  norm = lambda x: jnp.linalg.norm(x.astype(jnp.float32), axis=-1)
  means = jnp.mean((norm(added) / norm(before)).reshape(n, -1), 1)
  return constrain(means, None)  # whole on every device: the host reads it
