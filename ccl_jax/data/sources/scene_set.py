"""Synthetic scenes as TFDS data sets: drawn once, then random access for Grain.

Records lie in ArrayRecord files and give back exactly what was drawn; clip i of a
split has the seed `seed + i`. A build is a temporary folder until it is whole; a
folder's name holds a digest of what was asked for, so another size or mixture is
another data set, and a second call with the same arguments reads the first one's
files: one `data_dir` serves all runs. TensorFlow is not needed.
"""

import contextlib
import dataclasses
import hashlib
import io
import os
from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from ccl_jax.data.scenes.talking import EVENT
from ccl_jax.data.sources.set_builder import SetBuilder, prepared
from ccl_jax.data.spec import ClipSpec


class SceneConfig(tfds.core.BuilderConfig):
  """How many clips of which size and mixture, from which first seed."""

  def __init__(
    self, spec: ClipSpec, n_train: int, n_test: int, seed: int = 0, **mixture: Any
  ):
    sizes = dataclasses.astuple(spec)
    # Sets that were made before there were other strides and rates keep their names.
    for usual in (None, 8):
      if sizes[-1] == usual:
        sizes = sizes[:-1]
    asked = [sizes, n_train, n_test, seed, sorted(mixture.items())]
    digest = hashlib.blake2s(repr(asked).encode(), digest_size=4).hexdigest()
    super().__init__(name=f"{spec.height}x{spec.width}x{spec.frames}-{digest}")
    self.spec, self.mixture = spec, mixture
    self.counts = {"train": n_train, "test": n_test}
    self.seed = seed


class SceneSet(SetBuilder, skip_registration=True):
  """Clips that `draw` makes: `video`, `audio`, masks, texts, and the arrays of `LISTS`,
  whose length is a clip's own.
  """

  RECORDS = 64
  TEXTS = ("text", "id")
  LISTS: Mapping[str, np.dtype] = {"events": EVENT, "mouth": np.dtype(np.float32)}

  def draw(self, seed: int, spec: ClipSpec, split: str, **mixture: Any) -> dict:
    """One clip, the same for the same arguments."""
    raise NotImplementedError

  def arrays(self, spec: ClipSpec) -> dict[str, tuple[tuple[int, ...], Any]]:
    """(shape, type) of what has the same size in all clips."""
    t, h, w = spec.latent_shape
    return {
      "video": ((spec.frames, spec.height, spec.width, 3), np.uint8),
      "audio": ((spec.samples,), np.float32),
      "video_mask": ((t, h, w), np.uint8),
      "audio_mask": ((spec.audio_tokens,), np.uint8),
    }

  def _info(self) -> tfds.core.DatasetInfo:
    features = {
      k: tfds.features.Tensor(shape=shape, dtype=dtype, encoding="bytes")
      for k, (shape, dtype) in self.arrays(self.builder_config.spec).items()
    }
    # Text holds bytes as they are, so it serves for arrays of unknown length too.
    for k in (*self.TEXTS, "syllables", *self.LISTS):
      features[k] = tfds.features.Text()
    return tfds.core.DatasetInfo(
      builder=self,
      description=self.__doc__,
      features=tfds.features.FeaturesDict(features),
    )

  def items(self, dl_manager) -> dict[str, range]:
    c = self.builder_config
    return {split: range(c.seed, c.seed + n) for split, n in c.counts.items()}

  def record(self, split: str, item: int) -> tuple[str, dict[str, Any]]:
    """(id, features) of the clip with this seed, drawn now."""
    c = self.builder_config
    clip = self.draw(item, c.spec, split, **c.mixture)
    stored = clip | {"syllables": " ".join(clip["syllables"])}
    stored |= {k: clip[k].tobytes() for k in self.LISTS}
    masks = [k for k in self.arrays(c.spec) if k.endswith("_mask")]
    return clip["id"], stored | {k: clip[k].astype(np.uint8) for k in masks}


class Clips:
  """Random access to the clips of one split, as they were drawn."""

  def __init__(self, kind: type[SceneSet], records: Any):
    self._kind, self.records = kind, records

  def __len__(self) -> int:
    return len(self.records)

  def __getitem__(self, index: int) -> dict[str, Any]:
    record = self.records[index]
    clip = record | {k: record[k].decode() for k in self._kind.TEXTS}
    clip["syllables"] = record["syllables"].decode().split()
    clip |= {k: np.frombuffer(record[k], t) for k, t in self._kind.LISTS.items()}
    clip["mouth"] = clip["mouth"].reshape(-1, len(record["video"]))
    return clip | {k: record[k].astype(bool) for k in record if k.endswith("_mask")}


def build_scenes(
  kind: type[SceneSet], data_dir: str | os.PathLike, config: SceneConfig
) -> dict[str, Clips]:
  """Draws the set into `data_dir` unless it is there, and opens its splits."""
  make = lambda: kind(data_dir=data_dir, config=config, file_format="array_record")
  with contextlib.redirect_stdout(io.StringIO()):  # TFDS tells of a download
    builder = prepared(make, data_dir)
  return {k: Clips(kind, builder.as_data_source(k)) for k in config.counts}
