"""Change of frame rate as ffmpeg's fps filter does it: which frames to show.

Source frame i, shown from time t_i on, falls on output frame

  o_i = floor(t_i fps + 1/2),

and output frame k shows the last source frame with o_i <= k, from k = o_0 up to, but
without, that of the moment the source ends. Nothing is blended. Times are integers in
units of a time base, as containers have them, so the halves are exact.
"""

import math
from fractions import Fraction

import numpy as np
from jaxtyping import Int

Rate = Fraction | float | int


def fps_indices(
  pts: Int[np.ndarray, " n"], end: int, time_base: Fraction, fps: Rate
) -> Int[np.ndarray, " k"]:
  """The source frame that each of the k output frames shows.

  Args:
    pts: when each source frame appears, ascending, in units of `time_base` seconds.
    end: when the last one goes.
    time_base: seconds.
    fps: of the output.
  """
  step = time_base * exact_rate(fps)
  # o_i = floor(t_i fps + 1/2), in exact fractions.
  places = [math.floor(int(t) * step + Fraction(1, 2)) for t in (*pts, end)]
  outputs = np.arange(places[0], places[-1])
  # The last source frame with o_i <= k.
  return np.searchsorted(np.array(places[:-1]), outputs, side="right") - 1


def exact_rate(rate: Rate) -> Fraction:
  """A frame rate as the nearest fraction with a denominator up to 1001.

  So 29.97002997 is 30000/1001.
  """
  return Fraction(rate).limit_denominator(1001)
