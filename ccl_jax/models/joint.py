"""Two streams of equal depth that exchange in every block (paper figure 2).

A block runs, for each stream that is there,

  self-attention -> text cross-attention -> cross-modal context attention -> FFN

and both directions of the exchange read one snapshot of the streams' states, as they
stand after text cross-attention; of variant "fusion", after self-attention, as it is
part of text cross-attention. Blocks are one `nn.scan` over depth. A model of one stream
(T2V weights, audio pretraining) is the same with one key in every dict.

Over sampling most of what a stream reads does not change: the keys of its text, of
image tokens and of context tokens, and those of a stream that is given and clean, which
reads nothing of the other one (context tokens only, or with a gate or fusion nothing at
all). `collect=True` returns these keys for every block, and `keys=` takes them back.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float

from ccl_jax.axes import STREAMS
from ccl_jax.models.cca import CrossConfig, Geometry, WindowExchange
from ccl_jax.models.exchange import Exchange, Sight
from ccl_jax.models.fusion import FusedExchange
from ccl_jax.models.stream import Block, Keys, Stream, StreamConfig
from ccl_jax.ops.kernels import Kernel, keeps_attention
from ccl_jax.sharding import constrain
from ccl_jax.tasks import Route

# Keys and values of every block, by what a stream reads: see `stream.Kept`.
StackedKeys = Mapping[str, tuple[Float[Array, "depth ..."], Float[Array, "depth ..."]]]

EXCHANGES: Mapping[str, type[Exchange]] = {
  "context": WindowExchange,
  "gate": WindowExchange,
  "fusion": FusedExchange,
}
HIDDEN = "hidden"  # the residual stream from block to block

# What the backward pass of a block keeps; all else is computed again.
REMAT = {
  "none": None,  # no rematerialisation at all
  "full": jax.checkpoint_policies.nothing_saveable,
  "save_attention": keeps_attention,
  "offload": jax.checkpoint_policies.save_and_offload_only_these_names(
    names_which_can_be_saved=[],
    names_which_can_be_offloaded=[HIDDEN],
    offload_src="device",
    offload_dst="pinned_host",
  ),
}


class JointBlock(nn.Module):
  """One block of every stream and, with two of them, the exchange between.

  Attributes:
    static: the part of the route known at trace time: the streams that read the other
      one, and those that are detached. Masks by sample arrive with the call.
    collect: also return the keys that absent streams would read: see `JointDiT`.
  """

  streams: tuple[tuple[str, StreamConfig], ...]
  cross: CrossConfig | None
  geometry: Geometry
  static: tuple[tuple[str, ...], tuple[str, ...]]
  collect: bool
  dtype: DTypeLike
  kernel: Kernel

  @nn.compact
  def __call__(self, carry, keys, left_out, e0, tables, context, image, route):
    # Named as it comes in: what goes out is the next block's, and saved in any case.
    carry = {s: checkpoint_name(v, HIDDEN) for s, v in carry.items()}
    stored = {s: v.dtype for s, v in carry.items()}
    carry = {s: v.astype(jnp.float32) for s, v in carry.items()}
    configs = dict(self.streams)
    blocks = {
      s: Block(configs[s], self.dtype, self.kernel, name=s)
      for s in configs
      if s in carry or s in context
    }
    exchange = exchange_of(self.cross)(
      configs, self.cross, self.geometry, self.collect, self.dtype, self.kernel
    )
    texts = lambda s: blocks[s].keys(context[s], image[s])

    def read(s, x, beside):
      return blocks[s].read(x, beside, texts(s) if s in context else keys[s])

    read = {s: functools.partial(read, s) for s in carry}
    x = {s: blocks[s].attend(carry[s], e0[s], tables[s]) for s in carry}
    x, collected = exchange(x, read, tables, keys, Sight(*self.static, route))
    x = {s: blocks[s].feed(x[s], e0[s]) for s in x}
    if left_out is not None:
      x = {s: jnp.where(left_out[:, None, None, None], carry[s], x[s]) for s in x}
    x = {s: v.astype(stored[s]) for s, v in x.items()}
    x = {s: constrain(v, "batch", None, "space", None) for s, v in x.items()}
    if not self.collect:
      return x, {}
    kept = {s: {"other": pair} for s, pair in collected.items()}
    for s in context:
      if s not in carry:
        own = {name: _spread(pair) for name, pair in texts(s).items()}
        if (pair := exchange.context_keys(s)) is not None:
          own["context"] = pair
        kept[s] = kept.get(s, {}) | own
    return x, kept


def _spread(keys: Keys) -> Keys:
  """Keys of a text as they are kept: by parts on devices that each read all of them, to
  be gathered block by block, as parameters are.
  """
  return tuple(constrain(x, "batch", "space", "heads", None) for x in keys)


def exchange_of(cross: CrossConfig | None) -> type[Exchange]:
  """The exchange of a config: `Exchange` itself where streams never exchange."""
  return Exchange if cross is None else EXCHANGES[cross.variant]


class JointDiT(nn.Module):
  """The velocity of every stream that is there.

  Attributes:
    streams: (name, sizes) of the streams the parameters hold.
    depth: blocks.
    cross: how the streams exchange; None for streams that never do.
    remat: a policy of `REMAT`.
    dtype: of matrix products.
    residual: dtype of the residual stream from block to block; within one it is
      float32. What full remat keeps is this, so bfloat16 halves it.
    kernel: of self-attention and text cross-attention.
    stored: makes a block's parameters of what is stored of them, where these are not
      plain arrays; None: they are.
  """

  streams: tuple[tuple[str, StreamConfig], ...]
  depth: int
  cross: CrossConfig | None = None
  remat: str = "none"
  dtype: DTypeLike = jnp.float32
  residual: DTypeLike = jnp.float32
  kernel: Kernel = Kernel()
  stored: Callable[[Any], Any] | None = None

  @nn.compact
  def __call__(
    self,
    latents: Mapping[str, Float[Array, "b ..."]],
    timesteps: Mapping[str, Float[Array, "b f"]],
    text: Float[Array, "b l e"] | Mapping[str, Float[Array, "b l e"]] | None = None,
    route: Route = Route(),
    *,
    image: Mapping[str, Float[Array, "b i 1280"]] | None = None,
    keys: Mapping[str, StackedKeys] | None = None,
    collect: bool = False,
    geometry: Geometry | None = None,
    left_out: Bool[Array, "depth b"] | None = None,
    added: Mapping[str, Float[Array, "b t s d"]] | None = None,
    tell_added: bool = False,
  ):
    """Runs the streams that `latents` names.

    Args:
      latents: video (b, t, h, w, c), with its condition channels if it takes them, and
        audio (b, a, c).
      timesteps: by stream, 1000 * sigma per frame (b, t) or (b, a), or shared (b, 1).
      text: embeddings, rows past the end of a text zero; one for all streams that are
        there, or by stream. A stream needs none whose keys of it are in `keys`.
      route: what cross-modal attention sees.
      image: CLIP tokens, for a stream with `image_tokens`.
      keys: by stream that reads, as `collect` returned them.
      collect: also return the keys that absent streams would read: of those that are
        there ("other") and, of an absent one with a text, those of the text ("text"),
        of image tokens ("image") and of context tokens ("context").
      geometry: token counts of the whole clip, where a stream is absent: where a token
        is in the exchange's RoPE depends on both.
      left_out: the blocks that a sample goes round, in both streams; None: none.
      added: by stream what the blocks add to the tokens, in place of running them, as
        `tell_added` returned it.
      tell_added: also return what the blocks add to the tokens.

    Returns:
      Velocities with the shapes of the latents (out_channels), by stream; with
      `collect`, the pair (velocities, keys); with `tell_added`, (velocities, added).

    Raises:
      ValueError: streams that exchange by places in the clip, one of them absent, and
        no geometry.
    """
    configs = dict(self.streams)
    present = [s for s in STREAMS if s in latents]
    image = image or {}
    texts = text if isinstance(text, Mapping) else dict.fromkeys(present, text)
    texts = {s: texts[s] for s in STREAMS if texts.get(s) is not None}
    grids = {s: as_grid(s, latents[s]) for s in present}
    rows = {s: grids[s].shape[2] // configs[s].patch[1] for s in present}
    parts = {
      s: Stream(configs[s], self.dtype, name=s)
      for s in STREAMS
      if s in latents or s in texts
    }
    x, context, e, e0, tables, images = {}, {}, {}, {}, {}, {}
    for s, part in parts.items():
      if s in texts:
        context[s], images[s] = part.embed_text(texts[s], image.get(s))
      if s in latents:
        x[s] = part.embed(grids[s]).astype(self.residual)
        e[s], e0[s] = part.embed_time(timesteps[s])
        t, tokens = x[s].shape[1:3]
        tables[s] = configs[s].rope_table(t, rows[s], tokens // rows[s])
    geometry = geometry or token_geometry(self.streams, latents)
    if exchange_of(self.cross).placed and not (geometry.t and geometry.a):
      raise ValueError(f"got {geometry}; expected the token counts of both streams")
    if added is None:
      before = x
      x, collected = self._blocks(route, geometry, collect)(
        x, dict(keys or {}), left_out, e0, tables, context, images, _masks(route)
      )
      added = {s: x[s] - before[s] for s in x} if tell_added else None
    else:
      x = {s: x[s] + added[s] for s in x}
    out = {s: parts[s].unembed(x[s], e[s], rows[s]) for s in present}
    out = {s: from_grid(s, v) for s, v in out.items()}
    if tell_added:
      return out, added
    return (out, collected) if collect else out

  def _blocks(self, route: Route, geometry: Geometry, collect: bool):
    """All blocks: one scan over depth."""
    block = _rematted(self.remat)
    if self.stored is not None:
      block = nn.map_variables(block, "params", trans_in_fn=self.stored)
    scan = nn.scan(
      block,
      variable_axes={"params": 0, "intermediates": 0},
      # Parameters get a leading axis of depth, and each block draws its own.
      split_rngs={"params": True},
      in_axes=(0, 0) + (nn.broadcast,) * 5,
      length=self.depth,
      # A second trace of the block would look for what is the same in all of them.
      check_constancy_invariants=False,
    )
    return scan(
      self.streams,
      self.cross,
      geometry,
      _static(route),
      collect,
      self.dtype,
      self.kernel,
      name="blocks",
    )


def as_grid(stream: str, x: Float[Array, "b ..."]) -> Float[Array, "b t h w c"]:
  """A stream's latents as video-like (b, t, h, w, c): audio has h = w = 1."""
  return x if stream == "video" else x[:, :, None, None]


def from_grid(stream: str, x: Float[Array, "b t h w c"]) -> Float[Array, "b ..."]:
  """Latents in the stream's own shape again: the inverse of `as_grid`."""
  return x if stream == "video" else x[:, :, 0, 0]


def geometry_of(model: JointDiT, spec) -> Geometry:
  """Token counts of the films of a spec (`data.spec.ClipSpec`)."""
  t, h, w = spec.latent_shape
  _, ph, pw = (
    dict(model.streams)["video"].patch if "video" in dict(model.streams) else (1, 2, 2)
  )
  return Geometry(t, h // ph, w // pw, spec.audio_tokens)


def token_geometry(streams, latents) -> Geometry:
  """Token counts of latents; an absent stream counts zero tokens."""
  configs = dict(streams)
  t = h = w = a = 0
  if "video" in latents:
    _, t, h, w, _ = latents["video"].shape
    pt, ph, pw = configs["video"].patch
    t, h, w = t // pt, h // ph, w // pw
  if "audio" in latents:
    a = latents["audio"].shape[1]
  return Geometry(t, h, w, a)


def _static(route: Route) -> tuple[tuple[str, ...], tuple[str, ...]]:
  """The streams that a route lets read, and detaches, as far as this is static."""
  # A mask by sample counts as reading: some sample may.
  reads = tuple(s for s, v in route.reads.items() if v is not False)
  return reads, tuple(s for s, v in route.detached.items() if v is True)


def _masks(route: Route) -> Route:
  """The masks by sample of a route."""
  masks = lambda d: {s: v for s, v in d.items() if not isinstance(v, bool)}
  return Route(masks(route.reads), masks(route.detached))


def _rematted(policy: str):
  if policy == "none":
    return JointBlock
  return nn.remat(JointBlock, policy=REMAT[policy], prevent_cse=False)
