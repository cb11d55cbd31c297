"""Plans of a model that takes an image as channels and CLIP tokens (Wan2.1-I2V)."""

import pytest

from ccl_jax.data.spec import ClipSpec
from ccl_jax.models.flops import forward_flops
from ccl_jax.models.presets import build_model
from ccl_jax.planning.compile import geometry_of, lower_train, plan
from ccl_jax.planning.topologies import parse_topology
from ccl_jax.sharding import make_mesh
from configs import joint


def tiny():
  config = joint.get_config("runlocal,image_form=channels").unlock()
  config.model.attention = "chunked"
  return config


def test_a_train_step_takes_what_training_feeds_it():
  """The shapes that `codecs.images.image_condition` makes of a clip of 5 x 4 x 4."""
  mesh = make_mesh((1, 2, 1, 1), parse_topology("cpu:2")[1])
  (_, batch), _ = lower_train(tiny(), mesh, 2).args_info
  assert batch["video"].shape == (2, 5, 4, 4, 16)
  assert batch["condition"].shape == (2, 5, 4, 4, 20)
  assert batch["image"].shape == (2, 257, 1280)


def test_a_sampling_step():
  report = plan(tiny(), "cpu:2", (1, 2, 1, 1), 2, generate=True)
  assert report.fits
  parts = {}
  for form in ("channels", "first_frame"):
    model = build_model(**dict(tiny().model) | {"image_form": form})
    geometry = geometry_of(model, ClipSpec(**tiny().clip))
    parts[form] = forward_flops(model, geometry, 16, 32)
  # Two evaluations a step, of two clips on two chips; keys of texts are made before.
  step = sum(parts["channels"].values()) - parts["channels"]["texts"]
  assert report.model_flops == pytest.approx(2 * step)
  # 5 frames of 2 x 2 tokens attend to 257 more keys, in 4 blocks of width 128.
  more = lambda part: parts["channels"][part] - parts["first_frame"][part]
  assert more("text_attention") == 4 * 4 * 20 * 257 * 128
  assert more("texts") == 4 * 4 * 257 * 128**2
