"""Clips longer than those of training: parts of its length, sampled at once and joined.

A clip of T latent frames is covered by K parts of t, which overlap. All are sampled
together, as so many clips of the trained length, and after every evaluation the
velocities of what parts share are averaged, in both streams by weights that fall
towards a part's ends (MultiDiffusion, arXiv 2302.08113, over time). Parts begin with
the same noise where they overlap, and so agree there at every step: solvers are linear.

A causal codec's first latent frame is of one picture, the others of four. So the first
latent of every part but the first is its own: that of the picture before its second,
as a clip of training has one that was cut out of a longer film. It is sampled with the
part and not decoded. Part k, of latent frames s_k + 1 .. s_k + t - 1 and this one,
begins at picture 4 s_k; its audio tokens begin at the token nearest to that instant.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Shaped

from ccl_jax.data.spec import SAMPLES_PER_TOKEN, ClipSpec
from ccl_jax.errors import UsageError


class Join(NamedTuple):
  """The parts of a clip; arrays of parts have b K rows, those of a clip side by side.

  Attributes:
    frames, tokens: t latent frames and a audio tokens of a part.
    whole_frames, whole_tokens: T and A of the clip.
    starts: s_k, the latent frame at which each part begins.
    token_starts: the audio token at which it begins.
    overlap: latent frames over which weights rise from a part's end.
  """

  frames: int
  tokens: int
  whole_frames: int
  whole_tokens: int
  starts: tuple[int, ...]
  token_starts: tuple[int, ...]
  overlap: int

  @property
  def parts(self) -> int:
    """K, the number of parts that cover the clip."""
    return len(self.starts)

  @property
  def sizes(self) -> dict[str, int]:
    """By stream the latents of a clip, with the K - 1 first ones of the other parts,
    which come after those of the video.
    """
    return {"video": self.whole_frames + self.parts - 1, "audio": self.whole_tokens}

  def index(self, stream: str) -> np.ndarray:
    """(K, t) or (K, a): which of the `sizes` latents are a part's."""
    if stream == "audio":
      return np.array(self.token_starts)[:, None] + np.arange(self.tokens)
    index = np.array(self.starts)[:, None] + np.arange(self.frames)
    index[1:, 0] = self.whole_frames + np.arange(self.parts - 1)
    return index

  def weights(self, stream: str) -> np.ndarray:
    """(K, t) or (K, a): shares of parts in the latents that they have in common."""
    n, per_frame, own = self.frames, 1.0, 1.0
    if stream == "audio":
      n, per_frame, own = self.tokens, (4 * self.frames - 3) / 4 / self.tokens, 0.25
    # From either end of a part, in latent frames; what is its own is none.
    middle = (np.arange(n) + 0.5) * per_frame
    first, last = middle - own, n * per_frame - middle
    rise = lambda x: np.clip(x / self.overlap, 1e-3, 1)
    weights = np.ones((self.parts, n))
    weights[1:] *= rise(first)
    weights[:-1] *= rise(last)
    total = np.zeros(self.sizes[stream])
    np.add.at(total, self.index(stream), weights)
    return (weights / total[self.index(stream)]).astype(np.float32)

  def split(self, stream: str, x: Shaped[Array, "b n ..."]) -> Array:
    """The parts of latents that have `sizes`."""
    rows = x[:, self.index(stream)]
    return rows.reshape(-1, *rows.shape[2:])

  def merged(
    self, stream: str, rows: Float[Array, "bk m ..."]
  ) -> Float[Array, "b n ..."]:
    """Latents of clips, of `sizes`, from their parts."""
    rows = rows.reshape(-1, self.parts, *rows.shape[1:])
    w = self.weights(stream).reshape(1, self.parts, -1, *[1] * (rows.ndim - 3))
    out = jnp.zeros((rows.shape[0], self.sizes[stream], *rows.shape[3:]), rows.dtype)
    return out.at[:, self.index(stream)].add(rows * w)

  def agreed(self, rows: Mapping[str, Array]) -> dict[str, Array]:
    """Parts that agree in what they share: their weighted mean there, by stream."""
    return {s: self.split(s, self.merged(s, x)) for s, x in rows.items()}

  def split_all(self, latents: Mapping[str, Array]) -> dict[str, Array]:
    """The parts of the latents of every stream: see `split`."""
    return {s: self.split(s, x) for s, x in latents.items()}

  def joined(self, rows: Mapping[str, Array]) -> dict[str, Array]:
    """The clips' own latents, by stream (b, T, ...) or (b, A, ...)."""
    own = {"video": self.whole_frames, "audio": self.whole_tokens}
    return {s: self.merged(s, x)[:, : own[s]] for s, x in rows.items()}

  def parts_held(self, held: Mapping[str, Mapping[str, Array]]) -> dict[str, Any]:
    """What is given of clips' latents, as that of their parts: no part's own first
    frame is given. See `sampling.sample_latents`.
    """
    out = {}
    for s, of in held.items():
      extra = self.sizes[s] - of["mask"].shape[1]
      pad = lambda x, n=extra: jnp.pad(x, [(0, 0), (0, n)] + [(0, 0)] * (x.ndim - 2))
      out[s] = {name: self.split(s, pad(x)) for name, x in of.items()}
    return out

  def cut(self, name: str, x: np.ndarray) -> np.ndarray:
    """The pictures (b, F, H, W, 3) or samples (b, n) of clips, as those of parts."""
    size, starts = 4 * self.frames - 3, [4 * s for s in self.starts]
    if name == "audio":
      size = self.tokens * SAMPLES_PER_TOKEN
      starts = [s * SAMPLES_PER_TOKEN for s in self.token_starts]
    rows = np.stack([x[:, s : s + size] for s in starts], 1)
    return rows.reshape(-1, *rows.shape[2:])


def join_of(
  spec: ClipSpec, window: int | None = None, overlap: int | None = None
) -> tuple[ClipSpec, Join | None]:
  """The clip of a part, and how parts are joined; None: the clip is made in one.

  Args:
    spec: of the whole clip.
    window: frames of a part, 4 k + 1; None: the clip is made in one.
    overlap: frames that parts share at least, a multiple of 4; None: half a part.

  Raises:
    UsageError: there are no such parts.
  """
  check_window(window, overlap)
  if window is None or spec.frames <= window:
    return spec, None
  shared = overlap or default_overlap(window)
  part = dataclasses.replace(spec, frames=window)
  t, whole, o = part.latent_frames, spec.latent_frames, shared // 4
  count = 1 + math.ceil((whole - t) / (t - 1 - o))
  starts = np.round(np.linspace(0, whole - t, count)).astype(int)
  rate = spec.sample_rate / SAMPLES_PER_TOKEN if spec.audio_rate is None else (
    spec.audio_rate
  )  # fmt: skip
  at = np.floor(4 * starts / float(spec.rate) * rate + 0.5).astype(int)
  at = np.minimum(at, spec.audio_tokens - part.audio_tokens)
  at[-1] = spec.audio_tokens - part.audio_tokens
  return part, Join(
    t, part.audio_tokens, whole, spec.audio_tokens,
    tuple(map(int, starts)), tuple(map(int, at)), o,
  )  # fmt: skip


def default_overlap(window: int) -> int:
  """Frames that parts share where nobody says otherwise: about half of them."""
  return max((window - 1) // 8 * 4, 4)


def extension_overlap(trained: int) -> int:
  """Frames that a clip begins with of a film that it extends, beside the last one:
  about a quarter of a trained clip. With more what is made drifts faster
  (docs/length.md).
  """
  return max((trained - 1) // 16 * 4, 4)


def check_window(window: int | None, overlap: int | None) -> None:
  """Whether parts of so many frames can overlap by so many.

  Raises:
    UsageError: they cannot.
  """
  if window is not None and (window < 9 or window % 4 != 1):
    raise UsageError(f"--window: got {window}; expected 4 k + 1 frames, 9 at least")
  if overlap is None:
    return
  if overlap < 4 or overlap % 4:
    raise UsageError(f"--overlap: got {overlap}; expected a multiple of 4, as 16")
  if window and overlap > window - 5:
    raise UsageError(
      f"--overlap: got {overlap}; expected at most {window - 5}, for parts of {window} "
      "frames"
    )


def split_noise(first_noise, shapes, join: Join | None, bits):
  """Noise of clips or, with a join, of their parts: the same where these overlap.

  Args:
    first_noise: see `noise.first_noise`.
    shapes: (stream, shape) of what one seed makes.
    join: of the parts.
    bits: of every seed.
  """
  noise = first_noise(shapes, bits)
  return noise if join is None else join.split_all(noise)


def spread_noise(fresh, latents, join: Join | None, seeds, step) -> dict[str, Array]:
  """Fresh noise of a step for clips or, with a join, for their parts, which agree.

  Args:
    fresh: see `noise.fresh_noise`.
    latents: of clips or parts, of which only the shapes matter.
    join: of the parts.
    seeds: bits of every seed.
    step: its number.
  """
  if join is None:
    return fresh(latents, seeds, step)
  whole = {s: join.merged(s, x) for s, x in latents.items()}
  return join.split_all(fresh(whole, seeds, step))


def repeated(x: np.ndarray, join: Join | None, axis: int = 0) -> np.ndarray:
  """Values of clips along an axis, as those of their parts."""
  return x if join is None else np.repeat(x, join.parts, axis)
