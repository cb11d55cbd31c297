"""Tools for data.

python -m ccl_jax.data inspect SET            what a set of latents holds
python -m ccl_jax.data build SOURCE DIR       a TFDS data set of media that lie in DIR
"""

import argparse
import pathlib
from collections.abc import Sequence
from typing import Any

from ccl_jax.errors import UsageError, one_line_errors


def main(argv: Sequence[str] | None = None) -> None:
  """The command line of `python -m ccl_jax.data`."""
  parser = argparse.ArgumentParser(
    prog="python -m ccl_jax.data",
    description=__doc__,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  commands = parser.add_subparsers(dest="command", required=True)
  inspect = commands.add_parser("inspect", help="what a set of latents holds")
  inspect.add_argument("set", type=pathlib.Path)
  inspect.add_argument("--clips", type=int, default=8, help="on the sheet; 0: no sheet")
  inspect.add_argument("--out", type=pathlib.Path, help="the sheet: SET/inspect.png")
  build = commands.add_parser("build", help="a TFDS data set of media")
  build.add_argument("source", help="folder, vggsound, wavcaps or openhumanvid")
  build.add_argument("dir", type=pathlib.Path, help="media and metadata")
  build.add_argument("options", nargs="*", metavar="NAME=VALUE", help="filters")
  args = parser.parse_args(argv)
  with one_line_errors():
    {"inspect": _inspect, "build": _build}[args.command](args)


def _inspect(args: argparse.Namespace) -> None:
  from ccl_jax.inspect_data import show

  show(args.set, args.clips, args.out)


def _build(args: argparse.Namespace) -> None:
  from ccl_jax.data import media_set, sources

  kind = getattr(sources.builder(args.source), "BUILDER", None)
  if kind is None:
    raise UsageError(
      f"{args.source} is no data set of media: it is made where it is used"
    )
  made = media_set.prepare(kind, args.dir, **_options(args.options, kind))
  path = pathlib.Path(made.data_dir)
  counts = [f"{split.num_examples} {name}" for name, split in made.info.splits.items()]
  lines = {n: (path / n).read_text("utf-8").count("\n") for n in _REPORTS}
  told = ", ".join(f"{count} in {name}" for name, count in lines.items())
  print(f"{path}: {', '.join(counts)}; {told}")


_REPORTS = ("missing.txt", "skipped.jsonl")


def _options(pairs: Sequence[str], kind: Any) -> dict[str, Any]:
  """NAME=VALUE in the types of the builder's options; pairs as A:1,B:2."""
  from ccl_jax.data.media_set import option_types

  types, out = {"data_dir": str} | option_types(kind), {}
  for pair in pairs:
    name, equals, value = pair.partition("=")
    if not equals or name not in types:
      raise UsageError(f"option {pair!r}: expected NAME=VALUE of {', '.join(types)}")
    try:
      if types[name] is tuple:
        named = (item.partition(":") for item in value.split(","))
        out[name] = tuple((key, float(least)) for key, _, least in named)
      else:
        out[name] = types[name](value)
    except ValueError as e:
      raise UsageError(f"option {pair!r}: {e}") from e
  return out


if __name__ == "__main__":
  main()
