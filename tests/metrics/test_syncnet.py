"""SyncNet's towers: golden embeddings, windows, sizes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ccl_jax.metrics.lipsync import embed_lips
from ccl_jax.models.scorers.syncnet import EPS, StoredNorm, SyncNet, tower_sizes
from tests.metrics.sync_nets import HIDDEN, OUT, WIDTHS, small_syncnet
from tests.parity.cases_syncnet import cases_syncnet


@pytest.mark.shared
def test_golden_embeddings_cepstra_and_scores(shared):
  names = []
  for name, got, expected, limit in cases_syncnet(shared / "parity/eval/syncnet"):
    assert np.abs(got - expected).max() < limit * expected.std(), name
    names.append(name)
  assert len(names) == 6 and "offset" in names


def test_windows_of_frames_are_in_order_and_bgr():
  frames = np.random.default_rng(0).integers(0, 256, (7, 224, 224, 3), np.uint8)
  syncnet = small_syncnet()
  windows = np.stack([frames[i : i + 5, ..., ::-1] for i in range(3)])
  expected = jax.jit(SyncNet.lips)(syncnet, windows.astype(np.float32))
  got = embed_lips(syncnet, frames)
  assert got.shape == (3, OUT)
  np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-4)
  # Order in time and order of the colours matter.
  for other in (windows[:, ::-1], windows[..., ::-1]):
    far = jax.jit(SyncNet.lips)(syncnet, other.astype(np.float32))
    assert np.abs(far - expected).max() > 0.01


def test_the_norm_is_by_stored_statistics():
  rng = np.random.default_rng(0)
  x, (scale, bias, mean) = rng.standard_normal((3, 2, 4)), rng.standard_normal((3, 4))
  var = rng.uniform(0, 1e-4, 4)  # small: eps counts
  params = dict(scale=scale, bias=bias, mean=mean, var=var)
  got = StoredNorm().apply({"params": params}, jnp.asarray(x))
  expected = (x - mean) / np.sqrt(var + 1e-5) * scale + bias
  assert EPS == 1e-5
  np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-3)


def test_sizes_are_read_off_the_parameters():
  params = small_syncnet().params["lips"]
  assert params["conv_0"]["kernel"].shape == (7, 7, 15, WIDTHS[0])
  assert tower_sizes(params) == {"widths": WIDTHS, "hidden": HIDDEN, "out": OUT}
