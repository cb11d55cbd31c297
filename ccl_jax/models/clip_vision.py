"""CLIP's vision tower: the 257 image tokens that Wan2.1's I2V models read.

  x = ln([cls | patches] + positions)
  x += Attn(ln1(x)),   x += MLP(ln2(x))         all blocks but the network's last,

without the last norm. Pixels are the whole image squeezed into a square, bicubic with
a = -0.75 and no antialiasing, then less CLIP's mean, over its deviation: Wan's own
preprocessing, and unlike other CLIPs no crop.

Matrix products run in the compute dtype; norms, softmax and residuals are float32.
"""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from flax import struct
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from ccl_jax.models.layers import MLP, LayerNorm, dense, heads, merge
from ccl_jax.ops import bicubic
from ccl_jax.ops.kernels import Kernel

MEAN = (0.48145466, 0.4578275, 0.40821073)  # of pixels in [0, 1], by colour
STD = (0.26862954, 0.26130258, 0.27577711)
EPS = 1e-5


def clip_pixels(image: Float[Array, "b H W 3"], size: int) -> Float[Array, "b s s 3"]:
  """Images in [-1, 1] to the square of s = `size` pixels a side that the tower sees."""
  rows, columns = (bicubic.matrix(n, size) for n in image.shape[1:3])
  image = image.astype(jnp.float32)
  image = jnp.einsum("sH,bHWc->bsWc", rows, image, precision="highest")
  image = jnp.einsum("tW,bsWc->bstc", columns, image, precision="highest")
  mean, std = (jnp.asarray(x, jnp.float32)[None, None, None] for x in (MEAN, STD))
  # From [-1, 1] to CLIP's [0, 1] first.
  return (0.5 * image + 0.5 - mean) / std


class Attention(nn.Module):
  """Self-attention over all tokens, its three products stored as one (3, c, c)."""

  heads: int
  dtype: DTypeLike

  @nn.compact
  def __call__(self, x: Float[Array, "b l c"]) -> Float[Array, "b l c"]:
    width = x.shape[-1]
    three = nn.vmap(
      nn.Dense,
      variable_axes={"params": 0},
      split_rngs={"params": True},
      in_axes=None,
      axis_size=3,
    )
    qkv = three(width, dtype=self.dtype, name="qkv")(x)
    q, k, v = (heads(z, self.heads) for z in qkv)
    return dense(width, self.dtype, "proj")(merge(Kernel()(q, k, v)))


class Block(nn.Module):
  """A block with norms before attention and MLP; the unused argument is `nn.scan`'s."""

  ffn: int
  heads: int
  dtype: DTypeLike

  @nn.compact
  def __call__(self, x: Float[Array, "b l c"], _):
    norm = lambda name: LayerNorm(affine=True, eps=EPS, name=name)(x)
    x = x + Attention(self.heads, self.dtype, name="attn")(norm("norm1"))
    mlp = MLP(self.ffn, x.shape[-1], self.dtype, "gelu", name="mlp")
    return x + mlp(norm("norm2")), None


class ClipTower(nn.Module):
  """Pixels of a square to tokens; the defaults are the sizes of ViT-H/14.

  Attributes:
    width, ffn, heads: of the transformer.
    depth: blocks that are run: one fewer than the network has.
    patch, grid: pixels of a patch's side, patches of the image's side.
    dtype: of matrix products.
  """

  width: int = 1280
  ffn: int = 5120
  heads: int = 16
  depth: int = 31
  patch: int = 14
  grid: int = 16
  dtype: DTypeLike = jnp.bfloat16

  @nn.compact
  def __call__(self, pixels: Float[Array, "b s s 3"]) -> Float[Array, "b l c"]:
    b, normal = pixels.shape[0], nn.initializers.normal(self.width**-0.5)
    first = self.param("cls_embedding", normal, (self.width,))
    positions = self.param("pos_embedding", normal, (1 + self.grid**2, self.width))
    patches = nn.Conv(
      self.width,
      (self.patch, self.patch),
      strides=self.patch,
      padding="VALID",
      use_bias=False,
      dtype=self.dtype,
      name="patch_embedding",
    )(pixels).reshape(b, -1, self.width)
    first = jnp.broadcast_to(first, (b, 1, self.width))
    x = jnp.concatenate([first, patches.astype(jnp.float32)], 1) + positions[None]
    x = LayerNorm(affine=True, eps=EPS, name="pre_norm")(x)
    blocks = nn.scan(
      Block,
      variable_axes={"params": 0},
      split_rngs={"params": True},
      length=self.depth,
    )(self.ffn, self.heads, self.dtype, name="blocks")
    # No last norm: Wan2.1 reads the states before the last block.
    return blocks(x, None)[0]


class ClipImage(struct.PyTreeNode):
  """Images to CLIP tokens.

  Attributes:
    params: of `ClipTower`; its sizes are theirs, but for the heads.
    heads: of the transformer.
    dtype: of matrix products, and of the parameters in memory.
    links: where the parameters are stored; see ccl_jax/codecs/bundle.py.
  """

  params: Any  # not typed as arrays: transformations put shapes, shardings here
  heads: int = struct.field(pytree_node=False, default=16)
  dtype: str = struct.field(pytree_node=False, default="bfloat16")
  links: tuple = struct.field(pytree_node=False, default=())

  @property
  def tower(self) -> ClipTower:
    """The network, with all sizes but the heads read from the parameters' shapes."""
    depth, width, ffn = self.params["blocks"]["mlp"]["in"]["kernel"].shape
    tokens = self.params["pos_embedding"].shape[0]
    return ClipTower(
      width=width,
      ffn=ffn,
      heads=self.heads,
      depth=depth,
      patch=self.params["patch_embedding"]["kernel"].shape[0],
      grid=round((tokens - 1) ** 0.5),
      dtype=jnp.dtype(self.dtype),
    )

  def encode(self, image: Float[Array, "b H W 3"]) -> Float[Array, "b l c"]:
    """Tokens of images in [-1, 1] of any size: the class token, then the patches."""
    tower = self.tower
    pixels = clip_pixels(image, tower.patch * tower.grid)
    return tower.apply({"params": self.params}, pixels)
