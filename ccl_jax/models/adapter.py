"""A part of a model that is trained on top of parameters which stay as they are.

  adapted  kernels W (.., in, out), which become W + alpha/r A B; A (.., in, r) starts
           random, B (.., r, out) at zero
  whole    parameters that are trained themselves, such as the exchange of two streams

What is trained is a tree of its own, `{"adapted": .., "whole": ..}`, with the paths of
the parameters; `applied` puts it into the others, which no gradient reaches. A run
saves and averages this tree alone, and its optimizer has moments of nothing else.
"""

import dataclasses
import re
from typing import Any

import jax
import jax.numpy as jnp
from flax import traverse_util

from ccl_jax.errors import UsageError

PyTree = Any
# Names of patterns that users need often; each is matched with whole paths.
LAYERS = {
  "attention": r"blocks/(video|audio)/(self|cross)_attn/.*",
  "blocks": r"blocks/.*",
  "exchange": r"blocks/(audio_to_video|video_to_audio)/.*",
}


@dataclasses.dataclass(frozen=True)
class Adapter:
  """Which part of a model is trained, and how.

  Attributes:
    rank: r of adapted kernels.
    alpha: the scale of a change is alpha / rank.
    layers: regex of the whole paths of layers whose kernels are adapted, or a name of
      `LAYERS`; "": none.
    whole: the same of parameters that are trained themselves. They are not adapted.
  """

  rank: int = 16
  alpha: float = 16.0
  layers: str = ""
  whole: str = ""

  def trained(self, params: PyTree, key: jax.Array) -> PyTree:
    """The trained tree as it starts: it changes nothing.

    Args:
      params: of the model; under `jax.eval_shape`, their shapes are enough.
      key: of what is random.

    Raises:
      UsageError: a pattern fits no parameter.
    """
    flat = traverse_util.flatten_dict(params, sep="/")
    whole = [path for path in flat if _fits(self.whole, path)]
    adapted = [
      path
      for path, x in flat.items()
      if path.endswith("/kernel") and path not in whole and _fits(self.layers, path)
    ]
    for name, found in (("whole", whole), ("layers", adapted)):
      if getattr(self, name) and not found:
        raise UsageError(
          f"lora.{name}: no parameter fits {getattr(self, name)!r}; expected a pattern "
          f"of whole paths, as blocks/video/ffn/.*, or one of {', '.join(LAYERS)}"
        )
    out = {f"whole/{path}": flat[path] for path in whole}
    for path, k in zip(adapted, jax.random.split(key, len(adapted) + 1)):
      *lead, into, units = flat[path].shape
      bound = into**-0.5
      a = jax.random.uniform(k, (*lead, into, self.rank), minval=-bound, maxval=bound)
      out[f"adapted/{path}/a"] = a
      out[f"adapted/{path}/b"] = jnp.zeros((*self._stack(path, lead), self.rank, units))
    return traverse_util.unflatten_dict(out, sep="/")

  def applied(self, params: PyTree, trained: PyTree) -> PyTree:
    """The parameters with the trained part in them, in their dtypes.

    Args:
      params: of the model, which stay as they are.
      trained: as `trained` began it.
    """
    flat = traverse_util.flatten_dict(jax.lax.stop_gradient(params), sep="/")
    whole = traverse_util.flatten_dict(trained.get("whole", {}), sep="/")
    flat |= {path: x.astype(flat[path].dtype) for path, x in whole.items()}
    for path, a, b in pairs_of(trained):
      w = flat[path]
      ab = jnp.matmul(a, b, precision=jax.lax.Precision.HIGHEST)
      flat[path] = (w.astype(jnp.float32) + self.alpha / self.rank * ab).astype(w.dtype)
    return traverse_util.unflatten_dict(flat, sep="/")

  @staticmethod
  def _stack(path: str, lead: list[int]) -> list[int]:
    """The axis of blocks, which both factors have; a kernel's taps are A's alone."""
    return lead[:1] if path.startswith("blocks/") else []


def pairs_of(trained: PyTree) -> list[tuple[str, Any, Any]]:
  """(path, A, B) of every adapted kernel of a trained tree."""
  flat = traverse_util.flatten_dict(trained.get("adapted", {}), sep="/")
  paths = [path.removesuffix("/a") for path in flat if path.endswith("/a")]
  return [(path, flat[f"{path}/a"], flat[f"{path}/b"]) for path in paths]


def _fits(pattern: str, path: str) -> bool:
  return bool(pattern) and bool(re.fullmatch(LAYERS.get(pattern, pattern), path))
