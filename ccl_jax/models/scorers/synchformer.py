"""Synchformer: how far picture and sound of a clip are apart, as one of 21 classes.

A window is 14 segments of 0.64 s, 0.32 s apart. The towers turn each segment into 8
rows of video and 6 of sound, and

  x = [OFF | ln(W_v v) | MOD | ln(W_a a)] + positions        1 + 112 + 1 + 84 tokens
  logits = W ln(Encoder(x)[0])

The defaults are the released network's sizes (237M parameters); all but the number of
heads can be read from the parameters' shapes. Iashin et al., arXiv 2401.16423.

Matrix products run in the compute dtype and, where that is float32, exactly so on every
accelerator; norms, softmax and residuals are float32.
"""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from flax import struct
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from ccl_jax.models.scorers.synchformer_towers import AudioTower, VideoTower
from ccl_jax.models.scorers.vit import Block, dense, exact, layer_norm, prepend, stack

SEGMENTS = 14  # of a window
JOINT_EPS = 1e-5


class JointHead(nn.Module):
  """Rows of a window, of both towers, to the logits of the classes.

  Attributes:
    heads, hidden, depth: of the transformer.
    classes: o, the offsets that are told apart.
    dtype: of matrix products.
  """

  heads: int
  hidden: int
  depth: int
  classes: int
  dtype: DTypeLike

  @nn.compact
  def __call__(
    self, video: Float[Array, "b v c"], audio: Float[Array, "b a c"]
  ) -> Float[Array, "b o"]:
    width, normal = video.shape[-1], nn.initializers.normal(0.02)
    video = dense(width, self.dtype, "video")(video)
    audio = dense(width, self.dtype, "audio")(audio)
    off, mod = (self.param(n, normal, (width,)) for n in ("off_token", "mod_token"))
    video = layer_norm(JOINT_EPS, "video_norm")(video)
    audio = layer_norm(JOINT_EPS, "audio_norm")(audio)
    # [OFF | ln(W_v v) | MOD | ln(W_a a)]; OFF is read by the head.
    x = jnp.concatenate([prepend(video, off), prepend(audio, mod)], 1)
    x = x + self.param("place_embedding", normal, x.shape[1:])[None]
    blocks = stack(Block, self.depth)(
      self.heads, self.hidden, JOINT_EPS, fused=False, dtype=self.dtype, name="blocks"
    )
    x = layer_norm(JOINT_EPS, "norm")(blocks(x, None)[0][:, 0])
    return dense(self.classes, self.dtype, "logits")(x).astype(jnp.float32)


class SynchformerNet(nn.Module):
  """The three networks as one.

  Attributes:
    width, hidden, heads: of both towers.
    depths: layers of the video tower, the audio tower and the joint head.
    joint_hidden, joint_heads, classes: of the joint head.
    dtype: of matrix products.
  """

  width: int = 768
  hidden: int = 3072
  heads: int = 12
  depths: tuple[int, int, int] = (12, 12, 3)
  joint_hidden: int = 3072
  joint_heads: int = 8
  classes: int = 21
  dtype: DTypeLike = jnp.float32

  def setup(self):
    video, audio, joint = self.depths
    sizes = {"heads": self.heads, "hidden": self.hidden, "width": self.width}
    self.video = VideoTower(**sizes, depth=video, dtype=self.dtype)
    self.audio = AudioTower(**sizes, depth=audio, dtype=self.dtype)
    self.joint = JointHead(
      self.joint_heads, self.joint_hidden, joint, self.classes, self.dtype
    )

  def video_rows(self, frames: Float[Array, "b F H W 3"]) -> Float[Array, "b t c"]:
    """Rows (b, t, c) of b video segments in [-1, 1], one for every two frames."""
    return self.video(frames)

  def audio_rows(self, mel: Float[Array, "b bands frames"]) -> Float[Array, "b t c"]:
    """Rows (b, t, c) of the normalised mels of b sound segments."""
    return self.audio(mel)

  def compare(
    self, video: Float[Array, "b v c"], audio: Float[Array, "b a c"]
  ) -> Float[Array, "b o"]:
    """Logits of the classes from a window's v rows of video and a rows of sound."""
    return self.joint(video, audio)

  def __call__(
    self,
    frames: Float[Array, "b s F H W 3"],
    mel: Float[Array, "b s bands frames"],
  ) -> Float[Array, "b o"]:
    # Segments are independent in the towers: they join the batch.
    video, audio = self.video(_flat(frames)), self.audio(_flat(mel))
    rows = lambda x: x.reshape(len(frames), -1, x.shape[-1])
    return self.joint(rows(video), rows(audio))


class Synchformer(struct.PyTreeNode):
  """The network with its parameters, an argument of jitted functions.

  Attributes:
    params: of `SynchformerNet`; its sizes are theirs, but for the heads.
    heads, joint_heads: of the towers, and of the joint head.
    dtype: of matrix products.
  """

  params: Any  # not typed as arrays: transformations put shapes, shardings here
  heads: int = struct.field(pytree_node=False, default=12)
  joint_heads: int = struct.field(pytree_node=False, default=8)
  dtype: str = struct.field(pytree_node=False, default="float32")

  @property
  def net(self) -> SynchformerNet:
    """The network, with all sizes but the heads read from the parameters' shapes."""
    parts = [self.params[name] for name in ("video", "audio", "joint")]
    layers = [part["blocks"]["mlp"]["in"]["kernel"].shape for part in parts]
    return SynchformerNet(
      width=layers[0][1],
      hidden=layers[0][2],
      heads=self.heads,
      depths=tuple(shape[0] for shape in layers),
      joint_hidden=layers[2][2],
      joint_heads=self.joint_heads,
      classes=parts[2]["logits"]["bias"].shape[0],
      dtype=jnp.dtype(self.dtype),
    )

  def video_rows(self, frames: Float[Array, "b F H W 3"]) -> Float[Array, "b t c"]:
    """Rows of video segments, in [-1, 1]."""
    return self._apply("video_rows", frames)

  def audio_rows(self, mel: Float[Array, "b bands frames"]) -> Float[Array, "b t c"]:
    """Rows of the normalised mel spectrograms of sound segments."""
    return self._apply("audio_rows", mel)

  def compare(
    self, video: Float[Array, "b s t c"], audio: Float[Array, "b s u c"]
  ) -> Float[Array, "b o"]:
    """Logits of windows, from the rows of their segments."""
    rows = lambda x: x.reshape(len(x), -1, x.shape[-1])
    return self._apply("compare", rows(video), rows(audio))

  def _apply(self, method: str, *args):
    with exact():
      return self.net.apply({"params": self.params}, *args, method=method)


def _flat(x):
  return x.reshape(-1, *x.shape[2:])
