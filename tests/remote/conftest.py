"""Buckets for the tests of this folder."""

import pytest

from ccl_jax.remote import copies
from tests.remote.buckets import amazon_store, emptied, google_store

google_store, amazon_store = google_store, amazon_store


@pytest.fixture
def bucket(google_store):
  """An empty bucket of Google's store."""
  return emptied(google_store)


@pytest.fixture(params=["gs", "s3"])
def folder(request):
  """An empty bucket of each kind of store."""
  name = {"gs": "google_store", "s3": "amazon_store"}[request.param]
  return emptied(request.getfixturevalue(name))


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
  """The folder of the copies of a test."""
  monkeypatch.setenv(copies.FOLDER, str(tmp_path / "cache"))
  monkeypatch.delenv(copies.LIMIT, raising=False)
  return tmp_path / "cache" / "files"
