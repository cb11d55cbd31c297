"""Command-line tools for data.

python -m ccl_jax.data inspect SET            what a set of latents holds
python -m ccl_jax.data prepare DIR OUT.jsonl  shots, black bars, loudness, offsets
python -m ccl_jax.data build SOURCE DIR       a TFDS data set of media that lie in DIR

  python -m ccl_jax.data prepare films films.jsonl --loudness=-23 --threads=8
  python -m ccl_jax.data prepare gs://films/raw gs://films/raw.jsonl \
      --runner=DataflowRunner -- --project=P --region=R --temp_location=gs://films/tmp \
      --sdk_container_image=IMAGE
"""

import argparse
import pathlib
import sys
from collections.abc import Sequence
from typing import Any

from ccl_jax import cli
from ccl_jax.errors import THREADS, UsageError
from ccl_jax.places import hold, refuse_schemes
from ccl_jax.remote.paths import place


def main(argv: Sequence[str] | None = None) -> None:
  """The command line of `python -m ccl_jax.data`."""
  parser = cli.Parser(
    prog="python -m ccl_jax.data",
    description=__doc__,
    buckets=("set", "dir", "out", "captions"),
  )
  commands = parser.add_subparsers(
    dest="command", required=True, parser_class=cli.Parser, metavar="COMMAND"
  )
  inspect = commands.add_parser("inspect", help="print what a set of latents holds")
  inspect.add_argument("set", help="folder of the set")
  inspect.add_argument(
    "--clips",
    type=int,
    default=8,
    help="number of clips on the contact sheet; 0: no sheet",
  )
  inspect.add_argument("--out", help="file of the sheet; default: SET/inspect.png")
  build = commands.add_parser("build", help="write a TFDS data set of media")
  build.add_argument("source", help="folder, vggsound, wavcaps or openhumanvid")
  build.add_argument("dir", help="folder of media and metadata")
  build.add_argument(
    "options",
    nargs="*",
    metavar="NAME=VALUE",
    help="options of the source, such as its filters",
  )
  build.add_argument(
    "--runner",
    default="",
    help="of Apache Beam, to read the headers of files, as of `prepare`; default: a "
    "plain loop",
  )
  _prepare_arguments(
    commands.add_parser("prepare", help="write a table of shots and sound levels")
  )
  given = list(sys.argv[1:] if argv is None else argv)
  # Options of Beam follow "--", as those of `train` do of the launchers.
  here, beam = given, []
  if "--" in given:
    here, beam = given[: given.index("--")], given[given.index("--") + 1 :]
  args = parser.parse_args(here)
  if beam and not getattr(args, "runner", ""):
    parser.error(f"unexpected {beam[0]!r}: options after -- are those of a --runner")
  args.beam = beam
  run = {"inspect": _inspect, "build": _build, "prepare": _prepare}[args.command]
  with cli.working():
    run(args)


def _prepare_arguments(parser: argparse.ArgumentParser) -> None:
  add, flag = parser.add_argument, argparse.BooleanOptionalAction
  add("dir", help="folder of media of all kinds")
  add("out", help="table to write; the same command continues it")
  add("--shots", action=flag, default=True, help="split at hard cuts")
  add("--crop", action=flag, default=True, help="crop black bars")
  add("--loudness", type=cli.finite, help="target in LUFS for the gain, such as -23")
  add(
    "--speech",
    default="",
    help="silero (needs onnxruntime and silero-vad), or module:function that gives the "
    "share of speech of (wave, rate)",
  )
  add(
    "--template",
    default="",
    help="form of the captions, such as '{caption} \"{speech}\"'",
  )
  add("--captions", default="", help="table of captions to read; default: all in DIR")
  add(
    "--max_offset_ms",
    type=cli.finite,
    default=100.0,
    help="list files whose picture and sound start further apart",
  )
  add(
    "--threads",
    type=int,
    default=4,
    help="files that are read at a time on this machine; more than one need Beam",
  )
  add(
    "--runner",
    default="DirectRunner",
    help="of Apache Beam: DirectRunner (this machine), DataflowRunner, FlinkRunner, "
    "SparkRunner or PortableRunner; its own options follow --",
  )


def _prepare(args: argparse.Namespace) -> None:
  from ccl_jax.data.preparing.report import summary
  from ccl_jax.data.preparing.rows import Options
  from ccl_jax.data.preparing.run import prepare

  options = Options(**{name: getattr(args, name) for name in Options._fields})
  root, out = place(args.dir), place(args.out)
  if not 1 <= args.threads <= THREADS:
    raise UsageError(f"--threads is {args.threads}; expected 1 to {THREADS}")
  if args.max_offset_ms < 0:
    raise UsageError(f"--max_offset_ms is {args.max_offset_ms:g}; expected 0 at least")
  try:
    prepared = prepare(root, out, options, args.threads, args.runner, args.beam)
  except OSError as e:
    raise UsageError(
      f"cannot write {e.filename or out}: {e.strerror or e}; run it again to go on"
    ) from e
  print("\n".join(summary(prepared, options, args.max_offset_ms)))
  print(f"{out}: read it as data.options.captions={out.absolute()}")


def _inspect(args: argparse.Namespace) -> None:
  from ccl_jax.encoding.inspect import show

  if args.clips < 0:
    raise UsageError(f"--clips is {args.clips}; expected a number from 0 on")
  show(place(args.set), args.clips, pathlib.Path(args.out) if args.out else None)


def _build(args: argparse.Namespace) -> None:
  from ccl_jax.data.sources import media_set
  from ccl_jax.data.sources import open as sources

  kind = getattr(sources.builder(args.source), "BUILDER", None)
  if kind is None:
    raise UsageError(
      f"{args.source} is no data set of media: it is made where it is used"
    )
  options = _options(args.options, kind)
  refuse_schemes({"dir": args.dir})
  root = pathlib.Path(args.dir)
  if not root.is_dir():
    raise UsageError(f"no folder at {root}: give the one with media and metadata")
  with hold(options.get("data_dir") or root / "tfds"):
    built = media_set.prepare(
      kind, root, runner=args.runner, flags=args.beam, **options
    )
  path = pathlib.Path(built.data_dir)
  counts = [f"{split.num_examples} {name}" for name, split in built.info.splits.items()]
  lines = {n: (path / n).read_text("utf-8").count("\n") for n in _REPORTS}
  reports = ", ".join(f"{count} in {name}" for name, count in lines.items())
  print(f"{path}: {', '.join(counts)}; {reports}")


_REPORTS = ("missing.txt", "skipped.jsonl")


def _options(pairs: Sequence[str], kind: Any) -> dict[str, Any]:
  """NAME=VALUE in the types of the builder's options; pairs as A:1,B:2."""
  from ccl_jax.data.sources.media_set import option_types

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
      if out[name] != out[name]:
        raise ValueError("expected a number")
    except ValueError as e:
      raise UsageError(f"option {pair!r}: {e}") from e
  return out


if __name__ == "__main__":
  main()
