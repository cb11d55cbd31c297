"""Clips through codecs whose latents can be read: order, rows that are filled up."""

from concurrent import futures

import flax
import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from ccl_jax.codecs.bundle import Codecs
from ccl_jax.data.media.decode import MediaError
from ccl_jax.data.sets.plan import Shard
from ccl_jax.data.sets.record_set import Records
from ccl_jax.data.sets.record_set import Shard as File
from ccl_jax.data.sources.items import FolderItems
from ccl_jax.encoding.shards import batched, encode_shard, make_encoder, read_ahead
from ccl_jax.errors import UsageError
from tests.data.latent_sets import ENCODERS, FILM, item


class Video(flax.struct.PyTreeNode):
  """The mean of the whole clip, so that every frame counts."""

  def encode(self, x):
    x = x.mean((1, 2, 3, 4), keepdims=True)
    return jnp.broadcast_to(x, (len(x), 2, 1, 1, 16))

  def posterior(self, x):
    return self.encode(x), 3 + 0 * self.encode(x)


class Audio(flax.struct.PyTreeNode):
  def encode(self, x):
    return jnp.broadcast_to(x.reshape(len(x), -1, 512)[..., :1], (len(x), 6, 20))


class Text(flax.struct.PyTreeNode):
  """A word is its number in a row."""

  def tokenize(self, texts):
    ids = np.zeros((len(texts), 4), np.int32)
    mask = np.zeros((len(texts), 4), bool)
    for i, text in enumerate(texts):
      words = [int(w) for w in text.split()]
      ids[i, : len(words)], mask[i, : len(words)] = words, True
    return ids, mask

  def encode(self, ids, mask):
    return jnp.repeat(jnp.where(mask, ids, 0)[..., None], 3, 2)


CODECS = Codecs(Video(), Audio(), Text())


def clip(j):
  """Frame 0 is 51 (-0.6 in [-1, 1]), the others 204 (0.6); the text has j words."""
  video = np.full((5, 16, 16, 3), 204, np.uint8)
  video[0] = 51
  audio = np.full(6 * 512, j / 64, np.float32)
  return {"id": f"c{j}", "text": " ".join(["7"] * j), "video": video, "audio": audio}


def test_a_batch_that_lacks_rows_is_filled_with_its_last_clip():
  run = make_encoder(CODECS, 8)
  got = jax.device_get(run([clip(0), clip(2), clip(3)]))
  assert {k: v.shape for k, v in got.items()} == {
    "video": (8, 2, 1, 1, 16), "audio": (8, 6, 20), "text": (8, 4, 3), "length": (3,),
  }  # fmt: skip
  assert got["length"].tolist() == [0, 2, 3]
  assert got["audio"][:, 0, 0].tolist() == [0, 2 / 64] + [3 / 64] * 6
  # 4 of 5 frames at 0.6 and one at -0.6.
  np.testing.assert_allclose(got["video"].astype(np.float32), 0.36, rtol=4e-3)
  assert got["video"].dtype == ml_dtypes.bfloat16 and got["audio"].dtype == np.float32
  with_std = jax.device_get(make_encoder(CODECS, 8, True)([clip(1)]))
  assert (with_std["video_std"] == 3).all() and "video_std" not in got
  np.testing.assert_array_equal(with_std["video"], got["video"])


def test_a_still_and_a_sound_have_what_they_have():
  still = {k: v for k, v in clip(1).items() if k != "audio"}
  still["video"] = still["video"][:1]
  assert set(make_encoder(CODECS, 8)([still])) == {"text", "video", "length"}
  sound = {k: v for k, v in clip(1).items() if k != "video"}
  assert set(make_encoder(CODECS, 8)([sound])) == {"text", "audio", "length"}


@pytest.mark.parametrize("size", [0, 4, 12, -8])
def test_a_batch_is_a_multiple_of_the_devices(size):
  with pytest.raises(UsageError, match=f"got {size}, expected a multiple of 8"):
    make_encoder(CODECS, size)


class Bar:
  def __init__(self):
    self.count, self.told = 0, []

  def update(self, n):
    self.count += n

  def write(self, text, file):
    self.told.append(text)


@pytest.mark.parametrize("count", [1, 7, 8, 9, 19])
def test_a_shard_holds_its_items_in_order(tmp_path, count):
  """Batches of 8: one that is full, one that is not, the last; and one clip is bad."""

  class Films(FolderItems):
    def __init__(self):
      pass

    def read(self, bucket, item):
      j = int(item.id[1:])
      if j == 5:
        raise MediaError("broken")
      return clip(j) | {"text": " ".join(["7"] * (j % 4))}

  items = [item(f"c{j}") for j in range(count)]
  shard, bar = Shard("s", FILM, items), Bar()
  with futures.ThreadPoolExecutor(3) as pool:
    run = make_encoder(CODECS, 8)
    encode_shard(tmp_path, shard, ENCODERS, Films(), run, 8, pool, bar)
  good = [j for j in range(count) if j != 5]
  found = Records([File(tmp_path / "s.array_record", len(good))])
  got = [found[i] for i in range(len(good))]
  assert [r["about"]["id"] for r in got] == [f"c{j}" for j in good]
  assert [r["audio"][5, 19] for r in got] == [j / 64 for j in good]
  assert [len(r["text"]) for r in got] == [j % 4 for j in good]
  assert all((r["text"] == 7).all() for r in got)
  assert bar.count == count and bar.told == ["skipped c5: broken"] * (count > 5)


def test_work_is_begun_ahead_and_comes_in_order():
  begun = []

  class Pool(futures.Executor):
    def submit(self, function, item):
      begun.append(item)
      done = futures.Future()
      done.set_result(function(item))
      return done

  results = read_ahead(Pool(), lambda x: 10 * x, range(6), depth=2)
  assert next(results) == 0 and begun == [0, 1, 2]
  assert next(results) == 10 and begun == [0, 1, 2, 3]
  assert list(results) == [20, 30, 40, 50] and begun == list(range(6))
  assert list(read_ahead(Pool(), abs, [], 2)) == [] and list(
    read_ahead(Pool(), abs, [-1], 2)
  ) == [1]


def test_batches_have_a_rest():
  assert list(batched(range(7), 3)) == [[0, 1, 2], [3, 4, 5], [6]]
  assert list(batched(range(6), 3)) == [[0, 1, 2], [3, 4, 5]]
  assert list(batched([], 3)) == []
