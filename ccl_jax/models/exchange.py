"""How the streams of a block exchange: all variants behind one interface.

An `Exchange` does what comes between a block's self-attention and its FFN: the text
cross-attention of every stream and, in the order of its variant, what the streams read
of each other. The class itself is that of streams which never meet; `models/cca.py` and
`models/fusion.py` have the others.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float

from ccl_jax.axes import other
from ccl_jax.models.stream import Beside, Kept, StreamConfig
from ccl_jax.ops.kernels import Kernel
from ccl_jax.tasks import Route

Tokens = Float[Array, "b t s c"]
# Of the tokens of one stream, for the queries of the other.
Keys = tuple[Float[Array, "b u v n d"], Float[Array, "b u v n d"]]
# The same of context tokens, which all samples share.
ContextKeys = tuple[Float[Array, "r n d"], Float[Array, "r n d"]]
Read = Callable[[Tokens, Beside | None], Tokens]


class Sight(NamedTuple):
  """A route, as a block is told it.

  Attributes:
    reads: the streams of which some sample reads the other stream.
    detached: the streams that are seen behind a stop-gradient, in every sample.
    masks: where samples differ, (b,) of them; the route's other entries are not in it.
  """

  reads: tuple[str, ...]
  detached: tuple[str, ...]
  masks: Route

  def reading(self, stream: str) -> Bool[Array, "b"] | None:
    """The samples that read the other stream, of a stream of `reads`; None: all."""
    return self.masks.reads.get(stream)

  def snapshot(self, x: Mapping[str, Tokens]) -> dict[str, Tokens]:
    """The states that the other stream sees."""
    return {s: self._seen(x[s], s) for s in x}

  def _seen(self, x, stream):
    if stream in self.masks.detached:
      # Same values for all samples; gradients only where the stream is generated.
      mask = self.masks.detached[stream][:, None, None, None]
      return jnp.where(mask, jax.lax.stop_gradient(x), x)
    return jax.lax.stop_gradient(x) if stream in self.detached else x


@dataclasses.dataclass(frozen=True)
class Exchange:
  """The exchange of one block; its parameters are the block's, one module a direction.

  Attributes:
    streams: sizes of the streams that the parameters hold.
    config: a `cca.CrossConfig`; None for streams that never exchange.
    geometry: token counts of the clip, as of `cca.Geometry`.
    collect: also return the keys of streams that are there, for absent ones.
    dtype: of matrix products.
    kernel: of attention to all of a clip.
    placed: the exchange says where a token is in the clip: it must know both lengths.
  """

  streams: Mapping[str, StreamConfig]
  config: object
  geometry: object
  collect: bool
  dtype: DTypeLike
  kernel: Kernel
  placed: ClassVar[bool] = False

  def __call__(
    self,
    x: Mapping[str, Tokens],
    read: Mapping[str, Read],
    tables: Mapping[str, Float[Array, "2 t s d"]],
    keys: Mapping[str, Kept],
    sight: Sight,
  ) -> tuple[dict[str, Tokens], dict[str, Keys]]:
    """Text cross-attention, and what the streams read of each other.

    Args:
      x: tokens after self-attention, of the streams that are there.
      read: by stream, its text cross-attention, as `stream.Block.read` with the text.
      tables: by stream, RoPE of self-attention.
      keys: by stream that reads, those that are kept.
      sight: who reads whom.

    Returns:
      The tokens that go to the FFN and, with `collect`, the keys of the streams that
      are there, by the absent stream that would read them.
    """
    return {s: read[s](x[s], None) for s in x}, {}

  def context_keys(self, into: str) -> ContextKeys | None:
    """Keys and values of the context tokens that a stream reads; None: it has none."""
    return None

  def keys_of(
    self,
    x: Mapping[str, Tokens],
    keys: Mapping[str, Kept],
    sight: Sight,
    make: Callable[[str, Tokens], Keys],
  ) -> tuple[dict[str, Keys], dict[str, Keys]]:
    """The keys that streams read, by reader, and those that absent ones would.

    Both directions read one snapshot of states. A stream that reads nothing, in no
    sample, is not in the first: unseen keys are never computed.

    Args:
      x: the states that are read.
      keys: as they were kept.
      sight: who reads whom.
      make: (reader, states of the other stream) -> keys.
    """
    snapshot = sight.snapshot(x)
    seen, collected = {}, {}
    for into in self.streams:
      source = other(into)
      if source not in self.streams:
        continue
      # Kept keys of a given stream go before those of a stream that is there.
      found = keys.get(into, {}).get("other")
      if found is None and source in snapshot and (into in sight.reads or self.collect):
        found = make(into, snapshot[source])
      if found is None:
        continue
      if self.collect and into not in x:
        collected[into] = found
      if into in sight.reads:
        seen[into] = found
    return seen, collected
