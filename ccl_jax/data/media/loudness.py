"""Loudness of a mono wave by ITU-R BS.1770 and EBU R 128, and the gain that sets it.

The wave counts as played on two loudspeakers, so that a stereo film and its mono
mixdown have one loudness: a 1 kHz sine of amplitude -23 dBFS is at -23 LUFS. Measured
by ffmpeg's filter `ebur128`, in gated blocks of 0.4 s.
"""

import contextlib
import fractions

import av
import numpy as np
from jaxtyping import Float32

from ccl_jax.errors import UsageError

PEAK = -1.0  # dBFS: no gain raises the highest sample above it
MOST = 200.0  # dB: whatever is beyond is clipped, or silent, alike
_GATE = -70.0  # LUFS: quieter blocks do not count, so this is silence


class Loudness:
  """The integrated loudness of a mono wave that comes in parts.

  Args:
    rate: in Hz.
  """

  def __init__(self, rate: int = 16000):
    self._rate, self._samples, self._level = rate, 0, _GATE
    self._graph = av.filter.Graph()
    self._source = self._graph.add_abuffer(
      format="fltp",
      layout="stereo",
      sample_rate=rate,
      time_base=fractions.Fraction(1, rate),
    )
    self._graph.link_nodes(
      self._source,
      self._graph.add("ebur128", "metadata=1"),
      self._graph.add("abuffersink"),
    ).configure()

  def add(self, wave: Float32[np.ndarray, "n"]) -> None:
    """Measures the next part of the wave."""
    if not wave.size:
      return
    # The filter's own way with mono sound, dualmono, gates 3 dB too high.
    frame = av.AudioFrame.from_ndarray(np.stack([wave, wave]), "fltp", "stereo")
    frame.sample_rate, frame.pts = self._rate, self._samples
    self._samples += wave.size
    self._source.push(frame)
    self._pull()

  def result(self) -> float | None:
    """LUFS of all that came; None for silence or under 0.4 s. Nothing may follow."""
    if self._samples:
      self._source.push(None)
      self._pull()
    return self._level if self._level > _GATE else None

  def _pull(self) -> None:
    with contextlib.suppress(av.BlockingIOError, av.EOFError):
      while True:
        metadata = self._graph.pull().metadata
        self._level = float(metadata.get("lavfi.r128.I", self._level))


def integrated_loudness(
  wave: Float32[np.ndarray, "n"], rate: int = 16000
) -> float | None:
  """Integrated loudness of a mono wave, in LUFS; None for silence or under 0.4 s."""
  meter = Loudness(rate)
  meter.add(wave)
  return meter.result()


def check_target(loudness: float | int) -> None:
  """Raises UsageError where no sound can be brought to a loudness, in LUFS."""
  # -70 LUFS is the gate of BS.1770: below it there is no loudness.
  if not -70 < loudness < 0:
    raise UsageError(f"loudness: got {loudness} LUFS, expected such as -23, or None")


def gain_of(level: float | int, peak: float | int, target: float | int) -> float:
  """The gain in dB that sets a sound's loudness, its peak kept below `PEAK`.

  Args:
    level, target: loudness that it has and is to have, in LUFS.
    peak: of its highest sample, in dBFS.
  """
  return float(min(target - level, PEAK - peak))


def gain_to(
  target: float | int, wave: Float32[np.ndarray, "n"], rate: int = 16000
) -> float:
  """The gain in dB that brings a wave to `target` LUFS; 0 for silence."""
  level = integrated_loudness(wave, rate)
  if level is None:
    return 0.0
  return gain_of(level, 20 * float(np.log10(np.abs(wave).max())), target)


def apply_gain(
  wave: Float32[np.ndarray, "n"], gain: float | int
) -> Float32[np.ndarray, "n"]:
  """The wave raised by `gain` dB, at most by `MOST` either way, clipped to [-1, 1]."""
  if not gain:
    return wave
  # No float32 overflows, so silence stays silent: infinity times zero is no number.
  gain = min(max(gain, -MOST), MOST)
  return np.clip(wave * np.float32(10 ** (gain / 20)), -1, 1)
