"""Files of the Hugging Face Hub, by address, for whatever reads a folder of this disk.

  hf:OWNER/NAME                     a repository of weights
  hf:OWNER/NAME@REVISION/FOLDER     of a branch, tag or commit; a folder or a file in it
  hf:datasets/OWNER/NAME            a repository of data

Only the files that are asked for are downloaded, into the cache of `huggingface_hub`
(HF_HOME), whose layout is public: `blobs/DIGEST`, `snapshots/COMMIT/NAME` with links to
these, `refs/REVISION` with a commit. What is there is not downloaded again, and without
a network it is all there is.

A large file grows under a hidden name among the blobs. It is named by its SHA-256, so
that another process goes on with it after any interruption, and must have that digest
when it is whole.
"""

import contextlib
import fnmatch
import hashlib
import io
import pathlib
import re
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent import futures
from typing import Any, NamedTuple

from ccl_jax import files, names, progress
from ccl_jax.errors import UsageError
from ccl_jax.places import hold

SCHEME = "hf:"
MAIN = "main"
FORMS = "hf:OWNER/NAME, hf:OWNER/NAME@REVISION/FOLDER or hf:datasets/OWNER/NAME"
_ADDRESS = re.compile(
  r"hf:(?P<data>datasets/)?(?P<name>[\w.-]+/[\w.-]+)"
  r"(@(?P<revision>refs/(pr|convert)/[\w.-]+|[\w.-]+))?(/(?P<path>.+?))?/*"
)
_SNAPSHOT = re.compile(
  r".*/(?P<kind>model|dataset)s--(?P<owner>[\w.-]+?)--(?P<name>[\w.-]+)"
  r"/snapshots/(?P<commit>[0-9a-f]{40})(?P<path>/.*)?"
)
_COMMIT = re.compile(r"[0-9a-f]{40}")
_DIGEST = re.compile(r"[0-9a-f]{64}")
_THREADS = 4  # files that come at a time


class Address(NamedTuple):
  """What an address names; `path` is "" where it is all of a repository."""

  kind: str
  name: str
  revision: str
  path: str

  def __str__(self) -> str:
    revision = "" if self.revision == MAIN else f"@{self.revision}"
    return f"{self.repository}{revision}{self.path and '/'}{self.path}"

  @property
  def repository(self) -> str:
    """The address of the repository alone, without revision and path."""
    return f"{SCHEME}{'datasets/' if self.kind == 'dataset' else ''}{self.name}"


class File(NamedTuple):
  """A file of a repository: its size in bytes, and its SHA-256 if the hub has one."""

  size: int
  digest: str | None


class Repository(NamedTuple):
  """A repository at one commit.

  Attributes:
    address: by which it was asked for.
    commit: that the revision stands for.
    files: by path; without a network, those that are in the cache.
    folder: of the cache, in which the files appear.
    licence: as the repository names it, or "".
    online: whether the hub was asked.
  """

  address: Address
  commit: str
  files: Mapping[str, File]
  folder: pathlib.Path
  licence: str
  online: bool

  @property
  def place(self) -> pathlib.Path:
    """The folder or the file of the cache that the address stands for."""
    return self.folder / self.address.path

  def is_here(self, name: str) -> bool:
    """Whether a file is in the cache."""
    return (self.folder / name).is_file()

  def below(self, path: str, patterns: Sequence[str] = ("*",)) -> list[str]:
    """The file at a path, or the files below it with a name that fits a pattern.

    Raises:
      UsageError: there is nothing at the path.
    """
    if path in self.files:
      return [path]
    top = path and f"{path}/"
    found = [name for name in self.files if name.startswith(top)]
    fits = lambda name: any(fnmatch.fnmatch(name[len(top) :], p) for p in patterns)
    if not found:
      self.refuse(path)
    return [name for name in found if fits(name)]

  def refuse(self, path: str) -> None:
    """Raises UsageError: the repository has no such file or folder."""
    shown = Address(*self.address[:3], path)
    if not self.online:
      raise UsageError(
        f"{shown} is not in the cache ({self.folder}), and there is no network: run the "
        "same command with one"
      )
    there = sorted({name.partition("/")[0] for name in self.files})
    more = ", ..." if len(there) > 12 else ""
    raise UsageError(
      f"{shown}: {self.address.name} has no such file or folder; it has "
      f"{', '.join(there[:12]) or 'no files'}{more}"
    )


def is_address(text: Any) -> bool:
  """Whether a path is an address of the hub."""
  return str(text).startswith(SCHEME)


def parse(text: Any) -> Address:
  """The parts of an address, none of which leaves the repository.

  Raises:
    UsageError: it has another form.
  """
  found = _ADDRESS.fullmatch(str(text))
  if found is None:
    raise UsageError(f"got the address {text}; expected {FORMS}")
  path = found["path"] or ""
  if path:
    names.inside(path, str(text))
  kind = "dataset" if found["data"] else "model"
  return Address(kind, found["name"], found["revision"] or MAIN, path)


def open_repository(text: Any) -> Repository:
  """The repository of an address, with the names and sizes of its files.

  Without a network it is what the cache has of the revision, and a line says so.

  Raises:
    UsageError: no such repository or revision, no right to read it, or no network and
      nothing in the cache.
  """
  hub, address = _library(), parse(text)
  storage = _storage(address)
  try:
    with _one_line(address):
      if hub.constants.HF_HUB_OFFLINE:
        raise _Unreachable("HF_HUB_OFFLINE is set")
      where = {"repo_type": address.kind, "revision": address.revision}
      about = hub.HfApi().repo_info(address.name, **where)
      where["revision"] = about.sha
      tree = hub.HfApi().list_repo_tree(address.name, recursive=True, **where)
      found = {x.path: _file(x) for x in tree if hasattr(x, "size")}
      if about.gated and any(not (_at(storage, about.sha) / n).is_file() for n in found):
        hub.HfApi().auth_check(address.name, repo_type=address.kind)
  except _Unreachable as e:
    commit = _cached_commit(storage, address.revision)
    if commit is None:
      raise UsageError(
        f"{address} is not in the cache ({storage}), and there is no network ({e}): run "
        "the same command with one, or give a folder that was downloaded"
      ) from e
    folder = _at(storage, commit)
    progress.say(f"note: {address}: no network ({e}); {commit[:7]} is in the cache")
    here = (p for p in folder.rglob("*") if p.is_file())
    found = {
      p.relative_to(folder).as_posix(): File(p.stat().st_size, digest_of(p))
      for p in here
    }
    return Repository(address, commit, found, folder, "", False)
  licence = getattr(about.card_data, "license", None) or ""
  if isinstance(licence, list):
    licence = ", ".join(licence)
  return Repository(
    address, about.sha, found, _at(storage, about.sha), str(licence), True
  )


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


def local(text: Any, patterns: Sequence[str] = ("*",)) -> pathlib.Path:
  """The folder or file of this disk that a path stands for, which may be an address.

  Args:
    text: a path of this disk, or an address.
    patterns: names, below the folder of an address, of the files that are wanted.

  Raises:
    UsageError: see `open_repository` and `download`.
  """
  if not is_address(text):
    return pathlib.Path(text)
  repository = open_repository(text)
  download([(repository, repository.below(repository.address.path, patterns))])
  return repository.place


def origin(path: Any) -> str | None:
  """The address, with its commit, of what lies in the cache; None of what does not."""
  found = _SNAPSHOT.fullmatch(pathlib.Path(path).absolute().as_posix())
  if found is None:
    return None
  name = f"{found['owner']}/{found['name']}"
  return str(Address(found["kind"], name, found["commit"], (found["path"] or "")[1:]))


def digest_of(path: pathlib.Path) -> str | None:
  """The SHA-256 that the hub has of a file in the cache, by the name of its blob."""
  target = path.resolve()
  named = target.parent.name == "blobs" and _DIGEST.fullmatch(target.name)
  return target.name if named else None


class _Unreachable(Exception):
  """The hub cannot be asked; the message says why."""


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


def _library() -> Any:
  """huggingface_hub, which is imported when an address is met, and shows no bars."""
  import huggingface_hub
  from huggingface_hub.utils import disable_progress_bars, logging

  logging.set_verbosity_error()
  disable_progress_bars()
  return huggingface_hub


@contextlib.contextmanager
def _one_line(address: Address) -> Iterator[None]:
  """A context that says in one line what the library raises, and what to do.

  Raises:
    _Unreachable: there is no network, or no hub at its end.
    UsageError: whatever else it is.
  """
  from huggingface_hub import constants, errors

  # The library for HTTP differs between versions of huggingface_hub; both have this.
  http_error = errors.HfHubHTTPError.__bases__[0]
  login = "log in with 'hf auth login', or set HF_TOKEN"
  try:
    yield
  except errors.GatedRepoError as e:
    page = f"{constants.ENDPOINT}/{address.repository.removeprefix(SCHEME)}"
    raise UsageError(
      f"{address} is gated: accept its terms on {page}, and {login}"
    ) from e
  except errors.RepositoryNotFoundError as e:
    raise UsageError(
      f"{address}: the hub shows no repository {address.name}: check the name; if it is "
      f"private, {login}"
    ) from e
  except errors.RevisionNotFoundError as e:
    raise UsageError(
      f"{address}: {address.name} has no revision {address.revision}; expected a branch, "
      "a tag or a commit"
    ) from e
  except (errors.OfflineModeIsEnabled, errors.LocalEntryNotFoundError) as e:
    raise _Unreachable(f"cannot reach {constants.ENDPOINT}") from e
  except errors.EntryNotFoundError as e:
    raise UsageError(f"{address}: {str(e).splitlines()[0]}") from e
  except errors.HfHubHTTPError as e:
    status = getattr(e.response, "status_code", 0)
    if status in (401, 403):
      raise UsageError(f"{address}: the hub refuses to show it to you: {login}") from e
    raise _Unreachable(f"{constants.ENDPOINT} answers {status or e}") from e
  except http_error as e:
    raise _Unreachable(f"cannot reach {constants.ENDPOINT}: {e or type(e)}") from e


def _file(entry: Any) -> File:
  return File(entry.size, entry.lfs.sha256 if entry.lfs else None)


def _storage(address: Address) -> pathlib.Path:
  """The folder of the cache that is a repository's."""
  from huggingface_hub import constants
  from huggingface_hub.file_download import repo_folder_name

  name = repo_folder_name(repo_id=address.name, repo_type=address.kind)
  return pathlib.Path(constants.HF_HUB_CACHE) / name


def _at(storage: pathlib.Path, commit: str) -> pathlib.Path:
  return storage / "snapshots" / commit


def _cached_commit(storage: pathlib.Path, revision: str) -> str | None:
  """The commit of a revision, if the cache has files of it."""
  if _COMMIT.fullmatch(revision):
    commit = revision
  else:
    try:
      commit = (storage / "refs" / revision).read_text("utf-8").strip()
    except (OSError, ValueError):
      return None
  return commit if commit and _at(storage, commit).is_dir() else None


def _summary(repository: Repository, named: Sequence[str]) -> str:
  sizes = [repository.files[n].size for n in named]
  left = [repository.files[n].size for n in named if not repository.is_here(n)]
  known = f", licence {repository.licence}" if repository.licence else ""
  there = "" if len(left) == len(named) else f", {_bytes(sum(left))} of them to download"
  return (
    f"{repository.address} ({repository.commit[:7]}): {len(named)} "
    f"{'file' if len(named) == 1 else 'files'}, {_bytes(sum(sizes))}{known}{there}"
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
  hub, file, address = _library(), repository.files[name], repository.address
  try:
    with _one_line(address):
      grown = file.digest is not None and file.size <= _most()
      if grown:
        blob, part = _growing(repository, file)
        with hold(blob.parent, f"-{file.digest[:16]}", wait=True):
          if blob.is_file():  # of another commit, or another process has brought it
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
  except _Unreachable as e:
    raise UsageError(
      f"{address}: the download of {name} stopped, {e}: the same command goes on where "
      "it was"
    ) from e


def _most() -> float:
  """Bytes of a file up to which it is served as one stream."""
  from huggingface_hub import constants

  return getattr(constants, "MAX_HTTP_DOWNLOAD_SIZE", 50e9)


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
