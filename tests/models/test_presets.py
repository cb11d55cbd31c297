"""Sizes by name against published numbers, defaults, first parameters, mistakes."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

from ccl_jax.errors import UsageError
from ccl_jax.models import presets
from ccl_jax.models.cca import CrossConfig
from ccl_jax.models.joint import JointDiT
from ccl_jax.models.presets import (
  build_kernel,
  build_model,
  parameter_shapes,
)
from ccl_jax.models.stream import StreamConfig
from ccl_jax.ops.kernels import Kernel


def counts(**options):
  """Parameters by the first two names of their paths."""
  model = build_model(**options)
  shapes = parameter_shapes(model, (512, 4096))
  total = {}
  for path, x in traverse_util.flatten_dict(shapes).items():
    part = (
      "context"
      if path[-1] == "context"
      else "/".join(path[: 1 + (path[0] == "blocks")])
    )
    total[part] = total.get(part, 0) + x.size
  return total


def test_parameters_of_the_published_model():
  """14.29 B of video, 1.86 B in the blocks of sound, 3.5 B of exchange, 27 M of context
  tokens.
  """
  by_part = counts(preset="14b")
  video = by_part["video"] + by_part["blocks/video"]
  assert video == 14_288_491_584  # Wan2.1-T2V-14B
  # In every block eight matrices of attention and two of the FFN with their biases,
  # four norms of q and k, one with a bias of what goes in, six modulations.
  block = 8 * (1536**2 + 1536) + 2 * 1536 * 8960 + 8960 + 1536 + (4 + 2 + 6) * 1536
  assert by_part["blocks/audio"] == 40 * block and round(40 * block / 1e9, 2) == 1.86
  dense = lambda i, o: i * o + o
  time = dense(256, 1536) + dense(1536, 1536) + dense(1536, 6 * 1536)
  text = dense(4096, 1536) + dense(1536, 1536)
  ends = dense(20, 1536) + dense(1536, 20) + 2 * 1536  # patches, head, its modulations
  assert by_part["audio"] == time + text + ends
  # In every block q and o of the reader, k and v from the other's width to it, their
  # biases, two norms of q and k, and two with a bias of what goes in.
  v, a = 5120, 1536
  square = lambda own, other: 2 * own * own + 2 * other * own + 6 * own
  cross = square(v, a) + square(a, v) + 2 * 2 * (v + a)
  exchange = by_part["blocks/audio_to_video"] + by_part["blocks/video_to_audio"]
  assert exchange == 40 * cross and round(exchange / 1e9, 1) == 3.5
  assert by_part["context"] == 40 * (8 * 1536 + 128 * 5120)  # 27 M


def test_parameters_of_ovi():
  """Its video tower is Wan2.2-TI2V-5B's; by hand, the fusion of every block has two
  matrices with biases, a norm of keys, and one with a bias of what goes in.
  """
  by_part = counts(preset="5b", variant="fusion")
  assert by_part["video"] + by_part["blocks/video"] == TI2V
  d = 3072
  fusion = 30 * (2 * (d * d + d) + d + 2 * d)
  assert by_part["blocks/audio_to_video"] == by_part["blocks/video_to_audio"] == fusion
  # For patches of 192 and a head of as many: seven taps of 20 channels, three of 8192.
  patches = 7 * 20 * d + d + 3 * 7 * d * 8192
  ends = by_part["video"] - (192 * d + d) - (192 * d + 192)
  assert by_part["audio"] == ends + patches + (20 * d + 20)
  assert by_part["blocks/audio"] == by_part["blocks/video"]


def test_parameters_of_the_others():
  total = lambda **options: sum(counts(**options).values())
  assert total(preset="1.3b", streams=["video"]) == 1_418_996_800  # Wan2.1-T2V-1.3B
  assert total(preset="14b", streams=["video"], image_form="channels") == 16_394_878_784
  assert total(preset="5b", streams=["video"]) == 4_999_787_712  # Wan2.2-TI2V-5B
  assert 1.7e7 < total(preset="small") < 2.3e7
  assert 0.9e8 < total(preset="lab") < 1.15e8


TI2V = 4_999_787_712  # Wan2.2-TI2V-5B


def test_the_video_stream_of_wan22():
  """Latents of 48 channels; a condition on an image would double them, with a mask."""
  (stream,) = build_model("5b", streams=["video"]).streams
  assert stream == (
    "video",
    StreamConfig(3072, 14336, 24, in_channels=48, out_channels=48),
  )
  (stream,) = build_model("5b", streams=["video"], image_form="channels").streams
  assert (stream[1].in_channels, stream[1].out_channels) == (100, 48)


# preset: (width, ffn, heads) of the video and the audio stream, depth, context tokens.
SIZES = {
  "tiny": ((128, 384, 4), (128, 384, 4), 4, (16, 8)),
  "small": ((256, 1024, 4), (256, 1024, 4), 6, (16, 8)),
  "lab": ((512, 2048, 4), (384, 1536, 3), 12, (128, 8)),
  "1.3b": ((1536, 8960, 12), (768, 3072, 6), 30, (128, 8)),
  "5b": ((3072, 14336, 24), (3072, 14336, 24), 30, (128, 8)),
  "1.3b_ovi": ((1536, 8960, 12), (3072, 14336, 24), 30, (128, 8)),
  "14b": ((5120, 13824, 40), (1536, 8960, 12), 40, (128, 8)),
}


# What is not as of the others: Wan2.2's latents, and Ovi's audio stream.
_OVI = {"positions": "time", "rate": 0.19676, "taps": 7}
OTHERWISE = {
  "5b": ({"in_channels": 48, "out_channels": 48}, _OVI),
  "1.3b_ovi": ({}, _OVI),
}


def test_sizes_and_defaults():
  assert presets.PRESETS.keys() == SIZES.keys()
  for name, (video, audio, depth, (of_video, of_audio)) in SIZES.items():
    got = build_model(name, attention="dense")
    of_picture, of_sound = OTHERWISE.get(name, ({}, {}))
    usual = {"image_tokens": False, "text_tokens": 512, "frequencies": 256}
    picture = {"in_channels": 16, "out_channels": 16, "patch": (1, 2, 2)} | usual
    sound = {"in_channels": 20, "out_channels": 20, "patch": (1, 1, 1)} | usual
    picture |= {"positions": "grid", "rate": 1.0, "taps": 0} | of_picture
    sound |= {"positions": "line", "rate": 1.0, "taps": 0} | of_sound
    streams = (
      ("video", StreamConfig(*video, **picture)),
      ("audio", StreamConfig(*audio, **sound)),
    )
    cross = CrossConfig(
      variant="context", times="causal", tarp_centre="aligned", window=1,
      video_window=1, rope_unit="token", cross_rope="3d", video_tokens=of_video,
      audio_tokens=of_audio, context_std=0.02, context_values=True,
    )  # fmt: skip
    expected = JointDiT(
      streams, depth, cross, "none", jnp.dtype("bfloat16"), jnp.dtype("float32"),
      Kernel("dense"),
    )  # fmt: skip
    assert got == expected


def test_every_option_arrives_where_it_belongs():
  model = build_model(
    "tiny", variant="gate", times="uniform", tarp_centre="floor", window=5,
    video_window=3, rope_unit="index", cross_rope="temporal", video_tokens=0,
    audio_tokens=2, context_std=0.5, context_values=False,
    image_form="channels", remat="full", dtype="float32", residual="bfloat16",
    attention="chunked", blocks={"block_q": 96},
  )  # fmt: skip
  assert model.cross == CrossConfig(
    variant="gate", times="uniform", tarp_centre="floor", window=5, video_window=3,
    rope_unit="index", cross_rope="temporal", video_tokens=0, audio_tokens=2,
    context_std=0.5, context_values=False,
  )  # fmt: skip
  video, audio = (c for _, c in model.streams)
  assert (video.in_channels, video.out_channels, video.image_tokens) == (36, 16, True)
  assert (audio.in_channels, audio.out_channels, audio.image_tokens) == (20, 20, False)
  assert (model.remat, model.dtype, model.residual) == ("full", "float32", "bfloat16")
  assert model.kernel == dataclasses.replace(Kernel("chunked"), block_q=96)
  turned = build_model("tiny", streams=["audio", "video"])
  assert [s for s, _ in turned.streams] == ["video", "audio"]
  alone = build_model("tiny", streams=["audio"])
  assert [s for s, _ in alone.streams] == ["audio"] and alone.cross is None


@pytest.mark.parametrize(
  ("options", "expected"),
  [
    ({"times": "causal"}, (1, 1, "token")),
    ({"times": "uniform"}, (3, 1, "latent")),
    ({"tarp": False}, (0, 0, "index")),
    ({"tarp": False, "times": "uniform"}, (0, 0, "index")),
    ({"tarp": False, "window": 1}, (1, 0, "index")),  # windows without RoPE's time
    ({"window": 0, "video_window": 0}, (0, 0, "token")),  # and the reverse
    ({"times": "uniform", "rope_unit": "token"}, (3, 1, "token")),
  ],
)
def test_what_the_exchange_sees_where_nobody_says(options, expected):
  cross = build_model("tiny", **options).cross
  assert (cross.window, cross.video_window, cross.rope_unit) == expected


def test_a_checkpoint_that_names_no_times_has_the_papers():
  """It was trained before there was a choice."""
  old = {"preset": "tiny", "tarp": True, "tarp_centre": "floor", "cross_rope": "3d"}
  cross = presets.stored_model(**old).cross
  assert (cross.times, cross.tarp_centre) == ("uniform", "floor")
  assert (cross.window, cross.video_window, cross.rope_unit) == (3, 1, "latent")
  assert presets.stored_model(**old, times="causal").cross.times == "causal"


def test_context_tokens_stand_for_the_stream_that_is_read():
  cross = CrossConfig()
  assert (cross.context_tokens("video"), cross.context_tokens("audio")) == (128, 8)
  assert CrossConfig("gate").context_tokens("video") == 0


@pytest.mark.parametrize(
  ("option", "words"),
  [
    (
      {"preset": "2b"},
      "model.preset: got '2b'; expected one of tiny, small, lab, 1.3b, 5b, 1.3b_ovi, ",
    ),
    ({"variant": "none"}, "variant: got 'none'; expected one of context, gate, fusion"),
    (
      {"variant": "fusion", "window": 1},
      "window: got 1 with variant fusion; expected none",
    ),
    ({"tarp_centre": "mid"}, "tarp_centre: got 'mid'; expected one of aligned, floor"),
    ({"times": "true"}, "times: got 'true'; expected one of causal, uniform"),
    ({"rope_unit": "frame"}, "got 'frame'; expected one of token, latent, index"),
    ({"window": -1}, "window: got -1; expected a whole number from 0 on"),
    ({"video_window": 2}, "video_window: got 2; expected an odd number, or 0 for all"),
    ({"audio_tokens": -1}, "audio_tokens: got -1; expected a whole number from 0 on"),
    ({"context_std": -0.1}, "context_std: got -0.1; expected a number from 0 on"),
    ({"cross_rope": "2d"}, "cross_rope: got '2d'; expected one of 3d, temporal"),
    ({"image_form": "clip"}, "expected one of first_frame, channels"),
    ({"remat": "some"}, "expected one of none, full, save_attention, offload"),
    ({"dtype": "float16"}, "dtype: got 'float16'; expected one of bfloat16, float32"),
    ({"residual": "float16"}, "residual: got 'float16'; expected one of bfloat16"),
    ({"streams": ["text"]}, "streams: got 'text'; expected one of video, audio"),
    ({"attention": "flash"}, "attention: got 'flash'; expected one of dense"),
    ({"blocks": {"name": 1}}, "blocks: got 'name'; expected one of block_kv, "),
  ],
)
def test_what_is_not_among_the_choices_names_them(option, words):
  with pytest.raises(UsageError, match=words):
    build_model(**{"preset": "tiny"} | option)


def test_a_kernel_that_suits_the_accelerator(monkeypatch):
  """The one of cuDNN is for bfloat16 only: else it is not chosen, nor to be had."""
  kernel = lambda dtype: build_kernel("auto", dtype, {}).name
  for platform, half, full in (
    ("cpu", "dense", "dense"),
    ("tpu", "splash", "splash"),
    ("gpu", "cudnn", "chunked"),
    ("cuda", "cudnn", "chunked"),
  ):
    monkeypatch.setattr(jax, "default_backend", lambda platform=platform: platform)
    assert (kernel("bfloat16"), kernel("float32")) == (half, full)
  with pytest.raises(UsageError, match="computes in bfloat16, got dtype float32"):
    build_kernel("cudnn", "float32", {})


def test_first_parameters(model, fresh):
  """What starts at zero, at one, and how large what is drawn is; two blocks and the two
  streams start from other numbers.
  """
  for path, x in traverse_util.flatten_dict(jax.device_get(fresh)).items():
    name, parent = path[-1], path[-2]
    into_other = "_to_" in path[1] if path[0] == "blocks" else False
    if name == "bias" or parent == "head" or (into_other and parent == "o"):
      np.testing.assert_array_equal(x, 0, err_msg=str(path))
    elif name == "scale":
      np.testing.assert_array_equal(x, 1, err_msg=str(path))
    elif name == "kernel" and parent != "time_projection":
      limit = np.sqrt(6 / sum(x.shape[-2:]))  # Xavier's uniform distribution
      assert 0.97 * limit < np.abs(x).max() <= limit, path
    else:
      std = {"kernel": 0.02, "context": 0.02}.get(name)
      std = std or {"video": 48, "audio": 36}[path[path[0] == "blocks"]] ** -0.5
      assert abs(x.std() / std - 1) < 0.2 and abs(x.mean()) < 0.2 * std, path
    if path[0] == "blocks" and x.any() and name != "scale":
      assert np.abs(x[0] - x[1]).max() > 0.1 * np.abs(x).max(), path
  assert len(model.streams) == 2


def test_fusion_needs_heads_of_one_width(monkeypatch):
  """Keys of one stream are turned as that stream's own are."""
  tiny = presets.PRESETS["tiny"]
  audio = dataclasses.replace(tiny.audio, heads=2)
  monkeypatch.setitem(presets.PRESETS, "odd", dataclasses.replace(tiny, audio=audio))
  with pytest.raises(UsageError, match="model.variant: got fusion with preset odd"):
    build_model("odd", variant="fusion")
  build_model("odd", variant="gate")


def test_an_equal_model_is_not_traced_again_for_its_shapes(monkeypatch):
  traced, real = [], presets.init_params

  def counted(model, *args, **kwargs):
    traced.append(model)
    return real(model, *args, **kwargs)

  monkeypatch.setattr(presets, "init_params", counted)
  first, again = (parameter_shapes(build_model("tiny"), (3, 7)) for _ in range(2))
  assert first is again and len(traced) == 1
  other = parameter_shapes(build_model("tiny"), (3, 9))
  assert other["video"]["text_embedding"] != first["video"]["text_embedding"]
