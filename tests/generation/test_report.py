"""A report: which clips it asks for, what attention it measures, and its table."""

import json
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from ccl_jax.data.spec import ClipSpec
from ccl_jax.errors import UsageError
from ccl_jax.generation import report
from ccl_jax.generation.attention_panel import attention
from ccl_jax.generation.sampling import Sampling
from tests.generation.standins import CODECS
from tests.stubs import recording

SPEC = ClipSpec(9, 32, 48, 25.0)  # 3 x 4 x 6 latents in 2 x 3 patches, 11 tokens


def config(**changes):
  c = ConfigDict(
    {
      "seed": 13,
      "objective": {"shift": 2.5},
      "data": {"source": "talking_scene", "root": "", "options": {"n_test": 4}},
      "report": {
        "tasks": ("joint", "a2v"), "clips": 3, "show": 2, "steps": 6,
        "guidance": "ucg3", "scales": {"video": (4.5, 2.5), "audio": ()},
      },
    }
  )  # fmt: skip
  c.update(changes)
  return c


def clips(n=3, **more):
  """Clip i has pixels 10 i + frame, sound i / 10."""
  frames = np.arange(9, dtype=np.uint8)[:, None, None, None]
  return [
    {
      "video": np.broadcast_to(10 * i + frames, (9, 32, 48, 3)).copy(),
      "audio": np.full(11 * 512, i / 10, np.float32),
      "text": f"clip {i}",
    }
    | {k: v[i] for k, v in more.items()}
    for i in range(n)
  ]


class Recorder:
  """Stands for a pipeline: keeps what it is asked for, gives clips of nines."""

  def __init__(self, **options):
    self.model, self.spec, self.codecs = recording(None, **options)[0], SPEC, CODECS
    self.params, self.calls, self.takes_channels = {}, [], False
    self.negative = {"video": "dim", "audio": ""}
    self.origin = {"step": 7, "fingerprints": {"params": "Pa", "codecs": "Co"}}

  def generate(self, task, prompts, **options):
    self.calls.append((task, prompts, options))
    n = len(prompts)
    made = {
      "video": np.full((n, 9, 32, 48, 3), 9, np.uint8),
      "audio": np.full((n, 11 * 512), 0.9, np.float32),
    }
    return {k: v for k, v in made.items() if k not in options}


@pytest.mark.parametrize("task", ["joint", "ti2av", "a2v", "v2a"])
def test_a_task_is_given_what_the_real_clips_have(task):
  pipeline, real = Recorder(), clips()
  made = report.generate(config(), pipeline, task, real)
  ((asked, prompts, options),) = pipeline.calls
  assert (asked, prompts) == (task, ["clip 0", "clip 1", "clip 2"])
  assert options.pop("seed") == 13
  assert options.pop("negative") == pipeline.negative
  assert options.pop("sampling") == Sampling(
    guidance="ucg3",
    scales={"video": {"s_m": 4.5, "s_t": 2.5}},  # the sound's are the form's own
    steps=6,
    shift=2.5,
  )
  given = {"a2v": ["audio"], "v2a": ["video"], "ti2av": ["image"]}.get(task, [])
  assert list(options) == given
  for i, clip in enumerate(made):
    assert clip["text"] == f"clip {i}"
    video = real[i]["video"] if task == "v2a" else np.full((9, 32, 48, 3), 9)
    audio = real[i]["audio"] if task == "a2v" else np.float32(0.9)
    np.testing.assert_array_equal(clip["video"], video)
    assert (clip["audio"] == audio).all()
    if task == "ti2av":
      np.testing.assert_array_equal(options["image"][i], 10 * i)  # frame 0
    if task == "a2v":
      np.testing.assert_array_equal(options["audio"][i], real[i]["audio"])


@pytest.mark.parametrize("task", ["joint", "ti2av", "a2v", "v2a"])
@pytest.mark.parametrize("form", ["ucg2_null", "sync", "ucg2"])
def test_a_still_is_of_another_clip_where_none_is_known(task, form):
  """Only joint has neither a first frame nor a film; a2v is anchored on silence."""
  pipeline, c = Recorder(), config()
  c.report.guidance, c.report.scales = form, {"video": (2.0,), "audio": (2.0,)}
  report.generate(c, pipeline, task, clips())
  ((_, _, options),) = pipeline.calls
  if task == "joint" and form != "ucg2":
    assert options["still"].shape == (3, 32, 48, 3)
    assert options["still"][:, 0, 0, 0].tolist() == [20, 0, 10]  # first frames
  else:
    assert "still" not in options


def test_held_out_clips_are_of_the_test_split(monkeypatch, tmp_path):
  opened = []

  def source(kind, spec, root, split, **options):
    opened.append((kind, spec, root, split, options))
    return [
      {"text": b"b\xc3\xa4h"},
      {"text": "two"},
      {"text": "three"},
      {"text": "four"},
    ]

  monkeypatch.setattr(report, "open_source", source)
  got = report.held_out(config(), SPEC, tmp_path)
  assert [c["text"] for c in got] == ["bäh", "two", "three"]
  assert opened[0] == ("talking_scene", SPEC, tmp_path / "data", "test", {"n_test": 4})
  c = config()
  c.data.update({"source": "folder", "root": "films"})
  c.report.clips = 9
  assert len(report.held_out(c, SPEC, tmp_path)) == 4
  assert opened[1][:4] == ("folder", SPEC, "films", "train")  # it has no other


def test_through_codecs_is_what_they_can_say():
  """Of these codecs: the corner of every 8 x 8 x 4 patch, the first of 512 samples."""
  rng = np.random.default_rng(0)
  real = clips()
  for clip in real:
    clip["video"] = rng.integers(0, 256, clip["video"].shape, np.uint8)
    clip["audio"] = rng.uniform(-1, 1, clip["audio"].shape).astype(np.float32)
  made = report.through_codecs(Recorder(), real)
  for a, b in zip(real, made, strict=True):
    assert b["text"] == a["text"] and b["video"].dtype == np.uint8
    corner = a["video"][::4, ::8, ::8, :1]
    np.testing.assert_array_equal(b["video"][::4, 3::8, 5::8, :1], corner)
    np.testing.assert_allclose(b["audio"][7::512], a["audio"][::512], atol=1e-6)


def test_attention_on_context_tokens_by_hand(monkeypatch, tmp_path):
  """At timestep 500 half data and half noise, both streams reading each other. Shares
  are means over depth, then over where the mask is and is not.
  """
  pipeline, told, drawn = Recorder(), [], []
  rng = np.random.default_rng(1)
  to_video = rng.uniform(size=(2, 3, 3, 6)).astype(np.float32)  # depth b t s
  to_audio = rng.uniform(size=(2, 3, 11, 1)).astype(np.float32)

  def apply(variables, latents, timesteps, text, route, *, mutable):
    told.append((latents, timesteps, text, route))
    assert mutable == ["intermediates"]
    shares = {"audio_to_video": to_video, "video_to_audio": to_audio}
    blocks = {k: {"context_share": (jnp.asarray(v),)} for k, v in shares.items()}
    return {}, {"intermediates": {"blocks": blocks}}

  object.__setattr__(pipeline.model, "apply", apply)
  panel = lambda *args: drawn.append(args)
  monkeypatch.setattr(report.panels, "attention_panel", panel)
  # By pixel of the latent: a token is in it where any of its four is.
  pixels = np.zeros((3, 3, 4, 6), int)
  pixels[:, :, ::2, 1::2] = rng.integers(0, 2, (3, 3, 2, 3))
  video_mask = pixels[:, :, ::2, 1::2]
  audio_mask = rng.integers(0, 2, (3, 11))
  real = clips(video_mask=pixels, audio_mask=audio_mask)
  with jax.disable_jit():
    scores = attention(pipeline, real, tmp_path / "x.png")
  ((latents, timesteps, text, route),) = told
  assert route.reads == {"video": True, "audio": True} and not route.detached
  np.testing.assert_array_equal(timesteps["video"], [[500.0]] * 3)
  np.testing.assert_array_equal(timesteps["audio"], [[500.0]] * 3)
  np.testing.assert_array_equal(text[:, 0, 0], ord("c"))
  # Sound i / 10 is the latent i / 10 + 1/8, of which half is left, and half of noise.
  noise = 2 * np.asarray(latents["audio"]) - (np.arange(3) / 10 + 0.125)[:, None, None]
  assert abs(noise.mean()) < 5 / noise.size**0.5
  np.testing.assert_allclose(noise.std(), 1, rtol=5 / (2 * noise.size) ** 0.5)
  maps = to_video.astype(float).mean(0).reshape(3, 3, 2, 3)
  sound = to_audio.astype(float).mean(0)[..., 0]
  np.testing.assert_allclose(scores["video"], maps.mean(), rtol=1e-5)
  np.testing.assert_allclose(scores["audio"], sound.mean(), rtol=1e-5)
  contrast = {
    "video": (maps[video_mask == 1].mean(), maps[video_mask == 0].mean()),
    "audio": (sound[audio_mask == 1].mean(), sound[audio_mask == 0].mean()),
  }
  for s, pair in contrast.items():
    np.testing.assert_allclose(scores["foreground_background"][s], pair, rtol=1e-5)
  ((path, frames, first_map, first_sound, groups),) = drawn
  assert path == tmp_path / "x.png" and groups == scores["foreground_background"]
  np.testing.assert_array_equal(frames[:, 0, 0, 0], [0, 4, 8])  # behind latent frames
  np.testing.assert_allclose(first_map, maps[0], rtol=1e-5)
  np.testing.assert_allclose(first_sound, sound[0], rtol=1e-5)
  with jax.disable_jit():  # clips without masks have no such pair
    plain = attention(pipeline, clips(), tmp_path / "x.png")
  assert plain["foreground_background"] is None


def test_a_set_is_scored_as_talkers_where_captions_name_one(monkeypatch):
  scored = lambda clips, fps, rng, given: {"talkers": (fps, given)}
  monkeypatch.setattr(report, "score_set", scored)
  kinds = lambda clips, fps, rng, given: {"all": {"given": fps}, "small": given}
  monkeypatch.setattr(report, "score_kinds", kinds)
  monkeypatch.setattr(report, "film_scores", lambda clips, fps: {"films": fps})
  talking = 'a red face on the left says "ba do"'
  texts = lambda *t: [{"text": x} for x in t]
  assert report.score(texts("a dog", talking), 24.0) == {"talkers": (24.0, ())}
  got = report.score(texts(talking), 24.0, ("audio",))
  assert got == {"talkers": (24.0, ("audio",))}
  bench = [{"text": talking, "kind": "small"}]
  got = report.score(bench, 24.0, ("video",))
  assert got == {"given": 24.0, "kinds": {"small": ("video",)}}
  assert report.score(texts("a dog", "a cat"), 25.0) == {"films": 25.0}


def test_the_table_has_each_score_beside_its_chance():
  row = lambda mean, sem: {"mean": mean, "sem": sem, "n": 3}
  scores = {
    "real": {
      "given": {"sync_r0": row(0.81234, 0.0125), "ser": row(0.5, 0.25)},
      "chance": {"sync_r0": row(0.1, 0.3)},
    },
    "attention": {"video": 0.5},
  }
  lines = report.table(scores).splitlines()
  assert lines[0].split() == ["sync_r0", "sync_lag_ms", "event_f1", "ser"]
  assert len(lines) == 3 and lines[1].startswith("real  ")
  assert lines[1].split() == [
    "real", "0.812", "+-", "0.013", "(0.100)", "-", "-", "0.500", "+-", "0.250", "(nan)"
  ]  # fmt: skip
  assert lines[0].index("sync_r0") + len("sync_r0") == lines[1].index("(0.100)") + 7
  assert lines[2] == "mean +- standard error (chance)"


@pytest.fixture
def whole(monkeypatch, tmp_path):
  """`run(config)`: a report with stand-ins for all that is slow; `drawn`, `films`."""
  r = SimpleNamespace(drawn=[], films=[], scored=[], given=[], pipeline=Recorder())
  monkeypatch.setattr(report, "load_model", lambda folder: r.pipeline)
  monkeypatch.setattr(report, "held_out", lambda *_: clips())
  monkeypatch.setattr(report, "through_codecs", lambda _, made: made[::-1])
  monkeypatch.setattr(report, "attention", lambda *_: {"video": 0.25})

  def score(made, fps, given):
    r.scored.append(len(made))
    r.given.append(given)
    return {"given": {}, "chance": {}}

  monkeypatch.setattr(report, "score", score)
  monkeypatch.setattr(
    report, "write_mp4", lambda path, v, fps, a: r.films.append((path, v, fps, a))
  )
  monkeypatch.setattr(report.panels, "loss_curves", lambda p, x: r.drawn.append(x))
  monkeypatch.setattr(report.panels, "contact_sheet", lambda *x: r.drawn.append(x))
  (tmp_path / "metrics.jsonl").write_text('{"step": 1}\n{"step": 2}\n')
  r.run = lambda c=None, out=None: report.report(c or config(), tmp_path, out)
  return r


NAMES = ["real", "real, through the codecs", "joint", "a2v"]


@pytest.mark.parametrize("variant", ["context", "gate"])
def test_a_report_writes_clips_scores_and_panels(whole, tmp_path, variant):
  whole.pipeline = Recorder(variant=variant)
  c = config()
  c.report.guidance = "ucg3" if variant == "context" else "multimodal"
  scores = whole.run(c)
  drawn = whole.drawn
  assert drawn[0] == [{"step": 1}, {"step": 2}]
  assert list(scores)[:4] == NAMES
  assert scores.get("attention") == ({"video": 0.25} if variant == "context" else None)
  assert json.loads((tmp_path / "report/scores.json").read_text()) == scores
  sheets = [
    (path.name, len(made), titles, seconds) for path, made, titles, seconds in drawn[1:]
  ]
  two, length = ["clip 0", "clip 1"], [9 / 25] * 2
  assert sheets == [
    ("real.png", 2, two, length),
    ("real_through_the_codecs.png", 2, ["clip 2", "clip 1"], length),
    ("joint.png", 2, two, length),
    ("a2v.png", 2, two, length),
  ]
  assert [path.name for path, *_ in whole.films] == [
    "joint_0.mp4", "joint_1.mp4", "a2v_0.mp4", "a2v_1.mp4"
  ]  # fmt: skip
  assert all(fps == 25.0 for _, _, fps, _ in whole.films)
  assert whole.given == [(), (), (), ("audio",)]
  np.testing.assert_array_equal(whole.films[3][3], np.float32(0.1))  # the given sound


def other_config(**report):
  c = config()
  c.report.update(report)
  return c


def test_no_report_takes_the_place_of_another(whole, tmp_path):
  """The same one is left as it is; another is beside it, or an error."""
  first = whole.run()
  made = len(whole.pipeline.calls)
  assert whole.run() == first and len(whole.pipeline.calls) == made
  told = (tmp_path / "report/settings.json").read_text()
  others = [
    other_config(guidance="ucg2", scales={"video": (), "audio": ()}),
    other_config(scales={"video": (4.5, 2.0), "audio": ()}),
    config(seed=14),
  ]
  for n, c in enumerate(others, 2):
    whole.run(c)
    made += 2
    assert len(whole.pipeline.calls) == made
    assert (tmp_path / f"report_{n}/scores.json").is_file()
  whole.run(others[1])  # finds its own again
  assert len(whole.pipeline.calls) == made and not (tmp_path / "report_5").exists()
  whole.pipeline.origin["step"] = 8  # of another checkpoint
  whole.run()
  assert (tmp_path / "report_5/scores.json").is_file()
  assert (tmp_path / "report/settings.json").read_text() == told


def test_a_named_folder_of_another_report_is_an_error(whole, tmp_path):
  out = tmp_path / "mine"
  out.mkdir()  # empty, it is nobody's
  whole.run(out=out)
  assert (out / "scores.json").is_file() and not (tmp_path / "report").exists()
  with pytest.raises(
    UsageError, match="mine has another report .steps: 6 there, 5 here"
  ):
    whole.run(other_config(steps=5), out)
  (out / "settings.json").unlink()  # as reports were before they said it
  with pytest.raises(UsageError, match="without settings.json"):
    whole.run(out=out)


def test_a_report_that_was_stopped_goes_on_where_it_was(whole, monkeypatch, tmp_path):
  generate = whole.pipeline.generate

  def stopped(task, *args, **options):
    if task == "a2v":
      raise KeyboardInterrupt
    return generate(task, *args, **options)

  monkeypatch.setattr(whole.pipeline, "generate", stopped)
  with pytest.raises(KeyboardInterrupt):
    whole.run()
  kept = json.loads((tmp_path / "report/scores.json").read_text())
  assert list(kept) == NAMES[:3]
  monkeypatch.setattr(whole.pipeline, "generate", generate)
  assert list(whole.run()) == [*NAMES, "attention"]
  assert [task for task, _, _ in whole.pipeline.calls] == ["joint", "a2v"]
  assert len(whole.scored) == 4 and not list(tmp_path.rglob("*.part"))


def test_a_run_on_latents_has_no_films_to_show(tmp_path):
  c = config()
  c.data.source = "records"
  with pytest.raises(UsageError, match="expected films"):
    report.held_out(c, SPEC, tmp_path)
