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


def spans(t, times):
  """Where latent frames begin and end, t + 1 borders, and the length of the clip.

  In pictures from the clip's begin: the codec makes the first frame of one picture, all
  others of four. In the paper's uniform times, in latent frames.
  """
  if times == "uniform":
    return list(range(t + 1))
  return [0, *range(1, 4 * t, 4)][: t + 1]


def place_of(j, t, a, times):
  """Where token j is, on the axis of `spans`: its middle; its begin in the paper."""
  shift = Fraction(1, 2) if times == "causal" else 0
  return (j + shift) * Fraction(spans(t, times)[-1], a)


def frame_of(j, t, a, times="causal"):
  """The latent frame that audio token j lies in."""
  at, borders = place_of(j, t, a, times), spans(t, times)
  (frame,) = [i for i in range(t) if borders[i] <= at < borders[i + 1]]
  return frame


def window(i, t, a, rule):
  """The audio tokens that latent frame i sees: some frames' worth around its middle."""
  borders = spans(t, rule["times"])
  middle = Fraction(borders[i] + borders[i + 1], 2) * Fraction(a, borders[-1])
  if rule["times"] == "causal":
    # Tokens of the longest frame, a begun one counted: those whose middles are nearest.
    longest = 4 if t > 1 else 1
    reach = Fraction(rule["window"] * math.ceil(Fraction(longest * a, borders[-1])), 2)
    near = lambda j: -reach <= j + Fraction(1, 2) - middle < reach
    return [j for j in range(a) if near(j)]
  c = a // t
  centre = math.floor(middle)
  if rule["centre"] == "floor":  # the paper's letter
    centre = math.floor(c / 2) + c * i
  w = rule["window"] * c
  tokens = range(centre - math.floor(w / 2), centre + math.ceil(w / 2))
  return [j for j in tokens if 0 <= j < a]


def visible(into, grid, a, rule):
  """Which query of `into` sees which token of the other stream: (queries, keys)."""
  t, rows, columns = grid
  s = rows * columns
  table = np.zeros((t, a), bool)
  if into == "video":
    for i in range(t):
      table[i, window(i, t, a, rule) if rule["window"] else slice(None)] = True
    return np.repeat(table, s, 0)
  v = rule["video_window"]
  for j in range(a):
    own = frame_of(j, t, a, rule["times"])
    for i in range(t):
      table[i, j] = v == 0 or abs(i - own) <= v // 2
  return np.repeat(table, s, 0).T


def clock(t, a, rule):
  """(time of every latent frame, time of every audio token) in the exchange's RoPE."""
  if rule["unit"] == "index":
    return np.arange(t), np.arange(a)
  places = [float(place_of(j, t, a, rule["times"])) for j in range(a)]
  borders = spans(t, rule["times"])
  # Latent frame i is at time i. In causal times, from i - 1/2 to i + 1/2.
  begin = 0.5 if rule["times"] == "causal" else 0.0
  tokens = np.interp(places, borders, np.arange(t + 1) - begin)
  unit = 1.0
  if rule["unit"] == "token":
    unit = (4 if rule["times"] == "causal" else 1) * a / borders[-1]
  return unit * np.arange(t), unit * tokens


def cross_turns(stream, grid, a, d, rule):
  """RoPE of a stream's tokens in the exchange, for heads of width d.

  Audio turns with the video's temporal slot; the video with its own grid, or with time
  alone.
  """
  t, rows, columns = grid
  frames, tokens = clock(t, a, rule)
  n = slots(d)[0] // 2
  if stream == "video":
    angle = grid_turns(t, rows, columns, d)
    angle[:, :n] = np.repeat(turns(frames, slots(d)[0]), rows * columns, 0)
    if rule["rope"] == "temporal":
      angle[:, n:] = 0
    return angle
  angle = np.zeros((a, d // 2))
  angle[:, :n] = turns(tokens, slots(d)[0])
  return angle


def exchange(p, into, own, other, reads, grid, a, n, rule, on_context=None):
  """What the direction into the stream `into` adds to its states.

  Args:
    own, other: states (b, tokens, c); `other` may be None.
    reads: (b,), the samples that see the other stream. The others see the context
      tokens alone; where there are none, as in a gated model, they get nothing.
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
    v = v * rule["values"]
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
