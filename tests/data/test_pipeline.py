import itertools
import json
import threading
import time

import numpy as np
import pytest

from ccl_jax.data.pipeline import make_iterator
from ccl_jax.errors import UsageError

CLIPS = 11


class Records:
  """Records as TFDS gives them, each its own number, some slow to read."""

  def __len__(self):
    return CLIPS

  def __getitem__(self, index):
    time.sleep(0.002 * (index % 3))
    return {
      "video": np.full((5, 4, 6, 3), index, np.uint8),
      "audio": np.full((64,), index / 16, np.float32),
      "text": f"clip {index} é".encode(),
      "events": np.zeros(index),
    }


def tokenize(texts):
  ids = np.array([[int(text.split()[1]), len(text)] for text in texts], np.int32)
  return ids, np.ones_like(ids, bool)


def flat(rows):
  return list(itertools.chain.from_iterable(rows))


def batches(count, state=None, **changes):
  options = {"batch_size": 4, "seed": 3, "threads": 0, "tokenize": tokenize}
  iterator = make_iterator(Records(), **(options | changes))
  if state is not None:
    iterator.set_state(state)
  rows = [next(iterator)["ids"][:, 0].tolist() for _ in range(count)]
  state = iterator.get_state()
  iterator.close()
  return rows, state


@pytest.fixture(scope="module")
def whole():
  """The numbers of the clips of twelve batches."""
  return batches(12)[0]


def test_batch_fields():
  batch = next(
    make_iterator(Records(), batch_size=4, seed=0, tokenize=tokenize, threads=2)
  )
  assert {key: (value.dtype, value.shape) for key, value in batch.items()} == {
    "video": (np.uint8, (4, 5, 4, 6, 3)),
    "audio": (np.float32, (4, 64)),
    "ids": (np.int32, (4, 2)),
    "mask": (bool, (4, 2)),
  }
  index = batch["ids"][:, 0]
  np.testing.assert_array_equal(batch["video"][:, 0, 0, 0, 0], index)
  np.testing.assert_array_equal(batch["audio"][:, 5], index / 16)
  assert (batch["ids"][:, 1] == [len(f"clip {i} é") for i in index]).all()


def test_texts_may_be_str():
  class Strings(Records):
    def __getitem__(self, index):
      clip = super().__getitem__(index)
      return clip | {"text": clip["text"].decode()}

  for threads in (0, 2):
    options = {"batch_size": 3, "seed": 5, "tokenize": tokenize, "threads": threads}
    both = [next(make_iterator(s(), **options)) for s in (Records, Strings)]
    np.testing.assert_array_equal(both[0]["ids"], both[1]["ids"])


def test_epochs_are_permutations_drawn_from_the_seed():
  rows, _ = batches(11)
  stream = flat(rows)
  epochs = [stream[i : i + CLIPS] for i in range(0, 4 * CLIPS, CLIPS)]
  assert all(sorted(epoch) == list(range(CLIPS)) for epoch in epochs)
  assert epochs[0] != epochs[1] != epochs[2]
  assert batches(11)[0] == rows
  assert batches(11, seed=4)[0] != rows
  assert batches(2, shuffle=False)[0] == [[0, 1, 2, 3], [4, 5, 6, 7]]


@pytest.mark.parametrize("threads", [1, 4])
def test_threads_do_not_change_the_order(whole, threads):
  assert batches(9, threads=threads)[0] == whole[:9]


@pytest.mark.parametrize("threads", [1, 4])
@pytest.mark.parametrize("step", [0, 1, 3, 7])
def test_resume_continues_the_stream(whole, step, threads):
  _, state = batches(step, threads=threads)
  state = json.loads(json.dumps(state))
  assert batches(12 - step, state, threads=threads)[0] == whole[step:]


def test_resume_of_an_iterator_in_use(whole):
  iterator = make_iterator(Records(), batch_size=4, seed=3, tokenize=tokenize)
  for _ in range(5):
    next(iterator)
  iterator.set_state({"next_index": 8, "clips": CLIPS})
  assert next(iterator)["ids"][:, 0].tolist() == whole[2]


def share(process, processes, batch_size=4):
  """The rows of one process where each holds as many, side by side."""
  each = batch_size // processes
  return range(process * each, (process + 1) * each)


def test_rows_need_not_lie_side_by_side(whole):
  assert batches(3, rows=(3, 1))[0] == [[batch[3], batch[1]] for batch in whole[:3]]


@pytest.mark.parametrize(("before", "after"), [(1, 2), (2, 1), (2, 4), (4, 2)])
def test_resume_on_another_number_of_processes(whole, before, after):
  def together(count, processes, state=None):
    parts = [
      batches(count, state, rows=share(p, processes), threads=2)
      for p in range(processes)
    ]
    states = [state for _, state in parts]
    assert all(state == states[0] for state in states)
    return [flat(rows) for rows in zip(*(rows for rows, _ in parts))], states[0]

  first, state = together(4, before)
  rest, _ = together(6, after, state)
  assert first + rest == whole[:10]


def test_resume_with_another_batch_size():
  whole = flat(batches(12)[0])
  _, state = batches(3)
  rest = flat(batches(6, state, batch_size=6)[0])
  assert rest == whole[12:48]
  split = [batches(6, state, batch_size=6, rows=share(p, 2, 6))[0] for p in (0, 1)]
  assert flat(flat(zip(*split))) == whole[12:48]


def test_one_epoch_gives_every_process_as_many_batches():
  counts, seen = [], []
  for process in range(2):
    iterator = make_iterator(
      Records(),
      batch_size=4,
      seed=0,
      tokenize=tokenize,
      rows=share(process, 2),
      repeat=False,
    )
    rows = [batch["ids"][:, 0].tolist() for batch in iterator]
    counts.append(len(rows))
    seen += flat(rows)
  assert counts == [2, 2]
  assert len(seen) == len(set(seen)) == 8


def test_a_changed_source_is_told(caplog):
  _, state = batches(2)
  batches(1, state | {"clips": 12})
  assert "12 clips" in caplog.text
  with pytest.raises(UsageError, match="on latents, not on clips"):
    batches(1, {"next_batch": 3, "order": "x"})


def test_wrong_sizes_are_usage_errors():
  options = {"seed": 0, "tokenize": tokenize}
  with pytest.raises(UsageError, match="fewer than the batch_size 12"):
    make_iterator(Records(), batch_size=12, repeat=False, **options)
  make_iterator(Records(), batch_size=12, **options).close()


def test_an_error_of_the_source_keeps_its_kind():
  class Broken(Records):
    def __getitem__(self, index):
      raise UsageError("nothing can be read")

  for threads in (0, 2):
    iterator = make_iterator(
      Broken(), batch_size=2, seed=0, tokenize=tokenize, threads=threads
    )
    with pytest.raises(UsageError, match="nothing can be read"):
      next(iterator)


def test_close_stops_the_threads():
  before = threading.active_count()
  iterator = make_iterator(Records(), batch_size=2, seed=0, tokenize=tokenize)
  next(iterator)
  assert threading.active_count() > before
  iterator.close()
  for _ in range(50):
    if threading.active_count() <= before:
      return
    time.sleep(0.05)
  pytest.fail(f"{threading.active_count() - before} threads still run")
