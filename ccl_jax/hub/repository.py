"""A repository of the hub at one commit: its files, by the hub or the cache alone."""

import contextlib
import fnmatch
import functools
import pathlib
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from ccl_jax import names, progress
from ccl_jax.errors import UsageError
from ccl_jax.hub.address import DIGEST, SCHEME, Address, digest_of, parse

_COMMIT = re.compile(r"[0-9a-f]{40}")


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
        f"{shown} is not in the cache ({self.folder}), and there is no network: run "
        "the same command with one"
      )
    there = sorted({name.partition("/")[0] for name in self.files})
    more = ", ..." if len(there) > 12 else ""
    raise UsageError(
      f"{shown}: {self.address.name} has no such file or folder; it has "
      f"{', '.join(there[:12]) or 'no files'}{more}"
    )


@functools.cache
def open_repository(text: str) -> Repository:
  """The repository of an address, with the names and sizes of its files; the same one
  as long as the process lives, whatever becomes of its branch.

  Without a network it is what the cache has of the revision, and a line says so.

  Raises:
    UsageError: no such repository or revision, no right to read it, or no network and
      nothing in the cache.
  """
  hub, address = library(), parse(text)
  from huggingface_hub import constants

  with one_line(address):
    storage = _storage(address)
  try:
    with one_line(address):
      if constants.HF_HUB_OFFLINE:
        raise Unreachable("HF_HUB_OFFLINE is set")
      where = {"repo_type": address.kind, "revision": address.revision}
      about = hub.HfApi().repo_info(address.name, **where)
      where["revision"] = about.sha
      tree = hub.HfApi().list_repo_tree(address.name, recursive=True, **where)
      if not _COMMIT.fullmatch(about.sha or ""):
        raise UsageError(f"{address}: the hub gives the commit {about.sha!r:.60}")
      found = {
        names.inside(x.path, str(address)): _file(x) for x in tree if hasattr(x, "size")
      }
      if about.gated and any(
        not (_at(storage, about.sha) / n).is_file() for n in found
      ):
        hub.HfApi().auth_check(address.name, repo_type=address.kind)
  except Unreachable as e:
    commit = _cached_commit(storage, address.revision)
    if commit is None:
      raise UsageError(
        f"{address} is not in the cache ({storage}), and there is no network ({e}): "
        "run the same command with one, or give a folder that was downloaded"
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


class Unreachable(Exception):
  """The hub cannot be asked; the message says why."""


def library() -> Any:
  """huggingface_hub, which is imported when an address is met, and shows no bars."""
  import huggingface_hub
  from huggingface_hub.utils import disable_progress_bars, logging

  logging.set_verbosity_error()
  disable_progress_bars()
  return huggingface_hub


@contextlib.contextmanager
def one_line(address: Address) -> Iterator[None]:
  """A context that says in one line what the library raises, and what to do.

  Raises:
    Unreachable: there is no network, or no hub at its end.
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
      f"{address}: the hub shows no repository {address.name}: check the name; if it "
      f"is private, {login}"
    ) from e
  except errors.RevisionNotFoundError as e:
    raise UsageError(
      f"{address}: {address.name} has no revision {address.revision}; expected a "
      "branch, a tag or a commit"
    ) from e
  except (errors.OfflineModeIsEnabled, errors.LocalEntryNotFoundError) as e:
    raise Unreachable(f"cannot reach {constants.ENDPOINT}") from e
  except errors.HFValidationError as e:
    raise UsageError(f"{address}: {address.name} is no name of a repository") from e
  except errors.EntryNotFoundError as e:
    raise UsageError(f"{address}: {str(e).splitlines()[0]}") from e
  except errors.HfHubHTTPError as e:
    status = getattr(e.response, "status_code", 0)
    if status in (401, 403):
      raise UsageError(f"{address}: the hub refuses to show it to you: {login}") from e
    raise Unreachable(f"{constants.ENDPOINT} answers {status or e}") from e
  except RuntimeError as e:
    # Of several threads one has lost the network, and the library closed all clients.
    if "client has been closed" not in str(e):
      raise
    raise Unreachable(f"cannot reach {constants.ENDPOINT}") from e
  except http_error as e:
    raise Unreachable(f"cannot reach {constants.ENDPOINT}: {e or type(e)}") from e


def _file(entry: Any) -> File:
  digest = entry.lfs.sha256 if entry.lfs else None
  return File(entry.size, digest if digest and DIGEST.fullmatch(digest) else None)


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
