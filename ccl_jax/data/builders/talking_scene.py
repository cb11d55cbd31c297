"""The talking scene as a TFDS data set: drawn once, then random access for Grain.

Records lie in ArrayRecord files and give back exactly what `draw_clip` returned. A
build is a temporary folder until it is whole; a folder's name holds a digest of what
was asked for, so another size or mixture is another data set, and a second call with
the same arguments reads the first one's files. TensorFlow is not needed.
"""

import dataclasses
import hashlib
import os
from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from ccl_jax.data.scenes.talking import EVENT, draw_clip
from ccl_jax.data.spec import ClipSpec


class TalkingSceneConfig(tfds.core.BuilderConfig):
  """How many clips of which size and mixture, from which first seed."""

  def __init__(
    self, spec: ClipSpec, n_train: int, n_test: int, seed: int = 0, **mixture: float
  ):
    asked = [dataclasses.astuple(spec), n_train, n_test, seed, sorted(mixture.items())]
    digest = hashlib.blake2s(repr(asked).encode(), digest_size=4).hexdigest()
    super().__init__(name=f"{spec.height}x{spec.width}x{spec.frames}-{digest}")
    self.spec, self.mixture = spec, mixture
    self.counts = {"train": n_train, "test": n_test}
    self.seed = seed


class TalkingScene(tfds.core.GeneratorBasedBuilder):
  """Synthetic clips of talking faces and bouncing balls, synchronous exactly."""

  VERSION = tfds.core.Version("1.0.0")  # raise it whenever a seed draws another clip

  def _info(self) -> tfds.core.DatasetInfo:
    s = self.builder_config.spec
    t, h, w = s.latent_shape
    shapes = {
      "video": ((s.frames, s.height, s.width, 3), np.uint8),
      "audio": ((s.samples,), np.float32),
      "video_mask": ((t, h // 2, w // 2), np.uint8),
      "audio_mask": ((s.audio_tokens,), np.uint8),
    }
    features = {
      k: tfds.features.Tensor(shape=shape, dtype=dtype, encoding="bytes")
      for k, (shape, dtype) in shapes.items()
    }
    # Text holds bytes as they are, so it serves for arrays of unknown length too.
    for k in ("text", "id", "syllables", "events", "mouth"):
      features[k] = tfds.features.Text()
    return tfds.core.DatasetInfo(
      builder=self,
      description=self.__doc__,
      features=tfds.features.FeaturesDict(features),
    )

  def _split_generators(self, dl_manager) -> dict[str, Iterator]:
    return {k: self._generate_examples(k) for k in self.builder_config.counts}

  def _generate_examples(self, split: str) -> Iterator[tuple[str, dict[str, Any]]]:
    c = self.builder_config
    for seed in range(c.seed, c.seed + c.counts[split]):
      clip = draw_clip(seed, c.spec, split, **c.mixture)
      yield clip["id"], _pack(clip)


def _pack(clip: dict[str, Any]) -> dict[str, Any]:
  """What a record stores of a clip."""
  return clip | {
    "syllables": " ".join(clip["syllables"]),
    "events": clip["events"].tobytes(),
    "mouth": clip["mouth"].tobytes(),
    "video_mask": clip["video_mask"].astype(np.uint8),
    "audio_mask": clip["audio_mask"].astype(np.uint8),
  }


class Clips:
  """Random access to the clips of one split, as `draw_clip` returned them."""

  def __init__(self, records):
    self.records = records

  def __len__(self) -> int:
    return len(self.records)

  def __getitem__(self, index: int) -> dict[str, Any]:
    record = self.records[index]
    frames = len(record["video"])
    return {
      "video": record["video"],
      "audio": record["audio"],
      "text": record["text"].decode(),
      "id": record["id"].decode(),
      "events": np.frombuffer(record["events"], EVENT),
      "syllables": record["syllables"].decode().split(),
      "mouth": np.frombuffer(record["mouth"], np.float32).reshape(-1, frames),
      "video_mask": record["video_mask"].astype(bool),
      "audio_mask": record["audio_mask"].astype(bool),
    }


def build(
  data_dir: str | os.PathLike,
  spec: ClipSpec,
  *,
  n_train: int,
  n_test: int,
  seed: int = 0,
  **mixture: float,
) -> dict[str, Clips]:
  """Draws the set into `data_dir` unless it is there, and opens its splits.

  `mixture` are the keywords of `draw_clip`. Clips have seeds from `seed` on.
  """
  config = TalkingSceneConfig(spec, n_train, n_test, seed, **mixture)
  builder = TalkingScene(data_dir=data_dir, config=config, file_format="array_record")
  builder.download_and_prepare()
  return {split: Clips(builder.as_data_source(split)) for split in config.counts}
