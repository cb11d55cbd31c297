"""The work that a run's speed is told of, by hand."""

import jax.numpy as jnp

from ccl_jax import train
from ccl_jax.models.cca import Geometry
from ccl_jax.models.presets import build_model
from ccl_jax.planning.chips import CHIPS


def test_the_work_of_a_batch_is_three_passes_of_its_clips(monkeypatch):
  """Of the geometry that its latents have, whatever the config's clip."""
  asked = []

  def flops(model, geometry, length, width):
    asked.append((geometry, length, width))
    return {"linear": 5.0, "cross": 2.0}

  monkeypatch.setattr(train, "forward_flops", flops)
  work = train.work_of(build_model("tiny"), (16, 32))
  batch = {
    "video": jnp.zeros((6, 3, 4, 8, 16)), "audio": jnp.zeros((6, 7, 20)),
    "text": jnp.zeros((6, 16, 32)), "null_text": jnp.zeros((16, 32)),
  }  # fmt: skip
  assert work(batch) == work(batch) == (6, 6 * 3 * 7)
  assert asked == [(Geometry(3, 2, 4, 7), 16, 32)]
  silent = {k: x for k, x in batch.items() if k != "audio"}
  assert work(silent)[0] == 6 and asked[1][0] == Geometry(3, 2, 4, 0)


def test_the_peak_is_of_all_devices_together(monkeypatch):
  monkeypatch.setattr(train, "chip_of", lambda kind: CHIPS["v5p"])
  assert train._peak() == 8 * 459e12
