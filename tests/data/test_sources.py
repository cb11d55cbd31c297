import sys

import numpy as np
import pytest
import tensorflow_datasets as tfds

from ccl_jax.data import builders
from ccl_jax.data.pipeline import make_iterator
from ccl_jax.data.sources.folder import FolderSource
from ccl_jax.data.sources.open import Cached, open_source
from ccl_jax.data.spec import ClipSpec
from ccl_jax.errors import UsageError
from tests.data.films import film

SPEC = ClipSpec(33, 32, 48, 25)


def numbers(texts):
  ids = np.array([[int(text.split()[-1])] for text in texts], np.int32)
  return ids, np.ones_like(ids, bool)


def test_folder(tmp_path):
  film(tmp_path / "a.mp4", seconds=3.0)
  source = open_source("folder", SPEC, tmp_path, hop=0.5)
  assert isinstance(source, FolderSource)
  assert len(source) == 4
  with pytest.raises(UsageError, match="hops"):
    open_source("folder", SPEC, tmp_path, hops=0.5)


def test_builder(tmp_path, monkeypatch):
  (tmp_path / "grey.py").write_text(
    "def build(root, spec, *, count):\n"
    "  return {'train': [spec] * count, 'test': [root]}\n"
  )
  monkeypatch.setattr(builders, "__path__", [*builders.__path__, str(tmp_path)])
  monkeypatch.setitem(sys.modules, f"{builders.__name__}.grey", None)
  del sys.modules[f"{builders.__name__}.grey"]  # and again when the test is over
  assert open_source("grey", SPEC, tmp_path, count=3) == [SPEC] * 3
  assert open_source("grey", SPEC, tmp_path, "test", count=3) == [tmp_path]
  with pytest.raises(UsageError, match="expected train, test"):
    open_source("grey", SPEC, tmp_path, "valid", count=3)
  with pytest.raises(UsageError, match="'count'"):
    open_source("grey", SPEC, tmp_path)
  with pytest.raises(UsageError, match=r"expected folder, tfds, .*grey"):
    open_source("nothing", SPEC, tmp_path)


class GreyFilms(tfds.core.GeneratorBasedBuilder):
  """Clip k has pixels k."""

  VERSION = tfds.core.Version("1.0.0")

  def _info(self):
    shapes = (33, 32, 48, 3), (SPEC.samples,)
    features = {
      "video": tfds.features.Tensor(shape=shapes[0], dtype=np.uint8),
      "audio": tfds.features.Tensor(shape=shapes[1], dtype=np.float32),
      "text": tfds.features.Text(),
    }
    return tfds.core.DatasetInfo(
      builder=self, features=tfds.features.FeaturesDict(features)
    )

  def _split_generators(self, dl_manager):
    return {"train": self._generate_examples(5), "test": self._generate_examples(2)}

  def _generate_examples(self, count):
    for k in range(count):
      video = np.full((33, 32, 48, 3), k, np.uint8)
      audio = np.full((SPEC.samples,), k / 8, np.float32)
      yield k, {"video": video, "audio": audio, "text": f"film {k}"}


def test_tfds_directory(tmp_path):
  builder = GreyFilms(data_dir=tmp_path, file_format="array_record")
  builder.download_and_prepare()
  root = str(builder.data_path)
  assert len(open_source("tfds", SPEC, root, "test")) == 2
  source = open_source("tfds", SPEC, root)
  batch = next(make_iterator(source, batch_size=4, seed=0, tokenize=numbers))
  index = batch["ids"][:, 0]
  assert len(set(index.tolist())) == 4
  np.testing.assert_array_equal(batch["video"][:, 3, 2, 1, 0], index)
  np.testing.assert_array_equal(batch["audio"][:, 7], index / 8)
  with pytest.raises(UsageError, match="change one of them"):
    open_source("tfds", ClipSpec(33, 64, 64, 25), root)
  with pytest.raises(UsageError, match="no split 'valid'"):
    open_source("tfds", SPEC, root, "valid")
  with pytest.raises(UsageError, match=r"dataset_info\.json"):
    open_source("tfds", SPEC, tmp_path)


def test_talking_scene_through_the_pipeline(tmp_path):
  spec = ClipSpec(33, 64, 64, 25)
  options = {"n_train": 3, "n_test": 1}
  source = open_source("talking_scene", spec, tmp_path, **options)

  def lengths(texts):
    ids = np.array([[len(text)] for text in texts], np.int32)
    return ids, np.ones_like(ids, bool)

  batch = next(
    make_iterator(source, batch_size=3, seed=0, tokenize=lengths, shuffle=False)
  )
  assert set(batch) == {"video", "audio", "ids", "mask"}
  for row in range(3):
    np.testing.assert_array_equal(batch["video"][row], source[row]["video"])
    np.testing.assert_array_equal(batch["audio"][row], source[row]["audio"])
    assert batch["ids"][row, 0] == len(source[row]["text"])


def test_a_cache_reads_once_and_knows_its_limit():
  reads = []

  class Source:
    def __len__(self):
      return 4

    def __getitem__(self, index):
      reads.append(index)
      return {"video": np.zeros(600, np.uint8), "audio": np.zeros(100, np.float32)}

  cached = Cached(Source(), 2.5e-6)  # two clips of 1000 bytes, not three
  for _ in range(2):
    for i in range(4):
      cached[i]
  assert len(cached) == 4
  assert reads == [0, 1, 2, 3, 2, 3]
