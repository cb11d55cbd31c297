"""Files that last otherwise than they say, or that have nothing to last."""

import contextlib
import struct
import types

import av
import numpy as np
import pytest

from ccl_jax.data.media import tracks
from ccl_jax.data.media.decode import MediaError, measure, probe
from ccl_jax.data.preparing.rows import Options
from ccl_jax.data.preparing.run import prepare
from ccl_jax.data.sources.folder import FolderSource
from ccl_jax.data.sources.windows import probe_with_sound
from ccl_jax.data.spec import ClipSpec
from ccl_jax.metrics import clip as scored
from ccl_jax.metrics.base import Unscorable
from ccl_jax.metrics.clip import Clip
from tests.data.films import film
from tests.data.sound_files import wav
from tests.data.test_tracks import TICK, container, probed, stream

SPEC = ClipSpec(frames=17, height=32, width=48, fps=25)


@pytest.fixture(scope="module")
def good(tmp_path_factory):
  return film(tmp_path_factory.mktemp("lengths") / "good.mkv", seconds=1.5)


def promising(good, path, seconds):
  """The film, with another duration in its header."""
  raw = bytearray(good.read_bytes())
  at = raw.index(b"\x44\x89\x88") + 3  # Matroska's Duration, in ms
  raw[at : at + 8] = struct.pack(">d", 1000 * seconds)
  path.write_bytes(raw)
  return path


def late(good, path, kind, seconds):
  """The film, the last packet of one track so much later."""
  with av.open(str(good)) as film, av.open(str(path), "w") as out:
    copies = {s: out.add_stream_from_template(s) for s in film.streams}
    packets = [p for p in film.demux(*film.streams) if p.dts is not None]
    last = [p for p in packets if p.stream.type == kind][-1]
    for packet in packets:
      if packet is last:
        shift = round(seconds / packet.time_base)
        packet.pts, packet.dts = packet.pts + shift, packet.dts + shift
      packet.stream = copies[packet.stream]
      out.mux(packet)
  return path


@pytest.mark.parametrize("seconds", [1e4, 1e12])
def test_a_header_that_promises_too_much_makes_no_clips(good, tmp_path, seconds):
  """Of a film of seconds: it would be cut into millions of clips."""
  path = promising(good, tmp_path / "a.mkv", seconds)
  assert probe(path).end is None
  own = probe_with_sound(good)
  assert probe_with_sound(path).end == pytest.approx(own.end, abs=0.3)
  starts = [w.start for w in FolderSource(tmp_path, SPEC).windows]
  assert starts == pytest.approx([own.start, own.start + 0.68])


@pytest.mark.parametrize(
  ("size", "believed"), [(199, False), (200, True), (0, True), (10**6, True)]
)
def test_how_much_a_header_may_promise(monkeypatch, size, believed):
  """A size of 0 is not known. Times count from a track's own first one."""
  for start in (0, 10**8):
    made = container(stream(0, start, 1000), size=size)
    end = probed(monkeypatch, made).end
    assert end == (start / 1000 + 1 if believed else None)


def test_packets_of_a_small_file_that_are_too_late_are_damage(monkeypatch):
  video = stream(0)
  made = container(video, size=100)
  monkeypatch.setattr(tracks, "opened", lambda path: contextlib.nullcontext(made))
  for seconds, good in ((50, True), (51, False)):
    packet = types.SimpleNamespace(
      stream=video, pts=0, duration=1000 * seconds, time_base=TICK
    )
    made.demux = lambda *_, packet=packet: [packet]
    if good:
      assert tracks.measure("x").end == 50
    else:
      with pytest.raises(MediaError, match="x: its time stamps say that 100 bytes"):
        tracks.measure("x")


def test_a_packet_that_is_late_by_days(good, tmp_path, monkeypatch):
  """What both tracks have stays; days are not laid out to be scored."""
  path = late(good, tmp_path / "a.mkv", "video", 2e5)
  assert measure(path).end == pytest.approx(1.75, abs=0.2)
  assert len(FolderSource(tmp_path, SPEC).windows) == 2
  with pytest.raises(Unscorable, match="too long to be scored, 200001 s of pictures"):
    Clip(path).frames(25)
  path = late(good, tmp_path / "a.mkv", "audio", 2e5)
  with pytest.raises(Unscorable, match=r"too long to be scored, 20000\d s of sound"):
    Clip(path).sound(16000)
  monkeypatch.setattr(scored, "MOST_SOUND", 4 * 16000)
  for samples, fits in ((16000, True), (16001, False)):
    wav(tmp_path / "a.wav", np.zeros(samples, np.float32))
    heard = Clip(tmp_path / "a.wav", needs=frozenset(["sound"]))
    if fits:
      assert len(heard.sound(16000)) == samples
    else:
      with pytest.raises(Unscorable, match="too long to be scored, 1 s of sound"):
        heard.sound(16000)


def test_a_file_of_neither_picture_nor_sound_is_skipped(one_by_one, good, tmp_path):
  """Its one track is of subtitles, by the type that Matroska has for them."""
  raw = film(tmp_path / "a.mkv", seconds=0.6, event=0.2, sound=None).read_bytes()
  assert raw.count(b"\x83\x81\x01") == 1
  (tmp_path / "a.mkv").write_bytes(raw.replace(b"\x83\x81\x01", b"\x83\x81\x11"))
  (tmp_path / "b.mkv").write_bytes(good.read_bytes())
  assert not probe(tmp_path / "a.mkv").has_video
  done = prepare(tmp_path, tmp_path / "t.jsonl", Options())
  assert [row["file"] for row in done.rows] == ["b.mkv"]
  assert done.skipped == [("a.mkv", "no picture and no sound")]
