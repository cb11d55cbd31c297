"""What of a repository of the hub is downloaded: the files that the converter reads.

A repository has weights in several formats, of several networks, for several programs.
Which of its files a network is read from, the names tell, by the rules that a folder is
read by: the names are laid out as a folder whose files are empty, but for indices and
settings, and the same code looks through it.
"""

import contextlib
import os
import pathlib
import shutil
import tempfile
from collections.abc import Iterator, Sequence

from ccl_jax import hub
from ccl_jax.errors import UsageError
from ccl_jax.weights.reader import ADAPTERS, choose, files_of, no_checkpoint
from ccl_jax.weights.upstream import get_upstream

# They say what the weights are, and come before these.
_SETTINGS = ("config.json", "model_index.json", "adapter_config.json")
# Of Whisper, which packages of others read: one of these, and what is beside it.
_WHISPER = ("model.safetensors", "model-*-of-*.safetensors", "model.bin")
_WHISPER_BESIDE = ("*.json", "merges.txt", "vocabulary.*")


def fetched(kind: str, src: str | os.PathLike) -> pathlib.Path:
  """The folder or file of this disk that a source of a network is, downloaded if `src`
  is an address of the hub.

  Args:
    kind: of `weights.upstream.MODULES`, "lora" or "whisper".
    src: a path, or an address.

  Raises:
    UsageError: see `wanted_files` and `hub.download`.
  """
  if not hub.is_address(src):
    return pathlib.Path(src)
  repository = hub.open_repository(str(src))
  wanted = wanted_files(kind, repository, repository.address.path)
  hub.download([(repository, wanted)])
  return repository.place


def source_name(path: pathlib.Path) -> str:
  """What a source is called in a config.json: its address with the commit, or its name.

  Args:
    path: the source's, on this disk.
  """
  return hub.origin(path) or path.absolute().name


def wanted_files(kind: str, repository: hub.Repository, path: str) -> list[str]:
  """The files of a repository that a network is read from.

  Args:
    kind: as `fetched` has it.
    repository: whose names are looked through.
    path: in it, of a folder with the network, or of its file.

  Raises:
    UsageError: there is no such network at the path, or more than one.
  """
  if kind == "whisper":
    return _whisper_files(repository, path)
  places, files, beside = ("",), ADAPTERS, {}
  upstream = None if kind == "lora" else get_upstream(kind)
  if upstream:
    places, files, beside = upstream.places, upstream.files, upstream.beside
  with _outline(repository, path, places) as folder:
    src = folder / path
    if not src.exists():
      repository.refuse(path)
    # Before gigabytes come that would be refused for the same reason.
    if upstream and (other := upstream.other(src)):
      raise UsageError(f"{src} is {other}")
    inside = src if src.is_dir() else src.parent
    checkpoint = choose(src, places, files) if src.is_dir() else src
    if checkpoint is None:
      raise no_checkpoint(src, places, files)
    found = files_of(checkpoint)
    for name, folders in beside.items():
      found += [file for p in folders if (file := inside / p / name).is_file()]
    return sorted({os.path.relpath(file, folder) for file in found})


@contextlib.contextmanager
def _outline(
  repository: hub.Repository, path: str, places: Sequence[str]
) -> Iterator[pathlib.Path]:
  """A folder of the names of a repository, called as it is, without what is in its
  files but for those that say what the others are. What an error says of the folder, it
  says of the address.
  """
  with tempfile.TemporaryDirectory() as top:
    folder = pathlib.Path(top, repository.address.name)
    folder.mkdir(parents=True)
    for name in repository.files:
      (folder / name).parent.mkdir(parents=True, exist_ok=True)
      (folder / name).touch()
    inside = path if (folder / path).is_dir() else os.path.dirname(path)
    near = {os.path.normpath(os.path.join(inside, place)) for place in (*places, "..")}
    told = [
      name
      for name in repository.files
      if os.path.normpath(os.path.dirname(name)) in near
      and (name.endswith(".index.json") or os.path.basename(name) in _SETTINGS)
    ]
    hub.bring([(repository, name) for name in told])
    for name in told:
      shutil.copyfile(repository.folder / name, folder / name)
    try:
      yield folder
    except UsageError as e:
      raise UsageError(str(e).replace(f"{top}/", hub.SCHEME)) from e


def _whisper_files(repository: hub.Repository, path: str) -> list[str]:
  for pattern in _WHISPER:
    if repository.below(path, (pattern,)):
      return repository.below(path, (pattern, *_WHISPER_BESIDE))
  raise UsageError(
    f"{repository.address} holds no Whisper: expected {' or '.join(_WHISPER)} there"
  )
