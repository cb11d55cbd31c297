"""Sets of prompts: which clips are made, by whom, and what a manifest must have."""

import json

import pytest

from ccl_jax.data.spec import ClipSpec
from ccl_jax.errors import UsageError
from ccl_jax.prompt_sets import make_set
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
  assert make_set(maker(out, made), path, out, task, SPEC, batch=9) == 2
  assert made == [("a.1 b", {})]


def test_lines_and_pictures_arrive_as_they_are(tmp_path):
  """Each with its prompt, seed and picture, which is beside the manifest."""
  import numpy as np

  rows = []
  for i, value in enumerate((10, 90, 170)):
    picture = np.full((32, 32, 3), value, np.uint8)
    write_png(tmp_path / f"{i}.png", picture)
    rows.append({"id": f"c{i}", "prompt": f"p{i}", "image": f"{i}.png", "seed": 5 + i})
  path, made = write(tmp_path / "set.jsonl", rows), []
  make = lambda lines, inputs: made.append((lines, inputs))
  spec = ClipSpec(17, 32, 48, 25.0)
  make_set(make, path, tmp_path / "out", "ti2av", spec, batch=2)
  assert [[x.id for x in lines] for lines, _ in made] == [["c0", "c1"], ["c2"]]
  lines = [x for lines, _ in made for x in lines]
  assert [(x.prompt, x.seed) for x in lines] == [("p0", 5), ("p1", 6), ("p2", 7)]
  images = np.concatenate([inputs["image"] for _, inputs in made])
  assert images.shape == (3, 32, 48, 3) and images.dtype == np.uint8
  np.testing.assert_array_equal(images[:, 16, 24, 0], [10, 90, 170])


def test_the_parts_of_a_set_are_all_of_it(tmp_path, capsys):
  """Every count-th line from the index-th on, what is there or not; one at a time."""
  rows = [{"id": f"c{i}", "prompt": "x"} for i in range(7)]
  path = write(tmp_path / "set.jsonl", rows)
  out = tmp_path / "out"
  out.mkdir()
  (out / "c1.mp4").touch()
  for index, expected in ((0, "c0 c3 c6"), (1, "c4"), (2, "c2 c5")):
    made = []
    n = make_set(maker(out, made), path, out, "t2v", SPEC, index, 3)
    assert " ".join(name for name, _ in made) == expected
    assert n == len(made)  # a batch is of one line unless told otherwise
    share = {0: "3 of 3", 1: "1 of 2", 2: "2 of 2"}[index]
    assert f"{share} clips made" in capsys.readouterr().out


@pytest.mark.parametrize("index, count", [(-1, 2), (2, 2), (3, 2), (0, 0)])
def test_a_part_that_is_not_there(tmp_path, index, count):
  path = write(tmp_path / "set.jsonl", [{"id": "a", "prompt": "x"}])
  with pytest.raises(UsageError, match=f"--process_index is {index}"):
    make_set(lambda *_: None, path, tmp_path, "t2v", SPEC, index, count)


def test_a_picture_that_cannot_be_read_names_its_line(tmp_path):
  (tmp_path / "x.png").write_text("no picture")
  row = {"id": "a", "prompt": "x", "image": "x.png"}
  path = write(tmp_path / "set.jsonl", [row])
  with pytest.raises(UsageError, match="image of a: "):
    make_set(lambda *_: None, path, tmp_path, "i2v", SPEC)
  # Sound alone does not look at it.
  assert make_set(lambda *_: None, path, tmp_path, "t2a", SPEC) == 1
