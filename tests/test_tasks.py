"""The task table against the paper's, and its mistakes."""

import jax.numpy as jnp
import numpy as np
import pytest

from ccl_jax.errors import UsageError
from ccl_jax.tasks import (
  GENERATIONS,
  TASKS,
  sample_tasks,
  servable,
  static_route,
  task_of_step,
  task_table,
)


def test_table_is_the_papers():
  assert {n: t.probability for n, t in TASKS.items()} == {
    "single": 0.10, "a2v": 0.15, "v2a": 0.15, "joint": 0.60,
  }  # fmt: skip
  rows = {n: (t.generated, t.reads, t.detached) for n, t in TASKS.items()}
  both = ("video", "audio")
  assert rows == {
    "single": (both, (), ()),
    "a2v": (("video",), ("video",), ("audio",)),
    "v2a": (("audio",), ("audio",), ("video",)),
    "joint": (both, both, ()),
  }


def test_masks_and_static_routes_agree():
  names = list(TASKS)
  masks = sample_tasks(jnp.arange(4), names)
  for i, name in enumerate(names):
    route = static_route(TASKS[name])
    for s in ("video", "audio"):
      assert bool(masks.route.reads[s][i]) == route.reads.get(s, False)
      assert bool(masks.route.detached[s][i]) == route.detached.get(s, False)


def test_given_streams_never_read():
  for kind in GENERATIONS.values():
    assert not set(kind.given) & set(kind.reads)
  assert GENERATIONS["a2v"].reads == ("video",)
  assert GENERATIONS["t2v"].reads == ()
  assert GENERATIONS["joint"].reads == ("video", "audio")


def test_steps_draw_by_probability_and_number():
  names, p = task_table({"a2v": 1.0, "joint": 3.0, "single": 0.0})
  assert names == ("a2v", "joint") and p == (0.25, 0.75)
  drawn = [task_of_step(0, i, p) for i in range(400)]
  assert drawn == [task_of_step(0, i, p) for i in range(400)]
  assert 0.68 < np.mean(drawn) < 0.82


@pytest.mark.parametrize(
  "probabilities", [{"dance": 1.0}, {"joint": 0.0}, {"joint": 1.0, "a2v": -0.5}]
)
def test_mistakes(probabilities):
  with pytest.raises(UsageError):
    task_table(probabilities)


def test_clips_of_one_stream_serve_the_tasks_that_need_no_other():
  names, p = task_table({"single": 0.1, "a2v": 0.15, "v2a": 0.15, "joint": 0.6})
  assert servable(names, p, ("video", "audio")) == p
  for stream in ("video", "audio"):
    assert servable(names, p, (stream,)) == (1, 0, 0, 0)
  with pytest.raises(
    UsageError, match="clips of audio alone serve no task of a2v, v2a"
  ):
    servable(("a2v", "v2a"), (0.5, 0.5), ("audio",))
