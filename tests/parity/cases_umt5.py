"""Golden case of UMT5's encoder: rows of two prompts, one of them padded."""

import pathlib

import jax
import numpy as np
from safetensors.numpy import load_file

from ccl_jax.models.tokenizer import Tokenizer
from ccl_jax.models.umt5 import UMT5Text
from ccl_jax.weights.load import load_params

LIMIT = 1e-4
FILES = ("models_t5*.pth", "umt5*.safetensors")


def is_umt5(folder: pathlib.Path) -> bool:
  return any(any(folder.glob(pattern)) for pattern in FILES)


def cases_umt5(
  folder: pathlib.Path, file: str | None = None, dtype: str = "float32"
) -> list[tuple[str, np.ndarray, np.ndarray, float]]:
  """(name, got, expected, limit) per output; `file` names the weights to read."""
  case = load_file(folder / "case.safetensors")
  ids, mask = case["ids"], case["mask"] == 1
  params, _ = load_params("umt5", folder / file if file else folder, dtype)
  text = UMT5Text(params, Tokenizer(b""), ids.shape[1], dtype)
  rows = np.asarray(jax.jit(UMT5Text.encode)(text, ids, mask))
  return [("out", rows[mask], case["out"][mask], LIMIT)]
