"""Our image encoder and transformers' `CLIPVisionModel`, on the same pixels.

What Wan2.1 reads is `hidden_states[-2]`. Its way from an image to pixels is not that of
transformers; tests/models/test_clip_vision.py has it.
"""

import jax
import numpy as np
import pytest

from ccl_jax.models.clip_vision import ClipTower
from ccl_jax.weights.transfer import export_weights
from tests.parity.check_case import relative_error


@pytest.fixture(scope="module")
def pair(make_pair):
  return make_pair("clip", "clip")


def pixels():
  return np.random.default_rng(0).standard_normal((2, 3, 28, 28), np.float32)


def tokens_of(reference):
  import torch

  with torch.no_grad():
    out = reference(torch.tensor(pixels()), output_hidden_states=True)
  return out.hidden_states[-2].numpy()


def test_the_tokens(pair):
  tower = ClipTower(**pair.sizes, dtype="float32")
  assert (tower.depth, tower.heads) == (2, 3)
  image = np.moveaxis(pixels(), 1, -1)
  got = np.asarray(jax.jit(tower.apply)({"params": pair.params}, image))
  assert relative_error(got, tokens_of(pair.reference)) < 1e-4


@pytest.mark.parametrize("form", ["diffusers", "transformers"])
def test_transformers_loads_our_export(tmp_path, pair, form):
  """The last layer, which is not in it, does not matter to hidden_states[-2]."""
  export_weights(pair.imported, tmp_path / "out", form=form)
  loaded = type(pair.reference).from_pretrained(tmp_path / "out")
  np.testing.assert_array_equal(tokens_of(loaded), tokens_of(pair.reference))
