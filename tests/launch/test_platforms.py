"""Programs that need no accelerator leave it alone, whatever JAX_PLATFORMS says."""

import os
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[2]
# Each program as it is started, but for its work, which tells where it would run.
PLAN = """
import sys
import jax
from ccl_jax import cli, plan
def tell(*args):
  print(jax.default_backend(), {d.platform for d in jax.devices()})
  sys.exit()
plan.plan = tell
sys.argv = ["plan", "--config=configs/joint.py:runlocal", "--topology=cpu:1"]
cli.run(plan.main)
"""
CONVERT = """
import jax
from ccl_jax import convert
def tell(*args, **kwargs):
  print(jax.default_backend(), {d.platform for d in jax.devices()})
convert.export_weights = tell
convert.main(["export", "--src=a", "--dst=b", "--format=native"])
"""
VOCODER = """
import sys
import jax
from ccl_jax import cli
from ccl_jax.benchmarks import vocoder
def tell(*args, **kwargs):
  print(jax.default_backend(), {d.platform for d in jax.devices()})
  sys.exit()
vocoder.run = tell
sys.argv = ["vocoder"]
cli.run(vocoder.main)
"""


@pytest.mark.parametrize("code", [PLAN, CONVERT, VOCODER], ids=["plan", "convert", "v"])
def test_it_runs_on_the_host(code):
  """With a platform that is not there: whoever asks for the default one fails."""
  done = subprocess.run(
    [sys.executable, "-c", code],
    cwd=ROOT,
    env=os.environ | {"JAX_PLATFORMS": "rocm"},
    capture_output=True,
    text=True,
  )
  assert done.stdout.splitlines()[:1] == ["cpu {'cpu'}"], done.stderr
