"""What each metric is told of a clip, what its protocol says, where weights are."""

import dataclasses
import hashlib

import numpy as np
import pytest

from ccl_jax.errors import UsageError
from ccl_jax.metrics import (
  aesthetics,
  av_align,
  desync,
  fad,
  films,
  fvd,
  imagebind_score,
  lipsync,
  talking_scene,
)
from ccl_jax.metrics import registry as scoring
from ccl_jax.metrics.base import Unscorable
from ccl_jax.metrics.clip import Clip
from ccl_jax.metrics.registry import BUILDERS, Folders, Options, build_metrics
from ccl_jax.metrics.speech import reference_text, sound_scorer, transcript_scorer


class Shown:
  """A clip that answers with the name of what it was asked for."""

  fields, name, fps, seconds = {"prompt": "p"}, "a", 12.5, 7.5

  def check(self, needs):
    self.needs = needs

  def frames(self, fps=None):
    return Frames(fps)

  def sound(self, rate):
    return "mono", rate

  def first_channel(self, rate):
    return "left", rate

  def integers(self, rate):
    return "integers", rate


class Frames:
  def __init__(self, fps, stop=None):
    self.fps, self.stop = fps, stop

  def __getitem__(self, part):
    return Frames(self.fps, part.stop)

  def __eq__(self, other):
    return (self.fps, self.stop) == other


@pytest.fixture
def weights(tmp_path, monkeypatch):
  """A folder of files that are their names, and networks likewise."""
  for name in scoring.RELEASED:
    (tmp_path / f"{name}.bin").write_text(name)
  named = lambda kind, path: path.name if path.stem == kind else "another"
  monkeypatch.setattr("ccl_jax.weights.load.load_network", named)
  scoring._sha256.cache_clear()
  yield tmp_path
  scoring._sha256.cache_clear()


LISTENERS = {
  "sync": (lipsync, "score", (25, None), ("integers", 16000)),
  "desync": (desync, "score", (25, None), ("mono", 16000), "synchformer.bin"),
  "ib": (imagebind_score, "score", (0.5, None), ("left", 16000), "imagebind.bin"),
  "aesthetics": (aesthetics, "score", ("mono", 16000), "aesthetics.bin"),
  "av_align": (av_align, "score", (None, None), 12.5, ("mono", 22050), 22050),
  "film": (films, "score", (None, None), ("mono", 16000), 12.5),
  "talking": (talking_scene, "score", (None, None), ("mono", 16000), "p", 12.5),
  "fad": (fad, "features", ("mono", 16000), "vggish.bin"),
  "fvd": (fvd, "features", (None, None), "i3d.bin"),
}
SOUND, PICTURE = {"sound"}, {"picture"}
NEEDS = {"aesthetics": SOUND, "fad": SOUND, "fvd": PICTURE, "wer": SOUND}


@pytest.mark.parametrize("name", LISTENERS)
def test_what_a_metric_sees_and_hears(weights, monkeypatch, name):
  """Its frame rate, its sound's rate and channels, and the network that it loads."""
  module, function, *expected = LISTENERS[name]
  told = []

  def score(*args, **more):
    told.extend([*args, *more.values()])
    return np.zeros(3) if function == "features" else {"x": 1}

  monkeypatch.setattr(module, function, score)
  ((metric,), skipped) = build_metrics([name], [weights], Options())
  clip = Shown()
  got = metric.score(clip)
  assert not skipped and clip.needs == NEEDS.get(name, SOUND | PICTURE)
  more = {
    "sync": [lipsync.SyncNets("s3fd.bin", "syncnet.bin"), lipsync.SyncProtocol()],
    "ib": [7.5],
  }
  assert told == [*expected, *more.get(name, [])]
  if name == "fvd":  # a row, as of one film
    assert got["features"].shape == (1, 3)
  hashes = metric.protocol.get("weights", {})
  for network, sha in hashes.items():
    assert sha == hashlib.sha256(network.encode()).hexdigest()
  networks = {"sync": {"s3fd", "syncnet"}, "desync": {"synchformer"}, "fvd": {"i3d"}}
  networks |= {"ib": {"imagebind"}, "fad": {"vggish"}, "aesthetics": {"aesthetics"}}
  assert hashes.keys() == networks.get(name, set())


def test_what_is_asked_for_is_in_the_protocol(weights):
  options = Options(sync_scale=0.5, min_track=20, min_face_size=60, fvd_frames=16)
  (sync, fvd_), _ = build_metrics(["sync", "fvd"], [weights], options)
  assert sync.protocol.items() >= {
    "scale": 0.5, "min_track": 20, "min_face_size": 60, "confidence": 0.9,
    "max_gap": 25, "vshift": 15, "fps": 25,
  }.items()  # fmt: skip
  assert fvd_.protocol["frames"] == 16
  (whole,), _ = build_metrics(["fvd"], [weights], Options())
  assert whole.protocol["frames"] == "all"
  assert dataclasses.astuple(Options()) == (0.25, 50, 100, "transformers", None, None)


def test_only_the_first_frames_are_seen_where_so_many_are_asked_for(
  weights, monkeypatch
):
  seen = []
  monkeypatch.setattr(fvd, "features", lambda x, net: seen.append(x) or np.zeros(2))
  (metric,), _ = build_metrics(["fvd"], [weights], Options(fvd_frames=16))
  metric.score(Shown())
  assert seen == [(None, 16)]


def test_words_hang_on_the_manifest_and_on_who_heard_them(weights):
  pytest.importorskip("whisper_normalizer")
  (heard,), _ = build_metrics(["wer"], [weights], Options())
  (given,), _ = build_metrics(["wer"], [], Options(transcripts={"a": "good day"}))
  assert heard.needs == {"sound"} and given.needs == frozenset()
  assert heard.fields == ("prompt", "transcript", "language")
  assert given.fields == (*heard.fields, "hypothesis")
  assert heard.protocol["recogniser"].startswith("transformers ")
  assert "weights" in heard.protocol and "weights" not in given.protocol
  clip = Clip("a.mp4", "a", {"prompt": 'says "good night"'}, frozenset())
  got = given.score(clip)
  assert (got["reference"], got["hypothesis"], got["wer"]) == (
    "good night", "good day", 0.5
  )  # fmt: skip
  clip.name = "b"
  with pytest.raises(Unscorable, match="no transcript of b is given"):
    given.score(clip)


def test_a_transcript_that_is_empty_is_one():
  assert reference_text({"transcript": "", "prompt": 'says "yes"'}) == ""
  assert reference_text({"transcript": None, "prompt": 'says "yes"'}) == "yes"
  assert reference_text({"transcript": "no", "prompt": 'says "yes"'}) == "no"
  for nothing in ({}, {"prompt": ""}):
    with pytest.raises(Unscorable, match="neither a transcript nor a prompt"):
      reference_text(nothing)


def test_the_recogniser_hears_16_khz_in_the_clips_language(monkeypatch):
  pytest.importorskip("whisper_normalizer")
  asked = []

  class Ear:
    def __call__(self, wave, language):
      asked.append((wave.tolist(), language))
      return "你坏"

  monkeypatch.setattr(Clip, "sound", lambda self, rate: np.array([float(rate)], "f4"))
  clip = Clip("a.mp4", "a", {"transcript": "你好", "language": "zh-CN"})
  got = sound_scorer(Ear())(clip)
  assert asked == [([16000.0], "zh")]
  assert got["cer"] == 0.5 and got["cer_errors"] == 1 and got["cer_words"] == 2
  assert (got["substitutions"], got["deletions"], got["insertions"]) == (1, 0, 0)
  assert "words" not in got and "wer" not in got
  english = Clip("a.mp4", "a", {"transcript": "good day"})
  got = transcript_scorer({"a": "x good day"})(english)
  assert got["insertions"] == 1 and got["wer"] == 0.5 and got["language"] == "en"


def test_where_weights_are(tmp_path):
  folder = Folders([tmp_path])
  with pytest.raises(Unscorable, match=r"missing weights of s3fd: not in .*sfd_face"):
    folder.find("s3fd")
  with pytest.raises(Unscorable, match="no --weights given"):
    Folders().find("s3fd")
  released = tmp_path / "sfd_face.pth"
  released.touch()
  assert folder.find("s3fd") == released
  (tmp_path / "s3fd-619a316812.pth").touch()
  with pytest.raises(Unscorable, match="several weights of s3fd: s3fd-.*, sfd_face"):
    folder.find("s3fd")
  (tmp_path / "s3fd").mkdir()  # called as the network is: that is meant
  assert folder.find("s3fd") == tmp_path / "s3fd"
  (tmp_path / "s3fd/checkpoints").mkdir()
  with pytest.raises(Unscorable, match="what ccl_jax.convert made of s3fd"):
    folder.find("s3fd")
  with pytest.raises(UsageError, match="no folder"):
    Folders([tmp_path / "none"])


def test_what_cannot_run_is_told_and_what_is_unknown_is_a_mistake(tmp_path):
  metrics, skipped = build_metrics(["film", "ib"], [tmp_path], Options())
  assert [m.name for m in metrics] == ["film"] and list(skipped) == ["ib"]
  assert skipped["ib"].startswith("missing weights of imagebind")
  with pytest.raises(UsageError, match="unknown metric 'dance'; expected sync, desync"):
    build_metrics(["dance"], [], Options())
  built = {n: BUILDERS[n] for n in ("film", "talking")}
  for name, builder in built.items():
    assert builder(Folders(), Options()).name == name
