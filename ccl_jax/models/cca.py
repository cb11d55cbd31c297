"""Cross-modal context attention: one direction of the exchange (section 4.2).

  Q        = rope(norm_q(W_q ln_q(x_own)))
  K, V     = rope(norm_k(W_k ln_kv(x_other))), W_v ln_kv(x_other)
  K_c, V_c = norm_k(W_k C), W_v C        C: learnable context tokens, no RoPE
  x_own   += W_o softmax(Q [K_c ; K_window]^T / sqrt(d)) [V_c ; V_window]     (3, 4)

W_k and W_v serve tokens and context alike. W_o starts at zero: freshly joined streams
are the two streams. The direction into the video reads windows of audio tokens, the one
into the audio reads the video frame that a token lies in (ops/tarp.py).

Where a direction has no context tokens, softmax is over the window alone, and a sample
that does not read the other stream gets nothing added. So it is in both directions of
variant "gate", the paper's baseline.
"""

import dataclasses
import functools
from typing import NamedTuple

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float

from ccl_jax.axes import other
from ccl_jax.models.exchange import ContextKeys, Exchange, Keys
from ccl_jax.models.layers import LayerNorm, RMSNorm, dense, heads, merge
from ccl_jax.ops import rope, tarp
from ccl_jax.ops.attention import context_attention
from ccl_jax.ops.context_parallel import frame_attention


@dataclasses.dataclass(frozen=True)
class CrossConfig:
  """How the streams exchange.

  Attributes:
    variant: "context" (learnable context tokens), "gate" (the baseline) or "fusion",
      which sees everything and uses none of what follows (models/fusion.py).
    times: "causal" or "uniform": when latent frames are, for windows, groups and RoPE
      alike (ops/tarp.py).
    tarp_centre: of windows if times are uniform: "aligned" or "floor".
    window: audio tokens that a video token sees, in multiples of those of a latent
      frame; 0: all.
    video_window: latent frames that an audio token sees, its own in the middle; 0: all.
    rope_unit: of time in RoPE, 1 rad in the fastest channel: "latent" frame (the
      paper's) or audio "token"; "index": streams count their own, and are not aligned.
    cross_rope: rotation of video tokens: "3d", or "temporal" (time only).
    video_tokens, audio_tokens: context tokens C_video (read by audio queries) and
      C_audio (read by video queries) of every block.
    context_std: deviation of C at the start. It has no `ln_kv`, so the rms of V_c is
      this much of V's.
    context_values: False: V_c = 0; context tokens then only take attention away.
  """

  variant: str = "context"
  times: str = "causal"
  tarp_centre: str = "aligned"
  window: int = 1
  video_window: int = 1
  rope_unit: str = "token"
  cross_rope: str = "3d"
  video_tokens: int = 128
  audio_tokens: int = 8
  context_std: float = 0.02
  context_values: bool = True

  def context_tokens(self, stream: str) -> int:
    """Context tokens that stand in for `stream`."""
    if self.variant != "context":
      return 0
    return {"video": self.video_tokens, "audio": self.audio_tokens}[stream]

  def window_of(self, into: str) -> int:
    """Frames' worth of the other stream that a token of `into` sees; 0: all of it."""
    return {"video": self.window, "audio": self.video_window}[into]


class Geometry(NamedTuple):
  """Token counts of a clip: latent frames, token rows and columns, audio tokens."""

  t: int
  h: int
  w: int
  a: int

  def cross_table(self, stream: str, d: int, config: CrossConfig):
    """RoPE (2 t s d) of a stream's tokens in cross-modal attention."""
    times, unit = config.times, config.rope_unit
    rate = tarp.tokens_per_frame(self.t, self.a, times) if unit == "token" else 1.0
    if stream == "video":
      spatial = config.cross_rope == "3d"
      return rope.grid(self.t, self.h, self.w, d, spatial, rate)
    if unit == "index":
      return rope.temporal(np.arange(self.a), d)[:, :, None]
    return rope.temporal(rate * tarp.audio_time(self.t, self.a, times), d)[:, :, None]

  def audio_windows(self, config: CrossConfig) -> tarp.Windows:
    """The audio tokens that every latent frame sees."""
    return tarp.audio_windows(
      self.t, self.a, config.times, config.tarp_centre, config.window
    )

  def completed(self, clip: "Geometry | None") -> "Geometry":
    """The same with the frames or audio tokens that an absent stream would have, where
    pictures and tokens follow each other as in `clip`.
    """
    if clip is None or (self.t and self.a):
      return self
    per_picture = clip.a / (4 * clip.t - 3)
    if self.t:
      return self._replace(a=max(round((4 * self.t - 3) * per_picture), 1))
    return self._replace(t=max(round((self.a / per_picture + 3) / 4), 1))


class CrossAttention(nn.Module):
  """One direction, into the stream `into`, at that stream's width.

  Attributes:
    into: the stream that reads.
    width, heads: of the stream that reads.
    other_width: of the stream that is read.
  """

  into: str
  width: int
  heads: int
  other_width: int
  config: CrossConfig
  dtype: DTypeLike

  def setup(self):
    self.ln_q, self.ln_kv = LayerNorm(affine=True), LayerNorm(affine=True)
    self.norm_q, self.norm_k = RMSNorm(), RMSNorm()
    self.q, self.k, self.v = (dense(self.width, self.dtype) for _ in range(3))
    self.o = dense(self.width, self.dtype, kernel_init=nn.initializers.zeros)
    if r := self.config.context_tokens(other(self.into)):
      start = nn.initializers.normal(self.config.context_std)
      self.context = self.param("context", start, (r, self.other_width))

  def keys(
    self, x_other: Float[Array, "b u v e"], table: Float[Array, "2 u v d"]
  ) -> Keys:
    """Keys and values of the other stream's tokens, ready to be attended."""
    x = self.ln_kv(x_other)
    k = heads(self.norm_k(self.k(x)), self.heads)
    return rope.rotate(k, table, self.dtype), heads(self.v(x), self.heads)

  def context_keys(self) -> ContextKeys | None:
    """Keys and values of the context tokens (r, n, d); None: there are none."""
    if not self.config.context_tokens(other(self.into)):
      return None
    k = heads(self.norm_k(self.k(self.context)), self.heads).astype(self.dtype)
    v = heads(self.v(self.context), self.heads)
    return k, v if self.config.context_values else jnp.zeros_like(v)

  def __call__(
    self,
    x: Float[Array, "b t s c"],
    table: Float[Array, "2 t s d"],
    geometry: Geometry,
    keys: Keys | None,
    reads: Bool[Array, "b"] | None,
    context: ContextKeys | None = None,
  ) -> Float[Array, "b t s c"]:
    """What this direction adds to x.

    Args:
      x: tokens of the stream that reads.
      table: their RoPE.
      geometry: token counts of the clip.
      keys: of the other stream; None routes every sample to context tokens only.
      reads: samples that see `keys`; None for all of them.
      context: of `context_keys`; None: they are made.
    """
    tokens = self.config.context_tokens(other(self.into))
    if not tokens and keys is None:
      return jnp.zeros_like(x)
    q = heads(self.norm_q(self.q(self.ln_q(x))), self.heads)
    q = rope.rotate(q, table, self.dtype)
    if context is None:
      context = self.context_keys()

    q, keys, valid, restore = self._by_frame(q, keys, geometry)
    mask = None if valid is None else jnp.asarray(valid)[None]
    if reads is not None and context is not None:
      seen = jnp.broadcast_to(reads[:, None, None], (len(reads), 1, keys[0].shape[2]))
      mask = seen if mask is None else mask & seen
    # The keys of the video are spread over devices, those of the audio are not.
    attend = context_attention if self.into == "video" else frame_attention
    out, share = attend(q, context, keys, mask)
    self.sow("intermediates", "context_share", restore(share[..., None])[..., 0])
    out = self.o(restore(merge(out)))
    if reads is not None and context is None:
      out = jnp.where(reads[:, None, None, None], out, 0)  # the binary gate
    return out

  def _by_frame(self, q, keys, geometry):
    """Queries, keys and key mask as a batch of frames, and the way back."""
    b, t, s = q.shape[:3]
    if keys is None or not self.config.window_of(self.into):
      flat = lambda x: x.reshape(b, 1, -1, *x.shape[3:])
      keys = None if keys is None else (flat(keys[0]), flat(keys[1]))
      return flat(q), keys, None, lambda x: x.reshape(b, t, s, -1)
    if self.into == "video":
      windows = geometry.audio_windows(self.config)
      keys = tuple(tarp.to_windows(x[:, :, 0], windows) for x in keys)
      return q, keys, windows.valid, lambda x: x
    groups = tarp.frame_groups(geometry.t, geometry.a, self.config.times)
    restore = lambda x: tarp.from_groups(x, groups)[:, :, None]
    q, valid = tarp.to_groups(q[:, :, 0], groups), None
    if self.config.video_window > 1:
      windows = tarp.frame_windows(geometry.t, self.config.video_window)
      valid = np.tile(windows.valid, keys[0].shape[2])
      keys = tuple(tarp.to_neighbours(x, windows) for x in keys)
    return q, keys, valid, restore


class WindowExchange(Exchange):
  """Variants "context" and "gate": windows of states of after text cross-attention."""

  placed = True

  def __call__(self, x, read, tables, keys, sight):
    x, _ = super().__call__(x, read, tables, keys, sight)
    directions = self._directions

    def table(stream, into):
      width = self.streams[into].head_width
      return self.geometry.cross_table(stream, width, self.config)

    make = lambda into, states: directions[into].keys(states, table(other(into), into))
    seen, collected = self.keys_of(x, keys, sight, make)
    out = {}
    for s in x:
      added = directions[s](
        x[s], table(s, s), self.geometry, seen.get(s), sight.reading(s),
        context=keys.get(s, {}).get("context"),
      )  # fmt: skip
      # Eqs. 3 and 4. Residual, as in Wan's blocks; W_o starts at zero.
      out[s] = x[s] + added
    return out, collected

  def context_keys(self, into):
    return self._directions[into].context_keys()

  @functools.cached_property
  def _directions(self) -> dict[str, CrossAttention]:
    """By the stream that reads, as modules of the block that this is used in."""
    return {
      into: CrossAttention(
        into, c.width, c.heads, self.streams[other(into)].width, self.config,
        self.dtype, name=f"{other(into)}_to_{into}",
      )
      for into, c in self.streams.items()
    }  # fmt: skip
