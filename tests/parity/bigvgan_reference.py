"""The public `bigvgan` package, in torch on a CPU, to compare with."""

import importlib
import sys
import types
from unittest import mock

import numpy as np
import pytest

from ccl_jax.models.vocoder import Generator


def load(module: str):
  """A module of the package; the test is skipped where it or torch is not installed."""
  pytest.importorskip("torch")
  pytest.importorskip("bigvgan")
  # Its discriminators name two classes of torchaudio that what is compared never uses.
  audio = types.ModuleType("torchaudio.transforms")
  audio.Spectrogram = audio.Resample = None
  stubs = {"torchaudio": types.ModuleType("torchaudio"), audio.__name__: audio}
  with mock.patch.dict(sys.modules, stubs):
    return importlib.import_module(f"bigvgan.{module}")


def config_of(generator: Generator) -> dict:
  """The package's names for the sizes; a version 1 says nothing of its end."""
  config = {
    "num_mels": generator.bands,
    "upsample_initial_channel": generator.channels,
    "upsample_rates": list(generator.rates),
    "upsample_kernel_sizes": list(generator.kernels),
    "resblock": "1",
    "resblock_kernel_sizes": [size for size, _ in generator.blocks],
    "resblock_dilation_sizes": [list(d) for _, d in generator.blocks],
    "activation": "snakebeta",
    "snake_logscale": True,
  }
  if not (generator.bias and generator.tanh):
    config |= {"use_bias_at_final": generator.bias, "use_tanh_at_final": generator.tanh}
  return config


def torch_generator(config: dict, seed: int = 0, loudness: float = 0.3):
  """A network with weight norm whose layers keep the size of what goes through them."""
  import torch

  attributes = load("env").AttrDict(config)
  model = load("bigvgan").BigVGAN(attributes).eval()
  rng = np.random.default_rng(seed)
  draw = lambda x: torch.tensor(rng.standard_normal(x.shape), dtype=torch.float32)
  with torch.no_grad():
    for name, x in model.named_parameters():
      x.copy_(draw(x))
      if name.endswith("weight_g"):  # lengths: 1 makes a variance of 1
        gain = loudness if "conv_post" in name else 1.0
        if "ups" in name:  # of each input, which makes half as many outputs
          gain = 2**-0.5
        x.copy_(gain * (1 + 0.2 * x))
      elif not name.endswith("weight_v"):
        x.copy_(0.3 * x)
  return model


def load_state(model, tensors: dict[str, np.ndarray]) -> None:
  """Tensors with either way's names of weight norm into a model that has the older."""
  import torch

  newer = "parametrizations.weight.original"
  older = lambda name: name.replace(f"{newer}0", "weight_g").replace(
    f"{newer}1", "weight_v"
  )
  model.load_state_dict({older(name): torch.tensor(x) for name, x in tensors.items()})


def mel(bands: int, frames: int, seed: int = 1) -> np.ndarray:
  """(2, frames, bands), of the deviation of a log-mel."""
  rng = np.random.default_rng(seed)
  return rng.standard_normal((2, frames, bands)).astype(np.float32)


def wave_of(model, mel: np.ndarray, double: bool = False) -> np.ndarray:
  """(b, n) of a mel (b, m, bands)."""
  import torch

  x = torch.tensor(np.moveaxis(mel, 1, 2))
  with torch.no_grad():
    y = model.double()(x.double()) if double else model(x)
  return y[:, 0].numpy()
