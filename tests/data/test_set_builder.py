"""TFDS sets of any size: records in order, shard by shard, without TensorFlow."""

import errno
import importlib
import io
import pathlib
import pkgutil
import sys

import numpy as np
import pytest
import tensorflow_datasets as tfds

from ccl_jax import progress
from ccl_jax.data import builders
from ccl_jax.data.builders import talking_scene
from ccl_jax.data.sources.set_builder import SetBuilder, prepared
from ccl_jax.errors import UsageError


class Numbers(SetBuilder, skip_registration=True):
  """Records that hold their number and 1000 bytes."""

  VERSION = tfds.core.Version("1.0.0")
  RECORDS = 3

  def _info(self):
    features = {"number": np.int64, "load": tfds.features.Text()}
    return tfds.core.DatasetInfo(
      builder=self, features=tfds.features.FeaturesDict(features)
    )

  def items(self, dl_manager):
    return {"train": [5, 3, 8, 1, 9, 2, 7], "test": range(40, 43)}

  def record(self, split, item):
    return f"{split}-{item}", {"number": item, "load": b"x" * 1000}


def make(tmp_path, kind=Numbers):
  return lambda: kind(data_dir=tmp_path, file_format="array_record")


@pytest.fixture
def small_memory(monkeypatch):
  """As if every split were larger than what TFDS sorts in memory (1000 MB)."""
  from tensorflow_datasets.core import shuffle

  monkeypatch.setattr(shuffle, "MAX_MEM_BUFFER_SIZE", 100)


def test_progress_counts_the_split_and_not_its_shards(tmp_path):
  said = io.StringIO()
  with progress.shown(said):
    prepared(make(tmp_path), tmp_path)
  assert said.getvalue().splitlines() == [
    f"making the set: {line} records"
    for line in ("train 1/7", "train 7/7", "test 1/3", "test 3/3")
  ]


def test_a_set_larger_than_memory_is_built_in_order_and_shards(tmp_path, small_memory):
  builder = prepared(make(tmp_path), tmp_path)
  numbers = lambda split: [r["number"] for r in builder.as_data_source(split)]
  assert numbers("train") == [5, 3, 8, 1, 9, 2, 7]
  assert numbers("test") == [40, 41, 42]
  names = sorted(p.name for p in pathlib.Path(builder.data_dir).glob("*record*"))
  assert [n.rpartition("array_record-")[2] for n in names] == [
    "00000-of-00001", "00000-of-00003", "00001-of-00003", "00002-of-00003",
  ]  # fmt: skip
  assert builder.info.splits["train"].shard_lengths == [3, 3, 1]
  assert "tensorflow" not in sys.modules


def test_scenes_larger_than_memory(tmp_path, small_memory):
  from ccl_jax.data.spec import ClipSpec

  spec = ClipSpec(5, 16, 16, 25)
  splits = talking_scene.build(tmp_path, spec, n_train=5, n_test=2, seed=3)
  ids = [splits["train"][i]["id"] for i in range(5)]
  assert ids == [f"talking-train-{seed}" for seed in range(3, 8)]
  assert len(splits["test"]) == 2


def test_a_shard_at_a_time_is_in_memory(tmp_path):
  """The records of a shard are made when it is written, not before."""
  made = []

  class Watched(Numbers, skip_registration=True):
    def record(self, split, item):
      here = pathlib.Path(self.data_dir)
      made.append(len(list(here.glob("*train*-of-*"))))
      return super().record(split, item)

  prepared(make(tmp_path, Watched), tmp_path)
  assert made[0] <= 1 and made[3] in (1, 2) and made[6] in (2, 3)


def test_the_first_of_two_processes_writes_a_set(tmp_path):
  """The other has written the set while this one did."""

  class Late(Numbers, skip_registration=True):
    name = "numbers"

    def record(self, split, item):
      if item == 42:
        other = make(tmp_path)()
        other.download_and_prepare()
      return super().record(split, item)

  builder = prepared(make(tmp_path, Late), tmp_path)
  assert len(builder.as_data_source("test")) == 3


def test_where_nothing_can_be_written(tmp_path):
  (tmp_path / "file").touch()
  with pytest.raises(UsageError, match=r"file is a file; expected a folder"):
    prepared(make(tmp_path / "file"), tmp_path / "file")


def test_every_builder_is_of_this_kind():
  found = 0
  for module in pkgutil.iter_modules(builders.__path__):
    members = vars(importlib.import_module(f"{builders.__name__}.{module.name}"))
    for kind in members.values():
      if isinstance(kind, type) and issubclass(kind, tfds.core.DatasetBuilder):
        assert issubclass(kind, SetBuilder)
        found += 1
  assert found >= 5


def test_what_a_dead_process_left_is_swept(tmp_path):
  left = tmp_path / "numbers" / "incomplete.ABCDEF_1.0.0"
  left.mkdir(parents=True)
  (left / "half").touch()
  prepared(make(tmp_path), tmp_path)
  assert not left.exists()
  assert not list(tmp_path.glob(".lock*"))


@pytest.mark.parametrize(
  "error",
  [
    OSError(errno.ENOSPC, "No space left on device"),
    RuntimeError("INTERNAL: write: No space left on device"),  # as ArrayRecord says it
  ],
)
def test_a_full_disk_is_named(tmp_path, error):
  class Full(Numbers, skip_registration=True):
    def record(self, split, item):
      raise error

  with pytest.raises(UsageError, match=f"cannot write {tmp_path}: No space left on"):
    prepared(make(tmp_path, Full), tmp_path)
  assert not list(tmp_path.iterdir())


def test_a_defect_of_a_builder_is_none_of_the_disk(tmp_path):
  class Broken(Numbers, skip_registration=True):
    def record(self, split, item):
      raise ZeroDivisionError

  prepared(make(tmp_path), tmp_path)
  before = sorted(tmp_path.rglob("*"))
  with pytest.raises(ZeroDivisionError):
    prepared(make(tmp_path, Broken), tmp_path)
  assert sorted(tmp_path.rglob("*")) == before  # what was there before stays
