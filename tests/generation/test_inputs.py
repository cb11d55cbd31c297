"""What of given pictures, films and sounds is used, and what is said of the rest."""

import logging
import tracemalloc

import numpy as np
import pytest
import torch
from PIL import Image

from ccl_jax.data.spec import ClipSpec
from ccl_jax.errors import UsageError
from ccl_jax.generation.inputs import kept_share, read_inputs
from ccl_jax.viz.media import write_mp4, write_wav

SPEC = ClipSpec(frames=17, height=32, width=48, fps=25)  # 0.68 s


def picture(path, width, height):
  Image.new("RGB", (width, height), (90, 90, 90)).save(path)
  return path


def test_what_is_left_of_a_picture():
  assert kept_share((480, 832), (480, 832)) == 1
  # 720 x 1280 upright in 480 x 832: 415.4 of its 1280 rows
  assert kept_share((1280, 720), (480, 832)) == pytest.approx(0.3245, abs=1e-3)
  assert kept_share((480, 832), (832, 480)) == pytest.approx((480 / 832) ** 2)


def test_a_cut_picture_is_said(tmp_path, caplog):
  with caplog.at_level(logging.WARNING):
    read_inputs({"image": [picture(tmp_path / "a.png", 96, 64)]}, SPEC)
    assert not caplog.records
    read_inputs({"image": [picture(tmp_path / "b.png", 72, 128)]}, SPEC)
  (record,) = caplog.records
  assert "b.png has 128 x 72 pixels" in record.getMessage()
  assert "38 % of the picture is kept" in record.getMessage()


def test_what_comes_after_the_clip_is_said(tmp_path, caplog):
  def film(name, seconds, height=32):
    frames = np.full((round(25 * seconds), height, 48, 3), 90, np.uint8)
    write_mp4(tmp_path / name, frames, 25)
    return tmp_path / name

  def sound(name, seconds):
    write_wav(tmp_path / name, np.full(round(16000 * seconds), 0.1, np.float32))
    return tmp_path / name

  with caplog.at_level(logging.WARNING):
    read_inputs({"video": [film("a.mp4", 0.68)]}, SPEC)
    out = read_inputs({"audio": [sound("a.wav", 0.7)]}, SPEC)
    assert out["audio"].shape == (1, SPEC.samples) and not caplog.records
    read_inputs({"video": [film("b.mp4", 2.0)]}, SPEC)
    out = read_inputs({"audio": [sound("b.wav", 3.0)] * 2}, SPEC)
    assert out["audio"].shape == (2, SPEC.samples)
    read_inputs({"video": [film("c.mp4", 0.68, 64)]}, SPEC)
  first, second, third = (record.getMessage() for record in caplog.records)
  assert "b.mp4 lasts 2.00 s, the clip 0.68 s: only its beginning" in first
  assert "b.wav lasts 3.00 s, the clip 0.68 s" in second
  assert "c.mp4 has 64 x 48 pixels" in third and "50 % of the picture" in third
  with pytest.raises(UsageError, match=r"audio: .*s.wav lasts 0.50 s; expected"):
    read_inputs({"audio": [sound("s.wav", 0.5)]}, SPEC)


def test_sound_as_long_as_the_picture_is_enough(tmp_path):
  """314 tokens last 10.048 s, 241 frames 10.042 s: the rest is silence."""
  spec = ClipSpec(241, 32, 32, 24, stride=16, audio_rate=31.4)
  picture = 160_666  # samples: 241 / 24 s
  write_wav(tmp_path / "a.wav", np.full(picture, 0.1, np.float32))
  (got,) = read_inputs({"audio": [tmp_path / "a.wav"]}, spec)["audio"]
  assert got.shape == (314 * 512,)
  np.testing.assert_allclose(got[:picture], 0.1, atol=1e-4)
  assert not got[picture:].any()
  write_wav(tmp_path / "b.wav", np.full(picture - 1, 0.1, np.float32))
  with pytest.raises(UsageError, match="lasts 10.04 s; expected at least 10.04 s for"):
    read_inputs({"audio": [tmp_path / "b.wav"]}, spec)


def test_a_long_sound_costs_what_a_short_one_does(tmp_path):
  write_wav(tmp_path / "a.wav", np.zeros(20 * 60 * 16000, np.float32))
  tracemalloc.start()
  try:
    read_inputs({"audio": [tmp_path / "a.wav"]}, SPEC)
    assert tracemalloc.get_traced_memory()[1] < 5e6  # all of it: 77 MB
  finally:
    tracemalloc.stop()


@pytest.mark.parametrize("size", [(37, 53), (64, 48), (20, 90)])
def test_a_squeezed_still_is_torchs_bicubic(tmp_path, size):
  """All of it, in another aspect ratio: the reference of Ovi and of Wan2.1's I2V."""
  rng = np.random.default_rng(0)
  pixels = rng.integers(0, 256, (*size, 3), np.uint8)
  Image.fromarray(pixels).save(tmp_path / "a.png")
  got = read_inputs({"image": [tmp_path / "a.png"]}, SPEC, "squeeze")["image"]
  x = torch.from_numpy(pixels.transpose(2, 0, 1)[None].astype(np.float32))
  wanted = torch.nn.functional.interpolate(x, size=(32, 48), mode="bicubic")
  wanted = wanted[0].numpy().transpose(1, 2, 0).clip(0, 255)
  assert got.shape == (1, 32, 48, 3)
  # The nearest byte: half a level, and float32's rounding.
  assert np.abs(got[0] - wanted).max() < 0.501
  cut = read_inputs({"image": [tmp_path / "a.png"]}, SPEC)["image"]
  assert np.abs(cut[0] - wanted).max() > 30


def test_a_much_squeezed_picture_is_said(tmp_path, caplog):
  with caplog.at_level(logging.WARNING):
    path = picture(tmp_path / "a.png", 98, 64)
    read_inputs({"image": [path]}, SPEC, "squeeze")
    assert not caplog.records
    read_inputs({"image": [picture(tmp_path / "b.png", 96, 128)]}, SPEC, "squeeze")
  (record,) = caplog.records
  assert "b.png has 128 x 96 pixels" in record.getMessage()
  assert "all of it is squeezed" in record.getMessage()
  assert "to 50 % of what its aspect ratio asks for" in record.getMessage()
