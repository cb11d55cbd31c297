"""Joint audio-video generation in JAX: one command for all that this package does.

  ccl-jax generate --ckpt runs/quickstart --prompt 'a red face' --out out
  ccl-jax train --config=quickstart --workdir=runs/quickstart
  ccl-jax COMMAND --help

`python -m ccl_jax COMMAND` and `python -m ccl_jax.COMMAND` are the same.
"""

import ast
import pathlib
import runpy
import sys

import ccl_jax
from ccl_jax.errors import one_line_errors

COMMANDS = ("generate", "app", "train", "report", "encode", "data", "convert", "eval",
            "plan", "train_audio", "bench", "ablation", "viz")  # fmt: skip


def _about(name: str) -> str:
  """The first line of a command's help, without importing it."""
  folder = pathlib.Path(__file__).parent
  files = folder / f"{name}.py", folder / name / "__main__.py"
  source = next(f for f in files if f.is_file()).read_text("utf-8")
  return ast.get_docstring(ast.parse(source)).splitlines()[0]


def main() -> None:
  """Runs the command that the first argument names, with the others."""
  name, *rest = sys.argv[1:] or ["--help"]
  module = name.replace("-", "_")
  if name in ("--help", "-h", "help"):
    rows = [f"  {c:<12} {_about(c)}" for c in COMMANDS]
    with one_line_errors():
      print(f"{__doc__}\nCommands:\n\n" + "\n".join(rows), flush=True)
  elif name == "--version":
    print(ccl_jax.__version__)
  elif module in COMMANDS:
    sys.argv = [f"ccl-jax {name}", *rest]
    # As `python -m` runs it: the module is __main__, and its flags are the command's.
    runpy.run_module(f"ccl_jax.{module}", run_name="__main__", alter_sys=True)
  else:
    known = ", ".join(COMMANDS)
    print(f"error: no command {name!r}; expected one of {known}", file=sys.stderr)
    sys.exit(2)


if __name__ == "__main__":
  main()
