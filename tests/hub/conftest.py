"""A hub on this machine, in the place of the one that huggingface_hub would ask."""

import contextlib

import pytest
from huggingface_hub import constants

from ccl_jax import hub
from tests.hub.server import served


@pytest.fixture
def reach(monkeypatch):
  """A function that makes an address the hub's, as HF_ENDPOINT does."""

  def reach(url: str) -> None:
    files = "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "ENDPOINT", url)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", url + files)

  return reach


@pytest.fixture
def serve(tmp_path, monkeypatch, reach):
  """A function from repositories to a hub that has them; the cache is empty."""
  monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
  monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
  monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 5_000)  # bytes, at most lost
  monkeypatch.delenv("HF_TOKEN", raising=False)
  hub.open_repository.cache_clear()
  with contextlib.ExitStack() as stack:

    def serve(repositories):
      server = stack.enter_context(served(repositories))
      reach(server.url)
      return server

    yield serve
  hub.open_repository.cache_clear()
