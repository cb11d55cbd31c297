"""The paper's ablation: runs, scores, tables and plots, each by one command.

  python -m ccl_jax.ablation run --root runs/ablation --results docs/ablation
  python -m ccl_jax.ablation run --only gate,ccl --seeds 0,1,2 --size pilot

`run` trains and scores what is missing; stopped (Ctrl-C, SIGTERM, a power cut), the
same command goes on. `score` is the command by which it scores one run. `plots` draws
the figures of what is stored, `table` writes docs/ablation.md, which shows those that
are there. Both change nothing when nothing has changed.
"""

import argparse
import os
import pathlib
import runpy
import sys
from collections.abc import Sequence

from ccl_jax import cli, shipped
from ccl_jax.errors import UsageError


def _parser() -> argparse.ArgumentParser:
  parser = cli.Parser(
    prog="python -m ccl_jax.ablation",
    description=__doc__,
  )
  commands = parser.add_subparsers(
    dest="command", required=True, parser_class=cli.Parser, metavar="COMMAND"
  )

  def command(name: str, text: str) -> argparse.ArgumentParser:
    sub = commands.add_parser(name, help=text, description=text)
    sub.add_argument(
      "--results",
      type=pathlib.Path,
      default=pathlib.Path("docs/ablation"),
      help="Folder of the scores, one JSON a run.",
    )
    return sub

  sub = command("run", "trains and scores what is missing")
  sub.add_argument(
    "--root",
    type=pathlib.Path,
    default=pathlib.Path("runs/ablation"),
    help="Folder of the runs.",
  )
  sub.add_argument("--size", type=_size, default="cpu", help="Of configs/ablation.py.")
  sub.add_argument(
    "--only", default="", help="Variants, as gate,ccl; all: also those of questions."
  )
  sub.add_argument("--seeds", default="0,1,2,3,4", help="Seeds, in their order.")
  sub.add_argument("--parallel", type=int, default=1, help="Runs beside each other.")
  sub.add_argument("--cores", default="", help="Cores to hold runs to, as 0,1.")
  sub.add_argument("--dry_run", action="store_true", help="Only print the commands.")
  sub = command("score", "scores one run from its checkpoint")
  sub.add_argument("--workdir", type=pathlib.Path, required=True, help="Of the run.")
  sub.add_argument("--size", type=_size, default="cpu", help="Of configs/ablation.py.")
  sub.add_argument(
    "--what",
    choices=("run", "scales", "ceiling", "heads"),
    default="run",
    help="The run; the scales of guidance for its kind; real clips; where each head of "
    "the exchange looks, of any finished run on talking scenes.",
  )
  sub = command("table", "writes the tables of the stored results")
  sub.add_argument(
    "--out", type=pathlib.Path, default=pathlib.Path("docs/ablation.md"), help="Page."
  )
  sub = command("plots", "draws the figures of the stored results")
  sub.add_argument(
    "--out", type=pathlib.Path, help="Their folder; --results if absent."
  )
  return parser


def _size(text: str) -> str:
  """A size of configs/ablation.py, for argparse.

  Raises:
    argparse.ArgumentTypeError: it has no such size.
  """
  shipped.make_configs_importable()
  sizes = runpy.run_path(str(shipped.CONFIGS / "ablation.py"))["SIZES"]
  if text not in sizes:
    raise argparse.ArgumentTypeError(
      f"got {text!r}; expected one of {', '.join(sizes)}"
    )
  return text


def _numbers(flag: str, text: str) -> list[int]:
  """Whole numbers from 0 on of a list "0,1".

  Raises:
    UsageError: it has others, or none.
  """
  parts = text.split(",")
  if not all(p.isascii() and p.isdigit() for p in parts):
    raise UsageError(f"--{flag}: got {text!r}; expected whole numbers, as 0,1,2")
  return list(dict.fromkeys(map(int, parts)))


def _run(args: argparse.Namespace) -> int:
  from ccl_jax.ablation.run import Ablation, run
  from ccl_jax.ablation.variants import chosen

  if args.parallel < 1:
    raise UsageError(f"--parallel: got {args.parallel}; expected 1 or more")
  ablation = Ablation(args.root, args.results, args.size)
  variants, seeds = chosen(args.only), _numbers("seeds", args.seeds)
  cores = _numbers("cores", args.cores) if args.cores else ()
  how = {"parallel": args.parallel, "cores": cores, "dry_run": args.dry_run}
  return run(ablation, variants, seeds, **how)


def _score(args: argparse.Namespace) -> int:
  from ccl_jax.ablation.score import SCORERS

  SCORERS[args.what](args.workdir, args.results, args.size)
  return 0


def _table(args: argparse.Namespace) -> int:
  from ccl_jax.ablation.figures import ABOUT
  from ccl_jax.ablation.results import CEILING, SCALES, read, read_json
  from ccl_jax.ablation.table import write_table

  from_page = pathlib.Path(os.path.relpath(args.results, args.out.parent))
  pictures = {
    (from_page / f"{name}.png").as_posix(): text
    for name, text in ABOUT.items()
    if (args.results / f"{name}.png").is_file()
  }
  ceiling, scales = (read_json(args.results / name) for name in (CEILING, SCALES))
  write_table(read(args.results), args.out, ceiling, pictures, scales)
  print(args.out)
  return 0


def _plots(args: argparse.Namespace) -> int:
  from ccl_jax.ablation.figures import write_figures
  from ccl_jax.ablation.results import CEILING, HEADS, read, read_json

  beside = [read_json(args.results / name) for name in (CEILING, HEADS)]
  out = args.out or args.results
  for path in write_figures(read(args.results), out, *beside):
    print(path)
  return 0


COMMANDS = {"run": _run, "score": _score, "table": _table, "plots": _plots}


def main(argv: Sequence[str] | None = None) -> None:
  """Runs the command line. A mistake is one line and exit code 2."""
  args = _parser().parse_args(argv)
  with cli.working():
    code = COMMANDS[args.command](args)
  sys.exit(code)


if __name__ == "__main__":
  main()
