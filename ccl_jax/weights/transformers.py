"""Transformers and the published ones: the network of converted parameters, and the
published network, by the command that converts it, that a network of ours is.
"""

import dataclasses
from collections.abc import Callable, Mapping

import jax.numpy as jnp

from ccl_jax.checkpoints.converted import of_sizes
from ccl_jax.checkpoints.find import Parameters
from ccl_jax.errors import UsageError
from ccl_jax.models.joint import JointDiT
from ccl_jax.models.presets import stored_model
from ccl_jax.weights import ovi, wan
from ccl_jax.weights.upstream import Sizes

# Kind of the config.json -> (sizes, dtype) -> the network.
MODELS: Mapping[str, Callable[..., JointDiT]] = {
  "wan-dit": wan.model_of,
  "ovi-dit": ovi.model_of,
}


def model_of(found: Parameters) -> JointDiT:
  """The network of parameters on disk, converted, joined or of a run.

  Raises:
    UsageError: their description is not one of this version.
  """
  about = found.description
  if about.get("kind") not in MODELS:
    return found.build("model", stored_model)
  build = MODELS[about["kind"]]
  return of_sizes(found.folder, lambda sizes: build(sizes, jnp.bfloat16), about)


def published_as(
  model: JointDiT, text_dim: int, edition: str | None = None
) -> tuple[str, Sizes]:
  """The published network that holds a network of ours, as (kind, its sizes): Ovi's
  all of one whose streams meet by fusion, Wan's the video stream of any other.

  Args:
    model: the network.
    text_dim: the width of its text embeddings.
    edition: of Ovi, that it started from; None: not known.

  Raises:
    UsageError: it differs from what the published files are of.
  """
  streams = dict(model.streams)
  if "video" not in streams:
    raise UsageError(
      "it has no video stream, and no published layout holds an audio stream alone"
    )
  if model.cross is not None and model.cross.variant == "fusion":
    kind, whose, sizes = "ovi-dit", "Ovi", ovi.sizes_of_model(model, text_dim, edition)
  else:
    kind, whose, sizes = "wan-dit", "Wan", wan.sizes_of_model(model, text_dim)
  for s, theirs in MODELS[kind](sizes, jnp.float32).streams:
    if streams[s].head_width != wan.HEAD_WIDTH:
      raise UsageError(
        f"its {s} stream has {streams[s].heads} heads of {streams[s].head_width}; "
        f"{whose}'s layout has heads of {wan.HEAD_WIDTH}"
      )
    expected = dataclasses.asdict(theirs)
    if s == "audio" and not streams[s].taps:
      expected["taps"] = "a convolution's"
    for name, value in dataclasses.asdict(streams[s]).items():
      if value != expected[name]:
        raise UsageError(
          f"its {s} stream has {name}={value}; {whose}'s layout has {expected[name]}"
        )
  if kind == "ovi-dit" and sizes["video"]["width"] != sizes["audio"]["width"]:
    raise UsageError(
      f"its streams have widths {sizes['video']['width']} and "
      f"{sizes['audio']['width']}; Ovi's layout has two of one width"
    )
  channels = streams["video"].in_channels, streams["video"].out_channels
  if kind == "wan-dit" and channels not in wan.CHANNELS:
    known = ", ".join(f"{into} and {out}" for into, out in wan.CHANNELS)
    raise UsageError(
      f"its video stream takes {channels[0]} channels and gives {channels[1]}; Wan's "
      f"layout has {known}"
    )
  return kind, sizes
