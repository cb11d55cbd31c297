"""Measures an accelerator in ten minutes, by all benchmarks of the network in turn.

  python -m ccl_jax.bench device --out=h100                     (on a GPU or TPU)
  python -m ccl_jax.bench device --out=try --sizes=tiny --depth=1 --frames=5 \\
      --height=32 --width=32 --rounds=1                         (anywhere, in a minute)

In the order of importance, bfloat16, one 480p clip of 81 frames:

  step     blocks of each size, forward and training, beside diffusers in one process;
           then a profile of the last size for TensorBoard, in OUT/profile
  denoise  four steps of sampling with the whole network of the last size, and memory
  parts    the parts of a sampling step of such blocks, time against FLOPs

Each is a process of its own, so that memory is free again and one that fails leaves
the others: why it failed stands in the report. One that fails before its first row is
tried again without the peer. What is not begun when the time is over is
named; what runs is stopped. After each part OUT/device.json is written, and at the end
OUT/device.md, tables for docs/results.md. Programs are kept in OUT/cache: a second run
compiles nothing. The peer needs torch for the same accelerator, and diffusers.
"""

import contextlib
import os
import pathlib
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from absl import flags

from ccl_jax import cli, documents
from ccl_jax.errors import UsageError
from ccl_jax.files import check_writable, write_json, write_text
from ccl_jax.models.presets import PRESETS

OUT = flags.DEFINE_string("out", "device", "Folder for report, tables and profile.")
MINUTES = flags.DEFINE_float("minutes", 10.0, "Minutes that all may take.", 0.1)
SIZES = flags.DEFINE_list("sizes", ["1.3b", "14b"], "Presets; the last counts most.")
DEPTH = flags.DEFINE_integer("depth", 2, "Blocks of a stack.", 1)
FRAMES = flags.DEFINE_integer("frames", 81, "Frames per clip, 4k + 1.", 1)
HEIGHT = flags.DEFINE_integer("height", 480, "Height in pixels.", 1)
WIDTH = flags.DEFINE_integer("width", 832, "Width in pixels.", 1)
ROUNDS = flags.DEFINE_integer("rounds", 3, "Timed runs.", 1)
PEER = flags.DEFINE_bool("peer", True, "Also run diffusers' network.")

GRACE = 15.0  # seconds that a part has to write what it has measured


class Part(NamedTuple):
  """A benchmark that is run.

  Attributes:
    name: in the report.
    argv: its name and flags, after `python -m ccl_jax.bench`.
  """

  name: str
  argv: list[str]


def parts(sizes: Sequence[str], out: pathlib.Path) -> list[Part]:
  """What is measured, the most important first.

  Args:
    sizes: presets.
    out: the folder of the run.
  """
  clip = [
    "--dtype=bfloat16", f"--frames={FRAMES.value}", f"--height={HEIGHT.value}",
    f"--width={WIDTH.value}",
  ]  # fmt: skip
  made, stack = [], [f"--depth={DEPTH.value}", f"--rounds={ROUNDS.value}"]
  for size in sizes:
    argv = ["step", f"--size={size}", *stack, *clip, "--nojoint"]
    if not PEER.value:
      argv.append("--nopeer")
    if size == sizes[-1]:
      argv.append(f"--profile={out / 'profile'}")
    made.append(Part(f"step {size}", argv))
  whole = ["denoise", f"--size={sizes[-1]}", "--rounds=1", *clip]
  made.append(Part(f"denoise {sizes[-1]}", whole))
  for size in reversed(sizes):
    made.append(Part(f"parts {size}", ["parts", f"--size={size}", *stack, *clip]))
  return made


def run(part: Part, out: pathlib.Path, seconds: float) -> dict[str, Any]:
  """Runs a part: what it printed as JSON, with "took" and, if it failed, "failed".

  Args:
    part: to run.
    out: the folder of the run.
    seconds: after which it is stopped.
  """
  environment = os.environ | {
    # Memory is taken as it is needed: the peer needs some too.
    "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
    "JAX_COMPILATION_CACHE_DIR": str(out.resolve() / "cache"),
  }
  command = [sys.executable, "-m", "ccl_jax.bench", *part.argv]
  start, failed = time.perf_counter(), ""
  # Started in the background of a script it ignores Ctrl-C, and so would its children.
  before = signal.signal(signal.SIGINT, signal.default_int_handler)
  try:
    child = subprocess.Popen(
      command,
      env=environment,
      text=True,
      stdout=subprocess.PIPE,
      stderr=subprocess.PIPE,
    )
  finally:
    signal.signal(signal.SIGINT, before)
  try:
    told, errors = child.communicate(timeout=seconds)
  except subprocess.TimeoutExpired:
    failed = "stopped: the time was over"
    child.send_signal(signal.SIGINT)  # upon which it tells what it has
    try:
      told, errors = child.communicate(timeout=GRACE)
    except subprocess.TimeoutExpired:
      child.kill()
      told, errors = child.communicate()
  if child.returncode and not failed:
    lines = [line for line in errors.splitlines() if line.strip()]
    failed = f"exit {child.returncode}: {lines[-1][:500] if lines else 'no word'}"
  found = _last_json(told) | {"took": time.perf_counter() - start}
  return found | ({"failed": failed} if failed else {})


def _last_json(text: str) -> dict[str, Any]:
  """The last line that is a JSON object with rows; without one, no rows."""
  for line in reversed(text.splitlines()):
    if line.startswith("{") and '"rows"' in line:
      with contextlib.suppress(documents.Malformed):  # it was ended within the line
        return documents.parse(line, "what was measured")
  return {"rows": []}


def measure(todo: Sequence[Part], out: pathlib.Path, seconds: float) -> dict[str, Any]:
  """Runs the parts while there is time, and writes the report after each.

  Args:
    todo: of `parts`.
    out: the folder of the run.
    seconds: for all.

  Returns:
    {"minutes", "parts": {name: what it told, with "command"}, "not begun": names}.
  """
  end = time.perf_counter() + seconds
  report: dict[str, Any] = {"minutes": seconds / 60, "parts": {}, "not begun": []}
  left = lambda: end - time.perf_counter()
  for part in todo:
    if left() <= 0:
      report["not begun"].append(part.name)
      continue
    print(f"{part.name}: {max(left(), 0):.0f} s are left", flush=True)
    found = run(part, out, left())
    peers = part.argv[0] == "step" and "--nopeer" not in part.argv
    if peers and "failed" in found and not found["rows"] and left() > 0:
      alone = part._replace(argv=[*part.argv, "--nopeer"])
      found = run(alone, out, left()) | {"peer": found["failed"]}
    told = {"command": f"python -m ccl_jax.bench {' '.join(part.argv)}"} | found
    report["parts"][part.name] = told
    for word in ("peer", "failed"):
      if word in found:
        print(f"  {word}: {found[word]}", flush=True)
    write_json(out / "device.json", report, indent=2)
  return report


def tables(report: Mapping[str, Any]) -> str:
  """The report in Markdown: a table for each part, and what is missing.

  Args:
    report: of `measure`.
  """
  lines = []
  for name, part in report["parts"].items():
    about = ", ".join(
      f"{k} {_cell(v)}" for k, v in part.items()
      if k not in ("rows", "command", "failed", "peer")
    )  # fmt: skip
    lines += [f"**{name}**: `{part['command']}`, {about}", ""]
    if part["rows"]:
      keys = list(dict.fromkeys(key for row in part["rows"] for key in row))
      lines += _table(keys, part["rows"]) + [""]
    for word in ("failed", "peer"):
      if word in part:
        lines += [f"{word}: {part[word]}", ""]
  if report["not begun"]:
    lines += [f"Not begun: {', '.join(report['not begun'])}.", ""]
  return "\n".join(lines)


def _table(keys: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> list[str]:
  cells = [keys, ["---"] * len(keys)]
  cells += [[_cell(row.get(key, "")) for key in keys] for row in rows]
  return ["| " + " | ".join(row) + " |" for row in cells]


def _cell(value: Any) -> str:
  return f"{value:.4g}" if isinstance(value, float) else str(value)


def main() -> None:
  """Measures by the flags, and writes the report."""
  out = pathlib.Path(OUT.value)
  for size in SIZES.value:
    if size not in PRESETS:
      raise UsageError(
        f"--sizes: got {size!r}; expected presets, of {', '.join(PRESETS)}"
      )
  check_writable(out / "device.json")
  report = measure(parts(SIZES.value, out), out, 60 * MINUTES.value)
  text = tables(report)
  write_text(out / "device.md", text)
  print(f"{text}\n{out / 'device.json'}, {out / 'device.md'}")


if __name__ == "__main__":
  cli.run(main)
