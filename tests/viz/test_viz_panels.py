"""Panels are drawn whatever a clip's length."""

import numpy as np
import pytest
from PIL import Image

from ccl_jax.viz.panels import attention_panel


@pytest.mark.parametrize("t", [1, 2, 9])
def test_attention(tmp_path, t):
  rng = np.random.default_rng(0)
  frames = rng.integers(0, 255, (t, 32, 48, 3), np.uint8)
  groups = {"video": (0.4, 0.6), "audio": (0.3, 0.5)}
  path = tmp_path / "attention.png"
  shares = rng.random((t, 2, 3)), rng.random(11)
  attention_panel(path, frames, *shares, groups)
  picture = np.asarray(Image.open(path).convert("RGB"))
  assert picture.shape[1] >= 600 and picture.std() > 20
