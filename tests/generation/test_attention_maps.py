"""Maps of the exchange against the network's own shares and its windows."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ccl_jax.generation.attention_maps import maps_of
from ccl_jax.models.presets import build_model, parameter_shapes
from ccl_jax.ops import tarp
from ccl_jax.tasks import Route
from tests.params import living_params

T, H, W, A = 3, 2, 2, 11  # latent frames, tokens of a frame, audio tokens


def looked(**options):
  """(model, maps, shares on context tokens as the network tells them)."""
  model = build_model("tiny", patch=1, dtype="float32", **options)
  params = living_params(parameter_shapes(model, (4, 8)))
  rng = np.random.default_rng(1)
  normal = lambda *shape: jnp.asarray(rng.standard_normal((1, *shape), np.float32))
  noisy, text = {"video": normal(T, H, W, 16), "audio": normal(A, 20)}, normal(4, 8)
  maps = jax.jit(lambda p: maps_of(model, p, noisy, 500.0, text))(params)
  both = Route({"video": True, "audio": True})
  run = lambda p, *inputs: model.apply(
    {"params": p}, *inputs, both, mutable=["intermediates"]
  )
  times = {s: jnp.full((1, 1), 500.0) for s in noisy}
  _, state = jax.jit(run)(params, noisy, times, text)
  blocks = state["intermediates"]["blocks"]
  shares = {
    "video": blocks["audio_to_video"]["context_share"][0][:, 0],
    "audio": blocks["video_to_audio"]["context_share"][0][:, 0],
  }
  return maps, shares


@pytest.fixture(scope="module")
def usual():
  return looked()


def test_what_is_not_given_to_context_tokens(usual):
  """The network says its mean over heads: 4 blocks of 4 heads."""
  maps, shares = usual
  assert maps["video"].time.shape == (4, 4, T, A)
  assert maps["audio"].time.shape == (4, 4, A, T)
  for s, m in maps.items():
    given = np.asarray(m.queries).mean(1)
    expected = 1 - np.asarray(shares[s]).reshape(given.shape)
    np.testing.assert_allclose(given, expected, atol=1e-5)
    np.testing.assert_allclose(
      np.asarray(m.time).sum(-1), np.asarray(m.queries).mean(-1), atol=1e-5
    )
    np.testing.assert_allclose(np.asarray(m.keys).sum((-2, -1)), 1, atol=1e-5)
  assert maps["video"].keys.shape == (4, 4, A, 1)
  assert maps["audio"].keys.shape == (4, 4, T, H * W)


def test_nobody_looks_out_of_the_window(usual):
  """A latent frame sees the audio tokens of its window, a token its own frame."""
  maps, _ = usual
  windows = tarp.audio_windows(T, A)
  seen = np.zeros((T, A), bool)
  for i in range(T):
    seen[i, windows.index[i][windows.valid[i]]] = True
  looks = np.asarray(maps["video"].time) > 0
  np.testing.assert_array_equal(looks, np.broadcast_to(seen, looks.shape))
  own = tarp.frame_groups(T, A).place // len(tarp.frame_groups(T, A).index[0])
  looks = np.asarray(maps["audio"].time) > 0
  expected = own[:, None] == np.arange(T)
  np.testing.assert_array_equal(looks, np.broadcast_to(expected, looks.shape))


@pytest.mark.parametrize("options", [{"video_window": 3}, {"variant": "gate"},
                                     {"tarp": False}])  # fmt: skip
def test_other_windows(options):
  """Of several frames, and of all: rows without context tokens add up to 1."""
  maps, shares = looked(**options)
  for s, m in maps.items():
    time = np.asarray(m.time)
    if options.get("variant") == "gate":
      np.testing.assert_allclose(time.sum(-1), 1, atol=1e-5)
    else:
      given = 1 - np.asarray(shares[s]).reshape(4, *m.queries.shape[2:])
      np.testing.assert_allclose(np.asarray(m.queries).mean(1), given, atol=1e-5)
    np.testing.assert_allclose(np.asarray(m.keys).sum((-2, -1)), 1, atol=1e-5)
  if "video_window" in options:  # frames 0 and 2 are not neighbours
    assert (np.asarray(maps["audio"].time)[:, :, 0, 2] == 0).all()
    assert (np.asarray(maps["audio"].time)[:, :, 0, 1] > 0).all()
