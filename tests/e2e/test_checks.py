"""The long checks of this folder, in their smallest form: that they still run."""

import json

import numpy as np
import pytest

from ccl_jax.data.scenes.talking import draw_clip
from ccl_jax.data.spec import ClipSpec
from ccl_jax.viz.media import write_mp4
from tests.e2e import check_audio, check_data, check_eval


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
  """Two films of a talking scene, with captions."""
  folder = tmp_path_factory.mktemp("clips")
  for i in range(2):
    scene = draw_clip(i, ClipSpec(97, 64, 64, 24.0))
    write_mp4(folder / f"{i}.mp4", scene["video"], 24.0, scene["audio"])
    (folder / f"{i}.txt").write_text(scene["text"])
  return folder


def test_films_to_films_with_released_codecs(clips, tmp_path, capsys):
  flags = ["--codecs=released", "--starts=1"]  # test_latents.py stops and goes on
  check_data.main([str(clips), str(tmp_path / "out"), *flags])
  out = capsys.readouterr().out
  assert "all is as it should be" in out and out.count("$ python -m") == 10
  with pytest.raises(SystemExit, match="is there and not of this program"):
    check_data.main([str(clips), str(clips)])


@pytest.mark.shared
def test_a_stopped_evaluation_is_the_whole_one(shared, tmp_path, capsys):
  """Of two metrics and two clips: killed, interrupted, terminated, and gone on with."""
  flags = [str(tmp_path / "out"), "--metrics=fad,aesthetics", "--clips=2"]
  with pytest.raises(SystemExit) as e:
    check_eval.main(flags)
  out = capsys.readouterr().out
  assert not e.value.code, out
  assert "all runs are the same" in out
  for how in ("SIGKILL", "SIGINT", "SIGTERM"):
    assert f"{how} after" in out


def test_an_audio_codec_of_ones_own(clips, tmp_path):
  check_audio.main([str(clips), str(tmp_path / "out"), "--runlocal"])
  for run, score in (("vae", "mel_db/vae"), ("vocoder", "lsd_db/codec")):
    scores = json.loads((tmp_path / "out" / run / "scores.json").read_text())
    assert np.isfinite(scores[score])
