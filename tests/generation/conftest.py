"""A sampler that only records, for tests of what reaches it."""

import jax
import numpy as np
import pytest

from ccl_jax.generation import pipeline as inference
from tests.generation.standins import Call


@pytest.fixture
def calls(monkeypatch):
  """What the sampler was asked for; it gives back noise as latents."""
  made = []

  def sampler(programs, model, params, task, noise, conditions, sampling, **options):
    host = lambda tree: jax.tree.map(np.asarray, tree)
    made.append(Call(task, host(noise), host(conditions), sampling, options))
    return dict(noise)

  monkeypatch.setattr(inference, "sample_windows", sampler)
  return made
