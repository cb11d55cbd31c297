"""What a trained network does, measured without sampling: attention and gradients."""

import dataclasses
import functools
import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from ccl_jax.axes import other
from ccl_jax.diffusion import flow
from ccl_jax.models.cca import CrossAttention
from ccl_jax.models.joint import JointDiT
from ccl_jax.models.layers import heads
from ccl_jax.ops import rope
from ccl_jax.seeds import noise_key
from ccl_jax.tasks import GENERATIONS, TASKS, static_route
from ccl_jax.training.step import Recipe, draw, sample_losses

Latents = Mapping[str, np.ndarray]
DIRECTIONS = {"video": "audio_to_video", "audio": "video_to_audio"}
SOWN = ("context_share", "norms", "keys")
# Of gradients: the exchange, and the blocks of the streams themselves.
GROUPS = {
  "exchange": {s: f"blocks/{d}/" for s, d in DIRECTIONS.items()},
  "blocks": {s: f"blocks/{s}/" for s in DIRECTIONS},
}
RESAMPLES = 1000


def attention(
  model: JointDiT,
  params: Any,
  latents: Latents,
  text: np.ndarray,
  masks: Mapping[str, np.ndarray],
  sigmas: Sequence[float],
  seed: int = 0,
) -> dict[str, Any]:
  """Where the exchange looks in the task `joint`, and how much that moves.

  Args:
    model, params: the network.
    latents: clean, (clips, ...) by stream.
    text: (clips, l, e).
    masks: the foreground by stream, bool: video (clips, t, h, w) in tokens, audio
      (clips, a).
    sigmas: noise levels of both streams.
    seed: of the noise.

  Returns, by name, by the stream that reads and by sigma; of a direction with context
  tokens
    context_share: the share of attention on them, of the first clip: (blocks, t, h, w)
      or (blocks, a).
    foreground_background: that share on queries in the foreground and outside, means
      over blocks and clips; `ci`: a 95 % bootstrap interval over clips of their
      difference.
    mass_norm: `mass`, the share of attention on the other stream, and `norm`, the share
      of the norm that it moves, |W_o p V| / (|W_o p V| + |W_o p_c V_c|), over blocks.
  and of one that has none and no window
    keys: attention by query and key, means over blocks, heads, clips and the tokens of
      a frame: (t, a) or (a, t), the rows adding up to 1.
  """

  @jax.jit
  def looks(params, latents, text, sigma):
    noisy = noised(latents, sigma, seed)
    time = {s: jnp.full((len(text), 1), 1000 * sigma) for s in latents}
    route = static_route(GENERATIONS["joint"])
    with nn.intercept_methods(_looks):
      _, state = model.apply(
        {"params": params}, noisy, time, text, route, mutable=["intermediates"]
      )
    blocks = state["intermediates"]["blocks"]
    sown = {s: blocks[d] for s, d in DIRECTIONS.items()}
    return {s: {k: v[0] for k, v in x.items() if k in SOWN} for s, x in sown.items()}

  table: dict = {}

  def put(name, stream, sigma, value):
    table.setdefault(name, {}).setdefault(stream, {})[f"{sigma:g}"] = value

  for sigma in sigmas:
    at = jax.device_get(looks(params, dict(latents), text, jnp.float32(sigma)))
    for s, sown in at.items():
      if "keys" in sown:
        put("keys", s, sigma, sown["keys"].mean(0).tolist())
      if "norms" in sown:
        share = sown["context_share"]  # blocks, clips, frames, tokens
        mask = masks[s].reshape(len(text), -1)
        put("context_share", s, sigma, share[:, 0].reshape(-1, *masks[s].shape[1:]))
        by_clip = share.mean(0).reshape(mask.shape)
        put("foreground_background", s, sigma, contrast(by_clip, mask, seed))
        window, context = sown["norms"].T
        mass, norm = 1 - share.mean((1, 2, 3)), window / (window + context)
        put("mass_norm", s, sigma, {"mass": mass.tolist(), "norm": norm.tolist()})
  for by_sigma in table.get("context_share", {}).values():
    by_sigma.update({sigma: x.tolist() for sigma, x in by_sigma.items()})
  return table


def noised(latents: Mapping[str, Any], sigma: float | jax.Array, seed: int):
  """Latents (clips, ...) of both streams at a noise level, with noise by the seed."""
  noise = jax.random.split(noise_key(seed))
  return {
    s: flow.interpolate(x, jax.random.normal(k, x.shape), jnp.full((len(x),), sigma))
    for (s, x), k in zip(sorted(latents.items()), noise)
  }


def _looks(call, args, kwargs, context):
  """Sows beside what a direction of the exchange adds how it comes to be."""
  module, out = context.module, call(*args, **kwargs)
  of_block = isinstance(module, CrossAttention) and module.name in DIRECTIONS.values()
  if not of_block or context.method_name != "__call__":
    return out  # also of the nameless twin in `_norms`
  if module.config.context_tokens(other(module.into)):
    module.sow("intermediates", "norms", _norms(module, out, args))
  elif not module.config.window_of(module.into):
    module.sow("intermediates", "keys", _keys(module, *args))
  return out


def _norms(module: CrossAttention, out, args):
  """Mean norms of what a direction adds by the other stream, and by context tokens."""
  silent = dataclasses.replace(module.config, context_values=False)
  twin = module.clone(config=silent, name=None, parent=None)
  # The same weights of attention, with V_c = 0: W_o p V + bias.
  params = module.variables["params"]
  window = twin.apply({"params": params}, *args)
  norm = lambda x: jnp.linalg.norm(x.astype(jnp.float32), axis=-1).mean()
  bias = params["o"]["bias"][None, None, None]
  return jnp.stack([norm(window - bias), norm(out - window)])


def _keys(module: CrossAttention, x, table, geometry, keys, reads):
  """Attention of frames, or audio tokens, on the other stream's, which are all seen."""
  q = heads(module.norm_q(module.q(module.ln_q(x))), module.heads)
  q = rope.rotate(q, table)
  k = keys[0].astype(jnp.float32)
  logits = jnp.einsum("btsnd,buvnd->bntsuv", q, k) * q.shape[-1] ** -0.5
  weights = jax.nn.softmax(logits, (-2, -1))
  return weights.sum(-1).mean((0, 1, 3))


def contrast(
  share: np.ndarray, mask: np.ndarray, seed: int
) -> dict[str, float | list[float]] | None:
  """Means of shares in the foreground and outside, over clips that have both.

  Args:
    share: (clips, tokens).
    mask: the foreground, bool (clips, tokens).
    seed: of the bootstrap.

  Returns `foreground`, `background`, and `ci`, a 95 % bootstrap interval over clips of
  their difference; None if no clip has both.
  """
  both = mask.any(1) & ~mask.all(1)
  share, mask = share[both], mask[both]
  if not len(share):
    return None
  inside = (share * mask).sum(1) / mask.sum(1)
  outside = (share * ~mask).sum(1) / (~mask).sum(1)
  rng = np.random.default_rng(seed)
  picked = rng.integers(len(share), size=(RESAMPLES, len(share)))
  ci = np.quantile((inside - outside)[picked].mean(1), (0.025, 0.975))
  return {
    "foreground": float(inside.mean()),
    "background": float(outside.mean()),
    "ci": [float(x) for x in ci],
  }


def gradient_cosines(
  model: JointDiT,
  params: Any,
  recipe: Recipe,
  latents: Latents,
  text: np.ndarray,
  null_text: np.ndarray,
  *,
  batch: int = 32,
  seed: int = 0,
) -> dict[str, float]:
  """Cosines between the gradients of two tasks, each on a batch of its own.

  So two steps of a training that draws one task a step would follow each other. A pair
  is compared over the parameters of the streams that both generate; of one task with
  itself it is what the noise of a batch leaves.

  Args:
    model, params, recipe: network and objective.
    latents: clean, (clips, ...) by stream, two batches at least.
    text: (clips, l, e).
    null_text: (l, e).
    batch: clips of a batch.
    seed: of noise and noise levels.

  Returns {"exchange joint/a2v": mean over pairs of batches, ...}; pairs whose gradient
  is zero are left out.
  """
  clips = len(text)
  batch = min(batch, clips // 2)
  names, null = recipe.names, jnp.asarray(null_text)

  @jax.jit
  def gradient(params, latents, text, key, task):
    drawn = draw(key, latents, recipe, task)

    def objective(params):
      given = {**latents, "text": text}
      by_sample = sample_losses(model, params, given, null, drawn, drawn.tasks.route)
      generated = drawn.tasks.generated
      return sum(jnp.where(generated[s], x, 0).mean() for s, x in by_sample.items())

    return jax.grad(objective)(params)

  vectors: dict[tuple, list[np.ndarray]] = {}
  for number in range(clips // batch):
    part = slice(number * batch, (number + 1) * batch)
    cut = {s: jnp.asarray(x[part]) for s, x in latents.items()}
    for i, name in enumerate(names):
      key = jax.random.fold_in(jax.random.fold_in(noise_key(seed), number), i)
      grads = gradient(params, cut, jnp.asarray(text[part]), key, jnp.int32(i))
      flat = traverse_util.flatten_dict(jax.device_get(grads), sep="/")
      for group, prefixes in GROUPS.items():
        for s, prefix in prefixes.items():
          own = [x.ravel() for p, x in sorted(flat.items()) if p.startswith(prefix)]
          vectors.setdefault((group, s, name), []).append(np.concatenate(own))
  out = {}
  for group in GROUPS:
    for a, b in itertools.combinations_with_replacement(_ordered(names), 2):
      if "joint" not in (a, b):
        continue
      streams = [s for s in DIRECTIONS if s in _both(a, b)]
      joined = functools.partial(_joined, vectors, group, streams)
      cosines = [
        _cosine(x, y)
        for (i, x), (j, y) in itertools.product(
          enumerate(joined(a)), enumerate(joined(b))
        )
        if i != j
      ]
      if cosines and np.isfinite(cosines).all():
        out[f"{group} {a}/{b}"] = float(np.mean(cosines))
  return out


def _ordered(names: Sequence[str]) -> list[str]:
  return sorted(names, key="joint".__ne__)


def _both(a: str, b: str) -> set[str]:
  return set(TASKS[a].generated) & set(TASKS[b].generated)


def _joined(vectors, group, streams, task) -> list[np.ndarray]:
  parts = [vectors[group, s, task] for s in streams]
  return [np.concatenate(rows) for rows in zip(*parts)]


def _cosine(x: np.ndarray, y: np.ndarray) -> float:
  size = float(np.linalg.norm(x)) * float(np.linalg.norm(y))
  return float(x @ y) / size if size else float("nan")
