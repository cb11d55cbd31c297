"""Commands of the package, run to their end or stopped on the way.

All are forks of one server (`forks.py`), which starts with the first of them: the
libraries are imported once in a session, not once in a process.
"""

import atexit
import functools
import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from types import MappingProxyType

ROOT = pathlib.Path(__file__).parents[2]


def environment() -> dict[str, str]:
  """One virtual device and quick compilation."""
  return os.environ | {
    "JAX_PLATFORMS": "cpu",
    "JAX_NUM_CPU_DEVICES": "1",
    "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
    "PYTHONPATH": str(ROOT),
  }


@functools.cache
def _server() -> subprocess.Popen:
  server = subprocess.Popen(
    [sys.executable, str(ROOT / "tests/e2e/forks.py")],
    cwd=ROOT,
    env=environment(),
    stdin=subprocess.PIPE,
    stdout=subprocess.PIPE,
    text=True,
  )
  atexit.register(server.communicate)  # which ends its input
  return server


def _ask(*request):
  server = _server()
  print(json.dumps(request), file=server.stdin, flush=True)
  return json.loads(server.stdout.readline())


class Command:
  """A process that runs `python -m MODULE FLAGS` on virtual devices."""

  def __init__(
    self,
    module: str,
    flags: list[str],
    devices: int = 1,
    environment: Mapping[str, str] = MappingProxyType({}),
  ):
    self._file = tempfile.NamedTemporaryFile("r")  # noqa: SIM115
    self._code = None
    self._pid = _ask(
      "start", module, flags, devices, self._file.name, dict(environment)
    )

  def output(self) -> str:
    """What it has printed so far."""
    return pathlib.Path(self._file.name).read_text()

  def poll(self) -> int | None:
    """Its exit code, -N where signal N ended it; None while it runs."""
    if self._code is None:
      self._code = _ask("poll", self._pid)
    return self._code

  def wait(self, seconds: float = 400) -> int:
    """Its exit code; TimeoutError where it has none after so long."""
    deadline = time.monotonic() + seconds
    while self.poll() is None:
      if time.monotonic() > deadline:
        self.send_signal(signal.SIGKILL)
        raise TimeoutError(self.output())
      time.sleep(0.01)
    return self._code

  def send_signal(self, how: signal.Signals) -> None:
    if self.poll() is None:
      os.kill(self._pid, how)


def meeting(count: int) -> list[list[str]]:
  """By process, the flags with which so many meet; none of one alone."""
  if count == 1:
    return [[]]
  with socket.socket() as s:
    s.bind(("localhost", 0))
    address = f"localhost:{s.getsockname()[1]}"
  several = ["--distributed", f"--coordinator={address}", f"--num_processes={count}"]
  return [[*several, f"--process_id={i}"] for i in range(count)]


def finish(
  module: str, flags: list[str], environment: Mapping[str, str] = MappingProxyType({})
) -> tuple[int, str]:
  """Exit code and output of a command, with more in its environment."""
  command = Command(module, flags, environment=environment)
  return command.wait(), command.output()


def finish_alone(
  module: str, flags: list[str], more: Mapping[str, str] = MappingProxyType({})
) -> tuple[int, str]:
  """The same of a process that no server started: what JAX reads of the environment
  when it is imported has an effect.
  """
  done = subprocess.run(
    [sys.executable, "-m", module, *flags],
    cwd=ROOT,
    env=environment() | more,
    stdout=subprocess.PIPE,
    stderr=subprocess.STDOUT,
    text=True,
    timeout=400,
  )
  return done.returncode, done.stdout
