"""Two processes of JAX that meet, each running one program."""

import contextlib
import pathlib
import socket
import subprocess
import sys

ROOT = pathlib.Path(__file__).parents[1]


@contextlib.contextmanager
def started(program: str, *args: str):
  """A context with two processes of `python -c program RANK PORT ARGS`, their outputs
  piped; none outlives it.
  """
  with socket.socket() as s:
    s.bind(("localhost", 0))
    port = s.getsockname()[1]
  pair = [
    subprocess.Popen(
      [sys.executable, "-c", program, str(rank), str(port), *args],
      stdout=subprocess.PIPE,
      stderr=subprocess.PIPE,
      text=True,
      cwd=ROOT,
    )
    for rank in range(2)
  ]
  try:
    yield pair
  finally:
    for p in pair:
      p.kill()
