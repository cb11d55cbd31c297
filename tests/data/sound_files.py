"""Files of noise, for tests."""

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
