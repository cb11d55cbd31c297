"""Our video codecs and diffusers' `AutoencoderKLWan`, with the settings of Wan2.1 and
of Wan2.2: pictures and clips, the posterior, gradients.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

from ccl_jax.models.wan_vae import Wan22VideoCodec, WanVideoCodec
from ccl_jax.weights.rules import unload
from ccl_jax.weights.transfer import export_weights
from ccl_jax.weights.upstream import get_upstream
from tests.parity.check_case import relative_error

to_latent = jax.jit(lambda codec, x: codec.encode(x))
to_pixels = jax.jit(lambda codec, x: codec.decode(x))
to_posterior = jax.jit(lambda codec, x: codec.posterior(x))
KINDS = {"wan-vae": WanVideoCodec, "wan22-vae": Wan22VideoCodec}
last = lambda x: np.moveaxis(np.asarray(x), 1, -1)


@pytest.fixture(scope="module", params=KINDS)
def kind(request):
  return request.param


@pytest.fixture(scope="module")
def pair(kind, make_pair):
  return make_pair(kind, kind.replace("-", "_"))


@pytest.fixture(scope="module")
def codec(kind, pair):
  """A maker of codecs of these parameters."""
  return lambda **options: KINDS[kind](pair.params, **options)


def statistics(vae):
  import torch

  shape = lambda x: torch.tensor(x).reshape(1, -1, 1, 1, 1)
  return shape(vae.config.latents_mean), shape(vae.config.latents_std)


def drawn(vae, frames):
  """Pixels of 2 x 3 latents, and a latent of as many frames."""
  rng = np.random.default_rng(frames)
  side = vae.config.scale_factor_spatial
  pixels = rng.uniform(-1, 1, (1, 3, frames, 2 * side, 3 * side)).astype(np.float32)
  shape = (1, vae.config.z_dim, 1 + frames // 4, 2, 3)
  return pixels, rng.standard_normal(shape, np.float32)


def test_a_picture_and_its_latent(pair, codec):
  """All of a clip that is one frame, in which nothing is resampled in time."""
  import torch

  vae = pair.reference
  pixels, latent = drawn(vae, 1)
  mean, std = statistics(vae)
  with torch.no_grad():
    encoded = (vae.encode(torch.tensor(pixels)).latent_dist.mode() - mean) / std
    decoded = vae.decode(torch.tensor(latent) * std + mean).sample.numpy()
  assert np.mean(np.abs(decoded) < 1) > 0.9
  ours = codec(chunk=None)
  assert ours.stride == (4, *2 * (vae.config.scale_factor_spatial,))
  got = np.asarray(to_latent(ours, last(pixels)))
  assert relative_error(got, last(encoded.numpy())) < 1e-4
  got = np.asarray(to_pixels(ours, last(latent)))
  assert relative_error(got, last(decoded)) < 1e-4


def test_the_posterior_and_pixels_by_latent_frames(pair, codec):
  """One after the other, as is the default: mean and deviation of diffusers'
  distribution, in units of the latents'; and pixels.
  """
  import torch

  vae = pair.reference
  pixels, latent = drawn(vae, 13)
  mean, std = statistics(vae)
  with torch.no_grad():
    expected = vae.encode(torch.tensor(pixels)).latent_dist
    decoded = vae.decode(torch.tensor(latent) * std + mean).sample.numpy()
  assert np.mean(np.abs(decoded) < 1) > 0.9
  got = to_posterior(codec(), last(pixels))
  for ours, theirs in zip(got, ((expected.mode() - mean) / std, expected.std / std)):
    assert relative_error(np.asarray(ours), last(theirs.numpy())) < 1e-4
  got = np.asarray(to_pixels(codec(), last(latent)))
  assert relative_error(got, last(decoded)) < 1e-4


def test_tiles(pair, codec):
  """Of 4 latents that overlap by 1: two rows of them, and three columns; the last ones
  lie in the overlap. Diffusers blends in place; its encoder of Wan2.2 counts by twos.
  """
  import torch

  vae = pair.reference
  side, fold = vae.config.scale_factor_spatial, vae.config.patch_size or 1
  rng = np.random.default_rng(0)
  latent = rng.standard_normal((1, vae.config.z_dim, 1, 4, 7), np.float32)
  pixels = rng.uniform(-1, 1, (1, 3, 1, 3 * side, 7 * side)).astype(np.float32)
  mean, std = statistics(vae)

  def tiled(run, side):
    vae.enable_tiling(4 * side, 4 * side, 3 * side, 3 * side)
    try:
      with torch.no_grad():
        return last(run().numpy())
    finally:
      vae.disable_tiling()

  ours = codec(tile=4 * side, overlap=side)
  got = np.asarray(to_pixels(ours, last(latent)))
  z = torch.tensor(latent) * std + mean
  assert relative_error(got, tiled(lambda: vae.decode(z).sample, side)) < 1e-4
  got = np.asarray(to_latent(ours, last(pixels)))
  mode = lambda: (vae.encode(torch.tensor(pixels)).latent_dist.mode() - mean) / std
  assert relative_error(got, tiled(mode, side // fold)) < 1e-4


def test_gradients(kind, pair, codec):
  """Of a projection of latents and pixels, by every tensor and both inputs; and what is
  projected. In one call: tests/models/test_wan_vae.py has gradients by chunks.
  """
  import torch

  vae = pair.reference
  arrays = drawn(vae, 5)
  rng = np.random.default_rng(0)
  weights = [rng.standard_normal(x.shape, np.float32) for x in arrays[::-1]]
  mean, std = statistics(vae)
  pixels, latent = (torch.tensor(x, requires_grad=True) for x in arrays)
  encoded = (vae.encode(pixels).latent_dist.mode() - mean) / std
  decoded = vae.decode(latent * std + mean).sample
  loss = sum((x * torch.tensor(w)).sum() for x, w in zip((encoded, decoded), weights))
  leaves = dict(vae.named_parameters()) | {"pixels": pixels, "latent": latent}
  grads = torch.autograd.grad(loss, leaves.values())
  expected = {n: g.numpy() for n, g in zip(leaves, grads)}

  def ours(codec, pixels, latent):
    made = codec.encode(pixels), codec.decode(latent)
    return sum(jnp.sum(x * last(w)) for x, w in zip(made, weights)), made

  run = jax.jit(jax.grad(ours, (0, 1, 2), has_aux=True))
  slopes, made = jax.device_get(run(codec(chunk=None), *map(last, arrays)))
  for x, theirs in zip(made, (encoded, decoded)):
    assert relative_error(x, last(theirs.detach().numpy())) < 1e-4
  of_codec, *of_inputs = slopes
  flat = traverse_util.flatten_dict(of_codec.params, sep="/")
  upstream = get_upstream(kind)
  # A table changes the layout of a gradient as it does that of a weight.
  read = lambda path, slot: flat[path]
  got = dict(
    unload(upstream.tables["diffusers"], upstream.shapes(pair.sizes), read)
  ) | {n: np.moveaxis(x, -1, 1) for n, x in zip(("pixels", "latent"), of_inputs)}
  assert got.keys() == expected.keys()
  errors = {
    name: np.linalg.norm(got[name] - x) / np.linalg.norm(x)
    for name, x in expected.items()
  }
  worst = max(errors, key=errors.get)
  assert errors[worst] < 1e-4, (worst, errors[worst])


def test_diffusers_loads_our_export(tmp_path, pair):
  export_weights(pair.imported, tmp_path / "out", form="diffusers")
  loaded, report = type(pair.reference).from_pretrained(
    tmp_path / "out", output_loading_info=True
  )
  assert not any(report.values()), report
  for key, value in pair.reference.config.items():
    assert key.startswith("_") or loaded.config[key] == value, key
  for name, x in pair.reference.state_dict().items():
    np.testing.assert_array_equal(loaded.state_dict()[name], x, err_msg=name)
