"""Fixtures of stores on this machine; what they need is skipped where it is missing."""

import os
from typing import Any, NamedTuple

import pytest

from ccl_jax.remote.paths import place

WHY = "the packages of the extra `buckets-test` are not installed"


def _with_environment(values):
  before = {name: os.environ.get(name) for name in values}
  os.environ.update(values)
  yield
  for name, value in before.items():
    if value is None:
      del os.environ[name]
    else:
      os.environ[name] = value


@pytest.fixture(scope="session")
def google_store():
  """The address of a bucket of Google's store, and what leads a process there."""
  pytest.importorskip("gcp_storage_emulator", reason=WHY)
  pytest.importorskip("gcsfs", reason=WHY)
  from tests.remote import stores

  store = stores.google()
  environment = stores.google_environment(store)
  yield from _yielding(f"gs://{stores.BUCKET}", environment, store)
  store.stop()


@pytest.fixture(scope="session")
def amazon_store():
  """As `google_store`, of Amazon's."""
  pytest.importorskip("s3fs", reason=WHY)
  moto = pytest.importorskip("moto.server", reason=WHY)
  from tests.remote import stores

  server = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
  server.start()
  host, port = server.get_host_and_port()
  values = stores.amazon_environment(f"http://{host}:{port}")
  yield from _yielding("s3://bucket", values, server)
  server.stop()


class Store(NamedTuple):
  """A store on this machine.

  Attributes:
    address: of its bucket.
    environment: what leads a process there.
    server: of it.
  """

  address: str
  environment: dict[str, str]
  server: Any


def _yielding(address, values, server):
  for _ in _with_environment(values):
    if address.startswith("s3"):
      import s3fs

      s3fs.S3FileSystem(skip_instance_cache=True).mkdir(address)
    yield Store(address, values, server)


def emptied(store: Store):
  """The bucket of a store, without what an earlier test left in it."""
  found = place(store.address)
  if found.scheme == "gs":
    store.server.wipe(keep_buckets=True)  # what was removed too, which it keeps
  elif list(found.walk()):
    found.remove_all()
  return found
