"""Measures a clip's sound: loudness, peak, silence, clipping.

loudness   LUFS of the mono sound at 16 kHz (`loudness.py`); none of silence
peak       dBFS of that sound's highest sample
silence    the share of its blocks of 0.1 s whose rms is below -60 dBFS
clipped    the share of the file's own samples, of any channel, at full scale
"""

import importlib
from collections.abc import Callable, Iterable

import av
import numpy as np
from jaxtyping import Float32

from ccl_jax.data.media.loudness import Loudness
from ccl_jax.data.media.sound import channels_of
from ccl_jax.data.media.tracks import Path, frames_from, opened, track
from ccl_jax.data.preparing import silero
from ccl_jax.errors import UsageError

_BLOCK, _SILENT, _FULL = 0.1, 1e-3, 0.999

SpeechShare = Callable[[Float32[np.ndarray, "n"], int], float]


def measure(
  waves: Iterable[Float32[np.ndarray, "n"]],
  rate: int = 16000,
  speech: SpeechShare | None = None,
) -> dict[str, float]:
  """`loudness`, `peak`, `silence` and `speech_share` of a sound that comes in parts.

  Args:
    waves: the parts in order, each but the last of whole tenths of a second.
    rate: in Hz.
    speech: measures the share of speech of a part; None: none is measured.

  Returns:
    These; of a silent sound neither loudness nor peak.
  """
  size, meter = max(round(_BLOCK * rate), 1), Loudness(rate)
  quiet = blocks = samples = 0
  peak = spoken = 0.0
  for wave in waves:
    meter.add(wave)
    parts = wave[: len(wave) // size * size].reshape(-1, size)
    # A block is silent if its rms is below -60 dBFS.
    quiet += int((np.sqrt((parts**2).mean(1)) < _SILENT).sum())
    blocks, samples = blocks + len(parts), samples + len(wave)
    peak = max(peak, float(np.abs(wave).max(initial=0)))
    if speech is not None:
      spoken += len(wave) * speech(wave, rate)
  out, level = {"silence": round(quiet / blocks if blocks else 1.0, 3)}, meter.result()
  if level is not None:
    out["loudness"] = round(level, 2)
  if peak > 0:
    out["peak"] = round(20 * float(np.log10(peak)), 2)
  if speech is not None and samples:
    out["speech_share"] = round(spoken / samples, 3)
  return out


def clipped(path: Path, start: float, end: float) -> float:
  """The share of a file's samples at full scale, from `start` to `end` in seconds.

  Raises:
    MediaError: the file cannot be read, or has no sound.
  """
  full = total = 0
  with opened(path) as container:
    stream = track(container, "audio")
    convert = None
    for time, frame in frames_from(container, stream, start):
      if time >= end:
        break
      if time < start:
        continue
      convert = convert or av.AudioResampler("flt", frame.layout, frame.sample_rate)
      for piece in convert.resample(frame):
        wave = channels_of(piece)
        full, total = full + int((np.abs(wave) >= _FULL).sum()), total + wave.size
  return round(full / total, 5) if total else 0.0


def speech_hook(name: str) -> SpeechShare:
  """The function of a wave and its rate that gives the share of speech in it.

  Args:
    name: "silero" or "module:function".

  Raises:
    UsageError: there is no such function, or a package that it needs is missing.
  """
  if name == "silero":
    silero.session()
    return silero.share
  module, _, function = name.partition(":")
  try:
    found = getattr(importlib.import_module(module), function)
    if not callable(found):
      raise ValueError(f"{function} is no function")
    return found
  except (ImportError, AttributeError, ValueError) as e:
    raise UsageError(
      f"speech: got {name!r}, expected silero, or module:function, one of (wave, rate) "
      f"that gives the share of speech ({e})"
    ) from e
