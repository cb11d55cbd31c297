"""Files found by their names, and the digest that tells a folder from another."""

import os

import pytest

from ccl_jax.data.sources.listing import Listing
from ccl_jax.errors import UsageError

FILMS = (".mp4", ".wav", ".png")  # best first


def listed(root, *names):
  for name in names:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(name)
  return Listing(root, without=root / "tfds")


def test_hidden_files_and_the_sets_are_not_listed(tmp_path):
  names = ["b.mp4", "x/a.MP4", ".c.mp4", ".y/d.mp4", "tfds/e.mp4", "x/tfds/f.mp4"]
  found = listed(tmp_path, *names)
  assert found.names == ["b.mp4", "x/a.MP4", "x/tfds/f.mp4"]
  assert found.tables(".mp4") == [tmp_path / n for n in found.names]
  with pytest.raises(UsageError, match="no folder at"):
    Listing(tmp_path / "none", without=tmp_path)


@pytest.mark.parametrize(
  ("names", "below", "expected"),
  [
    (["x/a.mp4"], "", "x/a.mp4"),
    (["x/a"], "", "x/a.mp4"),
    (["b.mp4"], "", "x/b.mp4"),
    (["b"], "", "x/b.mp4"),
    (["none", "b"], "", "x/b.mp4"),
    (["b", "x/a"], "", "x/b.mp4"),  # the first that matches
    (["both"], "", "y/both.MP4"),  # the best suffix, in either case
    (["notes"], "", None),
    (["both"], "z", "z1/both.wav"),
    (["both"], "Z1", "z1/both.wav"),
    (["both"], "1", None),  # a folder's name begins so
    (["b"], "b", None),  # the file's own name does not count
  ],
)
def test_find(tmp_path, names, below, expected):
  found = listed(
    tmp_path, "x/a.mp4", "x/b.mp4", "y/both.MP4", "z1/both.wav", "x/both.png",
    "notes.txt",
  )  # fmt: skip
  assert found.find(names, FILMS, below) == expected


def test_two_of_a_kind_are_one_too_many(tmp_path):
  found = listed(tmp_path, "x/a.mp4", "y/a.mp4", "z/a.wav")
  with pytest.raises(UsageError, match="called a: x/a.mp4, y/a.mp4: leave one"):
    found.find(["a"], FILMS)
  with pytest.raises(UsageError, match="called a: x/a.mp4, y/a.mp4: leave one"):
    found.find(["a"], (".mp4",))
  assert found.find(["a"], FILMS, "y") == "y/a.mp4"
  assert found.find(["a"], (".wav", ".mp4")) == "z/a.wav"
  assert found.find(["y/a"], FILMS) == "y/a.mp4"


def test_the_digest_is_of_names_sizes_and_times(tmp_path):
  digest = lambda: Listing(tmp_path, without=tmp_path / "tfds").digest
  path = tmp_path / "a.mp4"
  path.write_text("abc")
  os.utime(path, ns=(0, 10**18))
  first = digest()
  assert digest() == first
  os.utime(path, ns=(0, 10**18 + 1))
  later = digest()
  path.write_text("abcd")
  os.utime(path, ns=(0, 10**18))
  longer = digest()
  path.write_text("abc")
  os.utime(path, ns=(0, 10**18))
  path.rename(tmp_path / "b.mp4")
  renamed = digest()
  assert len({first, later, longer, renamed}) == 4
  (tmp_path / "b.mp4").rename(path)
  assert digest() == first
  (tmp_path / ".hidden").touch()
  assert digest() == first
