"""MMAudio's VAE: golden numbers, magnitudes, folding, alignment in time, training."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import traverse_util

from ccl_jax.errors import UsageError
from ccl_jax.models import audio_vae
from ccl_jax.models.audio_vae import (
  PRESETS,
  decode,
  encode_mel,
  init_params,
  kl,
  loss,
  sample,
)
from ccl_jax.models.audio_vae_layers import (
  Attention,
  MPConv,
  ResBlock,
  Upsample,
  fold,
  forced,
  kernel_of,
  mp_silu,
  mp_sum,
  unit,
)
from ccl_jax.ops.spectral_loss import modulation_loss
from tests.parity.cases_mmaudio import cases_mmaudio

SIZES = {"bands": 16, "channels": 8, "hidden": 16}
to_latent, to_mel = jax.jit(encode_mel), jax.jit(decode)
# ((loss, its terms), gradient); one compilation for all tests of training.
slope = jax.jit(
  jax.value_and_grad(
    lambda p, mel, key, weight: loss(p, mel, key, kl_weight=weight), has_aux=True
  )
)


def normal(*shape, seed=0):
  rng = np.random.default_rng(seed)
  return jnp.asarray(rng.standard_normal(shape).astype(np.float32))


def drawn(scale=lambda k: 1):
  """Parameters as `init_params` makes them, weight k times `scale(k)`."""
  shapes = jax.eval_shape(lambda key: init_params(key, **SIZES), jax.random.key(0))
  leaves, tree = jax.tree.flatten(shapes)
  # By numpy, which needs no program for every shape.
  draw = lambda k, x: jnp.asarray(scale(k) * np.asarray(normal(*x.shape, seed=k)))
  leaves = [
    draw(k, x) if x.ndim == 3 else jnp.asarray(np.zeros(x.shape, np.float32))
    for k, x in enumerate(leaves)
  ]
  return jax.tree.unflatten(tree, leaves) | {"data_std": jnp.ones(SIZES["bands"])}


def rms(x, axis=None, **kwargs):
  return np.sqrt(np.mean(np.square(x), axis, **kwargs))


def flat(tree):
  return traverse_util.flatten_dict(tree, sep="/")


@pytest.fixture(scope="module")
def params():
  """As after some training: weights of any scale, gains, statistics of a mel."""
  params = drawn(scale=lambda k: 0.5 + (k % 4) / 2)
  for half, gain in (("encoder", 0.4), ("decoder", -0.2)):
    params[half]["gain"] = jnp.float32(gain)
  statistics = {
    "data_mean": normal(16, seed=5) - 2,
    "data_std": jnp.linspace(0.5, 1.2, 16),
  }
  return params | statistics


@pytest.fixture(scope="module")
def mel():
  return normal(4, 16, 16) - 2


def test_golden_case(shared):
  names = []
  for name, got, expected, limit in cases_mmaudio(shared / "parity" / "mmaudio_16k"):
    assert got.shape == expected.shape, name
    assert np.abs(got - expected).max() < limit * expected.std(), name
    names.append(name)
  vae = ["latent_mean", "latent_std", "decoded_mel", "decoded_mel2"]
  assert names == ["mel", *vae]


def test_the_published_sizes():
  """The 16 kHz file has 655 MiB of float32."""
  init = lambda key: init_params(key, **PRESETS["16k"])
  shapes = jax.eval_shape(init, jax.random.key(0))
  assert round(sum(4 * x.size for x in jax.tree.leaves(shapes)) / 2**20) == 655


def test_first_parameters():
  """Weights of rms 1, as EDM2 keeps them, and gains of 1."""

  @jax.jit
  def some(key):  # to compile all takes long
    params = init_params(key, **SIZES)
    layers = [
      params[half]["middle_0"]["conv1"]["weight"] for half in ("encoder", "decoder")
    ]
    return layers, params["encoder"]["gain"], params["data_mean"], params["data_std"]

  (a, b), gain, mean, std = some(jax.random.key(0))
  np.testing.assert_allclose([rms(a), rms(b)], 1, atol=0.02)
  assert (a != b).all() and gain == 0 and (mean == 0).all() and (std == 1).all()


def test_shapes_and_presets():
  assert PRESETS["16k"] == {"bands": 80, "channels": 20, "hidden": 384}
  assert PRESETS["44k"] == {"bands": 128, "channels": 40, "hidden": 512}
  for preset in PRESETS.values():
    sizes = preset | {"hidden": 4}
    params = jax.eval_shape(lambda k: init_params(k, **sizes), jax.random.key(0))
    mel = jax.ShapeDtypeStruct((2, 10, sizes["bands"]), jnp.float32)
    mean, logvar = jax.eval_shape(encode_mel, params, mel)
    assert mean.shape == logvar.shape == (2, 5, sizes["channels"])
    assert jax.eval_shape(decode, params, mean).shape == mel.shape


def test_blocks_are_the_formula():
  """In float64, sample by sample: a projected block, attention, doubling."""
  x = np.float64(normal(1, 5, 4))
  norm = lambda w, axis: w / (rms(w, axis)[..., None] + 1e-4)
  silu = lambda x: x / (1 + np.exp(-x)) / 0.596

  def conv(x, w):
    w = np.float64(w)
    for o in range(w.shape[2]):
      w[..., o] /= np.sqrt((w[..., o] ** 2).sum()) + 1e-4 * math.sqrt(w[..., o].size)
    padded = np.pad(x, ((len(w) // 2,) * 2, (0, 0)))
    return np.array(
      [np.einsum("ki,kio->o", padded[m : m + len(w)], w) for m in range(len(x))]
    )

  def run(layer, seed):
    y, variables = jax.jit(layer.init_with_output)(jax.random.key(seed), jnp.float32(x))
    return lambda name: variables["params"][name]["weight"], np.asarray(y)[0]

  close = functools.partial(np.testing.assert_allclose, atol=1e-5)
  total = lambda a, b: (0.7 * a + 0.3 * b) / math.sqrt(0.58)
  get, got = run(ResBlock(6), 1)
  y = u = norm(x[0], -1)
  for name in ("conv1", "conv2"):
    y = conv(silu(y), get(name))
  close(got, total(conv(u, get("shortcut")), y))

  get, got = run(Attention(), 2)
  y = conv(x[0], get("qkv")).reshape(5, 4, 3)
  q, k, v = (norm(y[..., i], -1) for i in range(3))
  weights = np.exp(q @ k.T / 2)
  y = weights / weights.sum(1, keepdims=True) @ v
  close(got, total(x[0], conv(y, get("out"))))

  get, got = run(Upsample(), 3)
  close(got, conv(np.repeat(x[0], 2, 0), get("conv")))


def test_magnitudes_are_kept():
  """Unit rms in, about unit rms out, layer by layer and through both networks."""

  @jax.jit
  def layers(x, other):
    out = lambda layer, x: layer.init_with_output(jax.random.key(0), x)[0]
    return {
      "conv": out(MPConv(96, 1), x),
      "silu": mp_silu(x),
      "sum": mp_sum(x, other),
      "unit": unit(7 * x),
      "block": out(ResBlock(128), x),
      "wider": out(ResBlock(160), 5 * x),
    }

  away = layers(normal(4, 64, 128), normal(4, 64, 128, seed=1))
  away["kernel"] = 384**0.5 * kernel_of(3 * normal(3, 128, 16))
  for name, y in away.items():
    assert abs(rms(y) - 1) < 0.06, (name, rms(y))
  params = drawn()
  for y in (*to_latent(params, normal(4, 16, 16)), to_mel(params, normal(4, 8, 8))):
    assert 0.7 < rms(y) < 1.3, rms(y)


def test_folded_weights_are_the_same_function(params, mel):
  """Normalised in the call, or once and for all; and a second time changes nothing."""
  once = fold(params)
  for got, expected in zip(to_latent(once, mel), to_latent(params, mel)):
    np.testing.assert_allclose(got, expected, atol=1e-6)
  z = normal(4, 8, 8)
  np.testing.assert_allclose(to_mel(once, z), to_mel(params, z), atol=1e-6)
  jax.tree.map(np.testing.assert_array_equal, fold(once), once)
  names = {path.rsplit("/")[-1] for path in flat(once)}
  assert names == {"kernel", "gain", "data_mean", "data_std"}
  assert all(
    abs(np.linalg.norm(w[..., 0]) - 1) < 1e-3 for w in flat(once).values() if w.ndim > 1
  )


def test_forced_weights_are_the_same_function(params):
  """Up to the 1e-4 beside the rms; and a second time changes nothing but rounding."""
  again = forced(params)
  for path, w in flat(again).items():
    before = flat(params)[path]
    if w.ndim < 3:
      np.testing.assert_array_equal(w, before)
      continue
    np.testing.assert_allclose(rms(w, (0, 1)), 1, atol=1e-6)
    shrink = (1 + 1e-4 / rms(before, (0, 1), keepdims=True)) / (1 + 1e-4)
    same = shrink * kernel_of(before)
    np.testing.assert_allclose(kernel_of(w), same, rtol=1e-5, atol=1e-7)
  near = functools.partial(np.testing.assert_allclose, rtol=1e-6)
  jax.tree.map(near, forced(again), again)


def test_gradients_reach_every_weight_across_its_sphere(params, mel):
  """And none the statistics: a step turns a filter, and does not stretch it."""
  _, gradient = slope(params, mel, jax.random.key(3), 0.1)
  weights = flat(params)
  for path, g in flat(gradient).items():
    assert np.isfinite(g).all(), path
    if path.startswith("data"):
      np.testing.assert_array_equal(g, 0)
      continue
    assert np.abs(g).max() > 0, path
    if g.ndim == 3:
      along = np.sum(g * weights[path], (0, 1))
      norms = np.linalg.norm(g, axis=(0, 1)) * np.linalg.norm(
        weights[path], axis=(0, 1)
      )
      assert (np.abs(along) < 1e-3 * norms + 1e-8).all(), path


def test_zeros_have_a_finite_gradient():
  x = jnp.zeros((2, 5)).at[1].set(3.0)
  value, gradient = jax.value_and_grad(lambda x: unit(x).sum())(x)
  np.testing.assert_allclose(value, 5, rtol=1e-4)
  np.testing.assert_allclose(gradient[0], 1e4, rtol=1e-4)
  np.testing.assert_allclose(gradient[1], 0, atol=1e-4)


def test_posterior(params, mel):
  mean, logvar = jnp.full((1, 5000, 2), 0.5), jnp.full((1, 5000, 2), math.log(4))
  drawn = np.asarray(sample(jax.random.key(0), mean, logvar))
  assert abs(drawn.mean() - 0.5) < 0.06 and abs(drawn.std() - 2) < 0.06
  again = sample(jax.random.key(0), mean, logvar)
  np.testing.assert_array_equal(drawn, again)
  assert (drawn != sample(jax.random.key(1), mean, logvar)).all()
  assert kl(jnp.zeros((1, 2, 3)), jnp.zeros((1, 2, 3))) == 0
  log_ratio = -0.5 * ((drawn - 0.5) / 2) ** 2 - math.log(2) + 0.5 * drawn**2
  np.testing.assert_allclose(kl(mean, logvar), log_ratio.mean(), rtol=0.05)
  loud = params | {"encoder": params["encoder"] | {"gain": jnp.float32(1e3)}}
  logvar = np.asarray(to_latent(loud, mel)[1])
  assert (logvar.min(), logvar.max()) == (-30, 20)


def test_the_loss_is_its_terms(params, mel):
  key, weight = jax.random.key(7), 0.3
  (value, terms), _ = slope(params, mel, key, weight)
  mean, logvar = to_latent(params, mel)
  shown = to_mel(params, sample(key, mean, logvar))
  error = (np.abs(shown - mel) / np.linspace(0.5, 1.2, 16)).mean()
  np.testing.assert_allclose(terms["mel"], error, rtol=1e-5)
  np.testing.assert_allclose(terms["kl"], kl(mean, logvar), rtol=1e-5)
  np.testing.assert_allclose(value, error + weight * terms["kl"], rtol=1e-5)


def test_the_loss_of_modulations_is_of_normalised_mels(monkeypatch):
  """Of an encoder and a decoder whose answers are known."""
  mel, decoded = normal(2, 32, 3), normal(2, 32, 3, seed=1)
  std, mean = jnp.array([0.5, 2.0, 1.0]), jnp.zeros((2, 16, 4))
  monkeypatch.setattr(audio_vae, "encode_mel", lambda params, mel: (mean, mean))
  monkeypatch.setattr(audio_vae, "decode", lambda params, z: decoded)
  params = {"data_mean": jnp.zeros(3), "data_std": std}
  weights = {"kl_weight": 0.5, "modulation_weight": 0.2}
  run = jax.jit(lambda mel, key: loss(params, mel, key, **weights))
  value, terms = run(mel, jax.random.key(0))
  scaled = [x / np.asarray(std) for x in (np.asarray(decoded), np.asarray(mel))]
  modulation = jax.jit(modulation_loss)(*map(jnp.asarray, scaled))
  np.testing.assert_allclose(terms["modulation"], modulation, rtol=1e-6)
  error = np.abs(scaled[0] - scaled[1]).mean()
  np.testing.assert_allclose(value, error + 0.2 * modulation, rtol=1e-6)


def without_attention(params):
  off = jax.tree.map(lambda x: x, params)
  for half in ("encoder", "decoder"):
    weight = off[half]["middle_1"]["out"]["weight"]
    off[half]["middle_1"]["out"]["weight"] = jnp.zeros_like(weight)
  return off


@functools.partial(jax.jit, static_argnums=0)
def moved(run, params, x, at):
  """The derivative of the output by place `at` of x, in some direction."""
  change = jnp.zeros_like(x).at[:, at].set(normal(1, x.shape[2], seed=9))
  return jax.jvp(lambda x: run(params, x), (x,), (change,))[1]


def touched(*args):
  """The first and the last place that depend on another, be it ever so little."""
  places = np.flatnonzero(np.abs(moved(*args)).max((0, 2)))
  return places[0], places[-1]


def test_latents_see_as_far_to_the_left_as_to_the_right(params):
  """5 frames before the pairs are averaged, 13 latents after; attention is off."""
  run, off, mel = (
    lambda *x: encode_mel(*x)[0],
    without_attention(params),
    normal(1, 120, 16),
  )
  for frame in (60, 61):
    first, last = touched(run, off, mel, frame)
    assert (first, last) == ((frame - 5) // 2 - 13, (frame + 5) // 2 + 13)


def test_frames_see_as_far_to_the_left_as_to_the_right(params):
  """17 latents, and 8 frames after doubling: frames 2 a and 2 a + 1 are latent a's."""
  first, last = touched(decode, without_attention(params), normal(1, 60, 8), 30)
  assert (first, last) == (2 * (30 - 17) - 8, 2 * (30 + 17) + 1 + 8)


def test_rows_of_a_batch_are_independent(params, mel):
  whole, other = (to_latent(params, x)[0] for x in (mel, mel.at[0].set(0)))
  np.testing.assert_allclose(whole[1], other[1], atol=1e-6)
  assert (whole[0] != other[0]).all()


@pytest.mark.parametrize("frames", [0, 1, 7])
def test_odd_numbers_of_frames_are_refused(params, frames):
  with pytest.raises(UsageError, match=f"even number of frames, got {frames}: crop"):
    encode_mel(params, jnp.zeros((1, frames, 16)))


def test_mels_of_another_mode_are_refused(params):
  with pytest.raises(UsageError, match="mels of 16 bands, got 80: use the mode"):
    encode_mel(params, jnp.zeros((1, 4, 80)))


def test_it_trains():
  """Two spectra that come and go: 60 steps, to a third of the error of the median."""
  rng = np.random.default_rng(2)
  spectra, rate = rng.normal(size=(2, 16)), rng.uniform(0.3, 1.5, (4, 2, 1))
  phase = rng.uniform(0, 6, (4, 2, 1)) + rate * np.linspace(0, 2 * np.pi, 16)
  mel = jnp.einsum("bkm,kc->bmc", np.sin(phase), spectra)
  params = drawn() | {"data_mean": mel.mean((0, 1)), "data_std": mel.std((0, 1))}
  optimizer = optax.adam(0.02)

  @jax.jit
  def update(params, state, gradient):
    updates, state = optimizer.update(gradient, state)
    return forced(optax.apply_updates(params, updates)), state

  state, errors, start = jax.jit(optimizer.init)(params), [], params
  for key in jax.random.split(jax.random.key(1), 60):
    (_, terms), gradient = slope(params, mel, key, 1e-4)
    params, state = update(params, state, gradient)
    errors.append(float(terms["mel"]))
  mel = np.asarray(mel)
  constant = (np.abs(mel - np.median(mel, (0, 1))) / mel.std((0, 1))).mean()
  assert errors[0] > constant and np.mean(errors[-5:]) < constant / 3
  for name in ("data_mean", "data_std"):  # Adam leaves alone what has no gradient
    np.testing.assert_array_equal(params[name], start[name])
