"""The training step of the vocoder (models/vocoder.py) against its discriminators.

  y   = generator(mel),  mel = log_mel(x), or what a trained VAE makes of it
  D   <- D - L_D'(D; x, y)                 y held fixed
  G   <- G - L_G'(G; x, y, the new D)      through y alone

L_D and L_G are BigVGAN's (models/gan_losses.py), and so is the optimizer of both: AdamW
of betas 0.8 and 0.99 and of a rate that falls by a factor in every step, here after a
warm up. To L_G may be added `spectral_weight` times the spectral loss of waves
(ops/spectral_loss.py), which a small network learns from sooner than from a critic. All
kernels have weight norm.

There are two steps: without the adversary, where only the mel and the spectra count and
the discriminators rest, and with it.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array

from ccl_jax.models import audio_vae, gan_losses
from ccl_jax.models.discriminators import Discriminators
from ccl_jax.models.vocoder import Generator, init_params
from ccl_jax.ops.spectral_loss import spectral_loss
from ccl_jax.ops.stft import MODES, log_mel
from ccl_jax.ops.weight_norm import join, split
from ccl_jax.training.optim import ema_update

PyTree = Any
MODE = MODES["16k"]


class GanState(NamedTuple):
  """All arrays that a step changes; kernels as directions and lengths.

  Attributes:
    step: updates done.
    params, opt_state, ema: of the generator.
    critic, critic_opt_state: of the discriminators.
  """

  step: jax.Array
  params: PyTree
  opt_state: PyTree
  ema: PyTree
  critic: PyTree
  critic_opt_state: PyTree


def gan_optimizer(
  *,
  lr: float,
  decay: float,
  warmup_steps: int,
  b1: float,
  b2: float,
  weight_decay: float,
  clip_norm: float,
) -> optax.GradientTransformation:
  """AdamW with the rate lr decay^step, for either network.

  Args:
    lr: rate of the first step after the warm-up.
    decay: factor of the rate per step.
    warmup_steps: in which the rate rises linearly.
    b1, b2, weight_decay: of AdamW.
    clip_norm: largest norm of a gradient.
  """
  rise = lambda step: jnp.minimum(1.0, (step + 1) / max(warmup_steps, 1))
  return optax.chain(
    optax.clip_by_global_norm(clip_norm),
    optax.adamw(
      lambda step: lr * rise(step) * decay**step, b1, b2, weight_decay=weight_decay
    ),
  )


def fresh_gan(
  key: Array,
  generator: Generator,
  critic: Discriminators,
  samples: int,
  optimizer: optax.GradientTransformation,
) -> GanState:
  """The state of random parameters before the first step.

  Args:
    key: of the draw.
    generator, critic: the networks.
    samples: of a wave; parameters do not depend on it.
    optimizer: of both networks.
  """
  keys = jax.random.split(key)
  params = split(init_params(keys[0], generator))
  critics = split(critic.init(keys[1], jnp.zeros((1, samples)))["params"])
  return GanState(
    step=jnp.zeros((), jnp.int32),
    params=params,
    opt_state=optimizer.init(params),
    ema=jax.tree.map(jnp.copy, params),
    critic=critics,
    critic_opt_state=optimizer.init(critics),
  )


def mel_of(wave: Array, vae: PyTree | None) -> Array:
  """The log-mel that the vocoder is given for a wave at 16 kHz.

  Args:
    vae: decodes the mel from the posterior's mean; None: the real mel.
  """
  mel = log_mel(wave, **MODE)
  return (
    mel if vae is None else audio_vae.decode(vae, audio_vae.encode_mel(vae, mel)[0])
  )


def make_vocoder_step(
  generator: Generator,
  critic: Discriminators,
  optimizer: optax.GradientTransformation,
  *,
  ema_decay: float,
  spectral_weight: float,
  spectral_floor: float,
  adversary: bool,
) -> Callable[..., tuple[GanState, dict[str, Array]]]:
  """A pure function (state, {"wave": (b, n)}, VAE or None) -> (state, metrics).

  Args:
    generator, critic, optimizer: parts of the run.
    ema_decay: of the moving average.
    spectral_weight, spectral_floor: of `spectral_loss` in the generator's loss.
    adversary: whether the discriminators learn, and judge.
  """
  judge = lambda critic_params, wave: critic.apply({"params": critic_params}, wave)

  def spectral(fake, real):
    """The spectral loss, in its weight, and its terms."""
    if not spectral_weight:
      return 0.0, {}
    bands, bins = spectral_loss(fake, real, spectral_floor)
    return spectral_weight * (bands + bins), {"bands": bands, "bins": bins}

  def alone(fake, real):
    mel = gan_losses.mel_distance(fake, real)
    loss, terms = spectral(fake, real)
    return gan_losses.MEL * mel + loss, {"mel": mel} | terms

  def against(critic_params, fake, real):
    outputs = judge(critic_params, real), judge(critic_params, fake)
    loss, terms = gan_losses.generation(fake, real, *outputs)
    more, of_spectra = spectral(fake, real)
    return loss + more, terms | of_spectra

  def step(state, batch, vae=None):
    real = batch["wave"]
    mel = mel_of(real, vae)
    voice = lambda params: generator.apply({"params": join(params)}, mel)
    # The wave once for both networks, and the way back to its parameters.
    fake, back = jax.vjp(voice, state.params)
    moved, extra, objective, both = {}, {}, alone, []
    if adversary:
      fixed = jax.lax.stop_gradient(fake)
      discriminate = lambda critic_params: gan_losses.discrimination(
        judge(join(critic_params), real), judge(join(critic_params), fixed)
      )
      # L_D, of a y that is held fixed.
      loss, gradient = jax.value_and_grad(discriminate)(state.critic)
      updates, moments = optimizer.update(
        gradient, state.critic_opt_state, state.critic
      )
      critics = optax.apply_updates(state.critic, updates)
      moved = {"critic": critics, "critic_opt_state": moments}
      extra, both = {"loss/critic": loss}, [updates]
      objective = lambda fake, real: against(join(critics), fake, real)
    slope = jax.value_and_grad(objective, has_aux=True)
    # L_G by the critic that has just been updated.
    (loss, terms), of_fake = slope(fake, real)
    (gradient,) = back(of_fake)
    updates, moments = optimizer.update(gradient, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    ema = ema_update(state.ema, params, ema_decay, state.step)
    state = state._replace(
      step=state.step + 1, params=params, opt_state=moments, ema=ema, **moved
    )
    metrics = {
      "loss": loss,
      "grad_norm": optax.global_norm(gradient),
      "update_norm": optax.global_norm([*both, updates]),
    }
    metrics |= {f"loss/{name}": term for name, term in terms.items()}
    return state, metrics | extra

  return step
