"""What is converted and exported is the same bytes: all networks of the Wan downloads,
in every format that they come in.
"""

import itertools

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

from ccl_jax.weights.reader import open_weights
from ccl_jax.weights.transfer import export_weights, import_weights
from ccl_jax.weights.upstream import get_upstream
from tests.weights.release_files import tensors

SIZES = {
  "wan-dit": dict(
    width=128, ffn=40, heads=1, in_channels=36, out_channels=16, image_tokens=True,
    image_positions=514, frequencies=16, depth=2, text_dim=24,
  ),
  "wan-vae": dict(width=4),
  "wan22-vae": dict(width=4, decoder_width=8),
  "umt5": dict(
    vocabulary=40, width=24, attention_width=32, ffn=40, heads=4, depth=2, buckets=8
  ),
  "clip": dict(width=24, ffn=40, heads=1, depth=2, patch=4, grid=3),
}  # fmt: skip
DTYPES = {"umt5": ml_dtypes.bfloat16, "clip": np.float16}
# Of CLIP, what shows that its last layer is there, which is not read.
AFTER = {
  "native": "visual.post_norm.bias",
  "diffusers": "vision_model.post_layernorm.bias",
}
PAIRS = [
  (kind, *forms)
  for kind in SIZES
  for forms in itertools.combinations(get_upstream(kind).tables, 2)
]


@pytest.mark.parametrize(("kind", "form", "other"), PAIRS)
def test_there_and_back(tmp_path, kind, form, other):
  """In under one format's names, out under another's, in again, and out as it was."""
  dtype = DTYPES.get(kind, np.float32)
  drawn = {n: x.astype(dtype) for n, x in tensors(kind, SIZES[kind], form).items()}
  unread = {}
  if kind == "clip":
    unread = {n.replace(".1.", ".2."): x for n, x in drawn.items() if ".1." in n}
    unread[AFTER[form]] = np.ones(24, dtype)
  save_file(drawn | unread, tmp_path / "release.safetensors")
  about = import_weights(kind, tmp_path / "release.safetensors", tmp_path / "in")
  assert about["sizes"] == SIZES[kind] and about["source"]["format"] == form
  config = export_weights(tmp_path / "in", tmp_path / "out", form=other)
  assert bool(config) == (other != "native" or kind == "wan-dit")
  again = import_weights(kind, tmp_path / "out", tmp_path / "in2")
  assert again["sizes"] == SIZES[kind] and again["source"]["format"] == other
  export_weights(tmp_path / "in2", tmp_path / "out2", form=form)
  back = open_weights(tmp_path / "out2")
  assert set(back.names()) == drawn.keys()
  for name, x in drawn.items():
    got = back.read(name)
    assert (got.shape, got.dtype) == (x.shape, x.dtype), name
    assert got.tobytes() == x.tobytes(), name
