"""What a talking scene shows and says, read off any clip, generated or real.

Picture. With chroma vector (R - (G + B) / 2, sqrt(3) (G - B) / 2), length C and angle
theta, the amount of hue h in a pixel is max(0, 2 C cos(theta - h) - C): it is linear in
how much of the hue a blurry pixel holds, and zero from 60 degrees away on. A face is
the blob of its hue, a mouth what its lower half loses of it, a ball the blob's centre.
Sound. A voice's curve is the amplitude in its band, the power weighted by
(1 + cos(2 pi f / f0)) / 2, which favours the harmonics of its pitch f0. A syllable is a
stretch of that curve, named by the matched filter of its spectrum in two parts. Clicks
are peaks of energy above the voices.

The legend repeats that of the scene (hues, pitches, formants); a test compares them.
Sound is at 16 kHz; times in seconds, frequencies in Hz.
"""

import numpy as np
from jaxtyping import Float, UInt8

HUES = {"red": 0, "yellow": 60, "green": 120, "cyan": 180, "blue": 240, "purple": 300}
SYLLABLES = {
  "ba": ((500, 900), (850, 1350)),
  "do": ((350, 1700), (500, 900)),
  "mi": ((250, 1000), (280, 2500)),
  "ke": ((300, 2600), (500, 2000)),
  "lu": ((350, 1200), (300, 650)),
  "sy": ((300, 2500), (300, 1600)),
}
BANDWIDTH = 120.0
VOICE_BAND, CLICK_FLOOR = (110.0, 2750.0), 2900.0
GRAVITY = 5.0  # frame heights per second squared

RATE = 16000
HOP = 80  # a voice curve's step in samples: 5 ms
WINDOW = 640

Video = UInt8[np.ndarray, "F H W 3"]
Audio = Float[np.ndarray, " n"]


def pitch(hue: str) -> float:
  """The voice's fundamental of a face of this hue."""
  return 130.0 * 2 ** (HUES[hue] / 300)


def hue_amount(video: Video, hue: str) -> Float[np.ndarray, "F H W"]:
  """How much of a hue each pixel holds, 0 to 1."""
  red, green, blue = np.moveaxis(video.astype(np.float32) / 255, -1, 0)
  x, y = red - (green + blue) / 2, np.float32(np.sqrt(0.75)) * (green - blue)
  angle = np.deg2rad(HUES[hue])
  along = np.float32(np.cos(angle)) * x + np.float32(np.sin(angle)) * y
  return np.maximum(2 * along - np.sqrt(x * x + y * y), 0)


def face_box(still: Float[np.ndarray, "H W"]) -> tuple[float, float, float] | None:
  """Centre x, y and radius in pixels of the blob of a hue; None if there is none."""
  inside = still > max(0.5 * np.quantile(still, 0.98), 0.15)
  if inside.sum() < 0.02 * inside.size:
    return None
  y, x = np.nonzero(inside)
  return x.mean(), y.mean(), np.sqrt(inside.sum() / np.pi)


def closed(amount: Float[np.ndarray, "F H W"]) -> Float[np.ndarray, "H W"]:
  """How much of a hue each pixel holds where a mouth is most closed; of ten frames two
  may hold more.
  """
  return np.sort(amount, axis=0)[int(0.8 * len(amount))]


def mouth_curve(video: Video, hue: str) -> Float[np.ndarray, " F"] | None:
  """How much of its hue the lower half of a face lacks, per frame, beside the same
  place where the mouth is most closed. None where no face is.
  """
  amount = hue_amount(video, hue)
  still = closed(amount)
  found = face_box(still)
  if found is None:
    return None
  cx, cy, radius = found
  y, x = np.ogrid[: still.shape[0], : still.shape[1]]
  u, v = (x - cx) / (0.65 * radius), (y - cy - 0.42 * radius) / (0.55 * radius)
  weight = np.clip(1.5 - np.maximum(abs(u), abs(v)), 0, 0.5) * still
  return 1 - (amount * weight).sum((1, 2)) / (still * weight).sum()


def middles(curve: Float[np.ndarray, " n"], step: float, floor: float) -> list[float]:
  """The middle of every stretch in which a curve is higher than 0.4 of the way from its
  rest, the 0.3 quantile, to its maximum, in s; none where that way is below `floor`.
  Its ends lie between samples, which are `step` s apart. A syllable rises as it falls,
  so its middle is not moved by the level.
  """
  rest = np.quantile(curve, 0.3)
  level = rest + 0.4 * (curve.max() - rest)
  if curve.max() - rest < floor:
    return []
  above = np.concatenate([[False], curve > level, [False]])
  found = []
  for start, end in np.flatnonzero(np.diff(above)).reshape(-1, 2):
    first, last = float(start), float(end - 1)
    if start > 0:
      first -= (curve[start] - level) / (curve[start] - curve[start - 1])
    if end < len(curve):
      last += (curve[end - 1] - level) / (curve[end - 1] - curve[end])
    found.append(float(step * (first + last) / 2))
  return found


def contact_times(video: Video, hue: str, fps: float | int) -> list[float]:
  """When a ball of this hue touches the ground: where the parabola of its fall meets
  that of its rise, one on either side of the lowest frame. Both have the curvature of
  gravity, so they differ by a straight line in time.
  """
  amount = hue_amount(video, hue)
  weight = np.maximum(amount - 0.3 * amount.max((1, 2), keepdims=True), 0)
  rows = (np.arange(video.shape[1]) + 0.5) / video.shape[1]
  mass = weight.sum((1, 2))
  if amount.max() < 0.15:
    return []
  y = (weight.sum(2) @ rows) / np.maximum(mass, 1e-6)
  bend, found = GRAVITY / 2 / fps**2, []
  for k in range(2, len(y) - 2):
    if not (y[k - 1] <= y[k] > y[k + 1]):
      continue
    fall = y[k - 1] - y[k - 2] + bend  # speeds per frame at k - 1 and k + 1
    rise = y[k + 2] - y[k + 1] - bend
    if fall - rise < 0.03:
      continue
    # y[k-1] + fall s + bend s^2 = y[k+1] + rise (s-2) + bend (s-2)^2, s from k - 1
    s = (y[k + 1] - y[k - 1] - 2 * rise + 4 * bend) / (fall - rise + 4 * bend)
    found.append((k - 1 + float(np.clip(s, 0, 2))) / fps)
  return found


def click_times(audio: Audio) -> list[float]:
  """Onsets of the clicks: peaks of the energy above the voices, a few times what is
  usual in the clip, at least 100 ms apart.
  """
  bins = np.fft.rfft(audio)
  bins[np.fft.rfftfreq(len(audio), 1 / RATE) < CLICK_FLOOR] = 0
  energy = np.fft.irfft(bins, len(audio)) ** 2
  kernel = np.hanning(256)
  energy = np.convolve(energy, kernel / kernel.sum(), "same")
  floor = max(6 * np.median(energy), 0.04 * energy.max(), 3e-5)
  found = []
  while energy.max() > floor:
    peak = int(energy.argmax())
    found.append(max(peak / RATE - 0.003, 0.0))
    energy[max(0, peak - RATE // 10) : peak + RATE // 10] = 0
  return sorted(found)


def spectrogram(audio: Audio, window: int = WINDOW) -> Float[np.ndarray, "i f"]:
  """Power around each multiple of HOP samples, one-sided, scaled so that a column's
  sum is the mean square there.
  """
  padded = np.pad(audio, window // 2)
  taper = np.hanning(window + 1)[:-1]
  frames = np.lib.stride_tricks.sliding_window_view(padded, window)[::HOP]
  return 2 * abs(np.fft.rfft(frames * taper)) ** 2 / (window * (taper**2).sum())


def main_pitch(audio: Audio) -> str:
  """The hue whose pitch's harmonics hold most power, beside what lies between them."""
  power = spectrogram(audio, 2048).sum(0)
  f = np.fft.rfftfreq(2048, 1 / RATE)
  inside = (f > VOICE_BAND[0]) & (f < VOICE_BAND[1])
  score = {h: power[inside] @ np.cos(2 * np.pi * f[inside] / pitch(h)) for h in HUES}
  return max(HUES, key=score.get)


def voice_curves(audio: Audio, hues: list[str]) -> Float[np.ndarray, "v i"]:
  """Amplitudes of the voices of these hues every HOP samples, from time 0. Where there
  are several, a moment belongs to the one whose harmonics hold most power.
  """
  f = np.fft.rfftfreq(WINDOW, 1 / RATE)
  weight = (1 + np.cos(2 * np.pi * f / np.array([[pitch(h)] for h in hues]))) / 2
  weight[:, (f < VOICE_BAND[0]) | (f > VOICE_BAND[1])] = 0
  power = weight @ spectrogram(audio).T
  share = (power / (power.max(0) + 1e-12)) ** 8
  return np.sqrt(power) * share / (share.sum(0) + 1e-12)


def bands(count: int = 20) -> Float[np.ndarray, "f bands"]:
  """Triangular bands over the voice's band, evenly spaced in log(1 + f / 700)."""
  f = np.fft.rfftfreq(WINDOW, 1 / RATE)
  edges = np.linspace(*np.log1p(np.array([150.0, 2900.0]) / 700), count + 2)
  place = (np.log1p(f / 700)[:, None] - edges[1:-1]) / (edges[1] - edges[0])
  return np.maximum(1 - abs(place), 0)


def templates(hue: str) -> dict[str, Float[np.ndarray, "2 bands"]]:
  """The amplitude spectra in bands of each syllable's onset and vowel at a pitch."""
  f0 = pitch(hue)
  tones = np.arange(1, int(VOICE_BAND[1] / f0) + 1) * f0
  near = (tones[:, None] - np.fft.rfftfreq(WINDOW, 1 / RATE)) * WINDOW / RATE
  leak = np.maximum(1 - abs(near) / 2, 0) ** 2  # of a Hann window's main lobe

  def spectrum(formants):
    low, high = (1 / (1 + ((tones - f) / BANDWIDTH) ** 2) for f in formants)
    return (low + 0.8 * high) / np.linalg.norm(low + 0.8 * high)

  named = {}
  for name, formants in SYLLABLES.items():
    onset, vowel = map(spectrum, formants)
    parts = np.stack([0.5 * onset + 0.5 * vowel, vowel])
    parts = np.sqrt(parts**2 @ leak @ bands())
    named[name] = parts / np.linalg.norm(parts, axis=1, keepdims=True)
  return named


def syllables_heard(audio: Audio, hues: list[str]) -> list[tuple[str, str]]:
  """What is said, in order, as (hue of the speaker, syllable): each stretch of voice
  goes to the talker whose pitch fits best and to the syllable that matches best.
  """
  power = spectrogram(audio)
  curve = np.sqrt(power @ (bands() > 0).any(1))
  loud = np.concatenate([[False], curve > max(0.3 * curve.max(), 0.02), [False]])
  voices = voice_curves(audio, hues)
  known, heard = {h: templates(h) for h in hues}, []
  for start, end in np.flatnonzero(np.diff(loud)).reshape(-1, 2):
    if (end - start) * HOP < 0.04 * RATE:
      continue
    hue = hues[int(voices[:, start:end].sum(1).argmax())]
    part, half = power[start:end] @ bands(), (end - start + 1) // 2
    parts = np.sqrt(np.stack([part[:half].mean(0), part[half:].mean(0)]))
    parts /= np.linalg.norm(parts, axis=1, keepdims=True) + 1e-9
    heard.append((hue, max(known[hue], key=lambda n: (known[hue][n] * parts).sum())))
  return heard
