"""AdamW in parameter groups, and the moving average of the parameters.

  g  = gradient, scaled down to global norm `clip_norm` over all trained parameters
  u  = adam(g; b1, b2, eps)
  p <- p - lr_group * m(step) * (u + weight_decay_group * p * [p is a kernel])

The multiplier m rises linearly to 1 over `warmup_steps`, m = (step + 1) / warmup_steps,
and then stays ("constant") or falls to 0 at `total_steps` along half a cosine. A group
with lr = 0 is frozen: no moments, no update, no share in the gradient's norm.

The moments are trees like the parameters', so the path of a moment ends in the path of
its parameter and the same sharding rule places both.
"""

import dataclasses
import re
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, PyTree

from ccl_jax.errors import UsageError


@dataclasses.dataclass(frozen=True)
class ParamGroup:
  """The parameters whose whole '/'-joined path matches the regex `pattern`.

  Attributes:
    lr: peak learning rate; 0 freezes the group.
    weight_decay: of its kernels.
  """

  pattern: str
  lr: float
  weight_decay: float


def _paths(tree: PyTree) -> PyTree:
  return jax.tree_util.tree_map_with_path(
    lambda path, _: jax.tree_util.keystr(path, simple=True, separator="/"), tree
  )


def assign_groups(params_or_shapes: PyTree, groups: Sequence[ParamGroup]) -> PyTree:
  """For every parameter the index of its group; the first match wins.

  Raises:
    UsageError: a parameter is in no group, or a group has no parameter.
  """

  def label(path: str) -> int:
    # Whole paths: ".*bias" must not match "bias_table/kernel".
    for i, group in enumerate(groups):
      if re.fullmatch(group.pattern, path):
        return i
    patterns = [group.pattern for group in groups]
    raise UsageError(
      f"parameter {path} is in no group of {patterns}; add a group that matches its"
      " whole path, such as '.*' at the end"
    )

  labels = jax.tree.map(label, _paths(params_or_shapes))
  for i in set(range(len(groups))) - set(jax.tree.leaves(labels)):
    raise UsageError(
      f"no parameter belongs to the group '{groups[i].pattern}'; patterns match whole"
      " paths and the first one wins: correct it or remove it"
    )
  return labels


def lr_multiplier(
  *, warmup_steps: int, total_steps: int, schedule: str
) -> Callable[[Int[Array, ""] | int], Float[Array, ""]]:
  """The function m(step) of the module's equations; step 0 is the first update.

  Raises:
    UsageError: an unknown schedule, or a warm-up that does not end before the run.
  """
  if schedule not in ("constant", "cosine"):
    raise UsageError(f"schedule '{schedule}': expected 'constant' or 'cosine'")
  if not 0 <= warmup_steps < total_steps:
    raise UsageError(
      f"config.optim.warmup_steps is {warmup_steps}; expected 0 to "
      f"{total_steps - 1}, less than config.steps"
    )

  def multiplier(step):
    # The first update already has a rate: (0 + 1) / warmup_steps.
    rise = jnp.minimum(1.0, (step + 1) / max(warmup_steps, 1))
    if schedule == "constant":
      return rise
    done = (step - warmup_steps) / (total_steps - warmup_steps)
    return rise * 0.5 * (1 + jnp.cos(jnp.pi * jnp.clip(done, 0, 1)))

  return multiplier


def make_optimizer(
  groups: Sequence[ParamGroup],
  shapes: PyTree,
  *,
  warmup_steps: int,
  total_steps: int,
  schedule: str,
  b1: float,
  b2: float,
  eps: float,
  clip_norm: float,
  moment_dtype: str,
) -> optax.GradientTransformation:
  """The optimizer for parameters shaped like `shapes`.

  Args:
    groups: learning rates and weight decays.
    shapes: a tree of the parameters, or of their shapes.
    warmup_steps, total_steps, schedule: see `lr_multiplier`.
    b1, b2, eps: of Adam.
    clip_norm: largest norm of the gradient over all trained parameters.
    moment_dtype: of the first moment. The second keeps the parameters' dtype, for its
      steps of 1 - b2 are below what bfloat16 resolves.

  Raises:
    UsageError: groups or schedule are wrong.
  """
  labels = assign_groups(shapes, groups)
  trained = jax.tree.map(lambda i: groups[i].lr != 0, labels)
  # By name and not by rank: scanned layers give every parameter a leading layer axis.
  kernels = jax.tree.map(lambda path: path.split("/")[-1] == "kernel", _paths(shapes))
  multiplier = lr_multiplier(
    warmup_steps=warmup_steps, total_steps=total_steps, schedule=schedule
  )

  def decay_and_rate(updates, params):
    def one(u, p, i, kernel):
      if groups[i].lr == 0:
        return jnp.zeros_like(p)
      # p <- p - lr m (u + wd p [p is a kernel]): decay is decoupled, as in AdamW.
      return groups[i].lr * (u + groups[i].weight_decay * p if kernel else u)

    return jax.tree.map(one, updates, params, labels, kernels)

  return optax.chain(
    # Within `masked`, the norm is that of the trained parameters alone.
    optax.masked(
      optax.chain(
        optax.clip_by_global_norm(clip_norm),
        optax.scale_by_adam(b1=b1, b2=b2, eps=eps, mu_dtype=moment_dtype),
      ),
      trained,
    ),
    optax.stateless(decay_and_rate),
    optax.scale_by_schedule(lambda step: -multiplier(step)),
  )


def ema_update(
  ema: PyTree[Float[Array, "..."]],
  params: PyTree[Float[Array, "..."]],
  decay: float,
  step: Int[Array, ""] | int,
) -> PyTree[Float[Array, "..."]]:
  """Returns ema + (1 - d)(params - ema) with d = min(decay, (1 + step) / (10 + step)).

  The rising d lets the average forget the initial parameters; where a parameter never
  moves its average is the same bits.
  """
  # The warm-up of TensorFlow's ExponentialMovingAverage.
  d = jnp.minimum(decay, (1 + step) / (10 + step))
  return jax.tree.map(lambda e, p: e + ((1 - d) * (p - e)).astype(e.dtype), ema, params)
