"""Stored latents on their way to a step: what arrives, in which order, when."""

import threading
import time

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from ccl_jax.data.sets.batches import LatentBatches
from ccl_jax.data.sets.mixture import open_mixture
from ccl_jax.sharding import batch_sharding, make_mesh
from ccl_jax.training import prefetch as latents
from ccl_jax.training.prefetch import DevicePrefetch, make_finisher
from tests.data.latent_sets import FILM, SOUND, WIDTH, make_set, text_rows


@pytest.fixture(scope="module")
def root(tmp_path_factory):
  return make_set(tmp_path_factory.mktemp("sets") / "a", {FILM: 9, SOUND: 5})


@pytest.fixture(scope="module")
def mesh():
  return make_mesh((2, 4, 1, 1))


def reader(root):
  return LatentBatches(open_mixture(str(root), seed=0, batch_size=8), threads=2)


def test_a_step_gets_float32_and_whole_texts(root, mesh):
  null = 3 + jnp.arange(20 * WIDTH, dtype=jnp.float32).reshape(20, WIDTH)
  finish = make_finisher(null, mesh)
  mixture = open_mixture(str(root), seed=0, batch_size=8)
  batches = DevicePrefetch(reader(root), mesh)
  kinds = set()
  for g in range(6):
    bucket, rows = mixture.rows(g)
    kinds.add(bucket)
    batch = finish(next(batches))
    assert set(batch) == {*bucket.streams, "text", "null_text"}
    assert all(x.dtype == jnp.float32 for x in batch.values())
    np.testing.assert_array_equal(batch["null_text"], null)
    assert batch["text"].shape == (8, 20, WIDTH)
    assert batch["text"].sharding.is_equivalent_to(batch_sharding(mesh), 3)
    for place, row in enumerate(rows):
      length = text_rows(row.record)
      assert (batch["text"][place, :length] == row.record).all()
      assert (batch["text"][place, length:] == 0).all()
      assert (batch[bucket.streams[0]][place] == row.record).all()
  assert kinds == {FILM, SOUND}
  batches.close()


def test_a_step_gets_the_deviations_that_are_stored(tmp_path, mesh):
  stored = make_set(tmp_path / "a", {FILM: 4}, video_std=True)
  finish = make_finisher(jnp.zeros((4, WIDTH)), mesh)
  batches = DevicePrefetch(reader(stored), mesh)
  batch = finish(next(batches))
  assert set(batch) == {"video", "video_std", "audio", "text", "null_text"}
  assert batch["video_std"].dtype == jnp.float32
  assert batch["video_std"].sharding.is_equivalent_to(batch_sharding(mesh), 5)
  np.testing.assert_array_equal(batch["video_std"], batch["video"] + 0.5)
  batches.close()


def test_a_text_longer_than_the_models_is_cut(mesh):
  finish = make_finisher(jnp.zeros((4, WIDTH)), mesh)
  rows = jnp.ones((8, 8, WIDTH), ml_dtypes.bfloat16)
  assert finish({"text": rows})["text"].shape == (8, 4, WIDTH)


def order(batch_source, count):
  out = []
  for _ in range(count):
    batch = next(batch_source)
    stream = next(s for s in ("video", "audio") if s in batch)
    out.append(np.asarray(batch[stream], np.float32).reshape(8, -1)[:, 0].tolist())
  return out


def test_prefetch_keeps_the_order_and_the_callers_state(root, mesh):
  plain = order(reader(root), 8)
  batches = DevicePrefetch(reader(root), mesh)
  assert batches.get_state()["next_batch"] == 0
  assert order(batches, 3) == plain[:3]
  time.sleep(0.2)  # further ones are ready, which the state does not count
  state = batches.get_state()
  assert state["next_batch"] == 3
  assert order(batches, 2) == plain[3:5]
  time.sleep(0.2)  # one waits that must not be given after the jump
  batches.set_state(state)
  assert order(batches, 5) == plain[3:8]
  batches.close()
  other = DevicePrefetch(reader(root), mesh)
  other.set_state(state)
  assert order(other, 5) == plain[3:8]
  other.close()


def test_the_next_batch_is_on_its_way_while_the_caller_works(mesh):
  class Slow:
    def __init__(self):
      self.next = 0

    def __next__(self):
      time.sleep(0.05)
      self.next += 1
      return {"text": np.full((8, 1, 2), self.next, np.float32)}

    def get_state(self):
      return {"next_batch": self.next}

    def close(self):
      pass

  batches = DevicePrefetch(Slow(), mesh)
  next(batches)
  for _ in range(3):
    time.sleep(0.2)
    start = time.perf_counter()
    batch = next(batches)
    assert time.perf_counter() - start < 0.04
    assert isinstance(batch["text"], jax.Array)
  batches.close()


def test_an_error_of_the_source_keeps_its_kind(mesh):
  class Broken:
    def __next__(self):
      raise KeyError("bad")

    def get_state(self):
      return {}

    def close(self):
      pass

  batches = DevicePrefetch(Broken(), mesh)
  with pytest.raises(KeyError, match="bad"):
    next(batches)


def test_close_stops_the_threads(root, mesh):
  before = threading.active_count()
  batches = DevicePrefetch(reader(root), mesh)
  next(batches)
  assert threading.active_count() > before
  batches.close()
  assert threading.active_count() <= before


class Numbered:
  """Batches n = 1, 2 ... of three rows; the state is how many were given."""

  def __init__(self):
    self.next, self.given = 0, threading.Event()

  def __next__(self):
    self.next += 1
    return {"text": np.full((3, 1, 2), self.next, np.float32)}

  def get_state(self):
    return {"next_batch": self.next}

  def set_state(self, state):
    self.next = state["next_batch"]

  def close(self):
    self.given.set()


def test_a_process_puts_its_share_of_the_rows(mesh, monkeypatch):
  """Of eight shards of a batch it holds two, so a batch is four times its rows."""
  put = []
  monkeypatch.setattr(latents, "local_rows", lambda mesh, n: range(n // 4))

  def place(batch, *where):
    put.append(where)
    return {k: jnp.asarray(x) for k, x in batch.items()}

  monkeypatch.setattr(latents, "global_batch", place)
  source = Numbered()
  batches = DevicePrefetch(source, mesh)
  got = next(batches)
  assert got["text"][0, 0, 0] == 1 and batches.get_state() == {"next_batch": 1}
  assert put[0] == (range(3), 12, mesh)
  batches.close()
  assert source.given.is_set()
