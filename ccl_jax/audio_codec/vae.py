"""The training step of the mel VAE (models/audio_vae.py), of waves at 16 kHz.

  mel    = log_mel(wave)                       ops/stft.py, the 16 kHz mode
  loss   = mean |mel' - mel| / std + kl_weight KL + modulation_weight modulation
  params = forced(params + update)             EDM2, arXiv 2312.02696, eq. 66

mel' is decoded from a draw of the posterior. The bands' mean and deviation are measured
before the first step and are parameters that no optimizer moves. Weights are put back
to rms 1 after every update, so that the learning rate is the relative change of a
weight in a step.
"""

from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float

from ccl_jax.models import audio_vae
from ccl_jax.models.audio_vae_layers import forced
from ccl_jax.ops.stft import MODES, log_mel
from ccl_jax.seeds import noise_key
from ccl_jax.training.optim import ema_update
from ccl_jax.training.state import TrainState, new_state

MODE = MODES["16k"]
STATISTICS = "data_(mean|std)"  # parameters that the optimizer leaves alone
QUIETEST = 1e-2  # deviation of a band that never sounds


def measure_bands(
  waves: Iterable[Float[np.ndarray, "n"]],
) -> tuple[Float[Array, "c"], Float[Array, "c"]]:
  """Mean and deviation of every band of log-mels.

  Args:
    waves: at 16 kHz, of one length.
  """
  mel = jax.jit(lambda wave: log_mel(wave[None], **MODE)[0])
  count, total, square = 0, 0.0, 0.0
  for wave in waves:
    rows = np.asarray(mel(wave), np.float64)
    count, total = count + len(rows), total + rows.sum(0)
    square = square + (rows**2).sum(0)
  mean = total / count
  std = np.sqrt(np.maximum(square / count - mean**2, QUIETEST**2))
  return jnp.asarray(mean, jnp.float32), jnp.asarray(std, jnp.float32)


def fresh_vae(
  key: Array,
  sizes: dict[str, int],
  statistics: tuple[Float[Array, "c"], Float[Array, "c"]],
  optimizer: optax.GradientTransformation,
) -> TrainState:
  """The state of random parameters before the first step.

  Args:
    key: of the draw.
    sizes: the keywords of `init_params`.
    statistics: mean and deviation of every band.
    optimizer: of the run.
  """
  params = audio_vae.init_params(key, **sizes)
  params |= dict(zip(("data_mean", "data_std"), statistics))
  return new_state(forced(params), optimizer)


def make_vae_step(
  optimizer: optax.GradientTransformation,
  *,
  seed: int,
  ema_decay: float,
  **weights: float,
) -> Callable[[TrainState, Any], tuple[TrainState, dict[str, Array]]]:
  """A pure function (state, {"wave": (b, n)}) -> (state, metrics), to be jitted.

  Args:
    optimizer: of the run.
    seed: with the step's number, of the draws from the posterior.
    ema_decay: of the moving average.
    weights: keywords of `audio_vae.loss`.
  """

  def step(state, batch):
    key = jax.random.fold_in(noise_key(seed), state.step)
    mel = log_mel(batch["wave"], **MODE)
    objective = lambda params: audio_vae.loss(params, mel, key, **weights)
    slope = jax.value_and_grad(objective, has_aux=True)
    (loss, terms), gradient = slope(state.params)
    updates, opt_state = optimizer.update(gradient, state.opt_state, state.params)
    # EDM2, eq. 66: filters back to rms 1 after every update.
    params = forced(optax.apply_updates(state.params, updates))
    ema = ema_update(state.ema, params, ema_decay, state.step)
    moved = jax.tree.map(jnp.subtract, params, state.params)  # `forced`, too
    metrics = {
      "loss": loss,
      "grad_norm": optax.global_norm(gradient),
      "update_norm": optax.global_norm(moved),
    }
    metrics |= {f"loss/{name}": term for name, term in terms.items()}
    return TrainState(state.step + 1, params, opt_state, ema), metrics

  return step
