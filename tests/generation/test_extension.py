"""Films that go on: what clips begin with, and both as one film."""

import numpy as np
import pytest

from ccl_jax.data.spec import ClipSpec
from ccl_jax.errors import UsageError
from ccl_jax.generation.extension import Extension, read_extension
from ccl_jax.viz.media import write_mp4, write_wav

SPEC = ClipSpec(17, 32, 48, 25.0)
BOTH = ("video", "audio")


def film(path, frames, size=(32, 48), sound=True, fps=25.0):
  """Every frame brighter than the one before; a tone that grows."""
  levels = 10 + 5 * np.arange(frames, dtype=np.uint8)
  video = levels[:, None, None, None] * np.ones((*size, 3), np.uint8)
  n = int(frames / fps * 16000)
  tone = np.sin(np.arange(n) * (2 * np.pi * 440 / 16000)) * np.linspace(0.1, 0.6, n)
  write_mp4(path, video, fps, tone.astype(np.float32) if sound else None)
  return path


def levels(video):
  return video.mean((1, 2, 3)).round().astype(int)


@pytest.mark.parametrize("frames", [20, 21, 23])
def test_what_a_clip_begins_with(tmp_path, frames):
  """The last 9 frames, 0.36 s, and 11 whole tokens of 32 ms from the same instant."""
  path = film(tmp_path / "a.mp4", frames)
  got = read_extension([path], BOTH, SPEC, 8)
  assert got.frames == 9 and got.spec == ClipSpec(25, 32, 48, 25.0)
  (read,) = got.films
  assert len(read["video"]) == frames and len(read["audio"]) == frames * 640
  wanted = 10 + 5 * np.arange(frames)
  assert np.abs(levels(read["video"]) - wanted).max() <= 2
  before = got.before()
  assert np.abs(levels(before["video"][0]) - wanted[-9:]).max() <= 2
  assert before["audio"].shape == (1, 11 * 512) and got.begins == [(frames - 9) * 640]
  begin = (frames - 9) * 640
  np.testing.assert_array_equal(
    before["audio"][0], read["audio"][begin : begin + 11 * 512]
  )


def test_a_short_film_gives_what_it_has(tmp_path):
  got = read_extension([film(tmp_path / "a.mp4", 7)], BOTH, SPEC, 16)
  assert got.frames == 5 and got.spec.frames == 21


def test_the_film_is_followed_by_what_is_new():
  """Frame by frame, and one sound fades into the other over the last whole token."""
  video = np.arange(12, dtype=np.uint8)[:, None, None, None] * np.ones((2, 2, 3), "u1")
  old = {"video": video, "audio": np.full(12 * 640, 0.5, np.float32)}
  spec = ClipSpec(13, 16, 16, 25.0)
  begun = Extension([old], spec, 5)  # 0.2 s: 6 tokens of it
  assert (begun.tokens, begun.begins) == (6, [7 * 640])
  clip = {
    "video": np.full((13, 2, 2, 3), 100, np.uint8),
    "audio": np.full(16 * 512, -0.5, np.float32),
  }
  out = begun.joined(0, clip)
  assert levels(out["video"]).tolist() == [*range(12)] + [100] * 8
  begin = 7 * 640
  assert len(out["audio"]) == begin + 16 * 512
  kept, faded, new = np.split(out["audio"], [begin + 5 * 512, begin + 6 * 512])
  assert (kept == 0.5).all() and (new == -0.5).all()
  np.testing.assert_allclose(faded, np.linspace(0.5, -0.5, 512), atol=1e-6)


def test_a_sound_alone_and_a_picture_alone(tmp_path):
  write_wav(tmp_path / "a.wav", np.linspace(-0.5, 0.5, 16000).astype(np.float32))
  got = read_extension([tmp_path / "a.wav"], ("audio",), SPEC, 8)
  assert set(got.before()) == {"audio"} and len(got.films[0]["audio"]) == 25 * 640
  got = read_extension([film(tmp_path / "a.mp4", 12, sound=False)], ("video",), SPEC, 8)
  assert set(got.before()) == {"video"}


def test_a_film_of_another_rate_is_read_at_the_clips(tmp_path):
  path = film(tmp_path / "a.mp4", 24, fps=50.0)
  read = read_extension([path], BOTH, SPEC, 8).films[0]["video"]
  assert len(read) == 12
  assert np.abs(levels(read) - (10 + 10 * np.arange(12))).max() <= 6


def test_mistakes_are_a_line(tmp_path):
  (tmp_path / "x.mp4").write_text("no film")
  cases = [
    (film(tmp_path / "mute.mp4", 12, sound=False), BOTH, "mute.mp4 has no sound"),
    (film(tmp_path / "big.mp4", 12, (64, 64)), BOTH,
     "64 x 64 pixels .*48 x 32: give --size 64x64"),
    (film(tmp_path / "short.mp4", 4), BOTH, "lasts 4 frames at 25 fps; expected at"),
    (tmp_path / "x.mp4", BOTH, "extend: "),
    (tmp_path / "none.mp4", BOTH, "extend: "),
  ]  # fmt: skip
  write_wav(tmp_path / "a.wav", np.zeros(16000, np.float32))
  cases.append((tmp_path / "a.wav", BOTH, "a.wav has no picture"))
  write_wav(tmp_path / "b.wav", np.zeros(1600, np.float32))
  cases.append((tmp_path / "b.wav", ("audio",), "lasts 2 frames"))
  for path, streams, words in cases:
    with pytest.raises(UsageError, match=words) as e:
      read_extension([path], streams, SPEC, 8)
    assert "\n" not in str(e.value)
