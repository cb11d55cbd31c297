"""One stream: Wan2.1's transformer, from a description of it.

Arrays are (b, tokens, c), tokens in the order time, row, column; a head is cut from the
channels last. Parameters are the model's nested dict of arrays: its names are data. A
block is, with m = modulation + e0,

  x += SelfAttn(LN(x) (1 + m1) + m0) m2
  x += TextAttn(LN_affine(x), [image | text])
  ...  the exchange (exchange.py)
  x += FFN(LN(x) (1 + m4) + m3) m5
"""

import math

import numpy as np
from scipy.special import erf


def linear(p, x):
  return x @ p["kernel"] + p["bias"]


def mlp(p, x, activation):
  return linear(p["out"], activation(linear(p["in"], x)))


def silu(x):
  return x / (1 + np.exp(-x))


def gelu_tanh(x):
  return x / 2 * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x * x * x)))


def gelu_erf(x):
  return x / 2 * (1 + erf(x / math.sqrt(2)))


def layer_norm(x, affine=None, eps=1e-6):
  y = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + eps)
  return y if affine is None else y * affine["scale"] + affine["bias"]


def rms_norm(p, x):
  """Over the full width: all heads together."""
  return x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-6) * p["scale"]


def heads(x, n):
  return x.reshape(*x.shape[:-1], n, -1)


def shares(q, k, visible=True):
  """softmax(q k^T / sqrt(d)) of (b, tokens, n, d): (b, n, queries, keys)."""
  q, k = q.swapaxes(1, 2), k.swapaxes(1, 2)
  logits = np.where(visible, q @ k.swapaxes(2, 3) / math.sqrt(q.shape[-1]), -np.inf)
  weights = np.exp(logits - logits.max(-1, keepdims=True))
  return weights / weights.sum(-1, keepdims=True)


def attend(q, k, v, visible=True):
  """Attention to v, heads joined again: (b, queries, n d)."""
  out = (shares(q, k, visible) @ v.swapaxes(1, 2)).swapaxes(1, 2)
  return out.reshape(*out.shape[:2], -1)


# Positions


def slots(d):
  """Channels of a head that turn with time, row and column: 44, 42, 42 of 128."""
  side = 2 * (d // 6)
  return d - 2 * side, side, side


def turns(positions, slot):
  """Angles (tokens, slot / 2): frequencies 10000^(-2i / slot)."""
  rate = 10000.0 ** (-2 * np.arange(slot // 2) / slot)
  return np.asarray(positions, float)[:, None] * rate


def grid_turns(t, rows, columns, d):
  places = np.indices((t, rows, columns)).reshape(3, -1)
  return np.concatenate([turns(p, n) for p, n in zip(places, slots(d))], -1)


def rotate(x, angle):
  """Multiplies the complex numbers (x[2i], x[2i+1]) of every head by e^(i angle)."""
  z = (x[..., 0::2] + 1j * x[..., 1::2]) * np.exp(1j * angle)[:, None]
  return np.stack([z.real, z.imag], -1).reshape(x.shape)


# Latents to tokens and back


def patches(x, patch):
  """(b, t, h, w, c) to (b, tokens, pt ph pw c), channels fastest."""
  b, *size, c = x.shape
  t, h, w = (n // p for n, p in zip(size, patch))
  pt, ph, pw = patch
  x = x.reshape(b, t, pt, h, ph, w, pw, c).transpose(0, 1, 3, 5, 2, 4, 6, 7)
  return x.reshape(b, t * h * w, pt * ph * pw * c), (t, h, w)


def unpatches(x, patch, grid):
  (b, _, _), (t, h, w), (pt, ph, pw) = x.shape, grid, patch
  x = x.reshape(b, t, h, w, pt, ph, pw, -1).transpose(0, 1, 4, 2, 5, 3, 6, 7)
  return x.reshape(b, t * pt, h * ph, w * pw, -1)


# The parts of the stream


def time_embedding(p, timestep, frequencies):
  """Of every frame, e for the head and its six projections e0 for the blocks."""
  half = frequencies // 2
  angle = timestep[..., None] * 10000.0 ** (-np.arange(half) / half)
  e = mlp(p["time_embedding"], np.concatenate([np.cos(angle), np.sin(angle)], -1), silu)
  e0 = linear(p["time_projection"], silu(e))
  return e[..., None, :], e0.reshape(*e.shape[:-1], 6, -1)


def contexts(p, config, text, image):
  """Tokens of the image, if the stream takes one, and of the text.

  Zero rows behind a text are embedded and attended like others. The text is the last
  `text_tokens` of [image | text].
  """
  text = mlp(p["text_embedding"], text, gelu_tanh)
  if "image_embedding" not in p:
    return None, text
  image = layer_norm(image, p["image_norm_in"], 1e-5)
  image = mlp(p["image_embedding"], image, gelu_erf)
  image = layer_norm(image, p["image_norm_out"], 1e-5)
  both = np.concatenate([image, text], 1)
  cut = both.shape[1] - config["text_tokens"]
  return both[:, :cut], both[:, cut:]


def self_attention(p, x, n, angle):
  q = rotate(heads(rms_norm(p["norm_q"], linear(p["q"], x)), n), angle)
  k = rotate(heads(rms_norm(p["norm_k"], linear(p["k"], x)), n), angle)
  return linear(p["o"], attend(q, k, heads(linear(p["v"], x), n)))


def text_attention(p, x, n, text, image):
  q = heads(rms_norm(p["norm_q"], linear(p["q"], x)), n)

  def to(context, kind):
    k = heads(rms_norm(p["norm_k" + kind], linear(p["k" + kind], context)), n)
    return attend(q, k, heads(linear(p["v" + kind], context), n))

  out = to(text, "")
  if image is not None:
    out = out + to(image, "_img")
  return linear(p["o"], out)


def first_half(p, x, m, n, angle, text, image):
  """Self-attention and text cross-attention; m is (b, tokens, 6, c)."""
  h = layer_norm(x) * (1 + m[:, :, 1]) + m[:, :, 0]
  x = x + self_attention(p["self_attn"], h, n, angle) * m[:, :, 2]
  h = layer_norm(x, p["norm3"])
  return x + text_attention(p["cross_attn"], h, n, text, image)


def second_half(p, x, m):
  h = layer_norm(x) * (1 + m[:, :, 4]) + m[:, :, 3]
  return x + mlp(p["ffn"], h, gelu_tanh) * m[:, :, 5]


def head(p, x, e):
  m = p["head_modulation"] + e
  return linear(p["head"], layer_norm(x) * (1 + m[:, :, 1]) + m[:, :, 0])
