"""FAD: the Frechet distance of sounds by VGGish's features (Kilgour et al., 2019).

A sound's features are a row of 128 for each whole 0.96 s of it; all rows of all sounds
make the set. They see, of a mono sound at 16 kHz,

  log(A T + 0.01)    A the amplitudes (not powers) of windows of 25 ms every 10 ms, none
                     reaching past an end, T triangles straight in mel from 125 to
                     7500 Hz, mel(f) = ln(1 + f / 700)
"""

import jax
import numpy as np
from jaxtyping import Float

from ccl_jax.metrics.base import Unscorable
from ccl_jax.models.scorers.vggish import BANDS, FRAMES, SoundFeatures

RATE, WINDOW, HOP, FFT = 16000, 400, 160, 512
LOW, HIGH, OFFSET = 125.0, 7500.0, 0.01
LEAST_SAMPLES = WINDOW + (FRAMES - 1) * HOP


def mel_triangles() -> Float[np.ndarray, "k c"]:
  """The matrix T of the module's formula: k bins to c bands."""
  mel = lambda hertz: np.log1p(np.asarray(hertz) / 700)
  edges = np.linspace(mel(LOW), mel(HIGH), BANDS + 2)
  place = mel(np.arange(FFT // 2 + 1) * RATE / FFT)[:, None]
  return np.maximum(0, 1 - np.abs(place - edges[1:-1]) / (edges[1] - edges[0]))


def patches(wave: Float[np.ndarray, " n"]) -> Float[np.ndarray, "b m c"]:
  """Log mel of the whole patches of a sound at 16 kHz: b patches of 96 frames."""
  frames = np.lib.stride_tricks.sliding_window_view(wave.astype(np.float64), WINDOW)
  # The periodic Hann window, as VGGish's front end has it.
  taper = np.hanning(WINDOW + 1)[:-1]
  amplitude = np.abs(np.fft.rfft(frames[::HOP] * taper, FFT))
  # log(A T + 0.01), of amplitudes and not of powers.
  mel = np.log(amplitude @ mel_triangles() + OFFSET).astype(np.float32)
  return mel[: len(mel) // FRAMES * FRAMES].reshape(-1, FRAMES, BANDS)


_features = jax.jit(lambda net, mel: net(mel))


def features(
  wave: Float[np.ndarray, " n"], net: SoundFeatures
) -> Float[np.ndarray, "b e"]:
  """The b feature rows of a mono sound at 16 kHz in [-1, 1].

  Raises:
    Unscorable: it is shorter than a patch.
  """
  if len(wave) < LEAST_SAMPLES:
    raise Unscorable(
      f"{len(wave) / RATE:.2f} s of sound; VGGish needs {LEAST_SAMPLES / RATE} s"
    )
  return np.asarray(_features(net, patches(wave)))
