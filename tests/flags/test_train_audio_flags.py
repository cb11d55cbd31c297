"""Every section of a config of `train_audio` reaches the function it is for.

As for the transformer: stand-ins for all that takes time, and no value a default.
"""

import json
import pathlib
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ccl_jax.audio_codec import run as audio_training
from ccl_jax.data.sources.sounds import Sounds, Span
from ccl_jax.errors import UsageError
from ccl_jax.sharding import make_mesh
from ccl_jax.training import changes, settings
from tests.flags.command import command
from tests.flags.config_keys import get
from tests.flags.recording import Recorder


class Heard(Sounds):
  """Stands for a folder of sounds: ten spans of two windows, one held out."""

  seconds = 123.56

  def __init__(self, root, **options):
    self.root, self.options = root, options
    self.spans = [Span(pathlib.Path(f"{root}/{i}.wav"), 0.0, 0, 99) for i in range(10)]
    self.train, self.held_out = self.spans[1:], self.spans[:1]

  def windows(self, spans, samples):
    for k in range(100):
      for i, _ in enumerate(spans):
        yield np.full((4,), 1000 * samples + 10 * k + i)


class Unheld(Heard):
  """Of so little sound that nothing is held out."""

  def __init__(self, root, **options):
    super().__init__(root, **options)
    self.held_out = []


class Batches:
  state = None
  closed = 0

  def set_state(self, state):
    self.state = state

  def close(self):
    self.closed += 1


def config_of(name, argument="data=SOUNDS", **changes):
  config = get(name, argument)
  config.update_from_flattened_dict(
    {k.replace("__", "."): v for k, v in changes.items()}
  )
  return config


@pytest.fixture
def parts(monkeypatch, tmp_path):
  """A run's parts, of a task that is one number; `run(config)` trains it."""
  r, a = Recorder(monkeypatch), audio_training
  r.batches, r.restored, r.done = Batches(), None, True
  r.replace(a, "make_mesh", make_mesh((1, 1, 1, 1), jax.devices()[:1]))
  monkeypatch.setattr(a, "Sounds", r.stub(Heard, "Sounds"))
  monkeypatch.setattr(a, "WindowBatches", r.stub(r.batches, "WindowBatches"))
  profile = SimpleNamespace(close=lambda: None)
  monkeypatch.setattr(a, "Profile", r.stub(profile, "Profile"))
  log = SimpleNamespace(close=r.stub(None, "log closed"))
  monkeypatch.setattr(a, "MetricLog", r.stub(log, "MetricLog"))
  r.replace(settings, "require")
  r.replace(a, "open_trackers", {"wandb": "a run"})
  checkpoints = SimpleNamespace(
    restore=lambda _: r.restored, close=r.stub(None, "checkpoints closed")
  )
  monkeypatch.setattr(a, "Checkpointer", r.stub(checkpoints, "Checkpointer"))
  loop = lambda state, **_: (state, r.done)
  monkeypatch.setattr(a.loop, "train", r.stub(loop, "loop"))
  r.replace(a, "write_network")

  def score(params, train, held):
    r.calls["scored"].append((np.asarray(params["x"]), list(train), held))
    return {"mel_db": 1.5}

  task = a.Task(
    kind="vocoder",
    sizes={"size": 3},
    fresh=lambda key: jax.random.normal(key, (2,)),
    step_of=lambda shardings: "step_of",
    result=lambda state: {"x": state + 1},
    score=score,
  )
  monkeypatch.setitem(a.TASKS, "vocoder", lambda config, sounds: task)
  r.run = lambda config: a.train(config, tmp_path)
  return r


OWN = {
  "seed": 11, "steps": 77, "window": 5120, "batch__size": 6, "batch__threads": 3,
  "data__cache_gb": 2.5, "mesh": (1, -1, 1, 1), "checkpoint__every": 13,
  "checkpoint__minutes": 7.5,
  "checkpoint__keep": 5, "log_every": 4, "log__trackers": ("wandb",),
  "profile": (3, 4), "score__windows": 3, "score__samples": 4096,
}  # fmt: skip


def test_sections_reach_their_functions(parts, tmp_path):
  config = config_of("vocoder", "data=SOUNDS,size=tiny", **OWN)
  assert parts.run(config) is True
  assert parts.last("make_mesh").args == ((1, -1, 1, 1),)
  assert parts.last("Sounds") == (
    ("SOUNDS",), {"hold": True, "shortest": 5120, "cache_gb": 2.5},
  )  # fmt: skip
  made = parts.last("WindowBatches").kwargs
  assert made == {"samples": 5120, "rows": list(range(6)), "seed": 11, "threads": 3}
  assert parts.last("Checkpointer") == ((tmp_path / "checkpoints",), {"keep": 5})
  assert parts.last("Profile").args == (tmp_path / "profile", (3, 4))
  told = json.loads(config.to_json_best_effort())
  assert parts.last("open_trackers").args == (("wandb",), tmp_path, told)
  expected = {"start_step": 0, "enabled": True, "trackers": {"wandb": "a run"}}
  assert parts.last("MetricLog") == ((tmp_path, 77), expected)
  loop = parts.last("loop")
  expected = {
    "save_every": 13, "save_minutes": 7.5, "log_every": 4, "total_steps": 77,
    "first_step": 0, "tasks": (),
    "step_of": "step_of", "metadata": {
      "config": json.loads(config.to_json_best_effort()), "kind": "vocoder",
      "sizes": {"size": 3},
    },
    "batches": parts.batches,
  }  # fmt: skip
  assert {k: loop.kwargs[k] for k in expected} == expected
  assert loop.kwargs["work_of"](None) == (6, 0.0)
  start = jax.random.normal(jax.random.key(11), (2,))
  np.testing.assert_allclose(loop.args[0], start, rtol=1e-6)
  kept = json.loads((tmp_path / "config.json").read_text())
  assert kept == json.loads(config.to_json_best_effort())
  assert parts.batches.closed == 1


def test_what_is_scored(parts, tmp_path):
  """score.windows of score.samples, of sounds held out; training's are all there."""
  parts.run(config_of("vocoder", "data=SOUNDS,size=tiny", **OWN))
  ((params, train, held),) = parts.calls["scored"]
  start = np.asarray(jax.random.normal(jax.random.key(11), (2,)))
  np.testing.assert_allclose(params, start + 1, rtol=1e-6)
  assert [int(x[0]) - 4096000 for x in held] == [0, 10, 20]
  assert len(train) == 900 and int(train[8][0]) - 4096000 == 8
  kind, sizes, kept, place, name = parts.last("write_network").args
  assert (kind, sizes, place) == ("vocoder", {"size": 3}, tmp_path / "vocoder")
  assert name == tmp_path.name
  np.testing.assert_allclose(kept["x"], start + 1, rtol=1e-6)
  scores = json.loads((tmp_path / "scores.json").read_text())
  assert scores == {
    "steps": 77, "train_seconds": 123.6, "held_out_seconds": 0.8, "mel_db": 1.5,
  }  # fmt: skip


def test_a_second_folder_is_scored_and_nothing_is_held_out(parts):
  """data.test, and the longer of a window and a score is what a sound must last."""
  own = {**OWN, "score__samples": 6144, "data__test": "TEST"}
  parts.run(config_of("vocoder", "data=SOUNDS,size=tiny", **own))
  first, second = parts.calls["Sounds"]
  options = {"hold": False, "shortest": 6144, "cache_gb": 2.5}
  assert first == (("SOUNDS",), options) and second == (("TEST",), options)


def test_a_run_goes_on(parts):
  parts.restored = (33, jnp.ones(2), "place", {})
  parts.run(config_of("vocoder", "data=SOUNDS,size=tiny", **OWN))
  loop = parts.last("loop")
  assert loop.kwargs["first_step"] == 33 and parts.batches.state == "place"
  assert parts.told("MetricLog", "start_step") == 33
  np.testing.assert_array_equal(loop.args[0], [1, 1])


def test_a_stopped_run_writes_no_result(parts, tmp_path):
  parts.done = False
  assert parts.run(config_of("vocoder", "data=SOUNDS,size=tiny", **OWN)) is False
  assert not parts.calls["write_network"] and not (tmp_path / "scores.json").exists()


def test_the_command(parts, tmp_path, capsys):
  """--config and --workdir; prints the scores, or that it was stopped."""
  config = "--config=configs/vocoder.py:data=SOUNDS,size=tiny,runlocal"
  workdir = f"--workdir={tmp_path}"
  command("train_audio").run(config, workdir, "--config.steps=9")
  assert parts.told("loop", "total_steps") == 9
  assert json.loads(capsys.readouterr().out)["steps"] == 9
  parts.done = False
  command("train_audio").run(config, workdir)
  told = json.loads(capsys.readouterr().out)
  assert told == {"stopped": True, "workdir": str(tmp_path)}
  for missing in (config, workdir):
    with pytest.raises(SystemExit):
      command("train_audio").run(missing)


@pytest.mark.parametrize(
  ("changes", "words"),
  [
    ({"kind": "video-vae"}, "kind 'video-vae'"),
    ({"data__root": ""}, "data=FOLDER"),
    ({"window": 8 * 512 - 512}, "config.window=3584"),
    ({"window": 8 * 512 + 1}, "config.window=4097"),
    ({"score__samples": 5000}, "config.score.samples=5000"),
    ({"batch__size": 0}, "batch.size: got 0"),
  ],
)
def test_mistakes(parts, changes, words):
  config = config_of("vocoder", "data=SOUNDS,size=tiny", **{**OWN, **changes})
  with pytest.raises(UsageError, match=words):
    parts.run(config)
  assert not parts.calls["Sounds"]


def test_the_shortest_window_there_is(parts):
  parts.run(config_of("vocoder", "data=SOUNDS,size=tiny", **{**OWN, "window": 4096}))
  assert parts.told("Sounds", "shortest") == 4096


@pytest.fixture
def vae(monkeypatch):
  """The mel VAE's parts."""
  r, a = Recorder(monkeypatch), audio_training
  statistics = jnp.zeros(80), jnp.ones(80)

  def measure(waves):
    r.calls["waves"].append(list(waves))
    return statistics

  r.replace(a, "measure_bands", measure)
  r.replace(a, "make_optimizer", "optimizer")
  r.replace(a, "make_vae_step", lambda *_, **__: lambda state, batch: (state, {}))
  r.replace(a, "fresh_vae", "state")
  return r


def test_the_vae_is_what_its_config_says(vae):
  """model.hidden; optim.*; loss.*; seed, ema_decay, steps; window of the statistics."""
  config = config_of(
    "audio_vae", model__hidden=12, optim__lr=0.03, optim__warmup_steps=6,
    optim__schedule="constant", optim__b1=0.7, optim__b2=0.8, optim__clip_norm=5.0,
    loss__kl_weight=0.5, loss__modulation_weight=0.25, seed=4, ema_decay=0.75,
    steps=99, window=4608,
  )  # fmt: skip
  task = audio_training.vae_task(config, Heard("SOUNDS"))
  assert task.kind == "audio-vae"
  assert task.sizes == {"bands": 80, "channels": 20, "hidden": 12}
  groups, shapes = vae.last("make_optimizer").args
  assert [(g.pattern, g.lr, g.weight_decay) for g in groups] == [
    ("data_(mean|std)", 0.0, 0.0), (".*", 0.03, 0.0),
  ]  # fmt: skip
  assert shapes["data_mean"].shape == (80,)
  assert vae.last("make_optimizer").kwargs == {
    "warmup_steps": 6, "schedule": "constant", "b1": 0.7, "b2": 0.8, "clip_norm": 5.0,
    "total_steps": 99, "eps": 1e-8, "moment_dtype": "float32",
  }  # fmt: skip
  assert vae.last("make_vae_step") == (
    ("optimizer",),
    {"seed": 4, "ema_decay": 0.75, "kl_weight": 0.5, "modulation_weight": 0.25},
  )
  (waves,) = vae.calls["waves"]
  assert len(waves) == 512 and int(waves[0][0]) == 4608000
  key = jax.random.key(0)
  assert task.fresh(key) == "state"
  assert vae.last("fresh_vae").args[:2] == (key, task.sizes)
  name, _ = task.step_of(None)(0, {})
  assert name == "vae"
  state = SimpleNamespace(params="last", ema="average")
  assert task.result(state) == "average"


@pytest.fixture
def gan(monkeypatch):
  """The vocoder's parts."""
  r, a = Recorder(monkeypatch), audio_training
  r.replace(a, "gan_optimizer", "optimizer")
  r.replace(a, "find_vae", {"vae": jnp.ones(1)})

  def make(*_, adversary, **__):
    return lambda state, batch, vae: (state, {"late": adversary, "vae": vae})

  r.replace(a, "make_vocoder_step", make)
  r.replace(a, "fresh_gan", "state")
  r.replace(a, "join", lambda tree: f"joined {tree}")
  return r


GAN = {
  "model__channels": 24, "model__rates": (4, 4, 4, 4), "model__kernels": (8, 8, 8, 8),
  "model__blocks": ((3, (1, 3)),), "model__bias": False, "model__tanh": False,
  "critic__width": 3, "critic__periods": (2, 3),
  "critic__resolutions": ((256, 60, 240),),
  "optim__lr": 0.03, "optim__decay": 0.9, "optim__warmup_steps": 6, "optim__b1": 0.7,
  "optim__b2": 0.6, "optim__weight_decay": 0.5, "optim__clip_norm": 5.0,
  "loss__spectral_weight": 4.0, "loss__spectral_floor": 1e-3,
  "loss__adversary_from": 5, "vae__path": "VAE", "vae__from_step": 8,
  "ema_decay": 0.75, "window": 4608,
}  # fmt: skip


def test_the_vocoder_is_what_its_config_says(gan):
  """Sizes, optim.*, the spectral loss, ema_decay and window."""
  task = audio_training.vocoder_task(config_of("vocoder", **GAN), Heard("SOUNDS"))
  assert gan.last("gan_optimizer").kwargs == {
    "lr": 0.03, "decay": 0.9, "warmup_steps": 6, "b1": 0.7, "b2": 0.6,
    "weight_decay": 0.5, "clip_norm": 5.0,
  }  # fmt: skip
  task.step_of(None)
  lates = [c.kwargs["adversary"] for c in gan.calls["make_vocoder_step"]]
  assert sorted(lates) == [False, True]
  generator, critic, optimizer = gan.last("make_vocoder_step").args
  options = {k: v for k, v in gan.last("make_vocoder_step").kwargs.items()}
  del options["adversary"]
  assert options == {"ema_decay": 0.75, "spectral_weight": 4.0, "spectral_floor": 1e-3}
  assert optimizer == "optimizer" and generator.bands == 80
  for key in ("channels", "rates", "kernels", "blocks", "bias", "tanh"):
    assert getattr(generator, key) == GAN[f"model__{key}"], key
  for key in ("width", "periods", "resolutions"):
    assert getattr(critic, key) == GAN[f"critic__{key}"], key
  assert task.kind == "vocoder" and task.sizes["channels"] == 24
  key = jax.random.key(0)
  assert task.fresh(key) == "state"
  assert gan.last("fresh_gan").args == (key, generator, critic, 4608, "optimizer")
  state = SimpleNamespace(params="last", ema="average")
  assert task.result(state) == "joined average"


def test_when_terms_and_mels_join(gan):
  """loss.adversary_from, and vae.path from vae.from_step on: the first step of each."""
  choose = audio_training.vocoder_task(
    config_of("vocoder", **GAN), Heard("SOUNDS")
  ).step_of(None)
  assert gan.last("find_vae").args == ("VAE",)
  for number, late, decoded in ((4, False, False), (5, True, False), (7, True, False),
                                (8, True, True)):  # fmt: skip
    name, run = choose(number, {})
    assert name == f"vocoder, adversary {late}, VAE {decoded}"
    _, made = run(jnp.zeros(1), jnp.zeros(1))
    assert bool(made["late"]) is late and (made["vae"] is not None) is decoded
  never = config_of("vocoder", **{**GAN, "loss__adversary_from": -1, "vae__path": ""})
  reads = len(gan.calls["find_vae"])
  choose = audio_training.vocoder_task(never, Heard("SOUNDS")).step_of(None)
  assert choose(99, {})[0] == "vocoder, adversary False, VAE False"
  assert len(gan.calls["find_vae"]) == reads


def test_a_vocoder_of_another_rate(gan):
  """Two frames of mel are one latent of 512 samples: 256 samples a frame."""
  for rates in ((4, 4, 4, 2), (4, 4, 4, 8)):
    config = config_of("vocoder", **{**GAN, "model__rates": rates})
    with pytest.raises(UsageError, match="samples a frame, expected 256"):
      audio_training.vocoder_task(config, Heard("SOUNDS"))


def test_which_vaes_do(monkeypatch, tmp_path):
  """A run's or a converted one, of 80 bands and 20 channels."""
  r, a = Recorder(monkeypatch), audio_training
  r.about = {"kind": "audio-vae", "sizes": {"bands": 80, "channels": 20}}
  r.replace(a, "read_description", lambda _: r.about)
  r.replace(a, "restore_converted", "params")
  r.replace(a.audio_vae, "folded", lambda params: f"folded {params}")
  assert a.find_vae(str(tmp_path)) == "folded params"
  assert r.last("restore_converted").args == (tmp_path,)
  (tmp_path / "audio-vae").mkdir()
  a.find_vae(str(tmp_path))
  assert r.last("restore_converted").args == (tmp_path / "audio-vae",)
  for kind, bands, channels in (("vocoder", 80, 20), ("audio-vae", 128, 20),
                                ("audio-vae", 80, 40)):  # fmt: skip
    r.about = {"kind": kind, "sizes": {"bands": bands, "channels": channels}}
    with pytest.raises(UsageError, match="expected an audio-vae of 80 and 20"):
      a.find_vae(str(tmp_path))


def test_too_little_to_hold_out(monkeypatch):
  monkeypatch.setattr(audio_training, "Sounds", Heard)
  config = config_of("vocoder", "data=SOUNDS,size=tiny")
  train, test = audio_training.open_sounds(config)
  assert train is test and train.options["hold"] is True
  monkeypatch.setattr(audio_training, "Sounds", Unheld)
  with pytest.raises(UsageError, match="too little sound to hold some out"):
    audio_training.open_sounds(config)


def test_another_config_goes_on_only_where_it_is_allowed(
  parts, monkeypatch, tmp_path, capsys
):
  """--allow_changes, after a checkpoint of another learning rate."""
  config = config_of("vocoder", "data=SOUNDS,size=tiny")
  about = {"config": changes.plain(config), "kind": "vocoder"}
  monkeypatch.setattr(changes, "latest_metadata", lambda _: (3, about))
  flags = ["--config=configs/vocoder.py:data=SOUNDS,size=tiny", "--config.optim.lr=0.5",
           f"--workdir={tmp_path}"]  # fmt: skip
  with pytest.raises(SystemExit) as e:
    command("train_audio").run(*flags)
  assert e.value.code == 2
  assert "config.optim.lr: 0.0005 -> 0.5" in capsys.readouterr().err
  assert not parts.calls["loop"] and not list(tmp_path.iterdir())
  parts.done = False
  command("train_audio").run(*flags, "--allow_changes")
  assert "config.optim.lr: 0.0005 -> 0.5" in capsys.readouterr().err
  assert len(parts.calls["loop"]) == 1
