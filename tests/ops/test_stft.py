"""STFT, mel and Griffin-Lim: the reference's numbers, identities, audible truth."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file

from ccl_jax.errors import UsageError
from ccl_jax.ops import stft

RATE = 16000
# Of MMAudio: (sample rate, window, hop, bands, logarithm).
PUBLISHED = {
  "16k": (16000, 1024, 256, 80, np.log10),
  "44k": (44100, 2048, 512, 128, np.log),
}


def noise(*shape, seed=0):
  return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def test_mel_equals_the_reference(shared):
  case = load_file(shared / "parity/mmaudio_16k/vae_case.safetensors")
  expected = case["mel"].swapaxes(1, 2)
  for mel in (stft.log_mel, jax.jit(stft.log_mel)):
    error = np.abs(mel(jnp.asarray(case["wav"])) - expected).max()
    assert error <= 1e-5 * expected.std()


@pytest.mark.parametrize("mode", PUBLISHED)
def test_mel_equals_librosa(mode):
  """In float64, from its own window, STFT and filters; in a batch, with loud parts."""
  import librosa

  rate, n_fft, hop, bands, log = PUBLISHED[mode]
  louder = np.linspace(0.01, 1.5, 20 * hop)
  wave = np.random.default_rng(4).normal(size=(2, 20 * hop)) * louder
  pad = (n_fft - hop) // 2
  loud = np.pad(np.clip(wave, -1, 1), ((0, 0), (pad, pad)), "reflect")
  sizes = {"n_fft": n_fft, "hop_length": hop, "win_length": n_fft}
  power = np.abs(librosa.stft(loud, **sizes, window="hann", center=False)) ** 2
  filters = librosa.filters.mel(
    sr=rate, n_fft=n_fft, n_mels=bands, fmin=0, fmax=rate / 2
  )
  mel = np.maximum(filters @ np.sqrt(power + 1e-9), 1e-5)
  expected = log(mel).swapaxes(1, 2)
  got = jax.jit(lambda x: stft.log_mel(x, **stft.MODES[mode]))(jnp.float32(wave))
  assert got.shape == expected.shape == (2, 20, bands)
  assert np.abs(got - expected).max() <= 1e-5 * expected.std()


@pytest.mark.parametrize("mode", stft.MODES)
def test_a_click_is_in_the_frame_that_is_centred_on_it(mode):
  """Frame m's centre is sample (m + 1/2) hop: the nearest is the loudest, and the
  centroid of all frames' power is within 0.2 ms of the click.
  """
  rate, n_fft, hop, bands, _ = stft.MODES[mode].values()
  at = np.arange(6 * hop, 8 * hop, hop // 8) + 3
  clicks = (np.arange(14 * hop) == at[:, None]).astype(np.float32)
  sizes = {"sample_rate": rate, "n_fft": n_fft, "hop": hop, "bands": bands}
  mel = jax.jit(lambda x: stft.mel_spectrogram(x, **sizes))(clicks)
  power = np.asarray(mel).sum(-1) ** 2
  np.testing.assert_array_equal(power.argmax(1), at // hop)
  centres = (np.arange(14) + 0.5) * hop
  off = power @ centres / power.sum(1) - at
  assert np.abs(off).max() < 2e-4 * rate, off


def test_lengths():
  """What is left over is cut; too short to reflect is refused."""
  wave = noise(1, 1024 + 255)
  np.testing.assert_array_equal(
    stft.log_mel(wave)[:, :3], stft.log_mel(wave[:, :1280])[:, :3]
  )
  assert stft.log_mel(wave).shape == (1, 4, 80)
  assert stft.log_mel(wave[:, :385]).shape == (1, 1, 80)
  with pytest.raises(UsageError, match="more than 384, got a sound of 384: pad it"):
    stft.log_mel(wave[:, :384])
  with pytest.raises(UsageError, match="more than 768, got a sound of 768"):
    stft.log_mel(wave[:, :768], **stft.MODES["44k"])


@pytest.mark.parametrize("rate, n_fft, bands", [(16000, 1024, 80), (44100, 2048, 128)])
def test_filters_have_unit_area_and_slaney_centres(rate, n_fft, bands):
  fine = 16  # the area of a triangle narrower than a few bins needs a finer grid
  filters = stft.mel_filters(rate, fine * n_fft, bands)
  hertz = np.arange(len(filters)) * rate / (fine * n_fft)
  np.testing.assert_allclose(filters.sum(0) * hertz[1], 1, rtol=0.02)
  np.testing.assert_allclose(filters[::fine], stft.mel_filters(rate, n_fft, bands))
  peaks = hertz[filters.argmax(0)]
  low = np.diff(peaks[peaks < 950])
  high = peaks[1:] / peaks[:-1]
  high = high[peaks[:-1] > 1050]
  assert np.ptp(low) <= 2 * hertz[1]  # equal steps in Hz, then equal ratios
  assert np.ptp(high) < 0.01 and (np.diff(peaks) > 0).all()


def test_a_band_hears_its_own_tone_and_silence_is_the_floor():
  band, time = 30, np.arange(8192) / RATE
  peak = stft.mel_filters(RATE, 1024, 80)[:, band].argmax() * RATE / 1024
  mel = stft.log_mel(jnp.asarray(np.sin(2 * np.pi * peak * time), jnp.float32)[None])
  assert (mel[0, 2:-2].argmax(-1) == band).all()
  silence = jnp.zeros((2, 1024))
  np.testing.assert_allclose(stft.log_mel(silence), -5)
  floor = 1e-9**0.5 * stft.mel_filters(RATE, 1024, 80).sum(0)
  floor = np.broadcast_to(floor, (2, 4, 80))
  np.testing.assert_allclose(stft.mel_spectrogram(silence), floor, rtol=1e-5)


def test_other_mode_has_its_own_sizes_and_clamps_loud_sound():
  mode = stft.MODES["44k"]
  wave = noise(2, 512 * 9)
  mel = stft.log_mel(wave, **mode)
  assert mel.shape == (2, 9, 128)
  np.testing.assert_array_equal(mel, stft.log_mel(jnp.clip(wave, -1, 1), **mode))
  with pytest.raises(AssertionError):
    np.testing.assert_allclose(mel, stft.log_mel(wave / 2, **mode), atol=0.1)


@pytest.mark.parametrize(
  "n_fft, hop, frames", [(1024, 256, 2), (1024, 256, 21), (512, 128, 7)]
)
def test_inverse_is_exact(n_fft, hop, frames):
  wave = noise(3, frames * hop)
  spectrum = stft.stft(wave, n_fft=n_fft, hop=hop)
  assert spectrum.shape == (3, frames, n_fft // 2 + 1)
  np.testing.assert_allclose(stft.istft(spectrum, hop=hop), wave, atol=3e-6)


def test_inverse_is_the_nearest_sound():
  """For a spectrum that no sound has, no change of the answer gets nearer to it."""
  wanted = (noise(1, 9, 513) + 1j * noise(1, 9, 513, seed=1)).at[..., [0, -1]].set(0)
  both_sides = jnp.full(513, 2.0).at[jnp.array([0, -1])].set(1)[None, None]

  def distance(wave):
    return (both_sides * jnp.abs(stft.stft(wave) - wanted) ** 2).sum()

  answer = stft.istft(wanted)
  inside = np.s_[:, 400:-400]  # what reflection does not reach
  slope = jax.grad(distance)(answer)[inside]
  beside = jax.grad(distance)(answer + 0.01 * noise(*answer.shape))[inside]
  assert np.abs(slope).max() < 1e-3 * np.abs(beside).max()


def test_mel_inversion_fits_the_mel():
  time = np.arange(16384) / RATE
  chord = sum(np.sin(2 * np.pi * 150 * k * time) / k for k in range(1, 12)) / 5
  wave = jnp.asarray(chord, jnp.float32)[None] + 0.01 * noise(1, 16384)
  mel = stft.mel_spectrogram(wave)
  amplitude = stft.invert_mel(mel)
  assert (amplitude >= 0).all()
  again = amplitude @ stft.mel_filters(RATE, 1024, 80)
  assert np.abs(again - mel).mean() < 0.03 * mel.mean()


@pytest.fixture(scope="module")
def rebuild():
  def through_mel(x):
    return stft.griffin_lim(stft.invert_mel(stft.mel_spectrogram(x)))

  return jax.jit(through_mel)


def test_tones_come_back(rebuild):
  """Pitch within half a mel band (19 Hz), loudness within 1.5 dB, exact length."""
  time = np.arange(512 * 21) / RATE
  pitches = np.array([233.0, 440.0, 910.0])[:, None]
  wave = jnp.asarray(0.3 * np.sin(2 * np.pi * pitches * time), jnp.float32)
  back = np.asarray(rebuild(wave))
  assert back.shape == wave.shape
  spectrum = np.abs(np.fft.rfft(back * np.hanning(len(time)), 8 * len(time)))
  found = spectrum.argmax(1) * RATE / 8 / len(time)
  np.testing.assert_allclose(found, pitches[:, 0], atol=19)
  level = 20 * np.log10(back.std(1) / np.asarray(wave).std(1))
  assert np.abs(level).max() < 1.5


def test_clicks_come_back_in_time(rebuild):
  """Random clicks, over a hum: the time of each within 2 ms (a frame is 16 ms)."""
  rng, time = np.random.default_rng(3), np.arange(512 * 21) / RATE
  count = 12
  at, decay, pitch = (
    rng.uniform(*ends, (count, 1)) for ends in ((0.2, 0.45), (0.002, 0.01), (600, 5000))
  )
  since = np.maximum(time - at, 0)
  click = 0.5 * np.exp(-since / decay) * np.sin(2 * np.pi * pitch * since)
  hum = 0.02 * np.sin(2 * np.pi * 120 * time)
  back = np.asarray(rebuild(jnp.asarray(click + hum, jnp.float32)))
  error = [delay(b, c) for b, c in zip(back, click)]
  assert np.abs(error).max() < 2e-3, error


def delay(found, expected):
  """Seconds by which one envelope is later than the other, by cross-correlation."""
  smooth = np.hanning(33)
  a, b = (np.sqrt(np.convolve(x**2, smooth, "same")) for x in (found, expected))
  lags = np.arange(-160, 161)
  return lags[np.argmax([np.roll(b, lag) @ a for lag in lags])] / RATE


def test_batch_rows_are_independent_and_mel_is_differentiable(rebuild):
  wave = 0.1 * noise(2, 4096)
  alone = rebuild(wave.at[0].set(0))
  np.testing.assert_allclose(rebuild(wave)[1], alone[1], atol=1e-5)
  assert np.isfinite(alone).all() and np.abs(alone[0]).max() < 1e-4
  gradient = jax.grad(lambda x: stft.log_mel(x).sum())(jnp.zeros((1, 1024)))
  assert np.isfinite(gradient).all()
