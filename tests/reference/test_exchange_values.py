"""One direction of the exchange by itself, at other sizes: what it adds, and what share
of attention falls on its context tokens (figure 6).
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ccl_jax.models.cca import CrossAttention, CrossConfig, Geometry
from tests.reference.conftest import (
  PAPER,
  config_of,
  doubled,
  make_model,
  make_params,
  rule_of,
)
from tests.reference.exchange import exchange

ROWS, COLUMNS, HEADS, WIDTHS = (
  3,
  2,
  {"video": 2, "audio": 3},
  {"video": 32, "audio": 30},
)


CASES = {
  "paper_video": ("video", 4, 11, PAPER | {"tarp_centre": "floor"}),  # a window of 6
  "paper_audio": ("audio", 5, 23, PAPER),  # groups of 4 and 5
  "video": ("video", 4, 18, {"cross_rope": "temporal"}),  # of 6, half a token early
  "audio": ("audio", 5, 23, {"rope_unit": "latent"}),  # groups of 1 and 5 or 6
  "wide_video": ("video", 4, 15, {"window": 3, "context_values": False}),
  "wide_audio": ("audio", 5, 19, {"video_window": 3}),
  "all_audio": ("audio", 4, 11, {"video_window": 0, "rope_unit": "index"}),
  "no_context": ("video", 4, 11, {"audio_tokens": 0}),
}


@pytest.mark.parametrize("name", CASES)
def test_what_a_direction_adds(name):
  into, t, a, cross = CASES[name]
  other = "audio" if into == "video" else "video"
  sizes = {"video_tokens": 4, "audio_tokens": 3} | cross
  config = CrossConfig(**sizes)
  heads, geometry = HEADS[into], Geometry(t, ROWS, COLUMNS, a)
  params = make_params(make_model(**cross), 0)["blocks"][f"{other}_to_{into}"]
  params = jax.tree.map(lambda x: jnp.asarray(x[0]), params)
  rng = np.random.default_rng(1)
  tokens = {"video": (t, ROWS * COLUMNS), "audio": (a, 1)}
  draw = lambda s: rng.standard_normal((3, *tokens[s], WIDTHS[s])).astype(np.float32)
  own, seen, reads = draw(into), 2 * draw(other), np.array([True, False, True])

  module = CrossAttention(into, WIDTHS[into], heads, WIDTHS[other], config, jnp.float32)

  cross_table = lambda s: geometry.cross_table(s, WIDTHS[into] // heads, config)

  def call(module, own, seen, reads):
    keys = module.keys(seen, cross_table(other))
    return module(own, cross_table(into), geometry, keys, reads)

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
    (t, ROWS, COLUMNS), a, heads, config_of(**rule_of(cross))["exchange"],
    share if config.context_tokens(other) else None,
  )  # fmt: skip
  error = np.abs(flat(got) - expected).max() / expected.std()
  assert error < 2e-5
  if not config.context_tokens(other):
    # Who does not read gets nothing, by sample and where nobody reads.
    alone = jnp.asarray(own), cross_table(into), geometry, None, None
    assert not flat(got)[1].any() and flat(got)[0].any()
    assert not module.apply({"params": params}, *alone).any()
    return
  (ours,) = state["intermediates"]["context_share"]
  np.testing.assert_allclose(ours.reshape(3, -1), share[0], rtol=1e-4, atol=1e-6)
  assert share[0][0].max() < 0.99 and share[0][1].min() > 0.99
