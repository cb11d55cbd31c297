"""A clip's frames by their numbers: source frames of known pixels at known times."""

import fractions
import types

import av
import numpy as np
import pytest
from PIL import Image

from ccl_jax.data.media import decode as media
from ccl_jax.data.media.tracks import MediaError, MediaInfo, first_time
from ccl_jax.data.spec import ClipSpec

SPEC = ClipSpec(5, 16, 16, 25)
P = 1 / 25


def frames(times, size=(16, 16)):
  """(time, frame): frame k is 10 k + 5 everywhere."""
  out = []
  for k, time in enumerate(times):
    grey = np.full((*size, 3), 10 * k + 5, np.uint8)
    frame = av.VideoFrame.from_ndarray(grey, "rgb24")
    frame.time_base = fractions.Fraction(1, 25)
    out.append((time, frame))
  return out


@pytest.fixture
def shown(monkeypatch):
  """The numbers of the source frames that a clip shows."""

  def run(source, start=0.0, spec=SPEC, crop=(), aspect=None, number=True):
    monkeypatch.setattr(media, "frames_from", lambda *_: iter(source))
    stream = types.SimpleNamespace(sample_aspect_ratio=aspect)
    container = types.SimpleNamespace(name="x")
    video = media._picture(container, stream, spec, start, crop)
    if not number:
      return video
    assert (video == video[:, :1, :1, :1]).all()
    return ((video[:, 0, 0, 0].astype(int) - 5) // 10).tolist()

  return run


def at(rate, count, first=0.0):
  return [first + k / rate for k in range(count)]


@pytest.mark.parametrize(
  ("times", "start", "expected"),
  [
    (at(25, 8), 0.0, [0, 1, 2, 3, 4]),
    (at(25, 8), 2 * P, [2, 3, 4, 5, 6]),
    # Within half a period the nearest one.
    (at(25, 8), 2.49 * P, [2, 3, 4, 5, 6]),
    (at(25, 8), 2.51 * P, [3, 4, 5, 6, 7]),
    (at(25, 8), 1.99 * P, [2, 3, 4, 5, 6]),
    (at(50, 16), 0.0, [0, 2, 4, 6, 8]),
    (at(50, 16), 1.2 * P, [2, 4, 6, 8, 10]),
    (at(12.5, 8), 0.0, [0, 0, 1, 1, 2]),
    (at(9, 8), 0.0, [0, 0, 0, 1, 1]),  # the second from 0.111 - 0.02 s on
    # A still stays up until half a period before the next one.
    ([0, P, 3.4 * P, 4.4 * P, 9 * P], 0.0, [0, 1, 1, 2, 3]),
    ([0, P, 3.6 * P, 4.6 * P, 9 * P], 0.0, [0, 1, 1, 1, 2]),
    ([0, 9 * P], 0.0, [0] * 5),
    # The last one is held for a period at most.
    (at(25, 5), 0.0, [0, 1, 2, 3, 4]),
    (at(25, 4), 0.0, [0, 1, 2, 3, 3]),
    (at(25, 3), 0.0, None),
    (at(25, 1), 0.0, None),
    # A picture that begins up to half a period late.
    (at(25, 8, 0.49 * P), 0.0, [0, 1, 2, 3, 4]),
    (at(25, 8, 0.51 * P), 0.0, None),
  ],
)
def test_every_instant_shows_the_frame_it_should(shown, times, start, expected):
  if expected is None:
    with pytest.raises(MediaError, match=r"x: (too short|the picture begins)"):
      shown(frames(times), start)
  else:
    assert shown(frames(times), start) == expected


def test_a_last_frame_with_a_duration_is_up_for_that(shown):
  source = frames(at(25, 2))
  last = source[-1][1]
  for duration, enough in ((3, True), (2, False)):
    last.duration = duration
    if enough:
      assert shown(source) == [0, 1, 1, 1, 1]
    else:
      with pytest.raises(MediaError, match="the picture ends at 0.12 s and the clip"):
        shown(source)


def places(height, width):
  """Pixels that say where they are: red the row, green the column, blue 7."""
  rows, columns = np.mgrid[:height, :width].astype(np.uint8)
  return np.stack([rows, columns, np.full_like(rows, 7)], -1)


@pytest.mark.parametrize(
  ("size", "crop", "top", "left"),
  [
    ((16, 16), (), 0, 0),
    ((16, 40), (), 0, 12),  # the centre
    ((16, 41), (), 0, 12),
    ((36, 16), (), 10, 0),
    ((30, 40), (3, 5, 16, 16), 3, 5),
    ((30, 40), (3, 5, 16, 20), 3, 7),
    ((30, 40), (3, 5, 20, 16), 5, 5),
    ((30, 40), (14, 24, 16, 16), 14, 24),  # the last that is within
  ],
)
def test_pixels_are_from_their_place(shown, size, crop, top, left):
  frame = av.VideoFrame.from_ndarray(places(*size), "rgb24")
  video = shown([(0.0, frame), (9.0, frame)], crop=crop, number=False)
  expected = places(*size)[top : top + 16, left : left + 16]
  np.testing.assert_array_equal(video, np.broadcast_to(expected, video.shape))


@pytest.mark.parametrize("crop", [(15, 24, 16, 16), (14, 25, 16, 16), (0, 0, 31, 16)])
def test_a_crop_beyond_the_frame(shown, crop):
  frame = av.VideoFrame.from_ndarray(places(30, 40), "rgb24")
  with pytest.raises(MediaError, match="x: crop .* is not within its 30 x 40 pixels"):
    shown([(0.0, frame), (9.0, frame)], crop=crop)


def test_a_large_picture_is_averaged_and_wide_pixels_are_made_square(shown):
  """32 x 32 to 16 x 16: means of 2 x 2. Pixels twice as wide: the middle half."""
  big = np.zeros((32, 32, 3), np.uint8)
  big[:, ::2] = 200
  frame = av.VideoFrame.from_ndarray(big, "rgb24")
  video = shown([(0.0, frame), (9.0, frame)], number=False)
  assert np.abs(video.astype(int) - 100).max() <= 1
  halves = np.zeros((16, 16, 3), np.uint8)
  halves[:, :4], halves[:, 12:] = 250, 250
  frame = av.VideoFrame.from_ndarray(halves, "rgb24")
  video = shown([(0.0, frame), (9.0, frame)], aspect=2, number=False)
  assert video[:, :, 3:13].max() < 20
  rows = av.VideoFrame.from_ndarray(halves.swapaxes(0, 1).copy(), "rgb24")
  video = shown([(0.0, rows), (9.0, rows)], aspect=0.5, number=False)
  assert video[:, 3:13].max() < 20


@pytest.mark.parametrize(("tag", "turns"), [(1, 0), (3, 2), (6, 3), (8, 1)])
def test_a_still_is_upright_and_cropped_as_it_is_shown(tmp_path, tag, turns):
  stored = places(32, 48) * 4
  exif = Image.Exif()
  exif[274] = tag
  Image.fromarray(stored).save(tmp_path / "a.png", exif=exif)
  shown = np.rot90(stored, turns)
  assert media.image_size(tmp_path / "a.png") == shown.shape[:2]
  assert media.image_size(tmp_path / "a.png", (1, 2, 16, 20)) == (16, 20)
  got = media.read_image(tmp_path / "a.png", *shown.shape[:2])
  np.testing.assert_array_equal(got, shown)
  got = media.read_image(tmp_path / "a.png", 16, 16, (3, 5, 16, 16))
  np.testing.assert_array_equal(got, shown[3:19, 5:21])
  with pytest.raises(MediaError, match="is not within"):
    media.read_image(tmp_path / "a.png", 16, 16, (0, 0, shown.shape[0] + 1, 16))


def test_the_middle_of_a_stretch():
  middle = lambda begin, length, *sizes: media._middle(float(begin), length, *sizes)
  assert middle(0, 40.0, 16, 40) == 12
  assert middle(10, 20.0, 16, 40) == 12
  assert middle(30, 10.0, 16, 40) == 24  # stays within the picture
  assert middle(0, 10.0, 16, 40) == 0
  assert middle(0, 16.0, 16, 16) == 0


def test_a_clock_is_of_both_tracks():
  stream = types.SimpleNamespace(start_time=45000, time_base=1 / 90000)
  assert first_time(stream) == 0.5
  assert first_time(types.SimpleNamespace(start_time=None, time_base=1.0)) == 0.0
  assert MediaInfo(True, True, 0.5, 2.0, None, None, None).duration == 1.5
  assert MediaInfo(True, True, 0.5, None, None, None, None).duration is None
