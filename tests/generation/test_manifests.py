"""Sets of prompts: which clips are made, by whom, and what a manifest must have."""

import json

import pytest

from ccl_jax.errors import UsageError
from ccl_jax.generation.manifests import make_set


@pytest.fixture
def manifest(tmp_path):
  (tmp_path / "x.png").touch()
  rows = [{"id": f"c{i}", "prompt": "a cat", "image": "x.png"} for i in range(5)]
  del rows[1]["image"]
  path = tmp_path / "set.jsonl"
  path.write_text("".join(json.dumps(row) + "\n" for row in rows))
  return path


def maker(out, made):
  def make(lines, files):
    out.mkdir(exist_ok=True)
    for line in lines:
      (out / f"{line.id}.mp4").touch()
    names = " ".join(line.id for line in lines)
    made.append((names, {k: [p.name for p in x] for k, x in files.items()}))

  return make


def test_processes_share_a_set_and_make_nothing_twice(manifest, tmp_path):
  out, made = tmp_path / "out", []
  image = {"image": ["x.png"]}
  assert make_set(maker(out, made), manifest, out, "joint", 1, 2) == 2
  assert made == [("c3", image), ("c1", {})]
  assert make_set(maker(out, made), manifest, out, "joint") == 3
  assert [name for name, _ in made] == ["c3", "c1", "c0", "c2", "c4"]
  assert make_set(maker(out, made), manifest, out, "joint") == 0


def test_batches_are_alike_and_the_last_may_be_short(manifest, tmp_path):
  out, made = tmp_path / "out", []
  assert make_set(maker(out, made), manifest, out, "joint", batch=3) == 5
  images = lambda n: {"image": ["x.png"] * n}
  assert made == [("c0 c2 c3", images(3)), ("c4", images(1)), ("c1", {})]


def test_given_sounds_and_films(tmp_path):
  """What a task takes, by line; a given film is shown with its sound, as mp4."""
  for task, name in (("a2v", "audio"), ("v2a", "video")):
    rows = [{"id": f"{task}{i}", "prompt": "a cat", name: f"in/{i}"} for i in range(2)]
    folder = tmp_path / task
    (folder / "in").mkdir(parents=True)
    for i in range(2):
      (folder / f"in/{i}").touch()
    (folder / "set.jsonl").write_text("".join(json.dumps(x) + "\n" for x in rows))
    made = []
    for left in (2, 0):
      make = maker(folder / "out", made)
      count = make_set(make, folder / "set.jsonl", folder / "out", task, batch=2)
      assert count == left
    assert made == [(f"{task}0 {task}1", {name: ["0", "1"]})]


def test_mistakes_come_before_the_first_clip(manifest, tmp_path):
  def fails(message, task="joint", *part, **model):
    made = []
    with pytest.raises(UsageError, match=message):
      make_set(maker(tmp_path, made), manifest, tmp_path, task, *part, **model)
    assert not made

  fails("c1: task i2v needs image", "i2v")
  fails("c1: task joint needs image.*image to video", channels=True)
  fails("c0: task a2v needs audio", "a2v")
  fails("c0: task t2a makes no use of image", "t2a")
  fails("unknown task 'dance'", "dance")
  fails("--batch is 0", "joint", 0, 1, 0)
  fails("expected 0 to 1 for --process_count 2", "joint", 2, 2)
  (tmp_path / "x.png").unlink()
  fails("image of c0: no file")
  rows = [{"id": "big", "prompt": "a cat", "seed": 2**64}]
  manifest.write_text(json.dumps(rows[0]))
  fails("big: seed 18446744073709551616: expected a whole number")
