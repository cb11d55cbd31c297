"""Wan2.2's VAE: what it has of its own; the rest is tested as Wan2.1's."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ccl_jax.codecs.bundle import Codecs, load_codecs, require_fit, save_codecs
from ccl_jax.errors import UsageError
from ccl_jax.models.wan_vae import Wan22VideoCodec, init_params
from ccl_jax.models.wan_vae_layers import WAN22, averaged, fold, repeated, unfold
from tests.models.test_wan_vae import assert_same, normal
from tests.params import codec_params
from tests.parity.cases_wan22_vae import cases_wan22_vae

encode = jax.jit(lambda codec, x: codec.encode(x))
decode = jax.jit(lambda codec, x: codec.decode(x))


@pytest.fixture(scope="module")
def params():
  init = functools.partial(init_params, width=4, decoder_width=8, release=WAN22)
  return codec_params(jax.eval_shape(init, jax.random.key(0)))


def test_the_published_size():
  """As diffusers' network has with the published settings."""
  init = functools.partial(init_params, release=WAN22)
  shapes = jax.eval_shape(init, jax.random.key(0))
  count = lambda tree: sum(x.size for x in jax.tree.leaves(tree))
  assert (count(shapes["encoder"]), count(shapes["decoder"])) == (149637088, 555051580)


def test_pixels_are_folded_colour_by_colour_columns_before_rows():
  x = jnp.arange(12.0).reshape(1, 1, 2, 2, 3)
  # At row i, column j and colour c stands 6 i + 3 j + c.
  expected = [6 * i + 3 * j + c for c in range(3) for j in range(2) for i in range(2)]
  np.testing.assert_array_equal(fold(x, 2)[0, 0, 0, 0], expected)
  np.testing.assert_array_equal(unfold(fold(x, 2), 2), x)


def test_a_shortcut_down_is_the_mean_of_runs_with_zeros_before_the_clip():
  """By hand: two channels of three frames of one place a side."""
  x = np.arange(1.0, 7).reshape(1, 3, 1, 1, 2)  # frames (1 2), (3 4), (5 6)
  got = averaged(jnp.asarray(x), 2, 2, 1)
  np.testing.assert_allclose(got[0, :, 0, 0], [[0.5, 1], [4, 5]])
  # One channel, of 2 x 2 places, to two: rows of the square.
  x = np.asarray([[1.0, 3], [5, 9]]).reshape(1, 1, 2, 2, 1)
  np.testing.assert_allclose(averaged(jnp.asarray(x), 2, 1, 2).ravel(), [2, 7])


def test_a_shortcut_up_lays_repeated_channels_out():
  """By hand: two channels to two frames of 2 x 2 places of one channel."""
  x = np.asarray([1.0, 2]).reshape(1, 1, 1, 1, 2)
  got = repeated(jnp.asarray(x), 1, 2, 2)
  assert got.shape == (1, 2, 2, 2, 1)
  np.testing.assert_array_equal(got.ravel(), [1, 1, 1, 1, 2, 2, 2, 2])
  # Four channels to 2 x 2 places: each is one of them, row by row.
  x = np.arange(4.0).reshape(1, 1, 1, 1, 4)
  np.testing.assert_array_equal(repeated(jnp.asarray(x), 1, 1, 2).ravel(), [0, 1, 2, 3])


def test_tiles_that_do_not_overlap_are_clips_of_their_own(params):
  """Of 32 pixels, 2 places of a latent."""
  codec = Wan22VideoCodec(params, chunk=None, tile=32, overlap=0)
  whole = Wan22VideoCodec(params, chunk=None)
  pixels, latent = normal(1, 5, 32, 64, 3), 0.3 * normal(1, 2, 2, 4, 48)
  halves = [encode(whole, pixels[:, :, :, i : i + 32]) for i in (0, 32)]
  assert_same(encode(codec, pixels), np.concatenate(halves, 3))
  halves = [decode(whole, latent[:, :, :, i : i + 2]) for i in (0, 2)]
  assert_same(decode(codec, latent), np.concatenate(halves, 3))


def test_save_and_load_are_bitwise(params, tmp_path):
  codecs = Codecs(video=Wan22VideoCodec(params, chunk=2))
  save_codecs(codecs, tmp_path / "codecs")
  loaded = load_codecs(tmp_path / "codecs")
  assert type(loaded.video) is Wan22VideoCodec
  assert (loaded.video.channels, loaded.video.stride) == (48, (4, 16, 16))
  assert jax.tree.structure(loaded) == jax.tree.structure(codecs)
  jax.tree.map(np.testing.assert_array_equal, loaded, codecs)


def test_a_model_of_other_latents_is_told():
  codecs = Codecs(video=Wan22VideoCodec({}))
  require_fit(codecs, {"video": 48, "audio": 20}, 16)
  require_fit(Codecs(), {"video": 48}, 8)
  require_fit(codecs, {"audio": 20}, 8)
  with pytest.raises(UsageError, match="latents of 48 channels, the model takes 16"):
    require_fit(codecs, {"video": 16}, 16)
  with pytest.raises(UsageError, match="16 x 16 pixels, the clip's stride is 8: set"):
    require_fit(codecs, {"video": 48}, 8)


def test_other_sizes_are_refused(params):
  codec = Wan22VideoCodec(params)
  with pytest.raises(UsageError, match="multiples of 16, got 32 x 40"):
    codec.encode(jnp.zeros((1, 5, 32, 40, 3)))
  with pytest.raises(UsageError, match=r"4 k \+ 1 frames, got 6"):
    codec.encode(jnp.zeros((1, 6, 32, 32, 3)))
  with pytest.raises(UsageError, match="multiples of 16, the overlap"):
    Wan22VideoCodec(params, tile=72)


def test_golden_case(shared):
  """A picture, and a clip of four latent frames."""
  folder = shared / "parity" / "wan22_vae"
  for name, got, expected, _ in cases_wan22_vae(folder, (1, 13)):
    assert got.shape == expected.shape, name
    error = np.abs(got - expected).max() / expected.std()
    assert error < 1e-5, (name, error)
