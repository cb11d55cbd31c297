"""Interlaced films: each frame holds two instants, in its even and its odd lines."""

from fractions import Fraction

import av
import numpy as np
import pytest
from av.filter import Graph

from ccl_jax.data.media.decode import picture_size, read_video
from ccl_jax.data.media.tracks import first_time, frames_from, opened, track
from ccl_jax.data.spec import ClipSpec
from ccl_jax.metrics.clip import Clip

H, W, FRAMES = 64, 128, 20


def at(instant):
  """The luma of an instant, of which each frame has two: a bar that moves right."""
  out = np.full((H, W), 40, np.uint8)
  out[:, 2 * instant : 2 * instant + 16] = 200
  return out


def said_to_be(order):
  """A function that marks a frame as one of two fields, of which "tff" or "bff" is
  first.
  """
  graph = Graph()
  nodes = (
    graph.add_buffer(
      width=W, height=H, format=av.VideoFormat("yuv420p"), time_base=Fraction(1, 25)
    ),
    graph.add("setfield", order),
    graph.add("buffersink"),
  )
  graph.link_nodes(*nodes)
  graph.configure()

  def mark(frame):
    frame.time_base = Fraction(1, 25)
    graph.push(frame)
    return graph.pull()

  return mark


def interlaced(path, codec, first, options):
  """A film of two instants a frame."""
  mark = said_to_be(["tff", "bff"][first])
  with av.open(str(path), "w") as out:
    stream = out.add_stream(codec, rate=25, options=options)
    stream.width, stream.height, stream.pix_fmt = W, H, "yuv420p"
    stream.bit_rate = 4_000_000
    for k in range(FRAMES):
      luma = at(2 * k)
      luma[1 - first :: 2] = at(2 * k + 1)[1 - first :: 2]
      frame = av.VideoFrame(W, H, "yuv420p")
      for plane, values in zip(frame.planes, (luma, *[np.full((H, W), 128)] * 2)):
        plane.update(np.resize(values, plane.buffer_size).astype(np.uint8).tobytes())
      frame.pts = k
      out.mux(stream.encode(mark(frame)))
    out.mux(stream.encode(None))
  return path


FIELDS = {"flags": "+ildct+ilme"}
KINDS = {
  "top first": ("a.mp4", "libx264", 0, FIELDS | {"qp": "8"}),
  "bottom first": ("a.mkv", "libx264", 1, FIELDS | {"qp": "8"}),
  "MPEG-2": ("a.mpg", "mpeg2video", 0, FIELDS),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_frame_shows_the_first_of_its_instants(tmp_path, kind):
  name, codec, first, options = KINDS[kind]
  path = interlaced(tmp_path / name, codec, first, options)
  assert picture_size(path) == (H, W)
  for got in (
    read_video(path, ClipSpec(17, H, W, 25)),
    Clip(path, needs=frozenset(["picture"])).frames(),
  ):
    for k in (0, 3, 16):
      right = 255 / 219 * (at(2 * k).astype(float) - 16)
      assert np.abs(got[k].mean(-1) - right).mean() < 3, k


def test_times_are_those_of_the_frames(tmp_path):
  """From every start, and to the last one."""
  name, codec, first, options = KINDS["top first"]
  path = interlaced(tmp_path / name, codec, first, options)
  with opened(path) as container:
    video = track(container, "video")
    begin = first_time(video)
    found = [time - begin for time, _ in frames_from(container, video, begin)]
  np.testing.assert_allclose(found, np.arange(FRAMES) / 25, atol=1e-6)
