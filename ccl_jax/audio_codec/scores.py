"""Scores how well sound survives a codec, against the linear codec at the same rate.

Of held-out windows, two log-spectral distances, both in decibels: of waves by the bins
of their spectra (ops/spectral_loss.py), and of mels,

  mean over frames of sqrt(mean over bands of (20 log10 a / b)^2)

which a vocoder has no part in where the mels are a VAE's. A bin of noise has another
amplitude in every draw, so a wave that matches noise in all but the draw is still 7.9
dB away by bins, and nearly 0 by mels.

And clicks: 1 ms pulses at known times; where the envelope of what comes back fits best
is where they are heard.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ccl_jax.models.linear_codec import LinearAudioCodec, fit_audio
from ccl_jax.ops.spectral_loss import log_spectral_distance
from ccl_jax.ops.stft import log_mel

Coder = Callable[[Float[Array, "b n"]], Array]  # wave -> wave, or -> log10 mel
RATE = 16000
AT_A_TIME = 8  # windows
LOOK = 20  # milliseconds on each side of a click where it is looked for


def mel_distance_db(
  mel: Float[Array, "b m c"], target: Float[Array, "b m c"]
) -> Float[Array, "b"]:
  """The log-spectral distance of each log10 mel from its target, in dB."""
  # sqrt(mean over bands of (20 log10 a / b)^2), then the mean over frames.
  return 20 * jnp.sqrt(jnp.mean((mel - target) ** 2, 2)).mean(1)


def linear_codec(waves: Iterable[Float[np.ndarray, "n"]]) -> LinearAudioCodec:
  """The linear codec fitted to waves at 16 kHz, each cut to whole latents."""
  hop = LinearAudioCodec.hop
  return fit_audio(wave[: len(wave) // hop * hop] for wave in waves)


def linear_mel(codec: LinearAudioCodec) -> Coder:
  """A coder from a wave to the log10 mel that the linear codec keeps of it."""
  return lambda wave: jnp.log10(jnp.maximum(codec.decode_mel(codec.encode(wave)), 1e-5))


def score_mels(
  coders: dict[str, Coder], windows: Sequence[Float[np.ndarray, "n"]]
) -> dict[str, float]:
  """Mean distances {"mel_db/NAME": dB} of coders that give mels.

  Args:
    coders: by name.
    windows: of sound, of one length.
  """
  distance = lambda wave, mel: {"mel_db": mel_distance_db(mel, log_mel(wave))}
  return _score(coders, windows, distance)


def score_waves(
  coders: dict[str, Coder], windows: Sequence[Float[np.ndarray, "n"]]
) -> dict[str, float]:
  """Mean distances {"lsd_db/NAME", "mel_db/NAME"} in dB of coders that give waves.

  Args:
    coders: by name.
    windows: of sound, of one length.
  """

  def distance(wave, back):
    return {
      "lsd_db": log_spectral_distance(back, wave),
      "mel_db": mel_distance_db(log_mel(back), log_mel(wave)),
    }

  return _score(coders, windows, distance)


def _score(coders, windows, distance) -> dict[str, float]:
  out: dict[str, Any] = {}
  for name, coder in coders.items():
    run = jax.jit(lambda wave, coder=coder: distance(wave, coder(wave)))
    rows = []
    for i in range(0, len(windows), AT_A_TIME):
      batch = np.stack(windows[i : i + AT_A_TIME])
      missing = AT_A_TIME - len(batch)  # filled up, so that one program serves all
      full = np.concatenate([batch, np.repeat(batch[:1], missing, 0)])
      rows.append({k: np.asarray(v)[: len(batch)] for k, v in run(full).items()})
    for key in rows[0]:
      out[f"{key}/{name}"] = float(np.concatenate([r[key] for r in rows]).mean())
  return out


def clicks(count: int = 64, seconds: float = 1.024, seed: int = 0):
  """Waves (b, n) with one click each, and the samples where these begin.

  A click is half a sine of 1 ms on silence, anywhere but near the ends.

  Args:
    count: b.
    seconds: of each wave.
    seed: of the places.
  """
  rng, n = np.random.default_rng(seed), round(seconds * RATE)
  pulse = 0.8 * np.sin(np.pi * np.arange(16) / 16)
  times = rng.integers(n // 4, n - n // 4, count)
  waves = np.zeros((count, n), np.float32)
  for wave, time in zip(waves, times):
    wave[time : time + len(pulse)] = pulse
  return waves, times


def click_errors_ms(
  coder: Coder, waves: Float[np.ndarray, "b n"], times: np.ndarray
) -> Float[np.ndarray, "b"]:
  """Milliseconds by which each click comes back later than it went in.

  It is the lag at which the envelopes, energies smoothed over 4 ms, fit best.

  Args:
    coder: wave to wave.
    waves, times: as of `clicks`.
  """
  run, lags = jax.jit(coder), np.arange(-LOOK * RATE // 1000, LOOK * RATE // 1000 + 1)
  errors, window = [], np.hanning(65)
  for i in range(0, len(waves), AT_A_TIME):
    batch = waves[i : i + AT_A_TIME]
    for before, after, time in zip(batch, np.asarray(run(batch)), times[i:]):
      a, b = (
        np.convolve(x.astype(float) ** 2, window, "same") for x in (before, after)
      )
      near = np.arange(time - 800, time + 816)
      fits = [a[near] @ b[near + lag] for lag in lags]
      errors.append(lags[int(np.argmax(fits))] * 1000 / RATE)
  return np.array(errors)
