"""A run from the command line that all tests of this folder share."""

import json
import os
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[2]
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
    *flags,
  ]


def environment(devices: int = 1) -> dict[str, str]:
  """Virtual devices and quick compilation."""
  return os.environ | {
    "JAX_PLATFORMS": "cpu",
    "JAX_NUM_CPU_DEVICES": str(devices),
    "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
  }


def start(module: str, flags: list[str]) -> subprocess.Popen:
  return subprocess.Popen(
    [sys.executable, "-m", module, *flags],
    cwd=ROOT,
    env=environment(),
    stdout=subprocess.PIPE,
    stderr=subprocess.STDOUT,
    text=True,
  )


def finish(module: str, flags: list[str]) -> tuple[int, str]:
  """Exit code and output of a command."""
  process = start(module, flags)
  out, _ = process.communicate(timeout=400)
  return process.returncode, out


class Forks:
  """An entry point that is imported once, and run again and again (`forks.py`)."""

  def __init__(self, module: str):
    self._server = subprocess.Popen(
      [sys.executable, str(ROOT / "tests/e2e/forks.py"), module],
      cwd=ROOT,
      env=environment() | {"PYTHONPATH": str(ROOT)},
      stdin=subprocess.PIPE,
      stdout=subprocess.PIPE,
      text=True,
    )

  def __enter__(self) -> "Forks":
    return self

  def __exit__(self, *exc) -> None:
    self._server.stdin.close()
    self._server.kill()
    self._server.wait()

  def start(self, flags: list[str]) -> int:
    """The id of a process with this command line; the last one has ended."""
    print(json.dumps(flags), file=self._server.stdin, flush=True)
    return int(self._server.stdout.readline())

  def wait(self) -> tuple[int, str]:
    """Exit code and output of what was started."""
    return tuple(json.loads(self._server.stdout.readline()))

  def finish(self, flags: list[str]) -> tuple[int, str]:
    self.start(flags)
    return self.wait()


def mistakes(module: str, cases: list[list[str]]) -> list:
  """(exit code, output) of each command line, in one process's time."""
  with Forks(module) as forks:
    return [forks.finish(flags) for flags in cases]


@pytest.fixture(scope="session")
def home(tmp_path_factory):
  return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="session")
def undisturbed(home):
  """The folder of a run of `STEPS` steps that nothing stopped."""
  workdir = home / "undisturbed"
  flags = train_flags(workdir, "--config.profile=(2,3)")
  code, out = finish("ccl_jax.train", flags)
  assert code == 0, out
  return workdir
