"""Stands in for the commands that the ablation starts; makes what they would make.

  python command.py MODULE FLAG...

tells of itself in the file $TOLD, and trains until it is stopped while $SLOW is in its
workdir, or fails while that has $BROKEN in its name.
"""

import json
import os
import pathlib
import signal
import sys
import time

STEPS = 4


def main(module: str, *argv: str) -> None:
  """What `module` leaves behind, without its work."""
  flags = dict(a.removeprefix("--").split("=", 1) for a in argv if "=" in a)
  place = pathlib.Path(flags.get("dst") or flags["workdir"])
  with open(os.environ["TOLD"], "a") as f:
    cores = sorted(os.sched_getaffinity(0))
    line = {"module": module, "place": place.name, "argv": argv, "cores": cores}
    f.write(json.dumps(line) + "\n")
  if os.environ.get("BROKEN", "?") in place.name:
    print("first words")
    sys.exit("error: broken, as was asked for")
  if module == "ccl_jax.train":
    train(place)
  elif module == "ccl_jax.convert":
    place.mkdir(parents=True)
  else:
    score(flags["what"], place, pathlib.Path(flags["results"]))


def train(workdir: pathlib.Path) -> None:
  """One step a process that is stopped, and all at once of one that is not."""
  workdir.mkdir(parents=True, exist_ok=True)
  config = {"steps": STEPS, "model": {"preset": "tiny", "variant": "gate"}}
  (workdir / "config.json").write_text(json.dumps(config))
  if os.environ.get("SLOW", "?") in workdir.name:
    signal.signal(signal.SIGTERM, lambda *_: stop(workdir))
    (workdir / "ready").touch()
    time.sleep(60)
  (workdir / "checkpoints" / str(STEPS)).mkdir(parents=True)


def stop(workdir: pathlib.Path) -> None:
  """Saves and leaves in order, as a training does."""
  (workdir / "checkpoints" / "1").mkdir(parents=True, exist_ok=True)
  sys.exit(0)


def score(what: str, workdir: pathlib.Path, results: pathlib.Path) -> None:
  """An empty result."""
  results.mkdir(parents=True, exist_ok=True)
  if what == "scales":
    file = results / "scales.json"
    found = json.loads(file.read_text()) if file.exists() else {}
    kind = "gate" if workdir.name.startswith("gate") else "context"
    file.write_text(json.dumps(found | {kind: {}}))
  else:
    name = "ceiling" if what == "ceiling" else workdir.name
    (results / f"{name}.json").write_text("{}")


if __name__ == "__main__":
  main(*sys.argv[1:])
