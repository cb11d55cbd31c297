"""Benchmark of `data prepare`: what it measures, beside decoding alone, on one core.

  python -m ccl_jax.bench prepare
  python -m ccl_jax.bench prepare --seconds=20 --rounds=7

Makes a film of 480 x 832 pixels and its sound, and times by turns

  decode     its frames, and no more
  former     decoding, with cuts by differences of 32 x 32 pixels in NumPy, as before
             PySceneDetect
  bars       decoding, with black bars
  cuts       decoding, with black bars and PySceneDetect's cuts, as `data prepare`
  sound      its sound: decoding, loudness, peak, silence
  speech     the same with Silero VAD, where that is installed

Prints films a second and core, and the ratio of each time to that of `decode`.
"""

import importlib.util
import json
import pathlib
import tempfile
import time
from collections.abc import Callable

import numpy as np
from absl import flags
from av.video.reformatter import VideoReformatter

from ccl_jax import cli
from ccl_jax.data.media.decode import read_blocks
from ccl_jax.data.media.tracks import first_time, frames_from, opened, track
from ccl_jax.data.preparing import sound_checks
from ccl_jax.data.preparing.shots import scan_film
from ccl_jax.errors import UsageError
from ccl_jax.viz.media import write_mp4

SECONDS = flags.DEFINE_integer("seconds", 5, "Length of the film.", 1)
ROUNDS = flags.DEFINE_integer("rounds", 5, "Timed rounds; the medians count.", 1)

HEIGHT, WIDTH, FPS, RATE = 480, 832, 16, 16000


def make_film(path: pathlib.Path, seconds: int) -> None:
  """Writes a film of blocks that drift, with a cut every two seconds, and noise."""
  rng = np.random.default_rng(0)
  looks = rng.integers(0, 255, (seconds, HEIGHT // 16, WIDTH // 16, 3)).astype(np.uint8)
  frames = [
    np.roll(np.kron(looks[k // (2 * FPS)], np.ones((16, 16, 1), np.uint8)), k, 1)
    for k in range(seconds * FPS)
  ]
  sound = 0.1 * rng.standard_normal(seconds * RATE).astype(np.float32)
  write_mp4(path, np.stack(frames), FPS, sound)


def decode(path: pathlib.Path) -> int:
  """Decodes all frames on one thread; returns their number."""
  return sum(1 for _ in _frames(path))


def former(path: pathlib.Path) -> float:
  """Decodes, and compares frames of 32 x 32 pixels with the two before them."""
  small, held, most = VideoReformatter(), [], 0.0
  for frame in _frames(path):
    thumb = small.reformat(frame, 32, 32, "rgb24", interpolation="AREA")
    held = [*held[-2:], thumb.to_ndarray().astype(np.float32)]
    for other in held[:-1]:
      most = max(most, float(np.abs(held[-1] - other).mean()))
  return most


def _frames(path: pathlib.Path):
  with opened(path) as container:
    video = track(container, "video")
    for _, frame in frames_from(container, video, first_time(video)):
      yield frame


def sound(path: pathlib.Path, speech: str = "") -> dict[str, float]:
  """What is measured of the film's sound."""
  hook = sound_checks.speech_hook(speech) if speech else None
  return sound_checks.measure(read_blocks(path), speech=hook)


def measure(path: pathlib.Path, rounds: int) -> dict[str, float]:
  """Seconds of each, medians of rounds by turns, of processor time: on one core."""
  works: dict[str, Callable] = {
    "decode": decode,
    "former": former,
    "bars": lambda p: scan_film(p, cuts=False),
    "cuts": scan_film,
    "sound": sound,
  }
  if importlib.util.find_spec("onnxruntime") and importlib.util.find_spec("silero_vad"):
    works["speech"] = lambda p: sound(p, "silero")
  times = {name: [] for name in works}
  for work in works.values():  # caches, and what is imported late
    work(path)
  for _ in range(rounds):
    for name, work in works.items():
      start = time.process_time()
      work(path)
      times[name].append(time.process_time() - start)
  return {name: float(np.median(found)) for name, found in times.items()}


def main() -> None:
  """Prints processor time of each way to look at a film, by turns.

  Raises:
    UsageError: a film or rounds of less than one.
  """
  if SECONDS.value < 1 or ROUNDS.value < 1:
    raise UsageError("--seconds and --rounds: expected 1 or more")
  with tempfile.TemporaryDirectory() as folder:
    path = pathlib.Path(folder) / "film.mp4"
    make_film(path, SECONDS.value)
    found = measure(path, ROUNDS.value)
  print("| | films a second and core | time, of decode |\n|---|---|---|")
  for name, seconds in found.items():
    print(f"| {name} | {1 / seconds:.2f} | {seconds / found['decode']:.2f} |")
  whole = found["cuts"] + found["sound"]
  print(f"| cuts and sound | {1 / whole:.2f} | {whole / found['decode']:.2f} |")
  bars = found["bars"] - found["decode"]
  print(f"cuts, of former and bars: {found['cuts'] / (found['former'] + bars):.2f}")
  print(json.dumps(found))


if __name__ == "__main__":
  cli.run(main)
