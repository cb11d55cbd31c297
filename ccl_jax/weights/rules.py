r"""Tables that carry tensors between a published checkpoint and our parameters.

An upstream is a list of rows, each a source name, a target and a transform:

  Row(r"blocks.(\d+).norm3.weight", r"blocks/video/norm3/scale[\1]")

The source is literal text with regex groups, the target the '/'-joined path of a
parameter; a trailing [N] is slot N of its leading, stacked layer axis, [N,I] slot I in
there, for a parameter of several tensors. Every group must stand in the target, so a
row reads backwards as well as forwards.

`match` holds the table to account before anything is read: exactly one row for every
source tensor (or a name on the ignore list), every slot of every parameter filled once,
every shape what the model expects. `load` and `unload` then move one tensor at a time.
"""

import dataclasses
import functools
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from ccl_jax.errors import UsageError
from ccl_jax.weights.reader import Weights

Shapes = Mapping[str, jax.ShapeDtypeStruct]  # parameter path -> shape
Slot = tuple[int, ...]  # index into a parameter's leading axes; () is all of it
_GROUP = re.compile(r"(\([^()]*\))")
_BACKREF = re.compile(r"\\(\d)")


@dataclasses.dataclass(frozen=True)
class Transform:
  """An invertible change of layout: torch tensor -> our array, and back.

  Attributes:
    forward, backward: the two functions.
  """

  forward: Callable[[np.ndarray], np.ndarray]
  backward: Callable[[np.ndarray], np.ndarray]


def _conv_back(x):
  return np.moveaxis(x, (-1, -2), (0, 1))


same = Transform(lambda x: x, lambda x: x)
# (out, in) <-> (in, out)
linear = Transform(lambda x: x.T, lambda x: x.T)
# (out, in, *kernel) <-> (*kernel, in, out)
conv = Transform(lambda x: np.moveaxis(x, (0, 1), (-1, -2)), _conv_back)
# (1, ...) <-> (...)
squeeze = Transform(lambda x: x.reshape(x.shape[1:]), lambda x: x[None])


def reshape(source: Sequence[int], target: Sequence[int]) -> Transform:
  """Fixed shapes on both sides, e.g. (c, 1, 1, 1) <-> (c,); one size may be -1."""
  source, target = tuple(source), tuple(target)
  return Transform(lambda x: x.reshape(target), lambda x: x.reshape(source))


def fused_linear(n: int) -> Transform:
  """One matrix, or bias, of n layers side by side: (n out, in) <-> (n, in, out)."""

  def forward(x):
    return np.moveaxis(x.reshape(n, -1, *x.shape[1:]), 1, -1)

  def backward(x):
    x = np.moveaxis(x, -1, 1)
    return x.reshape(-1, *x.shape[2:])

  return Transform(forward, backward)


def patch_linear(patch: tuple[int, int, int]) -> Transform:
  """A convolution over whole patches, as the matrix of flattened patches.

  (out, c, pt, ph, pw) <-> (pt ph pw c, out), channels fastest.
  """

  def forward(x):
    return conv.forward(x).reshape(-1, x.shape[0])

  def backward(x):
    return conv.backward(x.reshape(*patch, -1, x.shape[-1]))

  return Transform(forward, backward)


@dataclasses.dataclass(frozen=True)
class Row:
  """One line of a table: a source name, a target, and the transform between.

  Raises:
    ValueError: a group of the source does not stand in the target.
  """

  source: str
  target: str
  transform: Transform = same

  def __post_init__(self):
    groups = len(_GROUP.findall(self.source))
    used = {int(i) for i in _BACKREF.findall(self.target)}
    if used != set(range(1, groups + 1)):
      raise ValueError(f"{self}: every group of the source must stand in the target")

  def forward(self, name: str) -> str | None:
    """The target of a source name; None if it is not this row's."""
    matched = self._source.fullmatch(name)
    return None if matched is None else matched.expand(self.target)

  def backward(self, target: str) -> str | None:
    """The source name of a target; None if it is not this row's."""
    matched = self._target.fullmatch(target)
    if matched is None:
      return None
    groups = iter(range(1, 10))
    return "".join(
      matched[f"g{next(groups)}"] if part.startswith("(") else _literal(part)
      for part in _GROUP.split(self.source)
    )

  @functools.cached_property
  def _source(self):
    parts = _GROUP.split(self.source)
    return re.compile(
      "".join(p if p.startswith("(") else re.escape(_literal(p)) for p in parts)
    )

  @functools.cached_property
  def _target(self):
    groups, seen, out = _GROUP.findall(self.source), set(), ""
    for i, part in enumerate(_BACKREF.split(self.target)):
      if i % 2 == 0:
        out += re.escape(part)
      elif part in seen:
        out += f"(?P=g{part})"
      else:
        out += f"(?P<g{part}>{groups[int(part) - 1][1:-1]})"
        seen.add(part)
    return re.compile(out)


def _literal(text: str) -> str:
  """The text outside of groups; dots need no escape, but may have one."""
  return re.sub(r"\\(.)", r"\1", text)


def dense(
  source: str, target: str, bias: bool = True, kernel: Transform = linear
) -> list[Row]:
  """The rows of a torch Linear's weight (our kernel) and, if it has one, its bias.

  Args:
    source, target: of the layer; `target` may end in a slot.
    bias: whether it has one.
    kernel: the transform of the weight, for layers that are no Linear.
  """
  path, slot = _split_slot_text(target)
  rows = [Row(f"{source}.weight", f"{path}/kernel{slot}", kernel)]
  return rows + [Row(f"{source}.bias", f"{path}/bias{slot}")] * bias


def norm(source: str, target: str, bias: bool = True) -> list[Row]:
  """The rows of a norm's weight (our scale) and, if it has one, its bias."""
  path, slot = _split_slot_text(target)
  rows = [Row(f"{source}.weight", f"{path}/scale{slot}")]
  return rows + [Row(f"{source}.bias", f"{path}/bias{slot}")] * bias


def _split_slot_text(target: str) -> tuple[str, str]:
  path, bracket, rest = target.partition("[")
  return path, bracket + rest


class Match(NamedTuple):
  """One tensor of a checkpoint, and the parameter that it becomes.

  Attributes:
    name, shape: of the tensor in the checkpoint.
    path, slot: of our parameter.
    transform: of the tensor's layout.
  """

  name: str
  path: str
  slot: Slot
  transform: Transform
  shape: tuple[int, ...]

  @property
  def target(self) -> str:
    """Our parameter with its slot, as a table's targets have it: path[slot]."""
    return _target(self.path, self.slot)


def _target(path: str, slot: Slot) -> str:
  return f"{path}[{','.join(map(str, slot))}]" if slot else path


def flat_shapes(tree: Any) -> dict[str, jax.ShapeDtypeStruct]:
  """The leaves of a tree of shapes, by '/'-joined paths."""
  return traverse_util.flatten_dict(tree, sep="/")


def expected_tensors(rows: Sequence[Row], shapes: Shapes) -> list[Match]:
  """The tensors that a whole checkpoint holds, parameter by parameter, layer by layer.

  Raises:
    ValueError: a parameter that no row, or more than one row, reaches: the table is
      wrong, not the checkpoint.
  """
  matches = []
  # Patterns first: a network has a hundred thousand pairs of a row and a target.
  patterns = [(row._target.fullmatch, row) for row in rows]
  reach = lambda target: [
    (row, row.backward(target)) for fits, row in patterns if fits(target)
  ]
  for path, leaf in shapes.items():
    axes = next((k for k in range(3) if reach(_target(path, (0,) * k))), 0)
    for slot in np.ndindex(leaf.shape[:axes]):
      sources = reach(_target(path, slot))
      if len(sources) != 1:
        raise ValueError(
          f"{len(sources)} rows reach {_target(path, slot)}, expected one: {sources}"
        )
      row, name = sources[0]
      source = row.transform.backward(_stand_in(leaf.shape[axes:])).shape
      matches.append(Match(name, path, slot, row.transform, source))
  return sorted(matches, key=lambda m: m.slot[:1])


def known_tensors(rows: Sequence[Row], shapes: Shapes) -> list[Match]:
  """As `expected_tensors`, of those parameters that the table reaches: a model may have
  more streams than a release.
  """
  patterns = [row._target.fullmatch for row in rows]

  def reached(path):
    places = (_target(path, (0,) * axes) for axes in range(3))
    return any(fits(place) for place in places for fits in patterns)

  known = {path: x for path, x in shapes.items() if reached(path)}
  return expected_tensors(rows, known)


def match(
  rows: Sequence[Row], weights: Weights, shapes: Shapes, ignore: Sequence[str] = ()
) -> list[Match]:
  """The matches that turn `weights` into parameters of `shapes`; reads no tensor.

  Args:
    rows: of the table.
    weights: the checkpoint.
    shapes: of our parameters.
    ignore: regexes of names that may be left unread.

  Raises:
    UsageError: the checkpoint has a tensor too many or too few, or of another shape.
  """
  matches = expected_tensors(rows, shapes)
  names = {m.name for m in matches}
  if len(names) < len(matches):
    raise ValueError("two parameters come from one tensor: the table is wrong")
  extra = [
    n
    for n in weights.names()
    if n not in names and not any(re.fullmatch(p, n) for p in ignore)
  ]
  missing = [m for m in matches if m.name not in weights]
  if missing:
    m = missing[0]
    hint = f"; it does hold {extra[0]}" if extra else ""
    raise UsageError(
      f"{weights.path}: no tensor {m.name}{_more(missing)}, expected one of shape "
      f"{m.shape}{hint}"
    )
  if extra:
    raise UsageError(
      f"{weights.file_of(extra[0])}: unexpected tensor {extra[0]} "
      f"{weights.shape(extra[0])}{_more(extra)}; expected exactly the {len(matches)} "
      "tensors of this model"
    )
  for m in matches:
    if weights.shape(m.name) != m.shape:
      raise UsageError(
        f"{weights.file_of(m.name)}: {m.name} has shape {weights.shape(m.name)}, "
        f"expected {m.shape}"
      )
  return matches


def load(
  rows: Sequence[Row], weights: Weights, shapes: Shapes, ignore: Sequence[str] = ()
) -> Iterator[tuple[str, Slot, np.ndarray]]:
  """(path, slot, array) of all parameters, one tensor in memory at a time.

  Raises:
    UsageError: as `match`.
  """
  for m in match(rows, weights, shapes, ignore):
    yield m.path, m.slot, m.transform.forward(weights.read(m.name))


def load_tree(
  rows: Sequence[Row], weights: Weights, shapes: Shapes, ignore: Sequence[str] = ()
) -> dict[str, Any]:
  """All parameters at once, as a tree of arrays on the device; for what fits there.

  They have the dtypes of `shapes`.

  Raises:
    UsageError: as `match`.
  """
  flat = {path: np.empty(x.shape, x.dtype) for path, x in shapes.items()}
  for path, slot, array in load(rows, weights, shapes, ignore):
    flat[path][slot] = array
  # Each goes as its copy is made: the model is never in memory twice.
  moved = {path: jnp.asarray(flat.pop(path)) for path in list(flat)}
  return traverse_util.unflatten_dict(moved, sep="/")


def unload(
  rows: Sequence[Row],
  shapes: Shapes,
  read: Callable[[str, Slot], np.ndarray],
) -> Iterator[tuple[str, np.ndarray]]:
  """(name, tensor) of the checkpoint that holds these parameters: `load` backwards.

  Args:
    rows, shapes: of the network.
    read: (path, slot) to the array of the parameter there.
  """
  for m in expected_tensors(rows, shapes):
    yield m.name, m.transform.backward(read(m.path, m.slot))


def _more(items: Sequence) -> str:
  return f" (and {len(items) - 1} more)" if len(items) > 1 else ""


def _stand_in(shape: Sequence[int]) -> np.ndarray:
  """An array of this shape that takes no memory, to be transformed in its stead."""
  return np.broadcast_to(np.int8(0), shape)
