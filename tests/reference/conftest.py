"""The network in both forms, its parameters, and clips at sizes that nothing shares.

5 latent frames of 3 x 2 tokens, 17 audio tokens (3 a frame, and two left over), text of
5 tokens; streams of widths 32 and 30 with 2 and 3 heads; 4 and 3 context tokens.
"""

import dataclasses

import jax
import numpy as np

from ccl_jax.models.cca import CrossConfig
from ccl_jax.models.joint import JointDiT
from ccl_jax.models.presets import parameter_shapes
from ccl_jax.models.stream import StreamConfig
from tests.reference.model import tree

FRAMES, ROWS, COLUMNS, AUDIO = 5, 3, 2, 17
TEXT = (5, 14)
IMAGE_TOKENS = 4
TEXT_TOKENS = 6  # of [image | text] the last: one more than the text has
CHANNELS = {"video": 6, "audio": 4}
CONDITION = 5  # channels beside the video's


def make_model(channels: bool = False, **cross) -> JointDiT:
  """The network; `channels`: with Wan2.1's form of image condition."""
  video = StreamConfig(32, 40, 2, in_channels=6, out_channels=6, frequencies=16)
  audio = StreamConfig(
    30, 44, 3, in_channels=4, out_channels=4, patch=(1, 1, 1), positions="line",
    frequencies=12,
  )  # fmt: skip
  if channels:
    video = dataclasses.replace(
      video, in_channels=6 + CONDITION, image_tokens=True, text_tokens=TEXT_TOKENS
    )
  cross = CrossConfig(**{"video_tokens": 4, "audio_tokens": 3} | cross)
  return JointDiT((("video", video), ("audio", audio)), depth=2, cross=cross)


def config_of(**exchange) -> dict:
  """The same sizes, as the reference takes them; `exchange`: what is not as usual."""
  return {
    "video": {
      "heads": 2, "patch": (1, 2, 2), "positions": "grid", "frequencies": 16,
      "text_tokens": TEXT_TOKENS,
    },
    "audio": {
      "heads": 3, "patch": (1, 1, 1), "positions": "line", "frequencies": 12,
      "text_tokens": TEXT_TOKENS,
    },
    "exchange": {
      "times": "causal", "centre": "aligned", "window": 1, "video_window": 1,
      "unit": "token", "rope": "3d", "values": True,
    } | exchange,
  }  # fmt: skip


# The same kinds of exchange in the package's names and in the reference's.
_NAMES = {"tarp_centre": "centre", "cross_rope": "rope", "rope_unit": "unit",
          "context_values": "values"}  # fmt: skip
PAPER = {"times": "uniform", "window": 3, "rope_unit": "latent"}
GLOBAL = {"window": 0, "video_window": 0, "rope_unit": "index"}  # without TARP


def rule_of(cross) -> dict:
  """Settings of a `CrossConfig`, as the reference takes them."""
  sizes = ("variant", "video_tokens", "audio_tokens")
  return {_NAMES.get(k, k): v for k, v in cross.items() if k not in sizes}


def make_params(model: JointDiT, seed: int) -> dict:
  """Float32 parameters of mean 0 (scales: 1), so large that every part is heard."""
  shapes = parameter_shapes(model, TEXT)
  rng = np.random.default_rng(seed)

  def leaf(path, x):
    *_, name = names = [k.key for k in path]
    normal = rng.standard_normal(x.shape)
    if names[:-1] == ["video", "image_embedding", "out"]:
      return 0.003 * normal  # as for the tokens of the image: see `make_batch`
    if name == "kernel":
      return 1.3 * normal * x.shape[-2] ** -0.5
    if names[-2:-1] == ["norm_q"] and {*names} & {"audio_to_video", "video_to_audio"}:
      # A sharp exchange: which tokens it sees, and where they are, matters.
      return 2 + 0.6 * normal
    return {"scale": 1 + 0.4 * normal, "bias": 0.3 * normal}.get(name, 0.7 * normal)

  params = jax.tree_util.tree_map_with_path(leaf, shapes)
  return jax.tree.map(lambda x: np.asarray(x, np.float32), params)


def doubled(values):
  """The same numbers in float64."""
  return tree(lambda x: np.asarray(x, np.float64), values)


def make_batch(b: int, seed: int, channels: bool = False) -> dict[str, np.ndarray]:
  rng = np.random.default_rng(seed)
  normal = lambda *shape: rng.standard_normal(shape).astype(np.float32)
  batch = {
    "video": normal(b, FRAMES, 2 * ROWS, 2 * COLUMNS, 6),
    "audio": normal(b, AUDIO, 4),
    "text": normal(b, *TEXT),
    "null_text": normal(*TEXT),
  }
  batch["text"][:, 3:] = 0  # the padding behind a text
  if channels:
    batch["condition"] = normal(b, FRAMES, 2 * ROWS, 2 * COLUMNS, CONDITION)
    # Small, so that what a norm adds to their variance counts.
    batch["image"] = 0.004 * normal(b, IMAGE_TOKENS, 1280)
  return batch


def leaves(params, path=()):
  """(path, array) of every parameter."""
  if not isinstance(params, dict):
    yield path, params
    return
  for name, value in params.items():
    yield from leaves(value, (*path, name))


def moved(params, path, step):
  """The parameters with `step` added at `path`."""
  if not path:
    return params + step
  name, *rest = path
  return {**params, name: moved(params[name], rest, step)}
