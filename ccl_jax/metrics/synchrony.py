"""How well a curve of the picture follows one of the sound, and how late the sound is.

With m_k the picture's curve at frame k and v(t) the sound's,

  r(lag) = the correlation of m_k and v(k / fps + lag),   lag in [-0.4, 0.4] s

over the frames whose k / fps + lag lies in the sound; and the same over each third of
the clip's frames.

  sync_r0      = r(0)
  sync_lag_ms  = the lag where r is largest, by a parabola: above 0 the sound is late,
                 below 0 it is early
  lag_first_ms, lag_middle_ms, lag_last_ms: those of the thirds

A lag is a number where r has a summit of at least 0.1: none where a curve does not
move, where r rises up to the last lag, or of chance. A set's lag is that of its clips'
mean r, which is far steadier than the mean of their lags; its standard error is the
jackknife's,

  sem^2 = (n - 1) / n sum_i (lag without clip i - their mean)^2
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from ccl_jax.metrics.talking_curves import HOP, RATE

MAX_LAG = 0.4  # s
LAGS = np.arange(-MAX_LAG, MAX_LAG + 1e-9, 0.01)
PARTS = ("sync_lag_ms", "lag_first_ms", "lag_middle_ms", "lag_last_ms")
R = "correlogram"  # of a row: r of the clip and of its thirds at every lag
LEAST_R = 0.1  # of a summit
LEAST_MOTION, LEAST_SOUND = 0.01, 0.004  # standard deviations of curves that move

Curve = Float[np.ndarray, " F"]
Row = dict[str, Any]


def correlogram(
  mouth: Curve, voice: Float[np.ndarray, " i"], fps: float | int
) -> Float[np.ndarray, "4 lags"]:
  """Values of r at every lag, of the whole clip and of its thirds; 0 where a curve does
  not move or half of the frames have no sound.
  """
  frames = np.arange(len(mouth))
  clock = np.arange(len(voice)) * HOP / RATE
  shifted = frames / fps + LAGS[:, None]
  heard = np.interp(shifted, clock, voice)
  inside = (shifted >= -1e-9) & (shifted <= clock[-1] + 1e-9)
  third = 3 * frames // len(mouth)
  return np.stack(
    [_correlations(mouth, heard, inside & (part | (third == i)))
     for i, part in ((0, True), (0, False), (1, False), (2, False))]
  )  # fmt: skip


def _correlations(mouth, heard, used):
  """Of the mouth with each row of what is heard, over the frames used in that row."""
  n = np.maximum(used.sum(1), 1)
  mean = lambda x: (used * x).sum(1) / n
  m = mouth - mean(mouth[None])[:, None]
  v = heard - mean(heard)[:, None]
  spread_m, spread_v = np.sqrt(mean(m**2)), np.sqrt(mean(v**2))
  moves = (spread_m >= LEAST_MOTION) & (spread_v >= LEAST_SOUND)
  enough = 2 * used.sum(1) >= used.sum(1).max()
  r = mean(m * v) / np.maximum(spread_m * spread_v, 1e-12)
  return np.where(moves & enough, r, 0.0)


def lag_of(r: Float[np.ndarray, " lags"]) -> float | None:
  """Where r has its summit, in ms; None where it has none."""
  k = int(r.argmax())
  if not 0 < k < len(r) - 1 or r[k] < LEAST_R:
    return None
  bend = 2 * r[k] - r[k - 1] - r[k + 1]
  aside = 0.005 * (r[k + 1] - r[k - 1]) / bend if bend > 0 else 0.0
  return float(1000 * (LAGS[k] + aside))


def synchrony(
  mouth: Curve, voice: Float[np.ndarray, " i"], fps: float | int
) -> dict[str, Any]:
  """`sync_r0` of one mouth and one voice, and the correlogram that tells the lags."""
  r = correlogram(mouth, voice, fps)
  return {"sync_r0": float(r[0, len(LAGS) // 2]), R: r}


def with_lags(row: Row) -> dict[str, float]:
  """The row of one clip with the lags that its correlogram has, in its place."""
  row = dict(row)
  parts = zip(PARTS, row.pop(R, ()))
  lags = {name: lag_of(r) for name, r in parts}
  return row | {name: lag for name, lag in lags.items() if lag is not None}


def means(rows: Sequence[Row]) -> Row:
  """The mean of each score over the rows that have it."""
  names = dict.fromkeys(name for row in rows for name in row)
  mean = lambda name: np.mean([row[name] for row in rows if name in row], axis=0)
  return {k: mean(k) if k == R else float(mean(k)) for k in names}


def summary(rows: Sequence[Row]) -> dict[str, dict[str, float]]:
  """{score: {mean, sem, n}} of clips; n counts those that have the score."""
  table = {}
  for name in means(rows):
    values = [row[name] for row in rows if name in row]
    if name == R:
      table |= pooled_lags(np.stack(values))
      continue
    n = len(values)
    sem = float(np.std(values) / max(n - 1, 1) ** 0.5)
    table[name] = {"mean": float(np.mean(values)), "sem": sem, "n": n}
  return table


def pooled_lags(r: Float[np.ndarray, "n 4 lags"]) -> dict[str, dict[str, float]]:
  """The lags of a set; none that hangs on a single clip."""
  n, table = len(r), {}
  for i, name in enumerate(PARTS):
    lag = lag_of(r[:, i].mean(0))
    without = [lag_of((r[:, i].sum(0) - own) / max(n - 1, 1)) for own in r[:, i]]
    if lag is None or (n > 1 and None in without):
      continue
    sem = float(np.std(without) * (n - 1) ** 0.5) if n > 1 else 0.0
    table[name] = {"mean": lag, "sem": sem, "n": n}
  return table
