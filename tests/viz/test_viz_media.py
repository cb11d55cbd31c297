import os
import wave as wave_file

import av
import numpy as np
import pytest
from PIL import Image

from ccl_jax.data.media.decode import probe, read_audio, read_clip, read_image
from ccl_jax.data.spec import ClipSpec
from ccl_jax.errors import UsageError
from ccl_jax.viz.media import (
  write_lossless,
  write_mp4,
  write_png,
  write_samples,
  write_sound,
  write_wav,
)


def _scene(spec, sample_rate):
  """Two colours, a white frame 17 and a click at its time."""
  video = np.zeros((spec.frames, spec.height, spec.width, 3), np.uint8)
  video[:, :, : spec.width // 2] = 220, 30, 30
  video[:, :, spec.width // 2 :] = 40, 60, 200
  video[17] = 250
  audio = np.zeros(round(spec.seconds * sample_rate), np.float32)
  click = round(17 / spec.fps * sample_rate)
  audio[click : click + sample_rate // 1000] = 0.8
  return video, audio


@pytest.mark.parametrize("fps", [16, 24, 25, 30000 / 1001])
@pytest.mark.parametrize("sample_rate", [16000, 44100])
def test_mp4_comes_back_in_time_and_colour(tmp_path, fps, sample_rate):
  spec = ClipSpec(33, 64, 96, fps)
  video, audio = _scene(spec, sample_rate)
  write_mp4(tmp_path / "a.mp4", video, fps, audio, sample_rate)
  info = probe(tmp_path / "a.mp4")
  assert info.start == 0
  assert info.duration == pytest.approx(spec.seconds, abs=0.01)
  back, sound = read_clip(tmp_path / "a.mp4", spec)
  white = back.min((1, 2, 3)) > 200
  assert np.flatnonzero(white).tolist() == [17]
  loud = np.flatnonzero(np.abs(sound) > 0.4)
  assert abs(loud[0] / 16000 - 17 / fps) < 0.002
  error = np.abs(back.astype(int) - video)
  assert np.median(error) <= 3
  assert error[:, 4:-4, 4:40].max() <= 8
  assert error[:, 4:-4, -40:-4].max() <= 8


def test_mp4_detail_survives(tmp_path):
  rng = np.random.default_rng(0)
  coarse = rng.integers(0, 255, (9, 8, 12, 1)).repeat(3, -1)
  video = coarse.repeat(8, 1).repeat(8, 2).astype(np.uint8)
  write_mp4(tmp_path / "a.mp4", video, 25)
  assert not probe(tmp_path / "a.mp4").has_audio
  wave = np.zeros(6000, np.float32)
  write_wav(tmp_path / "a.wav", wave)
  spec = ClipSpec(9, 64, 96, 25)
  back, _ = read_clip(tmp_path / "a.mp4", spec, sound=tmp_path / "a.wav")
  error = back.astype(float) - video
  assert 20 * np.log10(255 / np.sqrt((error**2).mean())) > 33  # dB


def test_odd_sizes_and_folders_are_made(tmp_path):
  video = np.full((5, 33, 47, 3), 90, np.uint8)
  write_mp4(tmp_path / "new" / "a.mp4", video, 8)
  info = probe(tmp_path / "new" / "a.mp4")
  assert (info.height, info.width) == (34, 48)


def test_an_odd_row_and_column_are_repeated(tmp_path):
  """White at the edge stays white in what the format adds."""
  video = np.full((5, 33, 47, 3), 20, np.uint8)
  video[:, 24:], video[:, :, 40:] = 235, 235
  write_mp4(tmp_path / "a.mp4", video, 8)
  with av.open(str(tmp_path / "a.mp4")) as f:
    back = np.stack([x.to_ndarray(format="rgb24") for x in f.decode(video=0)])
  assert back.shape[:3] == (5, 34, 48)
  assert back[:, 33].min() > 200 and back[:, :, 47].min() > 200


def test_sound_lasts_as_long_as_the_picture(tmp_path):
  """To its last sample, which the codec's frame does not end with."""
  wave = 0.5 * np.sin(np.arange(10_000) / 4).astype(np.float32)
  write_mp4(tmp_path / "a.mp4", np.zeros((5, 32, 32, 3), np.uint8), 8, wave)
  back = read_audio(tmp_path / "a.mp4", sample_rate=16000)
  assert len(back) >= 10_000 and np.abs(back[9_800:10_000]).max() > 0.3


def test_a_build_without_x264_is_told(tmp_path, monkeypatch):
  def unknown(name, mode):
    raise av.codec.codec.UnknownCodecError(name)

  monkeypatch.setattr(av.codec, "Codec", unknown)
  with pytest.raises(UsageError, match="no libx264"):
    write_mp4(tmp_path / "a.mp4", np.zeros((5, 32, 32, 3), np.uint8), 8)


def test_a_failed_write_leaves_nothing(tmp_path, monkeypatch):
  write_wav(tmp_path / "a.wav", np.zeros(10, np.float32))
  before = (tmp_path / "a.wav").read_bytes()

  def full(*_):
    raise OSError("disk full")

  monkeypatch.setattr("wave.Wave_write.writeframes", full)
  with pytest.raises(OSError, match="disk full"):
    write_wav(tmp_path / "a.wav", np.ones(10, np.float32))
  assert [p.name for p in tmp_path.iterdir()] == ["a.wav"]
  assert (tmp_path / "a.wav").read_bytes() == before


@pytest.mark.parametrize("folder", ["s3:", "http:", "my films: 1", "%03d"])
def test_no_name_of_a_folder_is_a_protocol(tmp_path, monkeypatch, folder):
  """FFmpeg takes "NAME:" at the beginning of what it is given for one."""
  monkeypatch.chdir(tmp_path)
  picture, sound = np.zeros((5, 32, 32, 3), np.uint8), np.zeros(1600, np.float32)
  write_mp4(f"{folder}/a.mp4", picture, 8, sound)
  write_sound(f"{folder}/b.mp4", sound[None], 16000)
  write_samples(f"{folder}/c.wav", sound, 16000)
  write_lossless(f"{folder}/d.mkv", picture, 8)
  names = sorted(p.name for p in (tmp_path / folder).iterdir())
  assert names == ["a.mp4", "b.mp4", "c.wav", "d.mkv"]
  assert all(probe(f"{folder}/{name}").duration > 0.09 for name in names)


def test_samples_of_a_wav_are_rounded(tmp_path):
  """To the nearest of 32767 steps, and what is beyond 1 is 1."""
  wave = np.array([-1.5, -1, -0.6 / 32767, 0.4 / 32767, 0.6 / 32767, 0.5, 1, 2], "f4")
  write_wav(tmp_path / "a.wav", wave, 8000)
  with wave_file.open(str(tmp_path / "a.wav")) as f:
    assert (f.getframerate(), f.getnchannels(), f.getsampwidth()) == (8000, 1, 2)
    samples = np.frombuffer(f.readframes(99), "<i2")
  assert samples.tolist() == [-32767, -32767, -1, 0, 1, 16384, 32767, 32767]


@pytest.mark.parametrize("kind", ["png", "mp4"])
def test_a_file_is_whole_or_the_old_one(tmp_path, monkeypatch, kind):
  """The name is given by one rename when all has been written."""
  path, renamed = tmp_path / f"a.{kind}", []
  replace = os.replace

  def spied(source, target):
    renamed.append((source.stat().st_size, target))
    replace(source, target)

  monkeypatch.setattr(os, "replace", spied)
  if kind == "png":
    write_png(path, np.zeros((4, 6, 3), np.uint8))
  else:
    write_mp4(path, np.zeros((5, 32, 32, 3), np.uint8), 8)
  assert renamed == [(path.stat().st_size, path)]
  assert list(tmp_path.iterdir()) == [path]


def test_wav_and_png(tmp_path):
  rng = np.random.default_rng(1)
  wave = rng.uniform(-1, 1, 22050).astype(np.float32)
  write_wav(tmp_path / "a.wav", 1.5 * wave, 22050)
  back = read_audio(tmp_path / "a.wav", sample_rate=22050)
  np.testing.assert_allclose(back, np.clip(1.5 * wave, -1, 1), atol=1e-4)
  image = rng.integers(0, 255, (32, 48, 3), dtype=np.uint8)
  write_png(tmp_path / "a.png", image)
  np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "a.png")), image)
  np.testing.assert_array_equal(read_image(tmp_path / "a.png", 32, 48), image)
