"""Two streams with fused cross-attention, and the audio's embedding by convolutions.

With x and y both as they are after their own self-attention,

  q    = norm_q(W_q LN(x))
  K, V = turn_y norm_k(W_k LN(y)), W_v LN(y)
  x   += W_o [ attn(q, K_text, V_text) + attn(turn_x q, K, V) ]

for the samples that read the other stream; for others the second part is nothing.
"""

import numpy as np

from tests.reference import stream
from tests.reference.model import tree
from tests.reference.stream import (
  attend,
  heads,
  layer_norm,
  linear,
  rms_norm,
  rotate,
  silu,
)


def convolution(p, x):
  """Over frames, with zeros at both ends; the kernel is (taps, in, out)."""
  taps = len(p["kernel"])
  wide = np.pad(x, ((0, 0), (taps // 2, taps // 2), (0, 0)))
  out = sum(wide[:, i : i + x.shape[1]] @ p["kernel"][i] for i in range(taps))
  return out + p.get("bias", 0)


def embedding(p, x):
  x = silu(convolution(p["in"], x))
  return convolution(p["w2"], silu(convolution(p["w1"], x)) * convolution(p["w3"], x))


def turn_of(c, grid):
  """Angles of self-attention; of "time" only a grid's temporal slot turns."""
  d = c["width"] // c["heads"]
  if c["positions"] == "grid":
    return stream.grid_turns(*grid, d)
  time, row, column = stream.slots(d)
  angles = stream.turns(c["rate"] * np.arange(grid[0]), time)
  return np.concatenate([angles, np.zeros((grid[0], (row + column) // 2))], 1)


def fused(p, own, other, n, turns, reads):
  """What text attention's queries `own` find in the other stream, (b, tokens, c)."""
  q = rotate(heads(own, n), turns[0])
  y = layer_norm(other, p["ln_kv"])
  k = rotate(heads(rms_norm(p["norm_k"], linear(p["k"], y)), n), turns[1])
  found = attend(q, k, heads(linear(p["v"], y), n))
  return np.where(reads[:, None, None], found, 0)


def velocities(params, config, latents, timesteps, text, reads, seen=None):
  """The velocity of both streams; arguments as of `model.velocities`.

  Args:
    config: by stream also `width`, and `rate` of the audio.
    seen: what the other stream sees in place of the states, a list by block.
  """
  x, e, e0, turns, words, grids = {}, {}, {}, {}, {}, {}
  states = []
  for s, c in config.items():
    p, latent = params[s], latents[s]
    latent = latent if s == "video" else latent[:, :, None, None]
    tokens, grids[s] = stream.patches(latent, c["patch"])
    embed = embedding if s == "audio" else linear
    x[s] = embed(p["patch_embedding"], tokens)
    turns[s] = turn_of(c, grids[s])
    _, words[s] = stream.contexts(p, c, text, None)
    t, rows, columns = grids[s]
    by_token = lambda m, t=t, n=rows * columns: np.repeat(
      np.broadcast_to(m, (len(m), t, *m.shape[2:])), n, 1
    )
    e[s], e0[s] = map(
      by_token, stream.time_embedding(p, timesteps[s], c["frequencies"])
    )
  for i in range(len(params["blocks"]["video"]["modulation"])):
    block = tree(lambda leaf, i=i: leaf[i], params["blocks"])
    m = {s: block[s]["modulation"] + e0[s] for s in x}
    for s in x:
      h = layer_norm(x[s]) * (1 + m[s][:, :, 1]) + m[s][:, :, 0]
      n = config[s]["heads"]
      added = stream.self_attention(block[s]["self_attn"], h, n, turns[s])
      x[s] = x[s] + added * m[s][:, :, 2]
    states.append(x)
    snapshot = x if seen is None else seen[i]
    after = {}
    for s, other in (("video", "audio"), ("audio", "video")):
      p, n = block[s]["cross_attn"], config[s]["heads"]
      own = rms_norm(p["norm_q"], linear(p["q"], layer_norm(x[s], block[s]["norm3"])))
      k = heads(rms_norm(p["norm_k"], linear(p["k"], words[s])), n)
      found = attend(heads(own, n), k, heads(linear(p["v"], words[s]), n))
      direction, both = block[f"{other}_to_{s}"], (turns[s], turns[other])
      found = found + fused(direction, own, snapshot[other], n, both, reads[s])
      after[s] = x[s] + linear(p["o"], found)
    x = {s: stream.second_half(block[s], after[s], m[s]) for s in after}
  out = {}
  for s in x:
    v = stream.head(params[s], x[s], e[s])
    v = stream.unpatches(v, config[s]["patch"], grids[s])
    out[s] = v if s == "video" else v[:, :, 0, 0]
  return out, states
