"""A run in a bucket keeps its id on a tracker there."""

import json
import sys
import types

from ccl_jax.training.trackers import open_trackers


def test_the_id_of_a_run_in_a_bucket(bucket, monkeypatch):
  asked = []

  def init(**given):
    asked.append((given["id"], given["dir"], given["name"]))
    act = lambda *_, **__: None
    return types.SimpleNamespace(id="fresh", url="", define_metric=act)

  wandb = types.SimpleNamespace(init=init, Settings=lambda **given: given)
  monkeypatch.setitem(sys.modules, "wandb", wandb)
  for _ in range(2):
    open_trackers(["wandb"], bucket / "runs/a", {})
  assert json.loads((bucket / "runs/a/trackers.json").read_text()) == {"wandb": "fresh"}
  # wandb's own files stay on this machine, where it puts them without being told.
  assert asked == [(None, None, "a"), ("fresh", None, "a")]
