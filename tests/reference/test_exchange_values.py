"""One direction of the exchange by itself, at other sizes: what it adds, and what share
of attention falls on its context tokens (figure 6).
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ccl_jax.models.cca import CrossAttention, CrossConfig, Geometry
from tests.reference.conftest import config_of, doubled, make_model, make_params
from tests.reference.exchange import exchange

ROWS, COLUMNS, HEADS, WIDTHS = (
  3,
  2,
  {"video": 2, "audio": 3},
  {"video": 32, "audio": 30},
)


@pytest.mark.parametrize(
  ("into", "t", "a", "rule"),
  [
    ("video", 4, 11, {"centre": "floor", "rope": "temporal"}),  # a window of 6
    ("audio", 5, 23, {}),  # groups of 4 and 5
  ],
)
def test_what_a_direction_adds(into, t, a, rule):
  other = "audio" if into == "video" else "video"
  cross = {"tarp_centre": "aligned", "cross_rope": "3d"} | {
    {"centre": "tarp_centre", "rope": "cross_rope"}[k]: v for k, v in rule.items()
  }
  config = CrossConfig(video_tokens=4, audio_tokens=3, **cross)
  heads, geometry = HEADS[into], Geometry(t, ROWS, COLUMNS, a)
  params = make_params(make_model(), 0)["blocks"][f"{other}_to_{into}"]
  params = jax.tree.map(lambda x: jnp.asarray(x[0]), params)
  rng = np.random.default_rng(1)
  tokens = {"video": (t, ROWS * COLUMNS), "audio": (a, 1)}
  draw = lambda s: rng.standard_normal((3, *tokens[s], WIDTHS[s])).astype(np.float32)
  own, seen, reads = draw(into), 2 * draw(other), np.array([True, False, True])

  module = CrossAttention(into, WIDTHS[into], heads, WIDTHS[other], config, jnp.float32)

  def call(module, own, seen, reads):
    table = lambda s: geometry.cross_table(s, WIDTHS[into] // heads, config)
    keys = module.keys(seen, table(other))
    return module(own, table(into), geometry, keys, reads)

  run = jax.jit(
    lambda p, *x: module.apply(
      {"params": p}, *x, method=call, mutable=["intermediates"]
    )
  )
  got, state = run(params, *map(jnp.asarray, (own, seen, reads)))

  flat = lambda x: np.float64(x).reshape(3, -1, x.shape[-1])
  share = []
  expected = exchange(
    doubled(jax.tree.map(np.asarray, params)), into, flat(own), flat(seen), reads,
    (t, ROWS, COLUMNS), a, heads, config_of(**rule)["exchange"], share,
  )  # fmt: skip
  error = np.abs(flat(got) - expected).max() / expected.std()
  assert error < 2e-5
  (ours,) = state["intermediates"]["context_share"]
  np.testing.assert_allclose(ours.reshape(3, -1), share[0], rtol=1e-4, atol=1e-6)
  assert share[0][0].max() < 0.99 and share[0][1].min() > 0.99
