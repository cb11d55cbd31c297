"""Colours of frames, by numbers worked out from the standards."""

import av
import numpy as np
import pytest
from av.video.reformatter import VideoReformatter

from ccl_jax.data.media.colour import check_colours, rgb_of, to_screen
from ccl_jax.data.media.decode import MediaError, read_video
from ccl_jax.data.preparing.shots import scan_film
from ccl_jax.data.spec import ClipSpec
from ccl_jax.metrics.clip import Clip

PQ, HLG, SDR = 16, 18, 1


def code16(code):
  """A grey picture of a code from 0 to 1, at 16 bits."""
  return np.full((2, 2, 3), round(65535 * code), np.uint16)


def screen(nits):
  """8-bit code of a grey of so many cd/m2, as colour.py says it."""
  light = nits / 203
  mapped = light if light <= 0.6 else 1 - 0.4 * np.exp(-(light - 0.6) / 0.4)
  return 255 * mapped ** (1 / 2.4)


# BT.2408: diffuse white of 203 cd/m2 is 58 % PQ and 75 % HLG, 18 % grey (26 cd/m2) 38 %
# of both; BT.2100: 100 cd/m2 is 50.81 % PQ, 1000 cd/m2 75.18 % PQ and 100 % HLG.
@pytest.mark.parametrize(
  ("transfer", "code", "nits"),
  [(PQ, 0.5807, 203), (PQ, 0.5081, 100), (PQ, 0.3791, 26), (PQ, 0.7518, 1000),
   (PQ, 1.0, 10000), (HLG, 0.75, 203), (HLG, 0.38, 26), (HLG, 1.0, 1000),
   (PQ, 0.0, 0), (HLG, 0.0, 0)],
)  # fmt: skip
def test_light_comes_to_the_screen(transfer, code, nits):
  got = to_screen(code16(code), transfer)
  assert (got == got[0, 0, 0]).all()  # grey stays grey
  assert got[0, 0, 0] == pytest.approx(screen(nits), abs=1.5)


def test_white_is_white_and_brighter_is_brighter():
  assert 235 <= screen(203) <= 242
  codes = [to_screen(code16(c), PQ)[0, 0, 0] for c in np.linspace(0, 1, 400)]
  assert (np.diff(np.int64(codes)) >= 0).all() and codes[-1] == 255
  many = to_screen(
    np.uint16(np.random.default_rng(0).integers(0, 65536, (9, 9, 3))), HLG
  )
  assert many.dtype == np.uint8


def test_colours_of_bt2020_keep_their_hue():
  """BT.709's red is (0.6274, 0.0691, 0.0164) of BT.2020 (BT.2087)."""
  light = 0.5 * np.array([0.6274, 0.0691, 0.0164])
  pixels = np.uint16(np.round(65535 * light ** (1 / 2.4)))[None, None]
  red = to_screen(pixels, SDR)[0, 0]
  assert red[0] == pytest.approx(255 * 0.5 ** (1 / 2.4), abs=1)
  assert max(red[1:]) <= 12  # of rounded light near zero
  same = to_screen(code16(0.5), SDR)
  assert (same == 128).all()


def luminances(red, green, blue, white):
  """The matrix from linear R, G, B to X, Y, Z, of x and y of primaries and white."""
  whole = np.array([(x / y, 1, (1 - x - y) / y) for x, y in (red, green, blue)]).T
  x, y = white
  return whole * np.linalg.solve(whole, [x / y, 1, (1 - x - y) / y])


D65 = 0.3127, 0.329
BT709 = luminances((0.64, 0.33), (0.3, 0.6), (0.15, 0.06), D65)
P3 = luminances((0.68, 0.32), (0.265, 0.69), (0.15, 0.06), D65)


@pytest.mark.parametrize(
  "light", [(0.4, 0.3, 0.2), (0.1, 0.5, 0.1), (0.2, 0.2, 0.6), (0.5, 0, 0)]
)
def test_colours_of_display_p3(light):
  """What a telephone films: BT.709's light of the same X, Y, Z, cut off at its ends."""
  pixels = np.uint16(np.round(65535 * np.array(light) ** (1 / 2.4)))[None, None]
  right = np.clip(np.linalg.solve(BT709, P3 @ light), 0, 1) ** (1 / 2.4)
  got = to_screen(pixels, SDR, 12)[0, 0]
  np.testing.assert_allclose(got, 255 * right, atol=1.5)
  assert np.abs(got - to_screen(pixels, SDR, 1)[0, 0]).max() > 5


def film_of(path, codec, form, pixels, **tags):
  """A film of one picture, (H, W, 3 or 4) of 8 bits."""
  kind = {3: "rgb24", 4: "rgba"}[pixels.shape[-1]]
  with av.open(str(path), "w") as out:
    stream = out.add_stream(codec, rate=25)
    stream.height, stream.width, stream.pix_fmt = *pixels.shape[:2], form
    for name, value in tags.items():
      setattr(stream.codec_context, name, value)
    for k in range(10):
      frame = av.VideoFrame.from_ndarray(np.uint8(pixels), kind)
      frame.pts = k
      out.mux(stream.encode(frame))
    out.mux(stream.encode(None))
  return path


# Red of 92 cd/m2, half of PQ: with the primaries of BT.709 it is as it is; untold
# it is BT.2020's, of which BT.709 has no red so strong.
@pytest.mark.parametrize(
  ("transfer", "primaries", "red"),
  [
    (PQ, 1, screen(92.2)),
    (PQ, 12, screen(92.2 * 1.22494)),
    (PQ, 2, screen(92.2 * 1.66049)),
    (SDR, 12, 128 * 1.22494 ** (1 / 2.4)),
    (SDR, 2, 128),
  ],
)
def test_films_have_their_own_primaries(tmp_path, transfer, primaries, red):
  pixels = np.zeros((32, 32, 3))
  pixels[..., 0] = 128
  path = film_of(
    tmp_path / "a.mkv",
    "ffv1",
    "bgr0",
    pixels,
    color_trc=transfer,
    color_primaries=primaries,
  )
  got = read_video(path, ClipSpec(frames=5, height=32, width=32, fps=25))
  assert got[..., 0].mean() == pytest.approx(red, abs=2.5)
  assert got[..., 1:].max() <= 8


@pytest.mark.parametrize(
  ("name", "codec", "form"),
  [("a.mov", "qtrle", "argb"), ("a.mkv", "ffv1", "yuva444p"), ("a.avi", "png", "rgba")],
)
def test_transparency_is_on_white(tmp_path, name, codec, form):
  """Red on the left, half of it clear in the middle, and green that nobody sees."""
  pixels = np.zeros((32, 96, 4))
  pixels[:, :32], pixels[:, 32:64] = (200, 0, 0, 255), (200, 0, 0, 128)
  pixels[:, 64:] = 0, 255, 0, 0
  path = film_of(tmp_path / name, codec, form, pixels)
  for got in (
    read_video(path, ClipSpec(frames=5, height=32, width=96, fps=25))[1],
    Clip(path, needs=frozenset(["picture"])).frames()[1],
  ):
    np.testing.assert_allclose(got[8, 8], (200, 0, 0), atol=3)
    np.testing.assert_allclose(got[8, 48], (227, 127, 127), atol=3)
    np.testing.assert_allclose(got[8, 88], (255, 255, 255), atol=1)
  small = read_video(path, ClipSpec(frames=5, height=16, width=32, fps=25))[1]
  assert (small[..., 0] >= small[..., 1]).all()  # no green comes into the edge


def test_transparency_that_is_not_read_is_named(tmp_path):
  path = film_of(tmp_path / "a.webm", "libvpx-vp9", "yuva420p", np.zeros((32, 32, 4)))
  with pytest.raises(MediaError, match="a.webm: transparency of VP8 and VP9"):
    read_video(path, ClipSpec(frames=5, height=32, width=32, fps=25))


def film10(path, luma, transfer=None, primaries=None, matrix=None, size=(64, 64)):
  """A film of 10 bits and one grey, with tags."""
  with av.open(str(path), "w") as out:
    stream = out.add_stream("libx264", rate=25, options={"qp": "1"})
    stream.width, stream.height, stream.pix_fmt = *size, "yuv420p10le"
    context = stream.codec_context
    if transfer:
      context.color_trc, context.color_primaries = transfer, primaries
      context.colorspace, context.color_range = matrix, 1
    for k in range(10):
      frame = av.VideoFrame(*size, "yuv420p10le")
      for plane, value in zip(frame.planes, (luma, 512, 512)):
        plane.update(np.full(plane.buffer_size // 2, value, "<u2").tobytes())
      frame.pts = k
      out.mux(stream.encode(frame))
    out.mux(stream.encode(None))
  return path


@pytest.mark.parametrize(("transfer", "code"), [(PQ, 0.58), (HLG, 0.75)])
def test_films_in_hdr_are_mapped(tmp_path, transfer, code):
  """In training and in scoring alike."""
  luma = round((16 + 219 * code) * 4)
  path = film10(tmp_path / "a.mp4", luma, transfer, 9, 9)
  video = read_video(path, ClipSpec(frames=5, height=32, width=32, fps=25))
  np.testing.assert_allclose(video, screen(203), atol=2)
  scored = Clip(path, needs=frozenset(["picture"])).frames()
  np.testing.assert_allclose(scored, screen(203), atol=2)
  plain = film10(tmp_path / "b.mp4", luma)
  sdr = read_video(plain, ClipSpec(frames=5, height=32, width=32, fps=25))
  np.testing.assert_allclose(sdr, 255 * code, atol=2.5)


def test_colours_that_cannot_be_read_are_named(tmp_path):
  path = film10(tmp_path / "a.mp4", 500, PQ, 9, 14)  # ICtCp
  with pytest.raises(MediaError, match=r"a.mp4: its colours are of matrix 14"):
    read_video(path, ClipSpec(frames=5, height=32, width=32, fps=25))
  with pytest.raises(MediaError, match=r"a.mp4: its colours are of matrix 14"):
    scan_film(path)
  with pytest.raises(MediaError, match="x: its colours"):
    frame = av.VideoFrame(16, 16, "yuv420p")
    frame.colorspace = 10
    check_colours(frame, "x")


@pytest.mark.parametrize("transfer", [8, 9, 10, 17])
def test_light_without_gamma_is_named(tmp_path, transfer):
  """A linear half is 188 of 255 on a screen: as it is stored it would be 127."""
  path = film10(tmp_path / "a.mp4", 500, transfer, 9, 9)
  with pytest.raises(
    MediaError, match=rf"a.mp4: its light is .*transfer {transfer} of"
  ):
    read_video(path, ClipSpec(frames=5, height=32, width=32, fps=25))


# Y, U, V of 100, 110, 150, and what BT.601 and BT.709 make of it.
@pytest.mark.parametrize(
  ("size", "matrix", "expected"),
  [
    ((64, 48), None, (133, 87, 61)),
    ((1278, 718), None, (133, 87, 61)),
    ((1280, 718), None, (137, 90, 60)),
    ((64, 720), None, (137, 90, 60)),
    ((64, 48), 1, (137, 90, 60)),
    ((1280, 720), 6, (133, 87, 61)),
  ],
)
def test_untagged_frames_are_bt709_from_hd_on(size, matrix, expected):
  frame = av.VideoFrame(*size, "yuv420p")
  for plane, value in zip(frame.planes, (100, 110, 150)):
    plane.update(np.full(plane.buffer_size, value, np.uint8).tobytes())
  if matrix:
    frame.colorspace = matrix
  got = rgb_of(frame, *size, VideoReformatter())
  assert got.shape == (size[1], size[0], 3)
  np.testing.assert_allclose(got[size[1] // 2, size[0] // 2], expected, atol=2)
