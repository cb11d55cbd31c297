"""Trackers hear what the log hears, know the run again, and never stop it."""

import json
import struct
import sys
import time
import types

import pytest

from ccl_jax.errors import UsageError
from ccl_jax.training.log import MetricLog
from ccl_jax.training.trackers import open_trackers, require
from configs import common

CONFIG = {"seed": 3, "optim": {"b1": 0.9, "groups": [["x", 1.0]]}, "mesh": [1, 2]}


class Recorder(types.SimpleNamespace):
  """Calls of a package's functions, in order: (name, arguments)."""

  def call(self, name, result=None):
    def called(*args, **kwargs):
      self.calls.append((name, args, kwargs))
      if isinstance(result, Exception):
        raise result
      return result

    return called

  def said(self, name):
    return [(args, kwargs) for n, args, kwargs in self.calls if n == name]


@pytest.fixture
def wandb(monkeypatch):
  """A package of the name: it gives a run the id it asks for, or one of its own."""
  fake = Recorder(calls=[], __name__="wandb", own="fresh")

  def init(**given):
    fake.calls.append(("init", (), given))
    names = ("log", "define_metric", "finish")
    acts = {name: fake.call(name) for name in names}
    fake.run = Recorder(id=given["id"] or fake.own, url="https://x/run", **acts)
    return fake.run

  fake.init, fake.Settings = init, lambda **given: given
  monkeypatch.setitem(sys.modules, "wandb", fake)
  monkeypatch.delenv("WANDB_PROJECT", raising=False)
  return fake


@pytest.fixture
def mlflow(monkeypatch):
  fake = Recorder(calls=[], __name__="mlflow")
  info = types.SimpleNamespace(run_id="m1")
  fake.start_run = fake.call("start_run", types.SimpleNamespace(info=info))
  for name in ("set_experiment", "log_params", "log_metrics", "end_run"):
    setattr(fake, name, fake.call(name))
  monkeypatch.setitem(sys.modules, "mlflow", fake)
  monkeypatch.delenv("MLFLOW_EXPERIMENT_NAME", raising=False)
  return fake


def logged(workdir, names, steps, start=0, enabled=True):
  """A process of a run that takes some steps; step 1 has a loss that is no number."""
  trackers = open_trackers(names, workdir, CONFIG) if enabled else None
  log = MetricLog(workdir, 9, start_step=start, enabled=enabled, trackers=trackers)
  for step in steps:
    log.write(step, {"loss": 0.5 + step, "mfu": float("nan") if step == 1 else 0.25})
  log.write_held_out(steps[-1] + 1, {"held_out/joint/video": 2.0})
  log.close()


def test_wandb_is_told_the_config_and_every_step(wandb, tmp_path, capsys):
  logged(tmp_path / "run", ["wandb"], [0, 1])
  ((_, given),) = wandb.said("init")
  assert given == {
    "project": "ccl_jax", "name": "run", "id": None, "resume": "allow",
    "dir": str(tmp_path / "run"), "config": CONFIG,
    "settings": {"silent": True, "console": "off"},
  }  # fmt: skip
  assert wandb.said("define_metric") == [(("*",), {"step_metric": "step"})]
  assert [args for args, _ in wandb.said("log")] == [
    ({"step": 0, "loss": 0.5, "mfu": 0.25},),
    ({"step": 1, "loss": 1.5},),
    ({"step": 2, "held_out/joint/video": 2.0},),
  ]
  assert len(wandb.said("finish")) == 1
  assert "wandb: https://x/run" in capsys.readouterr().err
  lines = (tmp_path / "run/metrics.jsonl").read_text().splitlines()
  assert json.loads(lines[1]) == {"step": 1, "loss": 1.5, "mfu": None}
  assert list((tmp_path / "run/tensorboard").glob("events*"))


def test_a_run_that_goes_on_is_one_run(wandb, mlflow, tmp_path):
  logged(tmp_path, ["wandb", "mlflow"], [0])
  wandb.own = "another"
  logged(tmp_path, ["wandb", "mlflow"], [1], start=1)
  assert [given["id"] for _, given in wandb.said("init")] == [None, "fresh"]
  assert json.loads((tmp_path / "trackers.json").read_text()) == {
    "wandb": "fresh", "mlflow": "m1",
  }  # fmt: skip
  started = [given for _, given in mlflow.said("start_run")]
  assert started == [
    {"run_id": None, "run_name": tmp_path.name}, {"run_id": "m1", "run_name": None}
  ]  # fmt: skip


def test_mlflow_is_told_settings_by_their_names(mlflow, tmp_path):
  logged(tmp_path, ["mlflow"], [0, 1])
  assert mlflow.said("set_experiment") == [(("ccl_jax",), {})]
  expected = {
    "seed": "3", "optim.b1": "0.9", "optim.groups": "[['x', 1.0]]", "mesh": "[1, 2]",
  }  # fmt: skip
  assert mlflow.said("log_params") == [((expected,), {})]
  assert mlflow.said("log_metrics") == [
    (({"loss": 0.5, "mfu": 0.25},), {"step": 0}),
    (({"loss": 1.5},), {"step": 1}),
    (({"held_out/joint/video": 2.0},), {"step": 2}),
  ]
  assert len(mlflow.said("end_run")) == 1


def test_a_project_of_the_users(wandb, mlflow, tmp_path, monkeypatch):
  monkeypatch.setenv("WANDB_PROJECT", "mine")
  monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "mine")
  logged(tmp_path, ["wandb", "mlflow"], [0])
  assert wandb.said("init")[0][1]["project"] == "mine"
  assert not mlflow.said("set_experiment")  # mlflow reads the variable itself


def test_many_settings_go_in_parts_that_a_server_takes(mlflow, tmp_path):
  config = {f"k{i:03d}": "v" * 900 for i in range(230)}
  open_trackers(["mlflow"], tmp_path, config)
  parts = [args[0] for args, _ in mlflow.said("log_params")]
  assert [len(part) for part in parts] == [100, 100, 30]
  assert parts[0]["k000"] == "v" * 500 and "k229" in parts[2]


def test_a_process_without_a_log_tells_nobody(wandb, tmp_path):
  logged(tmp_path, ["wandb"], [0], enabled=False)
  assert not wandb.calls and not list(tmp_path.iterdir())


def test_a_tracker_that_fails_does_not_end_the_run(wandb, mlflow, tmp_path, capsys):
  trackers = open_trackers(["wandb", "mlflow"], tmp_path, CONFIG)
  wandb.run.log = wandb.call("log", ConnectionError("the server\nis gone"))
  log = MetricLog(tmp_path, 9, trackers=trackers)
  for step in (0, 1):
    log.write(step, {"loss": 1.0})
  log.close()
  told = capsys.readouterr().err
  assert told.count("note: wandb is left out from here on: the server is gone") == 1
  assert len(wandb.said("log")) == 1 and len(mlflow.said("log_metrics")) == 2
  assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 2


def test_a_tracker_that_cannot_start_is_one_line(wandb, tmp_path):
  wandb.init = wandb.call("init", ValueError("api_key not configured\n(no-tty)"))
  words = r"log.trackers: wandb cannot start: api_key not configured \(no-tty\); log in"
  with pytest.raises(UsageError, match=words):
    open_trackers(["wandb"], tmp_path, CONFIG)
  assert not (tmp_path / "trackers.json").exists()


def test_a_package_that_is_not_there(monkeypatch):
  monkeypatch.setitem(sys.modules, "wandb", None)  # its import fails
  with pytest.raises(UsageError, match=r"log.trackers: wandb .*: pip install wandb"):
    require(["wandb"])


def test_nobody_is_told_unless_named(wandb, tmp_path):
  assert common.base().log.trackers == ()
  logged(tmp_path, (), [0])
  assert not wandb.calls and not (tmp_path / "trackers.json").exists()


def records_of(data):
  """The records of wandb's file: LevelDB's log format, after 7 bytes of its own."""
  at, part = 7, b""
  while at + 7 <= len(data):
    if 32768 - at % 32768 < 7:  # no header fits into the rest of a block
      at += 32768 - at % 32768
      continue
    _, size, kind = struct.unpack_from("<IHB", data, at)
    part += data[at + 7 : at + 7 + size]
    at += 7 + size
    if kind in (1, 4):  # whole, or the last part
      yield part
      part = b""


def test_wandb_itself_without_a_network(tmp_path, monkeypatch):
  """The package's own record of two processes of one run, read back."""
  pytest.importorskip("wandb", reason="wandb is not installed")
  from wandb.proto import wandb_internal_pb2 as pb

  monkeypatch.setenv("WANDB_MODE", "offline")
  monkeypatch.setenv("WANDB_PROJECT", "offline")
  logged(tmp_path, ["wandb"], [0, 1])
  time.sleep(1.1)  # wandb's folders are named by the second
  logged(tmp_path, ["wandb"], [2], start=2)
  ids, configs, rows = set(), [], []
  for path in sorted((tmp_path / "wandb").glob("offline-run-*/*.wandb")):
    for data in records_of(path.read_bytes()):
      record = pb.Record.FromString(data)
      if record.HasField("run"):
        ids.add(record.run.run_id)
        items = record.run.config.update
        configs.append({x.key: json.loads(x.value_json) for x in items})
      if record.HasField("history"):
        items = record.history.item
        row = {x.key or x.nested_key[0]: json.loads(x.value_json) for x in items}
        rows.append({k: v for k, v in row.items() if k[0] != "_"})
  assert ids == {json.loads((tmp_path / "trackers.json").read_text())["wandb"]}
  assert len(configs) == 2 and all(x.items() >= CONFIG.items() for x in configs)
  assert rows == [
    {"step": 0, "loss": 0.5, "mfu": 0.25}, {"step": 1, "loss": 1.5},
    {"step": 2, "held_out/joint/video": 2.0}, {"step": 2, "loss": 2.5, "mfu": 0.25},
    {"step": 3, "held_out/joint/video": 2.0},
  ]  # fmt: skip


def test_mlflow_itself(tmp_path, monkeypatch):
  """Two processes of one run, read back by the package, from files."""
  mlflow = pytest.importorskip("mlflow", reason="mlflow is not installed")
  monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
  mlflow.set_tracking_uri(f"file://{tmp_path}/store")
  logged(tmp_path / "run", ["mlflow"], [0, 1])
  logged(tmp_path / "run", ["mlflow"], [2], start=2)
  id = json.loads((tmp_path / "run/trackers.json").read_text())["mlflow"]
  client = mlflow.MlflowClient()
  history = client.get_metric_history(id, "loss")
  assert [(x.step, x.value) for x in history] == [(0, 0.5), (1, 1.5), (2, 2.5)]
  run = client.get_run(id)
  assert run.data.params["optim.b1"] == "0.9" and run.info.run_name == "run"
