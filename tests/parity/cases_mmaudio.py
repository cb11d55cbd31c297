"""Golden case of MMAudio's mel and VAE: a wave's mel, its latents, mels of latents."""

import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
from safetensors.numpy import load_file

from ccl_jax.models.audio_vae import decode, encode_mel
from ccl_jax.ops.stft import log_mel
from ccl_jax.weights.load import load_params

LIMIT, MEL_LIMIT = 1e-4, 1e-5
FILES = ("v1-*.pth", "vae_weights.*")


def is_mmaudio(folder: pathlib.Path) -> bool:
  return (folder / "vae_case.safetensors").is_file() and any(
    any(folder.glob(pattern)) for pattern in FILES
  )


def cases_mmaudio(
  folder: pathlib.Path,
) -> list[tuple[str, np.ndarray, np.ndarray, float]]:
  """(name, got, expected, limit) per output."""
  case = load_file(folder / "vae_case.safetensors")
  case = {name: np.moveaxis(x, 1, -1) if x.ndim == 3 else x for name, x in case.items()}
  mode = mel_mode(folder)
  params, to_mel = load_params("audio-vae", folder)[0], jax.jit(decode)
  mean, logvar = jax.jit(encode_mel)(params, case["mel"])
  got = {
    "mel": jax.jit(lambda wave: log_mel(wave, **mode))(case["wav"]),
    "latent_mean": mean,
    "latent_std": jnp.exp(0.5 * logvar),
    "decoded_mel": to_mel(params, case["latent_mean"]),
    "decoded_mel2": to_mel(params, case["z2"]),
  }
  limit = lambda name: MEL_LIMIT if name == "mel" else LIMIT
  return [(name, np.asarray(x), case[name], limit(name)) for name, x in got.items()]


def mel_mode(folder: pathlib.Path) -> dict:
  """The keywords of `log_mel` that config.json describes."""
  mel = json.loads((folder / "config.json").read_text())["mel"]
  sizes = {key: mel[key] for key in ("sample_rate", "n_fft", "hop")}
  log = jnp.log10 if mel["log"] == "log10" else jnp.log
  return sizes | {"bands": mel["n_mels"], "log": log}
