"""Brings files of repositories into the cache, and goes on with those that are begun.

A large file grows under a hidden name among the blobs. It is named by its SHA-256, so
that another process goes on with it after any interruption, and must have that digest
when it is whole.
"""

import functools
import hashlib
import io
import pathlib
import shutil
import threading
import time
from collections.abc import Callable, Sequence
from concurrent import futures
from typing import Any

from ccl_jax import files, progress
from ccl_jax.errors import UsageError
from ccl_jax.hub.address import is_address
from ccl_jax.hub.repository import (
  File,
  Repository,
  Unreachable,
  library,
  one_line,
  open_repository,
)
from ccl_jax.places import hold
from ccl_jax.remote.paths import Place, place

_THREADS = 4  # files that come at a time
_alone = functools.cache(lambda blob: threading.Lock())


def download(wanted: Sequence[tuple[Repository, Sequence[str]]]) -> None:
  """Brings files into the cache. Says first how much there is to come, and its terms.

  Args:
    wanted: repositories, and the paths of files in each.

  Raises:
    UsageError: the disk lacks the room; a file cannot be had, or is not what the hub
      says that it is. The same call goes on where it was.
    WriteError: the cache cannot be written.
  """
  missing = [(r, n) for r, named in wanted for n in named if not r.is_here(n)]
  for repository, name in missing:
    if name not in repository.files:
      repository.refuse(name)
  if not missing:
    return
  for repository, named in wanted:
    progress.say(_summary(repository, named))
  _check_space(missing)
  total = sum(repository.files[name].size for repository, name in missing)
  with progress.Bar("downloading", total, "B") as bar:
    bring(missing, bar.update)


def bring(
  wanted: Sequence[tuple[Repository, str]], told: Callable[[int], None] = lambda n: None
) -> None:
  """Brings files into the cache, without a word.

  Args:
    wanted: each file with its repository.
    told: hears how many bytes have come, again and again.

  Raises:
    UsageError, WriteError: as of `download`.
  """
  missing = [(r, n) for r, n in wanted if not r.is_here(n)]
  stop = threading.Event()
  with futures.ThreadPoolExecutor(_THREADS) as pool:
    coming = [pool.submit(_fetch, r, n, told, stop) for r, n in missing]
    try:
      for one in futures.as_completed(coming):
        one.result()
    except BaseException:
      stop.set()
      pool.shutdown(wait=False, cancel_futures=True)
      raise
  for repository in {r.folder: r for r, _ in missing}.values():
    revision = repository.address.revision
    if repository.commit != revision:  # by which it is found without a network
      storage = repository.folder.parents[1]
      files.write_text(storage / "refs" / revision, repository.commit)


def local(text: Any, patterns: Sequence[str] = ("*",)) -> Place:
  """The folder or file that a path stands for: itself, or what is downloaded of an
  address of the hub.

  Args:
    text: a path of this disk or of a bucket, or an address.
    patterns: names, below the folder of an address, of the files that are wanted.

  Raises:
    UsageError: see `open_repository` and `download`.
  """
  if not is_address(text):
    return place(text)
  repository = open_repository(str(text))
  download([(repository, repository.below(repository.address.path, patterns))])
  return repository.place


class _Sink(io.FileIO):
  """A file that tells how many bytes come into it, until it is asked to stop."""

  def __init__(self, path, told: Callable[[int], None], stop: threading.Event):
    super().__init__(path, "r+")
    self._told, self._stop = told, stop
    self.seek(0, io.SEEK_END)

  def write(self, data) -> int:
    if self._stop.is_set():
      raise KeyboardInterrupt
    self._told(len(data))
    return super().write(data)

  def truncate(self, size: int | None = None) -> int:
    before = self.seek(0, io.SEEK_END)
    left = super().truncate(size if size is not None else 0)
    self._told(left - before)
    self.seek(0, io.SEEK_END)
    return left


def _summary(repository: Repository, named: Sequence[str]) -> str:
  sizes = [repository.files[n].size for n in named]
  left = [repository.files[n].size for n in named if not repository.is_here(n)]
  known = f", licence {repository.licence}" if repository.licence else ""
  whole, lacking = _bytes(sum(sizes)), _bytes(sum(left))
  there = "" if lacking == whole else f", {lacking} of them to download"
  return (
    f"{repository.address} ({repository.commit[:7]}): {len(named)} "
    f"{'file' if len(named) == 1 else 'files'}, {whole}{known}{there}"
  )


def _bytes(count: int) -> str:
  scale, unit = (1e9, "GB") if count >= 1e9 else (1e6, "MB")
  return f"{count / scale:.1f} {unit}"


def _growing(repository: Repository, file: File) -> tuple[pathlib.Path, pathlib.Path]:
  """The place of a large file among the blobs, and that of what there is of it."""
  blob = repository.folder.parents[1] / "blobs" / str(file.digest)
  return blob, blob.with_name(f".{file.digest}.unfinished")


def _size(path: pathlib.Path) -> int:
  return path.stat().st_size if path.is_file() else 0


def _check_space(missing: Sequence[tuple[Repository, str]]) -> None:
  """Raises UsageError where the disk of the cache lacks the room for files."""
  from huggingface_hub import constants

  cache = pathlib.Path(constants.HF_HUB_CACHE).absolute()
  disk = next(p for p in (cache, *cache.parents) if p.exists())
  needed = 0
  for repository, name in missing:
    file = repository.files[name]
    needed += max(file.size - _size(_growing(repository, file)[1]), 0)
  free = shutil.disk_usage(disk).free
  if free < needed:
    raise UsageError(
      f"{missing[0][0].address} needs {_bytes(needed)} in {cache}, whose disk has "
      f"{_bytes(free)} free: make room, or name a folder on another disk with HF_HOME"
    )


def _fetch(
  repository: Repository, name: str, told: Callable[[int], None], stop: threading.Event
) -> None:
  """Brings one file into the cache."""
  hub, file, address = library(), repository.files[name], repository.address
  try:
    with one_line(address):
      grown = file.digest is not None and file.size <= _most()
      if grown:
        blob, part = _growing(repository, file)
        # Two names may be of the same bytes: one thread of a process brings them.
        with _alone(blob), hold(blob.parent, f"-{file.digest[:16]}", wait=True):
          if blob.is_file():  # of another commit, or brought meanwhile
            told(file.size)
          else:
            _grow(repository, name, part, told, stop)
            files.put_in_place(part, blob)
      # Finds the blob, or brings a small file, and links to it.
      hub.hf_hub_download(
        address.name, name, repo_type=address.kind, revision=repository.commit
      )
      if not grown:
        told(file.size)
  except Unreachable as e:
    raise UsageError(
      f"{address}: the download of {name} stopped, {e}: the same command goes on where "
      "it was"
    ) from e


def _most() -> int:
  """Bytes of a file up to which it is served as one stream."""
  from huggingface_hub import constants

  return getattr(constants, "MAX_HTTP_DOWNLOAD_SIZE", 50_000_000_000)


def _grow(
  repository: Repository,
  name: str,
  part: pathlib.Path,
  told: Callable[[int], None],
  stop: threading.Event,
) -> None:
  """Makes what there is of a file whole, and compares its digest.

  Raises:
    UsageError: it has another digest; then nothing of it stays.
  """
  from huggingface_hub import errors, file_download
  from huggingface_hub.utils import build_hf_headers

  address, file = repository.address, repository.files[name]
  url = file_download.hf_hub_url(
    address.name, name, repo_type=address.kind, revision=repository.commit
  )
  part.touch()
  if _size(part) > file.size:
    part.unlink()
    part.touch()
  told(_size(part))
  lost = errors.HfHubHTTPError.__bases__[0], OSError
  with _Sink(part, told, stop) as f:
    while (have := f.seek(0, io.SEEK_END)) < file.size:
      try:
        file_download.http_get(
          url, f, resume_size=have, headers=build_hf_headers(), expected_size=file.size
        )
      except lost as e:
        answered = isinstance(e, errors.HfHubHTTPError)
        # Goes on by itself for as long as anything comes.
        if answered or f.seek(0, io.SEEK_END) <= have:
          raise
        time.sleep(1)
  if _sha256(part) != file.digest:
    part.unlink()
    raise UsageError(
      f"{address}: {name} came with other bytes than the hub has (by its SHA-256): run "
      "the same command again"
    )


def _sha256(path: pathlib.Path) -> str:
  with open(path, "rb") as f:
    return hashlib.file_digest(f, "sha256").hexdigest()
