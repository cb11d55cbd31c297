"""Addresses of the hub, hf:OWNER/NAME@REVISION/PATH, and of what is in the cache."""

import pathlib
import re
from typing import Any, NamedTuple

from ccl_jax import names
from ccl_jax.errors import UsageError

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
DIGEST = re.compile(r"[0-9a-f]{64}")


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
  for part in filter(None, (path, found["name"], found["revision"])):
    names.inside(part, str(text))
  kind = "dataset" if found["data"] else "model"
  return Address(kind, found["name"], found["revision"] or MAIN, path)


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
  named = target.parent.name == "blobs" and DIGEST.fullmatch(target.name)
  return target.name if named else None
