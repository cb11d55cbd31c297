"""Small LoRA files, and a small Wan2.1 in torch's layouts to compute with by hand."""

import numpy as np
from safetensors import numpy as st

from ccl_jax.weights import wan
from ccl_jax.weights.rules import known_tensors
from ccl_jax.weights.wan_names import NATIVE
from tests.weights.wan_files import FFN, LAYERS, TEXT, WIDTH, wan_tensors

RNG = np.random.default_rng(7)


def random(*shape: int, dtype=np.float32) -> np.ndarray:
  """Values of the size that LoRAs have."""
  return (0.05 * RNG.standard_normal(shape)).astype(dtype)


def save_file(tensors, path, notes=None) -> None:
  """As that of safetensors; numbers are tensors without axes."""
  tensors = {name: np.asarray(x, order="C") for name, x in tensors.items()}
  st.save_file(tensors, path, notes)


def model(image: bool = False, channels: int = 16):
  """(shapes of our parameters, tensors by native name) of a small Wan2.1, or with 48
  channels of a small Wan2.2-TI2V-5B.
  """
  sizes = {
    "width": WIDTH, "ffn": FFN, "heads": 2, "frequencies": 64, "depth": LAYERS,
    "in_channels": 36 if image else channels, "out_channels": channels,
    "text_dim": TEXT, "image_tokens": image,
  }  # fmt: skip
  tensors = wan_tensors(image)
  if channels != 16:
    wide = {
      "patch_embedding.weight": (WIDTH, channels, 1, 2, 2),
      "head.head.weight": (4 * channels, WIDTH), "head.head.bias": (4 * channels,),
    }  # fmt: skip
    tensors |= {name: random(*shape) for name, shape in wide.items()}
  return wan.shapes_of(sizes), tensors


def to_ours(shapes, tensors) -> dict[str, np.ndarray]:
  """The tensors as our parameters by path."""
  flat = {path: np.empty(x.shape, np.float32) for path, x in shapes.items()}
  for m in known_tensors(NATIVE, shapes):
    flat[m.path][m.slot] = m.transform.forward(tensors[m.name])
  return flat


def to_native(shapes, flat) -> dict[str, np.ndarray]:
  """Our parameters under the native names."""
  return {
    m.name: m.transform.backward(np.asarray(flat[m.path])[m.slot])
    for m in known_tensors(NATIVE, shapes)
  }
