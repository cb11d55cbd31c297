"""Named sizes, and a model from plain keywords.

preset  video                            audio              depth  parameters
tiny    128 / ffn 384 / 4 heads          128 / 384 / 4      4      for tests, quickstart
small   256 / 1024 / 4                   256 / 1024 / 4     6      about 20 M
lab     512 / 2048 / 4                   384 / 1536 / 3     12     about 100 M
1.3b    1536 / 8960 / 12  (Wan 1.3B)     768 / 3072 / 6     30
5b      3072 / 14336 / 24 (Wan2.2 5B)    3072 / 14336 / 24  30     about 10 B
1.3b_ovi  that of 1.3b                   that of 5b         30
14b     5120 / 13824 / 40 (Wan 14B)      1536 / 8960 / 12   40     about 20 B

5b has the towers of Ovi: its video latents are Wan2.2's, of 48 channels, its audio
stream has a convolutional patch embedding, and positions in the temporal slot.
"""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from ccl_jax.axes import STREAMS
from ccl_jax.errors import UsageError
from ccl_jax.models.cca import CrossConfig
from ccl_jax.models.joint import REMAT, JointDiT
from ccl_jax.models.stream import CLIP_TOKENS, CLIP_WIDTH, StreamConfig
from ccl_jax.ops.kernels import Kernel, default_kernel
from ccl_jax.ops.tarp import CENTRES, TIMES
from ccl_jax.tasks import Route


@dataclasses.dataclass(frozen=True)
class Preset:
  """Sizes of both streams, their depth, and the number of context tokens.

  Attributes:
    video_tokens, audio_tokens: C_video and C_audio of `CrossConfig`.
  """

  video: StreamConfig
  audio: StreamConfig
  depth: int
  video_tokens: int = 128
  audio_tokens: int = 8


def _audio(width: int, ffn: int, heads: int) -> StreamConfig:
  return StreamConfig(
    width,
    ffn,
    heads,
    in_channels=20,
    out_channels=20,
    patch=(1, 1, 1),
    positions="line",
  )


_OVI_AUDIO = dataclasses.replace(
  _audio(3072, 14336, 24), positions="time", rate=0.19676, taps=7
)
PRESETS = {
  "tiny": Preset(StreamConfig(128, 384, 4), _audio(128, 384, 4), 4, 16, 8),
  "small": Preset(StreamConfig(256, 1024, 4), _audio(256, 1024, 4), 6, 16, 8),
  "lab": Preset(StreamConfig(512, 2048, 4), _audio(384, 1536, 3), 12),
  "1.3b": Preset(StreamConfig(1536, 8960, 12), _audio(768, 3072, 6), 30),
  "5b": Preset(
    StreamConfig(3072, 14336, 24, in_channels=48, out_channels=48),
    _OVI_AUDIO,
    30,
  ),
  "1.3b_ovi": Preset(StreamConfig(1536, 8960, 12), _OVI_AUDIO, 30),
  "14b": Preset(StreamConfig(5120, 13824, 40), _audio(1536, 8960, 12), 40),
}
# Image conditions of the video stream: clean latent frames among the noisy ones; or
# Wan2.1-I2V's 4 mask and 16 latent channels beside them with CLIP tokens, of a first
# frame or, as Wan2.1-FLF2V has them, of a first and a last one.
IMAGE_FORMS = ("first_frame", "channels", "first_last")
VARIANTS = ("context", "gate", "fusion")
FUSION = CrossConfig("fusion", window=0, video_window=0, rope_unit="index")
UNITS = ("token", "latent", "index")  # of RoPE in the exchange
# What the exchange sees where nobody says otherwise: with TARP, by times; without.
_WINDOWS = {
  "causal": {"window": 1, "video_window": 1, "rope_unit": "token"},
  "uniform": {"window": 3, "video_window": 1, "rope_unit": "latent"},
  "none": {"window": 0, "video_window": 0, "rope_unit": "index"},
}


def _one_of(name: str, value, choices) -> None:
  if value not in choices:
    raise UsageError(
      f"model.{name}: got {value!r}; expected one of {', '.join(map(str, choices))}"
    )


def _whole(name: str, value) -> None:
  if value < 0:
    raise UsageError(f"model.{name}: got {value!r}; expected a whole number from 0 on")


def _fusion(given: Mapping[str, Any]) -> CrossConfig:
  """The exchange of variant "fusion", which has no settings.

  Args:
    given: settings of the exchange that were asked for.

  Raises:
    UsageError: there are some.
  """
  for name, value in given.items():
    raise UsageError(
      f"model.{name}: got {value!r} with variant fusion; expected none: fusion sees "
      "all of the other stream, and has no context tokens"
    )
  return FUSION


def build_model(
  preset: str,
  *,
  streams: Sequence[str] = STREAMS,
  patch: int | None = None,
  variant: str = "context",
  tarp: bool = True,
  times: str = "causal",
  tarp_centre: str = "aligned",
  window: int | None = None,
  video_window: int | None = None,
  rope_unit: str | None = None,
  cross_rope: str = "3d",
  video_tokens: int | None = None,
  audio_tokens: int | None = None,
  context_std: float = 0.02,
  context_values: bool = True,
  image_form: str = "first_frame",
  remat: str = "none",
  dtype: str = "bfloat16",
  residual: str = "float32",
  attention: str = "auto",
  blocks: Any = None,  # a mapping, or a section of a config
) -> JointDiT:
  """The model of a preset; no parameters are made.

  Args:
    preset: one of `PRESETS`.
    streams: those it has; with one of two there is no exchange.
    patch: rows and columns of the latent that a video token covers, 1 or 2; None: 2.
    variant, times, tarp_centre, cross_rope, context_std, context_values: see
      `CrossConfig`.
    tarp: the exchange sees windows and its RoPE is in one unit of time; else all, and
      each stream counts its own.
    window, video_window, rope_unit: see `CrossConfig`; None: with causal times 1, 1 and
      "token"; with uniform ones, as in the paper, 3, 1 and "latent"; without TARP 0, 0
      and "index".
    video_tokens, audio_tokens: context tokens; None: the preset's.
    image_form: one of `IMAGE_FORMS`.
    remat, dtype, residual: see `JointDiT`.
    attention: a kernel of `ops.kernels.NAMES`; "auto": by this host's accelerator.
    blocks: its block sizes, by the names of `Kernel`.

  Raises:
    UsageError: a value that is not among the choices.
  """
  _one_of("preset", preset, PRESETS)
  _one_of("variant", variant, VARIANTS)
  _one_of("times", times, TIMES)
  _one_of("tarp_centre", tarp_centre, CENTRES)
  _one_of("cross_rope", cross_rope, ("3d", "temporal"))
  _one_of("image_form", image_form, IMAGE_FORMS)
  _one_of("remat", remat, REMAT)
  for name, value in (("dtype", dtype), ("residual", residual)):
    _one_of(name, value, ("bfloat16", "float32"))
  for s in streams:
    _one_of("streams", s, STREAMS)
  if not 0 < len(set(streams)) == len(streams):
    raise UsageError(
      f"model.streams: got {tuple(streams)}; expected each stream once, at least one"
    )
  size = PRESETS[preset]
  configs = {"video": size.video, "audio": size.audio}
  if patch is not None:
    _one_of("patch", patch, (1, 2))
    configs["video"] = dataclasses.replace(configs["video"], patch=(1, patch, patch))
  if image_form != "first_frame":
    configs["video"] = dataclasses.replace(
      # The noisy latent, 4 mask channels and the condition: 36 of Wan2.1.
      configs["video"],
      in_channels=2 * size.video.out_channels + 4,
      image_tokens=True,
      image_positions=2 * CLIP_TOKENS if image_form == "first_last" else 0,
    )
  cross = None
  if len(streams) == 2:
    given = {
      "window": window, "video_window": video_window, "rope_unit": rope_unit,
      "video_tokens": video_tokens, "audio_tokens": audio_tokens,
    }  # fmt: skip
    usual = _WINDOWS[times if tarp else "none"] | {
      "video_tokens": size.video_tokens, "audio_tokens": size.audio_tokens,
    }  # fmt: skip
    seen = usual | {k: v for k, v in given.items() if v is not None}
    _one_of("rope_unit", seen["rope_unit"], UNITS)
    for name in ("window", "video_window", "video_tokens", "audio_tokens"):
      _whole(name, seen[name])
    if seen["video_window"] and seen["video_window"] % 2 == 0:
      raise UsageError(
        f"model.video_window: got {video_window}; expected an odd number, or 0 for all"
      )
    if not context_std >= 0:
      raise UsageError(
        f"model.context_std: got {context_std}; expected a number from 0 on"
      )
    if variant == "fusion" and len({c.head_width for c in configs.values()}) > 1:
      raise UsageError(
        f"model.variant: got fusion with preset {preset}, whose streams have heads of "
        "other widths; expected streams of one head width"
      )
    cross = CrossConfig(
      variant,
      times,
      tarp_centre,
      cross_rope=cross_rope,
      context_std=context_std,
      context_values=context_values,
      **seen,
    )
    if variant == "fusion":
      cross = _fusion({k: v for k, v in given.items() if v is not None})
  return JointDiT(
    streams=tuple((s, configs[s]) for s in STREAMS if s in streams),
    depth=size.depth,
    cross=cross,
    remat=remat,
    dtype=jnp.dtype(dtype),
    residual=jnp.dtype(residual),
    kernel=build_kernel(attention, dtype, blocks or {}),
  )


# The model of a checkpoint's metadata: what does not name its times had the paper's.
stored_model = functools.partial(build_model, times="uniform")


def with_default_kernel(model: JointDiT) -> JointDiT:
  """The model with the attention kernel of this host's accelerator, in place of the one
  that it was trained with, perhaps on another.
  """
  return model.clone(kernel=build_kernel("auto", jnp.dtype(model.dtype).name, {}))


def build_kernel(name: str, dtype: str, blocks: Any) -> Kernel:
  """The attention kernel of a name, with block sizes.

  Args:
    name: one of `ops.kernels.NAMES`, or "auto": by this host's accelerator.
    dtype: that the model computes in.
    blocks: block sizes, by the names of `Kernel`.

  Raises:
    UsageError: an unknown name or block size, or a dtype the kernel cannot do.
  """
  # A name that is asked for is kept, or refused: only "auto" gives way.
  kernel = default_kernel(jax.default_backend()) if name == "auto" else Kernel(name)
  if kernel.name == "cudnn" and dtype != "bfloat16":
    if name == "auto":
      # In float32 cuDNN has no kernel; the logits must still not be stored.
      return Kernel("chunked")
    raise UsageError(f"model.attention=cudnn computes in bfloat16, got dtype {dtype}")
  known = {f.name for f in dataclasses.fields(kernel)} - {"name"}
  for key in blocks:
    _one_of("blocks", key, sorted(known))
  return dataclasses.replace(kernel, **blocks)


def init_params(
  model: JointDiT, key: jax.Array, text_shape: tuple[int, int], *, batch: int = 1
):
  """Fresh parameters.

  Args:
    text_shape: (l, e) of text embeddings. Only e shapes a parameter; token counts do
      not, so a few tokens stand for any clip.
    batch: of the stand-in, for meshes that ask for a multiple.
  """
  configs = dict(model.streams)
  latents, timesteps, image = {}, {}, {}
  for s, c in configs.items():
    # The least clip with more than one token on each axis.
    shape = (2, 2 * c.patch[1], 2 * c.patch[2]) if s == "video" else (4,)
    latents[s] = jnp.zeros((batch, *shape, c.in_channels))
    timesteps[s] = jnp.zeros((batch, 1))
    if c.image_tokens:
      image[s] = jnp.zeros((batch, c.images * CLIP_TOKENS, CLIP_WIDTH))
  route = Route({s: True for s in configs} if len(configs) == 2 else {})
  variables = model.init(
    key, latents, timesteps, jnp.zeros((batch, *text_shape)), route, image=image
  )
  return variables["params"]


def parameter_shapes(model: JointDiT, text_shape: tuple[int, int], *, batch: int = 1):
  """The shapes of `init_params`, for which a model is traced once in a process."""
  return _parameter_shapes(model, text_shape[1], batch)


@functools.cache
def _parameter_shapes(model: JointDiT, text_dim: int, batch: int):
  """The same; one token stands for any text."""
  init = functools.partial(init_params, model, text_shape=(1, text_dim), batch=batch)
  return jax.eval_shape(init, jax.random.key(0))
