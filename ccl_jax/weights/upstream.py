"""The published networks that the converter knows, and what it must know of each."""

import functools
import importlib
import json
import pathlib
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from ccl_jax.errors import UsageError
from ccl_jax.weights.reader import Weights
from ccl_jax.weights.rules import Row, Shapes

Sizes = dict[str, Any]  # JSON


class Upstream(NamedTuple):
  """A published network whose tensors become our parameters.

  Attributes:
    tables: format -> rows; the first format is the one of the original release.
    format_of: the format of a checkpoint. Raises `UsageError` for another network.
    sizes: (weights, rows, config.json or {}) -> what `shapes` needs to know, read from
      the tensors' shapes.
    shapes: sizes -> shapes of our parameters by path.
    ignore: regexes of tensors that may be left unread.
    places: folders, under the one that is given, where its files may lie.
    files: patterns of their names, in order of preference.
    stem: the name of an exported file, without its ending; or sizes -> that name.
    config: (sizes, format) -> the config.json of an export, or {}.
    beside: files that belong to the weights: name -> places to look for it, from the
      folder that was given or that of the file.
    view: the checkpoint as the tables see it, where our parameters are not its tensors
      one by one.
    other: what a download is, by its names and folders, where its tensors look like
      this network's; None of those that are.
    certain: whether its tensors alone tell this network, whatever names say.
    usage: sizes -> how the release is sampled: it goes into the config.json. See
      `checkpoints.usage`.
    plain_fp8: its files in float8 are a plain cast, without scales, and are kept as
      they are.
    network: (parameters, sizes, dtype) -> the network of a metric; see
      `weights.load.load_network`. Codecs and models have none.
  """

  tables: Mapping[str, Sequence[Row]]
  format_of: Callable[[Weights], str]
  sizes: Callable[[Weights, Sequence[Row], dict], Sizes]
  shapes: Callable[[Sizes], Shapes]
  ignore: Sequence[str] = ()
  places: Sequence[str] = ("",)
  files: Sequence[str] = ("*",)
  stem: str | Callable[[Sizes], str] = "model"
  config: Callable[[Sizes, str], dict] = lambda sizes, form: {}
  beside: Mapping[str, Sequence[str]] = {}
  view: Callable[[Weights], Weights] = lambda weights: weights
  other: Callable[[pathlib.Path], str | None] = lambda path: None
  certain: Callable[[Weights], bool] = lambda weights: False
  usage: Callable[[Sizes], dict] = lambda sizes: {}
  plain_fp8: bool = False
  network: Callable[[Any, Sizes, str], Any] | None = None

  def stem_of(self, sizes: Sizes) -> str:
    """The name of an exported file of a network of such sizes."""
    return self.stem if isinstance(self.stem, str) else self.stem(sizes)


# Command -> module of ccl_jax.weights that holds its UPSTREAM.
MODULES = {
  "wan-dit": "wan",
  "ovi-dit": "ovi",
  "wan-vae": "wan_vae",
  "wan22-vae": "wan22_vae",
  "umt5": "umt5",
  "clip": "clip",
  "aesthetics": "aesthetics",
  "i3d": "i3d",
  "vggish": "vggish",
  "syncnet": "syncnet",
  "s3fd": "s3fd",
  "synchformer": "synchformer",
  "imagebind": "imagebind",
  "audio-vae": "mmaudio",
  "vocoder": "bigvgan",
}
# Command -> the terms of its published weights, where they are narrower than ours.
LICENCES = {
  "audio-vae": "MMAudio's released weights are CC-BY-NC 4.0: non-commercial use only",
  "imagebind": "ImageBind's released weights are CC BY-NC-SA 4.0: no commercial use, "
  "share alike",
  "vocoder": "BigVGAN's and Make-An-Audio 2's code, and NVIDIA's weights, are MIT; "
  "MMAudio's released weights, best_netG.pt among them, are CC-BY-NC 4.0: "
  "non-commercial use only",
}


@functools.cache
def get_upstream(kind: str) -> Upstream:
  """The network of a command of `convert`, traced once in a process for its sizes.

  Raises:
    UsageError: there is none of that name.
  """
  if kind not in MODULES:
    raise UsageError(f"unknown kind {kind!r}; expected one of {', '.join(MODULES)}")
  upstream = importlib.import_module(f"ccl_jax.weights.{MODULES[kind]}").UPSTREAM
  return upstream._replace(shapes=_kept(upstream.shapes))


def _kept(shapes: Callable[[Sizes], Shapes]) -> Callable[[Sizes], Shapes]:
  known: dict[str, Shapes] = {}

  def shapes_of(sizes: Sizes) -> Shapes:
    key = json.dumps(sizes, sort_keys=True)
    if key not in known:
      known[key] = shapes(sizes)
    return dict(known[key])

  return shapes_of


def layer_count(weights: Weights, pattern: str | re.Pattern) -> int:
  """How many layers a checkpoint has, by the numbers in its tensors' names.

  Args:
    weights: the checkpoint.
    pattern: a regex that names begin with, whose group is the number.

  Raises:
    UsageError: it has fewer tensors than layers.
  """
  found = (re.match(pattern, name) for name in weights.names())
  count = 1 + max((int(m[1]) for m in found if m), default=-1)
  if count > len(weights.names()):  # a loop over them would take long
    raise UsageError(
      f"{weights.path} has a tensor of layer {count - 1}, but {len(weights.names())} "
      "tensors; expected some for each layer"
    )
  return count


def head_count(weights: Weights, told: Any, width: int, usual: int) -> int:
  """The heads of attention, which no tensor tells.

  Args:
    weights: the checkpoint, for the message.
    told: what a config.json says, or None.
    width: of all heads together.
    usual: width of one where nothing is told.

  Raises:
    UsageError: what is told is no number that divides the width.
  """
  if told is None:
    return max(width // usual, 1)
  if type(told) is not int or told < 1 or width % told:
    raise UsageError(
      f"{weights.path}: config.json says that there are {told!r:.40} heads; expected a "
      f"divisor of {width}"
    )
  return told


def tensor_name(rows: Sequence[Row], target: str) -> str:
  """The checkpoint's name of one of our parameters, `target` with its slot."""
  return next(name for row in rows if (name := row.backward(target)))


def tensor_shape(
  weights: Weights, rows: Sequence[Row], target: str, axes: int
) -> tuple[int, ...]:
  """The checkpoint's shape of one of our parameters, to read sizes from.

  Args:
    weights, rows: the checkpoint, and the table of its format.
    target: the parameter, with its slot.
    axes: that it must have.

  Raises:
    UsageError: it is not there, or no tensor of so many axes.
  """
  name = tensor_name(rows, target)
  if name not in weights:
    raise UsageError(
      f"{weights.path}: no tensor {name}, which every model of this kind has"
    )
  shape = weights.shape(name)
  if len(shape) != axes or 0 in shape:
    raise UsageError(
      f"{weights.file_of(name)}: {name} has shape {shape}, expected {axes} "
      f"{'axis' if axes == 1 else 'axes'}, none of them empty"
    )
  return shape
