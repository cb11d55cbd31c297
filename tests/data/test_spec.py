import dataclasses
import fractions

import pytest

from ccl_jax.data.spec import ClipSpec, with_tokens
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


@pytest.mark.parametrize(
  ("frames", "fps", "tokens"),
  [
    (121, 24, 157),  # of Ovi's models, as its reference has them
    (241, 24, 314),
    (61, 24, 79),  # 78.5
    (81, 24, 105),  # 104.67
    (5, 24, 5),  # 5.23
    (1, 24, 1),  # no time passes
    (121, 12, 314),  # as long as 241 at 24
    (121, 24000 / 1001, 157),  # 157.157
  ],
)
def test_lengths_of_sound_that_a_model_has_of_its_own(frames, fps, tokens):
  spec = ClipSpec(frames, 512, 992, fps, stride=16, audio_rate=31.4)
  assert (spec.audio_tokens, spec.samples) == (tokens, 512 * tokens)
  assert spec.seconds == pytest.approx(frames / fps)
  longer = dataclasses.replace(spec, frames=frames + 120)  # 157 more at 24 fps
  if frames > 1 and fps == 24:
    assert longer.audio_tokens == tokens + 157


def test_a_rate_that_gives_so_many_tokens():
  """Whatever the picture lasts, within a second."""
  for frames in (5, 17, 33, 121, 241):
    for fps in (24, 25, 30000 / 1001, 12.5):
      spec = ClipSpec(frames, 64, 64, fps)
      assert with_tokens(spec, spec.audio_tokens) is spec
      for more in (-2, -1, 1, 2, 31):
        wanted = spec.audio_tokens + more
        assert with_tokens(spec, wanted).audio_tokens == wanted
  for wanted in (157 + 32, 157 - 32, 0):
    with pytest.raises(UsageError, match=f"{wanted} audio tokens for 121 .*about 157"):
      with_tokens(ClipSpec(121, 64, 64, 24), wanted)


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
    ({"audio_rate": 0.0}, "audio_rate must be tokens a second, got 0.0"),
    ({"audio_rate": float("nan")}, "got nan"),
    ({"audio_rate": float("inf")}, "got inf"),
    ({"height": 48, "stride": 16}, "multiple of 32, got 48: use 32 or 64"),
    ({"width": 16, "stride": 16}, "multiple of 32, got 16: use 32"),
    ({"fps": 1e-300}, "fps must be from 0.1 to 1000, got 1e-300"),
    ({"fps": 1001}, "fps must be from 0.1 to 1000, got 1001"),
    ({"fps": float("nan")}, "fps must be"),
    ({"fps": float("inf")}, "fps must be"),
    ({"frames": 2**20 + 1}, "frames must be at most 1048576, got 1048577"),
    ({"frames": 2**62 + 1}, "frames must be at most"),
    ({"height": 2**15 + 16}, "height must be at most 32768, got 32784"),
    ({"width": 2**40}, "width must be at most"),
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
