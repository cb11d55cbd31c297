"""An audio codec of one's own, by the commands of docs/audio.md, beside the linear one.

  python tests/e2e/check_audio.py CLIPS OUT

CLIPS is a folder of media; to their sound come sentences by espeak-ng and a minute of
percussion. Trains the tiny VAE and the tiny vocoder on all of it, which takes hours on
two cores and goes on where it was stopped, and prints the scores of both. Exits with 1
where the codec is not nearer to held-out sound than the linear codec of the same rate,
or where a click comes back more than 2 ms off.
"""

import argparse
import json
import pathlib
import random
import shutil
import subprocess
import sys

import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).parents[2]))

from ccl_jax.data.sources.sounds import RATE
from ccl_jax.viz.media import write_wav
from tests.e2e.commands import finish

ROOT = pathlib.Path(__file__).parents[2]
SENTENCES = 120
VOICES = ("en-us", "en-gb", "en-gb-scotland", "en-us+f3", "en-gb+f2", "en-us+m3")
VOICES += ("en-gb+m7", "en-us+f5", "de+f1", "fr", "es+m2", "it+f4")
WORDS = (
  "the old man|a young doctor|my sister|the engineer|every child|the captain|"
  "our neighbour|a quiet stranger|the teacher|the singer|two sailors|the baker|"
  "a red fox",
  "walked to|looked at|thought about|remembered|painted|sold|repaired|listened to|"
  "asked for|crossed|jumped over|measured|described|forgot|carried|followed",
  "the broken bridge|a glass of cold water|the yellow house|seven wooden boxes|"
  "the last train|a strange machine|the quiet river|fresh bread and cheese|"
  "the highest mountain",
  "before sunrise|in the middle of winter|without saying a word|"
  "because it was raining|while the others slept|for thirteen years|"
  "with great care|and then vanished|as usual",
)


def sentences(folder: pathlib.Path) -> None:
  """Speech in many voices, speeds and pitches."""
  rng = random.Random(0)
  folder.mkdir()
  for i in range(SENTENCES):
    text = " ".join(rng.choice(words.split("|")) for words in WORDS)
    options = ["-v", rng.choice(VOICES), "-s", str(rng.randint(120, 190))]
    options += ["-p", str(rng.randint(20, 80)), "-w", str(folder / f"{i:03d}.wav")]
    subprocess.run(["espeak-ng", *options, text], check=True)


def percussion(folder: pathlib.Path) -> None:
  """A minute of pulses and bursts of noise that die away, on silence or on noise."""
  rng = np.random.default_rng(0)
  folder.mkdir()
  for i in range(6):
    sound = rng.normal(size=10 * RATE) * (i % 2) * 10 ** -rng.uniform(3, 4)
    at = 0
    while (at := at + round(rng.uniform(0.05, 0.6) * RATE)) < len(sound) - RATE // 4:
      level = 0.9 * 10 ** -rng.uniform(0, 1.2)
      if rng.uniform() < 0.5:
        n = round(rng.uniform(0.0005, 0.005) * RATE)
        hit = np.sin(np.pi * np.arange(n) / n) * rng.choice([-1, 1])
      else:
        n, decay = RATE // 4, rng.uniform(0.002, 0.03) * RATE
        hit = rng.uniform(-1, 1, n) * np.exp(-np.arange(n) / decay)
      sound[at : at + n] += level * hit
    write_wav(folder / f"{i}.wav", sound.astype(np.float32), RATE)


def train(config: str, workdir: pathlib.Path, quick: bool) -> dict[str, float]:
  """The scores of a finished run; a quick one compiles to slow programs."""
  flags = [f"--config=configs/{config}", f"--workdir={workdir}"]
  print("$ python -m ccl_jax.train_audio", *flags, flush=True)
  if quick:
    code, out = finish("ccl_jax.train_audio", flags)
    if code:
      sys.exit(out)
  else:
    command = [sys.executable, "-m", "ccl_jax.train_audio", *flags]
    subprocess.run(command, cwd=ROOT, check=True)
  return json.loads((workdir / "scores.json").read_text())


def main(argv: list[str] | None = None) -> None:
  flags = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  flags.add_argument("clips", type=pathlib.Path, help="a folder of media")
  flags.add_argument("out", type=pathlib.Path, help="sounds and runs")
  flags.add_argument(
    "--runlocal", action="store_true", help="a few steps, without speech; no verdict"
  )
  args = flags.parse_args(argv)
  size = "runlocal" if args.runlocal else "size=tiny"
  out = args.out.absolute()
  sounds, vae = out / "sounds", out / "vae"
  if not sounds.exists():
    shutil.rmtree(out / "making", ignore_errors=True)
    shutil.copytree(args.clips, out / "making" / "clips")
    if not args.runlocal:
      sentences(out / "making" / "speech")
    percussion(out / "making" / "percussion")
    (out / "making").rename(sounds)
  of_vae = train(f"audio_vae.py:data={sounds},{size}", vae, args.runlocal)
  pair = f"vocoder.py:data={sounds},vae={vae},{size}"
  of_pair = train(pair, out / "vocoder", args.runlocal)
  for scores in (of_vae, of_pair):
    print(json.dumps(scores, indent=2))
  if args.runlocal:
    return
  beaten = (
    of_vae["mel_db/vae"] < of_vae["mel_db/linear"],
    of_vae["lsd_db/vae_griffin_lim"] < of_vae["lsd_db/linear"],
    of_pair["lsd_db/codec"] < of_pair["lsd_db/linear"],
    of_pair["click_ms_max/codec"] <= 2,
  )
  sys.exit(0 if all(beaten) else f"not as near as it should be: {beaten}")


if __name__ == "__main__":
  main()
