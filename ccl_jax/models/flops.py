"""Floating-point operations of a forward pass, by formula (multiply and add are two).

Counted by hand since XLA counts the body of a scan once and kernels not at all. Norms,
RoPE and activations are left out, as is usual for model FLOPs utilisation. A train step
is three forward passes; rematerialisation is not counted.
"""

from collections.abc import Mapping

from ccl_jax.axes import other
from ccl_jax.models.cca import Geometry
from ccl_jax.models.joint import JointDiT
from ccl_jax.models.layers import gated_width
from ccl_jax.models.stream import CLIP_TOKENS


def forward_flops(
  model: JointDiT, geometry: Geometry, text_length: int, text_dim: int
) -> Mapping[str, float]:
  """FLOPs of one clip's forward pass with every key read, by part.

  Args:
    model: the network; its sizes are counted, not its parameters.
    geometry: token counts. A stream without tokens counts nothing.
    text_length, text_dim: rows and width of the text embeddings.

  Returns:
    By part: "linear", "self_attention", "text_attention", "cross", "ends" and "texts",
    what depends on the text and image tokens alone.
  """
  tokens = {
    "video": geometry.t * geometry.h * geometry.w,
    "audio": geometry.a,
  }
  configs = {s: c for s, c in model.streams if tokens[s]}
  parts = dict.fromkeys(
    ("linear", "self_attention", "text_attention", "cross", "ends", "texts"), 0.0
  )
  depth = model.depth
  for s, c in configs.items():
    n, d = tokens[s], c.width
    context = text_length + CLIP_TOKENS * c.images
    # q, k, v, o of self-attention, q and o of text attention, two of the FFN.
    parts["linear"] += depth * 2 * n * (6 * d * d + 2 * d * c.ffn)
    # Q K^T and its product with V: 2 n n d each.
    parts["self_attention"] += depth * 4 * n * n * d
    # The same over the text.
    parts["text_attention"] += depth * 4 * n * context * d
    # Its keys and values, and its embedding in two layers.
    parts["texts"] += depth * 4 * context * d * d
    parts["texts"] += 2 * text_length * (text_dim + d) * d
    patch = c.patch[0] * c.patch[1] * c.patch[2]
    # Patch embedding and head.
    parts["ends"] += (
      2 * n * patch * (c.in_channels * (c.taps or 1) + c.out_channels) * d
    )
    # The gated three of a convolutional embedding.
    parts["ends"] += 2 * n * 3 * c.taps * d * gated_width(d)
  if model.cross is not None:
    for s, c in configs.items():
      source = other(s)
      n, m = tokens[s], tokens[source]
      r = model.cross.context_tokens(source)
      if not m or not model.cross.window_of(s):
        seen = m
      elif s == "video":
        seen = geometry.audio_windows(model.cross).index.shape[1]
      else:
        seen = model.cross.video_window * geometry.h * geometry.w
      read = configs[source].width if m else 0
      # q and o of this stream's tokens, k and v of the other's; fusion has the queries
      # and the output of text attention.
      own = 0 if model.cross.variant == "fusion" else 2 * n * 2 * c.width**2
      project = own + 2 * m * 2 * read * c.width
      # Q K^T and its product with V over r context tokens and the keys a token sees.
      parts["cross"] += depth * (project + 4 * n * (r + seen) * c.width)
  return parts


def evaluation_flops(
  model: JointDiT, geometry: Geometry, text_length: int, text_dim: int
) -> float:
  """FLOPs of one clip's evaluation within a step of sampling: of a forward pass without
  the keys of texts, which are made before the first step.

  Args:
    model, geometry, text_length, text_dim: see `forward_flops`.
  """
  parts = dict(forward_flops(model, geometry, text_length, text_dim))
  del parts["texts"]
  return sum(parts.values())
