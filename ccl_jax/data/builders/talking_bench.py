"""The talking bench as a TFDS data set (`scenes.bench`, `sources.scene_set`)."""

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from ccl_jax.data.scenes.bench import KINDS, draw_bench
from ccl_jax.data.sources.scene_set import Clips, SceneConfig, SceneSet, build_scenes
from ccl_jax.data.spec import ClipSpec


class TalkingBench(SceneSet):
  """Talking faces with exact event times, where the text does not say what is when."""

  VERSION = tfds.core.Version("2.0.0")  # raise it whenever an index is another clip
  TEXTS = (*SceneSet.TEXTS, "kind")

  def arrays(self, spec: ClipSpec) -> dict[str, tuple[tuple[int, ...], Any]]:
    frame = (spec.height, spec.width), np.uint8
    return super().arrays(spec) | {"mouth_mask": frame, "mime_mask": frame}

  def draw(self, seed: int, spec: ClipSpec, split: str, **options: Any) -> dict:
    return draw_bench(seed, spec, split, **options)


def build(
  data_dir: str | os.PathLike,
  spec: ClipSpec,
  *,
  n_train: int,
  n_test: int,
  seed: int = 0,
  kinds: Sequence[str] = KINDS,
  **levels: float,
) -> dict[str, Clips]:
  """Draws the set into `data_dir` unless it is there, and opens its splits.

  `kinds` and `levels` are keywords of `draw_bench`. Clips have seeds from `seed` on.
  """
  config = SceneConfig(spec, n_train, n_test, seed, kinds=tuple(kinds), **levels)
  return build_scenes(TalkingBench, data_dir, config)
