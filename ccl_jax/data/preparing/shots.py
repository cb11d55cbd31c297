"""Finds the cuts and the black bars of a film, in one pass over its frames.

Cuts are those of PySceneDetect's AdaptiveDetector, on frames of 64 x 64 pixels: the
mean change of hue, saturation and brightness from the frame before is at least 15 of
255, and at least 4.5 times its mean over the two frames before and the two after. A
flash of one or two frames changes the picture twice, as much each time, which is at
most 4 times that mean: it is no cut. A slow fade has none.

A row or column of pixels is black where all but 2 % of it is at most 24 of 255 in every
frame looked at, two a second. Bars are the black ones at two opposite edges, as wide as
each other to 2 % of the side and flat to 6 of 255: a dark sky is none.
"""

import dataclasses
import importlib

import numpy as np
from av.video.reformatter import VideoReformatter
from jaxtyping import Float, UInt8

from ccl_jax.data.media.colour import check_colours
from ccl_jax.data.media.tracks import (
  MediaError,
  Path,
  first_time,
  frames_from,
  opened,
  track,
)
from ccl_jax.errors import UsageError

_SIDE, _RATIO, _CHANGE = 64, 4.5, 15.0
_SHORTEST = 0.5  # seconds of a shot; a nearer cut belongs to the one before
_TICK = 1e-6  # seconds
_BLACK, _EVERY, _SPECKS = 24, 0.5, 0.98
_FLAT = 6  # of 255, over a bar's pixels and time
_THIN = 0.02  # of a side: narrower bars are left


@dataclasses.dataclass(frozen=True)
class FilmScan:
  """The cuts of a film, and its brightness by row and column of pixels.

  Attributes:
    cuts: times in seconds.
    times: of the k frames that brightness is of, two a second.
    rows, columns: brightness that all but 2 % of a row or column is below; none of a
      film whose frames change their size.
  """

  cuts: tuple[float, ...]
  times: Float[np.ndarray, "k"]
  rows: UInt8[np.ndarray, "k h"]
  columns: UInt8[np.ndarray, "k w"]

  def shots(self, start: float, end: float) -> list[tuple[float, float]]:
    """(start, end) in seconds of the shots within a part of the film."""
    cuts = [t for t in self.cuts if start + 1e-3 < t < end - 1e-3]
    return list(zip([start, *cuts], [*cuts, end]))

  def crop(self, start: float, end: float) -> tuple[int, ...]:
    """The box (top, left, height, width) within the bars of a part of the film.

    () for no bars, or for a picture too dark to tell.
    """
    if not len(self.times):
      return ()
    inside = (self.times >= start) & (self.times < end)
    if not inside.any():
      inside = self.times == self.times[np.abs(self.times - start).argmin()]
    (top, bottom), (left, right) = (
      _edges(x[inside]) for x in (self.rows, self.columns)
    )
    height, width = self.rows.shape[1], self.columns.shape[1]
    whole = (top, bottom, left, right) == (0, height, 0, width)
    dark = 2 * (bottom - top) < height or 2 * (right - left) < width
    return () if whole or dark else (top, left, bottom - top, right - left)


def require_detector() -> None:
  """Checks that PySceneDetect is installed, before hours of decoding.

  Raises:
    UsageError: it is not, or OpenCV, which it needs, is not.
  """
  try:
    importlib.import_module("scenedetect")
  except ImportError as e:
    raise UsageError(
      "cuts are found by PySceneDetect, which is not installed with OpenCV: pip "
      "install 'ccl_jax[prepare]', or give --no-shots"
    ) from e


def scan_film(path: Path, *, cuts: bool = True) -> FilmScan:
  """Decodes all of a film's picture, and finds its cuts and brightness.

  Args:
    path: of the film.
    cuts: whether cuts are looked for.

  Raises:
    MediaError: it cannot be read.
  """
  small, big = VideoReformatter(), VideoReformatter()
  edges, found, last, detector = [], [], None, None
  with opened(path) as container:
    video = track(container, "video")
    video.thread_type = "AUTO"
    for time, frame in frames_from(container, video, first_time(video)):
      check_colours(frame, container.name)
      if cuts:
        # A time stamp that goes back, in a damaged file, has no place in the order.
        if detector is None:
          detector = _Detector(time)
        if last is None or time > last:
          thumb = small.reformat(frame, _SIDE, _SIDE, "bgr24", interpolation="AREA")
          found += detector.cuts(time, thumb.to_ndarray())
      last = time if last is None else max(last, time)
      if not edges or time >= edges[-1][0] + _EVERY:
        grey = big.reformat(frame, format="gray").to_ndarray()
        edges.append((time, _bright(grey, 1), _bright(grey, 0)))
  if last is None:
    raise MediaError(f"{path}: no frame can be decoded")
  if len({x.shape + y.shape for _, x, y in edges}) > 1:
    nothing = np.zeros((0, 0), np.uint8)
    return FilmScan(tuple(found), np.zeros(0), nothing, nothing)
  return FilmScan(tuple(found), *map(np.stack, zip(*edges)))


class _Detector:
  """PySceneDetect's detector, of frames with times in seconds from `first` on."""

  def __init__(self, first: float):
    from scenedetect import AdaptiveDetector

    self._first = first
    self._detector = AdaptiveDetector(
      adaptive_threshold=_RATIO,
      min_scene_len=round(_SHORTEST / _TICK),
      min_content_val=_CHANGE,
    )

  def cuts(self, time: float, pixels: UInt8[np.ndarray, "h w 3"]) -> list[float]:
    """The times of cuts that are certain once this frame is seen."""
    from scenedetect import FrameTimecode

    # Frames of any rate are placed by their times: its "frames" are microseconds here.
    at = FrameTimecode(round((time - self._first) / _TICK), 1 / _TICK)
    found = self._detector.process_frame(at, pixels)
    return [self._first + cut.frame_num * _TICK for cut in found]


def _bright(grey: UInt8[np.ndarray, "h w"], axis: int) -> UInt8[np.ndarray, "n"]:
  """The brightness that all but 2 % of each row (axis 1) or column (0) is below."""
  k = min(int(_SPECKS * grey.shape[axis]), grey.shape[axis] - 1)
  return np.partition(grey, k, axis).take(k, axis)


def _edges(bright: UInt8[np.ndarray, "k n"]) -> tuple[int, int]:
  """Bounds of the picture without its bars, on even pixels."""
  there = np.flatnonzero(bright.max(0) > _BLACK)
  n = bright.shape[1]
  if not len(there):
    return 0, 0
  begin, end = int(there[0]), int(there[-1]) + 1
  # The codec blurs the pixels at the edge of a bar.
  bars = bright[:, : max(begin - 2, 0)], bright[:, end + 2 :]
  flat = all(bar.size and np.ptp(bar) <= _FLAT for bar in bars)
  thin = min(begin, n - end) < _THIN * n
  if thin or not flat or abs(begin - (n - end)) > max(_THIN * n, 2):
    return 0, n
  # Inwards, as chroma is of 2 x 2 pixels.
  return (begin + 1) // 2 * 2, end // 2 * 2
