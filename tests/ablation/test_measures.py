"""Attention and gradients of a small network, by what is true of any of them."""

import dataclasses
import json

import jax
import numpy as np
import pytest

from ccl_jax.ablation import figures, measures
from ccl_jax.ablation.measures import attention, gradient_cosines
from ccl_jax.ablation.readings import by_variant
from ccl_jax.models.cca import CrossConfig
from ccl_jax.models.joint import JointDiT
from ccl_jax.models.presets import init_params
from ccl_jax.models.stream import StreamConfig
from ccl_jax.training.step import Recipe
from tests.ablation.stored import result
from tests.params import living_params

TEXT = (4, 8)
T, H, W, A, CLIPS = 3, 2, 2, 11, 4
SIGMA = "0.5"


def small(**cross):
  stream = StreamConfig(16, 16, 2, in_channels=3, out_channels=3)
  sound = dataclasses.replace(stream, patch=(1, 1, 1), positions="line")
  cross = CrossConfig(**{"video_tokens": 5, "audio_tokens": 3} | cross)
  return JointDiT((("video", stream), ("audio", sound)), 2, cross)


def params_of(model):
  init = lambda key: init_params(model, key, TEXT)
  return living_params(jax.eval_shape(init, jax.random.key(0)), 0)


@pytest.fixture(scope="module")
def data():
  """Latents, texts, and masks: the left column, and the tokens up to the fifth."""
  rng = np.random.default_rng(0)
  normal = lambda *shape: rng.standard_normal((CLIPS, *shape)).astype(np.float32)
  masks = {
    "video": np.zeros((CLIPS, T, H, W), bool),
    "audio": np.zeros((CLIPS, A), bool),
  }
  masks["video"][..., 0] = masks["audio"][:, :5] = True
  latents = {"video": normal(T, 2 * H, 2 * W, 3), "audio": normal(A, 3)}
  return latents, normal(*TEXT), masks


def drawn(variant, got):
  """The figures of attention that are made of what is stored of it."""
  bare = result(variant, 0)
  stored = json.loads(json.dumps(got))
  runs = [by_variant([bare | {"attention": x}]) for x in (stored, None)]
  return set(figures.made(runs[0])) - set(figures.made(runs[1]))


def test_where_a_model_with_context_tokens_looks(data):
  """The network's own shares; and of the norm nothing by tokens without values."""
  latents, text, masks = data
  model = small()
  params = params_of(model)
  got = attention(model, params, latents, text, masks, [0.5])
  assert got.keys() == {"context_share", "foreground_background", "mass_norm"}
  first = {s: np.array(got["context_share"][s][SIGMA]) for s in latents}
  assert first["video"].shape == (2, T, H, W) and first["audio"].shape == (2, A)
  for s, share in first.items():
    assert (share > 0).all() and (share < 1).all()
    row = got["foreground_background"][s][SIGMA]
    difference = row["foreground"] - row["background"]
    assert row["ci"][0] <= difference <= row["ci"][1]
    moved = got["mass_norm"][s][SIGMA]
    assert all(0 < x < 1 for x in moved["mass"] + moved["norm"])
  assert drawn("ccl", got) == {"foreground", "blocks", "maps"}
  # One clip: its shares are those of all.
  one = lambda x: x[:1]
  alone = attention(
    model, params, jax.tree.map(one, latents), one(text),
    {s: one(x) for s, x in masks.items()}, [0.5],
  )  # fmt: skip
  share = np.array(alone["context_share"]["video"][SIGMA])
  row = alone["foreground_background"]["video"][SIGMA]
  inside = masks["video"][0]
  assert row["foreground"] == pytest.approx(share.mean(0)[inside].mean(), rel=1e-5)
  assert row["background"] == pytest.approx(share.mean(0)[~inside].mean(), rel=1e-5)
  mass = alone["mass_norm"]["video"][SIGMA]["mass"]
  np.testing.assert_allclose(mass, 1 - share.mean((1, 2, 3)), rtol=1e-5)


def test_without_values_context_tokens_move_nothing(data):
  model = small(context_values=False)
  got = attention(model, params_of(model), *data, [0.5])["mass_norm"]
  for s in ("video", "audio"):
    assert got[s][SIGMA]["norm"] == pytest.approx([1, 1])
    assert max(got[s][SIGMA]["mass"]) < 1


def test_where_the_gate_looks(data):
  """Rows add up to 1; queries of nothing look everywhere alike."""
  model = small(variant="gate", window=0, video_window=0, rope_unit="index")
  params = params_of(model)
  got = attention(model, params, *data, [0.5])
  assert got.keys() == {"keys"} == drawn("gate", got)
  for s, shape in (("video", (T, A)), ("audio", (A, T))):
    keys = np.array(got["keys"][s][SIGMA])
    assert keys.shape == shape
    np.testing.assert_allclose(keys.sum(1), 1, rtol=1e-5)
    assert np.ptp(keys) > 0.01
  for d in ("audio_to_video", "video_to_audio"):
    norm = params["blocks"][d]["norm_q"]
    norm["scale"] = 0 * norm["scale"]
  blind = attention(model, params, *data, [0.5])["keys"]
  np.testing.assert_allclose(np.array(blind["video"][SIGMA]), 1 / A, rtol=1e-5)
  np.testing.assert_allclose(np.array(blind["audio"][SIGMA]), 1 / T, rtol=1e-5)


def test_a_gate_with_windows_has_nothing_to_show(data):
  model = small(variant="gate")
  assert attention(model, params_of(model), *data, [0.5]) == {}


def test_foreground_and_background_by_hand():
  share = np.array([[0.1, 0.3], [0.2, 0.8], [0.5, 0.5], [0.9, 0.9]])
  mask = np.array([[1, 0], [1, 0], [0, 0], [1, 1]], bool)
  row = measures.contrast(share, mask, 0)
  # Of clips with both: 0.1 and 0.2 inside, 0.3 and 0.8 outside.
  assert row["foreground"] == pytest.approx(0.15)
  assert row["background"] == pytest.approx(0.55)
  # Of two clips a resample has one of them twice, or both.
  assert row["ci"] == pytest.approx([-0.6, -0.2])
  assert measures.contrast(share[2:], mask[2:], 0) is None


def test_gradients_of_tasks(data):
  """Of one clip, given to all batches; a gate that is closed teaches the exchange
  nothing, and such a pair is left out.
  """
  latents, text, _ = data
  same = lambda x: np.repeat(x[:1], 32, 0)
  latents, text = {s: same(x) for s, x in latents.items()}, same(text)
  model = small(variant="gate")
  recipe = Recipe(("single", "a2v", "v2a", "joint"), (0.1, 0.15, 0.15, 0.6))
  null = np.zeros(TEXT, np.float32)
  got = gradient_cosines(model, params_of(model), recipe, latents, text, null, batch=16)
  pairs = {f"joint/{task}" for task in ("joint", "single", "a2v", "v2a")}
  names = {f"{g} {p}" for g in ("exchange", "blocks") for p in pairs}
  assert got.keys() == names - {"exchange joint/single"}
  assert all(-1 <= x <= 1 for x in got.values())
  # Two batches of one clip ask for much the same.
  assert got["blocks joint/joint"] > 0.5 and got["blocks joint/a2v"] > 0.5
