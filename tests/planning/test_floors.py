"""Arithmetic of a step, counted by hand."""

import pytest

from ccl_jax.data.spec import ClipSpec
from ccl_jax.models.flops import forward_flops
from ccl_jax.models.joint import geometry_of
from ccl_jax.models.presets import build_model
from ccl_jax.planning.chips import CHIPS
from ccl_jax.planning.floors import arithmetic, attention_flops

# 81 frames of 480 x 832: 21 latent frames of 30 x 52 tokens, 158 tokens of sound.
TEXT = 512, 4096
N, A = 21 * 30 * 52, 158
# One product of all queries with all keys, 2 n m d, in 40 blocks: of the clip with
# itself, and with the text; of the sound at its own width.
UNIT = 40 * 2 * N * (N + 512) * 5120
SOUND = 40 * 2 * A * (A + 512) * 1536
# Of these, with the text.
TEXTS = 40 * 2 * N * 512 * 5120, 40 * 2 * A * 512 * 1536


def work(remat="full", attention="splash", chip="v5p", clips=1.0, sampling=False):
  model = build_model("14b", remat=remat, attention=attention)
  geometry = geometry_of(model, ClipSpec(frames=81, height=480, width=832, fps=16.0))
  assert (geometry.t * geometry.h * geometry.w, geometry.a) == (N, A)
  parts = forward_flops(model, geometry, *TEXT)
  # Keys of texts are made before the first step of sampling.
  forward = sum(parts.values()) - sampling * parts["texts"]
  assert attention_flops(model, geometry, 512) == {
    ("video", "self"): 2 * (UNIT - TEXTS[0]),
    ("video", "text"): 2 * TEXTS[0],
    ("audio", "self"): 2 * (SOUND - TEXTS[1]),
    ("audio", "text"): 2 * TEXTS[1],
  }
  found = arithmetic(model, geometry, TEXT, clips, CHIPS[chip], sampling)
  return forward, forward - 2 * (UNIT + SOUND), found


@pytest.mark.parametrize(
  ("remat", "attention", "passes", "units"),
  [
    ("full", "splash", 4, 9),  # 2 forward, 2 again, 5 backward
    ("offload", "splash", 4, 9),
    ("save_attention", "splash", 4, 7),
    ("none", "splash", 3, 7),
    ("full", "dense", 4, 8),
    ("none", "dense", 3, 6),
    ("full", "cudnn", 4, 9),  # one backward kernel: q k^T once more
    ("none", "chunked", 3, 8),  # each chunk's forward pass is made again
  ],
)
def test_products_of_attention_in_a_train_step(remat, attention, passes, units):
  forward, rest, found = work(remat, attention)
  assert found.model == 3 * forward
  products = units * (UNIT + SOUND)
  if remat == "save_attention":  # of itself; the text's is made again
    products += 2 * sum(TEXTS)
  assert found.hardware == pytest.approx(passes * rest + products)
  assert found.seconds == pytest.approx(found.hardware / 459e12)


def test_the_share_of_attention_in_a_14b_step_is_what_a_plan_once_left_out():
  """7,875 TFLOP a clip with that of the video itself, where 4 passes are 7,435."""
  forward, _, found = work()
  assert 4 * forward == pytest.approx(7435e12, rel=1e-3)
  alone = 40 * 2 * N * N * 5120
  assert 4 * forward + alone == pytest.approx(7875e12, rel=1e-3)
  assert found.hardware == pytest.approx(4 * forward + UNIT + SOUND)


def test_heads_of_128_leave_half_of_a_v6es_unit_idle():
  _, rest, found = work(chip="v6e", clips=0.25)
  attention = 9 * (UNIT + SOUND)
  assert found.hardware == pytest.approx((4 * rest + attention) / 4)
  assert found.seconds == pytest.approx((4 * rest + 2 * attention) / 4 / 918e12)


def test_a_sampling_step_is_two_passes():
  forward, rest, found = work(sampling=True, chip="v6e")
  assert found.model == 2 * forward and found.hardware == pytest.approx(2 * forward)
  assert found.seconds == pytest.approx((2 * rest + 8 * (UNIT + SOUND)) / 918e12)
