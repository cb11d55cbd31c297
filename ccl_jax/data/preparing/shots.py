"""Finds the cuts and the black bars of a film, in one pass over its frames.

Frames are reduced to 32 x 32 RGB pixels x_t; d(s, t) is the mean of |x_s - x_t|. A cut
lies before frame t where the picture changes and stays changed,

  c_t = min(d(t-1, t), d(t-1, t+1), d(t-2, t)) >= 12  of 255,

and more than it moves around: c_t >= 3 times the mean of d over the two steps before
and the two after. A flash comes back and is no cut; a slow fade has none.

A row or column of pixels is black where all but 2 % of it is at most 24 of 255 in every
frame looked at, two a second. Bars are the black ones at two opposite edges, as wide as
each other to 2 % of the side and flat to 6 of 255: a dark sky is none.
"""

import dataclasses
import math

import numpy as np
from av.video.reformatter import VideoReformatter
from jaxtyping import Float, Float32, UInt8

from ccl_jax.data.media.colour import check_colours
from ccl_jax.data.media.tracks import (
  MediaError,
  Path,
  first_time,
  frames_from,
  opened,
  track,
)

_SIDE, _CHANGE, _RATIO = 32, 12.0, 3.0
_SHORTEST = 0.5  # seconds of a shot; a nearer cut belongs to the one before
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


def scan_film(path: Path) -> FilmScan:
  """Decodes all of a film's picture, and finds its cuts and brightness.

  Raises:
    MediaError: it cannot be read.
  """
  small, big = VideoReformatter(), VideoReformatter()
  times, thumbs, steps, skips, edges = [], [], [], [], []
  with opened(path) as container:
    video = track(container, "video")
    video.thread_type = "AUTO"
    for time, frame in frames_from(container, video, first_time(video)):
      check_colours(frame, container.name)
      thumb = small.reformat(frame, _SIDE, _SIDE, "rgb24", interpolation="AREA")
      thumbs = [*thumbs[-2:], thumb.to_ndarray().astype(np.float32)]
      times.append(time)
      steps.append(_distance(thumbs[-2:]))
      skips.append(_distance(thumbs[-3:]))
      if not edges or time >= edges[-1][0] + _EVERY:
        grey = big.reformat(frame, format="gray").to_ndarray()
        edges.append((time, _bright(grey, 1), _bright(grey, 0)))
  if not times:
    raise MediaError(f"{path}: no frame can be decoded")
  cuts = _cuts(times, np.array(steps), np.array(skips))
  if len({x.shape + y.shape for _, x, y in edges}) > 1:
    nothing = np.zeros((0, 0), np.uint8)
    return FilmScan(cuts, np.zeros(0), nothing, nothing)
  return FilmScan(cuts, *map(np.stack, zip(*edges)))


def _cuts(
  times: list[float], step: Float[np.ndarray, "n"], skip: Float[np.ndarray, "n"]
) -> tuple[float, ...]:
  """`step` of t is d(t-1, t), `skip` d(t-2, t)."""
  cuts, last = [], times[0]
  for t in range(1, len(times)):
    # At both ends of a film there is no frame beyond to compare with.
    # d(t-1, t+1) and d(t-2, t): a flash differs from its neighbours, not these.
    after = skip[t + 1] if t + 1 < len(times) else math.inf
    before = skip[t] if t > 1 else math.inf
    around = [*step[max(t - 2, 1) : t], *step[t + 1 : t + 3]]
    # c_t of the module's docstring.
    change = min(step[t], after, before)
    moves = np.mean(around) if around else 0.0
    # A cut: above 12 of 255, and 3 times what the picture moves around it.
    if change >= max(_CHANGE, _RATIO * moves) and times[t] - last >= _SHORTEST:
      cuts.append(times[t])
      last = times[t]
  return tuple(cuts)


def _distance(thumbs: list[Float32[np.ndarray, "h w 3"]]) -> float:
  return float(np.abs(thumbs[-1] - thumbs[0]).mean())


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
