"""Which steps a trace holds."""

import pytest

from ccl_jax.errors import UsageError
from ccl_jax.training.profile import Profile


@pytest.fixture
def traced(monkeypatch):
  calls = []
  start = lambda folder: calls.append(("start", folder.name))
  monkeypatch.setattr("jax.profiler.start_trace", start)
  monkeypatch.setattr("jax.profiler.stop_trace", lambda: calls.append("stop"))
  wait = lambda state: calls.append(("wait", state))
  monkeypatch.setattr("jax.block_until_ready", wait)
  return calls


def test_a_trace_holds_its_steps_and_no_others(tmp_path, traced):
  """The state a step starts from is waited for, then the one the last returned."""
  profile = Profile(tmp_path / "p", (3, 4))
  for step in range(7):
    profile.begin(step, step)
    traced.append(step)
    profile.end(step, step + 1)
  profile.close()
  assert traced == [
    0, 1, 2, ("wait", 3), ("start", "p"), 3, 4, ("wait", 5), "stop", 5, 6
  ]  # fmt: skip


def test_a_run_that_stops_within_a_trace_writes_it(tmp_path, traced):
  profile = Profile(tmp_path / "p", [0, 8])
  profile.begin(0, 0)
  profile.close()
  profile.close()
  assert traced[-2:] == [("start", "p"), "stop"]


def test_steps_to_trace(tmp_path, traced):
  profile = Profile(tmp_path)
  for step in (0, 1):
    profile.begin(step, 0)
    profile.end(step, 0)
  profile.close()
  assert not traced
  Profile(tmp_path, (2, 2))
  for steps in ((3, 2), (-1, 2), (1,), (1, 2, 3)):
    with pytest.raises(UsageError, match=r"expected \(first, last\) step"):
      Profile(tmp_path, steps)
