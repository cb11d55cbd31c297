"""The grouped AdamW against optax.adamw, frozen groups, coverage, and the average."""

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


def _decays(params):
  return jax.tree_util.tree_map_with_path(lambda p, _: p[-1].key == "kernel", params)


def test_every_group_is_adamw_with_its_own_rate_and_decay_of_kernels_only():
  params = _params()
  optimizer = make_optimizer(GROUPS, params, warmup_steps=0, total_steps=9, **COMMON)
  got, _ = _run(optimizer, params, 4)
  for name, group in (("cca", GROUPS[0]), ("video", GROUPS[2])):
    adamw = optax.adamw(
      group.lr, **ADAM, weight_decay=group.weight_decay, mask=_decays(params[name])
    )
    alone, state = params[name], adamw.init(params[name])
    update = jax.jit(adamw.update)
    for i in range(4):
      updates, state = update(_params(seed=100 + i)[name], state, alone)
      alone = optax.apply_updates(alone, updates)
    chex.assert_trees_all_close(got[name], alone, rtol=1e-6, atol=1e-7)
  moved = optax.global_norm(jax.tree.map(jnp.subtract, got["cca"], params["cca"]))
  assert moved > 0.1


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


def test_gradients_are_clipped_by_the_norm_of_the_trained_ones():
  params = _params()
  options = COMMON | dict(clip_norm=0.5)
  optimizer = make_optimizer(GROUPS, params, warmup_steps=0, total_steps=9, **options)
  grads = _params(seed=1)
  _, state = optimizer.update(grads, optimizer.init(params), params)
  norm = optax.global_norm({k: grads[k] for k in ("video", "cca")})
  assert norm > 0.5
  expected = jax.tree.map(lambda g: (1 - ADAM["b1"]) * g * 0.5 / norm, grads["cca"])
  [adam] = [s for s in jax.tree.leaves(state, is_leaf=_is_adam) if _is_adam(s)]
  chex.assert_trees_all_close(adam.mu["cca"], expected, rtol=1e-5)


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
  with pytest.raises(UsageError, match="total_steps=2"):
    lr_multiplier(warmup_steps=3, total_steps=2, schedule="cosine")


def test_schedule_scales_every_groups_first_steps():
  params = _params()
  make = lambda warmup: make_optimizer(
    GROUPS, params, warmup_steps=warmup, total_steps=9, **COMMON
  )
  grads = _params(seed=1)
  full, _ = make(0).update(grads, make(0).init(params), params)
  part, _ = make(5).update(grads, make(5).init(params), params)
  chex.assert_trees_all_close(part, jax.tree.map(lambda u: u / 5, full), rtol=1e-6)


@pytest.mark.parametrize("step, d", [(0, 0.1), (8, 0.5), (10**6, 0.99)])
def test_ema(step, d):
  params, ema = _params(1), _params(2)
  got = jax.jit(lambda e, p, i: ema_update(e, p, 0.99, i))(ema, params, jnp.int32(step))
  expected = jax.tree.map(lambda e, p: d * e + (1 - d) * p, ema, params)
  chex.assert_trees_all_close(got, expected, rtol=1e-5, atol=1e-6)
  chex.assert_trees_all_equal(ema_update(params, params, 0.99, step), params)
