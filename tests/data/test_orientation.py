"""How pictures are turned: by the matrix itself, and by files with it."""

import struct

import av
import numpy as np
import pytest
from av.bitstream import BitStreamFilterContext

from ccl_jax.data.media.decode import picture_size, read_video
from ccl_jax.data.media.orientation import (
  Orientation,
  orientation,
  orientation_of,
)
from ccl_jax.data.spec import ClipSpec
from ccl_jax.metrics.clip import Clip
from tests.data.films import film

H, W = 32, 48
EIGHT = [(1, 0, 0, 1), (0, 1, -1, 0), (-1, 0, 0, -1), (0, -1, 1, 0),
         (-1, 0, 0, 1), (1, 0, 0, -1), (0, 1, 1, 0), (0, -1, -1, 0)]  # fmt: skip
# No turn by a multiple of 90 degrees: the picture stays as it is stored.
OTHERS = [(0, 0, 0, 0), (0.7071, 0.7071, -0.7071, 0.7071), (1, 0, 0, 0), (1, 1, 1, 1),
          (0, 1, 0, 0), (0.5, 0.866, -0.866, 0.5)]  # fmt: skip


def picture():
  """Four quarters of four colours."""
  out = np.zeros((H, W, 3), np.uint8)
  colours = (200, 30, 30), (30, 180, 30), (30, 30, 200), (230, 230, 230)
  for k, colour in enumerate(colours):
    y, x = divmod(k, 2)
    out[y * H // 2 : (y + 1) * H // 2, x * W // 2 : (x + 1) * W // 2] = colour
  return out


def shown(pixels, a, b, c, d):
  """X' = a x + c y, y' = b x + d y, y downwards (ISO/IEC 14496-12)."""
  y, x = np.mgrid[0 : pixels.shape[0], 0 : pixels.shape[1]]
  tx, ty = a * x + c * y, b * x + d * y
  tx, ty = tx - tx.min(), ty - ty.min()
  out = np.zeros((ty.max() + 1, tx.max() + 1, 3), np.uint8)
  out[ty, tx] = pixels
  return out


@pytest.mark.parametrize("matrix", EIGHT)
def test_the_eight_orientations(matrix):
  pixels = np.random.default_rng(0).integers(0, 255, (5, 7, 3), np.uint8)
  for size in (1, 0.25, 3):
    turn = orientation(size * np.array(matrix, float).reshape(2, 2))
    np.testing.assert_array_equal(turn.apply(pixels), shown(pixels, *matrix))
  near = np.array(matrix, float).reshape(2, 2) + 0.005  # of a rounded sine
  assert orientation(near) == orientation(np.reshape(matrix, (2, 2)) * 1.0)


@pytest.mark.parametrize("matrix", OTHERS)
def test_other_matrices_leave_the_picture(matrix):
  assert orientation(np.array(matrix, float).reshape(2, 2)) == Orientation()


def turned(path, matrix):
  """The film with a display matrix written into its header."""
  film(path, seconds=0.4, event=0.2, size=(W, H), pixels=picture(), sound=None)
  raw = bytearray(path.read_bytes())
  at = raw.index(b"tkhd") + 4 + 40
  a, b, c, d = (round(65536 * x) for x in matrix)
  raw[at : at + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
  path.write_bytes(raw)
  return path


def test_what_the_first_frame_says_is_of_all(tmp_path):
  """H.264 may say it in the stream, of its first frame alone."""
  film(tmp_path / "plain.mp4", seconds=0.6, event=0.2, size=(W, H), pixels=picture())
  with (
    av.open(str(tmp_path / "plain.mp4")) as source,
    av.open(str(tmp_path / "a.mp4"), "w") as out,
  ):
    track, sound = source.streams.video[0], source.streams.audio[0]
    copies = {s: out.add_stream_from_template(s) for s in (track, sound)}
    says = "h264_metadata=display_orientation=insert:rotate=90:flip=horizontal"
    turning = BitStreamFilterContext(says, track)
    for packet in source.demux(track, sound):
      stream = copies[packet.stream]
      for made in turning.filter(packet) if packet.stream is track else [packet]:
        if made.dts is not None:
          made.stream = stream
          out.mux(made)
  with av.open(str(tmp_path / "a.mp4")) as made:
    said = [orientation_of(frame) for frame in made.decode(video=0)]
  # Its matrix is that of a quarter turn, mirrored; the other frames have none.
  assert said[0].swapped and set(said[1:]) == {Orientation()}
  right = said[0].apply(picture())
  assert picture_size(tmp_path / "a.mp4") == right.shape[:2] == (W, H)
  clip = read_video(tmp_path / "a.mp4", ClipSpec(5, W, H, 25))
  scored = Clip(tmp_path / "a.mp4", needs=frozenset(["picture"])).frames()
  for got in (*clip, *scored):
    for y in (W // 4, 3 * W // 4):
      for x in (H // 4, 3 * H // 4):
        np.testing.assert_allclose(got[y, x], right[y, x], atol=25)


def test_a_film_that_changes_its_size_is_scored_in_its_first(tmp_path):
  for name, size in (("a.ts", (W, H)), ("b.ts", (2 * W, 2 * H))):
    film(tmp_path / name, seconds=0.4, event=0.2, size=size)
  both = (tmp_path / "a.ts").read_bytes() + (tmp_path / "b.ts").read_bytes()
  (tmp_path / "c.ts").write_bytes(both)
  got = Clip(tmp_path / "c.ts", needs=frozenset(["picture"])).frames()
  assert got.shape[1:] == (H, W, 3) and len(got) > 15


@pytest.mark.parametrize("matrix", [*EIGHT[1:], OTHERS[0], OTHERS[1]])
def test_films_are_shown_as_their_header_says(tmp_path, matrix):
  """Size and pixels alike, in training and in scoring."""
  path = turned(tmp_path / "a.mp4", matrix)
  right = shown(picture(), *matrix) if matrix in EIGHT else picture()
  height, width = right.shape[:2]
  assert picture_size(path) == (height, width)
  for got in (
    read_video(path, ClipSpec(5, height, width, 25))[2],
    Clip(path, needs=frozenset(["picture"])).frames()[2],
  ):
    assert got.shape == right.shape
    for y in (height // 4, 3 * height // 4):
      for x in (width // 4, 3 * width // 4):
        np.testing.assert_allclose(got[y, x], right[y, x], atol=25)
