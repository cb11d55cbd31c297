"""Runs a benchmark by name: python -m ccl_jax.bench NAME [flags of NAME].

  python -m ccl_jax.bench step --size=lab --depth=4
  python -m ccl_jax.bench step --help

Each measures medians of several runs, beside a named peer or a measured ceiling, in one
run on this machine, and prints a table and a JSON object.
"""

import importlib
import pathlib
import sys

from ccl_jax import cli

# Modules of ccl_jax.benchmarks.
NAMES = (
  "compiler", "data", "denoise", "device", "eval", "given", "kernels", "length",
  "parts", "pipeline", "prepare", "sampling", "scale", "start", "step", "vocoder",
)  # fmt: skip


def main(argv: list[str]) -> None:
  """Runs the benchmark that `argv[1]` names, with the flags after it."""
  if len(argv) < 2 or argv[1] in ("-h", "--help"):
    print(f"{__doc__}\nNAME is one of {', '.join(NAMES)}")
    return
  if argv[1] not in NAMES:
    print(
      f"error: no benchmark {argv[1]!r}; expected one of {', '.join(NAMES)}",
      file=sys.stderr,
    )
    sys.exit(2)
  module = importlib.import_module(f"ccl_jax.benchmarks.{argv[1]}")
  # --help shows the benchmark's own flags, by the name of its file.
  sys.argv = [str(pathlib.Path(module.__file__)), *argv[2:]]
  cli.run(module.main)


if __name__ == "__main__":
  main(sys.argv)
