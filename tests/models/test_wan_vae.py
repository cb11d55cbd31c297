"""Wan2.1's VAE: one call, chunks and tiles agree; what may see what; as a codec."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ccl_jax.codecs.bundle import Codecs, fingerprint, load_codecs, save_codecs
from ccl_jax.errors import UsageError
from ccl_jax.models import wan_vae
from ccl_jax.models.byte_text import ByteText
from ccl_jax.models.linear_codec import LinearAudioCodec
from ccl_jax.models.wan_vae import WanVideoCodec, decode, encode, init_params
from ccl_jax.models.wan_vae_layers import (
  MEAN,
  STD,
  CausalConv,
  Downsample,
  Norm,
  Upsample,
  residual,
)
from tests.params import codec_params
from tests.parity.cases_wan_vae import cases_wan_vae

WIDTH = 4
to_latent = jax.jit(encode, static_argnums=2)
to_pixels = jax.jit(decode, static_argnums=2)
to_moments = jax.jit(lambda *args: encode(*args, deviation=True), static_argnums=2)
codec_encode = jax.jit(lambda codec, x: codec.encode(x))
codec_posterior = jax.jit(lambda codec, x: codec.posterior(x))
codec_decode = jax.jit(lambda codec, x: codec.decode(x))


def normal(*shape, seed=0):
  rng = np.random.default_rng(seed)
  return jnp.asarray(rng.standard_normal(shape).astype(np.float32))


def assert_same(got, expected, limit=1e-5):
  """Equal to rounding, relative to the deviation."""
  assert got.shape == expected.shape
  error = np.abs(np.asarray(got) - np.asarray(expected)).max()
  assert error <= limit * np.std(expected), error / np.std(expected)


@pytest.fixture(scope="module")
def params():
  shapes = jax.eval_shape(lambda k: init_params(k, WIDTH), jax.random.key(0))
  return codec_params(shapes)


@pytest.fixture(scope="module")
def pixels():
  return normal(2, 21, 16, 24, 3)


@pytest.fixture(scope="module")
def latent():
  return normal(2, 6, 2, 3, 16, seed=1)


def test_the_published_size():
  shapes = jax.eval_shape(init_params, jax.random.key(0))
  count = lambda tree: sum(x.size for x in jax.tree.leaves(tree))
  assert (count(shapes["encoder"]), count(shapes["decoder"])) == (53596928, 73295603)


def test_chunks_give_the_numbers_of_one_call(params, pixels, latent):
  """Five groups after frame 0 by threes; by ones in the tests below."""
  assert_same(to_pixels(params, latent, 3), to_pixels(params, latent, None))
  mean, std = np.split(to_moments(params, pixels, 3), 2, axis=-1)
  assert_same(mean, to_latent(params, pixels, None))
  assert_same(std, to_moments(params, pixels, None)[..., 16:])


def test_the_deviation_is_that_of_the_clipped_variance(params, pixels):
  """Against numpy, on the logarithms of variances: the mean of a network whose last
  layer has its halves the other way round.
  """
  last = params["encoder"]["moments"]
  bias = last["bias"].at[16].set(-90).at[17].set(90)  # beyond both limits
  turn = lambda last: {k: np.roll(x, 16, -1) for k, x in last.items()}
  of = lambda last: params | {"encoder": params["encoder"] | {"moments": last}}
  last = last | {"bias": bias}
  logvar = np.asarray(to_latent(of(turn(last)), pixels, None)) * STD + MEAN
  assert (logvar[..., 0] < -30).all() and (logvar[..., 1] > 20).all()
  expected = np.sqrt(np.exp(np.clip(logvar, -30, 20))) / STD
  std = np.asarray(to_moments(of(last), pixels, None))[..., 16:]
  np.testing.assert_allclose(std, expected, rtol=1e-5)
  assert expected[..., 2:].std() > 0.05


def test_time_is_causal_and_a_shorter_clip_is_a_prefix(params, pixels, latent):
  whole, shown = to_latent(params, pixels, None), to_pixels(params, latent, None)
  other = to_latent(params, pixels.at[:, 13:].multiply(-1), None)
  np.testing.assert_array_equal(other[:, :4], whole[:, :4])
  assert np.abs(other[:, 4] - whole[:, 4]).max() > 0.01
  other = to_pixels(params, latent.at[:, 4:].multiply(-1), None)
  np.testing.assert_array_equal(other[:, :13], shown[:, :13])
  assert np.abs(other[:, 13] - shown[:, 13]).max() > 0.01
  assert_same(to_latent(params, pixels[:, :1], 1), whole[:, :1])
  assert_same(to_pixels(params, latent[:, :1], 1), shown[:, :1])


def test_frame_zero_stands_alone_where_time_is_resampled():
  """Going down it is a group of its own; going up it is not in the past of the next."""
  x = normal(1, 5, 4, 4, 4)
  changed = x.at[:, 0].add(1)
  for layer, unseen in ((Downsample(True), None), (Upsample(True, 2), slice(1, None))):
    shapes = jax.eval_shape(layer.init, jax.random.key(0), x)["params"]
    p = codec_params(shapes)
    run = jax.jit(lambda x: layer.apply({"params": p}, x, mutable=["cache"])[0])
    a, b = run(x), run(changed)
    assert a.shape == ((1, 3, 2, 2, 4) if unseen is None else (1, 9, 8, 8, 2))
    differs = np.abs(np.asarray(a - b)).max((0, 2, 3, 4)) > 0
    assert differs[0]
    if unseen is None:
      assert differs.tolist() == [
        True,
        True,
        False,
      ]  # 1: frames 0 to 2, 2: frames 2 to 4
      alone = run(x[:, :1])
      np.testing.assert_array_equal(alone, a[:, :1])
    else:
      assert not differs[unseen].any()


class Layers(nn.Module):
  """One of each layer that has a past: two frames to one and back."""

  @nn.compact
  def __call__(self, x):
    x = residual(self, CausalConv(4, name="first")(x), 4, ["block_0", "block_1"])
    return Upsample(True, 3, name="up")(Downsample(True, name="down")(x))


def test_gradients_are_finite_and_the_same_by_chunks():
  """To the input and all parameters; a rest and two chunks of two groups."""
  x, target = normal(1, 11, 4, 6, 3), normal(1, 11, 4, 6, 3, seed=2)
  network = Layers()
  p = codec_params(jax.eval_shape(network.init, jax.random.key(0), x)["params"])

  def loss(p, x, chunk):
    out = wan_vae._in_chunks(network, p, x, 2, chunk)
    return jnp.mean(target * out), out

  grad = jax.jit(jax.grad(loss, (0, 1), has_aux=True), static_argnums=2)
  (whole, output), (chunks, other) = (grad(p, x, n) for n in (None, 2))
  assert_same(other, output)
  largest = jax.tree.leaves(jax.tree.map(lambda x: np.abs(x).max(), whole))
  assert np.isfinite(largest).all() and min(largest) > 0

  def check(path, a, b):
    error = np.abs(a - b).max() / np.abs(a).max()
    assert error < 1e-4, (jax.tree_util.keystr(path), error)

  jax.tree_util.tree_map_with_path(check, whole, chunks)


def test_a_norm_of_zeros_has_a_finite_gradient():
  run = lambda x: Norm().apply({"params": {"scale": jnp.ones(5)}}, x).sum()
  x = jnp.zeros((2, 5)).at[1].set(3.0)
  value, slope = jax.jit(jax.value_and_grad(run))(x)
  np.testing.assert_allclose(value, 5, rtol=1e-6)
  assert np.isfinite(slope).all()


@pytest.mark.parametrize("direction", ["posterior", "decode"])
def test_tiles_give_the_same_numbers_away_from_seams(params, direction):
  """The convolutions see at most 18 latents far; attention, which sees all, is off.
  Three tiles of latents: 0 to 44, 26 to 70, 52 to 70.
  """
  off = jax.tree.map(lambda x: x, params)
  for half in off.values():
    half["middle_1"]["out"] = jax.tree.map(jnp.zeros_like, half["middle_1"]["out"])
  down = direction != "decode"
  x = normal(1, 1, 8, 560, 3) if down else 0.3 * normal(1, 1, 1, 70, 16)
  run = codec_posterior if down else lambda *args: [codec_decode(*args)]
  pixels = 1 if down else 8
  of_whole = run(WanVideoCodec(off), x)
  of_tiles = run(WanVideoCodec(off, tile=352, overlap=144), x)
  for whole, tiles in zip(of_whole, of_tiles, strict=True):
    for clear in (slice(0, 26 * pixels), slice(44 * pixels, 52 * pixels)):
      assert_same(tiles[:, :, :, clear], whole[:, :, :, clear])
    assert np.abs(tiles - whole).max() < np.std(whole)


def test_codec_is_a_jit_argument_and_clips(params, pixels, latent):
  """By its default chunks of one latent frame."""
  loud = {"kernel": 8 * params["decoder"]["last"]["kernel"], "bias": jnp.zeros(3)}
  loud = params | {"decoder": params["decoder"] | {"last": loud}}
  codec = WanVideoCodec(loud)
  assert (codec.channels, codec.stride, codec.chunk) == (16, (4, 8, 8), 1)
  assert (codec.tile, codec.overlap) == (None, 64)
  assert WanVideoCodec(codec.params, tile=64, overlap=0).overlap == 0
  assert_same(codec_encode(codec, pixels), to_latent(params, pixels, None))
  wild = to_pixels(loud, latent, None)
  assert np.mean(np.abs(wild) > 1) > 0.1
  assert_same(codec_decode(codec, latent), np.clip(wild, -1, 1))


def test_save_and_load_are_bitwise(params, tmp_path):
  vector = functools.partial(np.full, fill_value=2, dtype=np.float32)
  audio = LinearAudioCodec(vector(3), vector((3, 2)), vector(2))
  video = WanVideoCodec(params, chunk=None, tile=64, overlap=16)
  codecs = Codecs(video, audio, ByteText(8, 16))
  save_codecs(codecs, tmp_path / "codecs")
  loaded = load_codecs(tmp_path / "codecs")
  assert jax.tree.structure(loaded) == jax.tree.structure(codecs)
  jax.tree.map(np.testing.assert_array_equal, loaded, codecs)
  assert fingerprint(loaded) == fingerprint(codecs)


@pytest.mark.parametrize(
  "shape, message",
  [
    ((1, 10, 16, 16, 3), r"4 k \+ 1 frames, got 10: use 9 or 13"),
    ((1, 0, 16, 16, 3), "got 0: use 1$"),
    ((1, 5, 16, 20, 3), "multiples of 8, got 16 x 20"),
  ],
)
def test_clips_of_other_sizes_are_refused(params, shape, message):
  with pytest.raises(UsageError, match=message):
    WanVideoCodec(params).encode(jnp.zeros(shape))
  with pytest.raises(UsageError, match=message):
    WanVideoCodec(params).posterior(jnp.zeros(shape))


@pytest.mark.parametrize(
  "sizes, message",
  [
    ({"chunk": 0}, "chunk counts latent frames, got 0"),
    ({"tile": 100}, "tiles of 100 pixels"),
    ({"tile": 64, "overlap": 64}, "the overlap half a tile at most"),
    ({"tile": 64, "overlap": 40}, "the overlap half a tile at most"),
    ({"tile": 64, "overlap": -16}, "the overlap half a tile at most"),
  ],
)
def test_sizes_that_cannot_be_are_refused(sizes, message):
  with pytest.raises(UsageError, match=message):
    WanVideoCodec({}, **sizes)


def test_golden_case(shared):
  for name, got, expected, _ in cases_wan_vae(shared / "parity" / "wan_vae"):
    assert got.shape == expected.shape, name
    error = np.abs(got - expected).max() / expected.std()
    assert error < 1e-5, (name, error)
