"""How long a command takes to a clip, with nothing compiled before, and again.

  python -m ccl_jax.bench start
  python -m ccl_jax.bench start --ckpt=weights/t2v --task=t2v --steps=30

Runs `generate` as one does, from the interpreter's start to the file: twice or more
with one cache folder, which is empty at first. Prints, for each, seconds by the clock
and of the processor, and how many programs were compiled: none, from the second on.
"""

import os
import pathlib
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator

from absl import flags

from ccl_jax import cli
from ccl_jax.benchmarks.timing import show
from ccl_jax.errors import UsageError

CKPT = flags.DEFINE_string("ckpt", "quickstart", "Checkpoint, as for generate.")
TASK = flags.DEFINE_string("task", "joint", "One that is given a prompt alone.")
STEPS = flags.DEFINE_integer("steps", 50, "Of sampling.", 1)
ROUNDS = flags.DEFINE_integer("rounds", 3, "Starts; the first one is cold.", 2)

PROMPT = 'a red face in the middle says "ba do ba"'


def command(out: pathlib.Path, seed: int) -> list[str]:
  """The command that makes a clip.

  Args:
    out: a folder.
    seed: of its noise.
  """
  return [
    sys.executable, "-m", "ccl_jax.generate", f"--ckpt={CKPT.value}",
    f"--task={TASK.value}", f"--steps={STEPS.value}", f"--prompt={PROMPT}",
    f"--seed={seed}", f"--out={out}",
  ]  # fmt: skip


def programs(cache: pathlib.Path) -> set[str]:
  """The compiled programs in a folder of caches."""
  return {path.name for path in cache.rglob("*-cache")}


def processor_seconds() -> float:
  """Of the commands that have ended, user and system."""
  used = resource.getrusage(resource.RUSAGE_CHILDREN)
  return used.ru_utime + used.ru_stime


def rows(folder: pathlib.Path) -> Iterator[dict]:
  """A row a start.

  Args:
    folder: an empty one, for the cache and the clips.

  Raises:
    UsageError: the command failed.
  """
  cache = folder / "cache"
  cache.mkdir()
  # As a user has it, who has told JAX nothing.
  environment = {
    k: x for k, x in os.environ.items() if k not in (cli.CACHE, cli.SHORTEST)
  }
  environment["XDG_CACHE_HOME"] = str(cache)
  for i in range(ROUNDS.value):
    before, used = programs(cache), processor_seconds()
    start = time.perf_counter()
    done = subprocess.run(
      command(folder / "out", i), env=environment, capture_output=True, text=True
    )
    took = time.perf_counter() - start
    if done.returncode:
      last = (done.stderr.strip() or "no message").splitlines()[-1]
      raise UsageError(f"generate ended with {done.returncode}: {last}")
    yield {
      "what": "warm" if i else "cold",
      "seconds": took,
      "processor": processor_seconds() - used,
      "compiled": len(programs(cache) - before),
    }


def main() -> None:
  """Measures by the flags, and prints a table and a JSON object."""
  setup = {"cores": os.cpu_count(), "ckpt": CKPT.value, "steps": STEPS.value}
  with tempfile.TemporaryDirectory() as folder:
    show(setup, list(rows(pathlib.Path(folder))))


if __name__ == "__main__":
  cli.run(main)
