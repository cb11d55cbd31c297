"""Files of sound, for tests."""

import struct
import wave

import numpy as np

from ccl_jax.data.sources.sounds import RATE


def write(path, samples, *, rate=RATE, channels=1, seed=0):
  """A file of noise, whose channels are alike."""
  path.parent.mkdir(parents=True, exist_ok=True)
  rng = np.random.default_rng(seed)
  sound = np.round(6000 * rng.standard_normal(samples)).clip(-32768, 32767)
  with wave.open(str(path), "wb") as f:
    f.setnchannels(channels)
    f.setsampwidth(2)
    f.setframerate(rate)
    f.writeframes(np.repeat(sound.astype("<i2"), channels).tobytes())


def wav(path, waves, rate=16000, form="<f4"):
  """Channels (c, n) as a wav file of floats, or of integers as they are."""
  waves = np.atleast_2d(waves)
  channels, dtype = len(waves), np.dtype(form)
  data = np.ascontiguousarray(waves.T).astype(dtype).tobytes()
  kind = 3 if dtype.kind == "f" else 1
  frame = channels * dtype.itemsize
  about = (kind, channels, rate, rate * frame % 2**32, frame, 8 * dtype.itemsize)
  fmt = struct.pack("<HHIIHH", *about)
  chunks = b"fmt " + struct.pack("<I", 16) + fmt + b"data"
  chunks += struct.pack("<I", len(data)) + data
  path.write_bytes(b"RIFF" + struct.pack("<I", 4 + len(chunks)) + b"WAVE" + chunks)
  return path
