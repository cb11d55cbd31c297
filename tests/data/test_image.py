"""The door to pictures: formats, and what becomes of grey, clear and turned ones."""

import os
import stat
import struct
import zlib

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


def png(path, depth, kind, row, *chunks):
  """A PNG of 16 rows, 16 pixels each, by the letter of its format."""
  part = lambda name, data: (
    struct.pack(">I", len(data))
    + name
    + data
    + struct.pack(">I", zlib.crc32(name + data))
  )
  header = struct.pack(">IIBBBBB", 16, 16, depth, kind, 0, 0, 0)
  pixels = zlib.compress((b"\0" + row) * 16)
  parts = [(b"IHDR", header), *chunks, (b"IDAT", pixels), (b"IEND", b"")]
  path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(part(*x) for x in parts))
  return path


@pytest.mark.parametrize(
  ("depth", "kind", "row", "clear", "level"),
  [
    (1, 0, b"\0\0", (0,), 0),
    (2, 0, b"\x55" * 4, (1,), 85),
    (4, 0, b"\x33" * 8, (3,), 51),
    (8, 0, b"\x07" * 16, (7,), 7),
    (16, 0, b"\x01\x01" * 16, (257,), 1),
    (16, 2, b"\x01\x01" * 48, (257,) * 3, 1),
  ],
)
def test_a_level_that_is_clear(tmp_path, depth, kind, row, clear, level):
  """Of every depth: it is stored as deep as the picture."""
  chunk = lambda *x: (b"tRNS", struct.pack(f">{len(x)}H", *x))
  path = png(tmp_path / "a.png", depth, kind, row, chunk(*clear))
  assert (shown(path) == 255).all()
  other = (clear[0] ^ 1, *clear[1:])
  assert (shown(png(path, depth, kind, row, chunk(*other))) == level).all()


def test_transparency_of_16_bits(tmp_path):
  """Half of red over white, and what nobody sees."""
  pixels = struct.pack(">8H", 65535, 0, 0, 32896, 0, 65535, 0, 0)
  got = shown(png(tmp_path / "a.png", 16, 6, pixels * 8))
  np.testing.assert_allclose(got[8, :2], [(255, 127, 127), (255, 255, 255)], atol=1)


@pytest.mark.parametrize(("transfer", "name"), [(16, "PQ"), (18, "HLG"), (13, "")])
def test_light_of_hdr_is_named(tmp_path, transfer, name):
  """As a PNG says it; 13 is sRGB."""
  chunk = b"cICP", bytes([9, transfer, 0, 1])
  path = png(tmp_path / "a.png", 8, 0, b"\x64" * 16, (b"iCCX", bytes(9000)), chunk)
  if not name:
    assert (shown(path) == 100).all()
    return
  for read in (shown, image_size):
    with pytest.raises(MediaError, match=f"a.png: its light is {name}"):
      read(path)


def tiff(path, bits, kind, data, form=1):
  """A TIFF of 16 x 16 greys of which `data` is all; form 3 are floats."""
  tags = {256: 16, 257: 16, 258: bits, 259: 1, 262: kind, 273: 8, 277: 1, 278: 16,
          279: len(data), 339: form}  # fmt: skip
  rows = (struct.pack("<HHII", n, 4, 1, value) for n, value in sorted(tags.items()))
  directory = struct.pack("<H", len(tags)) + b"".join(rows) + bytes(4)
  path.write_bytes(b"II*\0" + struct.pack("<I", 8 + len(data)) + data + directory)
  return path


@pytest.mark.parametrize(
  ("bits", "form", "quarter"),
  [(8, 1, b"\x40"), (16, 1, b"\x40\x40"), (32, 3, struct.pack("<f", 64 / 255))],
)
def test_a_tiff_says_whether_0_is_white(tmp_path, bits, form, quarter):
  for kind, level in ((0, 255 - 64), (1, 64)):
    got = shown(tiff(tmp_path / "a.tif", bits, kind, quarter * 256, form))
    assert (got == level).all(), kind


def test_greys_of_12_bits(tmp_path):
  """Two of them in three bytes: 0xfff is white."""
  assert (shown(tiff(tmp_path / "a.tif", 12, 1, b"\xff" * 384)) == 255).all()


@pytest.mark.parametrize("name", ["a.png", "a.tif", "a.jpg", "a.webp"])
@pytest.mark.parametrize("tag", [0, 1, 3, 6, 7, 9])
def test_sizes_are_those_of_what_is_shown(tmp_path, name, tag):
  """A tag that there is not, 0 or 9, turns nothing."""
  exif = Image.Exif()
  exif[274] = tag
  path = saved(tmp_path / name, np.full((16, 32, 3), 40, np.uint8), exif=exif)
  assert image_size(path) == ((32, 16) if tag in (6, 7) else (16, 32))
  with door.opened_image(path) as image:
    assert door.upright_rgb(image).size[::-1] == image_size(path)


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
