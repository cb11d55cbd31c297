import fractions

import pytest

from ccl_jax.data.spec import ClipSpec
from ccl_jax.errors import UsageError


@pytest.mark.parametrize(
  ("frames", "fps", "tokens", "latent_frames"),
  [
    (33, 25, 41, 9),
    (65, 25, 81, 17),
    (81, 16, 158, 21),
    (121, 24, 157, 31),
    (49, 12.5, 122, 13),
    (201, 6.25, 1005, 51),  # 1004.9999 in floating point
  ],
)
def test_sizes(frames, fps, tokens, latent_frames):
  spec = ClipSpec(frames, 480, 832, fps)
  assert spec.audio_tokens == tokens
  assert spec.samples == tokens * 512
  assert spec.latent_shape == (latent_frames, 60, 104)
  assert spec.seconds == pytest.approx(frames / fps)
  assert spec.seconds - 0.032 < spec.samples / 16000 <= spec.seconds


def test_whole_tokens_are_exact():
  # In floating point some of these lose their last token.
  for frames in range(1, 200, 4):
    assert ClipSpec(frames, 16, 16, 125 / 12).audio_tokens == 3 * frames


def test_ntsc_rate_is_a_fraction():
  assert ClipSpec(33, 64, 64, 30000 / 1001).rate == fractions.Fraction(30000, 1001)


@pytest.mark.parametrize(
  ("change", "hint"),
  [
    ({"frames": 32}, "29 or 33"),
    ({"frames": -7}, "use 1"),
    ({"height": 470}, "464 or 480"),
    ({"width": 8}, "use 16"),
    ({"fps": 0}, "positive"),
    ({"frames": 1, "fps": 60}, "audio token"),
    ({"frames": 1, "fps": 31.26}, "audio token"),
    ({"frames": 34}, "33 or 37"),
    ({"frames": 0}, "use 1"),
    ({"height": 0}, "use 16"),
    ({"height": -16}, "use 16"),
    ({"height": 24}, "16 or 32"),
    ({"width": 40}, "32 or 48"),
    ({"fps": -1}, "positive"),
    ({"sample_rate": 0}, "sample_rate 0"),
    ({"height": 48, "stride": 16}, "multiple of 32, got 48: use 32 or 64"),
    ({"width": 16, "stride": 16}, "multiple of 32, got 16: use 32"),
  ],
)
def test_wrong_sizes_name_the_right_ones(change, hint):
  with pytest.raises(UsageError, match=hint):
    ClipSpec(**({"frames": 33, "height": 64, "width": 64, "fps": 25} | change))


def test_the_smallest_there_are():
  spec = ClipSpec(1, 16, 16, 31.25)  # as long as one token
  assert (spec.audio_tokens, spec.samples, spec.latent_shape) == (1, 512, (1, 2, 2))
  assert ClipSpec(5, 16, 32, 25).latent_shape == (2, 2, 4)
  assert ClipSpec(5, 16, 32, 25).sample_rate == 16000
  wide = ClipSpec(121, 704, 1280, 24, stride=16)  # Wan2.2-TI2V-5B's
  assert (wide.latent_shape, wide.unit, wide.audio_tokens) == ((31, 44, 80), 32, 157)
  assert ClipSpec(33, 16, 16, 25, 48000).audio_tokens == 123
