"""Scores a folder of clips by the paper's metrics.

  python -m ccl_jax.eval --videos out/clips --manifest set.jsonl --out out/scores \\
      --metrics sync,desync,ib,aesthetics,wer --weights weights/eval
  python -m ccl_jax.eval --videos out/clips --metrics av_align,aesthetics \\
      --weights weights/eval --out out/scores
  python -m ccl_jax.eval --videos out/clips --manifest set.jsonl --metrics wer \\
      --transcripts heard.jsonl --out out/scores
  python -m ccl_jax.eval --compare out/scores_a out/scores_b
  python -m ccl_jax.eval make-manifest --prompts prompts.csv --out set.jsonl

Writes to OUT per_clip.jsonl (every number, or why there is none), summary.json (means,
95 % intervals, protocols, hashes of the weights), report.md and report.html. A run that
was stopped goes on where it was, and one that is repeated scores nothing again: all
that was ever scored there is in records.jsonl.

Weights are released files or folders, named syncnet, s3fd, synchformer, imagebind,
aesthetics, i3d, vggish or whisper, or as they were published; see docs/eval.md. What is
on the hub is downloaded when a metric needs it:

  python -m ccl_jax.eval --videos out/clips --metrics sync,aesthetics --out scores \\
      --weights hf:ByteDance/LatentSync-1.6/auxiliary \\
      aesthetics=hf:facebook/audiobox-aesthetics

A metric that cannot run says why, and the others go on.

Exit code: 0; 1 where videos are missing (but for --allow-missing), a metric could not
run or a clip failed by accident; 2 for a mistake in the command or the manifest; 130
for Ctrl-C, after which the same command goes on.
"""

import argparse
import contextlib
import dataclasses
import itertools
import os
import pathlib
import sys
from collections.abc import Callable

from ccl_jax import cli, hub, progress
from ccl_jax.data.manifest import Line, read_manifest, write_manifest
from ccl_jax.errors import UsageError
from ccl_jax.files import sweep
from ccl_jax.metrics.registry import BUILDERS, Options, build_metrics
from ccl_jax.places import hold
from ccl_jax.remote.mirror import Mirror
from ccl_jax.remote.paths import BucketPath, Place, place
from ccl_jax.sharding import require_devices

FOLDERS = "videos", "weights", "out", "reference", "compare"
BUCKETS = *FOLDERS, "manifest", "transcripts"


def parser() -> cli.Parser:
  """The parser of the command's flags."""
  p = cli.Parser(
    prog="python -m ccl_jax.eval",
    description=__doc__,
    buckets=BUCKETS,
  )
  p.add_argument("--videos", help="folder of the clips, <id>.mp4 each")
  p.add_argument(
    "--manifest",
    help="manifest in JSONL; default: every mp4 of --videos, "
    "with the prompt of the settings that generate wrote beside it",
  )
  p.add_argument("--metrics", help=f"some of {','.join(BUILDERS)}; default: all")
  p.add_argument(
    "--weights",
    nargs="+",
    default=[],
    metavar="PLACE",
    help="folders of the networks' released weights, on this disk or the hub "
    "(hf:OWNER/NAME/FOLDER); NETWORK=PLACE of one network",
  )
  p.add_argument("--out", help="folder for the results")
  p.add_argument(
    "--name",
    help="name of the method in tables; default: that of --videos. With --compare two "
    "names, as ours,theirs; default: those they were scored under",
  )
  p.add_argument(
    "--allow-missing", action="store_true", help="score the videos that exist"
  )
  p.add_argument(
    "--transcripts", help='JSONL of {"id", "text"}: words from another recogniser'
  )
  p.add_argument(
    "--reference", help="folder with features of real clips: fad.npz, fvd.npz"
  )
  p.add_argument(
    "--recogniser",
    default="transformers",
    choices=("transformers", "faster-whisper"),
    help="package that runs Whisper",
  )
  p.add_argument(
    "--sync-scale",
    type=cli.finite,
    default=0.25,
    help="scale of the frames that the face detector sees",
  )
  p.add_argument(
    "--min-track",
    type=int,
    default=50,
    help="frames that a face must be seen in more than",
  )
  p.add_argument(
    "--min-face-size",
    type=cli.finite,
    default=100,
    help="pixels that a face must be larger than",
  )
  p.add_argument("--fvd-frames", type=int, help="frames per clip for FVD; default: all")
  p.add_argument(
    "--compare",
    nargs=2,
    metavar=("A", "B"),
    help="compare the results of two finished runs",
  )
  return p


def read_items(args: argparse.Namespace, transcripts):
  """The clips to score, and the ids of those without a file.

  Args:
    args: flags.
    transcripts: texts by id, of another recogniser; None: there are none.

  Raises:
    UsageError: the folder or the manifest is not what it should be.
  """
  from ccl_jax.metrics.runner import Item

  folder = place(args.videos)
  if not folder.is_dir():
    raise UsageError(f"--videos: no folder {folder}")
  there = is_there(folder)
  if args.manifest:
    lines = read_manifest(hub.local(args.manifest))
  else:
    lines = [line_of(path, there) for path in films_of(folder)]
  items = []
  for line in lines:
    fields = {k: v for k, v in dataclasses.asdict(line).items() if v is not None}
    if transcripts is not None:
      # Part of the record's key: another transcript is another score.
      fields["hypothesis"] = transcripts.get(line.id)
    items.append(Item(line.id, folder / (line.clip or f"{line.id}.mp4"), fields))
  return items, [item.name for item in items if not there(item.path)]


def line_of(film: Place, there: Callable[[Place], bool]) -> Line:
  """The line of a film without a manifest: its prompt is that of the settings which
  `generate` writes beside it, NAME.json; without these it has none.

  Args:
    film: whose line it is.
    there: whether a file is there.
  """
  from ccl_jax.generation.settings import read_about
  from ccl_jax.metrics.prompts import language_of
  from ccl_jax.metrics.quotes import quoted

  settings = film.with_suffix(".json")
  about = read_about(settings) if there(settings) else None
  prompt = (about or {}).get("prompt")
  prompt = prompt if isinstance(prompt, str) else ""
  return Line(film.stem, prompt, language=language_of(quoted(prompt)), clip=film.name)


def is_there(folder: Place):
  """A function that says whether a file below a folder is there; of a bucket all its
  files are asked for at once.
  """
  if not isinstance(folder, BucketPath):
    return lambda path: path.is_file()
  return set(folder.walk()).__contains__


def films_of(folder: Place) -> list[Place]:
  """The mp4 files of a folder, in order; media of other endings are named in a note.

  Raises:
    UsageError: there are none, or two of one name.
  """
  from ccl_jax.data.sources.folder import unread

  films = sorted(p for p in folder.glob("[!.]*") if p.suffix.lower() == ".mp4")
  others = [name for name, _ in unread(folder, (".mp4",)) if "/" not in name]
  if not films:
    raise UsageError(f"--videos: no mp4 in {folder}")
  for one, other in itertools.pairwise(films):
    if one.stem == other.stem:
      raise UsageError(f"--videos: {one} and {other} are both {one.stem}: rename one")
  if others:
    progress.say(
      f"note: {folder} has {len(others)} media files that are no mp4, such as "
      f'{others[0]}, which are not scored; a manifest can name films by "clip"'
    )
  return films


def check_languages(items) -> None:
  """Checks the languages of clips, before any is scored.

  Raises:
    UsageError: there is no such language; the message names the clip.
  """
  from ccl_jax.metrics.languages import language_code

  for item in items:
    try:
      language_code(item.fields.get("language") or "en")
    except UsageError as e:
      raise UsageError(f"--manifest: {item.name}: language: {e}") from e


def score(args: argparse.Namespace) -> int:
  """Scores the clips that the flags name, writes the results, returns the exit code.

  Raises:
    UsageError: a flag is missing or wrong.
  """
  from ccl_jax.metrics.outputs import read_reference, write_outputs
  from ccl_jax.metrics.records import FILE as RECORDS
  from ccl_jax.metrics.records import Records
  from ccl_jax.metrics.runner import evaluate
  from ccl_jax.metrics.tables import all_table, notes
  from ccl_jax.metrics.whisper import read_transcripts

  for flag in ("videos", "out"):
    if getattr(args, flag) is None:
      raise UsageError(f"--{flag} is missing; see --help")
  named = (args.metrics or ",".join(BUILDERS)).split(",")
  names = list(dict.fromkeys(name.strip() for name in named))
  if args.reference and not place(args.reference).is_dir():
    raise UsageError(f"--reference: no folder {args.reference}")
  transcripts = read_transcripts(args.transcripts) if args.transcripts else None
  items, missing = read_items(args, transcripts)
  if args.fvd_frames is not None and args.fvd_frames < 1:
    raise UsageError(f"--fvd-frames is {args.fvd_frames}; expected 1 at least")
  if not 0 < args.sync_scale <= 4:
    raise UsageError(f"--sync-scale is {args.sync_scale}; expected above 0, to 4")
  for flag in ("min_track", "min_face_size"):
    if getattr(args, flag) < 0:
      name = flag.replace("_", "-")
      raise UsageError(f"--{name} is {getattr(args, flag)}; expected 0 at least")
  if "wer" in names:
    check_languages(items)
  options = Options(
    args.sync_scale,
    args.min_track,
    args.min_face_size,
    args.recogniser,
    transcripts,
    args.fvd_frames,
  )
  require_devices()
  out = place(args.out)
  with hold(out), contextlib.closing(Mirror(out, (RECORDS, "features"))) as mirror:
    sweep(out)
    reference = read_reference(
      args.reference, [n for n in names if n in ("fad", "fvd")]
    )
    metrics, skipped = build_metrics(names, args.weights, options)
    present = [item for item in items if item.name not in set(missing)]
    records = Records(mirror.folder)
    with progress.Bar("scoring", len(present), "clips") as bar:

      def done(name):
        bar.update(1)
        mirror.push_soon()

      results = evaluate(present, metrics, records, done)
    name = args.name or place(args.videos).absolute().name
    summary = write_outputs(
      mirror.folder, items, missing, metrics, skipped, results, reference, name
    )
    print(f"{name}\n\n{all_table(summary)}\n")
    for line in [*notes(summary), *results.accidents]:
      print(line, file=sys.stderr)
    print(
      f"scored {results.scored} (clip, metric) pairs, decoded {results.decoded} clips"
    )
    print(f"report: {out / 'report.html'}")
  wrong = []
  if unable := [*skipped, *results.broken]:
    wrong.append(f"{', '.join(unable)} could not run")
  if results.accidents:
    wrong.append(f"{len(results.accidents)} scores failed by accident")
  if missing and not args.allow_missing:
    wrong.append(f"{len(missing)} videos are missing (--allow-missing takes that)")
  if wrong:
    print(f"exit code 1: {'; '.join(wrong)}", file=sys.stderr)
  return int(bool(wrong))


def compared_names(args: argparse.Namespace) -> list[str]:
  """The names that --name gives the two runs of --compare; none if it is not given.

  Raises:
    UsageError: it has not two, or a flag is given that --compare does not use.
  """
  defaults = vars(parser().parse_args([]))
  for flag, value in vars(args).items():
    if flag not in ("compare", "name") and value != defaults[flag]:
      raise UsageError(
        f"--{flag.replace('_', '-')} does nothing with --compare, which reads what two "
        "finished runs have written: leave it out"
      )
  names = args.name.split(",") if args.name else []
  if names and (len(names) != 2 or not all(names) or names[0] == names[1]):
    raise UsageError(
      f"--name: got {args.name}; expected two names with --compare, as ours,theirs"
    )
  return names


def make_manifest(argv: list[str]) -> int:
  """Writes a manifest of published prompts, by its own flags; returns the exit code."""
  from ccl_jax.metrics.languages import WHISPER
  from ccl_jax.metrics.prompts import FORMATS, read_prompts

  p = cli.Parser(
    prog="python -m ccl_jax.eval make-manifest",
    description="Writes a manifest of published prompts.",
    epilog="python -m ccl_jax.eval make-manifest --prompts prompts.csv --out set.jsonl",
  )
  p.add_argument("--prompts", required=True, help="CSV or JSON of prompts")
  p.add_argument(
    "--format", default="auto", choices=("auto", *FORMATS), help="of --prompts"
  )
  p.add_argument("--out", required=True, help="JSONL to write")
  args = p.parse_args(argv)
  lines, quoted = read_prompts(args.prompts, args.format)
  source, target = (pathlib.Path(x).absolute().parent for x in (args.prompts, args.out))
  # Images keep their place, seen from where the manifest is written.
  near = lambda image: image and os.path.relpath(source / image, target)
  lines = [dataclasses.replace(line, image=near(line.image)) for line in lines]
  write_manifest(args.out, lines)
  spoken = sum(bool(line.transcript) for line in lines)
  strange = sorted({line.language for line in lines} - WHISPER)
  if strange:
    progress.say(
      f"note: Whisper does not know {', '.join(strange)}: lines in these have a word "
      "error rate by --transcripts only"
    )
  print(
    f"{len(lines)} prompts, {spoken} with speech, {quoted} transcripts taken from "
    f"quotation marks: {args.out}"
  )
  return 0


def main(argv: list[str] | None = None) -> int:
  """Runs the command line, and returns the exit code."""
  argv = sys.argv[1:] if argv is None else argv
  if argv[:1] == ["make-manifest"]:
    return make_manifest(argv[1:])
  args = parser().parse_args(argv)
  if args.compare:
    from ccl_jax.metrics.outputs import compare, comparison_text

    print(comparison_text(compare(*args.compare, compared_names(args))))
    return 0
  return score(args)


if __name__ == "__main__":
  with cli.working("stopped: the same command goes on where it was"):
    sys.exit(main())
