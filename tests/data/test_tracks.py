"""What headers say, by headers made up: where both tracks are, and what is cut."""

import fractions
import types

import pytest

from ccl_jax.data.media import tracks
from ccl_jax.data.media.tracks import MediaError, frames_from, main_track

TICK = fractions.Fraction(1, 1000)


def stream(index, start=0, duration=None, rate=16000, cover=False, last=None, **more):
  """Times in ms; `last` is (place, size) of the last packet in the file."""
  entry = lambda pos, size: types.SimpleNamespace(pos=pos, size=size)
  return types.SimpleNamespace(
    index=index,
    type="video",
    start_time=start,
    duration=duration,
    time_base=TICK,
    rate=rate,
    sample_aspect_ratio=None,
    metadata={},
    codec_context=types.SimpleNamespace(channels=2, codec_tag="avc1"),
    disposition=tracks.av.stream.Disposition.attached_pic if cover else 0,
    index_entries=[entry(0, 9), entry(*last)] if last else [],
    **{"average_rate": 25, "guessed_rate": 30, "height": 48, "width": 64} | more,
  )


def container(video=None, audio=None, duration=None, start=None, size=0):
  kinds = {"video": video, "audio": audio}
  return types.SimpleNamespace(
    name="x",
    format=types.SimpleNamespace(name="matroska,webm"),
    streams=types.SimpleNamespace(best=kinds.get),
    duration=duration and duration * 1000,
    start_time=start and start * 1000,
    size=size,
    demux=lambda *_: iter(()),
  )


def probed(monkeypatch, made):
  import contextlib

  monkeypatch.setattr(tracks, "opened", lambda path: contextlib.nullcontext(made))
  return tracks.probe("x")


@pytest.mark.parametrize(
  ("video", "audio", "start", "end"),
  [
    ((0, 2000), (0, 2000), 0.0, 2.0),
    ((0, 2000), (300, 2000), 0.3, 2.0),
    ((200, 2000), (0, 2000), 0.2, 2.2),  # sound may lack its last quarter
    ((0, 2000), (0, 1700), 0.0, 1.95),
    ((0, 2000), (0, 1750), 0.0, 2.0),
    ((0, 2000), None, 0.0, 2.0),
    (None, (500, 2000), 0.5, 2.5),  # of sound alone nothing may lack
  ],
)
def test_both_are_there_from_start_to_end(monkeypatch, video, audio, start, end):
  made = container(video and stream(0, *video), audio and stream(1, *audio))
  info = probed(monkeypatch, made)
  assert (info.start, info.end) == pytest.approx((start, end))
  assert (info.has_video, info.has_audio) == (video is not None, audio is not None)
  assert info.duration == pytest.approx(end - start)
  sizes = (info.height, info.width, info.fps)
  assert sizes == ((48, 64, 25) if video else (None, None, None))


def test_headers_without_durations(monkeypatch):
  both = lambda **more: container(stream(0, 100), stream(1, 100), **more)
  assert probed(monkeypatch, both(duration=1500, start=100)).end == pytest.approx(1.6)
  assert probed(monkeypatch, both(duration=1500)).end == pytest.approx(1.5)
  assert probed(monkeypatch, both()).end is None
  nothing = probed(monkeypatch, container())
  assert (nothing.has_video, nothing.has_audio, nothing.end) == (False, False, None)
  guessed = container(stream(0, 0, 1000, average_rate=None))
  assert probed(monkeypatch, guessed).fps == 30


@pytest.mark.parametrize(("size", "good"), [(1000, True), (999, False), (0, True)])
def test_a_file_that_ends_before_its_last_packet(monkeypatch, size, good):
  made = container(stream(0, 0, 1000, last=(900, 100)), size=size)
  if good:  # a size of nothing is not known
    assert probed(monkeypatch, made).end == 1.0
  else:
    with pytest.raises(MediaError, match="x: truncated, 999 bytes of at least 1000"):
      probed(monkeypatch, made)


def test_a_cover_is_no_picture_and_rates_have_limits():
  assert main_track(container(stream(0, cover=True)), "video") is None
  assert main_track(container(), "audio") is None
  with pytest.raises(MediaError, match="x: no video track"):
    tracks.track(container(), "video")
  for rate, good in ((2000, True), (768_000, True), (1999, False), (768_001, False)):
    made = container(None, stream(1, rate=rate))
    if good:
      assert main_track(made, "audio").rate == rate
    else:
      with pytest.raises(
        MediaError, match=f"rate of {rate} Hz, expected 2000 to 768000"
      ):
        main_track(made, "audio")
  assert main_track(container(stream(0, rate=3)), "video").rate == 3


def test_packets_tell_the_end(monkeypatch):
  """The latest end of any packet, whatever the order; those without a time are none."""
  import contextlib

  video, audio = stream(0, 100), stream(1, 100)

  def packet(of, pts, duration):
    return types.SimpleNamespace(stream=of, pts=pts, duration=duration, time_base=TICK)

  made = container(video, audio)
  packets = [
    packet(video, 100, 40), packet(audio, 100, 32), packet(video, 900, 40),
    packet(video, 500, None), packet(audio, 700, 32), packet(audio, None, None),
  ]  # fmt: skip
  made.demux = lambda *asked: [p for p in packets if p.stream in asked]
  monkeypatch.setattr(tracks, "opened", lambda path: contextlib.nullcontext(made))
  info = tracks.measure("x")
  assert (info.start, info.end) == pytest.approx((0.1, 0.94))
  made.streams.best = {"audio": audio}.get
  assert tracks.measure("x").end == pytest.approx(0.732)


@pytest.mark.parametrize(
  ("start", "sought"), [(2.0, None), (2.25, 1_750_000), (9.0, 8_500_000)]
)
def test_a_late_start_is_sought(monkeypatch, start, sought):
  """From half a second before, where it is more than two seconds from the beginning."""
  calls, times = [], [k / 4 for k in range(60)]
  made = container()
  made.seek = calls.append
  reading = lambda *_: (
    (t, None) for t in times if not calls or t >= calls[0] / 1e6 - 1
  )
  monkeypatch.setattr(tracks, "_timed_frames", reading)
  got = [t for t, _ in frames_from(made, stream(0), start)]
  assert calls == ([] if sought is None else [sought])
  assert got[0] <= start and got[-1] == times[-1]
  first = 0 if sought is None else sought / 1e6 - 1
  assert got == [t for t in times if t >= first]
  assert tracks.SHORT_TAIL == 0.25
