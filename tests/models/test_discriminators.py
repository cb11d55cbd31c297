"""Discriminators and their losses: the reference's numbers, and a step of training."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ccl_jax.errors import UsageError
from ccl_jax.models import gan_losses
from ccl_jax.models.discriminators import Discriminators, amplitudes
from ccl_jax.ops.weight_norm import join, split
from tests.parity import bigvgan_reference as reference

SMALL = Discriminators(
  width=2, resolutions=((64, 12, 40), (128, 25, 128), (96, 10, 48))
)
SAMPLES = 400  # divided by 2 and 5, not by 3, 7 and 11
apply = jax.jit(lambda params, wave: SMALL.apply({"params": params}, wave))


def waves(seed=0):
  rng = np.random.default_rng(seed)
  return jnp.asarray(0.3 * rng.standard_normal((2, SAMPLES)), jnp.float32)


@pytest.fixture(scope="module")
def params():
  shapes = jax.eval_shape(SMALL.init, jax.random.key(0), waves())["params"]
  rng = np.random.default_rng(1)

  def draw(x):
    fan = np.prod(x.shape[:-1]) if len(x.shape) > 1 else 4
    return jnp.asarray(1.5 * rng.standard_normal(x.shape) * fan**-0.5, jnp.float32)

  return jax.tree.map(draw, shapes)


@pytest.fixture(scope="module")
def outputs(params):
  """Of two waves, the first of which plays the real one."""
  return apply(params, waves(0)), apply(params, waves(1))


@pytest.fixture(scope="module")
def theirs(params):
  """(scores and maps of both waves) by the reference with the same kernels."""
  module = reference.load("discriminators")
  import torch

  attributes = reference.load("env").AttrDict(
    discriminator_channel_mult=SMALL.width / 32,
    use_spectral_norm=False,
    mpd_reshapes=list(SMALL.periods),
    resolutions=[list(r) for r in SMALL.resolutions],
  )
  both = module.MultiPeriodDiscriminator, module.MultiResolutionDiscriminator
  networks = [network(attributes).eval() for network in both]
  names = [f"period_{p}" for p in SMALL.periods]
  names += [f"resolution_{i}" for i in range(len(SMALL.resolutions))]
  for name, network in zip(names, [d for n in networks for d in n.discriminators]):
    layers = [*network.convs, network.conv_post]
    for ours, layer in zip([f"conv_{i}" for i in range(5)] + ["last"], layers):
      torch.nn.utils.remove_weight_norm(layer)
      kernel = np.asarray(params[name][ours]["kernel"])
      with torch.no_grad():
        layer.weight.copy_(torch.tensor(kernel).permute(3, 2, 0, 1))
        layer.bias.copy_(torch.tensor(np.asarray(params[name][ours]["bias"])))
  real, generated = (torch.tensor(np.asarray(waves(i)))[:, None] for i in (0, 1))
  with torch.no_grad():
    results = [network(real, generated) for network in networks]
  # (real scores, generated scores, real maps, generated maps) of all discriminators
  return [a + b for a, b in zip(*results)]


def test_scores_and_maps_are_the_reference(outputs, theirs):
  for i, ours in enumerate(outputs):
    assert len(ours) == 8
    for (scores, maps), score, features in zip(ours, theirs[i], theirs[2 + i]):
      pairs = [(scores, score.numpy())]
      pairs += [(x, y.permute(0, 2, 3, 1).numpy()) for x, y in zip(maps, features)]
      assert len(maps) == len(features) == 6
      for x, y in pairs:
        assert x.shape == y.shape
        assert np.abs(x - y).max() < 1e-4 * y.std()


def test_losses_are_the_reference(outputs, theirs):
  module = reference.load("loss")
  scores, others, maps, other_maps = theirs

  @jax.jit
  def losses(real, generated):
    matching = gan_losses.feature_matching(real, generated)
    return {
      "discrimination": gan_losses.discrimination(real, generated),
      "adversarial": gan_losses.adversarial(generated),
      "matching": gan_losses.MATCHING * matching,
    }

  got = losses(*outputs)
  total, _, _ = module.discriminator_loss(scores, others)
  np.testing.assert_allclose(got["discrimination"], total, rtol=1e-4)
  total, _ = module.generator_loss(others)
  np.testing.assert_allclose(got["adversarial"], total, rtol=1e-4)
  total = module.feature_loss(maps, other_maps)
  np.testing.assert_allclose(got["matching"], total, rtol=1e-4)


def test_the_published_sizes():
  """Parameters of HiFi-GAN's five periods and UnivNet's three resolutions."""
  published = Discriminators()
  assert published.periods == (2, 3, 5, 7, 11)
  assert published.resolutions == ((1024, 120, 600), (2048, 240, 1200), (512, 50, 240))
  shapes = jax.eval_shape(
    Discriminators().init, jax.random.key(0), jnp.zeros((1, 4096))
  )["params"]
  count = lambda part: sum(
    x.size for name in shapes if part in name for x in jax.tree.leaves(shapes[name])
  )
  assert (count("period"), count("resolution")) == (41_092_165, 280_419)


def test_amplitudes_are_the_transform_frame_by_frame():
  n_fft, hop, window = SMALL.resolutions[0]
  wave = waves()
  padded = np.pad(wave, ((0, 0), ((n_fft - hop) // 2,) * 2), "reflect")
  got = amplitudes(wave, n_fft, hop, window)
  assert got.shape == (2, (padded.shape[1] - n_fft) // hop + 1, n_fft // 2 + 1)
  box = np.pad(np.ones(window), (n_fft - window) // 2)
  for m in range(got.shape[1]):
    frame = padded[:, m * hop : m * hop + n_fft] * box
    np.testing.assert_allclose(got[:, m], np.abs(np.fft.rfft(frame)), atol=1e-4)
  with pytest.raises(UsageError, match="needs more than 26, got a sound of 26"):
    amplitudes(wave[:, :26], n_fft, hop, window)


def test_losses_of_what_is_perfect():
  """Scores of 1 for real and 0 for generated sound cost the discriminators nothing, and
  scores of 1 and equal maps the generator.
  """
  ones, zeros, map_ = jnp.ones((2, 3)), jnp.zeros((2, 3)), [jnp.ones((2, 4, 1, 1))]
  real, fooled, caught = [(ones, map_)], [(ones, map_)], [(zeros, map_)]
  assert gan_losses.discrimination(real, caught) == 0
  assert gan_losses.discrimination(real, fooled) == 1
  assert gan_losses.adversarial(fooled) == 0 and gan_losses.adversarial(caught) == 1
  sound = jnp.tile(0.3 * waves(), 6)
  generation = jax.jit(gan_losses.generation)
  total, terms = generation(sound, sound, real, fooled)
  assert total == 0 and terms.keys() == {"adversarial", "feature_matching", "mel"}
  total, terms = generation(2 * sound, sound, real, caught)
  np.testing.assert_allclose(terms["mel"], np.log(2), rtol=1e-3)  # natural logarithm
  np.testing.assert_allclose(total, 1 + 45 * np.log(2), rtol=1e-3)
  apart = [(zeros, [3 * x for x in map_])]  # maps of 1 and of 3, counted twice
  total, _ = generation(sound, sound, real, apart)
  np.testing.assert_allclose(total, 1 + 2 * 2)


def test_a_step_of_both_helps_both(params):
  """With weight norm; on silence too, gradients are finite. One of each sort."""
  few = dataclasses.replace(SMALL, periods=(3,), resolutions=SMALL.resolutions[:1])
  params = {name: params[name] for name in ("period_3", "resolution_0")}
  real, generated = waves(0), waves(1).at[1].set(0)
  loss = lambda train, wave: gan_losses.discrimination(
    *(few.apply({"params": join(train)}, x) for x in (real, wave))
  )
  fooling = lambda wave, train: gan_losses.adversarial(
    few.apply({"params": join(train)}, wave)
  )
  train = jax.jit(split)(params)
  step = jax.jit(jax.value_and_grad(loss))
  before, grads = step(train, generated)
  assert all(np.isfinite(g).all() for g in jax.tree.leaves(grads))
  train, grads = jax.device_get((train, grads))  # numpy needs no program by shape
  after, _ = step(jax.tree.map(lambda x, g: x - 1e-3 * g, train, grads), generated)
  assert after < before
  step = jax.jit(jax.value_and_grad(fooling))
  before, grad = step(generated, train)
  assert np.isfinite(grad).all() and np.any(grad)
  assert step(generated - 1e-3 * grad, train)[0] < before


def test_a_discriminator_does_not_depend_on_the_others(params, outputs):
  alone = dataclasses.replace(SMALL, periods=(3,), resolutions=())
  ((scores, _),) = jax.jit(alone.apply)({"params": params}, waves(0))
  np.testing.assert_allclose(scores, outputs[0][1][0], atol=1e-5)
