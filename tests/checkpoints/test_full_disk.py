"""A disk that is full in the middle of a save, for real: a command says it once."""

import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[2]
# As many arrays as a small run has: each has a write of its own on its way.
PROGRAM = """
import resource, sys
import jax.numpy as jnp, numpy as np
from ccl_jax import cli
from ccl_jax.checkpoints.checkpointer import Checkpointer
x = np.random.default_rng(0).standard_normal((40, 4000), np.float32)
state = {f"x{i}": jnp.asarray(x[i]) for i in range(40)}
with cli.working():
  c = Checkpointer(sys.argv[1], keep=1)
  c.save(1, state, {}, {})
  c.wait()
  # No file may grow beyond so many bytes, as on a disk without more.
  resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), resource.RLIM_INFINITY))
  try:
    c.save(2, state, {}, {})
    c.wait()
  finally:
    c.close()
"""


@pytest.mark.parametrize("room", [1500, 5000])
def test_a_save_that_fails_is_one_line_whatever_is_on_its_way(tmp_path, room):
  done = subprocess.run(
    [sys.executable, "-c", PROGRAM, tmp_path / "run", str(room)],
    cwd=ROOT, capture_output=True, text=True, timeout=300,
  )  # fmt: skip
  (line,) = done.stderr.splitlines()
  assert done.returncode == 2 and not done.stdout
  assert line.startswith("error: cannot write checkpoint step 2 in ")
  assert "File too large; older steps are kept" in line
  assert (tmp_path / "run/1/meta/metadata").is_file()
