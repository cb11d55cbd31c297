"""A run from the command line that all tests of this folder share."""

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
  return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="session")
def undisturbed(home):
  """The folder of a run of `STEPS` steps that nothing stopped."""
  workdir = home / "undisturbed"
  flags = train_flags(workdir, "--config.profile=(2,3)")
  code, out = finish_alone("ccl_jax.train", flags)
  assert code == 0, out
  return workdir
