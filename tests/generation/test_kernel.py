"""Of a model that is loaded: where it samples decides its attention kernel; how it was
trained, the times of its latents.
"""

import pathlib

import jax
import pytest

from ccl_jax.checkpoints.find import Parameters
from ccl_jax.codecs.bundle import Codecs
from ccl_jax.generation import description, parameters, pipeline
from ccl_jax.models.byte_text import ByteText
from ccl_jax.models.presets import PRESETS
from ccl_jax.ops.kernels import Kernel

RUN = {"preset": "tiny", "blocks": {"block_q": 256, "interpret": True}}
TEXT = ByteText(length=5, dim=16)


def load(monkeypatch, about):
  """The model of a folder described by `about`, without its parameters."""
  found = Parameters(pathlib.Path("run"), "ema", about, pathlib.Path("codecs"))
  monkeypatch.setattr(description, "find_parameters", lambda *args: found)
  monkeypatch.setattr(pipeline, "load_codecs", lambda folder, names: Codecs(text=TEXT))
  monkeypatch.setattr(
    parameters, "restore_params", lambda *args, **kwargs: (0, None, {"objective": {}})
  )
  monkeypatch.setattr(pipeline, "parameter_shapes", lambda *args: {})
  for module, name in (  # of what is not there
    (pipeline, "require_same"),
    (pipeline, "joint_fingerprint"),
    (parameters, "identity"),
  ):
    monkeypatch.setattr(module, name, lambda *args: "")
  monkeypatch.setattr(pipeline, "fingerprints", lambda *args: {})
  return pipeline.LoadedModel.load("run").model


@pytest.mark.parametrize(
  ("platform", "dtype", "kernel"),
  [
    ("cpu", "bfloat16", "dense"),
    ("tpu", "bfloat16", "splash"),
    ("gpu", "bfloat16", "cudnn"),
    ("gpu", "float32", "chunked"),  # cuDNN's kernel knows no float32
  ],
)
@pytest.mark.parametrize("trained", ["splash", "chunked", "tokamax"])
def test_a_run_samples_with_the_kernel_of_its_host(
  monkeypatch, platform, dtype, kernel, trained
):
  monkeypatch.setattr(jax, "default_backend", lambda: platform)
  clip = {"frames": 17, "height": 32, "width": 32, "fps": 25.0}
  model = load(
    monkeypatch,
    {
      "model": {**RUN, "attention": trained, "dtype": dtype},
      "clip": clip,
      "codecs": {},
    },
  )
  assert model.kernel == Kernel(kernel)
  assert (model.depth, model.dtype) == (PRESETS["tiny"].depth, dtype)


@pytest.mark.parametrize(
  ("said", "times"), [({}, "uniform"), ({"times": "causal"}, "causal")]
)
def test_a_run_samples_with_the_times_it_was_trained_with(monkeypatch, said, times):
  """Those of a run that names none are the paper's."""
  clip = {"frames": 17, "height": 32, "width": 32, "fps": 25.0}
  about = {"model": RUN | said, "clip": clip, "codecs": {}}
  assert load(monkeypatch, about).cross.times == times


def test_so_does_a_converted_transformer(monkeypatch):
  monkeypatch.setattr(jax, "default_backend", lambda: "tpu")
  sizes = {
    "width": 128, "ffn": 256, "heads": 1, "depth": 2, "in_channels": 16,
    "out_channels": 16, "frequencies": 256, "text_dim": 16, "image_tokens": False,
  }  # fmt: skip
  monkeypatch.setattr(description.wan, "negative_prompt", lambda sizes: "")
  model = load(monkeypatch, {"kind": "wan-dit", "sizes": sizes, "codecs": {}})
  assert model.kernel == Kernel("splash")
