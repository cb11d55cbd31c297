"""A text embedder without weights: fixed features of UTF-8 bytes, one row per byte.

With signs(h) a vector of +-1 drawn by hashing h, and wave(k) sines and cosines of k:

  row_i = [ sum_f signs(h_f(i)) / sqrt(6) | wave(i) | wave(w_i) ]     3/4, 1/8, 1/8 of e

h_f: the byte; it and the 1, 2, 3 before it; the word around it; inside quotation marks
or not. w_i: how many words have begun since the last quotation mark: cross-attention,
which has no positions of its own, can ask for the third word said. Entries have mean
square about one; rows past the text are zero. Hashes are integer arithmetic: the same
on every machine.
"""

import jax.numpy as jnp
import numpy as np
from flax import struct
from jax import lax
from jaxtyping import Array, Bool, Float, Int, UInt32

from ccl_jax.documents import valid
from ccl_jax.errors import UsageError

QUOTE = ord('"') + 1  # ids are byte + 1; 0 is padding
LENGTHS = 80, 512  # least and most rows of an embedder that is fitted to texts
GOLDEN = np.uint32(0x9E3779B9)


class ByteText(struct.PyTreeNode):
  """Embedder of texts of at most `length` bytes: a row of `dim` numbers per byte.

  Attributes:
    length: bytes, and rows.
    dim: e, a multiple of 16.

  Raises:
    UsageError: a length below 1, or a width that is no multiple of 16.
  """

  length: int = struct.field(pytree_node=False)
  dim: int = struct.field(pytree_node=False)

  def __post_init__(self):
    if self.length < 1 or self.dim < 16 or self.dim % 16:
      raise UsageError(
        "byte text needs a length of at least 1 and a width that is a multiple of 16, "
        f"got length {self.length} and width {self.dim}"
      )

  def tokenize(
    self, texts: list[str]
  ) -> tuple[Int[np.ndarray, "b l"], Bool[np.ndarray, "b l"]]:
    """Bytes + 1, cut or zero-padded to `length`, and where there is text."""
    ids = np.zeros((len(texts), self.length), np.int32)
    for row, text in zip(ids, texts):
      data = np.frombuffer(valid(text).encode()[: self.length], np.uint8)
      row[: len(data)] = data.astype(np.int32) + 1
    return ids, ids > 0

  def rows_of(self, text: str) -> int:
    """Rows that the whole of a text would take, where `length` is no bound."""
    return len(valid(text).encode())

  def encode(
    self, ids: Int[Array, "b l"], mask: Bool[Array, "b l"]
  ) -> Float[Array, "b l e"]:
    """Rows of `tokenize`'s ids by the module's formula; zero where `mask` is False."""
    eighth = self.dim // 8
    word, in_word, spoken = _words(ids)
    quoted = jnp.cumsum(ids == QUOTE, 1) % 2
    codes = [*_grams(ids), _word_hash(ids, word, in_word), _hash(quoted + (7 << 20))]
    # Six codes of independent signs: divided by sqrt(6), entries have variance one.
    content = sum(_signs(c, self.dim - 2 * eighth) for c in codes) / len(codes) ** 0.5
    place = jnp.broadcast_to(jnp.arange(ids.shape[1])[None], ids.shape)
    waves = [_wave(place, eighth, span=512), _wave(spoken, eighth, span=32)]
    return jnp.concatenate([content, *waves], -1) * mask[..., None]


def _hash(x: Int[Array, "..."] | UInt32[Array, "..."]) -> UInt32[Array, "..."]:
  """Mixes the 32 bits of an integer (xor-shift and multiply, twice)."""
  x = x.astype(jnp.uint32)
  x = (x ^ (x >> 16)) * np.uint32(0x7FEB352D)
  x = (x ^ (x >> 15)) * np.uint32(0x846CA68B)
  return x ^ (x >> 16)


def _signs(code: UInt32[Array, "b l"], width: int) -> Float[Array, "b l w"]:
  column = GOLDEN * jnp.arange(width, dtype=jnp.uint32)
  bit = _hash(code[..., None] + column[None, None]) >> 31
  return 1 - 2 * bit.astype(jnp.float32)


def _wave(k: Int[Array, "b l"], width: int, span: int) -> Float[Array, "b l w"]:
  """Sines and cosines of k, with periods from 2 pi to nearly 2 pi span."""
  # Rates from 1 down to nearly 1 / span, equally spaced in their logarithm.
  rate = span ** (-2 * np.arange(width // 2, dtype=np.float32) / width)
  angle = k[..., None] * rate[None, None]
  # sqrt(2): a sine has mean square 1/2.
  return 2**0.5 * jnp.concatenate([jnp.sin(angle), jnp.cos(angle)], -1)


def _grams(ids: Int[Array, "b l"]) -> list[UInt32[Array, "b l"]]:
  """Hashes of each byte alone and with the one, two, three before it."""
  codes = [_hash(ids)]
  for n in (1, 2, 3):
    before = jnp.pad(ids, ((0, 0), (n, 0)))[:, : ids.shape[1]].astype(jnp.uint32)
    # Each code extends the one before by a byte: 257 is above any id.
    codes.append(_hash(codes[-1] * 257 + before))
  return codes


def _words(
  ids: Int[Array, "b l"],
) -> tuple[Int[Array, "b l"], Int[Array, "b l"], Int[Array, "b l"]]:
  """Per byte: the number of its run of letters or of other characters; its place in the
  run; how many words have begun since the last quotation mark.
  """
  byte = ids - 1
  digit, upper, lower = (
    (byte >= ord(low)) & (byte <= ord(high)) for low, high in ("09", "AZ", "az")
  )
  letter = digit | upper | lower | (byte >= 128)  # 128 up: any script but ASCII
  # A run begins where letters turn into other characters, or the other way round.
  first = letter != jnp.pad(letter, ((0, 0), (1, 0)), constant_values=False)[:, :-1]
  place = jnp.broadcast_to(jnp.arange(ids.shape[1])[None], ids.shape)
  start = lax.cummax(jnp.where(first, place, 0), axis=1)
  begun = jnp.cumsum(first & letter, 1)
  at_quote = lax.cummax(jnp.where(ids == QUOTE, begun, 0), axis=1)
  return jnp.cumsum(first, 1), place - start, begun - at_quote


def _word_hash(
  ids: Int[Array, "b l"], word: Int[Array, "b l"], in_word: Int[Array, "b l"]
) -> UInt32[Array, "b l"]:
  """The same code for each byte of a word: a sum over its bytes and their places."""
  part = _hash(ids + 257 * (in_word + 1))
  same = word[:, :, None] == word[:, None, :]
  return _hash(jnp.where(same, part[:, None, :], 0).sum(-1, dtype=jnp.uint32))
