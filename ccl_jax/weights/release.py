"""Converts a whole download, of Wan2.1, Wan2.2-TI2V-5B or Ovi, in one command.

  DST/dit, vae, umt5, ...    what `convert KIND` makes of each network
  DST/codecs                 the bundle of the codecs among them, by reference
  DST/config.json            written last: without it the folder is not whole

Every network appears when it is whole, so an interrupted conversion goes on where it
was, with the same command: DST/unfinished.json tells which that is.
"""

import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from ccl_jax import hub
from ccl_jax.checkpoints.find import DIT
from ccl_jax.codecs.bundle import Codecs, save_codecs
from ccl_jax.codecs.links import link_codec
from ccl_jax.documents import check, read_json
from ccl_jax.errors import UsageError
from ccl_jax.files import write_json
from ccl_jax.remote.copies import local_tree
from ccl_jax.remote.paths import Place, place
from ccl_jax.weights.download import source_name, wanted_files
from ccl_jax.weights.transfer import import_weights, open_source
from ccl_jax.weights.upstream import Sizes

UNFINISHED = "unfinished.json"  # what the conversion under way was asked for


class Part(NamedTuple):
  """A codec of a download.

  Attributes:
    folder: in the result.
    codec: what it is of the bundle.
    dtype: that it is kept in; None: that of the source. The text encoder runs in
      bfloat16, whatever its files are in.
    place: the folder of the download that has it.
    file: in it, where files of several such networks may be.
    needed: whether a transformer of these sizes needs it.
  """

  folder: str
  codec: str
  dtype: str | None = None
  place: str = ""
  file: str = ""
  needed: Callable[[Sizes], bool] = lambda dit: True


class Download(NamedTuple):
  """What a release is made of.

  Attributes:
    dit: the command of its transformer.
    parts: of its codecs, by command.
    hubs: the folders of the download that are repositories of their own, and these.
  """

  dit: str
  parts: Mapping[str, Part]
  hubs: Mapping[str, str] = {}


_TI2V, _MMAUDIO = "Wan2.2-TI2V-5B", "MMAudio"
DOWNLOADS = {
  "wan": Download(
    "wan-dit",
    {
      # The VAE that makes the transformer's latents.
      "wan-vae": Part("vae", "video", needed=lambda dit: dit["out_channels"] == 16),
      "wan22-vae": Part("vae", "video", needed=lambda dit: dit["out_channels"] == 48),
      "umt5": Part("umt5", "text", "bfloat16"),
      "clip": Part("clip", "image", needed=lambda dit: dit["image_tokens"]),
    },
  ),
  "ovi": Download(
    "ovi-dit",
    {
      "wan22-vae": Part("vae", "video", place=_TI2V),
      "umt5": Part("umt5", "text", "bfloat16", place=_TI2V),
      "audio-vae": Part(
        "audio-vae", "audio", place=_MMAUDIO, file="ext_weights/v1-16.pth"
      ),
      "vocoder": Part("vocoder", "audio", place=_MMAUDIO),
    },
    {
      "Ovi": "chetwinlow1/Ovi",
      _TI2V: "Wan-AI/Wan2.2-TI2V-5B",
      _MMAUDIO: "hkchengrex/MMAudio",
    },
  ),
}


def convert_release(
  src, dst, *, kind: str = "wan", dtype: str | None = None, verify: bool = False
) -> dict[str, str]:
  """Converts the download `src` into the folder `dst`; returns its config.json.

  Args:
    src: the folder of the download, or of several transformers in it the file of one;
      or the address on the hub of either.
    dst: a new folder, or one that the same command has begun.
    kind: of `DOWNLOADS`.
    dtype: to store the transformer in; as it is in the source if not given.
    verify: read everything back, and compare it tensor by tensor.

  Raises:
    UsageError: a network is missing or not what it should be; nothing is written then.
  """
  dst, download = place(dst), DOWNLOADS[kind]
  if (dst / "config.json").exists():
    raise UsageError(f"{dst} is there already: name a new folder")
  if hub.is_address(src):
    folder, folders = _fetch(src, download)
    request = {"src": source_name(folder), "dtype": dtype}
    return _convert(folder, folders, dst, download, request, kind, verify)
  src = place(src)
  with local_tree(src) as folder:
    request = {"src": hub.origin(folder) or str(src.absolute()), "dtype": dtype}
    root = _root(folder, download)
    folders = {part.place: root / part.place for part in download.parts.values()}
    return _convert(folder, folders, dst, download, request, kind, verify)


def _convert(
  src: pathlib.Path,
  folders: Mapping[str, pathlib.Path],
  dst: Place,
  download: Download,
  request: dict[str, Any],
  kind: str,
  verify: bool,
) -> dict[str, str]:
  """As `convert_release`, of folders of this machine."""
  dtype, name = request["dtype"], source_name(src)
  dit = open_source(download.dit, src)
  parts = {n: part for n, part in download.parts.items() if part.needed(dit.sizes)}
  sources = {n: _open_part(folders, n, part, download) for n, part in parts.items()}
  _begin(dst, request)
  for n, part in parts.items():
    _import_once(n, sources[n], dst / part.folder, part.dtype, verify)
  _import_once(download.dit, src, dst / DIT, dtype, verify)
  codecs = {}
  for part in parts.values():
    codecs.setdefault(part.codec, []).append(dst / part.folder)
  link_codecs(dst / "codecs", **codecs)
  config = {"kind": kind, "name": name}
  write_json(dst / "config.json", config, indent=2)
  (dst / UNFINISHED).unlink()
  return config


def _root(src: pathlib.Path, download: Download) -> pathlib.Path:
  """The folder of the download, where `src` may be a transformer in it."""
  if not download.hubs:
    return src if src.is_dir() else src.parent
  near = [src, *src.absolute().parents[:2]]
  has = lambda folder: any((folder / name).is_dir() for name in download.hubs)
  return next((folder for folder in near if has(folder)), src)


def _fetch(
  src: str, download: Download
) -> tuple[pathlib.Path, dict[str, pathlib.Path]]:
  """The transformer of a release on the hub, and the folders of its codecs by place.

  All repositories are looked through before a large file comes.

  Raises:
    UsageError: the transformer, or a codec that every one of the release needs, is not
      there; see `hub.download`.
  """
  main = hub.open_repository(str(src))
  inside = main.address.path
  if inside in main.files:
    inside = str(pathlib.PurePosixPath(inside).parent).strip(".")
  repositories, tops = {"": main}, {"": inside}
  for top in {part.place for part in download.parts.values()} - {""}:
    repositories[top] = hub.open_repository(hub.SCHEME + download.hubs[top])
    tops[top] = ""
  wanted = {"": wanted_files(download.dit, main, main.address.path)}
  found, lacking = set(), {}
  for name, part in download.parts.items():
    path = "/".join(filter(None, (tops[part.place], part.file)))
    try:
      files = wanted_files(name, repositories[part.place], path)
    except UsageError as e:
      lacking.setdefault(part.folder, e)
    else:
      found.add(part.folder)
      wanted.setdefault(part.place, []).extend(files)
  for folder, error in lacking.items():
    # Of two VAEs one is there; only some transformers see a picture.
    if folder not in found and folder != "clip":
      raise error
  hub.download([(repositories[p], sorted(set(wanted[p]))) for p in wanted])
  return main.place, {p: r.folder / tops[p] for p, r in repositories.items()}


def _open_part(
  folders: Mapping[str, pathlib.Path], name: str, part: Part, download: Download
) -> pathlib.Path:
  """The folder or file of a codec, which is held to account.

  Raises:
    UsageError: it is missing, or not what it should be.
  """
  folder = folders[part.place]
  if part.place and not folder.is_dir():
    expected = ", ".join(f"{p} ({hub_name})" for p, hub_name in download.hubs.items())
    raise UsageError(
      f"{folder.parent} has no folder {part.place}, which has the {name} of the "
      f"download; expected in it the folders {expected}"
    )
  file = folder / part.file
  src = file if part.file and file.is_file() else folder
  open_source(name, src)
  return src


def _begin(dst: Place, request: dict) -> None:
  """Notes what is asked for, so that only the same command goes on with it.

  Raises:
    UsageError: the folder was begun by another.
  """
  path = dst / UNFINISHED
  if path.is_file():
    begun = check(read_json(path), dict[str, Any], path, "name a new folder")
    for key, value in request.items():
      if begun.get(key) != value:
        raise UsageError(
          f"{dst} was begun with --{key} {begun.get(key)}, got {value}: give the same, "
          "or name a new folder"
        )
    return
  write_json(path, request)


def _import_once(kind: str, src, dst: Place, dtype, verify) -> None:
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
