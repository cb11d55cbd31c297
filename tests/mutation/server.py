"""Runs pytest again and again in forks of a process that has imported the libraries.

Imports take longer than most tests do. Reads lines of JSON, {"tests": [...],
"seconds": n}, and answers each with {"code": pytest's, "tail": the end of what it
printed}. Nothing of this project is imported before the fork, so that a changed source
is read anew.
"""

import contextlib
import importlib
import json
import os
import pathlib
import signal
import sys
import tempfile
import time

LIBRARIES = (
  "numpy", "jax", "jax.numpy", "flax.linen", "optax", "orbax.checkpoint", "tensorstore",
  "einops", "chex", "pytest", "jaxtyping", "beartype", "hypothesis", "ml_dtypes",
  "ml_collections", "safetensors.numpy", "scipy.special", "scipy.signal", "grain", "av",
  "PIL.Image", "torch", "tensorflow_datasets",
)  # fmt: skip
TIMEOUT = 124


def main() -> None:
  for name in LIBRARIES:
    with contextlib.suppress(ImportError):
      importlib.import_module(name)
  for line in sys.stdin:
    request = json.loads(line)
    print(json.dumps(run(request["tests"], request["seconds"])), flush=True)


def run(tests: list[str], seconds: float) -> dict:
  """The exit code of pytest on `tests`, and the end of its output."""
  with tempfile.TemporaryDirectory() as folder:
    out = pathlib.Path(folder) / "out"
    child = os.fork()
    if not child:
      _child(tests, out)
    deadline = time.monotonic() + seconds
    code = None
    while code is None:
      done, status = os.waitpid(child, os.WNOHANG)
      if done:
        code = os.waitstatus_to_exitcode(status)
      elif time.monotonic() > deadline:
        os.killpg(child, signal.SIGKILL)
        os.waitpid(child, 0)
        code = TIMEOUT
      else:
        time.sleep(0.05)
    return {"code": code, "tail": out.read_text(errors="replace")[-1500:]}


def _child(tests: list[str], out: pathlib.Path) -> None:
  import pytest

  os.setpgid(0, 0)  # so that a kill takes what the tests have started, too
  file = os.open(out, os.O_WRONLY | os.O_CREAT)
  for stream in (1, 2):
    os.dup2(file, stream)
  os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
  code = 9
  try:
    code = int(pytest.main(["-x", "-q", "-p", "no:cacheprovider", *tests]))
  finally:
    sys.stdout.flush()
    os._exit(code)


if __name__ == "__main__":
  main()
