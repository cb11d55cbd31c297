"""The sound of a clip: mono, resampled, every unbroken run of it at its own time.

Channels are mixed with weights that add up to 1, so nothing clips. Of a stereo track
of which one channel is digitally silent throughout the clip (below -80 dBFS) the other
is taken as it is: the mean would be 6 dB quieter than what was recorded.
"""

import math

import av
import numpy as np
from jaxtyping import Float32

from ccl_jax.data.media.tracks import SHORT_TAIL, MediaError, frames_from

_JITTER = 0.01  # seconds off the running sample count: less is noise, more is a gap
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
    if form != now or abs(time - clock) > _JITTER:
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
  out = np.zeros((2, samples), np.float32)
  for time, pieces in runs:
    # A resampler that has nothing to convert flushes None.
    wave = np.concatenate([p.to_ndarray() for p in pieces if p] or [out[:, :0]], 1)
    first = round((time - start) * sample_rate)
    wave = wave[:, max(-first, 0) :]
    first = max(first, 0)
    out[:, first : first + wave.shape[1]] = wave[:, : max(samples - first, 0)]
  bad = np.flatnonzero(~np.isfinite(out).all(0))
  if bad.size:
    raise MediaError(
      f"{container.name}: NaN or infinite samples in the sound, the first at "
      f"{start + bad[0] / sample_rate:.2f} s"
    )
  return np.clip(_mono(out), -1, 1)


def _mono(wave: Float32[np.ndarray, "2 n"]) -> Float32[np.ndarray, "n"]:
  live = np.abs(wave).max(1, initial=0) > _DEAD
  return wave[live.argmax()] if live.sum() == 1 else wave.mean(0)
