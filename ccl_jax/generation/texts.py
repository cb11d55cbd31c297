"""Texts as rows, each encoded once for all clips that are made with it.

A text is encoded by itself, so that its rows do not depend on those beside it.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Float

from ccl_jax import progress
from ccl_jax.generation.memory import held, worked_in


class Texts:
  """The rows of texts; where texts are known ahead, they need the encoder no more.

  Attributes:
    codec: of texts, perhaps without its parameters: it still tells tokens and lengths.
    memory: bytes of a device that the encoder takes; None before it ran.

  Args:
    codec: a text codec, on the devices of `mesh`.
    mesh: that encodes.
    again: reads the codec once more. It is then in memory while it encodes, and not
      between; None: it stays.
  """

  def __init__(self, codec: Any, mesh: Mesh, again: Callable[[], Any] | None = None):
    self.codec, self.memory = codec, None
    self._mesh, self._again = mesh, again
    self._there, self._rows = True, {}
    whole = NamedSharding(mesh, PartitionSpec())
    self._program = jax.jit(lambda c, *x: c.encode(*x), out_shardings=whole)

  def rows(self, texts: Sequence[str]) -> Float[np.ndarray, "b l e"]:
    """Rows of texts, on the host; those that are new are encoded."""
    self._encode([text for text in dict.fromkeys(texts) if text not in self._rows])
    out = None
    for i, text in enumerate(texts):
      length, rows = self._rows[text]
      if out is None:
        out = np.zeros((len(texts), length, rows.shape[1]), rows.dtype)
      out[i, : len(rows)] = rows
    return out

  def _encode(self, texts: Sequence[str]) -> None:
    """Keeps the rows of texts, without those that padding would have: they are zero."""
    if not texts:
      return
    if not self._there:
      self.codec, self._there = self._again(), True
    with jax.set_mesh(self._mesh):
      for text in progress.counted(texts, "encoding texts", len(texts)):
        ids, mask = self.codec.tokenize([text])
        rows = np.asarray(self._program(self.codec, ids, mask))[0]
        last = np.flatnonzero(mask[0]).max(initial=-1)
        self._rows[text] = len(rows), rows[: last + 1].copy()
      if self.memory is None:
        compiled = self._program.lower(self.codec, ids, mask).compile()
        self.memory = held(self.codec, ids, mask) + worked_in(compiled)
    if self._again is not None:
      self.codec, self._there = jax.tree.map(lambda _: None, self.codec), False
