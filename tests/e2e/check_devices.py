"""Every task by its command on one device, on eight, and on two processes of four.

  python tests/e2e/check_devices.py OUT

OUT is made anew and keeps what was made: clips of the checkpoint that the package
ships, or of --ckpt, on virtual devices, for which `generate` chooses the mesh. A joint
clip gives the sound of a2v, the picture of v2a and the first frame of i2v and ti2av.
Prints for each task the meshes, and how near the clips are to that of one device: the
mean difference of the pictures in levels of 255, and the sound's signal to difference
in decibels; files are compressed by H.264 and AAC, what is given is copied. Exits with
1 where a clip or its settings are another.
"""

import argparse
import json
import pathlib
import re
import shutil
import sys

import av
import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).parents[2]))

from ccl_jax.data.media.decode import read_audio
from ccl_jax.tasks import GENERATIONS
from ccl_jax.viz.media import write_png
from tests.e2e.commands import Command, meeting

MARK = ".check_devices"  # what this program wrote may go
WAYS = {"1": (1, 1), "8": (1, 8), "2x4": (2, 4)}  # processes, devices of each
# Sums in another order: before the film is compressed, a level in some 3e-5 of the
# pixels. The embedded codec's phases of the sound (Griffin-Lim) turn noise of 1e-7 in
# the latents into 29 dB.
LEVELS, DECIBELS = 0.5, 25.0
PROMPT = 'a red face in the middle says "ba do"'


def make(flags: list[str], out: pathlib.Path, processes: int, devices: int) -> str:
  """Runs the command, which has to succeed; returns the mesh that it tells."""
  started = [
    Command(
      "ccl_jax.generate", [*flags, *which, f"--out={out / str(rank)}"], devices=devices
    )
    for rank, which in enumerate(meeting(processes))
  ]
  codes = [command.wait() for command in started]
  told = started[0].output()
  if any(codes):
    sys.exit("\n".join([*flags, *(c.output()[-2000:] for c in started)]))
  mesh = re.search(r"mesh of \d+ devices: [^\n;]*", told)
  return mesh[0] if mesh else "one device"


def read(folder: pathlib.Path, task: str):
  """(frames or None, sound or None, settings) of the clip of the first process."""
  name = folder / "0" / f"{task}_0_0"
  settings = json.loads(name.with_suffix(".json").read_text())
  film = name.with_suffix(".mp4")
  if not film.exists():
    return None, read_audio(name.with_suffix(".wav")), settings
  with av.open(film) as media:
    frames = [frame.to_ndarray(format="rgb24") for frame in media.decode(video=0)]
    sound = read_audio(film) if media.streams.audio else None
  return np.stack(frames), sound, settings


def apart(one, other) -> tuple[float, float]:
  """(mean difference of the frames, sound's signal to difference in decibels)."""
  levels, decibels = 0.0, float("inf")
  if one[0] is not None:
    levels = float(np.abs(one[0].astype(int) - other[0]).mean())
  if one[1] is not None:
    power = lambda x: float(np.mean(np.square(x, dtype=np.float64)))
    if error := power(one[1] - other[1]):
      decibels = 10 * np.log10(power(one[1]) / error)
  return levels, decibels


def main(argv: list[str] | None = None) -> None:
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument("out", type=pathlib.Path, help="a folder, made anew")
  parser.add_argument("--ckpt", default="quickstart", help="as for generate")
  parser.add_argument("--steps", type=int, default=4, help="of sampling")
  parser.add_argument("--tasks", nargs="+", choices=GENERATIONS, default=[*GENERATIONS])
  args = parser.parse_args(argv)
  home = args.out.absolute()
  if home.exists() and not (home / MARK).is_file():
    sys.exit(f"{home} is there and not of this program")
  shutil.rmtree(home, ignore_errors=True)
  home.mkdir(parents=True)
  (home / MARK).touch()
  common = [f"--ckpt={args.ckpt}", f"--steps={args.steps}", f"--prompt={PROMPT}"]
  make([*common, "--task=joint"], home / "given", *WAYS["1"])
  film, image = home / "given" / "0" / "joint_0_0.mp4", home / "image.png"
  write_png(image, read(home / "given", "joint")[0][0])
  files = {"audio": film, "video": film, "image": image}
  wrong = []
  for task in args.tasks:
    needs = [f"--{name}={files[name]}" for name in GENERATIONS[task].needs()]
    flags, clips = [*common, f"--task={task}", *needs], {}
    for way, (processes, devices) in WAYS.items():
      out = home / task / way
      mesh = make(flags, out, processes, devices)
      if processes > 1 and (out / "1").exists():
        wrong.append(f"{task} on {way}: the second process wrote something")
      clips[way] = read(out, task)
      levels, decibels = apart(clips["1"], clips[way])
      same = clips[way][2] == clips["1"][2]
      print(
        f"{task:6}{way:4} levels {levels:.4f}, sound {decibels:.1f} dB, settings "
        f"{'equal' if same else 'OTHERS'} ({mesh})",
        flush=True,
      )
      if levels > LEVELS or decibels < DECIBELS or not same:
        wrong.append(f"{task} on {way}")
  sys.exit("\n".join(wrong) or print("all clips are the same"))


if __name__ == "__main__":
  main()
