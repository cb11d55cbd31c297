import itertools
import json
import logging
import threading
import time
from collections import Counter
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ccl_jax.data.sets.batches import LatentBatches
from ccl_jax.data.sets.mixture import Mixture, open_mixture, pick, whole_weights
from ccl_jax.data.sets.record_set import RecordSet
from ccl_jax.errors import UsageError
from tests.data.latent_sets import (
  ENCODERS,
  FILM,
  IMAGE,
  SILENT,
  SOUND,
  damage,
  make_set,
  text_rows,
)


def flat(rows):
  return list(itertools.chain.from_iterable(rows))


@pytest.fixture(scope="module")
def home(tmp_path_factory):
  return tmp_path_factory.mktemp("sets")


@pytest.fixture(scope="module")
def root(home):
  """All four kinds."""
  return make_set(home / "mixed", {FILM: 11, SILENT: 3, IMAGE: 5, SOUND: 7})


@pytest.fixture(scope="module")
def films(home):
  """Two sets of films."""
  return make_set(home / "a", {FILM: 13}), make_set(home / "b", {FILM: 5})


@settings(deadline=None)
@given(st.lists(st.integers(1, 50), min_size=1, max_size=5), st.integers(0, 10**12))
def test_pick_is_an_even_interleaving(weights, start):
  """From any element on: numbers go up by one, and shares are exact over a period."""
  total = sum(weights)
  picked = [pick(n, weights) for n in range(start, start + total)]
  assert Counter(i for i, _ in picked) == dict(enumerate(weights))
  for i in range(len(weights)):
    numbers = [m for j, m in picked if j == i]
    assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))


@settings(deadline=None, max_examples=30)
@given(st.lists(st.integers(1, 20), min_size=1, max_size=5))
def test_pick_is_even_at_every_moment(weights):
  seen = Counter()
  for n in range(3 * sum(weights)):
    i, number = pick(n, weights)
    assert number == seen[i]
    seen[i] += 1
    for j, w in enumerate(weights):
      assert abs(seen[j] - Fraction((n + 1) * w, sum(weights))) < len(weights)


def test_700_and_300_of_1000():
  weights = whole_weights([Fraction("0.7"), Fraction("0.3")])
  assert Counter(pick(n, weights)[0] for n in range(1000)) == {0: 700, 1: 300}


def test_a_mixture_of_sets_has_its_weights_exactly(films):
  a, b = films
  mixture = open_mixture(f"{a}:0.7+{b}:0.3", seed=1, batch_size=5)
  rows = [row for g in range(200) for row in mixture.rows(g)[1]]
  assert len(rows) == 1000
  assert Counter(row.set for row in rows) == {0: 700, 1: 300}
  # Each set goes through its own epochs meanwhile.
  for i, n in ((0, 13), (1, 5)):
    stream = [row.record for row in rows if row.set == i]
    epochs = [stream[k : k + n] for k in range(0, len(stream) - n + 1, n)]
    assert all(sorted(epoch) == list(range(n)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) > 5


def test_buckets_and_sets_keep_their_shares_together(home, root, films):
  """Weights hold over all buckets, each with its own batch size."""
  mixture = open_mixture(
    f"{root}:1+{films[0]}:3", seed=0, batch_size=4, batch_sizes=((SOUND.name, 6),)
  )
  sets, kinds = Counter(), Counter()
  for g in range(2000):
    bucket, rows = mixture.rows(g)
    assert len(rows) == (6 if bucket == SOUND else 4)
    sets.update(row.set for row in rows)
    kinds.update({bucket: sum(row.set == 0 for row in rows)})
  total = sets.total()
  assert sets[0] / total == pytest.approx(0.25, abs=4e-3)
  shares = {b: n / sets[0] for b, n in kinds.items()}
  expected = {FILM: 11 / 26, SILENT: 3 / 26, IMAGE: 5 / 26, SOUND: 7 / 26}
  assert shares == pytest.approx(expected, abs=6e-3)


def test_only_named_buckets(root):
  mixture = open_mixture(str(root), seed=0, batch_size=2, buckets=(FILM.name,))
  assert {mixture.rows(g)[0] for g in range(50)} == {FILM}
  assert len(mixture) == 11


def test_the_order_is_that_of_the_seed_and_the_data(root, films):
  def order(path, **options):
    mixture = open_mixture(str(path), **({"seed": 0, "batch_size": 4} | options))
    return [mixture.rows(g) for g in range(40)], mixture.digest

  assert order(root) == order(root)
  others = [order(root, seed=1), order(films[0])]
  assert len({digest for _, digest in (order(root), *others)}) == 3
  assert order(root, batch_size=2)[1] == order(root)[1]  # the same clips, cut elsewhere
  assert order(root, seed=1)[0] != order(root)[0]


def batches(root, count, state=None, start=0, **options):
  """(bucket's streams, the records' numbers) of `count` batches, and the state."""
  sizes = {k: options.pop(k) for k in ("batch_size", "batch_sizes") if k in options}
  mixture = open_mixture(str(root), seed=3, **{"batch_size": 4} | sizes)
  reader = LatentBatches(mixture, **({"threads": 0} | options))
  if state is not None:
    reader.set_state(state)
  out = []
  for _ in range(count):
    batch = next(reader)
    first = next(batch[s] for s in ("video", "audio") if s in batch)
    numbers = first.reshape(len(first), -1)[:, 0].astype(int).tolist()
    out.append((tuple(sorted(batch)), first.shape[1:], numbers))
  state = reader.get_state()
  reader.close()
  return out, state


@pytest.fixture(scope="module")
def whole(root):
  return batches(root, 40)[0]


def test_a_batch_is_of_one_bucket_and_holds_what_the_records_hold(root):
  mixture = open_mixture(str(root), seed=0, batch_size=4)
  reader = LatentBatches(mixture)
  seen = set()
  for g in range(20):
    bucket, rows = mixture.rows(g)
    batch = next(reader)
    seen.add(bucket)
    assert set(batch) == {*bucket.streams, "text"}
    assert {s: batch[s].dtype.name for s in bucket.streams} == {
      s: {"video": "bfloat16", "audio": "float32"}[s] for s in bucket.streams
    }
    assert batch["text"].shape[1] == 8 and batch["text"].dtype.name == "bfloat16"
    for place, row in enumerate(rows):
      for stream in bucket.streams:
        assert (batch[stream][place].astype(np.float32) == row.record).all()
      text = batch["text"][place].astype(np.float32)
      assert (text[: text_rows(row.record)] == row.record).all()
      assert (text[text_rows(row.record) :] == 0).all()
  assert seen == {FILM, SILENT, IMAGE, SOUND}
  reader.close()


@pytest.mark.parametrize("threads", [0, 2])
def test_resume_at_any_step_goes_on_with_the_same_stream(root, whole, threads):
  """By every state of one run; with threads or without, in turn."""
  reader = LatentBatches(open_mixture(str(root), seed=3, batch_size=4), threads=threads)
  for kill in range(40):
    state = json.loads(json.dumps(reader.get_state()))
    next(reader)
    some, after = min(5, 40 - kill), 2 * ((kill + threads // 2) % 2)
    resumed, _ = batches(root, some, state, threads=after)
    assert resumed == whole[kill : kill + some]
  reader.close()


def test_resume_goes_on_to_the_end(root, whole):
  _, state = batches(root, 7, threads=2)
  assert batches(root, 33, state, threads=2)[0] == whole[7:]


def share(process, count):
  """The rows of one process of `count`, side by side."""
  return lambda size: range(size)[size * process // count :][: size // count]


@pytest.mark.parametrize("count", [1, 2, 4])
def test_processes_together_read_the_whole_and_nothing_twice(root, whole, count):
  parts = [batches(root, 40, rows=share(p, count), threads=2) for p in range(count)]
  assert len({json.dumps(state) for _, state in parts}) == 1
  for g, shares in enumerate(zip(*(rows for rows, _ in parts))):
    fields, shape, numbers = whole[g]
    assert all(share[:2] == (fields, shape) for share in shares)
    assert flat(share[2] for share in shares) == numbers


@pytest.mark.parametrize(("before", "after"), [(2, 4), (4, 1)])
def test_a_run_goes_on_with_other_processes(root, whole, before, after):
  def together(processes, count, state=None):
    parts = [
      batches(root, count, state, rows=share(p, processes)) for p in range(processes)
    ]
    shares = zip(*(rows for rows, _ in parts))
    return [flat(numbers for *_, numbers in share) for share in shares], parts[0][1]

  first, state = together(before, 13)
  rest, _ = together(after, 27, state)
  assert first + rest == [numbers for _, _, numbers in whole]


def test_rows_that_are_apart(root, whole):
  """A mesh may give a process the first and the third share of a batch."""
  parts, _ = batches(root, 40, rows=lambda size: [0, 2], threads=2)
  assert [n for *_, n in parts] == [[n[0], n[2]] for *_, n in whole]


def test_a_damaged_record_keeps_the_order_of_the_others(home):
  root = make_set(home / "damaged", {FILM: 9})
  before = [n for *_, n in batches(root, 9)[0]]
  damage(root, FILM, 4)
  for threads in (0, 2):
    after = [n for *_, n in batches(root, 9, threads=threads)[0]]
    assert after == [[5 if j == 4 else j for j in row] for row in before]


def test_a_model_of_one_stream_reads_that_alone(root):
  mixture = open_mixture(
    str(root), seed=0, batch_size=4, buckets=(FILM.name, SOUND.name)
  )
  reader = LatentBatches(mixture, streams=("audio",))
  assert all(set(next(reader)) == {"audio", "text"} for _ in range(8))
  reader.close()


def test_sets_with_and_without_deviations_mix(home):
  """Zero for the records that have none; the order and the rest are as without any."""
  stored = make_set(home / "stored", {FILM: 6, SOUND: 3}, video_std=True)
  plain = make_set(home / "plain", {FILM: 5, SILENT: 4})
  mixture = open_mixture(f"{stored}+{plain}", seed=0, batch_size=4)
  reader, seen = LatentBatches(mixture), set()
  for g in range(12):
    bucket, rows = mixture.rows(g)
    batch = next(reader)
    assert ("video_std" in batch) == (bucket == FILM)
    if bucket != FILM:
      continue
    assert batch["video_std"].dtype == batch["video"].dtype
    assert batch["video_std"].shape == batch["video"].shape
    for row, mean, std in zip(rows, batch["video"], batch["video_std"]):
      assert (mean == row.record).all()
      assert (std == (row.record + 0.5 if row.set == 0 else 0)).all()
      seen.add(row.set)
  assert seen == {0, 1}
  reader.close()
  films = open_mixture(str(stored), seed=0, batch_size=4, buckets=(FILM.name,))
  reader = LatentBatches(films, streams=("audio",))
  assert set(next(reader)) == {"audio", "text"}
  reader.close()


def test_another_order_is_told(root, films, caplog):
  _, state = batches(root, 3)
  with caplog.at_level(logging.WARNING):
    batches(root, 1, state)
    assert not caplog.records
    batches(root, 1, state, batch_size=2)  # goes on with the same order
    assert not caplog.records
    batches(films[0], 1, state)
  assert "after 12 clips the order is another" in caplog.text
  with pytest.raises(UsageError, match="on clips, not on latents"):
    batches(root, 1, {"next_index": 4, "clips": 5})


def test_mistakes_are_one_line(home, root, films):
  other = make_set(home / "other", {FILM: 4}, encoders=ENCODERS | {"audio": "b" * 64})
  silent = make_set(home / "silent", {SILENT: 4}, encoders=ENCODERS | {"audio": "b"})
  options = {"seed": 0, "batch_size": 4}
  with pytest.raises(UsageError, match=r"another audio codec \(bbbbbbbb\) than .*aaaa"):
    open_mixture(f"{films[0]}+{other}", **options)
  open_mixture(f"{films[0]}+{silent}", **options)  # it has no sound to be wrong
  mixture = open_mixture(str(films[0]), **options)
  mixture.check_encoders(ENCODERS)
  with pytest.raises(UsageError, match="another text codec"):
    mixture.check_encoders(ENCODERS | {"text": "u" * 64})
  with pytest.raises(UsageError, match="no set of latents at"):
    open_mixture(f"{films[0]}+{home / 'absent'}", **options)
  for weight in ("0", "-1", "inf", "nan"):
    with pytest.raises(UsageError, match="expected more than 0"):
      open_mixture(f"{films[0]}:{weight}", **options)
  with pytest.raises(UsageError, match="no bucket 'x' in .*: expected .*5x16x16@25"):
    open_mixture(str(root), buckets=("x",), **options)
  with pytest.raises(UsageError, match="no bucket 'y'"):
    open_mixture(str(root), batch_sizes=(("y", 4),), **options)
  with pytest.raises(UsageError, match="batch size of 5x16x16@25.* is 0"):
    open_mixture(str(films[0]), seed=0, batch_size=0)
  with pytest.raises(UsageError, match="has no clip of"):
    open_mixture(f"{films[0]}+{silent}", buckets=(FILM.name,), **options)
  sounds = open_mixture(str(root), buckets=(SOUND.name,), **options)
  with pytest.raises(UsageError, match="has no video"):
    LatentBatches(sounds, streams=("video",))


def test_sets_whose_latents_differ_in_shape_are_told(home, films):
  """The same bucket and the same hashes, but other arrays."""
  a, b = RecordSet(films[0]), RecordSet(films[1])
  mixture = Mixture([a, b], [1, 1], {FILM: 4}, seed=0)
  read = b.buckets[FILM]

  class Cropped:
    def __len__(self):
      return len(read)

    def __getitem__(self, index):
      record = read[index]
      return record | {"video": record["video"][:1]}

  b.buckets[FILM] = Cropped()
  reader = LatentBatches(mixture, threads=0)
  with pytest.raises(UsageError, match="the same codecs"):
    for _ in range(4):
      next(reader)


def test_close_stops_the_threads(root):
  before = threading.active_count()
  reader = LatentBatches(open_mixture(str(root), seed=0, batch_size=4), threads=3)
  next(reader)
  assert threading.active_count() > before
  reader.close()
  for _ in range(50):
    if threading.active_count() <= before:
      return
    time.sleep(0.05)
  pytest.fail("threads still run")


@pytest.mark.parametrize(("before", "after"), [(2, 4), (4, 2), (3, 2), (5, 3)])
def test_another_batch_size_leaves_no_clip_out_and_repeats_none(films, before, after):
  """Batches of one size, then of another, are the order of the clips cut elsewhere."""
  whole, _ = batches(films[0], 39, batch_size=1)
  order = flat(numbers for *_, numbers in whole)  # three epochs of 13 clips
  first, state = batches(films[0], 4, batch_size=before)
  rest, _ = batches(films[0], 3, json.loads(json.dumps(state)), batch_size=after)
  seen = flat(numbers for *_, numbers in (*first, *rest))
  assert seen == order[: 4 * before + 3 * after]


def test_names_of_earlier_versions_are_the_same_classes():
  from ccl_jax.data import latent_batches, mixture
  from ccl_jax.data.sets import batches as here

  assert latent_batches.LatentBatches is here.LatentBatches
  assert mixture.open_mixture is open_mixture


def by_bucket(rows, streams=None):
  """The numbers of the clips of each bucket, one after the other."""
  streams = {} if streams is None else streams
  for kind, shape, numbers in rows:
    streams.setdefault((kind, shape), []).extend(numbers)
  return streams


@pytest.fixture(scope="module")
def cut_in_ones(root):
  """More of each bucket than four sizes of up to five clips take in seven steps."""
  return by_bucket(batches(root, 600, batch_size=1)[0])


@settings(deadline=None, max_examples=20)
@given(
  sizes=st.lists(st.integers(1, 5), min_size=2, max_size=4), steps=st.integers(1, 7)
)
def test_every_bucket_goes_on_where_it_was(root, cut_in_ones, sizes, steps):
  """However often the size changes: of each bucket the clips follow each other."""
  streams, state = {}, None
  for size in sizes:
    some, state = batches(root, steps, state, batch_size=size)
    by_bucket(some, streams)
  for key, numbers in streams.items():
    assert numbers == cut_in_ones[key][: len(numbers)]


def test_after_another_size_a_run_resumes_as_if_never_stopped(root):
  """Where a bucket has a size of its own, clips alone do not tell how many batches
  there were.
  """
  _, state = batches(root, 7, batch_size=3)
  sizes = {"batch_size": 5, "batch_sizes": ((SOUND.name, 2),)}
  whole, _ = batches(root, 12, state, **sizes)
  for stop in range(1, 8):
    first, again = batches(root, stop, state, **sizes)
    assert first + batches(root, 12 - stop, again, **sizes)[0] == whole


def test_a_state_of_an_earlier_version_is_refused(root):
  with pytest.raises(UsageError, match="did not store how many clips"):
    batches(root, 1, {"next_batch": 3, "order": "x"})
