"""The network a small vocoder begins with: it sounds as loud, and where, as its mel."""

import dataclasses

import jax
import numpy as np
import pytest

from ccl_jax.errors import UsageError
from ccl_jax.models.vocoder import Generator
from ccl_jax.ops.stft import log_mel
from ccl_jax.ops.weight_norm import join
from ccl_jax.training.channel_vocoder import start

GENERATOR = Generator(
  bands=80,
  channels=480,
  rates=(1, 1, 16, 16),
  kernels=(1, 1, 32, 32),
  blocks=((3, (1, 1)),),
)
SAMPLES = 16_384


@pytest.fixture(scope="module")
def back():
  """(mel, mel of what is made of it) of noise at two levels and of a tone."""
  params = join(start(jax.random.key(0), GENERATOR))
  rng, time = np.random.default_rng(1), np.arange(SAMPLES) / 16000
  loud = 0.1 * rng.standard_normal(SAMPLES)
  tone = 0.2 * np.sin(2 * np.pi * 1500 * time) + 1e-4 * rng.standard_normal(SAMPLES)
  waves = np.stack([loud, 1e-3 * loud, tone]).astype(np.float32)

  @jax.jit
  def both(waves):
    mel = log_mel(waves)
    return mel, log_mel(GENERATOR.apply({"params": params}, mel))

  return [np.asarray(x)[:, 4:-4] for x in both(waves)]  # not the ends


def test_every_band_is_as_loud_as_it_should_be(back):
  """Noise within 4 dB, in every band, and at a thousandth of the amplitude as well."""
  mel, got = (20 * x.mean(1) for x in back)
  assert (mel[0] - mel[1]).min() > 50
  np.testing.assert_allclose(got[0], mel[0], atol=4)
  np.testing.assert_allclose(got[1], mel[1], atol=6)


def test_a_tone_sounds_in_its_band(back):
  mel, got = (x[2].mean(0) for x in back)
  assert abs(int(mel.argmax()) - int(got.argmax())) <= 1
  assert abs(got.max() - mel.max()) * 20 < 6
  far = np.abs(np.arange(80) - mel.argmax()) > 20
  assert (got.max() - got[far]).min() * 20 > 30


@pytest.mark.parametrize(
  "fields",
  [
    {"channels": 320},
    {"rates": (4, 4, 16), "kernels": (8, 8, 32)},
    {"blocks": ((3, (1,)),)},
  ],
)
def test_networks_without_room_are_refused(fields):
  with pytest.raises(UsageError, match="start=random"):
    start(jax.random.key(0), dataclasses.replace(GENERATOR, parent=None, **fields))
