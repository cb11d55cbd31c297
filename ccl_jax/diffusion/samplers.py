"""Solvers of the probability-flow ODE dx/dsigma = v(x, sigma), from noise to data.

All three are linear in the data prediction m_i = x_i - sigma_i v(x_i, t_i). With
alpha = 1 - sigma, lambda = log(alpha / sigma), h = lambda_{i+1} - lambda_i, and
E = alpha_{i+1} (1 - e^{-h}) = alpha_{i+1} - alpha_i sigma_{i+1} / sigma_i:

  predict   x_{i+1} = sigma_{i+1}/sigma_i x_i + E [m_i + (m_i - m_{i-1}) / (2 r)]
            r = (lambda_i - lambda_{i-1}) / h
  correct   x_{i+1} = sigma_{i+1}/sigma_i x_i
                      + E [m_i + p (m_{i-1} - m_i) + q (m_{i+1} - m_i)]

  method   order   predict             correct     reference
  euler    1       first order         -           x + (sigma_{i+1} - sigma_i) v
  dpmpp    2       second order        -           DPM-Solver++(2M), midpoint
  unipc    2       second order        yes         UniPC-2, B(h) = e^{-h} - 1 ("bh2")

First order is m_i alone. Of every method the first step is first order, for want of
history, and so is the last, where lambda is infinite: it returns m_{N-1}. The corrector
costs no evaluation: it redoes a step once the prediction at its end is there, and that
prediction, made before the correction, stays in the history.

So a step is two rows of numbers, computed on the host in float64 and scanned over:
infinite lambdas (sigma 1 and sigma 0) and changes of order are dealt with there, and
the compiled step has no branch. States are float32; any tree of latents is one state.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ccl_jax.diffusion.flow import data_prediction
from ccl_jax.diffusion.schedules import Schedule
from ccl_jax.errors import UsageError

Latents = Any  # a tree of float arrays, usually {"video": ..., "audio": ...}
Velocity = Callable[[Latents, Float[Array, ""]], Latents]

# method -> (order, corrected)
METHODS = {"unipc": (2, True), "dpmpp": (2, False), "euler": (1, False)}


def _corrector_weights(r: float, h: float, order: int) -> tuple[float, float]:
  """(p, q): UniPC's conditions with B(h) = e^{-h} - 1, solved in closed form.

  Order 2 asks rho + q = b1 and -r rho + q = b2 with p = -rho / r; order 1 sets q = 1/2.
  """
  if order == 1:
    return 0.0, 0.5
  c = -1 / np.expm1(-h)
  b1 = c - 1 / h
  b2 = c - 2 * b1 / h
  rho = (b1 - b2) / (1 + r)
  return -rho / r, b1 - rho


def solver_rows(
  sigmas: Float[np.ndarray, "levels"], method: str
) -> dict[str, np.ndarray]:
  """The coefficients of each step's linear combinations.

  Args:
    sigmas: N + 1 strictly decreasing noise levels, the last 0.
    method: one of METHODS.

  Returns:
    correct: (N, 5) over (x_i as predicted, x_{i-1}, m_i, m_{i-1}, m_{i-2}).
    predict: (N, 3) over (x_i, m_i, m_{i-1}).

  Raises:
    UsageError: an unknown method.
  """
  if method not in METHODS:
    raise UsageError(f"unknown sampler {method!r}; choose one of {', '.join(METHODS)}")
  max_order, corrected = METHODS[method]
  steps = len(sigmas) - 1
  alphas = 1 - sigmas
  with np.errstate(divide="ignore"):
    lambdas = np.log(alphas) - np.log(sigmas)
  correct = np.tile(np.eye(5)[0], (steps, 1))
  predict = np.zeros((steps, 3))
  for i in range(steps):
    # First order at the start (no history) and at the end (lambda is infinite).
    order = min(max_order, i + 1, steps - i)
    keep = sigmas[i + 1] / sigmas[i]
    # E of the module's docstring, in the form that is finite at sigma 0 and 1.
    move = alphas[i + 1] - alphas[i] * keep
    h = lambdas[i + 1] - lambdas[i]
    r = (lambdas[i] - lambdas[i - 1]) / h if order == 2 else np.inf
    # "predict", the coefficients of x_i, m_i and m_{i-1}.
    predict[i] = keep, move * (1 + 0.5 / r), -move * 0.5 / r
    if corrected and i + 1 < steps:
      p, q = _corrector_weights(r, h, order)
      # "correct", applied one step later, when m_{i+1} is there.
      correct[i + 1] = 0, keep, move * q, move * (1 - p - q), move * p
  return {"correct": correct, "predict": predict}


def _combine(row: Float[Array, "k"], *terms: Latents) -> Latents:
  return jax.tree.map(lambda *leaves: sum(c * x for c, x in zip(row, leaves)), *terms)


def sample(
  velocity: Velocity,
  noise: Latents,
  schedule: Schedule,
  method: str = "unipc",
  progress: Callable[[Any], None] | None = None,
) -> Latents:
  """Data from noise, one evaluation of `velocity` per step of the schedule.

  Args:
    velocity: (latents, timestep) -> velocities, a tree like the latents; all streams
      are at the same noise level. What stays clean belongs in its closure.
    noise: the latents at sigma 1, N(0, 1), batch first.
    schedule: noise levels and timesteps.
    method: one of METHODS.
    progress: a host function, called with the index of each step.
  """
  return advance(velocity, begin(noise), table_of(schedule, method), progress)[0]


def table_of(schedule: Schedule, method: str) -> dict[str, np.ndarray]:
  """What `advance` reads of each step, by rows: float32, and the step's index.

  Raises:
    UsageError: an unknown method.
  """
  rows = solver_rows(schedule.sigmas, method)
  table = dict(rows, sigma=schedule.sigmas[:-1], timestep=schedule.timesteps)
  table = jax.tree.map(lambda a: np.asarray(a, np.float32), table)
  return table | {"index": np.arange(schedule.steps, dtype=np.int32)}


def begin(noise: Latents) -> tuple[Latents, ...]:
  """The state before the first step: latents, and a history that is empty."""
  noise = jax.tree.map(lambda x: x.astype(jnp.float32), noise)
  zeros = jax.tree.map(jnp.zeros_like, noise)
  return noise, zeros, zeros, zeros


def advance(
  velocity: Velocity,
  carry: tuple[Latents, ...],
  table: dict[str, Any],
  progress: Callable[[Any], None] | None = None,
) -> tuple[Latents, ...]:
  """The state after the steps of `table`, whose first part are the latents.

  Args:
    velocity: see `sample`.
    carry: of `begin`, or of the steps before.
    table: rows of `table_of`, all or some that follow each other.
    progress: see `sample`.
  """

  def step(carry, at):
    x, last, m1, m2 = carry
    v = velocity(x, at["timestep"])
    m = jax.tree.map(functools.partial(data_prediction, sigma=at["sigma"]), x, v)
    x = _combine(at["correct"], x, last, m, m1, m2)
    new = _combine(at["predict"], x, m, m1)
    if progress is not None:
      jax.debug.callback(progress, at["index"])
    return (new, x, m, m1), None

  return jax.lax.scan(step, carry, jax.tree.map(jnp.asarray, table))[0]
