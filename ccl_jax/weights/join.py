"""Joins two streams that were trained apart into one model.

The video stream is a converted Wan's or Ovi's, or a run's; the audio stream is Ovi's or
a run's, or random; of a model that has an exchange only the streams are taken. The
exchange between them is fresh: what it adds is zero, so the joint model starts as the
two streams, bit for bit (models/cca.py, models/fusion.py).

An image condition takes the form the video stream was made for: text-to-video weights
get a clean first frame among the noisy ones, image-to-video weights their mask and
condition channels and CLIP tokens.
"""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from flax import traverse_util

from ccl_jax import progress
from ccl_jax.checkpoints.find import find_parameters
from ccl_jax.checkpoints.folders import new_folder
from ccl_jax.checkpoints.slices import SliceReader, SliceWriter
from ccl_jax.errors import UsageError
from ccl_jax.files import write_json
from ccl_jax.models.joint import JointDiT
from ccl_jax.models.presets import (
  build_model,
  init_params,
  parameter_shapes,
  stored_model,
)
from ccl_jax.seeds import noise_key, whole_seed
from ccl_jax.weights.wan import usage_of


class Part:
  """One stream's parameters in a folder: converted, or of a run (its EMA).

  Args:
    folder: as of `find_parameters`.
    stream: "video" or "audio".

  Attributes:
    config: the folder's config.json, or the metadata of the run's checkpoint.
    codecs: the bundle that belongs to the parameters, if there is one.
    reader: of the parameters, layer by layer.

  Raises:
    UsageError: the folder holds no such stream.
  """

  def __init__(self, folder, stream: str):
    try:
      parameters = find_parameters(folder)
    except UsageError as e:
      raise UsageError(f"--{stream} {e}") from e
    if "base" in parameters.description:
      raise UsageError(
        f"--{stream} {folder} holds a trained part of a model, not a model; expected "
        "one, or 'convert lora' to write the part"
      )
    self.folder, self.stream, self.config = (
      parameters.folder,
      stream,
      parameters.description,
    )
    self.codecs, self._parameters = parameters.codecs, parameters
    self.reader = SliceReader(self.folder / "checkpoints", name=parameters.name)
    if not any(map(self.owns, self.reader.shapes)):
      raise UsageError(f"--{stream} {folder} has no {stream} stream")

  def owns(self, path: str) -> bool:
    """Whether a parameter of the joint model is this stream's."""
    return path.startswith((f"{self.stream}/", f"blocks/{self.stream}/"))

  def shape(self, path: str) -> tuple[int, ...]:
    """The shape of a parameter.

    Raises:
      UsageError: the part does not have it.
    """
    if path not in self.reader.shapes:
      raise UsageError(f"--{self.stream} {self.folder} has no {path}")
    return self.reader.shapes[path].shape

  def model(self) -> JointDiT:
    """The network of a joined model or a run, whose streams this part is one of.

    Raises:
      UsageError: its description is not one of this version.
    """
    return self._parameters.build("model", stored_model)

  def sizes(self) -> dict[str, Any]:
    """The fields of the stream's `StreamConfig`, and its depth."""
    if "sizes" in self.config:
      sizes = self.config["sizes"]
      if isinstance(own := sizes.get(self.stream), dict):  # of a model of two streams
        return own | {"depth": sizes["depth"]}
      return sizes
    model = self.model()
    return dataclasses.asdict(dict(model.streams)[self.stream]) | {"depth": model.depth}


def join(
  video,
  audio,
  dst,
  *,
  size: str,
  variant: str = "context",
  seed: int = 0,
  video_tokens: int | None = None,
  audio_tokens: int | None = None,
) -> dict[str, Any]:
  """Writes the joint checkpoint into the folder `dst`; returns its config.json.

  Args:
    video: a folder with the video stream.
    audio: a folder with the audio stream; None draws one from `seed`.
    dst: a new folder.
    size: a name of `models.presets.PRESETS`.
    variant: of the exchange.
    seed: of the parameters that no part has. Those that two variants share are the
      same for both, bit for bit.
    video_tokens, audio_tokens: context tokens of the exchange; None: the preset's.

  Raises:
    UsageError: a stream is not of that size, or `dst` is there already.
  """
  whole_seed(seed)
  parts = [Part(video, "video")] + ([Part(audio, "audio")] if audio else [])
  kernel = "video/patch_embedding/kernel"
  options = {
    "preset": size,
    "variant": variant,
    "times": "causal",
    # I2V takes mask and image channels beside the latent's.
    "image_form": "first_last"
    if parts[0].owns("video/image_positions")
    else "channels"
    if parts[0].shape(kernel)[0] > parts[0].shape("video/head/bias")[0]
    else "first_frame",
  }
  given = {"video_tokens": video_tokens, "audio_tokens": audio_tokens}
  options |= {name: n for name, n in given.items() if n is not None}
  model = build_model(**options, dtype="float32")
  text_dim = parts[0].shape("video/text_embedding/in/kernel")[0]
  shapes = _shapes(model, text_dim)
  owner = {path: next((p for p in parts if p.owns(path)), None) for path in shapes}
  for part in parts:
    _check(part, model, size, {p: x for p, x in shapes.items() if owner[p] is part})
  shapes = {
    # Imported parameters keep the dtype they are stored in.
    path: x
    if owner[path] is None
    else x.update(dtype=owner[path].reader.shapes[path].dtype)
    for path, x in shapes.items()
  }
  total = sum(x.size * x.dtype.itemsize for x in shapes.values())
  config = {
    "kind": "joint",
    "model": options,
    "streams": {p.stream: p.config.get("source", str(p.folder)) for p in parts},
    "random": sorted({_group(path) for path in shapes if owner[path] is None}),
    "seed": seed,
  }
  config |= _usage([(p.stream, usage_of(p.config)) for p in parts])
  if parts[0].codecs:
    config["codecs"] = str(parts[0].codecs.absolute())
  fresh = functools.partial(
    _fresh, model, text_dim, tuple(path for path in shapes if owner[path] is None)
  )
  with (
    new_folder(dst, total) as folder,
    SliceWriter(folder / "checkpoints", shapes) as writer,
  ):
    with progress.Bar("joining", total, "B") as bar:
      # One layer at a time: a 14B model need not fit in memory.
      for slot in [None, *range(model.depth)]:
        drawn = fresh(seed=seed, slot=slot)
        at = () if slot is None else (slot,)
        for path in shapes:
          if path.startswith("blocks/") is (slot is None):
            continue
          part = owner[path]
          array = drawn[path] if part is None else part.reader.read(path, at)
          writer.write(path, at, np.asarray(array))
          bar.update(array.nbytes)
    writer.finish(config)
    write_json(folder / "config.json", config, indent=2)
  return config


def _usage(parts: Sequence[tuple[str, Mapping[str, Any]]]) -> dict[str, Any]:
  """What of the parts' settings holds for the joint model: sizes are the video's,
  negative prompts each stream's own, and prompts have the form that the audio stream
  knows, or else the video's. Guidance and tasks were of another exchange.
  """
  (_, video), (_, last) = parts[0], parts[-1]
  sizes = ("clip", "objective", "area", "area_rule", "fit")
  out = {name: video[name] for name in sizes if name in video}
  negative = {s: usage.get("negative", {}).get(s, "") for s, usage in parts}
  out["negative"] = {s: text for s, text in negative.items() if text}
  if sound := last.get("sound") or video.get("sound"):
    out["sound"] = sound
  return out


def _shapes(model: JointDiT, text_dim: int) -> dict[str, jax.ShapeDtypeStruct]:
  return traverse_util.flatten_dict(parameter_shapes(model, (8, text_dim)), sep="/")


def _check(part: Part, model: JointDiT, size: str, shapes: Mapping) -> None:
  """The part is the stream that a model of this size has."""
  own = dataclasses.asdict(dict(model.streams)[part.stream]) | {"depth": model.depth}
  for key, value in part.sizes().items():
    if key in own and _plain(value) != _plain(own[key]):
      raise UsageError(
        f"--{part.stream} {part.folder} has {key}={value}, expected {own[key]} for "
        f"--size {size}"
      )
  for path, x in shapes.items():
    if part.shape(path) != x.shape:
      raise UsageError(
        f"--{part.stream} {part.folder}: {path} is {part.shape(path)}, expected "
        f"{x.shape} for --size {size} and the text embeddings of --video"
      )


def _plain(value):
  return list(value) if isinstance(value, tuple) else value


def _group(path: str) -> str:
  parts = path.split("/")
  return "/".join(parts[: 2 if parts[0] == "blocks" else 1])


@functools.cache
def _drawer(model: JointDiT, text_dim: int, paths: tuple[str, ...]):
  """A program from a key to the parameters at `paths` of a model of one block.

  The compiler drops what the others would have cost.
  """
  one = model.clone(depth=1)

  def draw(key):
    flat = traverse_util.flatten_dict(init_params(one, key, (8, text_dim)), sep="/")
    # A stack of one block: its only layer.
    return {p: flat[p][0] if p.startswith("blocks/") else flat[p] for p in paths}

  return jax.jit(draw)


def _fresh(model, text_dim, paths, *, seed: int, slot: int | None):
  """Fresh parameters of layer `slot`, or (None) of all that is no layer."""
  paths = tuple(p for p in paths if p.startswith("blocks/") is (slot is not None))
  # Each layer has a key of its own, so that its draw depends on nothing before it.
  key = jax.random.fold_in(noise_key(seed), model.depth if slot is None else slot)
  return jax.device_get(_drawer(model, text_dim, paths)(key)) if paths else {}
