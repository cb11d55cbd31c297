"""Converted weights: what they are, and which device holds which part of them."""

import json

import jax
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from ccl_jax.checkpoints import converted
from ccl_jax.errors import UsageError
from ccl_jax.sharding import make_mesh


def test_only_the_largest_are_split(monkeypatch):
  """Over `fsdp` and `context`, along the last axis that their product divides."""
  monkeypatch.setattr(converted, "LARGE", 96)
  shapes = {
    "large": (3, 8, 12),
    "last": (8, 12),
    "both": (12, 16),
    "none": (9, 11),
    "small": (8, 8),
    "just": (2, 48),
  }
  shapes = {k: jax.ShapeDtypeStruct(x, np.float32) for k, x in shapes.items()}
  spec = lambda mesh: {
    k: x.sharding.spec for k, x in converted.on_mesh(shapes, make_mesh(mesh)).items()
  }
  both = ("fsdp", "context")
  assert spec((1, 4, 2, 1)) == {
    "large": P(None, both, None), "last": P(both, None), "both": P(None, both),
    "none": P(None, None), "small": P(None, None), "just": P(None, both),
  }  # fmt: skip
  assert spec((2, 4, 1, 1))["large"] == P(None, None, ("fsdp",))
  assert set(spec((8, 1, 1, 1)).values()) == {P(None, None), P(None, None, None)}
  assert converted.on_mesh(shapes, make_mesh((8, 1, 1, 1))).keys() == shapes.keys()


def test_sixteen_million_numbers_are_large():
  assert converted.LARGE == 2**24


def test_what_a_folder_is(tmp_path):
  about = {
    "kind": "clip",
    "sizes": {"a": 1},
    "source": {"sha256": "ab"},
    "dtype": "float16",
  }
  (tmp_path / "config.json").write_text(json.dumps(about))
  assert converted.read_description(tmp_path) == about
  assert converted.digest(tmp_path) == "ab-float16"
  for name in ("kind", "sizes", "source"):
    rest = {k: v for k, v in about.items() if k != name}
    (tmp_path / "config.json").write_text(json.dumps(rest))
    with pytest.raises(UsageError, match="holds no converted weights"):
      converted.read_description(tmp_path)
  for text in ("", "[1]"):
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(UsageError, match="holds no converted weights"):
      converted.digest(tmp_path)
