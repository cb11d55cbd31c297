"""The frozen translators between the world and the network: video, audio, text.

  video.encode(pixels (b F H W 3) in [-1, 1]) -> latents (b t h w 16)     .decode back
  audio.encode(wave (b n), n = 512 a at 16 kHz) -> latents (b a 20)       .decode back
  text.tokenize(list of str) -> ids, mask (b l) on the host
  text.encode(ids, mask) -> rows (b l e), zero where not mask

A codec is a `flax.struct.PyTreeNode`: its arrays are leaves and its sizes static, so it
is passed to jitted functions as an argument. A new kind of codec adds a row to `KINDS`.
A folder holds, for each of the three, NAME.safetensors with the arrays and NAME.json
with the kind, the sizes and a hash of it all. A codec's field `tokenizer`, if it has
one, is NAME.tokenizer beside them.
"""

import dataclasses
import hashlib
import json
import os
import pathlib
import shutil
from collections.abc import Iterable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util
from jaxtyping import Array, Float
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from ccl_jax.errors import UsageError
from ccl_jax.models.byte_text import ByteText
from ccl_jax.models.linear_codec import (
  AudioFit,
  LinearAudioCodec,
  LinearVideoCodec,
  VideoFit,
)
from ccl_jax.models.tokenizer import Tokenizer
from ccl_jax.models.umt5 import UMT5Text
from ccl_jax.models.wan_vae import WanVideoCodec

KINDS = {
  "linear_video": LinearVideoCodec,
  "linear_audio": LinearAudioCodec,
  "byte_text": ByteText,
  "umt5": UMT5Text,
  "wan_vae": WanVideoCodec,
}


class Codecs(NamedTuple):
  """One codec of each sort; the bundle is a pytree too."""

  video: Any
  audio: Any
  text: Any


def to_unit(pixels):
  """Bytes 0..255 as float32 in [-1, 1]."""
  return pixels.astype(jnp.float32) / 127.5 - 1


def to_bytes(pixels):
  """[-1, 1], clipped, as the nearest of 0..255."""
  return jnp.round((pixels.clip(-1, 1) + 1) * 127.5).astype(jnp.uint8)


def fit_codecs(
  clips: Iterable[dict[str, Any]], *, text_length: int, text_dim: int
) -> Codecs:
  """The embedded codecs, which need no weights, fitted in one pass over clips (dicts
  with `video` uint8 (F, H, W, 3), `audio` (n,) or both); a few hundred are plenty.
  """
  fits, seen = {"video": VideoFit(), "audio": AudioFit()}, 0
  for seen, clip in enumerate(clips, 1):  # noqa: B007
    for stream in fits.keys() & clip.keys():
      fits[stream].add(clip[stream])
  if not seen:
    raise UsageError("got no clips to fit the codecs to, expected at least one")
  video, audio = (fit.codec() for fit in fits.values())
  return Codecs(video, audio, ByteText(text_length, text_dim))


def save_codecs(codecs: Codecs, folder: str | os.PathLike) -> None:
  """Writes the folder whole or not at all; replaces one that holds codecs only."""
  folder = pathlib.Path(folder).absolute()
  ends = (".json", ".safetensors", ".tokenizer")
  files = {name + end for name in Codecs._fields for end in ends}
  if folder.exists() and not (
    folder.is_dir() and {p.name for p in folder.iterdir()} <= files
  ):
    raise UsageError(f"{folder} holds more than codecs: name a new or empty folder")
  fresh, stale = (
    folder.with_name(f".{folder.name}.{os.getpid()}.{age}") for age in ("new", "old")
  )
  fresh.mkdir(parents=True)
  try:
    for name, codec in codecs._asdict().items():
      kind, static, arrays, tokenizer = _parts(codec)
      about = {"kind": kind, "static": static, "sha256": _digest(codec)}
      save_file(arrays, fresh / f"{name}.safetensors")
      if tokenizer is not None:
        (fresh / f"{name}.tokenizer").write_bytes(tokenizer.file)
      (fresh / f"{name}.json").write_text(json.dumps(about, indent=2) + "\n")
    if folder.exists():
      folder.rename(stale)
    fresh.rename(folder)
    shutil.rmtree(stale, ignore_errors=True)
  finally:
    shutil.rmtree(fresh, ignore_errors=True)


def load_codecs(folder: str | os.PathLike) -> Codecs:
  """Reads a folder of `save_codecs`, bit for bit."""
  folder = pathlib.Path(folder)
  return Codecs(*(_load(folder, name) for name in Codecs._fields))


def fingerprint(codecs: Codecs) -> str:
  """A hash of kinds, sizes and arrays: latents are only worth what made them."""
  return hashlib.sha256("".join(fingerprints(codecs).values()).encode()).hexdigest()


def fingerprints(codecs: Codecs) -> dict[str, str]:
  """As `fingerprint`, of each codec alone."""
  return {name: _digest(codec) for name, codec in codecs._asdict().items()}


def null_text(codecs: Codecs) -> Float[Array, "l e"]:
  """The embedding that stands for no text."""
  return jax.jit(codecs.text.encode)(*codecs.text.tokenize([""]))[0]


def _load(folder: pathlib.Path, name: str):
  about_path, array_path = folder / f"{name}.json", folder / f"{name}.safetensors"
  _require(about_path, array_path)
  damaged = UsageError(f"the {name} codec in {folder} is damaged: fit or save it again")
  try:
    about = json.loads(about_path.read_text())
    kind, static, digest = about["kind"], about["static"], about["sha256"]
    arrays = load_file(array_path)
  except (ValueError, KeyError, TypeError, SafetensorError) as e:
    raise damaged from e
  if kind not in KINDS:
    known = ", ".join(KINDS)
    raise UsageError(f"{about_path} names the kind {kind!r}, expected one of {known}")
  leaves = {key: jnp.asarray(value) for key, value in arrays.items()}
  leaves = traverse_util.unflatten_dict(leaves, sep="/")
  if "tokenizer" in {field.name for field in dataclasses.fields(KINDS[kind])}:
    path = folder / f"{name}.tokenizer"
    _require(path)
    leaves["tokenizer"] = Tokenizer(path.read_bytes())
  try:
    codec = KINDS[kind](**static, **leaves)
  except TypeError as e:
    raise damaged from e
  if _digest(codec) != digest:
    raise damaged
  return codec


def _require(*paths: pathlib.Path) -> None:
  for path in paths:
    if not path.is_file():
      raise UsageError(
        f"no {path.name} in {path.parent}: expected a folder written by save_codecs"
      )


def _parts(codec):
  """A codec's kind, its static fields, its arrays under flat names, its tokenizer."""
  kind = {cls: name for name, cls in KINDS.items()}[type(codec)]
  static, leaves = {}, {}
  for field in dataclasses.fields(codec):
    is_leaf = field.metadata.get("pytree_node", True)
    (leaves if is_leaf else static)[field.name] = getattr(codec, field.name)
  tokenizer = static.pop("tokenizer", None)
  flat = traverse_util.flatten_dict(leaves, sep="/")
  arrays = {k: np.asarray(v, order="C") for k, v in flat.items()}
  return kind, static, arrays, tokenizer


def _digest(codec) -> str:
  kind, static, arrays, tokenizer = _parts(codec)
  digest = hashlib.sha256(json.dumps([kind, static], sort_keys=True).encode())
  for key, value in sorted(arrays.items()):
    digest.update(f"{key} {value.dtype} {value.shape}".encode())
    digest.update(value.tobytes())
  if tokenizer is not None:
    digest.update(tokenizer.file)
  return digest.hexdigest()
