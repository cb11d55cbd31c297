"""Sets of prompts: which clips are made, by whom, and what a manifest must have."""

import json

import pytest

from ccl_jax.diffusion.guidance import GUIDANCE
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


def test_guidance_by_another_clip_makes_two_together_or_none(manifest, tmp_path):
  out, made = tmp_path / "out", []
  make = lambda task, batch: make_set(
    maker(out, made), manifest, out, task, batch=batch, form=GUIDANCE["ucg2_shuffled"]
  )
  with pytest.raises(UsageError, match="c1 would be made by itself; expected 2 clips"):
    make("joint", 2)  # c0 c2, c3 c4, and the only one without an image
  assert not made and not out.exists()
  rows = [{"id": f"d{i}", "prompt": "a cat"} for i in range(4)]
  manifest.write_text("".join(json.dumps(row) + "\n" for row in rows))
  assert make("joint", 2) == 4
  assert make("t2v", 1) == 0  # the same clips; one stream has none to shuffle
  (out / "d3.mp4").unlink()
  assert make("t2v", 1) == 1


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


def write(path, rows):
  path.write_text("".join(json.dumps(row) + "\n" for row in rows))
  return path


@pytest.mark.parametrize("task, ending", [("joint", ".mp4"), ("t2a", ".wav")])
def test_a_clip_is_there_by_its_whole_id(tmp_path, task, ending):
  """Ids may have dots: a.1 is not made because there is a.mp4, nor a because of a.1."""
  ids = ["a", "a.1", "a.2", "b.mp4", "b"]
  path = write(tmp_path / "set.jsonl", [{"id": i, "prompt": "x"} for i in ids])
  out, made = tmp_path / "out", []
  out.mkdir()
  for name in ("a", "a.2", "b.mp4"):
    (out / (name + ending)).touch()
  (out / ("b" + {".mp4": ".wav", ".wav": ".mp4"}[ending])).touch()
  assert make_set(maker(out, made), path, out, task, batch=9) == 2
  assert made == [("a.1 b", {})]


def test_lines_arrive_as_they_are(tmp_path):
  """Each with its prompt, seed and picture, which is beside the manifest."""
  rows = []
  for i in range(3):
    (tmp_path / f"{i}.png").touch()
    rows.append({"id": f"c{i}", "prompt": f"p{i}", "image": f"{i}.png", "seed": 5 + i})
  path, made = write(tmp_path / "set.jsonl", rows), []
  make = lambda lines, files: made.append((lines, files))
  make_set(make, path, tmp_path / "out", "ti2av", batch=2)
  assert [[x.id for x in lines] for lines, _ in made] == [["c0", "c1"], ["c2"]]
  lines = [x for lines, _ in made for x in lines]
  assert [(x.prompt, x.seed) for x in lines] == [("p0", 5), ("p1", 6), ("p2", 7)]
  images = [path for _, files in made for path in files["image"]]
  assert images == [tmp_path / f"{i}.png" for i in range(3)]


def test_the_parts_of_a_set_are_all_of_it(tmp_path, capsys):
  """Every count-th line from the index-th on, what is there or not; one at a time."""
  rows = [{"id": f"c{i}", "prompt": "x"} for i in range(7)]
  path = write(tmp_path / "set.jsonl", rows)
  out = tmp_path / "out"
  out.mkdir()
  (out / "c1.mp4").touch()
  for index, expected in ((0, "c0 c3 c6"), (1, "c4"), (2, "c2 c5")):
    made = []
    n = make_set(maker(out, made), path, out, "t2v", index, 3)
    assert " ".join(name for name, _ in made) == expected
    assert n == len(made)  # a batch is of one line unless told otherwise
    share = {0: "3 of 3", 1: "1 of 2", 2: "2 of 2"}[index]
    assert f"{share} clips made" in capsys.readouterr().out


@pytest.mark.parametrize("index, count", [(-1, 2), (2, 2), (3, 2), (0, 0)])
def test_a_part_that_is_not_there(tmp_path, index, count):
  path = write(tmp_path / "set.jsonl", [{"id": "a", "prompt": "x"}])
  words = f"--process_index is {index}; expected 0 to {count - 1}"
  with pytest.raises(UsageError, match=words if count else "--process_count is 0"):
    make_set(lambda *_: None, path, tmp_path, "t2v", index, count)
