"""A step of the mel VAE: it learns, repeats itself, and keeps its weights."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ccl_jax.audio_codec.vae import (
  QUIETEST,
  STATISTICS,
  fresh_vae,
  make_vae_step,
  measure_bands,
)
from ccl_jax.models import audio_vae
from ccl_jax.ops.stft import MODES, log_mel
from ccl_jax.training.optim import ParamGroup, make_optimizer
from tests.audio_codec import one_draw

SIZES = {"bands": 80, "channels": 20, "hidden": 8}


def waves(count=4, samples=8192, seed=0):
  """Tones that swell and fade."""
  rng, time = np.random.default_rng(seed), np.arange(samples) / 16000
  hertz = rng.uniform(200, 3000, (count, 1))
  swell = np.sin(2 * np.pi * rng.uniform(1, 4, (count, 1)) * time) ** 2
  sound = 0.3 * np.sin(2 * np.pi * hertz * time) * swell
  return (sound + 1e-3 * rng.standard_normal(sound.shape)).astype(np.float32)


@pytest.fixture(scope="module")
def run():
  """(state, jitted step) of a small network."""
  shapes = one_draw.shapes_of(**SIZES)
  optimizer = make_optimizer(
    [ParamGroup(STATISTICS, 0.0, 0.0), ParamGroup(".*", 1e-2, 0.0)],
    shapes,
    warmup_steps=2,
    total_steps=1000,
    schedule="constant",
    b1=0.9,
    b2=0.99,
    eps=1e-8,
    clip_norm=1e9,
    moment_dtype="float32",
  )
  statistics = measure_bands(waves())
  fresh = lambda key: fresh_vae(key, SIZES, statistics, optimizer)
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(audio_vae, "init_params", one_draw.init_params)
    state = jax.jit(fresh)(jax.random.key(0))
  step = make_vae_step(
    optimizer, seed=0, ema_decay=0.9, kl_weight=1e-3, modulation_weight=0.2
  )
  return state, jax.jit(step)


def test_the_average_and_the_gradient_are_of_the_new_and_the_old_weights(run):
  """The average follows by (1 + step) / (10 + step) at first: 0.9 of the way here."""
  state, step = run
  new, metrics = step(state, {"wave": jnp.asarray(waves())})
  assert int(new.step) == 1 and metrics["grad_norm"] > 0
  expected = jax.tree.map(lambda e, p: e + 0.9 * (p - e), state.ema, new.params)
  for a, b in zip(jax.tree.leaves(new.ema), jax.tree.leaves(expected)):
    np.testing.assert_allclose(a, b, atol=1e-6)


@pytest.fixture(scope="module")
def trained(run):
  state, step = run
  losses = []
  for i in range(60):
    state, metrics = step(state, {"wave": jnp.asarray(waves(seed=i % 2))})
    losses.append(metrics)
  return state, losses


def test_the_bands_statistics_are_those_of_all_frames():
  sound = waves()
  mean, std = measure_bands(sound)
  mel = np.asarray(log_mel(jnp.asarray(sound), **MODES["16k"])).reshape(-1, 80)
  np.testing.assert_allclose(mean, mel.mean(0), rtol=1e-4)
  np.testing.assert_allclose(std, mel.std(0), rtol=1e-3)
  _, silent = measure_bands(np.zeros((2, 4096), np.float32))
  np.testing.assert_allclose(silent, QUIETEST)
  assert QUIETEST == 0.01


def test_it_learns(trained):
  _, rows = trained
  loss = [float(r["loss"]) for r in rows]
  assert np.mean(loss[-2:]) < 0.75 * np.mean(loss[:2]), loss  # of the same two batches
  terms = {k: float(v) for k, v in rows[-1].items()}
  assert terms.keys() == {
    "loss", "grad_norm", "update_norm", "loss/mel", "loss/kl", "loss/modulation"
  }  # fmt: skip
  total = terms["loss/mel"] + 1e-3 * terms["loss/kl"] + 0.2 * terms["loss/modulation"]
  np.testing.assert_allclose(terms["loss"], total, rtol=1e-5)


def test_statistics_stay_and_weights_stay_on_their_sphere(run, trained):
  first, last = run[0].params, trained[0].params
  for name in ("data_mean", "data_std"):
    np.testing.assert_array_equal(first[name], last[name])
  for path, x in jax.tree_util.tree_leaves_with_path(last):
    if path[-1].key == "weight":
      rms = np.sqrt(np.mean(np.square(x), (0, 1)))
      np.testing.assert_allclose(rms, 1, rtol=1e-5)
  moved = jax.tree.map(lambda a, b: np.abs(a - b).max(), first, last)
  halves = {k: moved[k] for k in ("encoder", "decoder")}
  assert min(jax.tree.leaves(halves)) > 0


def test_a_step_is_its_number(run, trained):
  """The noise of the posterior too: five steps from the same state are the same."""
  state, step = run
  for i in range(5):
    state, metrics = step(state, {"wave": jnp.asarray(waves(seed=i % 2))})
    assert metrics["loss"] == trained[1][i]["loss"]
  other = state._replace(step=state.step + 1)
  batch = {"wave": jnp.asarray(waves(seed=5))}
  assert step(state, batch)[1]["loss"] != step(other, batch)[1]["loss"]
