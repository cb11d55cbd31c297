"""Loudness of a mono wave by ITU-R BS.1770 and EBU R 128, and the gain that sets it.

The wave counts as played on two loudspeakers, so that a stereo film and its mono
mixdown have one loudness: a 1 kHz sine of amplitude -23 dBFS is at -23 LUFS. Measured
by ffmpeg's filter `ebur128`, in gated blocks of 0.4 s.
"""

import fractions

import av
import numpy as np
from jaxtyping import Float32

PEAK = -1.0  # dBFS: no gain raises the highest sample above it
_GATE = -70.0  # LUFS: quieter blocks do not count, so this is silence


def integrated_loudness(
  wave: Float32[np.ndarray, "n"], rate: int = 16000
) -> float | None:
  """Integrated loudness of a mono wave, in LUFS; None for silence or under 0.4 s."""
  if not wave.size:
    return None
  graph = av.filter.Graph()
  source = graph.add_abuffer(
    format="fltp",
    layout="stereo",
    sample_rate=rate,
    time_base=fractions.Fraction(1, rate),
  )
  graph.link_nodes(
    source, graph.add("ebur128", "metadata=1"), graph.add("abuffersink")
  ).configure()
  # The filter's own way with mono sound, dualmono, gates 3 dB too high.
  frame = av.AudioFrame.from_ndarray(np.stack([wave, wave]), "fltp", "stereo")
  frame.sample_rate, frame.pts = rate, 0
  source.push(frame)
  source.push(None)
  level = _GATE
  while True:
    try:
      level = float(graph.pull().metadata.get("lavfi.r128.I", level))
    except (av.BlockingIOError, av.EOFError):
      return level if level > _GATE else None


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
  """The wave raised by `gain` dB, and clipped to [-1, 1]."""
  if not gain:
    return wave
  return np.clip(wave * np.float32(10 ** (gain / 20)), -1, 1)
