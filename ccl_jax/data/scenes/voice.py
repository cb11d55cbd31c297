"""The sound of a talking scene: voices, clicks of a ball, noise and hum.

A talker of hue h (degrees) says syllables, each an interval [on, end] with a peak p:

  e(t)   = sum_i p_i smooth(min(u_i, 1 - u_i) / 0.3),  u_i = (t - on_i) / (end_i - on_i)
  s(t)   = A e(t) sum_k a_k(u) sin(2 pi k f0 t + pi k^2 / K),   k f0 < 2700 Hz
  f0     = 130 * 2^(h / 300) Hz
  a_k(u) = blend of two formant spectra (onset, vowel), each of unit power

so the voice's amplitude is A e(t) whatever the syllable, and e(t) is also how far the
talker's mouth is open. A ball of hue h that touches the ground at t0 with speed v rings
v exp(-(t - t0) / 8 ms) sin(2 pi fc (t - t0)) with fc = 3000 * 2^(h / 300) Hz: voices
and clicks share no band. Noise and hum are modulated slowly, on their own.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float

HUES = {"red": 0, "yellow": 60, "green": 120, "cyan": 180, "blue": 240, "purple": 300}
SYLLABLES = {  # formants in Hz at the onset, then of the vowel
  "ba": ((500, 900), (850, 1350)),
  "do": ((350, 1700), (500, 900)),
  "mi": ((250, 1000), (280, 2500)),
  "ke": ((300, 2600), (500, 2000)),
  "lu": ((350, 1200), (300, 650)),
  "sy": ((300, 2500), (300, 1600)),
}
BANDWIDTH, VOICE_TOP = 120.0, 2700.0  # Hz
VOICE_LEVEL, CLICK_LEVEL = 0.16, 0.3  # rms at e = 1; peak at one frame height / 0.4 s
CLICK_DECAY = 0.008
GAP = 0.08  # the shortest silence between two syllables, s
DURATION = (0.08, 0.25)


class Syllable(NamedTuple):
  """One syllable: its name, its interval in seconds, its peak in (0, 1]."""

  name: str
  onset: float
  end: float
  peak: float


def pitch(hue: str) -> float:
  """The voice's fundamental of a face of this hue, in Hz."""
  return 130.0 * 2 ** (HUES[hue] / 300)


def click_frequency(hue: str) -> float:
  """The ringing of a ball of this hue, in Hz."""
  return 3000.0 * 2 ** (HUES[hue] / 300)


def utterance(rng: np.random.Generator, seconds: float) -> list[Syllable]:
  """Random syllables at random times, about 1.6 to 3.1 a second, at least one.

  What is left beside syllables and gaps falls anywhere, the two ends included, so that
  no time of a clip is more likely voiced than another.
  """
  count = int(rng.integers(max(1, int(1.6 * seconds)), max(1, int(3.1 * seconds)) + 1))
  lengths = rng.uniform(*DURATION, count)
  lengths *= min(1, (0.95 * seconds - GAP * (count - 1)) / lengths.sum())
  slack = seconds - lengths.sum() - GAP * (count - 1)
  waits = GAP * (np.arange(count + 1) % count != 0)
  waits = slack * rng.dirichlet(np.ones(count + 1)) + waits
  onsets = np.cumsum(waits[:-1] + np.append(0, lengths[:-1]))
  names = rng.choice(list(SYLLABLES), count)
  peaks = rng.uniform(0.55, 1, count)
  rows = zip(names, onsets, onsets + lengths, peaks)
  return [Syllable(str(n), float(a), float(b), float(p)) for n, a, b, p in rows]


def envelope(
  syllables: list[Syllable], times: Float[np.ndarray, " n"]
) -> Float[np.ndarray, " n"]:
  """The amplitude e(t) of a voice, and the opening of its mouth, in [0, 1]."""
  total = np.zeros(len(times))
  for s in syllables:
    u = (times - s.onset) / (s.end - s.onset)
    ramp = np.clip(np.minimum(u, 1 - u) / 0.3, 0, 1)
    total += s.peak * ramp * ramp * (3 - 2 * ramp)
  return total


def spectrum(
  formants: tuple[int, int], frequencies: Float[np.ndarray, " k"]
) -> Float[np.ndarray, " k"]:
  """Amplitudes of a voice's harmonics under two resonances; their power sums to one."""
  low, high = (1 / (1 + ((frequencies - f) / BANDWIDTH) ** 2) for f in formants)
  amplitudes = low + 0.8 * high
  return amplitudes / np.sqrt((amplitudes**2).sum() / 2)


def voice(
  syllables: list[Syllable], hue: str, times: Float[np.ndarray, " n"]
) -> Float[np.ndarray, " n"]:
  """The sound of one talker's syllables, s(t) of the module's formula."""
  f0 = pitch(hue)
  k = np.arange(1, int(VOICE_TOP / f0) + 1)
  wave = np.zeros(len(times))
  for s in syllables:
    span = slice(*np.searchsorted(times, (s.onset, s.end)))
    t = times[span]
    glide = np.clip((t - s.onset) / (s.end - s.onset) / 0.5, 0, 1)
    onset, vowel = (spectrum(f, k * f0) for f in SYLLABLES[s.name])
    tones = np.sin(np.outer(k, 2 * np.pi * f0 * t) + np.pi * k[:, None] ** 2 / len(k))
    wave[span] += (1 - glide) * (onset @ tones) + glide * (vowel @ tones)
  return VOICE_LEVEL * envelope(syllables, times) * wave


def clicks(
  contacts: list[tuple[float, float]], hue: str, times: Float[np.ndarray, " n"]
) -> Float[np.ndarray, " n"]:
  """The sound of a ball's contacts (time, speed in frame heights per second)."""
  wave = np.zeros(len(times))
  for time, speed in contacts:
    span = slice(*np.searchsorted(times, (time, time + 12 * CLICK_DECAY)))
    t = times[span] - time
    ring = np.exp(-t / CLICK_DECAY) * np.sin(2 * np.pi * click_frequency(hue) * t)
    wave[span] += CLICK_LEVEL * min(speed / 2.5, 1) * ring
  return wave


def background(
  rng: np.random.Generator, times: Float[np.ndarray, " n"], rate: int
) -> Float[np.ndarray, " n"]:
  """Pink noise of rms about 1 and mains hum, each with its own slow modulation."""

  def slow():
    rate_hz, phase = rng.uniform(0.3, 1.2), rng.uniform(0, 2 * np.pi)
    return 1 + 0.6 * np.sin(2 * np.pi * rate_hz * times + phase)

  noise = np.fft.rfft(rng.standard_normal(len(times)))
  noise /= np.sqrt(np.maximum(np.fft.rfftfreq(len(times), 1 / rate), 100))
  noise = np.fft.irfft(noise, len(times))
  mains = 2 * np.pi * rng.choice([50, 60]) * times
  hum = np.sin(mains) + 0.5 * np.sin(2 * mains)
  return slow() * noise / noise.std() + rng.uniform(0.5, 1.5) * slow() * hum
