"""Runs of the mel VAE and the vocoder: stopped, killed, resumed, converted, scored."""

import functools
import importlib
import json
import signal
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ccl_jax import convert
from ccl_jax.audio_codec import run
from ccl_jax.audio_codec import scores as codec_scores
from ccl_jax.audio_codec.run import train
from ccl_jax.checkpoints.converted import read_description, restore_converted
from ccl_jax.codecs.bundle import load_codecs
from ccl_jax.data.sources.sounds import WindowBatches
from ccl_jax.errors import UsageError
from ccl_jax.models import audio_vae, mel_codec
from ccl_jax.sharding import make_mesh
from tests.audio_codec import one_draw
from tests.data.sound_files import write

HOP, STEPS = 512, 4


@pytest.fixture(scope="module", autouse=True)
def small_and_shared():
  """One device, clicks as long as the windows, and programs that are shared."""
  patch = pytest.MonkeyPatch()
  one = lambda shape: make_mesh(shape, jax.devices()[:1])
  patch.setattr(run, "make_mesh", one)
  short = functools.partial(codec_scores.clicks, seconds=0.512)
  patch.setattr(codec_scores, "clicks", short)
  patch.setattr(audio_vae, "init_params", one_draw.init_params)
  patch.setattr(run, "make_vae_step", shared_step(run.make_vae_step))
  # Scores are of several ways through the same networks, for sounds of one shape: each
  # network is a program, and not each way.
  for module, name in (
    (run, "mel_of"), (mel_codec, "wave_of_mel"), (codec_scores, "log_mel"),
    (codec_scores, "log_spectral_distance"),
  ):  # fmt: skip
    patch.setattr(module, name, jax.jit(getattr(module, name)))
  patch.setattr(run, "synthesize", jax.jit(run.synthesize, static_argnums=0))
  by_parts = lambda way: lambda wave: way(jnp.asarray(wave))
  patch.setattr(codec_scores, "jax", types.SimpleNamespace(jit=by_parts))
  yield
  patch.undo()


def shared_step(make):
  """Runs of the same losses have one step, and so one optimizer: their rate is constant
  and does not depend on when they end.
  """
  steps = {}

  @functools.wraps(make)
  def shared(optimizer, **options):
    key = tuple(sorted(options.items()))
    if key not in steps:
      steps[key] = make(optimizer, **options)
    return steps[key]

  return shared


@pytest.fixture(scope="module")
def data(tmp_path_factory):
  root = tmp_path_factory.mktemp("sounds")
  for i in range(3):
    write(root / f"{i}.wav", 40_000, seed=i)
  return root


def config_of(name, data, **changes):
  module = importlib.import_module(f"configs.{name}")
  config = module.get_config(f"data={data},runlocal")
  config.update_from_flattened_dict({"score.windows": 2} | changes)
  return config


def of_vae(data, **changes):
  """At a constant rate: the end of a run that is stopped may be told later."""
  options = {"model.hidden": 4, "batch.size": 2, "optim.schedule": "constant"}
  return config_of("audio_vae", data, **options | changes)


def metrics(workdir):
  lines = (workdir / "metrics.jsonl").read_text().splitlines()
  rows = [json.loads(line) for line in lines]
  return [(r["step"], r["loss"], r["grad_norm"]) for r in rows]


def prints(workdir, step=STEPS):
  meta = workdir / f"checkpoints/{step}/meta/metadata"
  return {
    k: v["fingerprint"] for k, v in json.loads(meta.read_text())["leaves"].items()
  }


@pytest.fixture(scope="module")
def vae_run(data, tmp_path_factory):
  workdir = tmp_path_factory.mktemp("runs") / "vae"
  assert train(of_vae(data), workdir)
  return workdir


@pytest.fixture(scope="module")
def vocoder_run(data, vae_run):
  workdir = vae_run.parent / "vocoder"
  changes = {"vae.path": str(vae_run), "vae.from_step": 3, "batch.size": 2}
  changes |= {"loss.adversary_from": 3, "model.channels": 8}
  changes |= {"model.rates": (16, 16), "model.kernels": (32, 32)}
  assert train(config_of("vocoder", data, **changes), workdir)
  return workdir


def test_a_run_leaves_the_network_and_its_scores(vae_run):
  about = read_description(vae_run / "audio-vae")
  assert about["sizes"] == {"bands": 80, "channels": 20, "hidden": 4}
  assert about["licence"].startswith("your own training")
  scores = json.loads((vae_run / "scores.json").read_text())
  for key in ("mel_db/vae", "mel_db/linear", "lsd_db/linear", "latent_std"):
    assert np.isfinite(scores[key]) and scores[key] > 0
  params = restore_converted(vae_run / "audio-vae")
  assert not np.allclose(params["data_std"], 1) and (params["data_mean"] < 0).all()
  kept = prints(vae_run)
  assert {path.split("/")[0] for path in kept} == {
    "step", "params", "opt_state", "ema"
  }  # fmt: skip


class Killed(Exception):
  pass


def at_batch(monkeypatch, number, event):
  """Calls `event` when the batch of that number is asked for."""
  real = WindowBatches.__next__

  def next_(self):
    if self.get_state()["next_batch"] == number:
      event()
    return real(self)

  monkeypatch.setattr(WindowBatches, "__next__", next_)


def killed():
  raise Killed


def test_a_disturbed_run_ends_as_an_undisturbed_one(
  data, vae_run, tmp_path, monkeypatch
):
  """Finished early and told to go on; killed, nothing saved since; asked to stop."""
  sha = lambda workdir: read_description(workdir / "audio-vae")["source"]["sha256"]
  with monkeypatch.context() as patch:
    # What an early end scores is written over at the late one.
    for name in ("score_mels", "score_waves"):
      patch.setattr(codec_scores, name, lambda *_: {})
    assert train(of_vae(data, steps=2), tmp_path)
  early = sha(tmp_path)
  with monkeypatch.context() as patch:
    at_batch(patch, 3, killed)
    with pytest.raises(Killed):
      train(of_vae(data), tmp_path)
  assert sorted(p.name for p in (tmp_path / "checkpoints").iterdir()) == ["2"]
  with monkeypatch.context() as patch:
    at_batch(patch, 2, lambda: signal.raise_signal(signal.SIGTERM))
    assert not train(of_vae(data), tmp_path)
  assert (tmp_path / "checkpoints/3").is_dir() and sha(tmp_path) == early
  assert train(of_vae(data), tmp_path)
  assert metrics(tmp_path) == metrics(vae_run) and prints(tmp_path) == prints(vae_run)
  assert sha(tmp_path) == sha(vae_run) != early
  assert (tmp_path / "scores.json").read_text() == (vae_run / "scores.json").read_text()
  assert not [p for p in tmp_path.iterdir() if p.name.startswith(".")]


def test_terms_join_when_their_step_comes(vocoder_run):
  lines = (vocoder_run / "metrics.jsonl").read_text().splitlines()
  rows = [json.loads(line) for line in lines]
  assert ["loss/critic" in row for row in rows] == [False, False, False, True]
  about = read_description(vocoder_run / "vocoder")
  assert about["kind"] == "vocoder" and about["sizes"]["channels"] == 8


def test_scores_of_the_pair(vocoder_run):
  scores = json.loads((vocoder_run / "scores.json").read_text())
  names = ("codec", "vocoder", "griffin_lim", "vae_griffin_lim", "linear")
  for name in names:
    for key in ("lsd_db", "mel_db", "click_ms_median", "click_ms_max"):
      assert scores[f"{key}/{name}"] >= 0
  # What is lost by Griffin-Lim alone, and clicks that are heard where they were.
  assert scores["mel_db/griffin_lim"] < scores["mel_db/linear"]
  assert scores["click_ms_median/griffin_lim"] < 1


@pytest.fixture(scope="module")
def codec(vae_run, vocoder_run):
  """By the bundle that `convert codecs` makes of both."""
  bundle = vae_run.parent / "codecs"
  folders = [str(vae_run / "audio-vae"), str(vocoder_run / "vocoder")]
  convert.main(["codecs", "--audio", *folders, "--dst", str(bundle)])
  return load_codecs(bundle).audio


through = jax.jit(lambda codec, wave: codec.decode(codec.encode(wave)))


def test_the_bundle_is_the_two_results(codec, vae_run):
  kept = restore_converted(vae_run / "audio-vae")
  jax.tree.map(np.testing.assert_array_equal, codec.vae, kept)
  wave = jnp.asarray(
    0.1 * np.random.default_rng(0).standard_normal((2, 16 * HOP)), "f4"
  )
  assert codec.encode(wave).shape == (2, 16, 20)
  back = through(codec, wave)
  assert back.shape == wave.shape and np.isfinite(back).all()


@pytest.mark.parametrize("latents", [32, 33, 157, 1875])  # 1.02 s to 60 s
def test_length_is_kept(codec, latents):
  wave = jax.ShapeDtypeStruct((1, latents * HOP), jnp.float32)
  assert jax.eval_shape(through, codec, wave).shape == wave.shape


def test_what_is_later_comes_back_later(codec):
  """By exactly as much, whatever the weights: of a sound in silence."""
  rng = np.random.default_rng(1)
  wave = np.zeros((3, 96 * HOP), np.float32)
  sound, delays = 0.3 * rng.standard_normal(4 * HOP), (0, 3, 16)
  for row, delay in zip(wave, delays):
    row[(32 + delay) * HOP : (36 + delay) * HOP] = sound
  back = np.asarray(through(codec, jnp.asarray(wave)))
  near = [row[(24 + d) * HOP : (48 + d) * HOP] for row, d in zip(back, delays)]
  assert near[0].std() > 0
  for other in near[1:]:
    assert np.abs(other - near[0]).max() < 1e-3 * np.abs(near[0]).max()


def test_mistakes_of_a_config(data, tmp_path, monkeypatch):
  monkeypatch.setattr(run, "make_mesh", make_mesh)  # of eight devices

  def message(config):
    with pytest.raises(UsageError) as e:
      train(config, tmp_path)
    assert "\n" not in str(e.value)
    return str(e.value)

  assert "expected whole latents" in message(of_vae(data, window=5000))
  assert "multiple of 8" in message(of_vae(data, **{"batch.size": 12}))
  vocoder = lambda **changes: config_of("vocoder", data, **{"batch.size": 8} | changes)
  assert "nowhere" in message(vocoder(**{"vae.path": "nowhere"}))
  wrong = {"model.rates": (4, 4), "model.kernels": (8, 8)}
  assert "got 16 samples a frame, expected 256" in message(vocoder(**wrong))
  assert not (tmp_path / "checkpoints").exists()
