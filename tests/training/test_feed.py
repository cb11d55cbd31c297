"""A run's codecs: which it takes, what is fitted, and when they are not the run's."""

import pathlib
import types

import numpy as np
import pytest

from ccl_jax.codecs.bundle import (
  Codecs,
  fingerprints,
  load_codecs,
  require_same,
  save_codecs,
)
from ccl_jax.codecs.embedded import fit_codecs
from ccl_jax.errors import UsageError
from ccl_jax.training.feed import open_codecs


def clips(seed=0):
  rng = np.random.default_rng(seed)
  return [
    {
      "video": rng.integers(0, 255, (9, 16, 16, 3), np.uint8),
      "audio": 0.1 * rng.standard_normal(5120).astype(np.float32),
    }
    for _ in range(3)
  ]


def config(path="", init=""):
  codec = {"path": path, "fit_clips": 3, "text_length": 16, "text_dim": 16}
  return types.SimpleNamespace(codec=types.SimpleNamespace(**codec), init=init, seed=0)


@pytest.fixture(scope="module")
def whole():
  return fit_codecs(clips(), text_length=16, text_dim=16)


@pytest.mark.parametrize("lacking", ["video", "audio"])
def test_latents_need_only_the_codecs_they_were_made_by(tmp_path, whole, lacking):
  """There are no clips to fit the others to."""
  save_codecs(whole._replace(**{lacking: None}), tmp_path / "set")
  path = str(tmp_path / "set")
  codecs = open_codecs(config(), tmp_path / "run", path=path)
  assert getattr(codecs, lacking) is None and codecs.text is not None
  again = open_codecs(config(path="/none"), tmp_path / "run", path=path)
  assert fingerprints(again) == fingerprints(codecs)  # a run keeps its own


def test_without_a_text_codec_and_clips_it_says_so(tmp_path, whole):
  save_codecs(Codecs(video=whole.video), tmp_path / "set")
  with pytest.raises(UsageError, match=r"no text codec.*config\.codec\.path"):
    open_codecs(config(), tmp_path / "run", path=str(tmp_path / "set"))
  assert not pathlib.Path(tmp_path / "run").exists()


@pytest.mark.parametrize("lacking", ["video", "audio", "text"])
def test_a_run_that_has_lost_a_codec_says_so(tmp_path, whole, lacking):
  save_codecs(whole, tmp_path / "run" / "codecs")
  (tmp_path / "run" / "codecs" / f"{lacking}.json").unlink()
  with pytest.raises(UsageError, match=rf"codecs lacks {lacking}\.json: put the run"):
    open_codecs(config(), tmp_path / "run", clips=clips())


def test_the_text_embedder_is_as_long_as_the_captions(tmp_path):
  asked = config()
  asked.codec.text_length = None
  texts = ["a", "b" * 130]
  made = open_codecs(asked, tmp_path / "run", clips=clips(), texts=texts)
  assert made.text.length == 144


def test_what_a_bundle_lacks_is_fitted(tmp_path, whole):
  other = fit_codecs(clips(1), text_length=16, text_dim=16)
  save_codecs(whole._replace(audio=None), tmp_path / "part")
  made = open_codecs(config(str(tmp_path / "part")), tmp_path / "run", clips=clips(1))
  prints = fingerprints(made)
  assert prints["video"] == fingerprints(whole)["video"]
  assert prints["audio"] == fingerprints(other)["audio"]
  assert fingerprints(load_codecs(tmp_path / "run" / "codecs")) == prints


def test_other_codecs_than_those_of_a_checkpoint_are_refused(whole):
  then = fingerprints(whole)
  require_same(whole, then, "x")
  require_same(whole._replace(audio=None), then, "x")  # what is not there is not used
  other = fit_codecs(clips(1), text_length=16, text_dim=16)
  with pytest.raises(UsageError, match="the video codec.*do this"):
    require_same(whole._replace(video=other.video), then, "do this")
  with pytest.raises(UsageError, match="earlier version"):
    require_same(whole, "one hash of all", "x")
