"""The stores that hold buckets: their packages, and what they say when they refuse."""

import contextlib
import errno
import functools
import importlib
import logging
import threading
from typing import Any

from ccl_jax.errors import UsageError

# By scheme the package that reads its files, the name that fsspec knows it by, and how
# a user gets credentials.
SCHEMES = {
  "gs": ("gcsfs", "gcs", "gcloud auth application-default login"),
  "s3": ("s3fs", "s3", "aws configure"),
}

PATIENCE = 10.0  # seconds for the first answer about a bucket
_answered: set[tuple[str, str]] = set()  # buckets, by scheme and name


class Unreachable(UsageError, OSError):
  """A store did not do what it was asked: no rights, no answer, no such bucket.

  It is an `OSError` too, with `errno`, `strerror` and `filename`. Without an answer
  there may be one later: `exit_code` is 1 then.
  """

  def __str__(self) -> str:
    return f"{self.filename}: {self.strerror}"


def require_package(scheme: str) -> None:
  """Checks that the package which reads such buckets is installed.

  Raises:
    UsageError: it is not; the line says how to get it.
  """
  package, *_ = SCHEMES[scheme]
  try:
    importlib.import_module(package)
  except ImportError as e:
    extra = "gcs" if scheme == "gs" else scheme
    raise UsageError(
      f"{scheme}:// needs the package {package} ({e}): pip install 'ccl_jax[{extra}]'"
    ) from e


@functools.cache
def _prepare() -> None:
  """Settings of fsspec: others write into the same folders, so nothing is remembered
  of their content. Its packages log whole tracebacks of what they raise as well, which
  `refusal` says in a line.
  """
  import fsspec

  for name in ("gcsfs", "s3fs", "aiobotocore", "botocore"):
    logging.getLogger(name).setLevel(logging.CRITICAL)

  for name in ("gcs", "gs", "s3"):
    fsspec.config.conf.setdefault(name, {}).setdefault("use_listings_cache", False)


def filesystem(scheme: str) -> Any:
  """The store of a scheme, as fsspec has it.

  Raises:
    UsageError: the package for it is not installed.
  """
  require_package(scheme)
  _prepare()
  import fsspec

  # As etils asks for it: Orbax and this package then share connections.
  options = {"finalize_on_close": True} if scheme == "gs" else {}
  return fsspec.filesystem(SCHEMES[scheme][1], **options)


def reached(scheme: str, bucket: str) -> Any:
  """The store of a scheme, once it has said anything of a bucket.

  The packages of stores try again for minutes, as is right amid a run. Where nothing
  was ever heard of a bucket it is more likely that the network or the address is wrong,
  so the first answer has `PATIENCE` seconds.

  Raises:
    Unreachable: there is none.
    UsageError: the package for such buckets is not installed.
  """
  store = filesystem(scheme)
  if (scheme, bucket) in _answered:
    return store
  url = f"{scheme}://{bucket}"

  def ask():
    with contextlib.suppress(Exception):  # whoever asks in earnest is told of it
      store.info(url)

  # Nobody waits for this thread at the end: it goes on until its package gives up.
  thread = threading.Thread(target=ask, daemon=True, name=f"first answer of {url}")
  thread.start()
  thread.join(PATIENCE)
  if thread.is_alive():
    raise no_answer(
      f"the store gave no answer within {PATIENCE:g} s: look at the network and at the "
      "address, or try again",
      url,
    )
  _answered.add((scheme, bucket))
  return store


def refusal(error: Exception, scheme: str, path: str) -> Unreachable:
  """An error of a store's package in one line: what was got, and what to do.

  Args:
    error: of the package.
    scheme: of the store.
    path: that it was asked about.
  """
  code = getattr(error, "code", None) or getattr(error, "status", None)
  text = " ".join(str(error).split())[:300] or type(error).__name__
  kind = type(error).__name__
  if kind in ("NoCredentialsError", "DefaultCredentialsError") or code == 401:
    words = f"no credentials for it ({text}): log in with '{SCHEMES[scheme][2]}'"
  elif isinstance(error, PermissionError) or "Forbidden" in text:
    words = f"no rights to do this ({text}): ask for them, or log in as somebody else"
  else:
    words = f"the store gave no answer ({kind}: {text}): try again"
    return no_answer(words, path)
  return Unreachable(errno.EACCES, words, path)


def no_answer(words: str, path: str) -> Unreachable:
  """The error for a store that may give an answer later."""
  error = Unreachable(errno.EIO, words, path)
  error.exit_code = 1
  return error
