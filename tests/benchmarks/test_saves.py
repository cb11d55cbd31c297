"""Saves and restores of the real checkpointer, timed."""

import pytest

from ccl_jax.benchmarks import saves
from ccl_jax.benchmarks.scale import HOST_BYTES, with_saves
from ccl_jax.errors import UsageError


def test_saves_are_timed_and_leave_nothing(tmp_path):
  took = saves.measured(str(tmp_path / "new"), 10**6, rounds=2)
  assert 0 < took["save"] <= took["write"] and took["restore"] > 0
  assert not list((tmp_path / "new").iterdir())
  (tmp_path / "new" / "own").touch()
  with pytest.raises(UsageError, match="new is not empty: name a new one"):
    saves.measured(str(tmp_path / "new"), 10**6)


def test_what_was_measured_is_taken_in_proportion():
  """A tenth of a host's bytes: ten times the seconds; a restore is part of a start."""
  known = {"save": 5.0, "write": 60.0, "startup": 600.0, "step": 9.3}
  took = {"save": 0.2, "write": 3.0, "restore": 4.0}
  got = with_saves(known, took, HOST_BYTES / 10)
  assert got == {
    "save": pytest.approx(2.0), "write": pytest.approx(30.0),
    "startup": pytest.approx(640.0), "step": 9.3,
  }  # fmt: skip
