"""Benchmark of the training data: records of latents, pixels, and a step's wait.

  python -m ccl_jax.bench data
  python -m ccl_jax.bench data --records=400 --folder=/data/tmp --threads=8

Makes a set of random latents of 81-frame 480p clips (4.2 MB of video, 1 MB of text) and
measures, in one run,

  sequential   its files read from end to end, in pieces of 8 MB
  batches      the same records shuffled, as batches of the pipeline

each with the files dropped from the system's memory before ("cold": the disk) and with
them in it ("warm": the processor); the decoding of a 480p film on one core; and the
time a caller waits for its next batch, on the device, beside steps of 100 ms. Prints a
JSON object.
"""

import json
import os
import pathlib
import tempfile
import time
from collections.abc import Callable, Mapping

import jax
import numpy as np
from absl import flags

from ccl_jax import cli
from ccl_jax.data.media.decode import read_clip
from ccl_jax.data.sets import plan
from ccl_jax.data.sets.batches import LatentBatches
from ccl_jax.data.sets.buckets import Bucket
from ccl_jax.data.sets.mixture import Mixture, open_mixture
from ccl_jax.data.sets.writer import finish, new_shard
from ccl_jax.data.sources.catalogue import Catalogue, Item
from ccl_jax.data.spec import ClipSpec
from ccl_jax.sharding import make_mesh
from ccl_jax.training.prefetch import DevicePrefetch
from ccl_jax.viz.media import write_mp4

RECORDS = flags.DEFINE_integer("records", 200, "Number of records, 5.2 MB each.", 1)
BATCH = flags.DEFINE_integer("batch", 4, "Records per batch.", 1)
THREADS = flags.DEFINE_integer("threads", 4, "Number of reading threads.", 1)
FOLDER = flags.DEFINE_string(
  "folder", None, "Folder for the temporary set; default: the system's."
)

SPEC = ClipSpec(frames=81, height=480, width=832, fps=16)
TEXT = (120, 4096)  # rows and width of a text
STEP = 0.1  # seconds
ROUNDS = 3


def make_set(root: pathlib.Path, count: int) -> None:
  """Writes a set of `count` random records into the folder `root`.

  They are of one draw, shifted, as drawing 5 MB takes longer than reading.
  """
  bucket = Bucket.of(SPEC)
  items = [Item(f"clip {i}", "", 0.0, None, "a clip") for i in range(count)]
  encoders = dict.fromkeys(("video", "audio", "text"), "0")
  set_plan = plan.make({}, encoders, Catalogue({bucket: items}, []), 64)
  plan.write(set_plan, root)
  rng = np.random.default_rng(0)
  shapes = {
    "video": (*SPEC.latent_shape, 16),
    "audio": (SPEC.audio_tokens, 20),
    "text": TEXT,
  }
  arrays = {k: rng.standard_normal(s, np.float32) for k, s in shapes.items()}
  for shard in set_plan.shards:
    with new_shard(root, shard, encoders) as records:
      for item in shard.items:
        arrays = {k: np.roll(x, 1, 0) for k, x in arrays.items()}
        records.add(item.id, item.text, arrays)
  finish(root, set_plan)


def forget(root: pathlib.Path) -> None:
  """Asks the system to drop the set's files from its memory."""
  for path in root.glob("*.array_record"):
    descriptor = os.open(path, os.O_RDONLY)
    os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(descriptor)


def sequential(root: pathlib.Path) -> tuple[int, Callable[[], None]]:
  """Reads the set's files from end to end; returns their bytes, and a clean-up."""
  total, piece = 0, bytearray(2**23)
  for path in sorted(root.glob("*.array_record")):
    # Unbuffered, into one piece of memory: as fast as the disk gives it.
    with open(path, "rb", buffering=0) as f:
      while n := f.readinto(piece):
        total += n
  return total, lambda: None


def batches(mixture: Mixture, threads: int) -> tuple[int, Callable[[], None]]:
  """Reads the batches of an epoch; returns their records' bytes, and a clean-up."""
  size = mixture.batch_sizes[mixture.buckets[0]]
  reader = LatentBatches(mixture, threads=threads)
  count = len(mixture) // size
  for _ in range(count):
    next(reader)
  done = mixture.sets[0].index["bytes"] * count * size // len(mixture)
  return done, reader.close


def rates(
  readers: Mapping[str, Callable], before: Callable[[], None]
) -> dict[str, float]:
  """Megabytes per second of each reader, the best of some rounds by turns.

  Others use the machine too, and only ever slow one down.

  Args:
    readers: by name; each returns bytes, and a clean-up.
    before: is called before each reading.
  """
  best = dict.fromkeys(readers, 0.0)
  for _ in range(ROUNDS):
    for name, read in readers.items():
      before()
      start = time.perf_counter()
      done, close = read()
      best[name] = max(best[name], done / 1e6 / (time.perf_counter() - start))
      close()
  return best


def waits(mixture: Mixture, threads: int, steps: int = 40) -> list[float]:
  """Seconds that each of `steps` steps of 100 ms waits for its batch on the device."""
  reader = DevicePrefetch(
    LatentBatches(mixture, threads=threads), make_mesh((1, -1, 1, 1))
  )
  seconds = []
  for _ in range(steps):
    start = time.perf_counter()
    jax.block_until_ready(next(reader))
    seconds.append(time.perf_counter() - start)
    time.sleep(STEP)
  reader.close()
  return seconds[3:]  # the first ones fill the queues


def pixels(folder: pathlib.Path, clips: int = 6) -> float:
  """Clips per second that one core decodes from an H.264 film with sound."""
  rng = np.random.default_rng(0)
  noise = rng.integers(0, 255, (SPEC.height + 81, SPEC.width + 81, 3), np.uint8)
  video = np.stack(
    [noise[k : k + SPEC.height, k : k + SPEC.width] // 4 for k in range(SPEC.frames)]
  )
  wave = 0.1 * rng.standard_normal(SPEC.samples).astype(np.float32)
  write_mp4(folder / "film.mp4", video, SPEC.fps, wave)
  start = time.process_time()
  for _ in range(clips):
    read_clip(folder / "film.mp4", SPEC)
  return clips / (time.process_time() - start)


def measure(folder: pathlib.Path, count: int, batch: int, most_threads: int) -> dict:
  """All figures of the benchmark.

  Args:
    folder: for the set.
    count: records of it.
    batch: rows.
    most_threads: that read.
  """
  root = folder / "set"
  root.mkdir()
  make_set(root, count)
  mixture = open_mixture(str(root), seed=0, batch_size=batch)
  each = mixture.sets[0].index["bytes"] / len(mixture) / 1e6
  out = {"records": len(mixture), "MB each": round(each, 2)}
  readers = {"sequential": lambda: sequential(root)}
  for threads in sorted({1, most_threads}):
    readers[f"batches, {threads} threads"] = lambda n=threads: batches(mixture, n)
  os.sync()
  for state, before in (("cold", lambda: forget(root)), ("warm", lambda: None)):
    speeds = rates(readers, before)
    for name, got in speeds.items():
      out[f"{name}, {state}"] = {
        "MB/s": round(got),
        "records/s": round(got / each, 1),
        "of sequential": round(got / speeds["sequential"], 2),
      }
  seconds = waits(mixture, most_threads)
  out["a step waits, ms"] = {
    "median": round(1000 * float(np.median(seconds)), 2),
    "most": round(1000 * max(seconds), 2),
  }
  out["pixels, clips/s per core"] = round(pixels(folder), 2)
  return out


def main():
  """Measures by the flags, and prints a JSON object."""
  with tempfile.TemporaryDirectory(dir=FOLDER.value) as folder:
    sizes = RECORDS.value, BATCH.value, THREADS.value
    print(json.dumps(measure(pathlib.Path(folder), *sizes), indent=2))


if __name__ == "__main__":
  cli.run(main)
