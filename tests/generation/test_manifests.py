"""Sets of prompts: which clips are made, by whom, and what a manifest must have."""

import json

import pytest

from ccl_jax.data.spec import ClipSpec
from ccl_jax.errors import UsageError
from ccl_jax.generation.manifests import make_set
from ccl_jax.viz.media import write_png

SPEC = ClipSpec(17, 32, 32, 25.0)


@pytest.fixture
def manifest(tmp_path):
  import numpy as np

  write_png(tmp_path / "x.png", np.full((40, 40, 3), 90, np.uint8))
  rows = [{"id": f"c{i}", "prompt": "a cat", "image": "x.png"} for i in range(5)]
  del rows[1]["image"]
  path = tmp_path / "set.jsonl"
  path.write_text("".join(json.dumps(row) + "\n" for row in rows))
  return path


def maker(out, made):
  def make(lines, inputs):
    out.mkdir(exist_ok=True)
    for line in lines:
      (out / f"{line.id}.mp4").touch()
    names = " ".join(line.id for line in lines)
    made.append((names, {k: x.shape for k, x in inputs.items()}))

  return make


def test_processes_share_a_set_and_make_nothing_twice(manifest, tmp_path):
  out, made = tmp_path / "out", []
  image = {"image": (1, 32, 32, 3)}
  assert make_set(maker(out, made), manifest, out, "joint", SPEC, 1, 2) == 2
  assert made == [("c3", image), ("c1", {})]
  assert make_set(maker(out, made), manifest, out, "joint", SPEC) == 3
  assert [name for name, _ in made] == ["c3", "c1", "c0", "c2", "c4"]
  assert make_set(maker(out, made), manifest, out, "joint", SPEC) == 0


def test_batches_are_alike_and_the_last_may_be_short(manifest, tmp_path):
  out, made = tmp_path / "out", []
  assert make_set(maker(out, made), manifest, out, "joint", SPEC, batch=3) == 5
  shape = lambda n: {"image": (n, 32, 32, 3)}
  assert made == [("c0 c2 c3", shape(3)), ("c4", shape(1)), ("c1", {})]


def test_sound_alone_is_a_wav_and_sees_no_picture(manifest, tmp_path):
  out, made = tmp_path / "out", []
  make_set(maker(out, made), manifest, out, "t2a", SPEC)
  assert len(made) == 5 and not any(inputs for _, inputs in made)


def test_mistakes_come_before_the_first_clip(manifest, tmp_path):
  def fails(message, task="joint", *part):
    made = []
    with pytest.raises(UsageError, match=message):
      make_set(maker(tmp_path, made), manifest, tmp_path, task, SPEC, *part)
    assert not made

  fails("c1 has no image, which task i2v needs", "i2v")
  fails("which a manifest has not", "a2v")
  fails("--batch is 0", "joint", 0, 1, 0)
  fails("expected 0 to 1 for --process_count 2", "joint", 2, 2)
  (tmp_path / "x.png").unlink()
  fails("image of c0: no file")
