"""A run from the command line that all tests of this folder share."""

import fcntl
import os
import pathlib

import pytest

from tests.e2e.commands import finish_alone

STEPS = 8


def train_flags(workdir: pathlib.Path, *flags: str) -> list[str]:
  """A tiny run; `flags` come last and win."""
  return [
    "--config=configs/quickstart.py:runlocal",
    f"--workdir={workdir}",
    f"--config.data.root={workdir.parent / 'data'}",
    "--config.report.tasks=()",
    f"--config.steps={STEPS}",
    "--config.checkpoint.every=3",
    "--config.clip.frames=17",
    "--config.model.remat=none",  # it compiles sooner
    # A run that was told of a later end is, up to its own, this one.
    "--config.optim.schedule=constant",
    *flags,
  ]


@pytest.fixture(scope="session")
def home(tmp_path_factory):
  """One folder for all workers."""
  root = tmp_path_factory.getbasetemp()
  if "PYTEST_XDIST_WORKER" in os.environ:
    root = root.parent  # of this worker's
  home = root / "runs"
  home.mkdir(exist_ok=True)
  return home


@pytest.fixture(scope="session")
def undisturbed(home):
  """The folder of a run of `STEPS` steps that nothing stopped. Nobody writes into it:
  the first worker that needs it makes it, and another one waits for that.
  """
  workdir, done = home / "undisturbed", home / "undisturbed.done"
  with (home / "undisturbed.lock").open("w") as lock:
    fcntl.flock(lock, fcntl.LOCK_EX)
    if not done.exists():
      flags = train_flags(workdir, "--config.profile=(2,3)")
      code, out = finish_alone("ccl_jax.train", flags)
      assert code == 0, out
      done.touch()
  return workdir
