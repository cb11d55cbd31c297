"""Media that are examined without other processes, which take half a second each."""

import pytest

from ccl_jax.data.preparing import child, engine


@pytest.fixture
def no_child(monkeypatch):
  """This process decodes: what a child adds is in the tests of the engine."""
  examine = child._rows
  monkeypatch.setattr(child.Child, "rows", lambda self, *args: examine(*args))


@pytest.fixture
def one_by_one(no_child, monkeypatch):
  """Nor is there Beam."""
  monkeypatch.setattr(engine, "has_beam", lambda: False)
