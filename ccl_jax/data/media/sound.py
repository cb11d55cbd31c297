"""The sound of a file: mono, resampled, every unbroken run of it at its own time.

A mix is the mean of all channels, so nothing clips and none is lost. Of a stereo track
of which one channel is digitally silent throughout (below -80 dBFS) the other is taken
as it is: the mean would be 6 dB quieter than what was recorded.

Sound is read in blocks, so that memory does not grow with the file's length.
"""

import math
from collections.abc import Iterable, Iterator

import av
import numpy as np
from jaxtyping import Float32

from ccl_jax.data.media.tracks import SHORT_TAIL, MediaError, frames_from

JITTER = 0.01  # seconds off the running sample count: less is noise, more is a gap
BLOCK = 60  # seconds of sound held at a time
_LATE = 1  # seconds of a block that a later run may still cover
_MARGIN = 0.1  # seconds resampled beyond both ends of the clip
_GAP = 3600  # seconds between two runs: time stamps further apart are damaged
_DEAD = 1e-4


def channels_of(frame) -> Float32[np.ndarray, "c n"]:
  """The samples of a frame of PyAV's whose format is "flt", by channel.

  Packed samples only: PyAV reads beyond the planes of eight and more channels.
  """
  channels = frame.layout.nb_channels
  return frame.to_ndarray().reshape(-1, channels).T


def mix(wave: Float32[np.ndarray, "c n"]) -> Float32[np.ndarray, "n"]:
  """The mean of all channels; of stereo with a dead channel, the other one."""
  if len(wave) == 2:
    live = np.abs(wave).max(1, initial=0) > _DEAD
    if live.sum() == 1:
      return wave[live.argmax()]
  return wave.mean(0)


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
  size = BLOCK * sample_rate if samples is None else samples
  blocks = _blocks(container, stream, start, samples, sample_rate, size)
  wave = np.concatenate([np.zeros((2, 0), np.float32), *blocks], 1)
  return _checked(container, wave, start, sample_rate)


def sound_blocks(
  container, stream, start: float, samples: int | None, sample_rate: int, size: int
) -> Iterator[Float32[np.ndarray, "n"]]:
  """As `decode_sound`, in blocks of `size` samples, the last one shorter.

  Each is mixed for itself.
  """
  blocks = _blocks(container, stream, start, samples, sample_rate, size)
  for k, block in enumerate(blocks):
    yield _checked(container, block, start + k * size / sample_rate, sample_rate)


def decode_channels(
  container, stream, start: float, samples: int, sample_rate: int
) -> Float32[np.ndarray, "c n"]:
  """As `decode_sound`, with all channels of the track, c of them.

  Raises:
    MediaError: see `decode_sound`.
  """
  channels = stream.layout.nb_channels
  how = start, samples, sample_rate, samples, channels
  wave = np.concatenate(list(_blocks(container, stream, *how)), 1)
  _checked(container, wave, start, sample_rate)
  return wave


def _checked(container, wave, start: float, rate: int) -> Float32[np.ndarray, "n"]:
  bad = np.flatnonzero(~np.isfinite(wave).all(0))
  if bad.size:
    raise MediaError(
      f"{container.name}: NaN or infinite samples in the sound, the first at "
      f"{start + bad[0] / rate:.2f} s"
    )
  return np.clip(mix(wave), -1, 1)


def _blocks(
  container,
  stream,
  start: float,
  samples: int | None,
  rate: int,
  size: int,
  channels: int = 2,
) -> Iterator[Float32[np.ndarray, "c m"]]:
  stop = math.inf if samples is None else start + samples / rate
  held = np.zeros((channels, size + round(_LATE * rate)), np.float32)
  base, clock = 0, -math.inf
  frames = frames_from(container, stream, start)
  for place, piece, clock in _pieces(frames, start, stop, rate, channels):  # noqa: B007
    if place - base > held.shape[1] + _GAP * rate:
      raise MediaError(
        f"{container.name}: its time stamps jump to {start + place / rate:.2f} s"
      )
    while True:
      # What fits is laid; the buffer moves on for the rest.
      room = max(base + held.shape[1] - place, 0)
      part, first = piece[:, :room], place - base
      part = part[:, max(-first, 0) :]
      held[:, max(first, 0) : max(first, 0) + part.shape[1]] = part
      if piece.shape[1] <= room:
        break
      piece, place = piece[:, room:], place + min(room, piece.shape[1])
      if samples is not None and base + size >= samples:
        break
      yield held[:, :size].copy()
      held[:, : -size or None], held[:, -size:] = held[:, size:].copy(), 0
      base += size
  if samples is None:
    samples = max(round((clock - start) * rate), 0) if clock > -math.inf else 0
  elif clock < stop - SHORT_TAIL:
    raise MediaError(
      f"{container.name}: too short, the sound ends at {max(clock, 0.0):.2f} s and the "
      f"clip at {stop:.2f} s"
    )
  rest = held[:, : max(samples - base, 0)]
  rest = np.pad(rest, ((0, 0), (0, max(samples - base, 0) - rest.shape[1])))
  for first in range(0, rest.shape[1], max(size, 1)):
    yield rest[:, first : first + size]


def _pieces(
  frames, start: float, stop: float, rate: int, channels: int
) -> Iterator[tuple[int, Float32[np.ndarray, "c m"], float]]:
  """(place of its first sample, samples, where the sound read so far ends) in order."""
  resampler, form, clock, place = None, None, -math.inf, 0

  def resampled(frame):
    nonlocal place
    # A resampler that has nothing to convert flushes None.
    for out in filter(None, resampler.resample(frame)):
      wave = channels_of(out)
      # So many channels stay as they are: `mix` looks at the whole clip.
      wave = wave if len(wave) == channels else wave.mean(0, keepdims=True)
      yield place, np.broadcast_to(wave, (channels, wave.shape[1])), clock
      place += wave.shape[1]

  for time, frame in frames:
    length = frame.samples / frame.sample_rate
    if time + length < start - _MARGIN:
      continue
    now = frame.format.name, frame.layout.name, frame.sample_rate
    if form != now or abs(time - clock) > JITTER:
      # A run ends: what the resampler holds back belongs to it.
      if resampler:
        yield from resampled(None)
      resampler = av.AudioResampler("flt", frame.layout, rate)
      form, clock, place = now, time, round((time - start) * rate)
    clock += length
    yield from resampled(frame)
    if clock > stop + _MARGIN:
      break
  if resampler:
    yield from resampled(None)
    yield place, np.zeros((channels, 0), np.float32), clock


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
