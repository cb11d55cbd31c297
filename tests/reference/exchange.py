"""The exchange between the streams: TARP, context tokens, routes (sections 4.1, 4.2).

  Q        = rope(norm_q(W_q ln_q(x_own)))
  K, V     = rope(norm_k(W_k ln_kv(x_other))), W_v ln_kv(x_other)
  K_c, V_c = norm_k(W_k C), W_v C                             C without RoPE
  x_own   += W_o softmax(Q [K_c ; K]^T / sqrt(d)) [V_c ; V]                    (3, 4)

Written as attention to all tokens of the other stream under a table of which query sees
which key, where an implementation would gather windows.
"""

import math
from fractions import Fraction

import numpy as np

from tests.reference.stream import (
  attend,
  grid_turns,
  heads,
  layer_norm,
  linear,
  rms_norm,
  rotate,
  shares,
  slots,
  turns,
)


def window(i, t, a, centre):
  """The audio tokens that latent frame i sees: 3c around its centre, c = floor(a/t)."""
  c = a // t
  if centre == "aligned":
    middle = math.floor((i + Fraction(1, 2)) * a / t)
  else:  # the paper's letter
    middle = math.floor(c / 2) + c * i
  w = 3 * c
  tokens = range(middle - math.floor(w / 2), middle + math.ceil(w / 2))
  return [j for j in tokens if 0 <= j < a]


def frame_of(j, t, a):
  """The one latent frame that audio token j sees."""
  return math.floor(Fraction(j * t, a))


def visible(into, grid, a, rule):
  """Which query of `into` sees which token of the other stream: (queries, keys)."""
  t, rows, columns = grid
  s = rows * columns
  if not rule["tarp"]:
    return np.ones((t * s, a) if into == "video" else (a, t * s), bool)
  table = np.zeros((t, a), bool)
  if into == "video":
    for i in range(t):
      table[i, window(i, t, a, rule["centre"])] = True
    return np.repeat(table, s, 0)
  for j in range(a):
    table[frame_of(j, t, a), j] = True
  return np.repeat(table, s, 0).T


def cross_turns(stream, grid, a, d, rule):
  """RoPE of a stream's tokens in the exchange, for heads of width d.

  Audio turns with the video's temporal slot, at latent-frame time j t / a; the video
  with its own grid, or with time alone.
  """
  t, rows, columns = grid
  if stream == "video":
    angle = grid_turns(t, rows, columns, d)
    if rule["rope"] == "temporal":
      angle[:, slots(d)[0] // 2 :] = 0
    return angle
  time = np.arange(a) * t / a if rule["tarp"] else np.arange(a)
  angle = np.zeros((a, d // 2))
  angle[:, : slots(d)[0] // 2] = turns(time, slots(d)[0])
  return angle


def exchange(p, into, own, other, reads, grid, a, n, rule, on_context=None):
  """What the direction into the stream `into` adds to its states.

  Args:
    own, other: states (b, tokens, c); `other` may be None.
    reads: (b,), the samples that see the other stream. The others see the context
      tokens alone; of a gated model, which has none, they get nothing.
    n: heads of the stream that reads.
    on_context: a list that takes the share of attention on context tokens (figure 6).
  """
  if other is None and "context" not in p:
    return 0.0
  b, q = len(own), linear(p["q"], layer_norm(own, p["ln_q"]))
  q = heads(rms_norm(p["norm_q"], q), n)
  d = q.shape[-1]
  q = rotate(q, cross_turns(into, grid, a, d, rule))
  keys, values, sees = [], [], []
  if "context" in p:
    c = p["context"]
    k, v = rms_norm(p["norm_k"], linear(p["k"], c)), linear(p["v"], c)
    keys.append(np.broadcast_to(heads(k, n), (b, len(c), n, d)))
    values.append(np.broadcast_to(heads(v, n), (b, len(c), n, d)))
    sees.append(np.ones((b, q.shape[1], len(c)), bool))
  if other is not None:
    x = layer_norm(other, p["ln_kv"])
    source = "audio" if into == "video" else "video"
    k = heads(rms_norm(p["norm_k"], linear(p["k"], x)), n)
    keys.append(rotate(k, cross_turns(source, grid, a, d, rule)))
    values.append(heads(linear(p["v"], x), n))
    table = np.broadcast_to(
      visible(into, grid, a, rule), (b, q.shape[1], other.shape[1])
    )
    sees.append(table & reads[:, None, None] if "context" in p else table)
  cat = lambda parts: np.concatenate(parts, 1)
  mask = np.concatenate(sees, -1)[:, None]
  if on_context is not None:
    weights = shares(q, cat(keys), mask)
    on_context.append(weights[..., : len(p["context"])].sum(-1).mean(1))
  out = linear(p["o"], attend(q, cat(keys), cat(values), mask))
  return out if "context" in p else out * reads[:, None, None]
