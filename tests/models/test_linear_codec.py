"""The embedded codecs: projections, causality, and that sound and motion survive."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ccl_jax.models.linear_codec import (
  Moments,
  VideoFit,
  fit_audio,
  half_whitened,
  principal,
)
from ccl_jax.ops.stft import mel_spectrogram

RATE = 16000
encode = jax.jit(lambda codec, x: codec.encode(x))
decode = jax.jit(lambda codec, z: codec.decode(z))


def fit_video(videos):
  fit = VideoFit()
  for video in videos:
    fit.add(video)
  return fit.codec()


def assert_orthonormal(basis):
  basis = np.asarray(basis, np.float64)
  np.testing.assert_allclose(basis.T @ basis, np.eye(basis.shape[1]), atol=1e-6)


def test_principal_directions_by_hand():
  """Largest first, and of either sign the one whose largest entry is positive."""
  turn = np.array([[-0.6, 0.8, 0], [0.8, 0.6, 0], [0, 0, -1]])
  covariance = turn @ np.diag([4.0, 9.0, 1.0]) @ turn.T
  expected = np.array([[0.8, 0.6, 0], [-0.6, 0.8, 0]]).T
  np.testing.assert_allclose(principal(covariance, 2), expected, atol=1e-12)
  for seed in range(9):  # of a library's choice
    x = np.random.default_rng(seed).normal(size=(5, 4))
    basis = principal(x.T @ x, 4)
    assert (basis.max(0) == np.abs(basis).max(0)).all()


def test_scales_by_hand():
  """Deviations 2, 1 and 3 of mean 2, each halved on a logarithmic scale; a direction
  without variance counts as a thousandth of the largest.
  """
  scale = half_whitened(np.eye(3), np.diag([4.0, 1.0, 9.0]))
  np.testing.assert_allclose(scale**2, [4, 2, 6])
  scale = half_whitened(np.eye(2), np.diag([4.0, 0.0]))
  np.testing.assert_allclose(scale**2, [2 * 1.001, 0.002 * 1.001])


def test_moments_are_weighted_and_stream():
  moments = Moments(2)
  moments.add(np.array([[1.0, 2.0], [3.0, 0.0]]), np.array([1.0, 3.0]))
  moments.add(np.array([[5.0, 4.0]]), np.array([4.0]))
  np.testing.assert_allclose(moments.mean(), [30 / 8, 18 / 8])
  # Around (1, 0): rows (0, 2), (2, 0), (4, 4) of weights 1, 3, 4.
  expected = np.array([[12 + 64, 64], [64, 4 + 64]]) / 8
  np.testing.assert_allclose(moments.around(np.array([1.0, 0.0])), expected)


def subspace(rows, count):
  """The projector on the directions of most energy."""
  directions = np.linalg.svd(rows, full_matrices=False)[2][:count]
  return directions.T @ directions


def test_a_fit_of_videos_is_principal_components():
  """Of the groups' mean pictures around their mean, and of changes within groups, in
  which a group counts by the energy of its change. Frame 0 is a group of four stills.
  """
  rng = np.random.default_rng(4)
  strength = rng.uniform(0, 1, 192) ** 4  # so that ten directions stand out
  videos, groups = [], []
  for _ in range(3):
    video = np.zeros((9, 16, 24, 3), np.float32)
    for y, x in np.ndindex(2, 3):
      patch = (0.4 * strength * rng.normal(size=(9, 192))).reshape(9, 8, 8, 3) - 0.2
      video[:, 8 * y : 8 * y + 8, 8 * x : 8 * x + 8] = patch
      flat = video[:, 8 * y : 8 * y + 8, 8 * x : 8 * x + 8].reshape(9, 192)
      groups += [np.repeat(flat[:1], 4, 0), flat[1:5], flat[5:]]
    videos.append(video)
  groups = np.array(groups, np.float64)
  pictures = groups.mean(1)
  change = (groups - pictures[:, None]).reshape(len(groups), -1)
  weight = np.linalg.norm(change, axis=1, keepdims=True)
  codec = fit_video(videos)
  basis = np.asarray(codec.basis, np.float64)
  close = functools.partial(np.testing.assert_allclose, atol=1e-5)
  close(codec.mean, np.tile(pictures.mean(0), 4))
  still = basis[:, :10].reshape(4, 192, 10)
  close(still - still.mean(0), 0)
  close(4 * still[0] @ still[0].T, subspace(pictures - pictures.mean(0), 10))
  close(basis[:, 10:] @ basis[:, 10:].T, subspace(weight * change, 6))
  rows = groups.reshape(len(groups), -1) - np.asarray(codec.mean)
  deviation = np.sqrt(np.mean((rows @ basis) ** 2, 0))
  np.testing.assert_allclose(codec.scale**2, deviation * deviation.mean(), rtol=1e-4)


@pytest.mark.parametrize(
  ("rows", "columns", "seen"),
  [(128, 128, 16384), (5, 3277, 8193)],  # all of 16384 groups; each second of one more
)
def test_of_a_large_video_some_groups_are_enough(rows, columns, seen):
  fit = VideoFit()
  fit.add(np.zeros((1, 8 * rows, 8 * columns, 3), np.uint8))
  assert fit.rows.weight == seen


def test_a_fit_of_sounds_is_principal_components():
  """Of pairs of frames of mel^0.2: half by all alike, half by their changes."""
  waves = [mixture(np.random.default_rng(s), 16) for s in range(4)]
  rows = np.concatenate(
    [
      np.asarray(mel_spectrogram(jnp.asarray(w)[None])[0], np.float64) ** 0.2
      for w in waves
    ]
  ).reshape(-1, 160)
  mean = rows.mean(0)
  weight = np.sum((rows[:, 80:] - rows[:, :80]) ** 2, 1)
  weight = 1 / len(rows) + weight / weight.sum()
  codec = fit_audio(waves)
  basis = np.asarray(codec.basis, np.float64)
  np.testing.assert_allclose(codec.mean, mean, atol=1e-5)
  expected = subspace(np.sqrt(weight)[:, None] * (rows - mean), 20)
  np.testing.assert_allclose(basis @ basis.T, expected, atol=1e-4)
  deviation = np.sqrt(np.mean(((rows - mean) @ basis) ** 2, 0))
  np.testing.assert_allclose(codec.scale**2, deviation * deviation.mean(), rtol=1e-3)


def moving_discs(rng, frames=17, height=32, width=48):
  """A coloured disc that drifts over a ramp, and one in place that opens and shuts."""
  t = np.arange(frames)[:, None, None] / 25
  y, x = np.mgrid[:height, :width][:, None]
  colours = rng.uniform(-0.9, 0.9, (2, 3))
  (y0, y1), (x0, x1) = (rng.uniform(0.2, 0.8, 2) * side for side in (height, width))
  vy, vx = rng.uniform(-30, 30, 2)
  opening = 3 * (1 + np.sin(2 * np.pi * (rng.uniform(3, 5) * t + rng.uniform())))
  drift = np.clip(5 - np.hypot(y - y0 - vy * t, x - x0 - vx * t), 0, 1)
  mouth = np.clip(opening - np.hypot(y - y1, x - x1), 0, 1)
  ground = rng.uniform(-0.5, 0.5) + rng.uniform(-0.01, 0.01) * x + 0 * t
  video = np.repeat(ground[..., None], 3, -1)
  for cover, colour in zip((drift, mouth), colours):
    video += cover[..., None] * (colour - video)
  return video.astype(np.float32)


@pytest.fixture(scope="module")
def video_codec():
  rng = np.random.default_rng(0)
  return fit_video(moving_discs(rng) for _ in range(40))


@pytest.fixture(scope="module")
def videos():
  rng = np.random.default_rng(1)
  return jnp.asarray([moving_discs(rng) for _ in range(3)])


@pytest.mark.parametrize(
  "frames, height, width", [(1, 8, 8), (5, 16, 40), (33, 32, 32)]
)
def test_video_sizes(video_codec, frames, height, width):
  pixels = jnp.zeros((2, frames, height, width, 3))
  latent = encode(video_codec, pixels)
  assert latent.shape == (2, (frames - 1) // 4 + 1, height // 8, width // 8, 16)
  assert decode(video_codec, latent).shape == pixels.shape


def test_video_code_is_the_nearest_and_coding_is_idempotent(video_codec, videos):
  assert_orthonormal(video_codec.basis)
  latent = 0.2 * encode(video_codec, videos)  # dull: nothing is clipped
  once = decode(video_codec, latent)
  assert np.abs(once).max() < 1
  np.testing.assert_allclose(encode(video_codec, once), latent, atol=1e-5)
  rng = np.random.default_rng(2)
  error = float(
    ((decode(video_codec, encode(video_codec, videos)) - videos) ** 2).mean()
  )
  for _ in range(3):
    other = encode(video_codec, videos) + 0.05 * rng.standard_normal(latent.shape)
    assert ((decode(video_codec, other) - videos) ** 2).mean() > error


def test_any_latent_is_shown_as_the_nearest_that_can_be(video_codec):
  """Channels that say change within a group mean nothing in frame 0, and only there."""
  latent = 0.05 * jax.random.normal(jax.random.key(3), (2, 3, 2, 3, 16))
  back = encode(video_codec, decode(video_codec, latent))
  np.testing.assert_allclose(back, latent.at[:, 0, ..., 10:].set(0), atol=1e-5)


def test_video_latents_suit_a_diffusion_model(video_codec):
  """Near mean 0 and variance 1, no channel far from either."""
  rng = np.random.default_rng(3)
  fresh = jnp.asarray([moving_discs(rng, frames=9) for _ in range(40)])
  latent = np.asarray(encode(video_codec, fresh))[:, 1:].reshape(-1, 16)
  assert np.abs(latent.mean(0)).max() < 0.5
  assert 0.6 < (latent**2).mean() < 1.6
  assert latent.std(0).min() > 0.3 and latent.std(0).max() < 3


def test_a_still_video_has_one_latent_in_all_frames(video_codec, videos):
  still = jnp.repeat(videos[:, 3:4], 9, axis=1)
  latent = encode(video_codec, still)
  for frame in range(1, 3):
    np.testing.assert_allclose(latent[:, frame], latent[:, 0], atol=1e-5)
  alone = encode(video_codec, videos[:, 3:4])
  np.testing.assert_allclose(alone, latent[:, :1], atol=1e-5)
  shown = decode(video_codec, latent)
  np.testing.assert_allclose(shown, jnp.repeat(shown[:, :1], 9, axis=1), atol=1e-5)


def test_video_is_causal_frame_zero_alone(video_codec, videos):
  later = videos.at[:, 5:].set(-videos[:, 5:])
  a, b = encode(video_codec, videos), encode(video_codec, later)
  np.testing.assert_array_equal(a[:, :2], b[:, :2])
  assert np.abs(a[:, 2] - b[:, 2]).max() > 0.1
  first = decode(video_codec, a[:, :1])
  np.testing.assert_allclose(first, decode(video_codec, a)[:, :1], atol=1e-6)


def test_a_mouth_still_moves_within_a_group(video_codec):
  """Brightness where the disc opens and shuts at 4 Hz, within each group of four."""
  rng = np.random.default_rng(7)
  video = np.zeros((33, 16, 16, 3), np.float32)
  t, (y, x) = np.arange(33) / 25, np.mgrid[:16, :16]
  opening = 3 * (1 + np.sin(2 * np.pi * (4 * t + rng.uniform())))
  cover = np.clip(opening[:, None, None] - np.hypot(y - 8.5, x - 6.5), 0, 1)
  video -= 0.8 * cover[..., None]
  back = np.asarray(decode(video_codec, encode(video_codec, jnp.asarray(video)[None])))
  a, b = (v[1:].mean((1, 2, 3)).reshape(-1, 4) for v in (video, back[0]))
  a, b = (v - v.mean(1, keepdims=True) for v in (a, b))
  assert np.corrcoef(a.ravel(), b.ravel())[0, 1] > 0.9
  assert 0.7 < (a * b).sum() / (a * a).sum() < 1.2


def test_uint8_and_float_fit_alike(video_codec, videos):
  pixels = np.round((np.asarray(videos) + 1) * 127.5).astype(np.uint8)
  a = fit_video(pixels)
  b = fit_video(pixels / np.float32(127.5) - 1)
  jax.tree.map(np.testing.assert_array_equal, a, b)


@pytest.mark.parametrize("video", [np.full((1, 8, 8, 3), 7, np.uint8), "one clip"])
def test_poor_data_still_give_a_codec(video, videos):
  """One constant patch; one short clip: fewer samples than dimensions."""
  video = np.asarray(videos[0, :5, :8, :16]) if isinstance(video, str) else video
  codec = fit_video([video])
  pixels = video if video.dtype == np.float32 else video / np.float32(127.5) - 1
  latent = encode(codec, jnp.asarray(pixels)[None])
  assert np.isfinite(latent).all()
  np.testing.assert_allclose(decode(codec, latent)[0], pixels, atol=0.1)
  assert np.isfinite(decode(codec, 5 + latent)).all()
  assert_orthonormal(codec.basis)


def time_of(tokens=16):
  return np.arange(512 * tokens) / RATE


def knock(rng, at, tokens):
  """A burst of noise at a time (seconds) that dies away in 3 ms."""
  since = time_of(tokens) - at
  burst = np.exp(-np.abs(since) / 0.003) * rng.standard_normal(len(since))
  return np.where(since >= 0, burst, 0)


def mixture(rng, tokens=16):
  """A harmonic tone that starts and stops, a knock, and a little noise."""
  t = time_of(tokens)
  start, pitch = rng.uniform(0, t[-1]), rng.uniform(120, 400)
  tone = sum(np.sin(2 * np.pi * pitch * k * t) / k for k in range(1, 8))
  tone *= np.clip((t - start) / 0.02, 0, 1) * np.clip((start + 0.2 - t) / 0.02, 0, 1)
  loud, hit = rng.uniform(0.05, 0.3, 2)
  wave = loud * tone + hit * knock(rng, rng.uniform(0, t[-1]), tokens)
  return (wave + 0.003 * rng.standard_normal(len(t))).astype(np.float32)


@pytest.fixture(scope="module")
def audio_codec():
  rng = np.random.default_rng(0)
  return fit_audio(mixture(rng) for _ in range(80))


def through(codec, wave):
  return np.asarray(decode(codec, encode(codec, jnp.asarray(wave, jnp.float32))))


def decibels(ratio):
  return 20 * np.log10(ratio)


def test_tones_keep_pitch_and_loudness(audio_codec):
  t = time_of(8)[None]
  pitch, level = np.array([[160.0], [250.0], [390.0]]), np.array([[0.2], [0.05], [0.1]])
  wave = level * sum(np.sin(2 * np.pi * pitch * k * t) / k for k in range(1, 8))
  back = through(audio_codec, wave)
  assert back.shape == wave.shape
  assert np.abs(decibels(back.std(1) / wave.std(1))).max() < 3
  spectrum = np.abs(np.fft.rfft(back * np.hanning(t.size), 8 * t.size))
  found = spectrum.argmax(1) * RATE / 8 / t.size
  np.testing.assert_allclose(found, pitch[:, 0], atol=19)  # half a mel band


def test_knocks_keep_their_time_and_loudness(audio_codec):
  """Within 2 ms, a sixteenth of a token."""
  rng = np.random.default_rng(5)
  knocks = np.array([0.3 * knock(rng, at, 8) for at in rng.uniform(0.06, 0.19, 10)])
  wave = knocks + 0.003 * rng.standard_normal(knocks.shape)
  back = through(audio_codec, wave)
  assert np.abs(decibels(back.std(1) / wave.std(1))).max() < 3
  smooth, lags = np.hanning(65), np.arange(-160, 161)
  for found, true in zip(back, knocks):
    a, b = (np.sqrt(np.convolve(x**2, smooth, "same")) for x in (found, true))
    late = lags[np.argmax([np.roll(b, lag) @ a for lag in lags])] / RATE
    assert abs(late) < 2e-3


def test_silence_stays_silent_and_wild_latents_stay_finite(audio_codec):
  quiet = through(audio_codec, np.zeros((1, 512 * 4)))
  assert np.abs(quiet).max() < 1e-4
  wild = 100 * jax.random.normal(jax.random.key(0), (2, 4, 20))
  wave = np.asarray(decode(audio_codec, wild))
  assert np.isfinite(wave).all() and np.abs(wave).max() <= 1
  deaf = fit_audio([np.zeros(512, np.float32)])
  assert np.abs(through(deaf, np.zeros((1, 1024)))).max() < 1e-3
  assert np.isfinite(through(deaf, 0.3 * np.ones((1, 1024)))).all()


def test_audio_code_is_the_nearest_mel(audio_codec):
  assert_orthonormal(audio_codec.basis)
  latent = np.concatenate(
    [
      encode(audio_codec, mixture(np.random.default_rng(s))[None])
      for s in range(90, 98)
    ]
  )
  assert latent.shape == (8, 16, 20) and 0.5 < (latent**2).mean() < 2


def test_rows_of_a_batch_are_independent_and_jit_equals_eager(
  video_codec, audio_codec, videos
):
  waves = jnp.asarray([mixture(np.random.default_rng(s), 3) for s in (50, 51)])
  for codec, x in ((video_codec, videos[:2, :5]), (audio_codec, waves)):
    latent = encode(codec, x)
    np.testing.assert_allclose(latent, codec.encode(x), atol=1e-5)
    np.testing.assert_allclose(latent[1:], encode(codec, x[1:]), atol=1e-5)
    changed = decode(codec, latent.at[0].set(3))
    np.testing.assert_allclose(decode(codec, latent)[1], changed[1], atol=1e-4)
  np.testing.assert_allclose(
    decode(video_codec, encode(video_codec, videos)),
    video_codec.decode(video_codec.encode(videos)),
    atol=1e-5,
  )
  mel = audio_codec.decode_mel(audio_codec.encode(waves))
  jitted = jax.jit(lambda c, x: c.decode_mel(c.encode(x)))(audio_codec, waves)
  np.testing.assert_allclose(mel, jitted, rtol=1e-3, atol=1e-5)
