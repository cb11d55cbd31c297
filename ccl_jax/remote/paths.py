"""Paths in buckets, where a folder is named: gs://bucket/run, s3://bucket/run.

`place` makes a path of what a user named: a `pathlib.Path` of this machine, or a
`BucketPath`, which has the methods of one as far as this package uses them. It has no
name on this machine: what would open it here (`open`, `pathlib.Path`) raises.

An object store has no folders, no renames and no locks. An object appears whole, by one
upload, or not at all, and a folder is there when an object is in it. What is asked of a
store and not answered is an error, never "it is not there": whoever believed that would
begin a run anew on top of another.

What files say is not what the user said: a path in a bucket that stands in a file goes
through `told`, which opens none of buckets that the user has not named.
"""

import contextlib
import errno
import fnmatch
import io
import os
import pathlib
import re
import stat
from collections.abc import Iterator
from typing import Any, NamedTuple

from ccl_jax.errors import UsageError, as_grave
from ccl_jax.remote.stores import (
  SCHEMES,
  Unreachable,
  reached,
  refusal,
  require_package,
)

TRUSTED = "CCL_BUCKETS"  # environment: buckets that files may name, gs://a s3://b
_ADDRESS = re.compile(rf"({'|'.join(SCHEMES)})://")
_BUCKET = re.compile(rf"(?:{'|'.join(SCHEMES)})://[^/\s+:]+")
# What is wrong with a file of this machine while it is sent or received.
_OF_THIS_MACHINE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)
_named: set[str] = set()  # buckets that the user has named


class Status(NamedTuple):
  """What is known of an object or a folder, in the words of `os.stat_result`.

  Attributes:
    st_mode: whether it is a file or a folder.
    st_size: bytes.
    mark: changes when the object is written again.
  """

  st_mode: int
  st_size: int
  mark: str


class BucketPath:
  """A path in a bucket, as `pathlib.Path` is one of this machine.

  Args:
    text: SCHEME://BUCKET/NAME/NAME.

  Raises:
    UsageError: it is no such path, or has signs that libraries take for a pattern.
  """

  __slots__ = ("_parts", "_scheme")

  def __init__(self, text: str):
    scheme, _, rest = text.partition("://")
    if scheme not in SCHEMES:
      raise UsageError(f"{text}: expected gs://BUCKET/FOLDER or s3://BUCKET/FOLDER")
    parts = []
    for name in rest.split("/"):
      if name == ".." and len(parts) < 2:
        raise UsageError(f"{text} leaves its bucket: name a folder in it")
      if name == "..":
        parts.pop()
      elif name not in ("", "."):
        parts.append(name)
    if not parts or rest.startswith("/"):
      raise UsageError(f"{text} names no bucket: expected {scheme}://BUCKET/FOLDER")
    whole = "/".join(parts)
    if found := sorted(set(whole) & set("*?[]#\0")):
      raise UsageError(
        f"{text} has {' '.join(found)} in its path, which libraries take for a "
        "pattern: name a folder without them"
      )
    self._scheme, self._parts = scheme, tuple(parts)

  def __str__(self) -> str:
    return f"{self._scheme}://{'/'.join(self._parts)}"

  def __repr__(self) -> str:
    return f"BucketPath({str(self)!r})"

  def __fspath__(self) -> str:
    raise UsageError(f"{self} is in a bucket; expected a path of this machine")

  def __eq__(self, other: object) -> bool:
    return isinstance(other, BucketPath) and str(self) == str(other)

  def __lt__(self, other: "BucketPath") -> bool:
    # By names, as `pathlib` has it: the order of a folder is the same everywhere.
    return (self._scheme, self._parts) < (other._scheme, other._parts)

  def __hash__(self) -> int:
    return hash(str(self))

  def __truediv__(self, name: "str | os.PathLike") -> "Place":
    if isinstance(name, BucketPath):
      return name
    text = os.fspath(name)
    if os.path.isabs(text):
      return pathlib.Path(text)
    return BucketPath(text if is_remote(text) else f"{self}/{text}")

  @property
  def scheme(self) -> str:
    """The kind of store, "gs" or "s3"."""
    return self._scheme

  @property
  def bucket(self) -> str:
    """The name of the bucket, without its scheme."""
    return self._parts[0]

  @property
  def key(self) -> str:
    """The name of the object in its bucket; "" of the bucket itself."""
    return "/".join(self._parts[1:])

  @property
  def name(self) -> str:
    """The last part of the path."""
    return self._parts[-1]

  @property
  def stem(self) -> str:
    """The last part of the path, without its ending."""
    return pathlib.PurePosixPath(self.name).stem

  @property
  def suffix(self) -> str:
    """The ending of the last part, with its dot."""
    return pathlib.PurePosixPath(self.name).suffix

  @property
  def parent(self) -> "BucketPath":
    """The folder that it is in; of a bucket the bucket."""
    return BucketPath(f"{self._scheme}://{'/'.join(self._parts[:-1] or self._parts)}")

  @property
  def parents(self) -> list["BucketPath"]:
    """The folders that it is in, up to the bucket."""
    at = [self._parts[:n] for n in range(len(self._parts) - 1, 0, -1)]
    return [BucketPath(f"{self._scheme}://{'/'.join(parts)}") for parts in at]

  def with_name(self, name: str) -> "BucketPath":
    """The path beside it of another name.

    Raises:
      UsageError: it is a bucket, which has nothing beside it.
    """
    if not self.key:
      raise UsageError(f"{self} is a whole bucket: name a folder in it")
    return self.parent / name

  def with_suffix(self, suffix: str) -> "BucketPath":
    """The path with another ending, or none."""
    return self.with_name(self.stem + suffix)

  def absolute(self) -> "BucketPath":
    """Itself: such a path is always absolute."""
    return self

  def resolve(self) -> "BucketPath":
    """Itself: a bucket has no links."""
    return self

  def as_posix(self) -> str:
    """The path as text, with its scheme."""
    return str(self)

  def relative_to(self, other: "BucketPath") -> pathlib.PurePosixPath:
    """The path below a folder.

    Raises:
      ValueError: it is not below it.
    """
    return pathlib.PurePosixPath(str(self)).relative_to(str(other))

  def status(self) -> Status | None:
    """What is there; None if nothing is.

    Raises:
      Unreachable: the store does not say.
    """
    try:
      with self._asked() as store:
        info = store.info(self._url, **({"refresh": True} if self._is_s3 else {}))
    except FileNotFoundError:
      return None
    return _status(info)

  def stat(self) -> Status:
    """As `status`, of what is there.

    Raises:
      FileNotFoundError: nothing is.
      Unreachable: the store does not say.
    """
    found = self.status()
    if found is None:
      raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(self))
    return found

  def exists(self) -> bool:
    """Whether there is an object of this name, or one in a folder of this name."""
    return self.status() is not None

  def is_dir(self) -> bool:
    """Whether objects are in a folder of this name."""
    found = self.status()
    return found is not None and stat.S_ISDIR(found.st_mode)

  def is_file(self) -> bool:
    """Whether there is an object of this name."""
    found = self.status()
    return found is not None and stat.S_ISREG(found.st_mode)

  def iterdir(self) -> Iterator["BucketPath"]:
    """What is in the folder, in order of the names.

    Raises:
      FileNotFoundError: nothing is.
    """
    with self._asked() as store:
      found = store.ls(self._url, detail=False, refresh=True)
    # Consoles make an object of the folder's own name, to show an empty one.
    below = {x.rstrip("/") for x in found} - {str(self).partition("://")[2]}
    yield from (self / name for name in sorted(x.rpartition("/")[2] for x in below))

  def listing(self) -> dict[str, Status]:
    """What is known of every file in the folder, by name, of one question.

    Raises:
      FileNotFoundError: nothing is in it.
    """
    with self._asked() as store:
      found = store.ls(self._url, detail=True, refresh=True)
    files = ((x["name"].rpartition("/")[2], _status(x)) for x in found)
    return {name: x for name, x in files if name and stat.S_ISREG(x.st_mode)}

  def glob(self, pattern: str) -> Iterator["BucketPath"]:
    """What is in the folder and has a name of such a pattern, which has no "/"."""
    if self.is_dir():
      yield from (p for p in self.iterdir() if fnmatch.fnmatchcase(p.name, pattern))

  def rglob(self, pattern: str) -> Iterator["BucketPath"]:
    """All files below the folder whose names have such a pattern, in their order."""
    yield from (p for p in self.walk() if fnmatch.fnmatchcase(p.name, pattern))

  def walk(self) -> Iterator["BucketPath"]:
    """All files below the folder, in order of their paths."""
    with self._asked() as store:
      found = store.find(self._url, refresh=True)
    names = (name for name in found if not name.endswith("/"))
    yield from sorted(BucketPath(f"{self._scheme}://{name}") for name in names)

  def read_bytes(self) -> bytes:
    """The bytes of the object.

    Raises:
      FileNotFoundError: there is none.
      Unreachable: the store does not give them.
    """
    with self._asked() as store:
      return store.cat_file(self._url)

  def read_text(self, encoding: str = "utf-8", errors: str = "strict") -> str:
    """The text of the object, with line breaks as of `open`."""
    data = io.BytesIO(self.read_bytes())
    return io.TextIOWrapper(data, encoding, errors).read()

  def open(self, mode: str = "rb") -> Any:
    """The object as a file to read from; what is asked for is what is sent.

    Raises:
      FileNotFoundError: there is none.
      Unreachable: the store does not give it.
    """
    assert mode == "rb", mode
    with self._asked() as store:
      return store.open(self._url, "rb")

  def write_bytes(self, data: bytes) -> None:
    """Puts an object, in place of another.

    Raises:
      Unreachable: the store does not take it.
    """
    with self._asked() as store:
      store.pipe_file(self._url, data)

  def upload(self, path: pathlib.Path) -> None:
    """Puts a file of this machine, whole, in place of another object.

    Raises:
      Unreachable: the store does not take it.
    """
    with self._asked() as store:
      store.put_file(str(path), self._url)

  def download(self, path: pathlib.Path) -> None:
    """Writes the object into a file of this machine.

    Raises:
      FileNotFoundError: there is none.
      Unreachable: the store does not give it.
    """
    with self._asked() as store:
      store.get_file(self._url, str(path))

  def unlink(self, missing_ok: bool = True) -> None:
    """Removes the object, if there is one: not all stores tell.

    Raises:
      Unreachable: the store does not let it go.
    """
    with contextlib.suppress(FileNotFoundError), self._asked() as store:
      store.rm_file(self._url)

  def remove_all(self) -> None:
    """Removes all that is in the folder, if there is anything.

    Raises:
      Unreachable: the store does not let it go.
    """
    # By their names: a bucket would go with what is in it.
    with contextlib.suppress(FileNotFoundError), self._asked() as store:
      if found := store.find(self._url, refresh=True):
        store.rm(found)

  def rename(self, target: "BucketPath") -> None:
    """Copies all that is in the folder to another in its bucket, then removes it.

    Raises:
      Unreachable: the store does not do it.
    """
    files = list(self.walk())
    with self._asked() as store:
      # A folder that is renamed stays whole until the other one is.
      others = [str(target / file.relative_to(self)) for file in files]
      store.copy(list(map(str, files)), others)
    self.remove_all()

  def mkdir(self, mode: int = 0o777, parents: bool = False, exist_ok: bool = False):
    """Nothing: a folder is there with what is in it."""

  @property
  def _is_s3(self) -> bool:
    return self._scheme == "s3"

  @property
  def _url(self) -> str:
    return str(self)

  @contextlib.contextmanager
  def _asked(self) -> Iterator[Any]:
    """The store, to be asked about this path; its refusals as errors of the system."""
    store = reached(self._scheme, self.bucket)
    try:
      yield store
    except FileNotFoundError as e:
      text = os.strerror(errno.ENOENT)
      raise FileNotFoundError(errno.ENOENT, text, str(self)) from e
    except UsageError:
      raise
    except Exception as e:
      if isinstance(e, OSError) and e.errno in _OF_THIS_MACHINE:
        raise
      raise refusal(e, self._scheme, str(self)) from e


Place = pathlib.Path | BucketPath
Named = str | os.PathLike  # a place as a user names it


def is_remote(path: Named) -> bool:
  """Whether a path is in a bucket."""
  return isinstance(path, BucketPath) or _ADDRESS.match(os.fspath(path)) is not None


def place(path: Named) -> Place:
  """The path that a user named: in a bucket, or of this machine.

  Raises:
    UsageError: it is no such path, or the package for such buckets is not installed.
  """
  if isinstance(path, BucketPath):
    return path
  if not is_remote(path):
    return pathlib.Path(path)
  found = BucketPath(os.fspath(path))
  require_package(found.scheme)
  _named.add(f"{found.scheme}://{found.bucket}")
  return found


def told(path: Named, where: Named) -> Place:
  """The path that stands in a file, from the folder of that file.

  Args:
    path: as it stands there.
    where: the file.

  Raises:
    UsageError: it is in a bucket that is neither the file's own nor one that the user
      has named.
  """
  folder = where.parent if isinstance(where, BucketPath) else pathlib.Path(where).parent
  if not is_remote(path):
    return folder / path
  found = BucketPath(str(path))
  bucket = f"{found.scheme}://{found.bucket}"
  known = {*_named, *os.environ.get(TRUSTED, "").split()}
  if isinstance(where, BucketPath):
    known.add(f"{where.scheme}://{where.bucket}")
  if bucket not in known:
    raise UsageError(
      f"{where} names {found}, in a bucket that you have not named: look at it, then "
      f"set {TRUSTED}='{bucket}' in the environment to let files name it"
    )
  require_package(found.scheme)
  return found


def require_buckets(name: str, text: str) -> None:
  """Checks that every bucket in a text is there and lets itself be looked into.

  Args:
    name: of the flag or the setting, for the message.
    text: its value, a path or paths with weights.

  Raises:
    UsageError: one is not, or does not; or the package for it is not installed.
  """
  for address in dict.fromkeys(_BUCKET.findall(text)):
    bucket = place(address)
    try:
      there = bucket.exists()
    except Unreachable as e:
      raise as_grave(UsageError(f"{name}: got {text}; {e}"), e) from e
    if not there:
      raise UsageError(
        f"{name}: got {text}; there is no bucket {address}, or none that you may look "
        "into: make it, or name another"
      )


def kvstore(folder: Named) -> dict[str, Any]:
  """The folder as TensorStore names it, for arrays and for locks."""
  folder = place(folder)
  if not isinstance(folder, BucketPath):
    return {"driver": "file", "path": f"{folder}/"}
  key = f"{folder.key}/" if folder.key else ""
  spec = {"bucket": folder.bucket, "path": key}
  if folder.scheme == "gs":
    return {"driver": "gcs"} | spec
  ends = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL")
  regions = ("AWS_REGION", "AWS_DEFAULT_REGION")
  first = lambda names: next((x for n in names if (x := os.environ.get(n))), None)
  options = {"endpoint": first(ends), "aws_region": first(regions)}
  return {"driver": "s3"} | spec | {k: v for k, v in options.items() if v}


def _status(info: dict[str, Any]) -> Status:
  """What fsspec knows of an object or a folder."""
  if info.get("type") == "directory":
    return Status(stat.S_IFDIR, 0, "")
  marks = (info.get(k) for k in ("generation", "ETag", "etag", "md5Hash", "mtime"))
  mark = next((str(m) for m in marks if m), "")
  return Status(stat.S_IFREG, int(info["size"]), mark)
