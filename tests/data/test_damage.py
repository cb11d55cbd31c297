"""Damaged files at the doors: a reason each time, whatever the damage, and no crash.

By hand, for minutes: CCL_DAMAGES=20000 pytest tests/data/test_damage.py
"""

import os
import pathlib
import subprocess
import sys
import time

import numpy as np
from PIL import Image

from ccl_jax.data.media.decode import (
  MediaError,
  measure,
  picture_size,
  probe,
  read_audio,
  read_clip,
  read_image,
)
from ccl_jax.data.spec import ClipSpec
from ccl_jax.metrics.base import Unscorable
from ccl_jax.metrics.clip import Clip
from tests.data.films import film
from tests.data.sound_files import wav

ROOT = pathlib.Path(__file__).parents[2]
DAMAGES = int(os.environ.get("CCL_DAMAGES", "150"))
SPEC = ClipSpec(frames=5, height=32, width=48, fps=25)
SLOW = 20  # seconds that no damaged file of these sizes may take


def make(folder):
  """Small files of several containers, codecs and formats."""
  short = {"seconds": 0.6, "event": 0.2}
  film(folder / "a.mp4", **short)
  film(folder / "b.webm", codecs=("libvpx-vp9", "libopus"), **short)
  film(folder / "c.ts", **short)
  film(folder / "d.mkv", codecs=("libx264", "flac"), **short)
  film(folder / "e.flv", rate=44100, **short)
  film(folder / "f.avi", sound=None, **short)
  tone = 0.3 * np.sin(np.arange(8000) / 7).astype(np.float32)
  wav(folder / "g.wav", np.stack([tone] * 3), 16000)
  noise = np.random.default_rng(0).integers(0, 255, (32, 48, 4), np.uint8)
  for name in ("h.png", "i.webp", "j.tif", "k.gif"):
    Image.fromarray(noise).save(folder / name)
  Image.fromarray(noise[..., :3]).save(folder / "l.jpg")
  Image.fromarray(noise[..., 0].astype(np.uint16) * 257).save(folder / "m.png")


def damaged(raw, rng):
  """A copy with flipped, copied, cut or zeroed bytes, mostly in its first part."""
  out = bytearray(raw)
  for _ in range(rng.integers(1, 9)):
    near = len(out) if rng.random() < 0.5 else min(len(out), 400)
    at, size = int(rng.integers(near)), int(rng.integers(1, 9))
    kind = rng.integers(5)
    if kind == 0:
      out[at] ^= 1 << rng.integers(8)
    elif kind == 1:
      out[at : at + size] = rng.integers(0, 256, size, np.uint8).tobytes()
    elif kind == 2:
      out[at : at + 4] = b"\xff\xff\xff\xff" if rng.random() < 0.5 else bytes(4)
    elif kind == 3:
      other = int(rng.integers(len(out)))
      out[at : at + size] = out[other : other + size]
    elif len(out) > 100:
      del out[at : at + int(rng.integers(1, 1 + len(out) // 4))]
    out = out or bytearray(b"x")
  return bytes(out)


def try_all(path):
  """Every reader of the doors, on one file."""
  both = frozenset(["picture", "sound"])
  readers = (
    probe, measure, picture_size, read_audio,
    lambda p: read_clip(p, SPEC),
    lambda p: read_image(p, 32, 32),
    lambda p: Clip(p, needs=both).check(both),
  )  # fmt: skip
  for read in readers:
    try:
      read(path)
    except MediaError as e:
      assert path.name in str(e), e
    except Unscorable:
      pass  # its clip has the name


def main(folder, count):
  """Damages the files of a folder, and says where it is: a crash says nothing."""
  whole = {p.name: p.read_bytes() for p in sorted(folder.iterdir())}
  for seed in range(int(os.environ.get("CCL_FIRST", "0")), count):
    rng = np.random.default_rng(seed)
    name = list(whole)[seed % len(whole)]
    path = folder / f"damaged_{name}"
    path.write_bytes(damaged(whole[name], rng))
    print(seed, path.name, flush=True)
    began = time.monotonic()
    try_all(path)
    assert time.monotonic() - began < SLOW, f"{seed} {name} is slow"
    path.unlink()
  print("all")


def test_damage_is_a_reason(tmp_path):
  make(tmp_path)
  program = (
    "import pathlib, sys\n"
    "from tests.data.test_damage import main\n"
    "main(pathlib.Path(sys.argv[1]), int(sys.argv[2]))"
  )
  done = subprocess.run(
    [sys.executable, "-c", program, tmp_path, str(DAMAGES)],
    cwd=ROOT, capture_output=True, text=True,
  )  # fmt: skip
  assert done.returncode == 0, done.stdout[-100:] + done.stderr[-2000:]
  assert done.stdout.endswith("all\n")
