import fractions
import struct

import av
import numpy as np
import pytest
from PIL import Image

from ccl_jax.data.media import decode as media
from ccl_jax.data.media import tracks
from ccl_jax.data.media.decode import (
  MediaError,
  probe,
  read_audio,
  read_clip,
  read_image,
)
from ccl_jax.data.spec import ClipSpec
from ccl_jax.viz.media import write_mp4
from tests.data.films import film, flash, onset, trimmed, truncated

SPEC = ClipSpec(33, 64, 64, 25)
WEBM = {"codecs": ("libvpx-vp9", "libopus")}
FRAGMENTS = {"movflags": "frag_keyframe+delay_moov+default_base_moof"}
JITTER = np.random.default_rng(0).uniform(-0.008, 0.008, 60)

TIMINGS = {
  "plain.mp4": {},
  "ntsc.mp4": {"fps": fractions.Fraction(30000, 1001)},
  "film.mp4": {"fps": 24},
  "slow.mp4": {"fps": 15},
  "fast.mp4": {"fps": 60},
  "variable.mp4": {
    "times": [0.0, *(k / 30 + JITTER[k] for k in range(1, 60) if k % 7)]
  },
  "short_sound.mp4": {"sound_to": 1.94, "rate": 44100},
  "late_sound.mp4": {"sound_from": 0.5},
  "late_picture.mp4": {"times": [0.3 + k / 25 for k in range(50)]},
  "first_pts.mp4": {"times": [0.003 + k / 25 for k in range(50)]},
  "surround.mp4": {"sound": "5.1"},
  "stereo.mov": {"sound": "stereo", "rate": 44100},
  "telephone.mp4": {"rate": 8000},
  "plain.mkv": {},
  "live.mkv": {"options": {"live": "1"}},
  "plain.webm": WEBM,
  "live.webm": WEBM | {"options": {"live": "1"}},
  "fragments.mp4": {"options": FRAGMENTS},
  "transport.ts": {"sound": "stereo"},
}


@pytest.mark.parametrize("name", TIMINGS)
@pytest.mark.parametrize("start", [None, 0.61])
def test_flash_and_click_keep_their_time(tmp_path, name, start):
  kind = TIMINGS[name]
  info = media.measure(film(tmp_path / name, **kind))
  video, audio = read_clip(tmp_path / name, SPEC, start)
  start = info.start if start is None else start
  shown = [start + k / 25 for k in flash(video)]
  # A transport stream begins at its own time, later than the 0 of the film.
  origin = info.start if name.endswith(".ts") else 0.0
  fps = kind.get("fps", 25)
  times = kind.get("times", [k / fps for k in range(60)])
  flashed = float(max(t for t in times if t <= 1.0 + 1e-6)) + origin
  if fps <= 25:  # at most one source frame for an instant: the flash is not missed
    assert len(shown) in ((1, 2) if name == "slow.mp4" else (1,))
  assert all(flashed - 0.0201 <= t <= flashed + 0.5 / fps + 0.0201 for t in shown)
  assert abs(start + onset(audio) - (1.0 + origin)) < 0.002
  assert audio.shape == (SPEC.samples,)
  assert audio.max() > 0.2


def test_same_rate_takes_every_frame_once(tmp_path):
  steps = [np.full((48, 64, 3), 4 * k, np.uint8) for k in range(34)]
  wave = np.zeros(22000, np.float32)
  write_mp4(tmp_path / "ramp.mp4", np.stack(steps), 25, wave)
  for start in (None, 0.04, 0.0399):
    video, _ = read_clip(tmp_path / "ramp.mp4", SPEC, start)
    first = 0 if start is None else 1
    levels = video.mean((1, 2, 3))
    np.testing.assert_allclose(levels, 4 * np.arange(first, first + 33), atol=2)


def test_edit_list(tmp_path):
  film(tmp_path / "whole.mp4", seconds=3.0, event=1.72)
  trimmed(tmp_path / "whole.mp4", tmp_path / "cut.mp4", 0.72)
  video, audio = read_clip(tmp_path / "cut.mp4", SPEC)
  assert flash(video) == [25]
  assert abs(onset(audio) - 1.0) < 0.002


def test_gap_in_the_sound_is_silence(tmp_path):
  film(tmp_path / "gap.mkv", codecs=("libx264", "pcm_s16le"), gap=(0.4, 0.8))
  _, audio = read_clip(tmp_path / "gap.mkv", SPEC)
  assert abs(onset(audio) - 1.0) < 0.002


@pytest.mark.parametrize("name", ["long.mp4", "long.mkv", "long.webm"])
def test_late_start_seeks_and_gives_the_same(tmp_path, monkeypatch, name):
  kind = WEBM if name.endswith("webm") else {}
  film(tmp_path / name, seconds=12.0, event=9.88, **kind)
  seeks = []
  timed = tracks._timed_frames
  monkeypatch.setattr(
    tracks,
    "_timed_frames",
    lambda *args: (seeks.append(time) or (time, frame) for time, frame in timed(*args)),
  )
  video, audio = read_clip(tmp_path / name, SPEC, 9.4)
  assert min(seeks) > 7
  assert flash(video) == [12]
  assert abs(9.4 + onset(audio) - 9.88) < 0.002
  monkeypatch.setattr(tracks, "_PREROLL", 1e9)
  video_from_0, audio_from_0 = read_clip(tmp_path / name, SPEC, 9.4)
  assert min(seeks) < 0.1
  np.testing.assert_array_equal(video, video_from_0)
  # Placed to the nearest sample: half a sample of a 1 ms click at most.
  assert np.abs(audio - audio_from_0).max() < 0.3 * audio.max()


@pytest.mark.parametrize(("frames", "enough"), [(33, True), (32, True), (31, False)])
def test_last_frame_is_held_once(tmp_path, frames, enough):
  film(tmp_path / "f.mp4", times=[k / 25 for k in range(frames)], seconds=1.4)
  if enough:
    assert read_clip(tmp_path / "f.mp4", SPEC)[0].shape == (33, 64, 64, 3)
  else:
    with pytest.raises(MediaError, match=r"f.mp4: too short, the picture ends at 1.2"):
      read_clip(tmp_path / "f.mp4", SPEC)


def test_long_silence_at_the_end_is_an_error(tmp_path):
  film(tmp_path / "f.mp4", sound_to=1.0, event=0.5)
  with pytest.raises(MediaError, match=r"f.mp4: too short, the sound ends at 1\.0"):
    read_clip(tmp_path / "f.mp4", SPEC)
  info = probe(tmp_path / "f.mp4")
  assert info.end == pytest.approx(1.0 + media.SHORT_TAIL, abs=0.03)


def test_start_before_the_picture_is_an_error(tmp_path):
  film(tmp_path / "f.mp4", times=[0.3 + k / 25 for k in range(50)])
  with pytest.raises(MediaError, match=r"begins at 0\.30 s"):
    read_clip(tmp_path / "f.mp4", SPEC, 0.0)


def test_headers(tmp_path):
  film(tmp_path / "f.mp4", fps=24, size=(80, 48))
  info = probe(tmp_path / "f.mp4")
  assert (info.has_video, info.has_audio, info.width, info.height) == (
    True,
    True,
    80,
    48,
  )
  assert info.fps == pytest.approx(24)
  assert info.duration == pytest.approx(2.0, abs=0.05)
  film(tmp_path / "live.webm", **TIMINGS["live.webm"])
  assert probe(tmp_path / "live.webm").end is None
  assert media.measure(tmp_path / "live.webm").end == pytest.approx(2.0, abs=0.05)


def _files(tmp_path):
  whole = film(tmp_path / "whole.mp4")
  fast = film(tmp_path / "fast.mp4", options={"movflags": "faststart"})
  (tmp_path / "empty.mp4").touch()
  (tmp_path / "text.mp4").write_text("this is no film\n" * 40)
  film(tmp_path / "mute.mp4", sound=None)
  truncated(whole, tmp_path / "cut.mp4")
  truncated(fast, tmp_path / "fast_cut.mp4")


def test_unusable_files_are_named_with_a_reason(tmp_path):
  _files(tmp_path)
  for name in ("empty.mp4", "text.mp4", "cut.mp4", "absent.mp4"):
    for read in (probe, lambda path: read_clip(path, SPEC)):
      with pytest.raises(MediaError, match=f"{name}: \\w+"):
        read(tmp_path / name)
  with pytest.raises(MediaError, match=r"fast_cut.mp4: truncated, \d+ bytes of"):
    probe(tmp_path / "fast_cut.mp4")
  with pytest.raises(MediaError, match=r"fast_cut.mp4: "):
    read_clip(tmp_path / "fast_cut.mp4", SPEC, 0.68)
  with pytest.raises(MediaError, match=r"mute.mp4: no audio track"):
    read_clip(tmp_path / "mute.mp4", SPEC)
  assert not probe(tmp_path / "mute.mp4").has_audio
  with pytest.raises(MediaError, match=r"text.mp4: not a readable image"):
    read_image(tmp_path / "text.mp4", 32, 32)


def test_sound_from_a_file_of_its_own(tmp_path):
  film(tmp_path / "mute.mp4", sound=None)
  film(tmp_path / "other.mp4", event=0.9)
  video, audio = read_clip(tmp_path / "mute.mp4", SPEC, sound=tmp_path / "other.mp4")
  assert flash(video) == [25]
  assert abs(onset(audio) - 0.9) < 0.002


def test_cover_and_crop(tmp_path):
  pixels = np.zeros((64, 160, 3), np.uint8)
  pixels[:, :40] = 255, 0, 0
  pixels[:, 48:112] = 0, 128, 0
  film(tmp_path / "wide.mp4", size=(160, 64), pixels=pixels)
  picture = read_clip(tmp_path / "wide.mp4", SPEC)[0][0].astype(int)
  # Untagged colours are BT.601, as players take them.
  assert np.abs(picture[4:-4, 4:-4] - (0, 128, 0)).max() < 12
  small = read_clip(tmp_path / "wide.mp4", ClipSpec(33, 32, 80, 25))[0][0].astype(int)
  assert np.abs(small[4:-4, 2:17] - (255, 0, 0)).max() < 12


def test_pixel_aspect_and_rotation(tmp_path):
  pixels = np.zeros((64, 32, 3), np.uint8)
  pixels[:12] = 255
  film(
    tmp_path / "tall.mp4", size=(32, 64), pixels=pixels, aspect=fractions.Fraction(2)
  )
  picture = read_clip(tmp_path / "tall.mp4", SPEC)[0][0]
  assert picture[:10].min() > 200
  assert picture[14:].max() < 50
  film(tmp_path / "plain.mp4", size=(64, 64), pixels=np.tile(pixels, (1, 2, 1)))
  data = bytearray((tmp_path / "plain.mp4").read_bytes())
  upright = struct.pack(">4i", 1 << 16, 0, 0, 0)
  at = data.index(upright, data.index(b"tkhd"))
  turned = (0, 1 << 16, 0, -(1 << 16), 0, 0, 0, 0, 1 << 30)  # a quarter, clockwise
  data[at : at + 36] = struct.pack(">9i", *turned)
  (tmp_path / "turned.mp4").write_bytes(data)
  picture = read_clip(tmp_path / "turned.mp4", SPEC)[0][0]
  assert picture[:, -10:].min() > 200
  assert picture[:, :-14].max() < 50


def test_image(tmp_path):
  picture = Image.new("RGBA", (100, 50), (200, 30, 30, 255))
  picture.paste((30, 30, 200, 255), (75, 0, 100, 50))
  exif = Image.Exif()
  exif[0x0112] = 6  # to be turned a quarter clockwise: right becomes bottom
  picture.convert("RGB").save(tmp_path / "a.jpg", exif=exif, quality=95)
  out = read_image(tmp_path / "a.jpg", 64, 32)
  assert out.shape == (64, 32, 3)
  assert out[:44].mean((0, 1))[0] > 180
  assert out[-12:].mean((0, 1))[2] > 180
  picture.save(tmp_path / "a.png")
  assert read_image(tmp_path / "a.png", 32, 32).mean((0, 1))[0] > 180


@pytest.mark.parametrize("name", ["a.wav", "a.flac", "a.mp3", "a.mp4", "a.ogg"])
def test_sound_of_any_container(tmp_path, name):
  codec = dict(wav="pcm_s16le", flac="flac", mp3="libmp3lame", mp4="aac", ogg="libopus")
  codec = codec[name.split(".")[1]]
  rate = 48000 if codec == "libopus" else 44100
  time = np.arange(2 * rate) / rate
  wave = (0.5 * np.sin(2 * np.pi * 440 * time)).astype(np.float32)
  with av.open(str(tmp_path / name), "w") as out:
    stream = out.add_stream(codec, rate=rate, layout="stereo")
    frame = av.AudioFrame.from_ndarray(np.stack([wave, wave]), "fltp", "stereo")
    frame.sample_rate, frame.pts = rate, 0
    (frame,) = av.AudioResampler(stream.codec_context.format, "stereo").resample(frame)
    out.mux(stream.encode(frame))
    out.mux(stream.encode(None))
  audio = read_audio(tmp_path / name)
  assert len(audio) == pytest.approx(32000, abs=1200)  # mp3 and aac pad their ends
  same = np.sin(2 * np.pi * 440 * np.arange(32000) / 16000) / 2
  assert np.abs(audio[4000:28000] - same[4000:28000]).max() < 0.05
  late = read_audio(tmp_path / name, 8000, start=1.0)
  # Placed to half a sample (mp3 seeks to 1.5); the sine moves 0.086 in one.
  assert np.abs(late - audio[16000:24000]).max() < (
    0.13 if codec == "libmp3lame" else 0.05
  )
  with pytest.raises(MediaError, match=f"{name}: too short, the sound ends at 2"):
    read_audio(tmp_path / name, 48000)


def test_shared_clips_decode(shared):
  for path in sorted((shared / "clips").glob("*.mp4")):
    info = probe(path)
    assert info.has_video
    assert info.has_audio
    video, audio = read_clip(path, SPEC, info.start + 1.0)
    assert video.shape == (33, 64, 64, 3)
    assert audio.shape == (SPEC.samples,)
    assert video.std() > 10
    assert np.sqrt(np.mean(audio**2)) > 2e-4, path
    assert np.abs(np.diff(video.astype(int), axis=0)).mean() > 0.05, path
  speech = read_audio(shared / "clips" / "jfk.flac")
  assert len(speech) == 11 * 16000
  assert speech.std() > 0.02


def test_a_poor_index_costs_time_but_not_the_clip(tmp_path, monkeypatch):
  path = film(tmp_path / "long.mp4", seconds=6.0, event=4.48)
  expected = read_clip(path, SPEC, 4.0)
  timed, calls = tracks._timed_frames, []

  def overshot(container, stream):
    calls.append(stream.type)
    late = calls.count(stream.type) == 1  # the seek's own reading
    return ((t, frame) for t, frame in timed(container, stream) if not late or t > 4.2)

  monkeypatch.setattr(tracks, "_timed_frames", overshot)
  video, audio = read_clip(path, SPEC, 4.0)
  assert calls == ["video", "video", "audio", "audio"]
  np.testing.assert_array_equal(video, expected[0])
  assert abs(onset(audio) - onset(expected[1])) < 1e-3
