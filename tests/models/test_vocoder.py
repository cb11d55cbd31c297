"""The vocoder: golden wave, pieces, what a sample is made of, alignment, training."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from ccl_jax.errors import UsageError
from ccl_jax.models import vocoder
from ccl_jax.models.vocoder import PRESETS, Generator, init_params, synthesize
from ccl_jax.ops import antialias, snake
from ccl_jax.weights import bigvgan
from ccl_jax.weights.load import load_params
from tests.parity import bigvgan_reference as reference
from tests.parity.cases_bigvgan import cases_bigvgan

SMALL = Generator(
  bands=5,
  channels=16,
  rates=(4, 2),
  kernels=(8, 6),
  blocks=((3, (1,)), (5, (2,))),
)
HOP, FRAMES = 8, 41
wave_of = jax.jit(synthesize, static_argnums=(0, 3))


def drawn(generator, seed=0):
  """Parameters none of which is zero, whose layers keep the size of their inputs."""
  shapes = jax.eval_shape(lambda k: init_params(k, generator), jax.random.key(0))
  rng = np.random.default_rng(seed)

  def draw(path, x):
    noise = rng.standard_normal(x.shape).astype(np.float32)
    if path[-1].key == "kernel":
      return jnp.asarray(noise * np.prod(x.shape[:-1]) ** -0.5)
    return jnp.asarray(0.3 * noise)

  return jax.tree_util.tree_map_with_path(draw, shapes)


def mels():
  rng = np.random.default_rng(0)
  return jnp.asarray(rng.standard_normal((2, FRAMES, SMALL.bands)), jnp.float32)


@pytest.fixture(scope="module")
def params():
  return drawn(SMALL)


@pytest.fixture(scope="module")
def golden(shared):
  """(got, expected) waves of the golden case.

  Its random network is chaotic, and its wave, of deviation 0.8, is mostly cut by tanh.
  The reference itself moves by 2.5e-3 of the deviation at most, 1.3e-4 rms, where its
  mel does by one bit, and by 3.3e-3 where the mel stands twice in a batch.
  `tests/weights/test_bigvgan.py` holds to 1e-4 on networks that are not so.
  """
  ((_, got, expected, _),) = cases_bigvgan(shared / "parity/mmaudio_16k")
  return got, expected


@pytest.mark.shared
def test_golden_wave(golden):
  got, expected = golden
  error = np.abs(got - expected) / expected.std()
  assert np.quantile(error, 0.9) < 1e-6 and np.sqrt(np.mean(error**2)) < 1e-3


@pytest.fixture(scope="module")
def exact(shared):
  """The golden wave, by the reference in float64."""
  folder = shared / "parity/mmaudio_16k"
  config = json.loads((folder / "config.json").read_text())["bigvgan"]
  model = reference.torch_generator(config)
  reference.load_state(model, load_file(folder / "bigvgan_weights.safetensors"))
  mel = load_file(folder / "bigvgan_case.safetensors")["mel"].swapaxes(1, 2)
  return reference.wave_of(model, mel, double=True)[:, None]


@pytest.mark.shared
def test_the_golden_wave_is_as_exact_as_the_reference(golden, exact):
  ours, theirs = (np.sqrt(np.mean((wave - exact) ** 2)) for wave in golden)
  assert ours < 2 * theirs < 1e-3


@pytest.mark.shared
def test_the_golden_network_in_float64_is_the_reference(
  exact, shared, tmp_path, monkeypatch
):
  """Its weights magnify rounding by 10^4 and more, so that float32 says little of them:
  in float64, with the taps of the file and the library's sine, all else must be equal.
  """
  folder = shared / "parity/mmaudio_16k"
  golden = load_file(folder / "bigvgan_weights.safetensors")
  wide = {name: x.astype(np.float64) for name, x in golden.items()}
  save_file(wide, tmp_path / "bigvgan_weights.safetensors")
  taps = next(x for name, x in wide.items() if name.endswith("filter")).ravel()
  monkeypatch.setattr(antialias, "low_pass", lambda: taps)
  monkeypatch.setattr(snake, "sin_squared", lambda x: jnp.sin(x) ** 2)
  mel = load_file(folder / "bigvgan_case.safetensors")["mel"].swapaxes(1, 2)
  with jax.enable_x64(True):
    file = tmp_path / "bigvgan_weights.safetensors"
    params, sizes = load_params("vocoder", file, "float64")
    generator = bigvgan.generator_of(sizes)
    run = jax.jit(lambda params, mel: synthesize(generator, params, mel))
    vocoder._snake.clear_cache()  # traces with other taps
    got = np.asarray(run(params, jnp.asarray(mel, jnp.float64)))
    vocoder._snake.clear_cache()  # no trace with these outlives the test
  assert got.dtype == np.float64
  assert np.abs(got[:, None] - exact).max() < 1e-9 * exact.std()


def test_the_published_sizes():
  for name, count, hop in (("16k", 112_199_473, 256), ("44k", 122_152_752, 512)):
    generator = Generator(**PRESETS[name])
    shapes = jax.eval_shape(lambda k: init_params(k, generator), jax.random.key(0))
    assert sum(x.size for x in jax.tree.leaves(shapes)) == count
    assert generator.hop == hop


@pytest.fixture(scope="module")
def whole(params):
  return wave_of(SMALL, params, mels())


@pytest.mark.parametrize("chunk", [5, 9])
def test_pieces_give_the_numbers_of_one_call(params, whole, chunk):
  """An odd number of frames, which is no multiple of theirs."""
  assert chunk + 2 * max(SMALL.reach) < FRAMES and FRAMES % chunk
  pieces = wave_of(SMALL, params, mels(), chunk)
  assert whole.shape == pieces.shape == (2, HOP * FRAMES)
  np.testing.assert_allclose(pieces, whole, atol=1e-5 * np.std(whole))


def test_pieces_that_overlap_less_are_not_the_same(params, whole, monkeypatch):
  """So the test above would notice a reach that is too short."""
  monkeypatch.setattr(Generator, "reach", property(lambda self: (4, 4)))
  pieces = jax.jit(lambda p, x: synthesize(SMALL, p, x, 9))(params, mels())
  assert np.abs(pieces - whole).max() > 1e-4 * np.std(whole)


def test_memory_of_pieces_does_not_grow_with_the_mel(params):
  """But for the wave itself, twice while its pieces are put together."""

  def memory(frames, chunk):
    mel = jax.ShapeDtypeStruct((1, frames, SMALL.bands), jnp.float32)
    analysis = wave_of.lower(SMALL, params, mel, chunk).compile().memory_analysis()
    return analysis.temp_size_in_bytes - 2 * 4 * HOP * frames * (chunk is not None)

  assert memory(600, None) > 1.8 * memory(300, None)
  assert memory(600, 9) < 1.1 * memory(300, 9) < 0.5 * memory(300, None)


def test_a_piece_longer_than_the_mel_is_all_of_it(params, whole):
  np.testing.assert_array_equal(wave_of(SMALL, params, mels(), 50), whole)
  with pytest.raises(UsageError, match="got 0: use 1 or more"):
    synthesize(SMALL, params, mels(), 0)


def test_reach_is_exactly_what_a_sample_is_made_of(params):
  """By the gradient of the first and the last sample of a frame: at the border it is a
  product of many small taps, below the range of float32.
  """
  (before, after), frame = SMALL.reach, 20
  assert (before, after) != (0, 0)
  with jax.enable_x64(True):
    wide = jax.tree.map(lambda x: x.astype(jnp.float64), params)
    mel = mels()[:1].astype(jnp.float64)
    of = jax.jit(jax.grad(lambda mel, n: synthesize(SMALL, wide, mel)[0, n]))
    seen = lambda n: np.flatnonzero(np.abs(of(mel, n)[0]).max(-1))
    first, last = seen(frame * HOP), seen(frame * HOP + HOP - 1)
  assert first.min() == frame - before and first.max() <= frame + after
  assert last.max() == frame + after and last.min() >= frame - before


def test_reach_of_the_published_sizes():
  """Counted by hand: 90 samples a block of size 11, 5 an activation, 3 at the ends.

  16k: 3 + 5 + 90 samples of the last rate are 50 of the one before, which with 90 more
  are 71, and so on 81, 86, 45, 35; and 3 frames.
  """
  assert Generator(**PRESETS["16k"]).reach == (38, 38)
  assert Generator(**PRESETS["44k"]).reach == (21, 21)


def symmetric(params):
  """Kernels that are the same backwards in time."""
  both = lambda path, x: (x + x[::-1]) / 2 if path[-1].key == "kernel" else x
  return jax.tree_util.tree_map_with_path(both, params)


def test_nothing_is_delayed(params):
  """With symmetric kernels, a reversed mel is a reversed wave, to the sample; and what
  an impulse in a frame changes is centred in that frame.
  """
  even = symmetric(params)
  wave = wave_of(SMALL, even, mels())
  backwards = wave_of(SMALL, even, mels()[:, ::-1])[:, ::-1]
  np.testing.assert_allclose(backwards, wave, atol=1e-5 * np.std(wave))

  quiet = jnp.zeros_like(mels())
  click = wave_of(SMALL, even, quiet.at[:, 20].set(1.0))
  change = np.asarray(click - wave_of(SMALL, even, quiet), np.float64)[0] ** 2
  centre = np.sum(change * np.arange(FRAMES * HOP)) / change.sum()
  assert abs(centre - (20 * HOP + (HOP - 1) / 2)) < 0.01


def test_the_wave_is_bounded(params, whole):
  clipped = dataclasses.replace(SMALL, tanh=False)
  tanh, clip = whole, wave_of(clipped, params, mels())
  inside = np.abs(clip) < 1
  assert 0.1 < inside.mean() < 0.9 and np.abs(clip).max() == 1
  np.testing.assert_allclose(tanh[inside], np.tanh(clip)[inside], atol=1e-5)


def test_it_trains():
  """Gradients of everything are finite and some descent is made."""
  generator = dataclasses.replace(SMALL, rates=(4,), kernels=(8,), blocks=((3, (2,)),))
  params = drawn(generator)
  target = jnp.sin(jnp.arange(2 * FRAMES * 4) / 3).reshape(2, -1)
  loss = lambda p: jnp.mean((synthesize(generator, p, mels()) - target) ** 2)
  step = jax.jit(jax.value_and_grad(loss))
  p, losses = params, []
  for _ in range(5):
    value, grads = step(p)
    assert all(np.isfinite(g).all() and np.any(g) for g in jax.tree.leaves(grads))
    losses.append(float(value))
    p = jax.tree.map(lambda x, g: x - 0.02 * g, p, grads)
  assert losses[-1] < 0.97 * losses[0]


def test_sizes_that_would_shift_the_sound_are_refused():
  closest = dataclasses.replace(SMALL, rates=(4,), kernels=(4,), blocks=((3, (1,)),))
  jax.eval_shape(lambda key: init_params(key, closest), jax.random.key(0))
  with pytest.raises(UsageError, match="kernel of 2 for the rate 4.*aligned"):
    init_params(jax.random.key(0), dataclasses.replace(closest, kernels=(2,)))
  with pytest.raises(UsageError, match="kernel of 7 for the rate 4.*aligned"):
    init_params(jax.random.key(0), dataclasses.replace(SMALL, kernels=(7, 4)))
  with pytest.raises(UsageError, match="size 4, expected an odd one"):
    init_params(jax.random.key(0), dataclasses.replace(SMALL, blocks=((4, (1,)),)))
