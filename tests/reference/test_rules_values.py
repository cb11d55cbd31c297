"""Task tables, windows, groups and positions against the reference, entry by entry."""

import ast
import dataclasses
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ccl_jax.models.cca import CrossAttention, CrossConfig, Geometry
from ccl_jax.ops import rope, tarp
from ccl_jax.tasks import GENERATIONS, TASKS, Task, sample_tasks, static_route
from tests.reference import exchange, stream
from tests.reference.conftest import make_model, make_params, rule_of
from tests.reference.tasks import SAMPLING, TRAINING
from tests.trees import parsed

SIZES = [(31, 157), (21, 158), (9, 41), (5, 17), (4, 11), (6, 6), (1, 7)]


def test_training_tasks():
  assert set(TASKS) == set(TRAINING)
  for name, (p, generated, reads, shared, detached) in TRAINING.items():
    task = TASKS[name]
    assert task.probability == p
    assert set(task.generated) == generated and set(task.reads) == reads
    assert task.shared_sigma is shared and set(task.detached) == detached
    route = static_route(task)
    assert {s for s, on in route.reads.items() if on} == reads
    assert {s for s, on in route.detached.items() if on} == detached


def test_a_task_is_not_shared_in_level_unless_it_says_so():
  assert Task(0.5, ("video",), ()).shared_sigma is False


def test_tasks_by_sample():
  names = ("v2a", "joint", "a2v", "single", "joint")
  order = ("joint", "a2v", "single", "v2a")
  got = sample_tasks(jnp.array([order.index(n) for n in names]), order)
  for s in ("video", "audio"):
    column = lambda i, s=s: [s in TRAINING[n][i] for n in names]
    assert got.generated[s].tolist() == column(1)
    assert got.route.reads[s].tolist() == column(2)
    assert got.route.detached[s].tolist() == column(4)
  assert got.shared_sigma.tolist() == [TRAINING[n][3] for n in names]
  assert got.index.tolist() == [3, 0, 1, 2, 0]


def test_sampling_tasks():
  assert set(GENERATIONS) == set(SAMPLING)
  for name, (made, given, reads, image) in SAMPLING.items():
    task = GENERATIONS[name]
    assert set(task.generated) == made and set(task.given) == given
    assert set(task.reads) == reads and task.image is image
    assert {s for s, on in static_route(task).reads.items() if on} == reads
    assert not static_route(task).detached


@pytest.mark.parametrize(("t", "a"), SIZES)
@pytest.mark.parametrize(
  ("times", "centre", "window"),
  [
    ("causal", "aligned", 1),
    ("causal", "aligned", 3),
    ("uniform", "aligned", 3),
    ("uniform", "floor", 3),
    ("uniform", "aligned", 2),
  ],
)
def test_windows(t, a, times, centre, window):
  index, valid = tarp.audio_windows(t, a, times, centre, window)
  if times == "uniform":
    assert index.shape[1] == window * (a // t)
  assert index.shape == valid.shape and len(index) == t
  assert index.min() >= 0 and index.max() < a
  rule = {"times": times, "centre": centre, "window": window}
  for i in range(t):
    assert index[i][valid[i]].tolist() == exchange.window(i, t, a, rule)


def test_a_window_by_hand():
  """4 frames, 11 tokens: c = 2, w = 6; centres floor((i + 1/2) 11/4) = 1, 4, 6, 9."""
  index, valid = tarp.audio_windows(4, 11, "uniform", window=3)
  seen = [index[i][valid[i]].tolist() for i in range(4)]
  assert seen == [[0, 1, 2, 3], list(range(1, 7)), list(range(3, 9)), [6, 7, 8, 9, 10]]
  index, valid = tarp.audio_windows(2, 7, "uniform", "floor", 3)
  # c = 3, w = 9: centres 1 and 4
  seen = [index[i][valid[i]].tolist() for i in range(2)]
  assert seen == [[0, 1, 2, 3, 4, 5], [0, 1, 2, 3, 4, 5, 6]]


@pytest.mark.parametrize(("t", "a"), SIZES)
@pytest.mark.parametrize("times", ["causal", "uniform"])
def test_groups(t, a, times):
  index, valid, place = tarp.frame_groups(t, a, times)
  frames = [exchange.frame_of(j, t, a, times) for j in range(a)]
  assert index.shape[1] == max(frames.count(i) for i in range(t))
  for i in range(t):
    assert index[i][valid[i]].tolist() == [j for j in range(a) if frames[j] == i]
  np.testing.assert_array_equal(index.ravel()[place], np.arange(a))
  assert valid.ravel()[place].all()


def unit_turns(table):
  """Angles of pairs, as complex numbers of length 1: one for both channels."""
  turns = np.asarray(table[0] + 1j * table[1]).reshape(-1, table.shape[-1])
  np.testing.assert_array_equal(turns[:, ::2], turns[:, 1::2])
  return turns[:, ::2]


@pytest.mark.parametrize("d", [128, 16, 10])
@pytest.mark.parametrize("rule", ["3d", "temporal"])
@pytest.mark.parametrize("times", ["causal", "uniform"])
@pytest.mark.parametrize("unit", ["token", "latent", "index"])
def test_positions_in_the_exchange(d, rule, times, unit):
  t, h, w, a = 5, 3, 2, 17
  cross = {"times": times, "cross_rope": rule, "rope_unit": unit}
  config, reference = CrossConfig(**cross), rule_of(cross)
  for s in ("video", "audio"):
    got = unit_turns(Geometry(t, h, w, a).cross_table(s, d, config))
    angle = exchange.cross_turns(s, (t, h, w), a, d, reference)
    np.testing.assert_allclose(got, np.exp(1j * angle), atol=1e-6)


@pytest.mark.parametrize("d", [128, 16, 10])
def test_positions_of_a_stream(d):
  assert rope.slots(d) == stream.slots(d)
  grid = np.exp(1j * stream.grid_turns(5, 3, 2, d))
  np.testing.assert_allclose(unit_turns(rope.grid(5, 3, 2, d)), grid, atol=1e-6)
  line = np.exp(1j * stream.turns(np.arange(17), d))
  np.testing.assert_allclose(unit_turns(rope.line(np.arange(17), d)), line, atol=1e-6)


def test_context_tokens_have_the_width_of_the_stream_they_stand_for():
  blocks = make_params(make_model(video_tokens=4, audio_tokens=3), 0)["blocks"]
  assert blocks["audio_to_video"]["context"].shape == (2, 3, 30)
  assert blocks["video_to_audio"]["context"].shape == (2, 4, 32)


def test_a_fresh_exchange_adds_nothing_and_its_tokens_are_small():
  config = CrossConfig(audio_tokens=60)
  module = CrossAttention("video", 12, 2, 40, config, jnp.float32)
  table, x = rope.grid(2, 3, 1, 6), jnp.ones((1, 2, 3, 12))
  args, rest = (jax.random.key(0), x, table), (Geometry(2, 3, 1, 4), None, None)
  params = jax.jit(lambda key, *x: module.init(key, *x, *rest))(*args)["params"]
  assert not np.any(params["o"]["kernel"]) and not np.any(params["o"]["bias"])
  np.testing.assert_allclose(params["context"].std(), 0.02, rtol=0.05)
  loud = module.clone(config=dataclasses.replace(config, context_std=1.0))
  params = jax.jit(lambda key, *x: loud.init(key, *x, *rest))(*args)["params"]
  np.testing.assert_allclose(params["context"].std(), 1.0, rtol=0.05)


def test_the_reference_knows_nothing_of_the_package():
  folder = pathlib.Path(__file__).parent
  modules = [p for p in folder.glob("*.py") if not p.stem.startswith(("test_", "conf"))]
  assert len(modules) >= 7
  for path in modules:
    for node in ast.walk(parsed(path.read_text())):
      if isinstance(node, ast.Import):
        names = [alias.name for alias in node.names]
      elif isinstance(node, ast.ImportFrom):
        names = [node.module]
      else:
        continue
      for name in names:
        known = name in (
          "math",
          "fractions",
          "numpy",
          "scipy.special",
        ) or name.startswith("tests.ref")
        assert known, (path.name, name)
