"""Numbers that a run has where nobody says otherwise, written down once more."""

import inspect

import pytest

from ccl_jax.diffusion import flow
from ccl_jax.diffusion.guidance import GUIDANCE, Evaluation
from ccl_jax.generation.sampling import Sampling
from ccl_jax.models.cca import CrossConfig
from ccl_jax.models.layers import EPS, LayerNorm, RMSNorm
from ccl_jax.models.presets import PRESETS, build_model
from ccl_jax.models.stream import StreamConfig
from ccl_jax.ops import rope
from ccl_jax.training.step import Recipe, make_train_step


def fields(config):
  return vars(config)


def keywords(function):
  parameters = inspect.signature(function).parameters.values()
  empty = inspect.Parameter.empty
  return {p.name: p.default for p in parameters if p.default is not empty}


@pytest.mark.parametrize(
  ("form", "video", "audio"),
  [
    ("none", {}, {}),
    ("text", {"s": 4.0}, {"s": 3.0}),
    ("ucg2", {"s": 5.0}, {"s": 5.0}),
    ("ucg3", {"s_m": 3.0, "s_t": 5.0}, {"s_m": 3.0, "s_t": 5.0}),
    ("multimodal", {"s_m": 3.0, "s_t": 5.0}, {"s_m": 3.0, "s_t": 5.0}),
    ("sync", {"s": 3.0}, {"s": 3.0}),
    ("modality", {"s": 3.0}, {"s": 3.0}),
    ("ucg2_null", {"s": 5.0}, {"s": 5.0}),
    ("ucg2_shuffled", {"s": 5.0}, {"s": 5.0}),
    ("ucg3_text", {"s_t": 5.0, "s_m": 3.0}, {"s_t": 5.0, "s_m": 3.0}),
    ("multimodal2", {"s": 5.0}, {"s": 5.0}),
  ],
)
def test_scales_of_guidance(form, video, audio):
  assert GUIDANCE[form].defaults == {"video": video, "audio": audio}
  assert GUIDANCE[form].resolve({}) == {"video": video, "audio": audio}


def test_an_evaluation_is_the_conditional_one():
  assert Evaluation() == Evaluation(text=True, cross=True, null=None, shuffled=False)


def test_sampling():
  assert fields(Sampling()) == {
    "guidance": None, "scales": {}, "steps": None, "shift": None, "solver": None,
    "batched": True, "skip_block": None,  # None: the model's own, or what fits
    "schedule": None, "guidance_interval": None, "guidance_every": None, "cache": None,
    "window": None, "overlap": None,
  }  # fmt: skip


def test_recipe():
  assert fields(Recipe(("joint",), (1.0,))) == {
    "names": ("joint",), "probabilities": (1.0,), "sigma": "uniform", "shift": 5.0,
    "loss_weights": (1.0, 1.0), "text_dropout": 0.1, "image_probability": 0.0,
    "last_image_probability": 0.0,
    "shared_sigma": True, "detach": True,
  }  # fmt: skip
  assert keywords(make_train_step) == {
    "accumulate": 1, "ema_decay": 0.999, "task": None, "clip": None, "adapter": None,
  }  # fmt: skip
  assert keywords(flow.draw_sigma) == {"mean": 0.0, "std": 1.0}


def test_exchange():
  assert fields(CrossConfig()) == {
    "variant": "context", "times": "causal", "tarp_centre": "aligned", "window": 1,
    "video_window": 1, "rope_unit": "token", "cross_rope": "3d", "video_tokens": 128,
    "audio_tokens": 8, "context_std": 0.02, "context_values": True,
  }  # fmt: skip


def test_stream():
  assert fields(StreamConfig(8, 9, 2)) == {
    "width": 8, "ffn": 9, "heads": 2, "in_channels": 16, "out_channels": 16,
    "patch": (1, 2, 2), "positions": "grid", "rate": 1.0, "taps": 0,
    "image_tokens": False, "image_positions": 0, "text_tokens": 512,
    "frequencies": 256,
  }  # fmt: skip
  assert EPS == LayerNorm.eps == RMSNorm.eps == 1e-6
  assert rope.THETA == 10000.0


def test_model():
  defaults = keywords(build_model)
  assert defaults.pop("blocks") is None
  assert defaults == {
    "streams": ("video", "audio"), "patch": None, "variant": "context", "tarp": True,
    "times": "causal", "tarp_centre": "aligned", "window": None, "video_window": None,
    "rope_unit": None, "cross_rope": "3d", "video_tokens": None, "audio_tokens": None,
    "context_std": 0.02, "context_values": True, "image_form": "first_frame",
    "remat": "none", "dtype": "bfloat16", "residual": "float32", "attention": "auto",
  }  # fmt: skip


@pytest.mark.parametrize(
  ("name", "video", "audio", "depth", "tokens"),
  [
    ("tiny", (128, 384, 4), (128, 384, 4), 4, (16, 8)),
    ("lab", (512, 2048, 4), (384, 1536, 3), 12, (128, 8)),
    ("1.3b", (1536, 8960, 12), (768, 3072, 6), 30, (128, 8)),
    ("14b", (5120, 13824, 40), (1536, 8960, 12), 40, (128, 8)),
  ],
)
def test_sizes(name, video, audio, depth, tokens):
  preset = PRESETS[name]
  sizes = lambda c: (c.width, c.ffn, c.heads)
  assert sizes(preset.video) == video and sizes(preset.audio) == audio
  assert preset.depth == depth
  assert (preset.video_tokens, preset.audio_tokens) == tokens
  channels = lambda c: (c.in_channels, c.out_channels, c.patch, c.positions)
  assert channels(preset.video) == (16, 16, (1, 2, 2), "grid")
  assert channels(preset.audio) == (20, 20, (1, 1, 1), "line")
  cross = build_model(name).cross
  assert (cross.video_tokens, cross.audio_tokens) == tokens
  image = dict(build_model(name, image_form="channels").streams)["video"]
  assert image.in_channels == 36 and image.image_tokens and image.out_channels == 16
