"""The frozen translators between the world and the network: video, audio, text, image.

  video.encode(pixels (b F H W 3) in [-1, 1]) -> latents (b t h w c)      .decode back
  video.posterior(pixels) -> the latents' mean and deviation, of a VAE
  audio.encode(wave (b n), n = 512 a at 16 kHz) -> latents (b a 20)       .decode back
  text.tokenize(list of str) -> ids, mask (b l) on the host
  text.encode(ids, mask) -> rows (b l e), zero where not mask
  image.encode(pixels (b H W 3) in [-1, 1]) -> CLIP tokens (b i 1280)

A codec is a `flax.struct.PyTreeNode`: its arrays are leaves and its sizes static, so it
is passed to jitted functions as an argument. A new kind of codec adds a row to `KINDS`.
A bundle is a folder that holds, for each codec that it has, NAME.safetensors with the
arrays and NAME.json with the kind, the sizes and a hash of it all. A codec's field
`tokenizer`, if it has one, is NAME.tokenizer beside them.

Large arrays are not copied into every bundle: a codec of converted weights has `links`,
(field, folder, hash) of the folders that `convert` wrote its fields to, and so has its
NAME.json.
"""

import dataclasses
import hashlib
import json
import os
from collections.abc import Collection, Mapping
from typing import Annotated, Any, NamedTuple, NotRequired

import jax
import jax.numpy as jnp
import numpy as np
import pydantic
from flax import traverse_util
from jaxtyping import Array, Float
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file
from typing_extensions import TypedDict

from ccl_jax.checkpoints import converted
from ccl_jax.checkpoints.find import BAD_VALUES
from ccl_jax.documents import Malformed, Sha256, Size, Unreadable, check, read_json
from ccl_jax.errors import UsageError, system_error
from ccl_jax.files import (
  UNFINISHED,
  put,
  require_whole,
  scratch_folder,
  write_error,
  write_json,
)
from ccl_jax.models.byte_text import ByteText
from ccl_jax.models.clip_vision import ClipImage
from ccl_jax.models.linear_codec import LinearAudioCodec, LinearVideoCodec
from ccl_jax.models.mel_codec import MelAudioCodec
from ccl_jax.models.tokenizer import Tokenizer
from ccl_jax.models.umt5 import UMT5Text
from ccl_jax.models.wan_vae import Wan22VideoCodec, WanVideoCodec
from ccl_jax.remote.copies import local
from ccl_jax.remote.paths import Place, place, told

KINDS = {
  "linear_video": LinearVideoCodec,
  "linear_audio": LinearAudioCodec,
  "byte_text": ByteText,
  "umt5": UMT5Text,
  "wan_vae": WanVideoCodec,
  "wan22_vae": Wan22VideoCodec,
  "clip": ClipImage,
  "mel_audio": MelAudioCodec,
}


class Codecs(NamedTuple):
  """One codec of each sort, or None; the bundle is a pytree too."""

  video: Any = None
  audio: Any = None
  text: Any = None
  image: Any = None


def save_codecs(codecs: Codecs, folder: str | os.PathLike) -> None:
  """Writes a bundle: the folder appears whole or not at all.

  Args:
    folder: new, or one that holds codecs only, which is replaced.

  Raises:
    UsageError: the folder holds something else.
    WriteError: the system refused.
  """
  folder = place(folder).absolute()
  ends = (".json", ".safetensors", ".tokenizer")
  names = {name + end for name in Codecs._fields for end in ends} | {UNFINISHED}
  if folder.exists() and not (
    folder.is_dir() and {p.name for p in folder.iterdir()} <= names
  ):
    raise UsageError(f"{folder} holds more than codecs: name a new or empty folder")
  with scratch_folder(folder) as fresh:
    for name, codec in _present(codecs):
      kind, static, links, arrays, tokenizer = _parts(codec)
      entry = {"kind": kind, "static": static, "links": links, "sha256": _digest(codec)}
      try:
        save_file(arrays, fresh / f"{name}.safetensors")
      except SafetensorError as e:
        if (error := system_error(e)) is None:
          raise
        raise write_error(error, folder) from e
      if tokenizer is not None:
        (fresh / f"{name}.tokenizer").write_bytes(tokenizer.file)
      write_json(fresh / f"{name}.json", entry, indent=2)
    put(fresh, folder)


def load_codecs(
  folder: str | os.PathLike, only: Collection[str] = Codecs._fields
) -> Codecs:
  """Reads a folder of `save_codecs`, bit for bit, and the weights that it links to.

  Args:
    folder: of the bundle.
    only: names of the codecs that are wanted, of those that it has.

  Raises:
    UsageError: the folder holds no codecs, damaged ones, or links to weights that have
      changed.
  """
  require_whole(folder)
  folder = place(folder)
  names = [name for name in Codecs._fields if (folder / f"{name}.json").is_file()]
  if not names:
    raise UsageError(
      f"{folder} holds no codecs: expected a folder with video.json, audio.json, "
      "text.json"
    )
  return Codecs(**{name: _load(folder, name) for name in names if name in only})


def stored_digests(folder: str | os.PathLike) -> dict[str, str]:
  """The fingerprints that a folder of `save_codecs` names, by codec; none is read.

  Raises:
    UsageError: a file cannot be read as JSON, or names no hash.
  """
  require_whole(folder)
  out = {}
  for name in Codecs._fields:
    path = place(folder) / f"{name}.json"
    if path.is_file():
      entry = check(read_json(path), Stored, path, "put a good copy back")
      out[name] = entry["sha256"]
  return out


def fingerprint(codecs: Codecs) -> str:
  """A hash of all codecs: kinds, sizes and arrays. It identifies what made latents."""
  return joint_fingerprint(fingerprints(codecs))


def joint_fingerprint(prints: Mapping[str, str]) -> str:
  """The hash of all codecs of a bundle, of the hash of each by its name."""
  ordered = [prints[name] for name in Codecs._fields if name in prints]
  return hashlib.sha256("".join(ordered).encode()).hexdigest()


def fingerprints(codecs: Codecs) -> dict[str, str]:
  """The hash of each codec of the bundle, by name: its kind, sizes and arrays."""
  return {name: _digest(codec) for name, codec in _present(codecs)}


def require_same(
  codecs: Codecs | Mapping[str, str],
  then: Mapping[str, str] | str,
  advice: str,
  *,
  whole: bool = False,
) -> None:
  """Checks that codecs are those whose `fingerprints` were stored.

  Args:
    codecs: the bundle, or its `fingerprints`; what only one of both has is not
      compared.
    then: the stored fingerprints.
    advice: what the user is to do.
    whole: whether all that were stored must be there.

  Raises:
    UsageError: a codec is another one or not there, or `then` is of an earlier version.
  """
  if not isinstance(then, Mapping):
    raise UsageError(
      "the checkpoint was written by an earlier version, which stored no fingerprint "
      "of each codec: train again, or generate with that version"
    )
  here = codecs if isinstance(codecs, Mapping) else fingerprints(codecs)
  if whole and (missing := [name for name in then if name not in here]):
    raise UsageError(
      f"there is no {missing[0]} codec, which the checkpoint was trained with: {advice}"
    )
  for name, now in here.items():
    if now != then.get(name, now):
      raise UsageError(
        f"the {name} codec ({now[:8]}) is not the one the checkpoint was trained with "
        f"({then[name][:8]}): {advice}"
      )


def require_fit(codecs: Codecs, channels: Mapping[str, int], stride: int) -> None:
  """Checks that codecs make the latents that a model takes.

  Args:
    codecs: the bundle; a codec that it lacks is not checked.
    channels: of the model's latents, by stream.
    stride: pixels of a video latent's side, by the clip.

  Raises:
    UsageError: a codec has other channels, or the video codec another stride.
  """
  for name, expected in channels.items():
    codec = getattr(codecs, name)
    if codec is not None and codec.channels != expected:
      raise UsageError(
        f"the {name} codec makes latents of {codec.channels} channels, the model takes "
        f"{expected}: name the codecs that belong to the model"
      )
  if "video" in channels and codecs.video and codecs.video.stride[1] != stride:
    raise UsageError(
      f"a latent of the video codec stands for {codecs.video.stride[1]} x "
      f"{codecs.video.stride[1]} pixels, the clip's stride is {stride}: set "
      f"config.clip.stride={codecs.video.stride[1]}, or name other codecs"
    )


def null_text(codecs: Codecs) -> Float[Array, "l e"]:
  """The embedding (l, e) of the empty prompt, which stands for no text."""
  return jax.jit(codecs.text.encode)(*codecs.text.tokenize([""]))[0]


def _present(codecs: Codecs) -> list[tuple[str, Any]]:
  return [(name, codec) for name, codec in codecs._asdict().items() if codec]


def _load(folder: Place, name: str):
  entry_path, array_path = folder / f"{name}.json", folder / f"{name}.safetensors"
  _require(entry_path, array_path)
  damaged = lambda why: UsageError(
    f"the {name} codec in {folder} is damaged ({why}): fit or save it again"
  )
  try:
    entry = check(read_json(entry_path), Entry, entry_path.name, "see bundle.py")
    kind, static, digest = entry["kind"], entry["static"], entry["sha256"]
    with local(array_path) as file:
      arrays = load_file(file)
    links = tuple(map(tuple, entry.get("links", ())))
  except (Malformed, ValueError, SafetensorError) as e:
    raise damaged(e) from e
  except (Unreadable, OSError) as e:  # of the system: the files may be fine
    raise UsageError(f"cannot read the {name} codec in {folder}: {e}") from e
  if kind not in KINDS:
    known = ", ".join(KINDS)
    raise UsageError(f"{entry_path} names the kind {kind!r}, expected one of {known}")
  try:
    check(static, _static(kind), f"{name}.json: static", "see bundle.py")
  except Malformed as e:
    raise damaged(e) from e
  leaves = {key: jnp.asarray(value) for key, value in arrays.items()}
  # Names such as "params/layer/kernel" are paths of a tree.
  leaves = traverse_util.unflatten_dict(leaves, sep="/")
  if "tokenizer" in {field.name for field in dataclasses.fields(KINDS[kind])}:
    path = folder / f"{name}.tokenizer"
    _require(path)
    leaves["tokenizer"] = Tokenizer(path.read_bytes())
  if links:
    leaves["links"] = links
  fields = {f.name for f in dataclasses.fields(KINDS[kind])}
  for field, text, sha256 in links:
    if field not in fields:
      raise damaged(f"it links to weights of {field!r}, which no {kind} has")
    weights = told(text, entry_path)
    if converted.digest(weights) != sha256:
      raise UsageError(
        f"{entry_path} was made with other weights than those that are in {weights} now"
      )
    leaves[field] = converted.restore_converted(weights, static.get("dtype", "float32"))
  try:
    codec = KINDS[kind](**static, **leaves)
    # Of the codec as it was built: a change of any byte, or of a default, shows.
    same = _digest(codec) == digest
  except (UsageError, *BAD_VALUES) as e:
    raise damaged(str(e)) from e
  if not same:
    raise damaged("it does not match its hash")
  return codec


class Stored(TypedDict):
  """What of NAME.json is read without the codec."""

  sha256: Sha256


class Entry(TypedDict):
  """The content of NAME.json, which describes one codec."""

  kind: str
  static: dict[str, Any]
  links: NotRequired[
    list[Annotated[list[str], pydantic.Field(min_length=3, max_length=3)]]
  ]
  sha256: Sha256


def _static(kind: str) -> Any:
  """The schema of a codec's sizes: the types of its fields, each in its range."""
  types = {int: Size, int | None: Size | None, str: str}
  fields = [f for f in dataclasses.fields(KINDS[kind]) if f.type in types]
  static = {
    f.name: NotRequired[types[f.type]]
    for f in fields if not f.metadata.get("pytree_node", True)
  }  # fmt: skip
  return TypedDict(f"{kind} sizes", static)


def _require(*paths: Place) -> None:
  for path in paths:
    if not path.is_file():
      raise UsageError(
        f"no {path.name} in {path.parent}: expected a folder written by save_codecs"
      )


def _parts(codec):
  """A codec's kind, its static fields, its links, its arrays under flat names, its
  tokenizer.
  """
  kind = {cls: name for name, cls in KINDS.items()}[type(codec)]
  static, leaves = {}, {}
  for field in dataclasses.fields(codec):
    is_leaf = field.metadata.get("pytree_node", True)
    (leaves if is_leaf else static)[field.name] = getattr(codec, field.name)
  tokenizer, links = static.pop("tokenizer", None), static.pop("links", ())
  for field, _, _ in links:
    # Linked arrays stay in their own folder.
    leaves.pop(field)
  flat = traverse_util.flatten_dict(leaves, sep="/")
  arrays = {k: np.asarray(v, order="C") for k, v in flat.items() if v is not None}
  return kind, static, links, arrays, tokenizer


def _digest(codec) -> str:
  kind, static, links, arrays, tokenizer = _parts(codec)
  # Not of where a link points to, but of what is there.
  entry = [kind, static, *([field, sha256] for field, _, sha256 in links)]
  digest = hashlib.sha256(json.dumps(entry, sort_keys=True).encode())
  for key, value in sorted(arrays.items()):
    digest.update(f"{key} {value.dtype} {value.shape}".encode())
    digest.update(value.tobytes())
  if tokenizer is not None:
    digest.update(tokenizer.file)
  return digest.hexdigest()
