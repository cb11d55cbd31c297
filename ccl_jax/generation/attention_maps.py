"""Where the exchange looks, by block, head and direction, at some noise levels.

A direction into stream `s` reads the other stream's tokens and context tokens (eqs. 3
and 4). Of its attention weights w (query, key), the context tokens among the keys,

  time[i, j]      the share that queries of frame i give keys of frame j, their mean
  queries[i, p]   the share that the query at place p of frame i gives the other stream
  keys[j, p]      what the key at place p of frame j gets, its share of all that is
                  given to the other stream

An audio token is a frame with one place.
"""

import functools
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from ccl_jax.axes import STREAMS, other
from ccl_jax.codecs.images import to_unit
from ccl_jax.diffusion import flow
from ccl_jax.errors import UsageError
from ccl_jax.generation.pipeline import LoadedModel
from ccl_jax.models.cca import CrossAttention
from ccl_jax.models.joint import JointDiT
from ccl_jax.models.layers import heads
from ccl_jax.ops import rope
from ccl_jax.seeds import noise_key
from ccl_jax.tasks import GENERATIONS, static_route


class Maps(NamedTuple):
  """The attention of one direction, means over clips: see the module."""

  time: Float[np.ndarray, "blocks n i j"]
  queries: Float[np.ndarray, "blocks n i p"]
  keys: Float[np.ndarray, "blocks n j p"]


def maps_of(
  model: JointDiT,
  params,
  noisy: Mapping[str, jax.Array],
  timestep: float | jax.Array,
  text: jax.Array,
) -> dict[str, Maps]:
  """The maps by the stream that reads, in the task `joint`; to be jitted.

  Args:
    model, params: the network.
    noisy: latents of both streams, (b, ...).
    timestep: 1000 times their noise level.
    text: (b, l, e).
  """
  b = len(text)
  times = {s: jnp.full((b, 1), timestep) for s in noisy}
  with nn.intercept_methods(_looks):
    _, state = model.apply(
      {"params": params}, noisy, times, text, static_route(GENERATIONS["joint"]),
      mutable=["intermediates"],
    )  # fmt: skip
  blocks = state["intermediates"]["blocks"]
  return {s: Maps(*blocks[f"{other(s)}_to_{s}"]["maps"][0]) for s in STREAMS}


def _looks(call, args, kwargs, context):
  module, out = context.module, call(*args, **kwargs)
  if isinstance(module, CrossAttention) and context.method_name == "__call__":
    module.sow("intermediates", "maps", _maps(module, *args))
  return out


def _maps(module: CrossAttention, x, table, geometry, keys, reads):
  """(time, queries, keys) of one block; the weights are those of `CrossAttention`."""
  del reads
  t, s = x.shape[1:3]
  u, v = keys[0].shape[1:3]
  q = rope.rotate(heads(module.norm_q(module.q(module.ln_q(x))), module.heads), table)
  numbers = lambda f, p: jnp.arange(float(f * p)).reshape(1, f, p, 1, 1)
  by_frame = lambda q, k: module._by_frame(q, (k, k), geometry)
  q, (k, _), valid, restore = by_frame(q, keys[0].astype(jnp.float32))
  # The same way for numbers: which query and which key each of them is.
  _, (key_of, _), _, _ = by_frame(numbers(t, s), numbers(u, v))
  key_of = key_of[0, ..., 0, 0].astype(int)  # (f, k)
  places = jnp.arange(float(q.shape[1] * q.shape[2])).reshape(1, *q.shape[1:3], 1)
  at = restore(places)[0, ..., 0].reshape(-1).astype(int)  # without padding
  scale = q.shape[-1] ** -0.5
  logits = scale * jnp.einsum("bfqnd,bfknd->bfqnk", q, k)
  if valid is not None:
    logits = jnp.where(jnp.asarray(valid)[None, :, None, None], logits, -jnp.inf)
  n = k.shape[2]  # keys of a frame
  if module.config.context_tokens(other(module.into)):
    c = heads(module.norm_k(module.k(module.context)), module.heads)
    logits = jnp.concatenate(
      [logits, scale * jnp.einsum("bfqnd,rnd->bfqnr", q, c.astype(jnp.float32))], -1
    )
  weights = jax.nn.softmax(logits, -1)[..., :n].mean(0)  # (f, q, heads, k)
  frame_of = jnp.broadcast_to((key_of // v)[:, None], (*weights.shape[:2], n))
  onto = jax.nn.one_hot(frame_of, u, dtype=weights.dtype)
  rows = jnp.einsum("fqnk,fqkj->fqnj", weights, onto).reshape(-1, module.heads, u)
  rows = rows[at].reshape(t, s, module.heads, u)
  # Padded queries are repeats: they give nothing.
  counts = jnp.zeros(weights.shape[0] * weights.shape[1]).at[at].set(1)
  given = (weights * counts.reshape(*weights.shape[:2], 1, 1)).sum(1)  # (f, heads, k)
  got = jnp.zeros((module.heads, u * v))
  got = got.at[:, key_of.reshape(-1)].add(given.swapaxes(0, 1).reshape(len(got), -1))
  got /= jnp.maximum(got.sum(1, keepdims=True), 1e-12)
  return (
    rows.mean(1).swapaxes(0, 1),
    jnp.moveaxis(rows.sum(-1), 2, 0),
    got.reshape(-1, u, v),
  )


def measure(
  pipeline: LoadedModel,
  prompt: str,
  video: np.ndarray,
  audio: np.ndarray,
  sigmas: Sequence[float],
  seed: int = 0,
) -> dict[float, dict[str, Maps]]:
  """The maps of a clip by noise level and by the stream that reads.

  Args:
    pipeline: of a joint model.
    prompt: of the clip.
    video: uint8 (F, H, W, 3), of the size that the pipeline's clips have.
    audio: (n,) at 16 kHz.
    sigmas: noise levels of both streams.
    seed: of the noise.

  Raises:
    UsageError: the model has one stream, or an exchange without attention of its own.
  """
  model, codecs = pipeline.model, pipeline.codecs
  if model.cross is None or model.cross.variant == "fusion":
    what = "one stream" if model.cross is None else "fusion within text attention"
    raise UsageError(
      f"this model has {what}: expected a joint model of variant context or gate"
    )
  rows = jnp.asarray(pipeline.texts.rows([prompt]))
  rows = rows.reshape(1, *rows.shape[-2:])

  @functools.partial(jax.jit)
  def looks(params, codecs, video, audio, sigma):
    latents = {
      "video": codecs.video.encode(to_unit(video)),
      "audio": codecs.audio.encode(audio),
    }
    noise = jax.random.split(noise_key(seed))
    noisy = {
      s: flow.interpolate(x, jax.random.normal(k, x.shape), jnp.full((1,), sigma))
      for (s, x), k in zip(sorted(latents.items()), noise)
    }
    return maps_of(model, params, noisy, 1000 * sigma, rows)

  run = functools.partial(
    looks, pipeline.params, codecs._replace(text=None), video[None], audio[None]
  )
  host = lambda maps: {s: Maps(*map(np.asarray, m)) for s, m in maps.items()}
  with jax.set_mesh(pipeline.mesh):
    return {sigma: host(jax.device_get(run(jnp.float32(sigma)))) for sigma in sigmas}
