"""Which records and which windows come when, worked out by hand or by brute force."""

import collections
import zlib
from fractions import Fraction

import numpy as np
import pytest

from ccl_jax.data.sets.batches import LatentBatches
from ccl_jax.data.sets.mixture import open_mixture, pick, whole_weights
from ccl_jax.data.sources.open import Cached
from ccl_jax.data.sources.sounds import RATE, Sounds, Span, WindowBatches
from ccl_jax.errors import UsageError
from tests.data.latent_sets import ENCODERS, FILM, IMAGE, SILENT, SOUND, make_set
from tests.data.sound_files import wav

WINDOW = 1600


def test_an_interleaving_by_hand():
  """Of weights 2 and 1 the second takes elements 2, 5, 8; of 1, 2 and 1 ..."""
  assert [pick(n, [2, 1]) for n in range(6)] == [
    (0, 0), (0, 1), (1, 0), (0, 2), (0, 3), (1, 1),
  ]  # fmt: skip
  # ... the third every fourth; of the others (0, 1, 2, 4, ...) two in three.
  assert [pick(n, [1, 2, 1]) for n in range(8)] == [
    (0, 0), (1, 0), (1, 1), (2, 0), (0, 1), (1, 2), (1, 3), (2, 1),
  ]  # fmt: skip
  assert [pick(n, [5]) for n in (0, 7)] == [(0, 0), (0, 7)]
  halves = [Fraction(1, 2), Fraction(1, 3), Fraction(1, 4)]
  assert whole_weights(halves) == [6, 4, 3]


@pytest.fixture(scope="module")
def home(tmp_path_factory):
  return tmp_path_factory.mktemp("sets")


def test_batches_of_buckets_weigh_clips_not_batches(home):
  """6 films by 3 and 2 sounds by 1 a batch: each gives every other batch, and of all
  rows the films are three in four.
  """
  root = make_set(home / "weighed", {FILM: 6, SOUND: 2})
  sizes = ((FILM.name, 3), (SOUND.name, 1))
  mixture = open_mixture(str(root), seed=0, batch_size=9, batch_sizes=sizes)
  seen = [mixture.rows(g) for g in range(100)]
  assert collections.Counter(bucket for bucket, _ in seen) == {FILM: 50, SOUND: 50}
  assert {(b, len(rows)) for b, rows in seen} == {(FILM, 3), (SOUND, 1)}


def test_a_set_gives_its_share_whatever_its_size(home):
  """Shares 1 and 3 of sets of 4 and of 8 clips, half of the second's images: exactly
  1 and 1.5 of films, 0 and 1.5 of images.
  """
  a = make_set(home / "a", {FILM: 4})
  b = make_set(home / "b", {FILM: 4, IMAGE: 4})
  mixture = open_mixture(f"{a}:1+{b}:3", seed=0, batch_size=5)
  rows = collections.Counter()
  for g in range(8 * 10):
    bucket, picked = mixture.rows(g)
    rows.update((bucket, row.set) for row in picked)
  assert rows == {(FILM, 0): 100, (FILM, 1): 150, (IMAGE, 1): 150}


def test_weights_are_one_where_none_is_given(home):
  a, b = (make_set(home / n, {FILM: 3}) for n in ("one", "two"))
  mixture = open_mixture(f"{a} + {b}", seed=0, batch_size=2)
  rows = [row.set for g in range(50) for row in mixture.rows(g)[1]]
  assert rows.count(0) == 50
  colon = make_set(home / "with:colon", {FILM: 3})
  assert len(open_mixture(str(colon), seed=0, batch_size=2)) == 3
  assert len(open_mixture(f"{colon}:2+{a}:.5", seed=0, batch_size=2)) == 6


def stream(mixture, bucket, which, count):
  """The records that a set gives to a bucket, in order."""
  out, g = [], 0
  while len(out) < count:
    found, rows = mixture.rows(g)
    out += [row.record for row in rows if (found, row.set) == (bucket, which)]
    g += 1
  return out[:count]


def test_sets_and_buckets_have_orders_of_their_own(home):
  """Two alike would give their clips hand in hand, epoch by epoch."""
  a, b = (make_set(home / f"like {n}", {FILM: 12, IMAGE: 12}) for n in "ab")
  mixture = open_mixture(f"{a}+{b}", seed=0, batch_size=4)
  orders = {
    tuple(stream(mixture, bucket, which, 12))
    for bucket in (FILM, IMAGE)
    for which in (0, 1)
  }
  assert len(orders) == 4 and all(set(order) == set(range(12)) for order in orders)
  other = open_mixture(f"{a}+{b}", seed=1, batch_size=4)
  assert tuple(stream(other, FILM, 0, 12)) not in orders


def test_the_order_of_a_run_is_this_for_ever(home):
  """Whoever goes on with a run needs the same rows: another list here breaks that."""
  root = make_set(home / "golden", {FILM: 5, SOUND: 3})
  mixture = open_mixture(str(root), seed=7, batch_size=2)
  got = [
    (bucket.kind, [row.record for row in rows])
    for bucket, rows in map(mixture.rows, range(6))
  ]
  assert got == [
    ("sound", [0, 2]), ("film", [3, 2]), ("sound", [1, 1]),
    ("film", [1, 4]), ("film", [0, 1]), ("sound", [2, 0]),
  ]  # fmt: skip


def test_room_for_texts_is_a_multiple_of_eight(home):
  """Records have j % 5 rows of text."""
  root = make_set(home / "texts", {FILM: 5, IMAGE: 1})
  mixture = open_mixture(str(root), seed=0, batch_size=2)
  found = mixture.sets[0]
  for longest, room in ((0, 8), (1, 8), (8, 8), (9, 16), (16, 16), (17, 24)):
    found.index["buckets"][FILM.name]["text_rows"] = longest
    assert mixture.text_rows(FILM) == room
  assert mixture.text_rows(IMAGE) == 8


def test_the_clip_most_records_hold(home):
  root = make_set(home / "common", {FILM: 2, SILENT: 5, IMAGE: 9})
  with_sound = open_mixture(str(root), seed=0, batch_size=2).common_clip()
  assert with_sound == FILM.spec()
  without = open_mixture(str(root), seed=0, batch_size=2, buckets=(SILENT.name,))
  assert without.common_clip() == SILENT.spec()
  stills = open_mixture(str(root), seed=0, batch_size=2, buckets=(IMAGE.name,))
  assert stills.common_clip() is None


def test_what_may_be_asked_of_a_batch(home):
  root = make_set(home / "asked", {FILM: 2})
  open_mixture(str(root), seed=0, batch_size=1)
  for size in (0, -1):
    with pytest.raises(UsageError, match=f"is {size}: expected 1 or more"):
      open_mixture(str(root), seed=0, batch_size=size)
  wrong = dict(ENCODERS, video="w" * 64)
  other = make_set(home / "other", {SOUND: 2}, encoders=wrong)
  open_mixture(f"{root}+{other}", seed=0, batch_size=1)  # its sounds have no video


def test_a_reader_goes_on_from_the_batch_after_the_last(home):
  root = make_set(home / "resume", {FILM: 7})
  reader = LatentBatches(open_mixture(str(root), seed=0, batch_size=2), threads=2)
  assert reader.get_state()["next_batch"] == 0
  seen, states = [], []
  for _ in range(5):
    states.append(reader.get_state())
    seen.append(next(reader)["audio"][:, 0, 0].tolist())
  assert reader.get_state()["next_batch"] == 5
  mixture = open_mixture(str(root), seed=0, batch_size=2)
  assert seen == [[r.record for r in mixture.rows(g)[1]] for g in range(5)]
  reader.set_state(states[3])  # back, though later ones were read ahead
  assert next(reader)["audio"][:, 0, 0].tolist() == seen[3]
  reader.close()


def noise(path, samples, seed):
  rng = np.random.default_rng(seed)
  return wav(path, rng.uniform(-0.5, 0.5, samples).astype(np.float32))


def test_every_window_of_every_file_is_as_likely(tmp_path):
  """Two files, of one and of three windows: the first and last of each come."""
  noise(tmp_path / "a.wav", WINDOW, 0)
  noise(tmp_path / "b.wav", WINDOW + 2, 1)
  noise(tmp_path / "c.wav", WINDOW - 1, 2)  # too short for one
  sounds = Sounds(tmp_path, shortest=WINDOW - 1, cache_gb=1.0, hold=False)
  names = [(span.path.name, span.samples) for span in sounds.train]
  assert names == [("a.wav", WINDOW), ("b.wav", WINDOW + 2), ("c.wav", WINDOW - 1)]
  a, b, _ = sounds.train
  windows = [sounds.read(a, 0, WINDOW), *(sounds.read(b, i, WINDOW) for i in range(3))]
  place = {window.tobytes(): i for i, window in enumerate(windows)}
  assert len(place) == 4 and all(len(w) == WINDOW for w in windows)
  drawn = [place[sounds.draw((0, g, 0), WINDOW).tobytes()] for g in range(400)]
  counts = np.bincount(drawn, minlength=4)
  assert (np.abs(counts - 100) < 5 * np.sqrt(75)).all(), counts
  assert sounds.seconds == pytest.approx((3 * WINDOW + 1) / RATE)


def test_a_key_is_of_seed_batch_and_row(tmp_path):
  noise(tmp_path / "a.wav", 9 * WINDOW, 0)
  sounds = Sounds(tmp_path, shortest=WINDOW, cache_gb=1.0, hold=False)
  batches = WindowBatches(sounds, samples=WINDOW, rows=(4, 2), seed=3, threads=2)
  for g in range(4):
    wave = next(batches)["wave"]
    for i, row in enumerate((4, 2)):
      np.testing.assert_array_equal(wave[i], sounds.draw((3, g, row), WINDOW))
  batches.close()


def test_a_resumed_reader_forgets_what_it_read_ahead(tmp_path):
  noise(tmp_path / "a.wav", 9 * WINDOW, 0)
  sounds = Sounds(tmp_path, shortest=WINDOW, cache_gb=1.0, hold=False)
  batches = WindowBatches(sounds, samples=WINDOW, rows=(0,), seed=3, threads=2)
  assert batches.get_state() == {"next_batch": 0}
  for g in (0, 1):
    np.testing.assert_array_equal(
      next(batches)["wave"][0], sounds.draw((3, g, 0), WINDOW)
    )
  assert batches.get_state() == {"next_batch": 2}
  for state in (1, 7, 0):
    batches.set_state({"next_batch": state})
    expected = sounds.draw((3, state, 0), WINDOW)
    np.testing.assert_array_equal(next(batches)["wave"][0], expected)
    assert batches.get_state() == {"next_batch": state + 1}
  batches.close()


def test_what_is_held_out_is_told_by_names(tmp_path):
  """One in ten by a checksum of the path below the folder, else the last tenth."""
  names = [f"{i}.wav" for i in range(12)] + ["x/3.wav"]
  for i, name in enumerate(names):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    noise(tmp_path / name, WINDOW, i)
  sounds = Sounds(tmp_path, shortest=WINDOW, cache_gb=1.0)
  held = {str(s.path.relative_to(tmp_path)) for s in sounds.held_out}
  assert held == {n for n in names if zlib.crc32(n.encode()) % 10 == 0} != set()
  assert len(sounds.train) == len(names) - len(held)


@pytest.mark.parametrize(
  ("samples", "train", "held"),
  [
    (30 * WINDOW, (0, 27 * WINDOW), (27 * WINDOW, 30 * WINDOW)),
    (10 * WINDOW, (0, 9 * WINDOW), (9 * WINDOW, 10 * WINDOW)),
    (5 * WINDOW, (0, 4 * WINDOW), (4 * WINDOW, 5 * WINDOW)),  # no less than a window
    (2 * WINDOW, (0, WINDOW), (WINDOW, 2 * WINDOW)),
    (2 * WINDOW - 1, (0, 2 * WINDOW - 1), None),  # too short for both
  ],
)
def test_the_last_tenth_of_a_file(tmp_path, samples, train, held):
  noise(tmp_path / "a.wav", samples, 0)
  sounds = Sounds(tmp_path, shortest=WINDOW, cache_gb=1.0)
  (span,) = sounds.train
  assert (span.start, span.stop) == train
  assert [(s.start, s.stop) for s in sounds.held_out] == ([held] if held else [])
  with pytest.raises(UsageError, match="no usable sound"):
    Sounds(tmp_path, shortest=samples + 1, cache_gb=1.0)


def test_windows_end_with_their_span(tmp_path):
  noise(tmp_path / "a.wav", 5 * WINDOW, 0)
  sounds = Sounds(tmp_path, shortest=WINDOW, cache_gb=1.0, hold=False)
  whole = sounds.train[0]
  for disk in (0.0, 1.0):
    sounds = Sounds(tmp_path, shortest=WINDOW, cache_gb=disk, hold=False)
    long = Span(whole.path, 0.0, WINDOW, 4 * WINDOW)
    short = Span(whole.path, 0.0, 0, 2 * WINDOW - 1)
    starts = [1, 0, 2, 3]
    got = list(sounds.windows([long, short], WINDOW))
    assert len(got) == 4
    for window, start in zip(got, starts):
      expected = sounds.read(whole, start * WINDOW, WINDOW)
      np.testing.assert_array_equal(window, expected)


def test_a_folder_is_kept_up_to_its_limit(tmp_path):
  noise(tmp_path / "a.wav", WINDOW, 0)
  for gigabytes, kept in ((4 * WINDOW / 1e9, 1), (4 * (WINDOW - 1) / 1e9, 0)):
    sounds = Sounds(tmp_path, shortest=WINDOW, cache_gb=gigabytes, hold=False)
    assert len(sounds._kept) == kept


def test_a_cache_gives_what_it_read():
  class Source(list):
    pass

  clip = lambda j: {"video": np.full(10, j), "audio": np.full(3, j)}
  source = Source([clip(0), clip(1)])
  cached = Cached(source, 1.0)
  assert [cached[i]["video"][0] for i in (1, 0, 1)] == [1, 0, 1]
  source[1] = clip(9)
  assert cached[1]["video"][0] == 1
