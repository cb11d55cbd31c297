"""Every section of a training config reaches the function it is for, with its values.

`train` runs with stand-ins for all that takes time: data, codecs, checkpoints, the
loop. What it tells each is compared with a config none of whose values is a default.
"""

import dataclasses
import json
import pathlib
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ccl_jax import processes, sharding
from ccl_jax.checkpoints.find import Parameters
from ccl_jax.codecs.bundle import Codecs
from ccl_jax.data.spec import ClipSpec
from ccl_jax.errors import UsageError
from ccl_jax.models.adapter import Adapter
from ccl_jax.models.flops import forward_flops
from ccl_jax.models.presets import build_model
from ccl_jax.training import build as building
from ccl_jax.training import feed, films, settings
from configs import common
from tests.flags.command import command
from tests.flags.recording import Recorder


class Text:
  """A text codec by its sizes."""

  length, dim = 7, 24

  def tokenize(self, texts):
    raise NotImplementedError


CODECS = Codecs("video", "audio", Text())
CLIPS = ["clip 0", "clip 1", "clip 2", "clip 3", "clip 4"]
PARAMS = {
  "blocks": {"audio_to_video": {"q": {"kernel": jnp.zeros((2, 4, 4))}}},
  "video": {"head": {"kernel": jnp.zeros((4, 4))}},
}


def encode(batch):
  """Stands for what encodes batches."""
  raise NotImplementedError


def step_of(step, batch):
  """Stands for the programs of a run."""
  raise NotImplementedError


class Batches:
  """Stands for an iterator."""

  def __init__(self):
    self.state, self.closed = None, False

  def get_state(self):
    return "start"

  def set_state(self, state):
    self.state = state

  def close(self):
    self.closed = True


@pytest.fixture
def parts(monkeypatch, tmp_path):
  """The recorder of a run's parts; `run(config)` trains in `tmp_path`."""
  r, train = Recorder(monkeypatch), command("train").module
  r.module, r.batches, r.restored, r.done = train, Batches(), None, True

  def fit(clips, **_):
    r.calls["fitted"].append(list(clips))
    return CODECS

  one = sharding.make_mesh((1, 1, 1, 1), jax.devices()[:1])
  r.replace(train, "_peak", 5e12)
  r.replace(train, "make_mesh", one)
  r.replace(films, "open_source", CLIPS)
  r.replace(films, "Cached", lambda source, gigabytes: source)
  r.replace(feed, "fit_codecs", fit)
  r.replace(feed, "load_codecs", CODECS)
  r.replace(feed, "save_codecs")
  r.replace(train, "fingerprints", {"text": "digest"})
  r.replace(train, "require_same")
  r.replace(films, "make_iterator", lambda *_, **__: r.batches)
  r.replace(films, "make_encoder", lambda *_: encode)
  r.replace(films, "require_fit")
  r.replace(building, "init_params", PARAMS)
  r.replace(building, "parameter_shapes", jax.eval_shape(lambda: PARAMS))
  r.replace(building, "build_steps", lambda *_: step_of)
  r.replace(
    train, "restore_params", lambda *_: (0, jax.tree.map(jnp.ones_like, PARAMS), {})
  )
  about = {"negative": {"video": "grey"}, "model": {"preset": "tiny"}}
  found = Parameters(pathlib.Path("F"), "ema", about, pathlib.Path("CODECS"))
  r.replace(train, "find_parameters", found)
  r.replace(feed, "find_parameters", found)
  r.replace(train, "Profile", "profile")
  r.spy(train, "build_model")
  r.spy(building, "make_optimizer")

  checkpoints = SimpleNamespace(
    restore=r.stub(lambda _: r.restored, "restore"),
    close=r.stub(None, "checkpoints closed"),
  )
  log = SimpleNamespace(close=r.stub(None, "log closed"))
  loop = r.stub(lambda *_, **__: (None, r.done), "loop")
  monkeypatch.setattr(train, "Checkpointer", r.stub(checkpoints, "Checkpointer"))
  monkeypatch.setattr(train, "MetricLog", r.stub(log, "MetricLog"))
  r.replace(settings, "require")
  r.replace(train, "open_trackers", {"wandb": "a run"})
  monkeypatch.setattr(train.loop, "train", loop)
  r.run = lambda config: train.train(config, tmp_path)
  return r


def changed(**changes):
  """The base with films in tmp, and changes by their dotted names."""
  config = common.base()
  config.data.root = "FILMS"
  config.update_from_flattened_dict(
    {k.replace("__", "."): v for k, v in changes.items()}
  )
  return config


OWN = {
  "seed": 11, "steps": 77, "clip__frames": 17, "clip__height": 32, "clip__width": 64,
  "clip__fps": 30.0, "clip__stride": 16, "clip__audio_rate": 31.4,
  "data__source": "vggsound",
  "data__cache_gb": 2.5,
  "data__options": {"min_side": 9}, "batch__size": 6, "batch__threads": 3,
  "codec__fit_clips": 2, "codec__text_length": 9, "codec__text_dim": 33,
  "mesh": (1, 1, -1, 1), "slices": (2, 1, 1, 1), "checkpoint__every": 13,
  "checkpoint__minutes": 7.5,
  "checkpoint__keep": 5, "log_every": 4, "log__trackers": ("wandb",),
  "profile": (3, 4), "optim__warmup_steps": 5,
}  # fmt: skip


def test_sections_reach_their_functions(parts, tmp_path):
  config = changed(**OWN)
  assert parts.run(config) is True
  told = parts.told
  assert parts.last("make_mesh").args == ((1, 1, -1, 1),)
  assert told("make_mesh", "slices") == (2, 1, 1, 1)
  spec = ClipSpec(17, 32, 64, 30.0, stride=16, audio_rate=31.4)
  channels = {"video": 16, "audio": 20}
  assert parts.last("require_fit").args == (CODECS, channels, 16)
  where = "vggsound", spec, "FILMS", "train"
  assert parts.last("open_source") == (where, {"min_side": 9})
  assert parts.last("Cached").args == (CLIPS, 2.5)
  assert parts.last("Profile").args == (tmp_path / "profile", (3, 4))
  assert parts.last("Checkpointer") == ((tmp_path / "checkpoints",), {"keep": 5})
  assert parts.last("fit_codecs").kwargs == {"text_length": 9, "text_dim": 33}
  assert len(parts.calls["fitted"][-1]) == 2  # codec.fit_clips
  assert parts.last("save_codecs").args == (CODECS, tmp_path / "codecs")
  assert told("parameter_shapes", 1) == (7, 24)  # the codec's, not the config's
  made = parts.last("make_iterator")
  assert made.args == (CLIPS,)
  assert made.kwargs == {
    "batch_size": 6, "threads": 3, "seed": 11, "rows": [0, 1, 2, 3, 4, 5],
    "tokenize": CODECS.text.tokenize,
  }  # fmt: skip
  assert told("make_encoder", 0) == CODECS and told("make_encoder", 4) == 6
  assert told("build_steps", 0) is config
  log = parts.last("MetricLog")
  assert parts.last("open_trackers").args[:2] == (("wandb",), tmp_path)
  assert told("open_trackers", 2) == json.loads(config.to_json_best_effort())
  trackers = {"wandb": "a run"}
  assert log == (
    (tmp_path, 77), {"start_step": 0, "enabled": True, "trackers": trackers}
  )  # fmt: skip
  loop = parts.last("loop").kwargs
  expected = {
    "save_every": 13, "save_minutes": 7.5, "log_every": 4, "total_steps": 77,
    "first_step": 0,
    "tasks": ("a2v", "joint", "single", "v2a"), "step_of": step_of,
    "encode": encode, "batches": parts.batches, "profile": "profile",
    "evaluate": None, "evaluate_every": 0,
    "metadata": {
      "config": json.loads(config.to_json_best_effort()),
      "model": config.model.to_dict(), "clip": dataclasses.asdict(spec),
      "objective": config.objective.to_dict(), "codecs": {"text": "digest"},
      "negative": {}, "guidance": {},
    },
  }  # fmt: skip
  assert {k: loop[k] for k in expected} == expected
  assert loop["timer"]._peak_flops == 5e12
  assert json.loads((tmp_path / "config.json").read_text()) == json.loads(
    config.to_json_best_effort()
  )
  for name in ("checkpoints closed", "log closed"):
    assert len(parts.calls[name]) == 1
  assert parts.batches.closed


def test_whatever_happens_all_is_closed(parts, monkeypatch):
  """A loss that is not finite, say: what was logged is kept, and threads end."""

  def fails(*_, **__):
    raise UsageError("not finite")

  monkeypatch.setattr(parts.module.loop, "train", fails)
  with pytest.raises(UsageError, match="not finite"):
    parts.run(changed())
  for name in ("checkpoints closed", "log closed"):
    assert len(parts.calls[name]) == 1
  assert parts.batches.closed


def test_only_the_first_process_writes(parts, monkeypatch, tmp_path):
  monkeypatch.setattr(jax, "process_index", lambda: 1)
  parts.replace(films, "first_process_first", lambda make: make())
  parts.run(changed())
  assert parts.told("MetricLog", "enabled") is False
  assert not (tmp_path / "config.json").exists()
  # Data and codecs are made by the first, and found by the others.
  assert len(parts.calls["first_process_first"]) == 2


def test_the_rate_that_a_step_is_held_against(monkeypatch):
  """All devices of a known chip; of others, 2 n^3 by the fastest of five, on each."""
  train = command("train").module
  monkeypatch.setattr(train, "chip_of", lambda kind: SimpleNamespace(flops=3e12))
  assert train._peak() == 3e12 * jax.device_count()
  monkeypatch.setattr(train, "chip_of", lambda kind: None)
  times = iter([0, 9, 10, 12, 20, 20.5, 30, 34, 40, 44])
  clock = SimpleNamespace(perf_counter=lambda: next(times))
  monkeypatch.setattr(train, "time", clock)
  assert train._peak() == jax.device_count() * 2 * 1024**3 / 0.5


def test_without_a_root_the_data_lie_in_the_run(parts, tmp_path):
  parts.run(changed(data__root=""))
  assert parts.told("open_source", 2) == tmp_path / "data"


def test_codecs_are_fitted_to_clips_drawn_by_the_seed(parts):
  drawn = []
  for seed in (1, 2, 1):
    parts.run(changed(seed=seed, codec__fit_clips=3))
    drawn.append(parts.calls["fitted"][-1])
  assert drawn[0] == drawn[2] != drawn[1] and len(set(drawn[0])) == 3


def test_codecs_that_are_named_or_belong_to_the_start(parts, tmp_path):
  """codec.path, then those of `init`, but a run's own before all."""
  parts.run(changed(codec__path="BUNDLE", init="W"))
  assert parts.last("load_codecs").args == ("BUNDLE",) and not parts.calls["fit_codecs"]
  parts.run(changed(init="W"))
  assert parts.last("load_codecs").args == (pathlib.Path("CODECS"),)
  (tmp_path / "codecs").mkdir()
  (tmp_path / "config.json").unlink()  # of the run before
  saved = len(parts.calls["save_codecs"])
  parts.run(changed(codec__path="BUNDLE"))
  assert parts.last("load_codecs").args == (tmp_path / "codecs",)
  assert len(parts.calls["save_codecs"]) == saved


def test_what_a_bundle_lacks_is_fitted(parts, monkeypatch):
  monkeypatch.setattr(feed, "load_codecs", lambda _: Codecs(video="own"))
  parts.run(changed(codec__path="BUNDLE"))
  assert parts.told("save_codecs", 0) == Codecs("own", "audio", CODECS.text)


@pytest.fixture
def held_out(parts, monkeypatch):
  """As `parts`, and `made`, the iterators of a run: of training, of held-out clips."""
  parts.made = []

  def made(*_, **__):
    parts.made.append(Batches())
    return parts.made[-1]

  monkeypatch.setattr(films, "make_iterator", made)
  parts.spy(parts.module, "Evaluation")
  return parts


MEASURED = {"data__source": "vggsound", "batch__size": 6, "evaluate__every": 9}


def test_the_held_out_loss_is_of_clips_that_no_step_reads(held_out):
  """evaluate.every, clips, sigmas; root: other data than those of the config."""
  sigmas = (0.25, 0.75)
  config = changed(**MEASURED, evaluate__clips=20, evaluate__sigmas=sigmas)
  held_out.run(config)
  opened = [call.args[2:] for call in held_out.calls["open_source"]]
  assert opened == [("FILMS", "train"), ("FILMS", "test")]
  model, recipe, feed_, batches, at = held_out.last("Evaluation").args
  assert batches == 3 and at == sigmas  # 20 clips, six at a time
  assert recipe == building.make_recipe(config) and model == build_model("tiny")
  train, test = held_out.made
  assert feed_.batches is test and held_out.told("loop", "batches") is train
  assert held_out.told("loop", "evaluate_every") == 9
  assert held_out.told("loop", "evaluate")._feed is feed_
  assert train.closed and test.closed
  held_out.run(changed(**MEASURED, evaluate__clips=3, evaluate__root="OTHER"))
  assert held_out.last("open_source").args[2:] == ("OTHER", "test")
  assert held_out.last("Evaluation").args[3] == 1  # at least one batch


def test_data_without_a_held_out_split_need_others_beside_them(held_out, monkeypatch):
  measured = MEASURED | {"data__source": "folder"}
  with pytest.raises(UsageError, match="config.evaluate.root"):
    held_out.run(changed(**measured))
  assert not held_out.calls["loop"]
  held_out.run(changed(**measured, evaluate__root="OTHER"))
  assert held_out.last("open_source").args[2:] == ("OTHER", "train")
  # Of records, other records.
  latents = feed.Feed(ClipSpec(17, 48, 64, 30.0), CODECS, Batches(), encode, (6,))
  held_out.replace(held_out.module, "open_latents", lambda *_, **__: latents)
  measured |= {"data__source": "records"}
  with pytest.raises(UsageError, match="records has no held-out split"):
    held_out.run(changed(**measured))
  held_out.run(changed(**measured, evaluate__root="SET"))
  assert [call.kwargs for call in held_out.calls["open_latents"][-2:]] == [
    {}, {"root": "SET"},
  ]  # fmt: skip
  assert held_out.last("Evaluation").args[2] is latents


def test_init_is_where_the_parameters_come_from(parts):
  """But for a run that has a checkpoint; else they are drawn by the seed."""
  first = lambda: parts.told("loop", 0)
  leaves = lambda tree: [float(x.ravel()[0]) for x in jax.tree.leaves(tree)]
  parts.run(changed(init="W"))
  assert parts.last("find_parameters").args == ("W",)
  assert leaves(first().params) == leaves(first().ema) == [1, 1]
  assert int(first().step) == 0
  parts.run(changed())
  assert leaves(first().params) == [0, 0]
  assert not parts.calls["require_same"]
  parts.restored = (
    33,
    "state",
    "place",
    {"codecs": "then", "model": {"preset": "tiny", "times": "causal"}},
  )
  read = len(parts.calls["restore_params"])
  parts.run(changed(init="W"))
  assert first() == "state" and len(parts.calls["restore_params"]) == read
  assert parts.batches.state == "place"
  assert parts.last("require_same").args[:2] == (CODECS, "then")
  assert parts.told("loop", "first_step") == 33
  assert parts.told("MetricLog", "start_step") == 33


def test_a_part_of_a_model_is_trained(parts, monkeypatch):
  """By lora.rank, alpha, layers and whole, of the parameters of init: no step changes
  these, and checkpoints say which they are.
  """
  programs = []
  program = lambda *given, **base: programs.append((given, base))
  parts.replace(building, "build_steps", lambda *_: lambda *_: ("joint", program))
  parts.replace(parts.module, "identity", "print")
  part = {
    "init": "W", "lora__layers": "exchange", "lora__rank": 2, "lora__alpha": 6.0,
    "optim__groups": ((".*", 1e-3, 0.0),),
  }  # fmt: skip
  parts.run(changed(**part))
  state, loop = parts.told("loop", 0), parts.last("loop").kwargs
  (kernel,) = state.params["adapted"]["blocks"]["audio_to_video"]["q"].values()
  assert {name: x.shape for name, x in kernel.items()} == {
    "a": (2, 4, 2),
    "b": (2, 2, 4),
  }
  assert state.params.keys() == state.ema.keys() == {"adapted"}
  assert not kernel["b"].any() and kernel["a"].any()
  about = {"folder": str(pathlib.Path("W").absolute()), "identity": "print", "step": 0}
  assert loop["metadata"]["base"] == about and loop["metadata"]["negative"]
  settings = {"rank": 2, "alpha": 6.0, "layers": "exchange", "whole": ""}
  assert loop["metadata"]["lora"] == settings
  name, run = loop["step_of"](0, {})
  run("state", "batch")
  ((given, base),) = programs
  assert (name, given) == ("joint", ("state", "batch"))
  assert all((x == 1).all() for x in jax.tree.leaves(base["base"]))  # those of init
  # It goes on with the same parameters beneath it, and with no others.
  before = {"codecs": "then", "model": {"preset": "tiny", "times": "causal"}}
  parts.restored = (33, "state", "place", before | {"base": about})
  parts.run(changed(**part))
  assert parts.told("loop", 0) == "state"
  parts.replace(parts.module, "identity", "another")
  with pytest.raises(UsageError, match="config.init: the parameters in it are not"):
    parts.run(changed(**part))
  with pytest.raises(UsageError, match="config.init is empty"):
    parts.run(changed(**part | {"init": ""}))
  with pytest.raises(UsageError, match="lora.whole: no parameter fits 'heads'"):
    parts.run(changed(**part, lora__whole="heads"))
  parts.restored = None
  of_part = Parameters(pathlib.Path("F"), "ema", {"base": about}, None)
  with monkeypatch.context() as m:
    m.setattr(parts.module, "find_parameters", lambda _: of_part)
    for config in (changed(**part), changed(init="W")):
      with pytest.raises(UsageError, match="W has trained a part of a model"):
        parts.run(config)
  parts.run(changed(**part | {"lora__layers": ""}, lora__whole="exchange"))
  whole = parts.told("loop", 0).params
  assert whole.keys() == {"whole"}
  assert (whole["whole"]["blocks"]["audio_to_video"]["q"]["kernel"] == 1).all()


def test_the_held_out_loss_of_a_part_is_the_whole_models():
  run = building.Run(*[None] * 7, adapter=Adapter(2, 6.0, "exchange"))
  base = jax.tree.map(jnp.ones_like, PARAMS)
  trained = run.adapter.trained(base, jax.random.key(0))
  trained = jax.tree.map(lambda x: jnp.full(x.shape, 0.5), trained)
  evaluate = command("train").module.evaluate_on(run, base, lambda params: params)
  whole = evaluate(trained)
  kernel = whole["blocks"]["audio_to_video"]["q"]["kernel"]
  np.testing.assert_allclose(kernel, 1 + 3 * 2 * 0.25)  # alpha / rank sum_r a b
  assert (whole["video"]["head"]["kernel"] == 1).all()


def test_a_negative_prompt_comes_from_the_start_and_stays(parts):
  """A run that goes on has it from its checkpoint, whatever became of `init`."""
  kept = lambda: parts.last("loop").kwargs["metadata"]["negative"]
  parts.run(changed(init="W"))
  assert kept() == {"video": "grey"}
  parts.run(changed())
  assert kept() == {}
  before = {"codecs": "then", "model": {"preset": "tiny", "times": "causal"}}
  mine = {"negative": {"audio": "hum"}}
  parts.restored = (33, "state", "place", before | mine)
  parts.run(changed(init="W"))
  assert kept() == {"audio": "hum"}
  parts.restored = (33, "state", "place", before)  # of an earlier version
  parts.run(changed(init="W"))
  assert kept() == {}


def test_a_run_goes_on_with_the_times_that_it_was_trained_with(parts):
  """Those of a run that names none are the paper's."""
  parts.restored = (3, "state", "place", {"codecs": "", "model": {"preset": "tiny"}})
  with pytest.raises(
    UsageError, match="times: got causal; .* --config.model.times=uni"
  ):
    parts.run(changed())
  assert not parts.calls["loop"]
  parts.run(changed(model__times="uniform"))
  alone = {
    "tasks__probabilities": {"single": 1.0},
    "optim__groups": ((".*", 1e-4, 0.0),),
  }
  parts.run(changed(model__streams=("audio",), **alone))  # that never exchange
  assert len(parts.calls["loop"]) == 2


def test_fresh_parameters_are_drawn_by_the_seed(parts, monkeypatch):
  seen = []

  def drawn(model, key, text, batch):
    seen.append(key)
    return jax.tree.map(lambda x: x + jax.random.normal(key, x.shape), PARAMS)

  monkeypatch.setattr(building, "init_params", drawn)
  start = {}
  for seed in (3, 4):
    parts.run(changed(seed=seed))
    start[seed] = np.asarray(parts.told("loop", 0).params["video"]["head"]["kernel"])
  for seed, found in start.items():
    expected = jax.random.normal(jax.random.key(seed), (4, 4))
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_a_batch_that_does_not_divide_is_refused(parts, monkeypatch):
  mesh = sharding.make_mesh((2, 2, 2, 1), jax.devices()[:8])
  for size, accumulate, good in ((8, 2, True), (12, 2, False), (6, 1, False)):
    config = changed(batch__size=size, accumulate=accumulate)
    if good:
      building.check_sizes(config, mesh, [size])
    else:
      with pytest.raises(UsageError, match=f"multiple of {4 * accumulate}"):
        building.check_sizes(config, mesh, [size])
  building.check_sizes(changed(), mesh, (16, 4))
  with pytest.raises(UsageError, match="got 10"):
    building.check_sizes(changed(), mesh, (16, 10))


def test_the_loop_ends_or_is_stopped_and_the_command_says_so(
  parts, monkeypatch, tmp_path, capsys
):
  """--config and --workdir; a report where the config asks for one and all is done."""
  shown = []
  report = lambda config, workdir: shown.append((config.report.clips, workdir))
  monkeypatch.setattr("ccl_jax.generation.report.report", report)
  flags = ["--config=configs/joint.py:runlocal,data=FILMS", "--config.steps=9",
           f"--workdir={tmp_path}"]  # fmt: skip
  command("train").run(*flags)
  assert parts.told("loop", "total_steps") == 9 and not shown
  assert parts.told("Checkpointer", 0) == tmp_path / "checkpoints"
  asked = [*flags, "--config.report.tasks=('a2v',)", "--config.report.clips=3"]
  command("train").run(*asked)
  assert shown == [(3, str(tmp_path))]
  parts.done = False
  capsys.readouterr()
  command("train").run(*asked)
  assert len(shown) == 1
  told = json.loads(capsys.readouterr().out)
  assert told == {"stopped": True, "workdir": str(tmp_path)}
  for missing in (flags[:2], flags[2:]):
    with pytest.raises(SystemExit):
      command("train").run(*missing)


def test_processes_meet_as_the_flags_say(parts, monkeypatch, tmp_path, capsys):
  parts.replace(processes, "join_processes")
  parts.replace(parts.module, "train", True)
  flags = ["--config=configs/joint.py:runlocal", f"--workdir={tmp_path}"]
  command("train").run(*flags)
  assert not parts.calls["join_processes"]
  command("train").run(*flags, "--distributed")
  assert parts.last("join_processes") == (
    (None, None, None),
    {"seconds": 300, "heartbeat": 30},
  )
  where = ["--coordinator=host:99", "--num_processes=4", "--process_id=3"]
  command("train").run(
    *flags, "--distributed", *where, "--meet_seconds=7", "--heartbeat_seconds=9"
  )
  assert parts.last("join_processes") == (
    ("host:99", 4, 3),
    {"seconds": 7, "heartbeat": 9},
  )
  for flag in where:
    with pytest.raises(SystemExit) as e:
      command("train").run(*flags, flag)
    assert e.value.code == 2 and "--distributed" in capsys.readouterr().err
  assert len(parts.calls["join_processes"]) == 2


def test_work_of_a_batch(parts):
  """A step is three forward passes of every clip: forward, and twice that backward."""
  model = build_model("tiny")
  batch = {
    "video": jnp.zeros((3, 5, 4, 6, 16)), "audio": jnp.zeros((3, 21, 20)),
    "text": jnp.zeros((3, 7, 24)),
  }  # fmt: skip
  clips, flops = parts.module.work_of(model, (7, 24))(batch)
  spec = ClipSpec(17, 32, 48, 25.0)
  geometry = building.geometry_of(model, spec)
  assert (geometry.t, geometry.h, geometry.w, geometry.a) == (5, 2, 3, 21)
  assert clips == 3
  assert flops == 9 * sum(forward_flops(model, geometry, 7, 24).values())
  alone = {"audio": batch["audio"], "text": batch["text"]}
  assert parts.module.work_of(model, (7, 24))(alone)[1] < flops


def test_another_config_goes_on_only_where_it_is_allowed(parts, tmp_path, capsys):
  """--allow_changes; a config that is refused changes no file of the run."""
  flags = ["--config=configs/joint.py:runlocal,data=FILMS", f"--workdir={tmp_path}"]
  command("train").run(*flags)
  (tmp_path / "codecs").mkdir()
  before = (tmp_path / "config.json").read_text()
  with pytest.raises(SystemExit) as e:
    command("train").run(*flags, "--config.clip.frames=33")
  assert e.value.code == 2 and "config.clip.frames: " in capsys.readouterr().err
  assert (tmp_path / "config.json").read_text() == before
  assert {p.name for p in tmp_path.iterdir()} == {"codecs", "config.json"}
  command("train").run(*flags, "--config.clip.frames=33", "--allow_changes")
  assert json.loads((tmp_path / "config.json").read_text())["clip"]["frames"] == 33
  assert "-> 33" in capsys.readouterr().err


def test_a_run_that_was_never_accepted_leaves_no_codecs(parts, monkeypatch, tmp_path):
  """Those of another `init`, say, would be taken by the next command."""
  parts.replace(feed, "save_codecs", lambda codecs, folder: folder.mkdir())

  def refused(*_):
    raise UsageError("arrays of other shapes")

  with monkeypatch.context() as patch:
    patch.setattr(parts.module, "restore_params", refused)
    with pytest.raises(UsageError, match="other shapes"):
      parts.run(changed(init="W"))
  assert not tmp_path.exists() or not list(tmp_path.iterdir())
  parts.run(changed())
  assert (tmp_path / "codecs").is_dir()


def test_codecs_of_a_run_that_are_not_whole_or_not_those_named(
  parts, monkeypatch, tmp_path
):
  own, other = tmp_path / "codecs", tmp_path / "other"
  for folder, digest in ((own, "1"), (other, "2")):
    folder.mkdir()
    (folder / "text.json").write_text(json.dumps({"sha256": digest * 64}))
  with pytest.raises(UsageError, match=r"other \(22222222\) is not .* \(11111111\)"):
    parts.run(changed(codec__path=str(other)))
  parts.run(changed(codec__path=str(own)))
  (tmp_path / "config.json").unlink()
  monkeypatch.setattr(feed, "load_codecs", lambda _: CODECS._replace(audio=None))
  with pytest.raises(UsageError, match=r"codecs lacks audio\.json: put the run's own"):
    parts.run(changed())
