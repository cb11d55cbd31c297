"""Converts a whole Wan2.1 download in one command.

  DST/dit, vae, umt5, clip   what `convert KIND` makes of each network
  DST/codecs                 the bundle of the codecs among them, by reference
  DST/config.json            written last: without it the folder is not whole

Every network appears when it is whole, so an interrupted conversion goes on where it
was, with the same command: DST/unfinished.json tells which that is.
"""

import pathlib
from collections.abc import Sequence

from ccl_jax.checkpoints.find import DIT
from ccl_jax.codecs.bundle import Codecs, save_codecs
from ccl_jax.codecs.links import link_codec
from ccl_jax.errors import UsageError
from ccl_jax.files import write_json
from ccl_jax.weights.strict_json import read_object
from ccl_jax.weights.transfer import import_weights, open_source

UNFINISHED = "unfinished.json"  # what the conversion under way was asked for
# Network -> the codec it is, and the dtype it is kept in; None: that of the source.
# The text encoder runs in bfloat16, whatever its files are in.
PARTS = {
  "wan-vae": ("vae", "video", None),
  "umt5": ("umt5", "text", "bfloat16"),
  "clip": ("clip", "image", None),
}


def convert_release(
  src, dst, *, dtype: str | None = None, verify: bool = False
) -> dict[str, str]:
  """Converts the download `src` into the folder `dst`; returns its config.json.

  Args:
    src: the folder of the download.
    dst: a new folder, or one that the same command has begun.
    dtype: to store the transformer in; as it is in the source if not given.
    verify: read everything back, and compare it tensor by tensor.

  Raises:
    UsageError: a network is missing or not what it should be; nothing is written then.
  """
  dst = pathlib.Path(dst)
  if (dst / "config.json").exists():
    raise UsageError(f"{dst} is there already: name a new folder")
  request = {"src": str(pathlib.Path(src).absolute()), "dtype": dtype}
  dit = open_source("wan-dit", src)
  kinds = [k for k in PARTS if k != "clip" or dit.sizes["image_tokens"]]
  for kind in kinds:
    open_source(kind, src)
  _begin(dst, request)
  for kind in kinds:
    folder, _, stored = PARTS[kind]
    _import_once(kind, src, dst / folder, stored, verify)
  _import_once("wan-dit", src, dst / DIT, dtype, verify)
  link_codecs(
    dst / "codecs", **{PARTS[kind][1]: [dst / PARTS[kind][0]] for kind in kinds}
  )
  config = {"kind": "wan", "name": pathlib.Path(src).absolute().name}
  write_json(dst / "config.json", config, indent=2)
  (dst / UNFINISHED).unlink()
  return config


def _begin(dst: pathlib.Path, request: dict) -> None:
  """Notes what is asked for, so that only the same command goes on with it.

  Raises:
    UsageError: the folder was begun by another.
  """
  path = dst / UNFINISHED
  if path.is_file():
    begun = read_object(path)
    for key, value in request.items():
      if begun.get(key) != value:
        raise UsageError(
          f"{dst} was begun with --{key} {begun.get(key)}, got {value}: give the same, "
          "or name a new folder"
        )
    return
  write_json(path, request)


def _import_once(kind: str, src, dst: pathlib.Path, dtype, verify) -> None:
  if not (dst / "config.json").is_file():
    import_weights(kind, src, dst, dtype=dtype, verify=verify)


def link_codecs(dst, **folders: Sequence | None) -> None:
  """Writes a bundle of converted codecs into the folder `dst`.

  Args:
    folders: of each codec, by "video", "audio", "text", "image"; None: it has none.

  Raises:
    UsageError: there is none, or folders make no codec.
  """
  codecs = {name: link_codec(*given) for name, given in folders.items() if given}
  if not codecs:
    raise UsageError(
      "got no codec for the bundle: expected --video, --audio, --text or --image"
    )
  save_codecs(Codecs(**codecs), dst)
