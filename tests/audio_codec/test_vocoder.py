"""Steps of the vocoder and its discriminators: who moves, what counts, what falls."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ccl_jax.audio_codec.vocoder import (
  fresh_gan,
  gan_optimizer,
  make_vocoder_step,
  mel_of,
)
from ccl_jax.models import audio_vae, gan_losses
from ccl_jax.models.discriminators import Discriminators
from ccl_jax.models.vocoder import Generator
from ccl_jax.ops.stft import log_mel
from ccl_jax.ops.weight_norm import join

SAMPLES = 4096
GENERATOR = Generator(
  bands=80, channels=16, rates=(256,), kernels=(512,), blocks=((3, (1,)),)
)
CRITIC = Discriminators(width=1, periods=(2,), resolutions=((512, 50, 240),))
OPTIMIZER = gan_optimizer(
  lr=2e-3,
  decay=0.999,
  warmup_steps=0,
  b1=0.8,
  b2=0.99,
  weight_decay=0.01,
  clip_norm=1e3,
)
NETWORKS = ("params", "opt_state", "ema")
CRITICS = ("critic", "critic_opt_state")


def batch(seed=0):
  rng, time = np.random.default_rng(seed), np.arange(SAMPLES) / 16000
  sound = 0.3 * np.sin(2 * np.pi * rng.uniform(200, 3000, (2, 1)) * time)
  return {"wave": jnp.asarray(sound + 0.01 * rng.standard_normal(sound.shape), "f4")}


def make(**options):
  options = {"ema_decay": 0.5, "spectral_weight": 2.0, "spectral_floor": 1e-9} | options
  return jax.jit(make_vocoder_step(GENERATOR, CRITIC, OPTIMIZER, **options))


@pytest.fixture(scope="module")
def state():
  fresh = lambda key: fresh_gan(key, GENERATOR, CRITIC, SAMPLES, OPTIMIZER)
  return jax.jit(fresh)(jax.random.key(0))


@pytest.fixture(scope="module")
def against():
  return make(adversary=True)


def same(a, b):
  equal = jax.tree.map(np.array_equal, a, b)
  return all(jax.tree.leaves(equal))


def all_moved(a, b):
  still = jax.tree.map(np.array_equal, a, b)
  return not any(jax.tree.leaves(still))


def test_without_an_adversary_the_critic_rests_and_the_loss_falls(state):
  step, losses, now = make(adversary=False), [], state
  for i in range(24):
    now, metrics = step(now, batch(i % 4))
    losses.append(float(metrics["loss"]))
  assert metrics.keys() == {
    "loss",
    "grad_norm",
    "update_norm",
    "loss/mel",
    "loss/bands",
    "loss/bins",
  }
  total = 45 * metrics["loss/mel"]
  total += 2.0 * (metrics["loss/bands"] + metrics["loss/bins"])
  np.testing.assert_allclose(metrics["loss"], total, rtol=1e-5)
  assert np.mean(losses[-4:]) < 0.7 * np.mean(losses[:2]), losses
  for name in CRITICS:
    assert same(getattr(now, name), getattr(state, name))
  for name in NETWORKS:
    assert not same(getattr(now, name), getattr(state, name))
  assert int(now.step) == 24


@jax.jit
def by_hand(state, wave):
  """(loss and updated parameters of the critic, the generator's published loss of it
  and its terms), from the formulas.
  """
  fake = GENERATOR.apply({"params": join(state.params)}, log_mel(wave))
  judge = lambda params, x: CRITIC.apply({"params": join(params)}, x)
  discriminate = lambda params: gan_losses.discrimination(
    judge(params, wave), judge(params, fake)
  )
  loss, gradient = jax.value_and_grad(discriminate)(state.critic)
  updates, _ = OPTIMIZER.update(gradient, state.critic_opt_state, state.critic)
  new = jax.tree.map(jnp.add, state.critic, updates)
  total, terms = gan_losses.generation(fake, wave, judge(new, wave), judge(new, fake))
  return loss, new, total, terms


def test_each_network_is_moved_by_its_own_loss(state, against):
  """The critic as if there were no generator to train; and the generator answers to the
  critic that has been moved.
  """
  new, metrics = against(state, batch())
  loss, critic, total, terms = by_hand(state, batch()["wave"])
  assert all_moved(new.critic, state.critic) and not same(new.params, state.params)
  for got, expected in zip(*map(jax.tree.leaves, (new.critic, critic))):
    np.testing.assert_allclose(got, expected, atol=2e-5)
  np.testing.assert_allclose(metrics["loss/critic"], loss, rtol=1e-4)
  total += 2.0 * (metrics["loss/bands"] + metrics["loss/bins"])
  np.testing.assert_allclose(metrics["loss"], total, rtol=1e-4)
  for name, term in terms.items():
    np.testing.assert_allclose(metrics[f"loss/{name}"], term, rtol=1e-3)


def test_without_spectra_the_loss_is_the_published_one(state):
  """45 mel, and no more terms than that."""
  step = make(adversary=False, spectral_weight=0.0)
  _, metrics = jax.eval_shape(step, state, batch())
  assert metrics.keys() == {"loss", "grad_norm", "update_norm", "loss/mel"}


def test_the_average_follows(state, against):
  """From the first steps on by (1 + step) / (10 + step), here below the decay."""
  new, _ = against(state, batch())
  expected = jax.tree.map(lambda e, p: e + 0.9 * (p - e), state.ema, new.params)
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), new.ema, expected
  )


def test_mels_of_a_vae_are_what_it_decodes():
  rng, sizes = np.random.default_rng(3), {"bands": 80, "channels": 20, "hidden": 4}
  init = functools.partial(audio_vae.init_params, **sizes)
  # Drawn by numpy: a program for every shape takes long.
  vae = jax.tree.map(
    lambda x: np.float32(
      rng.standard_normal(x.shape) if x.ndim == 3 else np.zeros(x.shape)
    ),
    jax.eval_shape(init, jax.random.key(0)),
  ) | {"data_std": np.ones(80, np.float32)}

  @jax.jit
  def both(vae, wave):
    mel = log_mel(wave)
    decoded = audio_vae.decode(vae, audio_vae.encode_mel(vae, mel)[0])
    return mel, mel_of(wave, None), decoded, mel_of(wave, vae)

  mel, plain, decoded, through = both(vae, batch()["wave"])
  np.testing.assert_array_equal(plain, mel)
  np.testing.assert_allclose(through, decoded, atol=1e-5)
  assert np.abs(decoded - mel).max() > 0.1


@pytest.mark.parametrize(
  ("warmup", "expected"), [(0, (1, 0.5, 0.25)), (2, (0.5, 0.5, 0.25))]
)
def test_the_rate_rises_and_falls_in_every_step(warmup, expected):
  optimizer = gan_optimizer(
    lr=1.0,
    decay=0.5,
    warmup_steps=warmup,
    b1=0.8,
    b2=0.99,
    weight_decay=0.0,
    clip_norm=1e9,
  )
  x, moments = jnp.ones(()), optimizer.init(jnp.ones(()))
  sizes = []
  for _ in range(3):
    update, moments = optimizer.update(jnp.ones(()), moments, x)
    sizes.append(float(update))
  np.testing.assert_allclose(sizes, -np.array(expected), rtol=1e-4)


def test_the_optimizer_is_adamw_behind_a_clip():
  """Two steps in numbers: gradients of norm 5 are cut to 2, moments are of 0.8 and
  0.99, weights decay at the rate, which falls by a tenth.
  """
  optimizer = gan_optimizer(
    lr=0.1, decay=0.9, warmup_steps=0, b1=0.8, b2=0.99, weight_decay=0.05, clip_norm=2.0
  )
  x, gradients = np.array([1.0, -2.0]), (np.array([3.0, 4.0]), np.array([0.5, -1.0]))
  moments, m, v = optimizer.init(jnp.asarray(x)), 0.0, 0.0
  for t, gradient in enumerate(gradients):
    update, moments = optimizer.update(jnp.asarray(gradient), moments, jnp.asarray(x))
    g = gradient * min(1, 2 / np.sqrt((gradient**2).sum()))
    m, v = 0.8 * m + 0.2 * g, 0.99 * v + 0.01 * g**2
    best = m / (1 - 0.8 ** (t + 1)) / np.sqrt(v / (1 - 0.99 ** (t + 1)))
    expected = -0.1 * 0.9**t * (best + 0.05 * x)
    np.testing.assert_allclose(update, expected, rtol=1e-5)
    x = x + expected
