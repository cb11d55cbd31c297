"""Encodes the clips of a shard: decoding, encoding and writing overlap."""

import collections
import functools
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent import futures
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Float32

from ccl_jax.codecs.bundle import Codecs
from ccl_jax.codecs.images import to_unit
from ccl_jax.data.media.decode import MediaError
from ccl_jax.data.sets import plan, records
from ccl_jax.data.sets.writer import new_shard
from ccl_jax.data.sources.items import ItemSource
from ccl_jax.errors import UsageError
from ccl_jax.remote.paths import Place

_SILENT = 1e-3  # -60 dBFS


@functools.partial(jax.jit, static_argnums=2)
def _program(codecs, batch, video_std):
  """Latents of one batch, a dict by record key; jitted, it compiles once per bucket."""
  latents = {"text": codecs.text.encode(batch["ids"], batch["mask"])}
  if "video" in batch:
    pixels = to_unit(batch["video"])
    if video_std:
      latents["video"], latents["video_std"] = codecs.video.posterior(pixels)
    else:
      latents["video"] = codecs.video.encode(pixels)
  if "audio" in batch:
    latents["audio"] = codecs.audio.encode(batch["audio"])
  return {k: v.astype(records.DTYPES[k]) for k, v in latents.items()}


def make_encoder(
  codecs: Codecs, size: int, video_std: bool = False
) -> Callable[[list[dict]], dict]:
  """A function from clips of one bucket, at most `size`, to arrays of `size` rows.

  A batch runs on all devices of this process; what it lacks in rows is filled with its
  last clip, so that a bucket has one shape.

  Args:
    codecs: of the set.
    size: rows, a multiple of the devices.
    video_std: whether the deviation of video latents is computed too.

  Raises:
    UsageError: the size does not divide over the devices.
  """
  devices = jax.local_devices()
  if size < 1 or size % len(devices):
    raise UsageError(
      f"config.batch.size: got {size}, expected a multiple of {len(devices)} (devices)"
    )
  mesh = Mesh(np.array(devices), ("batch",))
  rows = NamedSharding(mesh, PartitionSpec("batch"))
  # Codecs are whole on every device, rows are split.
  codecs = jax.device_put(codecs, NamedSharding(mesh, PartitionSpec()))

  def run(clips):
    ids, mask = codecs.text.tokenize([c["text"] for c in clips])
    batch = {
      s: np.stack([c[s] for c in clips]) for s in clips[0].keys() - {"id", "text"}
    }
    batch |= {"ids": ids, "mask": mask}
    short = size - len(clips)
    # The last clip fills the batch up; its copies are not stored.
    batch = {k: np.concatenate([x, *[x[-1:]] * short]) for k, x in batch.items()}
    arrays = _program(codecs, jax.device_put(batch, rows), video_std)
    return arrays | {"length": mask.sum(1)}

  return run


def encode_shard(
  out: Place,
  shard: plan.Shard,
  encoders: Mapping[str, str],
  media: ItemSource,
  run: Callable[[list[dict]], dict],
  size: int,
  pool: futures.Executor,
  bar: Any,
) -> None:
  """Writes the records of one shard, in the order of its items.

  Args:
    out: folder of the set.
    shard: of its plan.
    encoders: hashes of the codecs.
    media: to read items from.
    run: as of `make_encoder`.
    size: clips of a batch.
    pool: of threads that decode.
    bar: of progress, in clips.
  """

  def load(item):
    try:
      return media.read(shard.bucket, item)
    except MediaError as e:
      return item.id, str(e)

  def readable():
    # Two batches of clips: one being decoded while the other is encoded.
    for clip in read_ahead(pool, load, shard.items, 2 * size):
      if isinstance(clip, dict):
        yield clip
        continue
      shard_records.skip(*clip)
      bar.write(f"skipped {': '.join(clip)}", file=sys.stderr)
      bar.update(1)

  def store(clips, arrays):
    arrays = jax.device_get(arrays)
    lengths = arrays.pop("length")
    for i, clip in enumerate(clips):
      rows = {k: v[i] for k, v in arrays.items()}
      # Padding is not stored; reading fills it up again.
      rows["text"] = rows["text"][: lengths[i]]
      shard_records.add(clip["id"], clip["text"], rows)
      shard_records.silent += "audio" in clip and is_silent(clip["audio"])
    bar.update(len(clips))

  with new_shard(out, shard, encoders) as shard_records:
    under_way = None  # a batch is on the devices while the one before it is written
    for clips in batched(readable(), size):
      arrays = run(clips)
      if under_way:
        store(*under_way)
      under_way = clips, arrays
    if under_way:
      store(*under_way)


def is_silent(wave: Float32[np.ndarray, "n"]) -> bool:
  """Whether a sound stays below -60 dBFS throughout."""
  return float(np.abs(wave).max(initial=0)) < _SILENT


def read_ahead(
  pool: futures.Executor, function: Callable, items: Iterable, depth: int
) -> Iterator[Any]:
  """Yields function(item) of every item in order, `depth` of them under way."""
  queue = collections.deque()
  for item in items:
    queue.append(pool.submit(function, item))
    if len(queue) > depth:
      yield queue.popleft().result()
  while queue:
    yield queue.popleft().result()


def batched(items: Iterable, size: int) -> Iterator[list]:
  """Yields lists of `size` items in order; the last may be shorter."""
  batch = []
  for item in items:
    batch.append(item)
    if len(batch) == size:
      yield batch
      batch = []
  if batch:
    yield batch
