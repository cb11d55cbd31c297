"""First parameters of the mel VAE by one draw: a compiler takes long for seventy."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from ccl_jax.models import audio_vae

real = audio_vae.init_params


@functools.cache
def shapes_of(**sizes: int):
  return jax.eval_shape(lambda key: real(key, **sizes), jax.random.key(0))


@functools.partial(jax.jit, static_argnames=("bands", "channels", "hidden"))
def init_params(key, **sizes: int):
  """As `audio_vae.init_params`, which tests of its own are about, but for the draws."""
  leaves, tree = jax.tree.flatten(shapes_of(**sizes))
  weights = [x for x in leaves if x.ndim == 3]
  cuts = np.cumsum([x.size for x in weights])
  pieces = iter(jnp.split(jax.random.normal(key, (cuts[-1],)), cuts[:-1]))
  draw = lambda x: next(pieces).reshape(x.shape) if x.ndim == 3 else jnp.zeros(x.shape)
  return jax.tree.unflatten(tree, map(draw, leaves)) | {
    "data_std": jnp.ones(sizes["bands"])
  }
