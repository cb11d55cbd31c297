"""Where clips begin, by hand: the borders of parts, hops and the frame that is held."""

import math
import pathlib

import pytest

from ccl_jax.data.media import decode as media
from ccl_jax.data.media.decode import MediaError, MediaInfo
from ccl_jax.data.sources import windows
from ccl_jax.data.sources.captions import Caption
from ccl_jax.data.sources.windows import (
  cached_probe,
  check_hop,
  label,
  part_of,
  probe_with_sound,
  window_starts,
)
from ccl_jax.errors import UsageError


def info(start=0.0, end=10.0, video=True, audio=True):
  end = None if end is None else float(end)
  return MediaInfo(video, audio, float(start), end, 25.0, 48, 64)


def row(start=0.0, end=math.inf):
  return Caption(start=float(start), end=float(end))


@pytest.mark.parametrize(
  ("part", "seconds", "hop", "held", "expected"),
  [
    # At the end of the file the last frame may stay up for all of `held` ...
    (row(), 10.04, 1, 0.04, [0.0]),
    (row(), 10.041, 1, 0.04, None),
    (row(2, 10), 8.04, 1, 0.04, [2.0]),
    (row(2, 12), 8.04, 1, 0.04, [2.0]),
    # ... at the end of a part within it for half of that: the next shot comes.
    (row(2, 4), 2.02, 1, 0.04, [2.0]),
    (row(2, 4), 2.021, 1, 0.04, None),
    (row(2, 4), 2.04, 1, 0.04, None),
    (row(2, 9.999), 8.03, 1, 0.04, None),
    # Sounds are not held.
    (row(1, 3), 2.0, 1, 0, [1.0]),
    (row(1, 3), 2.001, 1, 0, None),
    # A window that ends with the part is one; one that ends later is none.
    (row(1, 3), 1.0, 0.5, 0, [1.0, 1.5, 2.0]),
    (row(1, 3), 1.1, 0.5, 0, [1.0, 1.5]),
    (row(1, 3), 0.5, 0.5, 0, [1.0, 1.5, 2.0, 2.5]),
    (row(1, 3), 0.5, 2, 0, [1.0]),
  ],
)
def test_starts(part, seconds, hop, held, expected):
  if expected is None:
    with pytest.raises(MediaError, match=f"of the {seconds:.2f} s of a clip"):
      window_starts(info(), part, seconds, hop, held)
  else:
    assert window_starts(info(), part, seconds, hop, held) == pytest.approx(expected)


def test_nothing_is_held_by_default():
  with pytest.raises(MediaError, match=r"too short, 10.00 s of the 10.01 s"):
    window_starts(info(), row(), 10.01, 1)


def test_a_part_is_within_the_file():
  assert part_of(info(0.5, 9), row()) == info(0.5, 9)
  assert part_of(info(0.5, 9), row(2, 4)) == info(2, 4)
  assert part_of(info(0.5, 9), row(0.2, 40)) == info(0.5, 9)
  assert part_of(info(0.5, 9), row(8.9, 9)).end == 9
  for part in (row(9, 12), row(0, 0.5), row(20, 30)):
    with pytest.raises(MediaError, match="is outside of the file, which lasts from"):
      part_of(info(0.5, 9), part)
  assert window_starts(info(0.5, 9), row(), 4.0, 4.0) == [0.5, 4.5]


def test_sound_of_another_file_narrows_the_film(monkeypatch):
  """It may end a quarter of a second before the picture, as a file's own may."""
  film = info(0.2, 5.0, audio=False)
  files = {
    "film": film,
    "late": info(0.7, 9.0, video=False),
    "short": info(0.0, 3.0, video=False),
    "mute": info(audio=False),
    "sound": info(0.0, 4.0, video=False),
  }
  monkeypatch.setattr(media, "probe", lambda path: files[path.name])
  probe = lambda name, sound=None: probe_with_sound(
    pathlib.Path(name), sound and pathlib.Path(sound)
  )
  assert probe("film") == film
  assert probe("film", "late") == info(0.7, 5.0)
  assert probe("film", "short") == info(0.2, 3.25)
  assert probe("sound", "short") == files["sound"]  # which is all sound already
  with pytest.raises(MediaError, match="no audio track in mute"):
    probe("film", "mute")


def test_headers_that_do_not_tell_are_measured_and_asked_for_once(monkeypatch):
  calls = []
  unknown = lambda path: calls.append(("probe", path)) or info(end=None)
  monkeypatch.setattr(media, "probe", unknown)
  monkeypatch.setattr(
    media, "measure", lambda path: calls.append(("measure", path)) or info()
  )
  probe, path = cached_probe(), pathlib.Path("a")
  assert [probe(path), probe(path)] == [info()] * 2
  assert calls == [("probe", path), ("measure", path)]
  assert windows.cached_probe()(path) == info() and len(calls) == 4  # another pass


def test_labels_name_a_part_by_its_start():
  assert label("a.mp4", row()) == "a.mp4"
  assert label("a.mp4", row(0, 3)) == "a.mp4@0.000"
  assert label("a.mp4", row(1.25)) == "a.mp4@1.250"


def test_a_hop_is_positive():
  check_hop(0.001)
  for hop in (0, -1):
    with pytest.raises(UsageError, match=f"seconds between clips, got {hop}:"):
      check_hop(hop)
