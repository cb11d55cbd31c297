"""Sets of latents made for the tests: record j of a bucket is j everywhere."""

import numpy as np

from ccl_jax.data.sets import plan
from ccl_jax.data.sets.buckets import Bucket, parse_spec
from ccl_jax.data.sets.writer import finish, new_shard
from ccl_jax.data.sources.catalogue import Catalogue, Item

FILM = Bucket.of(parse_spec("5x16x16@25"))
SILENT = Bucket.of(parse_spec("5x16x32@25"), "silent")
IMAGE = Bucket.of(parse_spec("5x16x16@25"), "image")
SOUND = Bucket.of(parse_spec("9x16x16@25"), "sound")
ENCODERS = {"video": "v" * 64, "audio": "a" * 64, "text": "t" * 64}
WIDTH = 8  # of a text


def item(name: str, text: str = "a clip") -> Item:
  """A clip to be, of a film of that name."""
  return Item(name, f"{name}.mp4", 0.25, None, text)


def text_rows(j: int) -> int:
  return j % 5


def arrays(bucket: Bucket, j: int, video_std: bool = False) -> dict[str, np.ndarray]:
  out = {"text": np.full((text_rows(j), WIDTH), j, np.float32)}
  if bucket.frames:
    t, h, w = (bucket.frames - 1) // 4 + 1, bucket.height // 8, bucket.width // 8
    out["video"] = np.full((t, h, w, 16), j, np.float32)
    if video_std:
      out["video_std"] = out["video"] + 0.5
  if bucket.tokens:
    out["audio"] = np.full((bucket.tokens, 20), j, np.float32)
  return out


def make_set(
  root, counts, shard_clips=3, encoders=ENCODERS, video_std=False, settings=None
):
  """Writes `counts` {bucket: records} below `root` and returns it; the deviation of
  record j is j + 1 / 2, if there is one.
  """
  items = {
    b: [Item(f"{b.kind} {j}", "", 0.0, None, f"clip {j}") for j in range(n)]
    for b, n in sorted(counts.items())
  }
  made = plan.make(settings or {}, encoders, Catalogue(items, []), shard_clips)
  root.mkdir(parents=True)
  plan.write(made, root)
  for shard in made.shards:
    with new_shard(root, shard, encoders) as records:
      for item in shard.items:
        j = int(item.id.split()[1])
        records.add(item.id, item.text, arrays(shard.bucket, j, video_std))
  finish(root, made)
  return root


def damage(root, bucket: Bucket, j: int) -> None:
  """Flips a byte in the middle of record j of a bucket."""
  name = f'"id": "{bucket.kind} {j}"'.replace('"', '\\"').encode()
  for path in root.glob("*.array_record"):
    data = bytearray(path.read_bytes())
    at = bytes(data).find(name)
    if at >= 0:
      data[at + 2] ^= 0xFF
      path.write_bytes(data)
      return
  raise AssertionError(f"no record {j} of {bucket.name}")
