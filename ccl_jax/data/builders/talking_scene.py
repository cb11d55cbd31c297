"""The talking scene of the quickstart as a TFDS data set (`sources.scene_set`)."""

import os
from typing import Any

import tensorflow_datasets as tfds

from ccl_jax.data.scenes.talking import draw_clip
from ccl_jax.data.sources.scene_set import Clips, SceneConfig, SceneSet, build_scenes
from ccl_jax.data.spec import ClipSpec


class TalkingScene(SceneSet):
  """Synthetic clips of talking faces and bouncing balls, synchronous exactly."""

  VERSION = tfds.core.Version("3.0.0")  # raise it whenever an index is another clip

  def draw(self, seed: int, spec: ClipSpec, split: str, **mixture: Any) -> dict:
    return draw_clip(seed, spec, split, **mixture)


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
  config = SceneConfig(spec, n_train, n_test, seed, **mixture)
  return build_scenes(TalkingScene, data_dir, config)
