"""Windows of a folder of sounds: drawn by their number alone, held out for good."""

import wave

import numpy as np
import pytest

from ccl_jax.data.media import decode as media
from ccl_jax.data.sources.sounds import RATE, Sounds, WindowBatches
from ccl_jax.errors import UsageError
from tests.data.sound_files import write

WINDOW = 4096


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  root = tmp_path_factory.mktemp("sounds")
  for i in range(4):
    write(root / f"deep/{i}.wav", 20_000 + 9000 * i, seed=i)
  write(root / "short.wav", 1000)
  (root / "broken.mp3").write_bytes(b"not a sound at all")
  return root


@pytest.fixture(scope="module")
def sounds(folder):
  return Sounds(folder, shortest=WINDOW, cache_gb=1.0)


def take(source, count, *, start=0, threads=2, rows=(0, 1, 2), samples=WINDOW):
  batches = WindowBatches(source, samples=samples, rows=rows, seed=3, threads=threads)
  batches.set_state({"next_batch": start})
  out = [next(batches)["wave"] for _ in range(count)]
  assert batches.get_state() == {"next_batch": start + count}
  batches.close()
  return np.stack(out)


def test_what_is_of_no_use_is_told(sounds):
  reasons = dict(sounds.skipped)
  assert reasons.keys() == {"short.wav", "broken.mp3"}
  assert "too short, 0.06 s of the 0.26 s" in reasons["short.wav"]


def test_a_batch_is_its_number(sounds):
  whole = take(sounds, 6)
  assert whole.shape == (6, 3, WINDOW) and whole.dtype == np.float32
  np.testing.assert_array_equal(take(sounds, 2, start=4, threads=1), whole[4:])
  np.testing.assert_array_equal(take(sounds, 6, rows=(1,)), whole[:, 1:2])
  flat = whole.reshape(-1, WINDOW)
  assert len(np.unique(flat, axis=0)) == len(flat)


def test_windows_kept_are_those_read_from_disk(folder, sounds):
  """16 bits at 16 kHz: nothing is resampled."""
  by_disk = Sounds(folder, shortest=WINDOW, cache_gb=0.0)
  np.testing.assert_allclose(take(by_disk, 2), take(sounds, 2), atol=1e-6)


def test_the_tail_of_every_file_is_never_drawn(sounds):
  assert len(sounds.train) == len(sounds.held_out) == 4
  for span, tail in zip(sounds.train, sounds.held_out):
    assert span.path == tail.path and span.stop == tail.start
    assert tail.samples == max(WINDOW, tail.stop // 10)
  train = np.concatenate([sounds.read(s, 0, s.samples) for s in sounds.train])
  drawn = take(sounds, 20).reshape(-1, WINDOW)
  views = np.lib.stride_tricks.sliding_window_view(train, 8)
  first = {view.tobytes(): i for i, view in enumerate(views)}
  for window in drawn:
    at = first[window[:8].tobytes()]
    np.testing.assert_array_equal(window, train[at : at + WINDOW])


def test_of_many_files_some_are_held_out_whole(tmp_path):
  for i in range(30):
    write(tmp_path / f"{i}.wav", WINDOW, seed=i)
  names = lambda spans: {s.path.name for s in spans}
  before = Sounds(tmp_path, shortest=WINDOW, cache_gb=1.0)
  assert 0 < len(before.held_out) < 10
  assert not names(before.train) & names(before.held_out)
  write(tmp_path / "another.wav", WINDOW)
  after = Sounds(tmp_path, shortest=WINDOW, cache_gb=1.0)
  assert names(before.train) <= names(after.train)
  both = Sounds(tmp_path, shortest=WINDOW, cache_gb=1.0, hold=False)
  assert len(both.train) == len(both.held_out) == 31


def test_windows_come_round_by_round(sounds):
  spans = sounds.train
  windows = list(sounds.windows(spans, WINDOW))
  assert len(windows) == sum(s.samples // WINDOW for s in spans)
  for span, window in zip(spans, windows):
    np.testing.assert_array_equal(window, sounds.read(span, 0, WINDOW))


def test_an_unreadable_window_is_replaced(folder, monkeypatch):
  by_disk, calls = Sounds(folder, shortest=WINDOW, cache_gb=0.0), []
  real = media.read_audio

  def read(path, *args):
    calls.append(path)
    if len(calls) == 1:
      raise media.MediaError(f"{path}: gone")
    return real(path, *args)

  monkeypatch.setattr(media, "read_audio", read)
  assert by_disk.draw((0, 0, 0), WINDOW).shape == (WINDOW,)
  assert len(calls) == 2

  def never(path, *args):
    raise media.MediaError(f"{path}: gone")

  monkeypatch.setattr(media, "read_audio", never)
  with pytest.raises(UsageError, match="8 windows in turn could not be read, .* gone"):
    by_disk.draw((0, 0, 0), WINDOW)


def test_mistakes(tmp_path, folder):
  with pytest.raises(UsageError, match="no folder at"):
    Sounds(tmp_path / "none", shortest=WINDOW, cache_gb=1.0)
  with pytest.raises(UsageError, match="no media in .* expected .wav"):
    Sounds(tmp_path, shortest=WINDOW, cache_gb=1.0)
  with pytest.raises(UsageError, match=r"no usable sound among 6 files .* broken.mp3"):
    Sounds(folder, shortest=10 * RATE, cache_gb=1.0)
  silent = Sounds(folder, shortest=WINDOW, cache_gb=1.0)
  with pytest.raises(
    UsageError, match="no sound in .* is as long as a window, 10.00 s"
  ):
    silent.draw((0, 0, 0), 10 * RATE)


@pytest.mark.parametrize(
  ("rate", "channels", "seconds"),
  [(8000, 1, 1), (22_050, 2, 3), (44_100, 2, 1), (48_000, 1, 60), (11_025, 6, 2)],
)
def test_any_rate_and_layout_keeps_its_length_and_its_times(
  tmp_path, rate, channels, seconds
):
  """A pulse at 0.4 of the sound is there within a millisecond."""
  count = rate * seconds
  path = tmp_path / "click.wav"
  wide = np.zeros((count, channels), "<i2")
  at = int(0.4 * count)
  wide[at : at + max(rate // 1000, 8)] = 20_000
  with wave.open(str(path), "wb") as f:
    f.setnchannels(channels)
    f.setsampwidth(2)
    f.setframerate(rate)
    f.writeframes(wide.tobytes())
  sounds = Sounds(path.parent, shortest=WINDOW, cache_gb=1.0, hold=False)
  (span,) = sounds.train
  assert abs(span.samples - RATE * seconds) <= 1
  sound = sounds.read(span, 0, span.samples)
  centre = (np.arange(len(sound)) @ sound**2) / (sound @ sound) / RATE
  assert abs(centre - (at / rate + 0.0005)) < 0.001
