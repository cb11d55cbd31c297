"""The grouped AdamW by hand, frozen groups, coverage, and the average."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ccl_jax.errors import UsageError
from ccl_jax.training.optim import (
  ParamGroup,
  assign_groups,
  ema_update,
  lr_multiplier,
  make_optimizer,
)

ADAM = dict(b1=0.9, b2=0.95, eps=1e-6)
COMMON = ADAM | dict(clip_norm=1e9, moment_dtype="float32", schedule="constant")
GROUPS = [
  ParamGroup("cca/.*", lr=1e-2, weight_decay=0.1),
  ParamGroup("text/.*", lr=0.0, weight_decay=0.3),
  ParamGroup(".*", lr=1e-3, weight_decay=0.2),
]


def _params(seed=0):
  rng = np.random.default_rng(seed)

  def draw(*shape):
    return jnp.asarray(rng.standard_normal(shape), jnp.float32)

  def stream():
    # Scanned layers: even a bias has rank 2.
    return {
      "q": {"kernel": draw(3, 8, 6), "bias": draw(3, 6)},
      "norm": {"scale": draw(3, 8)},
      "modulation": draw(3, 6, 8),
    }

  return {"video": stream(), "cca": stream(), "text": stream()}


def _run(optimizer, params, steps, scale=1.0):
  state = optimizer.init(params)
  update = jax.jit(optimizer.update)
  for i in range(steps):
    grads = jax.tree.map(lambda g: scale * g, _params(seed=100 + i))
    updates, state = update(grads, state, params)
    params = optax.apply_updates(params, updates)
  return params, state


def _adamw_by_hand(params, gradients, rates, decays, multipliers, clip):
  """AdamW in float64: {name: array}, one step for each tree of gradients.

  m <- b1 m + (1 - b1) g,  v <- b2 v + (1 - b2) g^2,  both over 1 - b^n
  p <- p - rate (m / (sqrt(v) + eps) + decay p)
  """
  p = {k: np.asarray(x, np.float64) for k, x in params.items()}
  m, v = ({k: np.zeros_like(x) for k, x in p.items()} for _ in range(2))
  for n, (tree, multiplier) in enumerate(zip(gradients, multipliers), 1):
    g = {k: np.asarray(tree[k], np.float64) for k in p}
    # Frozen parameters have no share in the norm.
    norm = sum((g[k] ** 2).sum() for k in p if rates[k]) ** 0.5
    for k in p:
      g[k] *= min(1, clip / norm)
      m[k] = 0.9 * m[k] + 0.1 * g[k]
      v[k] = 0.95 * v[k] + 0.05 * g[k] ** 2
      adam = m[k] / (1 - 0.9**n) / (np.sqrt(v[k] / (1 - 0.95**n)) + 1e-6)
      p[k] = p[k] - rates[k] * multiplier * (adam + decays[k] * p[k])
  return p


def test_three_steps_by_hand():
  """Three groups of which one is frozen, decay of kernels alone, a warm-up of two steps
  before a cosine that ends at step 4, and a norm that is clipped in the second step.
  """
  params = _params()
  optimizer = make_optimizer(
    GROUPS, params, warmup_steps=2, total_steps=4,
    **COMMON | {"clip_norm": 20.0, "schedule": "cosine"},
  )  # fmt: skip
  state, update = optimizer.init(params), jax.jit(optimizer.update)
  scales, trees, got = (0.5, 2.0, 0.25), [], params
  for i, scale in enumerate(scales):
    trees.append(jax.tree.map(lambda g: scale * g, _params(seed=100 + i)))
    updates, state = update(trees[-1], state, got)
    got = optax.apply_updates(got, updates)
  flat = lambda tree: {
    jax.tree_util.keystr(p, simple=True, separator="/"): x
    for p, x in jax.tree_util.tree_leaves_with_path(tree)
  }
  start = flat(params)
  norms = [
    sum((np.asarray(x) ** 2).sum() for k, x in flat(t).items() if k[:4] != "text")
    ** 0.5
    for t in trees
  ]
  assert norms[0] < 20 < norms[1] and norms[2] < 20
  rates = {k: {"c": 1e-2, "t": 0.0, "v": 1e-3}[k[0]] for k in start}
  decays = {k: {"c": 0.1, "t": 0.3, "v": 0.2}[k[0]] for k in start}
  decays = {k: x if k.endswith("/kernel") else 0.0 for k, x in decays.items()}
  # Half, whole, and whole still: the cosine begins where the warm-up ends.
  expected = _adamw_by_hand(start, map(flat, trees), rates, decays, (0.5, 1, 1), 20.0)
  for k, x in flat(got).items():
    moved = np.asarray(x, np.float64) - np.asarray(start[k], np.float64)
    by_hand = expected[k] - np.asarray(start[k], np.float64)
    np.testing.assert_allclose(moved, by_hand, rtol=2e-4, atol=5e-7, err_msg=k)
    assert (moved != 0).any() == (k[:4] != "text"), k


def test_eps_is_added_to_the_root():
  """A first gradient of eps moves by half a rate, one of 3 eps by three quarters."""
  params = {"a": jnp.zeros(2)}
  optimizer = make_optimizer(
    [ParamGroup(".*", 1.0, 0.0)], params, warmup_steps=0, total_steps=2,
    **COMMON | {"eps": 1e-3},
  )  # fmt: skip
  gradient = {"a": jnp.asarray([1e-3, -3e-3])}
  updates, _ = optimizer.update(gradient, optimizer.init(params), params)
  np.testing.assert_allclose(updates["a"], [-0.5, 0.75], rtol=1e-4)


def test_the_rate_falls_along_half_a_cosine():
  """From step 2 to 10: at a quarter of the way 0.5 (1 + cos(pi / 4))."""
  m = lr_multiplier(warmup_steps=2, total_steps=10, schedule="cosine")
  got = [float(m(i)) for i in (0, 1, 2, 4, 6, 8, 9, 10, 11)]
  expected = [0.5, 1, 1, 0.8535534, 0.5, 0.1464466, 0.0380602, 0, 0]
  np.testing.assert_allclose(got, expected, atol=1e-6)
  none = lr_multiplier(warmup_steps=0, total_steps=4, schedule="cosine")
  np.testing.assert_allclose(
    [float(none(i)) for i in (0, 2, 4)], [1, 0.5, 0], atol=1e-6
  )
  for warmup in (-1, 2):
    with pytest.raises(UsageError, match=f"optim.warmup_steps is {warmup}; expected 0"):
      lr_multiplier(warmup_steps=warmup, total_steps=2, schedule="cosine")
  lr_multiplier(warmup_steps=1, total_steps=2, schedule="cosine")


def test_a_pattern_is_of_the_whole_path_and_the_first_one_wins():
  shapes = {
    "cca": {"kernel": 0, "kernel_b": 0},
    "cca2": {"kernel": 0},
    "a": {"cca": {"kernel": 0}},
  }
  groups = [ParamGroup("cca/kernel", 1.0, 0.0), ParamGroup(".*cca.*", 2.0, 0.0)]
  assert assign_groups(shapes, groups) == {
    "cca": {"kernel": 0, "kernel_b": 1},
    "cca2": {"kernel": 1},
    "a": {"cca": {"kernel": 1}},
  }


def test_frozen_parameters_keep_their_bits_and_have_no_moments():
  params = _params()
  params["text"]["norm"]["scale"] = params["text"]["norm"]["scale"].at[0, 0].set(-0.0)
  optimizer = make_optimizer(GROUPS, params, warmup_steps=2, total_steps=9, **COMMON)
  got, state = _run(optimizer, params, 3)
  for a, b in zip(jax.tree.leaves(got["text"]), jax.tree.leaves(params["text"])):
    assert np.asarray(a).tobytes() == np.asarray(b).tobytes()
  paths = [
    jax.tree_util.keystr(p, simple=True, separator="/")
    for p, _ in jax.tree_util.tree_leaves_with_path(state)
  ]
  assert not [p for p in paths if "text" in p]
  # A rule for a parameter's path also fits its two moments.
  assert len([p for p in paths if p.endswith("/cca/q/kernel")]) == 2


def test_a_frozen_parameter_with_a_bad_gradient_hurts_nobody():
  params = _params()
  optimizer = make_optimizer(GROUPS, params, warmup_steps=0, total_steps=9, **COMMON)
  grads = _params(seed=1)
  grads["text"] = jax.tree.map(lambda g: g * jnp.nan, grads["text"])
  updates, _ = optimizer.update(grads, optimizer.init(params), params)
  chex.assert_tree_all_finite(updates)


def _is_adam(x):
  return isinstance(x, optax.ScaleByAdamState)


def test_moment_dtype_is_the_first_moments():
  params = _params()
  options = COMMON | dict(moment_dtype="bfloat16")
  optimizer = make_optimizer(GROUPS, params, warmup_steps=0, total_steps=9, **options)
  _, state = _run(optimizer, params, 1)
  [adam] = [s for s in jax.tree.leaves(state, is_leaf=_is_adam) if _is_adam(s)]
  assert adam.mu["cca"]["modulation"].dtype == jnp.bfloat16
  assert adam.nu["cca"]["modulation"].dtype == jnp.float32


def test_groups_must_cover_and_be_used():
  shapes = jax.eval_shape(_params)
  labels = assign_groups(shapes, GROUPS)
  assert labels["cca"]["q"]["bias"] == 0
  assert labels["text"]["modulation"] == 1
  assert labels["video"]["norm"]["scale"] == 2
  with pytest.raises(UsageError, match="video/modulation"):
    assign_groups(shapes, [*GROUPS[:2], ParamGroup("video/.*/.*", 1.0, 0.0)])
  with pytest.raises(UsageError, match=r"'ca\.\*'"):
    assign_groups(shapes, [GROUPS[2], ParamGroup("ca.*", 1.0, 0.0)])
  with pytest.raises(UsageError, match="audio"):
    assign_groups(shapes, [ParamGroup("audio/.*", 1.0, 0.0), *GROUPS])


def test_schedules():
  constant = lr_multiplier(warmup_steps=4, total_steps=12, schedule="constant")
  rise = [0.25, 0.5, 0.75, 1.0]
  got = [float(constant(i)) for i in range(12)]
  np.testing.assert_allclose(got, rise + [1.0] * 8, rtol=1e-6)
  cosine = lr_multiplier(warmup_steps=4, total_steps=12, schedule="cosine")
  got = [float(cosine(i)) for i in (0, 1, 2, 3, 4, 6, 8, 12, 20)]
  fall = [1.0, 0.5 + 0.5**1.5, 0.5, 0.0, 0.0]
  np.testing.assert_allclose(got, rise + fall, atol=1e-6)
  no_warmup = lr_multiplier(warmup_steps=0, total_steps=2, schedule="constant")
  assert float(no_warmup(0)) == 1.0
  with pytest.raises(UsageError, match="linear"):
    lr_multiplier(warmup_steps=0, total_steps=2, schedule="linear")
  with pytest.raises(UsageError, match="expected 0 to 1, less than config.steps"):
    lr_multiplier(warmup_steps=3, total_steps=2, schedule="cosine")


@pytest.mark.parametrize("step, d", [(0, 0.1), (8, 0.5), (10**6, 0.99)])
def test_ema(step, d):
  params, ema = _params(1), _params(2)
  got = jax.jit(lambda e, p, i: ema_update(e, p, 0.99, i))(ema, params, jnp.int32(step))
  expected = jax.tree.map(lambda e, p: d * e + (1 - d) * p, ema, params)
  chex.assert_trees_all_close(got, expected, rtol=1e-5, atol=1e-6)
  chex.assert_trees_all_equal(ema_update(params, params, 0.99, step), params)
