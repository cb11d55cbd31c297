"""Lists the files below a folder, and finds them by the names that metadata give."""

import functools
import hashlib
import os
import pathlib
from collections.abc import Iterable, Sequence

from ccl_jax.errors import UsageError


class Listing:
  """The files below `root` but for hidden ones and those in the folder `without`.

  Attributes:
    names: their paths below `root`, in order.
    digest: changes whenever a file comes, goes or changes its size or time.

  Raises:
    UsageError: there is no such folder.
  """

  def __init__(self, root: pathlib.Path, without: pathlib.Path):
    if not root.is_dir():
      raise UsageError(f"no folder at {root}: give the one with media and metadata")
    self.root, self.names, digest = root, [], hashlib.blake2s(digest_size=8)
    top, without = root.absolute(), without.absolute()
    for folder, below, names in os.walk(top):
      parent = pathlib.Path(folder)
      # In place: os.walk does not go down into what is taken out.
      below[:] = [n for n in below if n[0] != "." and parent / n != without]
      for name in names:
        if name[0] != "." and (parent / name).is_file():
          self.names.append((parent / name).relative_to(top).as_posix())
    self.names.sort()
    for name in self.names:
      status = (root / name).stat()
      # Size and time, not content: terabytes cannot be hashed at every start.
      about = f"\n{status.st_size}\n{status.st_mtime_ns}\n".encode()
      digest.update(os.fsencode(name) + about)
    self.digest = digest.hexdigest()

  def tables(self, *suffixes: str) -> list[pathlib.Path]:
    """The files with one of the suffixes, such as ".csv", in order."""
    return [self.root / n for n in self.names if n.lower().endswith(suffixes)]

  @functools.cached_property
  def index(self) -> dict[str, list[str]]:
    """The files by every name that they can be found by."""
    index = {}
    for name in self.names:
      path = pathlib.PurePosixPath(name)
      for key in {name, path.name, path.with_suffix("").as_posix(), path.stem}:
        index.setdefault(key, []).append(name)
    return index

  def find(
    self, names: Iterable[str], suffixes: Sequence[str], below: str = ""
  ) -> str | None:
    """The file that the first of `names` to match is of.

    A name is its path below the root, its name, or either without its suffix.

    Args:
      names: in order.
      suffixes: of media; of several files the one with the earliest suffix counts.
      below: the beginning of the name of a folder that it is in.

    Raises:
      UsageError: two files fit.
    """
    for name in names:
      matches = [n for n in self.index.get(name, ()) if _kind(n) in suffixes]
      if below:
        matches = [n for n in matches if _is_below(n, below)]
      matches.sort(key=lambda n: suffixes.index(_kind(n)))
      if len(matches) > 1 and _kind(matches[0]) == _kind(matches[1]):
        raise UsageError(
          f"two files below {self.root} are called {name}: {matches[0]}, {matches[1]}: "
          "leave one"
        )
      if matches:
        return matches[0]
    return None


def _kind(name: str) -> str:
  return pathlib.PurePosixPath(name).suffix.lower()


def _is_below(name: str, start: str) -> bool:
  folders = pathlib.PurePosixPath(name).parts[:-1]
  return any(f.lower().startswith(start.lower()) for f in folders)
