"""MMAudio's VAE and vocoder as one codec, from converted files: length, linking."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from ccl_jax import convert
from ccl_jax.codecs.bundle import Codecs, fingerprint, load_codecs
from ccl_jax.codecs.links import link_codec
from ccl_jax.errors import UsageError
from ccl_jax.models import audio_vae
from ccl_jax.ops.stft import log_mel
from ccl_jax.weights.transfer import import_weights

HOP = 512
encode = jax.jit(lambda codec, wave: codec.encode(wave))
decode = jax.jit(lambda codec, latent: codec.decode(latent))


@pytest.fixture(scope="module")
def folders(shared, tmp_path_factory):
  """The golden VAE and vocoder, converted."""
  root = tmp_path_factory.mktemp("mel")
  case = shared / "parity" / "mmaudio_16k"
  config = json.loads((case / "config.json").read_text())["bigvgan"]
  for kind, file in (("audio-vae", "vae_weights"), ("vocoder", "bigvgan_weights")):
    (root / f"{kind}-src").mkdir()
    save_file(
      load_file(case / f"{file}.safetensors"), root / f"{kind}-src/model.safetensors"
    )
    (root / f"{kind}-src/config.json").write_text(json.dumps(config))
    import_weights(kind, root / f"{kind}-src/model.safetensors", root / kind)
  return root / "audio-vae", root / "vocoder"


@pytest.fixture(scope="module")
def codec(folders, tmp_path_factory):
  """By a bundle, as a run reads it."""
  bundle = tmp_path_factory.mktemp("bundle") / "codecs"
  given = list(map(str, folders))
  convert.main(["codecs", "--audio", *given, "--dst", str(bundle)])
  return load_codecs(bundle).audio


@pytest.mark.shared
def test_it_is_the_vae_and_the_vocoder(codec, shared):
  case = load_file(shared / "parity" / "mmaudio_16k" / "vae_case.safetensors")
  wave = case["wav"][:, : case["wav"].shape[1] // HOP * HOP]
  latent = encode(codec, wave)
  expected = np.moveaxis(case["latent_mean"], 1, 2)[:, : latent.shape[1]]
  # The golden sound is longer by less than a latent: what its end touches is left out.
  assert np.abs(latent - expected)[:, :-8].max() < 1e-4 * expected.std()


@pytest.mark.shared
def test_what_comes_out_is_as_long_as_what_went_in(codec):
  """In several pieces; all at once, with the sound, in tests/audio_codec."""
  wave = jax.ShapeDtypeStruct((2, 61 * HOP), jnp.float32)
  through = lambda codec, wave: codec.decode(codec.encode(wave))
  assert jax.eval_shape(through, codec.replace(chunk=16), wave).shape == wave.shape


@pytest.mark.shared
def test_silence_is_finite(codec):
  latent = encode(codec, jnp.zeros((1, 16 * HOP)))
  assert np.isfinite(latent).all()


@pytest.mark.shared
def test_a_bundle_knows_its_weights(folders, codec):
  whole = Codecs(audio=codec)
  assert fingerprint(whole) == fingerprint(Codecs(audio=link_codec(*folders)))
  assert fingerprint(whole) != fingerprint(Codecs(audio=codec.replace(chunk=7)))


@pytest.mark.shared
def test_weights_of_two_modes_do_not_go_together(folders, tmp_path):
  def other(folder, **sizes):
    about = json.loads((folder / "config.json").read_text())
    about["sizes"] |= sizes
    (tmp_path / folder.name).mkdir()
    (tmp_path / folder.name / "config.json").write_text(json.dumps(about))
    return tmp_path / folder.name

  vae, vocoder = folders
  wide = other(vae, channels=40)
  for given in ((wide, vocoder), (wide,)):
    with pytest.raises(
      UsageError, match="80 bands and 40 channels, expected 80 and 20"
    ):
      link_codec(*given)
  with pytest.raises(UsageError, match="100 bands and 256 samples"):
    link_codec(vae, other(vocoder, bands=100))
  with pytest.raises(UsageError, match="expected weights of wan-vae or"):
    link_codec(vocoder)


@pytest.mark.shared
def test_a_vae_alone_is_heard_through_griffin_lim(folders, codec, tmp_path):
  convert.main(["codecs", "--audio", str(folders[0]), "--dst", str(tmp_path / "b")])
  alone = load_codecs(tmp_path / "b").audio
  assert alone.vocoder is None and alone.generator == ""
  assert fingerprint(Codecs(audio=alone)) != fingerprint(Codecs(audio=codec))
  rng = np.random.default_rng(0)
  wave = jnp.asarray(0.1 * rng.standard_normal((1, 16 * HOP)), jnp.float32)
  latent = encode(alone, wave)
  np.testing.assert_array_equal(latent, encode(codec, wave))
  back = np.asarray(decode(alone, latent))
  assert back.shape == wave.shape and np.abs(back).max() <= 1
  # Its mel is about that which the VAE decodes: no other sound has the same.
  mel = np.asarray(jax.jit(audio_vae.decode)(alone.vae, latent))
  distance = lambda x: np.abs(log_mel(jnp.asarray(x)) - mel)[:, 4:-4].mean()
  assert distance(back) < 0.5 * distance(wave), (distance(back), distance(wave))
