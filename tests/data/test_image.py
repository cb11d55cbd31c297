"""The door to pictures: formats, and what becomes of grey, clear and turned ones."""

import os
import stat

import numpy as np
import pytest
from PIL import Image

from ccl_jax.data.media import image as door
from ccl_jax.data.media.decode import MediaError, image_size, read_image


def saved(path, values, mode=None, **options):
  image = Image.fromarray(values) if mode is None else Image.fromarray(values, mode)
  image.save(path, **options)
  return path


def shown(path):
  """The pixels of a picture of 16 x 16 or more, in its own size."""
  return read_image(path, *image_size(path))


def test_no_other_program_is_started(tmp_path, monkeypatch):
  """An EPS is PostScript whatever it is called, and Ghostscript would run it."""
  gs, ran = tmp_path / "gs", tmp_path / "ran"
  gs.write_text(f"#!/bin/sh\ntouch {ran}\n")
  gs.chmod(gs.stat().st_mode | stat.S_IXUSR)
  monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
  eps = "%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 32 32\n%%EndComments\nshowpage\n"
  for name in ("x.png", "x.eps", "x.jpg"):
    (tmp_path / name).write_text(eps)
    for read in (shown, image_size):
      with pytest.raises(MediaError, match=f"{name}: not a readable image, expected"):
        read(tmp_path / name)
  assert not ran.exists()


@pytest.mark.parametrize("form", ["PPM", "ICNS", "PCX", "TGA", "JPEG2000", "PDF"])
def test_other_formats_are_refused(tmp_path, form):
  Image.new("RGB", (32, 32)).save(tmp_path / "x.png", form)
  with pytest.raises(
    MediaError, match="expected one of PNG, JPEG, WEBP, BMP, TIFF, GIF"
  ):
    shown(tmp_path / "x.png")


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF"])
def test_formats_are_read_under_any_name(tmp_path, form):
  Image.new("RGB", (32, 16), (200, 30, 30)).save(tmp_path / "x.dat", form)
  got = shown(tmp_path / "x.dat")
  assert got.shape == (16, 32, 3)
  np.testing.assert_allclose(got[8, 8], (200, 30, 30), atol=4)


def ramp(most, dtype):
  """A row of 256 steps from 0 to `most`, 16 pixels high."""
  return np.tile(np.linspace(0, most, 256).astype(dtype), (16, 1))


@pytest.mark.parametrize(
  ("name", "values"),
  [
    ("a.png", ramp(65535, np.uint16)),
    ("a.tif", ramp(65535, np.uint16)),
    ("b.tif", ramp(1, np.float32)),
    ("c.tif", ramp(255, np.float32)),
    ("d.tif", ramp(65535, np.float32)),
    ("e.tif", ramp(65535, np.int32)),
    ("f.png", ramp(255, np.uint8)),
  ],
)
def test_greys_of_any_depth_are_scaled(tmp_path, name, values):
  got = shown(saved(tmp_path / name, values))
  assert (got == got[..., :1]).all()
  np.testing.assert_array_equal(got[0, :, 0], np.arange(256))


def test_greys_whose_range_is_not_known_are_named(tmp_path):
  for name, values in (
    ("below.tif", ramp(1, np.float32) - 0.5),
    ("above.tif", ramp(1e6, np.float32)),
    ("large.tif", ramp(70000, np.int32)),
    ("nan.tif", np.full((16, 16), np.nan, np.float32)),
  ):
    with pytest.raises(
      MediaError, match=f"{name}: .*grey values from .* expected 0 to 1"
    ):
      shown(saved(tmp_path / name, values))


def test_what_is_clear_is_white(tmp_path):
  """Half of red over white is (255, 128, 128); hidden colours do not show."""
  rgba = np.zeros((16, 48, 4), np.uint8)
  rgba[:, :16] = 255, 0, 0, 255
  rgba[:, 16:32] = 255, 0, 0, 128
  rgba[:, 32:] = 0, 255, 0, 0
  expected = [(255, 0, 0), (255, 127, 127), (255, 255, 255)]
  for name in ("a.png", "a.webp", "a.tif"):
    options = {"lossless": True, "exact": True} if name.endswith("webp") else {}
    got = shown(saved(tmp_path / name, rgba, **options))[8, (8, 24, 40)]
    np.testing.assert_allclose(got, expected, atol=1)
  grey = Image.fromarray(np.full((16, 16), 7, np.uint8))
  grey.save(tmp_path / "b.png", transparency=7)
  assert (shown(tmp_path / "b.png") == 255).all()
  palette = grey.convert("P")
  palette.save(tmp_path / "c.gif", transparency=palette.getpixel((0, 0)))
  assert (shown(tmp_path / "c.gif") == 255).all()
  deep = Image.fromarray(np.full((16, 16), 700, np.uint16))
  deep.save(tmp_path / "d.png", transparency=700)
  assert (shown(tmp_path / "d.png") == 255).all()
  both = Image.fromarray(rgba[..., [0, 3]], "LA")
  both.save(tmp_path / "e.png")
  np.testing.assert_allclose(shown(tmp_path / "e.png")[8, 40], 255)


@pytest.mark.parametrize("tag", range(1, 9))
def test_pictures_are_turned_by_exif(tmp_path, tag):
  """The first pixel of the first row is where the tag says (EXIF 2.3, table 6)."""
  values = np.full((16, 32, 3), 40, np.uint8)
  values[:4, :4] = 250
  exif = Image.Exif()
  exif[274] = tag
  path = saved(tmp_path / "a.png", values, exif=exif)
  corner = {1: (0, 0), 2: (0, -1), 3: (-1, -1), 4: (-1, 0),
            5: (0, 0), 6: (0, -1), 7: (-1, -1), 8: (-1, 0)}[tag]  # fmt: skip
  got = shown(path)
  assert got.shape[:2] == image_size(path) == ((16, 32) if tag < 5 else (32, 16))
  assert got[corner].tolist() == [250] * 3
  others = {(0, 0), (0, -1), (-1, 0), (-1, -1)} - {corner}
  assert all(got[c].tolist() == [40] * 3 for c in others)


def test_sizes_have_a_limit_and_damage_is_named(tmp_path, monkeypatch):
  path = saved(tmp_path / "a.png", np.zeros((16, 32), np.uint8))
  monkeypatch.setattr(door, "PIXELS", 512)
  assert shown(path).shape == (16, 32, 3)
  monkeypatch.setattr(door, "PIXELS", 511)
  for read in (shown, image_size):
    with pytest.raises(MediaError, match="a.png: 32 x 16 pixels, expected 511 at most"):
      read(path)
  monkeypatch.undo()
  noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
  for name in ("b.png", "b.jpg", "b.webp", "b.tif"):
    whole = saved(tmp_path / name, noise).read_bytes()
    (tmp_path / name).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(MediaError, match=f"{name}: not a readable image"):
      shown(tmp_path / name)
  os.mkfifo(tmp_path / "pipe.png")
  with pytest.raises(MediaError, match="pipe.png: a pipe, a device"):
    shown(tmp_path / "pipe.png")
