"""ImageBind: pictures and sounds as unit vectors of one space (arXiv 2305.05665).

Vision, two frames of 224 x 224: patches of (2, 14, 14) are 256 tokens. Sound, a mel
spectrogram of 128 bands and 204 frames: patches of 16 x 16, 10 apart, are 12 x 19
tokens, normed. Then, with the norm `first` for vision only,

  x = first([class | patches] + positions),   y = W ln(Encoder(x)[0]),   y / |y|

and sound times a learnt scale. Its blocks see one learnt key and value each beside the
tokens. Sizes of the release are ImageBind-Huge's: 633M parameters for vision, 86M for
sound; the text, depth, thermal and motion towers are not here.

Matrix products run in the compute dtype and, where that is float32, exactly so on every
accelerator; norms, softmax and residuals are float32.
"""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from flax import struct
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from ccl_jax.models.scorers.vit import Block, dense, exact, layer_norm, prepend, stack
from ccl_jax.ops.patchify import patchify

PATCH = (2, 14, 14)  # frames, rows, columns
BANDS, MEL_FRAMES = 128, 204
MEL_PATCH, MEL_STRIDE = 16, 10
EPS, STEM_EPS = 1e-6, 1e-5


class Tower(nn.Module):
  """Patches (b, l, c) to unit vectors (b, e).

  Attributes:
    heads, hidden, depth: of the transformer.
    out: e, the width of the common space.
    first_norm: whether a norm stands before the blocks.
    sink: whether each block has a learnt key and value besides the tokens.
    dtype: of matrix products.
  """

  heads: int
  hidden: int
  depth: int
  out: int
  first_norm: bool
  sink: bool
  dtype: DTypeLike

  @nn.compact
  def __call__(self, patches: Float[Array, "b l c"]) -> Float[Array, "b e"]:
    normal, (_, tokens, width) = nn.initializers.normal(0.02), patches.shape
    first = self.param("class_token", normal, (width,))
    place = self.param("place_embedding", normal, (1 + tokens, width))
    x = prepend(patches, first) + place[None]
    if self.first_norm:
      x = layer_norm(EPS, "first_norm")(x)
    blocks = stack(Block, self.depth)(
      self.heads, self.hidden, EPS, sink=self.sink, dtype=self.dtype, name="blocks"
    )
    # The class token stands for the whole.
    x = layer_norm(EPS, "norm")(blocks(x, None)[0][:, 0])
    y = dense(self.out, self.dtype, "head", use_bias=False)(x).astype(jnp.float32)
    return y / jnp.linalg.norm(y, axis=-1, keepdims=True)


class VisionTower(nn.Module):
  """Two normalised frames to a unit vector; fields as of `Tower`, and the `width`."""

  width: int
  heads: int
  hidden: int
  depth: int
  out: int
  dtype: DTypeLike = jnp.float32

  @nn.compact
  def __call__(self, frames: Float[Array, "b 2 H W 3"]) -> Float[Array, "b e"]:
    patch = dense(self.width, self.dtype, "patch", use_bias=False)
    # Both frames are in one patch of time.
    patches = patch(patchify(frames, PATCH))[:, 0]
    sizes = self.heads, self.hidden, self.depth, self.out
    return Tower(*sizes, True, False, self.dtype, name="tower")(patches)


class AudioTower(nn.Module):
  """A mel spectrogram to a unit vector times a learnt scale; fields as of `Tower`."""

  width: int
  heads: int
  hidden: int
  depth: int
  out: int
  dtype: DTypeLike = jnp.float32

  @nn.compact
  def __call__(self, mel: Float[Array, "b bands frames"]) -> Float[Array, "b e"]:
    patches = nn.Conv(
      self.width,
      (MEL_PATCH, MEL_PATCH),
      MEL_STRIDE,
      "VALID",
      use_bias=False,
      dtype=self.dtype,
      name="patch",
    )(mel[..., None]).reshape(len(mel), -1, self.width)
    patches = layer_norm(STEM_EPS, "patch_norm")(patches)
    sizes = self.heads, self.hidden, self.depth, self.out
    unit = Tower(*sizes, False, True, self.dtype, name="tower")(patches)
    # The release scales sound by a learnt factor; a cosine does not see it.
    return unit * jnp.exp(self.param("log_scale", nn.initializers.zeros, ()))


TOWERS = {"vision": VisionTower, "audio": AudioTower}


class ImageBind(struct.PyTreeNode):
  """Both towers with their parameters, an argument of jitted functions.

  Attributes:
    params: of `TOWERS`, by name; their sizes are theirs, but for the heads.
    heads: of each tower.
    dtype: of matrix products.
  """

  params: Any  # not typed as arrays: transformations put shapes, shardings here
  heads: tuple[int, int] = struct.field(pytree_node=False, default=(16, 12))
  dtype: str = struct.field(pytree_node=False, default="float32")

  def vision(self, frames: Float[Array, "b 2 H W 3"]) -> Float[Array, "b e"]:
    """Unit vectors of pairs of normalised frames."""
    return self._apply("vision", self.heads[0], frames)

  def audio(self, mel: Float[Array, "b bands frames"]) -> Float[Array, "b e"]:
    """Vectors of one length, of normalised mel spectrograms."""
    return self._apply("audio", self.heads[1], mel)

  def _apply(self, name: str, heads: int, x):
    params = self.params[name]
    # Blocks are stacked: the first axis counts them.
    depth, width, hidden = params["tower"]["blocks"]["mlp"]["in"]["kernel"].shape
    out, dtype = params["tower"]["head"]["kernel"].shape[1], jnp.dtype(self.dtype)
    net = TOWERS[name](width, heads, hidden, depth, out, dtype)
    with exact():
      return net.apply({"params": params}, x)
