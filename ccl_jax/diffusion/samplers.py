"""Solvers of the probability-flow ODE dx/dsigma = v(x, sigma), from noise to data.

All are linear in the data prediction m_i = x_i - sigma_i v(x_i, t_i). With
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

One more, "renoise", is no solver of the ODE: networks that were distilled into few
steps predict the data from any noise level, and each step adds fresh noise e_i,

  renoise   x_{i+1} = (1 - sigma_{i+1}) m_i + sigma_{i+1} e_i,   x_0 = sigma_0 noise

(CausVid, FastVideo, rCM; x_0 is the same rule, of data 0.)

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
from jaxtyping import Array, Float, Int

from ccl_jax.diffusion.flow import data_prediction
from ccl_jax.diffusion.schedules import Schedule
from ccl_jax.errors import UsageError

Latents = Any  # a tree of float arrays, usually {"video": ..., "audio": ...}
Velocity = Callable[[Latents, Float[Array, ""]], Latents]
# What a velocity hands on from step to step, by name.
Memory = dict[str, Array]
Stateful = Callable[[Latents, Float[Array, ""], Memory], tuple[Latents, Memory]]
Fresh = Callable[[Int[Array, ""]], Latents]

# method -> (order, corrected)
METHODS = {"unipc": (2, True), "dpmpp": (2, False), "euler": (1, False)}
RENOISE = "renoise"


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
    method: one of METHODS, or "renoise".

  Returns:
    correct: (N, 5) over (x_i as predicted, x_{i-1}, m_i, m_{i-1}, m_{i-2}).
    predict: (N, 3) over (x_i, m_i, m_{i-1}).
    fresh: (N,), of "renoise" alone: the coefficient of e_i.

  Raises:
    UsageError: an unknown method.
  """
  steps = len(sigmas) - 1
  if method == RENOISE:
    return {
      "correct": np.tile(np.eye(5)[0], (steps, 1)),
      "predict": np.stack([0 * sigmas[1:], 1 - sigmas[1:], 0 * sigmas[1:]], 1),
      "fresh": sigmas[1:],
    }
  if method not in METHODS:
    raise UsageError(
      f"unknown sampler {method!r}; choose one of {', '.join([*METHODS, RENOISE])}"
    )
  max_order, corrected = METHODS[method]
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
  fresh: Fresh | None = None,
) -> Latents:
  """Data from noise, one evaluation of `velocity` per step of the schedule.

  Args:
    velocity: (latents, timestep) -> velocities, a tree like the latents; all streams
      are at the same noise level. What stays clean belongs in its closure.
    noise: the latents at sigma 1, N(0, 1), batch first.
    schedule: noise levels and timesteps.
    method: one of METHODS, or "renoise".
    progress: a host function, called with the index of each step.
    fresh: of "renoise", the noise e_i that follows step i, a tree like the latents.
  """
  plain = lambda x, timestep, memory: (velocity(x, timestep), memory)
  carry = begin(noise, schedule, method)
  return advance(plain, carry, table_of(schedule, method), progress, fresh)[0]


def table_of(schedule: Schedule, method: str) -> dict[str, np.ndarray]:
  """What `advance` reads of each step, by rows: float32, and the step's index.

  Raises:
    UsageError: an unknown method.
  """
  rows = solver_rows(schedule.sigmas, method)
  table = dict(rows, sigma=schedule.sigmas[:-1], timestep=schedule.timesteps)
  table = jax.tree.map(lambda a: np.asarray(a, np.float32), table)
  return table | {"index": np.arange(schedule.steps, dtype=np.int32)}


def begin(noise: Latents, schedule: Schedule, method: str) -> tuple[Latents, ...]:
  """The state before the first step: latents, a history and a memory that are empty.

  Args:
    noise, schedule, method: see `sample`.
  """
  scale = schedule.sigmas[0] if method == RENOISE else 1.0
  noise = jax.tree.map(lambda x: x.astype(jnp.float32) * np.float32(scale), noise)
  zeros = jax.tree.map(jnp.zeros_like, noise)
  return noise, zeros, zeros, zeros, {}


def advance(
  velocity: Stateful,
  carry: tuple[Latents, ...],
  table: dict[str, Any],
  progress: Callable[[Any], None] | None = None,
  fresh: Fresh | None = None,
) -> tuple[Latents, ...]:
  """The state after the steps of `table`: latents first, the memory last.

  Args:
    velocity: (latents, timestep, memory) -> (velocities, memory), with the same names
      in both memories.
    carry: of `begin`, or of the steps before.
    table: rows of `table_of`, all or some that follow each other.
    progress, fresh: see `sample`.
  """

  def step(carry, at):
    x, last, m1, m2, memory = carry
    v, memory = velocity(x, at["timestep"], memory)
    m = jax.tree.map(functools.partial(data_prediction, sigma=at["sigma"]), x, v)
    x = _combine(at["correct"], x, last, m, m1, m2)
    new = _combine(at["predict"], x, m, m1)
    if "fresh" in at:
      noise = fresh(at["index"])
      new = jax.tree.map(lambda x, e: x + at["fresh"] * e, new, noise)
    if progress is not None:
      jax.debug.callback(progress, at["index"])
    return (new, x, m, m1, memory), None

  return jax.lax.scan(step, carry, jax.tree.map(jnp.asarray, table))[0]
