"""Our text encoder and transformers' `UMT5EncoderModel`, on padded prompts."""

import jax
import numpy as np
import pytest

from ccl_jax.models.umt5 import UMT5Encoder
from ccl_jax.weights.transfer import export_weights
from tests.parity.check_case import relative_error


@pytest.fixture(scope="module")
def pair(make_pair):
  return make_pair("umt5", "umt5")


def prompts():
  """Of 150, 60 and 1 tokens: beyond the last bucket of offsets, which begins at 128."""
  mask = np.arange(150) < np.array([[150], [60], [1]])
  ids = np.random.default_rng(0).integers(2, 64, mask.shape)
  return np.where(mask, ids, 0), mask


def rows_of(reference):
  import torch

  ids, mask = prompts()
  with torch.no_grad():
    out = reference(torch.tensor(ids), attention_mask=torch.tensor(mask).long())
  return out.last_hidden_state.numpy()[mask]


def test_the_rows_of_the_text(pair):
  ids, mask = prompts()
  encoder = UMT5Encoder(**pair.sizes, dtype="float32")
  got = jax.jit(encoder.apply)({"params": pair.params}, ids.astype(np.int32), mask)
  assert relative_error(np.asarray(got)[mask], rows_of(pair.reference)) < 1e-4


def test_transformers_loads_our_export(tmp_path, pair):
  export_weights(pair.imported, tmp_path / "out", form="diffusers")
  loaded = type(pair.reference).from_pretrained(tmp_path / "out")
  np.testing.assert_array_equal(rows_of(loaded), rows_of(pair.reference))
