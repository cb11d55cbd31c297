"""The share of speech in a sound, by Silero VAD.

The package `silero-vad` imports torch, which nothing here needs: of what is installed
only its network is read, a file of ONNX, and run by onnxruntime. It takes windows of
512 samples, each after the last 64 of the one before, and gives the probability of
speech in each; those of a half and more are speech.
"""

import functools
import importlib.metadata

import numpy as np
from jaxtyping import Float32

from ccl_jax.errors import UsageError

RATE, WINDOW, BEFORE = 16000, 512, 64  # Hz, samples, samples
_BLOCK = 512  # windows at a time
_NETWORK = "silero_vad/data/silero_vad_16k_sequence.onnx"


def share(wave: Float32[np.ndarray, "n"], rate: int) -> float:
  """The share of a mono wave's windows that are speech, 0 to 1.

  Raises:
    UsageError: a package is missing, or the rate is none of 16 kHz.
  """
  if rate != RATE:
    raise UsageError(f"Silero VAD hears {RATE} Hz, got {rate}")
  likely = probabilities(wave)
  return float((likely >= 0.5).mean()) if likely.size else 0.0


def probabilities(wave: Float32[np.ndarray, "n"]) -> Float32[np.ndarray, "k"]:
  """The probability of speech in each window of 32 ms; the last is filled with zeros.

  Raises:
    UsageError: a package is missing.
  """
  network, out = session(), []
  padded = np.pad(wave, (BEFORE, -len(wave) % WINDOW)).astype(np.float32)
  starts = np.arange(0, len(padded) - BEFORE, WINDOW)
  windows = padded[starts[:, None] + np.arange(BEFORE + WINDOW)]
  state = {name: np.zeros((1, 1, 128), np.float32) for name in "hc"}
  for first in range(0, len(windows), _BLOCK):
    block = windows[first : first + _BLOCK]
    likely, *new = network.run(["speech_probs", "hn", "cn"], {"input": block} | state)
    state = dict(zip("hc", new))
    out.append(likely.reshape(-1))
  return np.concatenate([np.zeros(0, np.float32), *out])


@functools.cache
def session():
  """The network, on one thread.

  Raises:
    UsageError: a package is missing.
  """
  try:
    import onnxruntime

    installed = importlib.metadata.distribution("silero-vad")
  except ImportError as e:
    raise UsageError(
      "speech=silero needs two packages, which work without torch: pip install "
      f"onnxruntime; pip install --no-deps 'silero-vad>=6.2.3' ({e})"
    ) from e
  path = installed.locate_file(_NETWORK)
  if not path.is_file():
    raise UsageError(f"silero-vad {installed.version} has no {path.name}: 6.2.3 has")
  options = onnxruntime.SessionOptions()
  options.inter_op_num_threads = options.intra_op_num_threads = 1
  return onnxruntime.InferenceSession(
    str(path), sess_options=options, providers=["CPUExecutionProvider"]
  )
