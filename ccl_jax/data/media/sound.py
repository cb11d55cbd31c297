"""The sound of a clip: mono, resampled, every unbroken run of it at its own time.

Channels are mixed with weights that add up to 1, so nothing clips. Of a stereo track
of which one channel is digitally silent throughout the clip (below -80 dBFS) the other
is taken as it is: the mean would be 6 dB quieter than what was recorded.
"""

import math
from collections.abc import Iterable

import av
import numpy as np
from jaxtyping import Float32

from ccl_jax.data.media.tracks import SHORT_TAIL, MediaError, frames_from

JITTER = 0.01  # seconds off the running sample count: less is noise, more is a gap
_MARGIN = 0.1  # seconds resampled beyond both ends of the clip
_DOWNMIX = {"rematrix_maxval": "1"}  # channels' weights add up to 1: never clips
_DEAD = 1e-4


def decode_sound(
  container, stream, start: float, samples: int | None, sample_rate: int
) -> Float32[np.ndarray, "n"]:
  """The sound of a track from the time `start` on; gaps and a short tail are zeros.

  Args:
    container, stream: of PyAV.
    start: in seconds on the file's clock.
    samples: their number; None: all there are.
    sample_rate: in Hz, of the result.

  Raises:
    MediaError: the track is too short, or has samples that are no numbers.
  """
  stop = math.inf if samples is None else start + samples / sample_rate
  runs, resampler, form, clock = [], None, None, -math.inf
  for time, frame in frames_from(container, stream, start):
    length = frame.samples / frame.sample_rate
    if time + length < start - _MARGIN:
      continue
    now = frame.format.name, frame.layout.name, frame.sample_rate
    if form != now or abs(time - clock) > JITTER:
      # A run ends: what the resampler holds back belongs to it.
      if runs:
        runs[-1][1].extend(resampler.resample(None))
      layout = "stereo" if frame.layout.nb_channels == 2 else "mono"
      resampler = av.AudioResampler("fltp", layout, sample_rate, options=_DOWNMIX)
      runs.append((time, []))
      form, clock = now, time
    runs[-1][1].extend(resampler.resample(frame))
    clock += length
    if clock > stop + _MARGIN:
      break
  if runs:
    runs[-1][1].extend(resampler.resample(None))
  if samples is None:
    samples = round((clock - start) * sample_rate) if runs else 0
  elif clock < stop - SHORT_TAIL:
    raise MediaError(
      f"{container.name}: too short, the sound ends at {max(clock, 0.0):.2f} s and the "
      f"clip at {stop:.2f} s"
    )
  # A resampler that has nothing to convert flushes None.
  waves = ([p.to_ndarray() for p in pieces if p] for _, pieces in runs)
  firsts = (round((time - start) * sample_rate) for time, _ in runs)
  out = lay_runs(zip(firsts, waves), 2, samples)
  bad = np.flatnonzero(~np.isfinite(out).all(0))
  if bad.size:
    raise MediaError(
      f"{container.name}: NaN or infinite samples in the sound, the first at "
      f"{start + bad[0] / sample_rate:.2f} s"
    )
  return np.clip(_mono(out), -1, 1)


def lay_runs(
  runs: Iterable[tuple[int, list[np.ndarray]]], channels: int, samples: int
) -> Float32[np.ndarray, "c n"]:
  """The runs of a sound at their places, zeros between them.

  Args:
    runs: by run the place of its first sample, which may be before 0, and its pieces,
      each (channels, m), or (1, m) for all channels. A later run covers an earlier one.
    channels: c of the result.
    samples: n of the result; what lies beyond it is cut off.
  """
  out = np.zeros((channels, samples), np.float32)
  for first, pieces in runs:
    wave = np.concatenate(pieces or [out[:, :0]], 1)
    wave = wave[:, max(-first, 0) :]
    first = max(first, 0)
    out[:, first : first + wave.shape[1]] = wave[:, : max(samples - first, 0)]
  return out


def _mono(wave: Float32[np.ndarray, "2 n"]) -> Float32[np.ndarray, "n"]:
  live = np.abs(wave).max(1, initial=0) > _DEAD
  return wave[live.argmax()] if live.sum() == 1 else wave.mean(0)
