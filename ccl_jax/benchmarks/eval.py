"""Benchmark of the metrics: each alone, then all of them in one process.

  python -m ccl_jax.bench eval
  python -m ccl_jax.bench eval --metrics=av_align,sync --clips=6
  python -m ccl_jax.bench eval --videos=out/clips --weights=weights/eval

Without --weights, networks have random numbers at the sizes of their releases: drawn
into a temporary folder, 8 GB for all. Such a detector takes any picture for one with a
few faces, and such a Whisper says 24 tokens. Without --videos, clips are drawn too: 81
frames of 832x480 at 16 per second, with sound.

Prints, per metric, clips per minute (of the median clip after the first, decoding
included), seconds of processor time a clip on all cores, the seconds of the first clip,
in which networks are read and programs are compiled, and the largest memory of the
process; then the same as JSON. The last row is of all metrics together; --notogether
leaves it out where memory is scarce.
"""

import json
import os
import pathlib
import tempfile

import jax
from absl import flags

from ccl_jax import cli
from ccl_jax.benchmarks import eval_rates, eval_weights
from ccl_jax.errors import UsageError
from ccl_jax.metrics.registry import BUILDERS

NAMES = [name for name in BUILDERS if name != "talking"]  # of synthetic scenes alone

METRICS = flags.DEFINE_list("metrics", NAMES, "Metrics to measure.")
CLIPS = flags.DEFINE_integer("clips", 4, "Number of clips, with the first one.", 2)
VIDEOS = flags.DEFINE_string("videos", None, "Folder of mp4 files to score.")
WEIGHTS = flags.DEFINE_string(
  "weights", None, "Folder of weights, as for ccl_jax.eval."
)
TOGETHER = flags.DEFINE_bool("together", True, "Also measure all metrics at once.")
FOLDER = flags.DEFINE_string(
  "folder", None, "Folder for temporary random weights; default: the system's."
)


def draw_weights(names: list[str], folder: pathlib.Path) -> pathlib.Path:
  """Writes random networks of these metrics into `folder`, which it returns."""
  for kind in dict.fromkeys(
    k for name in names for k in eval_weights.NETWORKS.get(name, ())
  ):
    if kind == "whisper":
      eval_weights.draw_whisper(folder)
    else:
      eval_weights.draw(kind, folder)
  return folder


def clips(folder: pathlib.Path) -> list[pathlib.Path]:
  """The first clips of the folder --videos, or else drawn ones.

  Raises:
    UsageError: the folder has fewer than two.
  """
  if VIDEOS.value is None:
    return eval_rates.write_clips(folder, CLIPS.value, 480, 832, 81, 16.0)
  videos = sorted(pathlib.Path(VIDEOS.value).glob("*.mp4"))[: CLIPS.value]
  if len(videos) < 2:
    raise UsageError(f"--videos: {len(videos)} mp4 in {VIDEOS.value}; expected 2")
  return videos


def main() -> None:
  """Measures the metrics that the flags name, and prints a table and a JSON object."""
  names = METRICS.value
  if wrong := [name for name in names if name not in NAMES]:
    raise UsageError(f"--metrics: no {wrong[0]!r}; expected some of {', '.join(NAMES)}")
  groups = {name: [name] for name in names}
  if TOGETHER.value and len(names) > 1:
    groups["together"] = names
  heads = ("clips/min", "CPU s", "first, s", "peak, GiB")
  print(f"{'':12} {' '.join(head.rjust(9) for head in heads)}", flush=True)
  rows = {}
  with tempfile.TemporaryDirectory(dir=FOLDER.value) as folder:
    folder = pathlib.Path(folder)
    weights = WEIGHTS.value or draw_weights(names, folder)
    videos = clips(folder)
    for name, group in groups.items():
      rate = eval_rates.measure(group, videos, pathlib.Path(weights))
      rows[name] = rate._asdict() | {"clips_per_minute": rate.clips_per_minute}
      numbers = (rate.clips_per_minute, *rate[1:4])
      shown = " ".join(f"{x:9.1f}" for x in numbers if x is not None)
      print(f"{name:12} {shown or rate.reason}", flush=True)
  device = jax.devices()[0]
  setup = {"device": device.device_kind, "cores": os.cpu_count(), "clips": len(videos)}
  print(json.dumps(setup | {"rows": rows}))


if __name__ == "__main__":
  cli.run(main)
