"""Benchmarks by name: python -m ccl_jax.bench NAME [flags of NAME].

  python -m ccl_jax.bench step --size=lab --depth=4
  python -m ccl_jax.bench step --help

Each measures medians of several runs, beside a named peer or a measured ceiling, in one
run on this machine, and prints a table and a JSON object.
"""

import importlib
import pathlib
import pkgutil
import sys

from ccl_jax import benchmarks, cli


def names() -> list[str]:
  """The benchmarks, those with a `main`: the other modules are their parts."""
  found = pkgutil.iter_modules(benchmarks.__path__)
  sources = {m.name: m.module_finder.find_spec(m.name).loader for m in found}
  return sorted(n for n, x in sources.items() if "\ndef main(" in x.get_source(n))


def main(argv: list[str]) -> None:
  if len(argv) < 2 or argv[1] in ("-h", "--help"):
    print(f"{__doc__}\nNAME is one of {', '.join(names())}")
    return
  if argv[1] not in names():
    print(
      f"error: no benchmark {argv[1]!r}; expected one of {', '.join(names())}",
      file=sys.stderr,
    )
    sys.exit(2)
  module = importlib.import_module(f"ccl_jax.benchmarks.{argv[1]}")
  # --help shows the benchmark's own flags, by the name of its file.
  sys.argv = [str(pathlib.Path(module.__file__)), *argv[2:]]
  cli.run(module.main)


if __name__ == "__main__":
  main(sys.argv)
