"""What a user gave is part of the clip as it was: its packets, times and rotation."""

import fractions
import itertools
import logging

import av
import numpy as np
import pytest

from ccl_jax.data.media.decode import read_audio, read_clip, read_video
from ccl_jax.data.media.orientation import orientation_of
from ccl_jax.data.spec import ClipSpec
from ccl_jax.errors import UsageError
from ccl_jax.generation.clip import Clip
from ccl_jax.viz.media import write_samples

SECONDS = 1.0
SPEC = ClipSpec(25, 32, 48, 25.0)
FRAMES = np.repeat(np.arange(0, 250, 10, dtype=np.uint8), 32 * 48 * 3)
FRAMES = FRAMES.reshape(25, 32, 48, 3)
# A tone whose loudness rises and falls: a shift in time is heard.
TIME = np.arange(16000) / 16000
WAVE = (np.sin(2 * np.pi * 440 * TIME) * np.sin(7 * np.pi * TIME) / 2).astype("f4")


def film(
  path, codec="libx264", steps=(40,), count=25, turned=False, size=(66, 98), **o
):
  """A film whose frame k, 3 k bright, is shown after steps of so many ms."""
  base = fractions.Fraction(1, 1000)
  with av.open(str(path), "w") as out:
    stream = out.add_stream(codec, rate=25, options=o)
    stream.height, stream.width, stream.pix_fmt = *size, "yuv420p"
    stream.time_base = stream.codec_context.time_base = base
    at = 0
    for k, step in zip(range(count), itertools.cycle(steps)):
      pixels = np.full((*size, 3), 3 * k, np.uint8)
      frame = av.VideoFrame.from_ndarray(pixels, "rgb24").reformat(format="yuv420p")
      frame.pts, frame.time_base = at, base
      at += step
      out.mux(stream.encode(frame))
    out.mux(stream.encode(None))
  if turned:  # by 90 degrees, in the track's header (ISO/IEC 14496-12, 8.3.2)
    data, one = bytearray(path.read_bytes()), 1 << 16
    first = data.index(b"tkhd") + 44
    matrix = (0, one, 0, 2**32 - one, 0, 0, size[0] * one, 0, 1 << 30)
    data[first : first + 36] = b"".join(x.to_bytes(4, "big") for x in matrix)
    path.write_bytes(data)
  return path


def sound(path, codec, wave=WAVE, rate=16000, layout="mono"):
  with av.open(str(path), "w") as out:
    stream = out.add_stream(codec, rate=rate, layout=layout)
    wanted = stream.codec_context.codec.audio_formats[0].name
    frame = av.AudioFrame.from_ndarray(np.atleast_2d(wave), "fltp", layout)
    frame.sample_rate, frame.pts = 16000, 0
    resampler = av.AudioResampler(wanted, layout, rate)
    for part in [*resampler.resample(frame), *resampler.resample(None)]:
      out.mux(stream.encode(part))
    out.mux(stream.encode(None))
  return path


def packets(path, kind):
  """(bytes, seconds at which it is shown) of a track."""
  with av.open(str(path)) as container:
    (stream,) = container.streams.get(**{kind: 0})
    return [
      (bytes(p), round(float(p.pts * p.time_base), 4))
      for p in container.demux(stream)
      if p.dts is not None
    ]


def saved(path, kind, file):
  task = {"audio": "a2v", "video": "v2a"}[kind]
  clip = Clip(FRAMES, (WAVE, 16000), {"task": task}, 25.0, {kind: file})
  return clip.save(path)


@pytest.mark.parametrize(
  ("codec", "end"),
  [("aac", "m4a"), ("aac", "ts"), ("libmp3lame", "mp3"), ("flac", "flac"),
   ("libopus", "ogg"), ("ac3", "mp4"), ("alac", "m4a")],
)  # fmt: skip
def test_a_sound_is_copied(tmp_path, codec, end):
  """Bit by bit, beside the picture that was made, at the same time as before."""
  rate = 48000 if codec in ("libopus", "ac3") else 16000
  noise = np.random.default_rng(0).standard_normal(16000) / 10
  noise = np.convolve(noise, np.ones(8) / 4, "same").astype("f4")
  given = sound(tmp_path / f"given.{end}", codec, noise, rate=rate)
  path = saved(tmp_path / "clip.mp4", "audio", given)
  before, after = packets(given, "audio"), packets(path, "audio")
  if end == "ts":  # a header of 7 bytes before each packet is the container's
    before = [(data[7:], at) for data, at in before]
  assert [p[0] for p in after] == [p[0] for p in before][: len(after)]
  assert len(before) - len(after) <= 1 and len(after) > 3
  heard, expected = read_audio(path, 15000), read_audio(given, 15000)
  np.testing.assert_allclose(heard, expected, atol=2e-3)
  if end != "ts":  # which says nothing of its encoder's delay
    shifts = range(-50, 51)
    alike = [np.dot(heard[50 + k : 14000 + k], noise[50:14000]) for k in shifts]
    assert shifts[np.argmax(alike)] == 0
  video, _ = read_clip(path, SPEC, start=0.0)
  np.testing.assert_allclose(video.mean((1, 2, 3)), FRAMES.mean((1, 2, 3)), atol=4)


def test_a_picture_is_copied(tmp_path):
  """Of odd times and turned on its side, with frames that are shown out of order."""
  given = film(tmp_path / "given.mp4", steps=(30, 70, 20), turned=True, bf="2")
  path = saved(tmp_path / "clip.mp4", "video", given)
  before = packets(given, "video")
  assert packets(path, "video") == before
  assert len({round(b - a, 4) for a, b in itertools.pairwise(
    sorted(at for _, at in before))}) == 3  # fmt: skip
  with av.open(str(given)) as a, av.open(str(path)) as b:
    sides = [orientation_of(next(x.decode(video=0))) for x in (a, b)]
    assert sides[0] == sides[1] and sides[0].swapped
    assert (b.streams.video[0].height, b.streams.video[0].width) == (66, 98)
  np.testing.assert_array_equal(read_video(path, SPEC), read_video(given, SPEC))
  heard = read_audio(path, 15000)
  assert np.corrcoef(heard, WAVE[:15000])[0, 1] > 0.99


def test_a_long_film_ends_with_the_clip(tmp_path):
  """And no frame before that is lost, though the last ones need frame 25, which comes
  before them.
  """
  given = film(tmp_path / "given.mp4", count=75, bf="4")
  path = saved(tmp_path / "clip.mp4", "video", given)
  before, after = packets(given, "video"), packets(path, "video")
  assert after == before[: len(after)]
  shown = sorted(at for _, at in after)
  assert 25 <= len(after) <= 29 and {round(k / 25, 4) for k in range(25)} <= {*shown}
  np.testing.assert_array_equal(read_video(path, SPEC), read_video(given, SPEC))


def test_a_film_that_begins_late_begins_at_0(tmp_path):
  given = film(tmp_path / "given.mp4", bf="0")
  late = tmp_path / "late.mkv"
  with av.open(str(given)) as source, av.open(str(late), "w") as out:
    stream = out.add_stream_from_template(source.streams.video[0])
    for packet in source.demux(video=0):
      if packet.dts is not None:
        packet.pts += round(3 / packet.time_base)
        packet.dts += round(3 / packet.time_base)
        packet.stream = stream
        out.mux(packet)
  path = saved(tmp_path / "clip.mp4", "video", late)
  assert [p[1] for p in packets(path, "video")][:3] == [0, 0.04, 0.08]
  video, heard = read_clip(path, SPEC, start=0.0)
  np.testing.assert_allclose(video.mean((1, 2, 3)), np.arange(0, 75, 3), atol=4)
  assert np.corrcoef(heard[:15000], WAVE[:15000])[0, 1] > 0.99


def test_what_an_mp4_does_not_hold_is_encoded_anew(tmp_path, caplog):
  """With a line that says so: channels, rates and times stay."""
  caplog.set_level(logging.WARNING)
  both = np.stack([WAVE, WAVE[::-1]])
  given = sound(tmp_path / "given.wav", "pcm_s16le", both, 44100, "stereo")
  path = saved(tmp_path / "clip.mp4", "audio", given)
  assert "given.wav: an mp4 holds no pcm_s16le: the sound is encoded anew, as AAC" in (
    caplog.text
  )
  with av.open(str(path)) as container:
    stream = container.streams.audio[0]
    assert (stream.rate, stream.channels, stream.codec.name) == (44100, 2, "aac")
    waves = [f.to_ndarray() for f in container.decode(stream)]
  wave = np.concatenate(waves, 1)[:, :41000]
  times = np.arange(41000) / 44100
  for own, expected in zip(wave, both):
    assert np.corrcoef(own, np.interp(times, TIME, expected))[0, 1] > 0.99
  caplog.clear()
  # 5.1, and an order of channels that is not known.
  pitches = (300, 400, 500, 60, 700, 800)  # in Hz
  tones = [np.sin(2 * np.pi * pitch * TIME) / 2 for pitch in pitches]
  for layout, count, expected in (("5.1", 6, "5.1"), ("4.0", 4, "mono")):
    given = tmp_path / f"{layout}.wav"
    sound(given, "pcm_s16le", np.stack(tones[:count]).astype("f4"), 16000, layout)
    path = saved(tmp_path / f"{layout}.mp4", "audio", given)
    with av.open(str(path)) as container:
      stream = container.streams.audio[0]
      assert stream.layout.name == expected
      waves = [f.to_ndarray() for f in container.decode(stream)]
    heard = np.abs(np.fft.rfft(np.concatenate(waves, 1)[:, :16000])).argmax(1)
    assert count == 4 or heard.tolist() == list(pitches)
    assert ("its 4 channels become one" in caplog.text) == (count == 4)
  caplog.clear()
  odd = film(tmp_path / "odd.mkv", "ffv1", steps=(30, 70, 20), size=(65, 97))
  path = saved(tmp_path / "other.mp4", "video", odd)
  assert "odd.mkv: an mp4 holds no ffv1: the picture is encoded anew, as H.264" in (
    caplog.text
  )
  times = [[at for _, at in packets(p, "video")] for p in (odd, path)]
  np.testing.assert_allclose(*map(sorted, times), atol=1e-3)
  np.testing.assert_allclose(
    read_video(path, SPEC).mean((1, 2, 3)),
    read_video(odd, SPEC).mean((1, 2, 3)),
    atol=3,
  )


def test_a_file_that_is_gone(tmp_path):
  write_samples(tmp_path / "x.wav", WAVE, 16000)
  clip = Clip(FRAMES, (WAVE, 16000), {"task": "a2v"}, 25.0, {"audio": tmp_path / "x"})
  with pytest.raises(UsageError, match="audio: .*No such file"):
    clip.save(tmp_path / "clip.mp4")
  assert not list(tmp_path.glob("*clip.mp4*"))
