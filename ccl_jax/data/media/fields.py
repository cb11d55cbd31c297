"""Whole pictures of interlaced films.

A frame of an interlaced film holds two instants, one in its even and one in its odd
lines: what moves has combs. Where a frame says that it is one, FFmpeg's filter bwdif
makes of it the picture of the first of its two instants; other frames stay as they are.
"""

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import av
from av.filter import Graph

_FILTER = "bwdif", "mode=send_frame:deint=interlaced"


class Fields:
  """Makes pictures of the frames of a track, one of each, from its first interlaced
  frame on a frame late.
  """

  def __init__(self):
    self._graph, self._form = None, None

  def whole(self, frames: Sequence[Any], *, last: bool) -> Iterator[Any]:
    """The pictures of frames that follow those of before.

    Args:
      frames: of PyAV, in the order in which they are shown.
      last: whether none follow these.
    """
    for frame in frames:
      form = frame.width, frame.height, frame.format.name, frame.time_base
      if self._graph is not None and form != self._form:
        yield from self._rest()
      if self._graph is None and frame.interlaced_frame:
        self._graph, self._form = _graph(frame), form
      if self._graph is None:
        yield frame
      else:
        self._graph.push(frame)
        yield from _pulled(self._graph)
    if last:
      yield from self._rest()

  def _rest(self) -> Iterator[Any]:
    graph, self._graph = self._graph, None
    if graph is not None:
      graph.push(None)
      yield from _pulled(graph)


def _graph(frame: Any) -> Graph:
  graph = Graph()
  nodes = (
    graph.add_buffer(
      width=frame.width,
      height=frame.height,
      format=frame.format,
      time_base=frame.time_base,
    ),
    graph.add(*_FILTER),
    graph.add("buffersink"),
  )
  graph.link_nodes(*nodes)
  graph.configure()
  return graph


def _pulled(graph: Graph) -> Iterator[Any]:
  with contextlib.suppress(av.error.BlockingIOError, av.error.EOFError):
    while True:
      yield graph.pull()
