"""Real films through all of docs/data.md, by its commands, with both kinds of codecs.

  python tests/e2e/check_data.py CLIPS OUT

CLIPS is a folder of media with captions; OUT is made anew and keeps what was made.
Builder -> encode -> inspect -> train -> generate, once with the embedded codecs and
once with codecs in the files of Wan2.1 and MMAudio: released names and formats, small
sizes and random weights, so that their films are noise, but as long as they should be
and not silent. Prints the commands, their time and what was measured; exits with 1
where a film is not what it should be.
"""

import argparse
import json
import pathlib
import shutil
import sys
import time
import zlib

import av
import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).parents[2]))

from ccl_jax.data.media.decode import read_clip
from ccl_jax.data.sets.record_set import RecordSet
from ccl_jax.data.spec import ClipSpec
from tests.e2e.commands import finish
from tests.weights.release_files import SIZES, tensors, tokenizer_file
from tests.weights.wan_files import save_pth

SPEC = ClipSpec(17, 32, 32, 24.0)  # of `runlocal`
STEPS = 6
MARK = ".check_data"  # what this program wrote may go
AUDIO_SIZES = {
  "audio-vae": {"bands": 80, "channels": 20, "hidden": 8},
  "vocoder": {
    "bands": 80, "channels": 64, "rates": [4, 4, 2, 2, 2, 2],
    "kernels": [8, 8, 4, 4, 4, 4], "blocks": [[3, [1, 3, 5]]], "bias": True,
    "tanh": True,
  },
}  # fmt: skip


def run(module: str, *flags: str) -> str:
  """The output of a command, which has to succeed."""
  print(f"\n$ python -m {module} {' '.join(flags)}", flush=True)
  began = time.time()
  code, out = finish(module, list(flags))
  lines = [line for line in out.splitlines() if "clips/s" not in line]
  if code:
    sys.exit("\n".join([*lines[-30:], f"exit code {code}"]))
  print("\n".join(f"  {line[:150]}" for line in lines[-6:]))
  print(f"  ({time.time() - began:.1f} s)")
  return out


def download(folder: pathlib.Path) -> None:
  """Small codecs as they are published: Wan2.1's folder, MMAudio's ext_weights."""
  (folder / "google" / "umt5-xxl").mkdir(parents=True)
  (folder / "google" / "umt5-xxl" / "tokenizer.json").write_text(tokenizer_file())
  save_pth(folder / "Wan2.1_VAE.pth", tensors("wan-vae", SIZES["wan-vae"], "native"))
  umt5 = tensors("umt5", SIZES["umt5"], "native")
  save_pth(folder / "models_t5_umt5-xxl-enc-bf16.pth", umt5)
  vae = tensors("audio-vae", AUDIO_SIZES["audio-vae"], "native")
  # Statistics of log-mels of speech, about: deviations are positive.
  vae |= {"data_mean": vae["data_mean"] - 3, "data_std": np.abs(vae["data_std"]) + 1}
  save_pth(folder / "v1-16.pth", vae)
  vocoder = tensors("vocoder", AUDIO_SIZES["vocoder"], "native")
  save_pth(folder / "best_netG.pt", with_weight_norm(vocoder), inside="generator")


def with_weight_norm(plain: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
  """Kernels as a direction of a random length, and the length they are to have."""
  out = {}
  for name, x in plain.items():
    layer, _, part = name.rpartition(".")
    if part != "weight":
      out[name] = x
      continue
    g = np.sqrt(np.sum(x * x, axis=tuple(range(1, x.ndim)), keepdims=True))
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    out[f"{layer}.weight_g"] = g
    out[f"{layer}.weight_v"] = x * np.exp(rng.standard_normal(g.shape, np.float32))
  return out


def convert(home: pathlib.Path) -> pathlib.Path:
  """The commands of the section on Wan2.1's and MMAudio's codecs."""
  source, weights = home / "download", home / "weights"
  download(source)
  for kind, file, *more in (
    ("wan-vae", "Wan2.1_VAE.pth"),
    ("umt5", "models_t5_umt5-xxl-enc-bf16.pth", "--dtype=bfloat16"),
    ("audio-vae", "v1-16.pth"),
    ("vocoder", "best_netG.pt"),
  ):
    to = [f"--src={source / file}", f"--dst={weights / kind}"]
    run("ccl_jax.convert", kind, *to, *more)
  parts = {n: str(weights / n) for n in ("wan-vae", "umt5", "audio-vae", "vocoder")}
  run(
    "ccl_jax.convert", "codecs", "--dst", str(weights / "codecs"),
    "--video", parts["wan-vae"], "--audio", parts["audio-vae"], parts["vocoder"],
    "--text", parts["umt5"],
  )  # fmt: skip
  return weights / "codecs"


def measure(path: pathlib.Path) -> str:
  """What is in a file; exits where it is not a film of `SPEC`, or a sound as long."""
  sound = path.suffix == ".wav"
  frames, samples, where = 0, [], f"{path.parent.name}/{path.name}"
  with av.open(str(path)) as container:
    kinds = [s.type for s in container.streams]
    for frame in container.decode(*container.streams):
      if isinstance(frame, av.VideoFrame):
        frames += 1
      else:
        x, rate = frame.to_ndarray().ravel(), frame.sample_rate
        samples.append(x / 32768 if x.dtype == np.int16 else x)
  audio = np.concatenate(samples)
  expected = SPEC.samples / SPEC.sample_rate
  level = 20 * np.log10(max(np.sqrt(np.mean(np.square(audio, dtype=float))), 1e-9))
  seconds = len(audio) / rate
  got = f"{where}: {frames} frames, {seconds:.3f} s at {rate} Hz, {level:.1f} dB"
  # AAC pads to whole packets of 1024 samples and begins one early.
  slack = 0 if sound else 2048 / rate
  fine = (
    kinds == (["audio"] if sound else ["video", "audio"])
    and frames == (0 if sound else SPEC.frames)
    and expected - 1e-3 <= seconds <= expected + slack + 1e-3
    and np.isfinite(audio).all()
    and level > -80
  )
  if not fine:
    sys.exit(f"{got}; expected {SPEC.frames} frames, {expected:.3f} s, sound: {kinds}")
  return got


def likeness(clips: pathlib.Path, path: pathlib.Path) -> str:
  """How a decoded record compares with the film that it was made of. Sound by its level
  over time, as the embedded codec makes up its phases.
  """
  name, _, start = path.stem.rpartition("@")
  original, wave = read_clip(clips / name, SPEC, float(start))
  made, sound = read_clip(path, SPEC)
  psnr = 10 * np.log10(255**2 / np.mean(np.square(made.astype(float) - original)))
  levels = [np.log(envelope(x) + 1e-4) for x in (wave, sound)]
  alike = np.corrcoef(*levels)[0, 1]
  return f"picture {psnr:.1f} dB of PSNR, sound's level correlates by {alike:.2f}"


def envelope(wave: np.ndarray) -> np.ndarray:
  """RMS of every 32 ms."""
  return np.sqrt(np.mean(np.square(wave.reshape(-1, 512)), axis=1))


def go(home, clips, data, name, codecs: pathlib.Path | None, starts: int) -> None:
  """From the built data set to generated films."""
  made = home / name
  arg = f"source=tfds,data={data},out={made / 'set'},runlocal"
  arg += f",codecs={codecs}" if codecs else ""
  encode = [f"--config=configs/encode.py:{arg}", "--config.data.options.hop=4.0"]
  run("ccl_jax.encode", *encode, "--check=4")
  for path in sorted((made / "set" / "check").iterdir()):
    if path.suffix == ".txt":
      continue
    print(f"  {measure(path)}")
    if path.suffix == ".mp4" and not codecs:
      print(f"  {path.name}: {likeness(clips, path)}")
  run("ccl_jax.data", "inspect", str(made / "set"))
  records = RecordSet(made / "set")
  for bucket, rows in records.buckets.items():
    shapes = {k: v.shape for k, v in rows[0].items() if k != "about"}
    print(f"  {len(rows)} of {bucket.name}: {shapes}")
  train = [
    f"--config=configs/joint.py:runlocal,records={made / 'set'}",
    f"--workdir={made / 'run'}", "--config.batch.size=4",
    "--config.model.remat=none",  # it compiles sooner
  ]  # fmt: skip
  for start in range(1, starts + 1):
    run("ccl_jax.train", *train, f"--config.steps={STEPS * start // starts}")
  lines = (made / "run" / "metrics.jsonl").read_text().splitlines()
  losses = [json.loads(line)["loss"] for line in lines]
  print(f"  losses {', '.join(f'{x:.3f}' for x in losses)}")
  if len(losses) != STEPS or not np.isfinite(losses).all():
    sys.exit("expected a finite loss of every step")
  run(
    "ccl_jax.generate", f"--ckpt={made / 'run'}", f"--out={made / 'out'}",
    "--prompt=a woman speaks", "--steps=2",
  )  # fmt: skip
  print(f"  {measure(made / 'out' / 'joint_0_0.mp4')}")


def main(argv: list[str] | None = None) -> None:
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument("clips", type=pathlib.Path, help="a folder of media")
  parser.add_argument("out", type=pathlib.Path, help="a folder, made anew")
  parser.add_argument("--codecs", choices=("embedded", "released"), help="one of both")
  parser.add_argument(
    "--starts", type=int, default=2, help="in which the training comes to its end"
  )
  args = parser.parse_args(argv)
  clips, home = args.clips.absolute(), args.out.absolute()
  if home.exists() and not (home / MARK).is_file():
    sys.exit(f"{home} is there and not of this program")
  shutil.rmtree(home, ignore_errors=True)
  home.mkdir(parents=True)
  (home / MARK).touch()
  built = run(
    "ccl_jax.data", "build", "folder", str(clips), f"data_dir={home / 'tfds'}"
  )
  data = built.strip().splitlines()[-1].partition(": ")[0]
  if args.codecs in (None, "embedded"):
    go(home, clips, data, "embedded", None, args.starts)
  if args.codecs in (None, "released"):
    go(home, clips, data, "released", convert(home), args.starts)
  print("\nall is as it should be")


if __name__ == "__main__":
  main()
