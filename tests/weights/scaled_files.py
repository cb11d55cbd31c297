"""fp8 weights with scales as ComfyUI, LightX2V and musubi write them, made by hand."""

import json

import ml_dtypes
import numpy as np

E4M3 = ml_dtypes.float8_e4m3fn
LARGEST = {E4M3: 448.0, ml_dtypes.float8_e5m2: 57344.0}
LAYOUTS = ("comfy_old", "comfy_new", "comfy_quant", "lightx2v", "musubi")


def quantised(x, axes, dtype=E4M3, scale_dtype=np.float32):
  """(fp8, scale, what the two stand for) with one scale for what `axes` run over."""
  scale = np.abs(x).max(axes, keepdims=True) / LARGEST[dtype]
  scale = np.asarray(scale, scale_dtype)
  q = (x / scale.astype(np.float32)).astype(dtype)
  return q, scale, q.astype(np.float32) * scale.astype(np.float32)


def by_blocks(x, block, **options):
  """As `quantised`, with a scale (out, blocks, 1) for every `block` of a row."""
  rows, columns = x.shape
  parts = x.reshape(rows, columns // block, block)
  q, scale, real = quantised(parts, 2, **options)
  return q.reshape(x.shape), scale, real.reshape(x.shape)


def is_linear(name, x):
  """Whether the programs quantise it: matrices of the blocks."""
  return name.endswith(".weight") and x.ndim == 2 and "block" in name


def scaled(tensors, layout, *, dtype=E4M3, prefix="", inputs=False):
  """(tensors, metadata, values) of a file in one of `LAYOUTS`.

  Args:
    tensors: by name, float32; the matrices of blocks are quantised.
    layout: musubi's files have all its granularities, in turn.
    prefix: before all names.
    inputs: whether scales of activations are there too.

  Returns:
    values: what each of `tensors` must be read as, by its name.
  """
  out, values, layers, turn = {}, {}, {}, 0
  for name, x in tensors.items():
    if not is_linear(name, x):
      out[prefix + name] = values[name] = x
      continue
    layer = prefix + name.removesuffix(".weight")
    layers[layer] = {"format": np.dtype(dtype).name}
    names = {"comfy_old": "scale_weight", "musubi": "scale_weight"}
    if layout == "lightx2v":
      q, scale, real = quantised(x, 1, dtype)
    elif layout == "musubi" and x.shape[1] % 64 == 0 and turn % 3 == 0:
      q, scale, real = by_blocks(x, 64, dtype=dtype, scale_dtype=ml_dtypes.bfloat16)
    elif layout == "musubi" and turn % 3 == 1:
      q, scale, real = quantised(x, 1, dtype)
    else:
      q, scale, real = quantised(x, None, dtype)
      scale = scale.reshape((1,) if layout == "musubi" else ())
    turn += 1
    out[f"{layer}.weight"], values[name] = q, real
    out[f"{layer}.{names.get(layout, 'weight_scale')}"] = scale
    if inputs:
      part = "scale_input" if layout == "comfy_old" else "input_scale"
      out[f"{layer}.{part}"] = np.ones((), np.float32)
  metadata = {"format": "pt"}
  if layout == "comfy_old":
    out[f"{prefix}scaled_fp8"] = np.zeros(2, dtype)
  if layout == "comfy_new":
    told = {"format_version": "1.0", "layers": layers}
    metadata["_quantization_metadata"] = json.dumps(told)
  if layout == "comfy_quant":
    for layer, about in layers.items():
      raw = json.dumps(about).encode()
      out[f"{layer}.comfy_quant"] = np.frombuffer(raw, np.uint8)
  return out, metadata, values
