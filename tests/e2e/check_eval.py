"""All metrics over synthetic and real clips, by the command, from files as released.

  python tests/e2e/check_eval.py SCRATCH
  python tests/e2e/check_eval.py SCRATCH --full --metrics ib --clips 2

Networks have random numbers and small sizes, or with --full those of the releases (8 GB
on disk, of memory 8 GiB for the largest: name one metric at a time). Each is saved by
torch under the name and in the format of its release, converted with --verify and
exported again. Three synthetic clips, a talking scene and the clips of CCL_SHARED are
scored by all metrics

  by what was exported, the synthetic ones, whose features are the others' reference;
  by the release, which must give the same numbers of these;
  once more, which must score nothing and write the same bytes;
  in another folder, killed, interrupted and terminated on the way, which must end with
  the same bytes as the run that nothing stopped.

Prints a line per run, and the table; the exit code is 1 where a run differs or a metric
has no number.
"""

import argparse
import json
import math
import os
import pathlib
import shutil
import signal
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).parents[2]))

import numpy as np
import torch
from safetensors.numpy import load_file

from ccl_jax.benchmarks import eval_weights
from ccl_jax.data.scenes.talking import draw_clip
from ccl_jax.data.spec import ClipSpec
from ccl_jax.metrics.registry import BUILDERS
from ccl_jax.viz.media import write_mp4
from ccl_jax.weights.transfer import export_weights, import_weights
from tests.e2e.commands import Command
from tests.metrics.tiny_weights import write_clip, write_weights
from tests.metrics.whisper_files import write_whisper

ROOT = pathlib.Path(__file__).parents[2]
OUTPUTS = ("per_clip.jsonl", "summary.json", "report.md", "report.html")
RELEASED = {  # network -> file, and whether it is in torch's format before 1.6
  "syncnet": ("syncnet_v2.model", True),
  "s3fd": ("sfd_face.pth", True),
  "synchformer": ("synchformer_state_dict.pth", False),
  "imagebind": ("imagebind_huge.pth", False),
  "vggish": ("vggish-10086976.pth", False),
  "i3d": ("i3d_pretrained_400.pt", False),
  "aesthetics": ("aesthetics", False),
}
NETWORKS = {name: eval_weights.NETWORKS.get(name, ()) for name in BUILDERS}


def write_release(drawn: pathlib.Path, kind: str, folder: pathlib.Path) -> None:
  """Moves a drawn network, a .safetensors file or a folder with one, to its release."""
  name, legacy = RELEASED[kind]
  path = drawn / kind
  if kind == "aesthetics":
    shutil.move(path, folder / name)
    return
  (file,) = (
    path.glob("*.safetensors") if path.is_dir() else [drawn / f"{kind}.safetensors"]
  )
  state = {n: torch.from_numpy(x) for n, x in load_file(file).items()}
  torch.save(state, folder / name, _use_new_zipfile_serialization=not legacy)
  file.unlink()


def write_networks(folder: pathlib.Path, kinds: list[str], full: bool):
  """(folder of the releases, folder of what convert makes of them)."""
  drawn, released, again = (folder / x for x in ("drawn", "released", "exported"))
  for path in (released, again):
    path.mkdir()
  if not full:
    write_weights(drawn)
  for kind in kinds:
    if kind == "whisper":
      (eval_weights.draw_whisper if full else _tiny_whisper)(released)
      (again / kind).symlink_to(released / kind)
      continue
    if full:
      eval_weights.draw(kind, drawn)
    write_release(drawn, kind, released)
    converted = folder / "converted" / kind
    import_weights(kind, released / RELEASED[kind][0], converted, verify=True)
    export_weights(converted, again / kind, form="native", verify=True)
    shutil.rmtree(converted)
  return released, again


def _tiny_whisper(folder: pathlib.Path) -> None:
  write_whisper(folder / "whisper")


def write_set(folder: pathlib.Path, count: int | None) -> None:
  """Clips and their manifest, the synthetic ones first; and one of these alone."""
  (folder / "videos").mkdir()
  lines = []
  for i in range(3):
    write_clip(folder / f"videos/drawn{i}.mp4", i, 5.0 + 0.1 * i)
    lines.append({"id": f"drawn{i}", "prompt": 'says "good morning"', "subset": "easy"})
  spec = ClipSpec(129, 64, 64, 25)
  scene = draw_clip(2, spec, talker=1.0, duet=0.0, impacts=0.0)
  write_mp4(folder / "videos/scene.mp4", scene["video"], 25, scene["audio"])
  lines.append({"id": "scene", "prompt": scene["text"], "subset": "easy"})
  drawn = len(lines)
  shared = pathlib.Path(os.environ.get("CCL_SHARED", ROOT.parent / "shared")) / "clips"
  for line in map(json.loads, (shared / "manifest.jsonl").read_text().splitlines()):
    path = shared / f"{line['id']}.mp4"
    if path.is_file():
      shutil.copy(path, folder / "videos")
      lines.append(line)
  if count is not None:
    drawn, lines = 1, lines[:1] + lines[drawn : drawn + count - 1]
  for name, some in (("set", lines), ("few", lines[:drawn])):
    text = "".join(json.dumps(line) + "\n" for line in some)
    (folder / f"{name}.jsonl").write_text(text)


class Evaluation:
  """`ccl_jax.eval` with these clips and metrics."""

  def __init__(self, folder: pathlib.Path, manifest: str, metrics: list[str]):
    self._flags = [
      "--videos", str(folder / "videos"), "--manifest", str(folder / manifest),
      "--metrics", ",".join(metrics), "--fvd-frames", "16",
    ]  # fmt: skip

  def start(
    self, weights: pathlib.Path, out: pathlib.Path, reference: pathlib.Path | None
  ) -> Command:
    """A process that scores into `out`."""
    flags = [*self._flags, "--weights", str(weights), "--out", str(out)]
    if reference:
      flags += ["--reference", str(reference)]
    return Command("ccl_jax.eval", flags)

  def run(
    self, weights: pathlib.Path, out: pathlib.Path, reference: pathlib.Path | None
  ) -> str:
    """What it says that it scored, after printing that."""
    start = time.monotonic()
    process = self.start(weights, out, reference)
    code, said = process.wait(math.inf), process.output()
    if code:
      sys.exit(f"{out.name}: exit code {code}\n{said}")
    (line,) = (x for x in said.splitlines() if x.startswith("scored"))
    print(f"{out.name}: {line}, {time.monotonic() - start:.0f} s", flush=True)
    return line


def lines_of(path: pathlib.Path) -> int:
  return path.read_bytes().count(b"\n") if path.exists() else 0


def stop(process: Command, how: signal.Signals, out: pathlib.Path) -> None:
  """Ends a run by a signal after its first record."""
  before = lines_of(out / "records.jsonl")
  while lines_of(out / "records.jsonl") == before:
    if process.poll() is not None:
      sys.exit(f"{out.name} ended before {how.name}: {process.output()}")
    time.sleep(0.02)
  process.send_signal(how)
  code, said = process.wait(math.inf), process.output()
  kept = lines_of(out / "records.jsonl")
  last = said.strip().splitlines()[-1] if said.strip() else ""
  print(f"{how.name} after {kept} records, exit code {code}: {last[-60:]}")
  if code == 0 or "Traceback" in said:
    sys.exit(f"{how.name} was not heeded: {said}")


def bytes_of(out: pathlib.Path) -> list[bytes]:
  return [(out / name).read_bytes() for name in OUTPUTS]


def scores_of(out: pathlib.Path) -> dict:
  """What every metric says of every clip, arrays as their bytes."""
  rows = map(json.loads, (out / "per_clip.jsonl").read_text().splitlines())
  read = lambda x: (
    np.load(out / x["file"]).tobytes() if isinstance(x, dict) and "file" in x else x
  )
  return {
    (r["metric"], r["id"]): {k: read(x) for k, x in r["scores"].items()}
    if "scores" in r
    else r["reason"]
    for r in rows
  }


def main(argv: list[str] | None = None) -> None:
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument("scratch", type=pathlib.Path, help="a folder that is not there")
  parser.add_argument(
    "--full", action="store_true", help="networks as large as released"
  )
  parser.add_argument("--metrics", default=",".join(NETWORKS))
  parser.add_argument("--clips", type=int, help="of which one is synthetic; or all")
  args = parser.parse_args(argv)
  folder, names = args.scratch.absolute(), args.metrics.split(",")
  folder.mkdir(parents=True)
  kinds = list(dict.fromkeys(k for name in names for k in NETWORKS[name]))
  write_set(folder, args.clips)
  released, exported = write_networks(folder, kinds, args.full)
  command, few = (Evaluation(folder, f"{x}.jsonl", names) for x in ("set", "few"))
  whole, again, broken = (folder / x for x in ("whole", "of_exported", "broken"))
  few.run(exported, again, None)
  command.run(released, whole, again)
  first, wrong = bytes_of(whole), []
  print((whole / "report.md").read_text())
  scores, of_few = scores_of(whole), scores_of(again)
  if not of_few or of_few != {key: scores[key] for key in of_few}:
    wrong.append("the exported weights")
  scored = [metric for (metric, _), x in scores.items() if not isinstance(x, str)]
  print(f"{len(scored)} of {len(scores)} scored")
  wrong += [f"{name} (without a score)" for name in names if name not in scored]
  if not command.run(released, whole, again).startswith("scored 0 "):
    wrong.append("what the second run scored")
  if bytes_of(whole) != first:
    wrong.append("the second run")
  signals = (signal.SIGKILL, signal.SIGINT, signal.SIGTERM)
  for how in signals[: len(scores) - 1]:
    stop(command.start(released, broken, again), how, broken)
  command.run(released, broken, again)
  if bytes_of(broken) != first:
    wrong.append("the stopped run")
  print(f"these differ: {', '.join(wrong)}" if wrong else "all runs are the same")
  sys.exit(bool(wrong))


if __name__ == "__main__":
  main()
