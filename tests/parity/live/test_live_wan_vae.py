"""Our video codec and diffusers' `AutoencoderKLWan`, on clips of 1, 5 and 13 frames."""

import jax
import numpy as np
import pytest

from ccl_jax.models.wan_vae import WanVideoCodec
from ccl_jax.weights.transfer import export_weights
from tests.parity.check_case import relative_error

to_latent, to_pixels = jax.jit(WanVideoCodec.encode), jax.jit(WanVideoCodec.decode)
to_posterior = jax.jit(WanVideoCodec.posterior)


@pytest.fixture(scope="module")
def pair(make_pair):
  return make_pair("wan-vae", "wan_vae")


@pytest.mark.parametrize("frames", [1, 5, 13])
def test_latents_and_pixels(pair, frames):
  import torch

  rng = np.random.default_rng(frames)
  pixels = rng.uniform(-1, 1, (1, 3, frames, 16, 24)).astype(np.float32)
  latent = rng.standard_normal((1, 16, 1 + frames // 4, 2, 3), np.float32)
  vae = pair.reference
  mean, std = (
    torch.tensor(x).reshape(1, -1, 1, 1, 1)
    for x in (vae.config.latents_mean, vae.config.latents_std)
  )
  with torch.no_grad():
    encoded = (vae.encode(torch.tensor(pixels)).latent_dist.mode() - mean) / std
    decoded = vae.decode(torch.tensor(latent) * std + mean).sample.numpy()
  assert np.mean(np.abs(decoded) < 1) > 0.9
  last = lambda x: np.moveaxis(x, 1, -1)
  # The longest by latent frames, one after the other, as is the default.
  codec = WanVideoCodec(pair.params, chunk=1 if frames == 13 else None)
  got = np.asarray(to_latent(codec, last(pixels)))
  assert relative_error(got, last(encoded.numpy())) < 1e-4
  got = np.asarray(to_pixels(codec, last(latent)))
  assert relative_error(got, last(decoded)) < 1e-4


def test_the_posterior(pair):
  """Mean and deviation of diffusers' distribution, in units of the latents'."""
  import torch

  rng = np.random.default_rng(0)
  pixels = rng.uniform(-1, 1, (1, 3, 9, 16, 24)).astype(np.float32)
  vae = pair.reference
  with torch.no_grad():
    expected = vae.encode(torch.tensor(pixels)).latent_dist
  last = lambda x: np.moveaxis(np.asarray(x), 1, -1)
  shift, scale = (
    np.asarray(x, np.float32) for x in (vae.config.latents_mean, vae.config.latents_std)
  )
  mean, std = to_posterior(WanVideoCodec(pair.params), last(pixels))
  assert relative_error(np.asarray(mean), (last(expected.mean) - shift) / scale) < 1e-4
  assert relative_error(np.asarray(std), last(expected.std) / scale) < 1e-4


def test_diffusers_loads_our_export(tmp_path, pair):
  export_weights(pair.imported, tmp_path / "out", form="diffusers")
  loaded, report = type(pair.reference).from_pretrained(
    tmp_path / "out", output_loading_info=True
  )
  assert not any(report.values()), report
  for name, x in pair.reference.state_dict().items():
    np.testing.assert_array_equal(loaded.state_dict()[name], x, err_msg=name)
