"""Sync-C and Sync-D: known shifts, alignment of picture and sound, whole clips."""

import dataclasses

import numpy as np
import pytest
import torch

from ccl_jax.errors import UsageError
from ccl_jax.metrics.base import Unscorable
from ccl_jax.metrics.lipsync import (
  SyncNets,
  SyncProtocol,
  embed_sound,
  embeddings,
  in_batches,
  mean_distances,
  mfcc_windows,
  score,
  score_faces,
  synchrony,
)
from ccl_jax.metrics.mfcc import mfcc
from tests.metrics.sync_nets import OUT, blob_detector, small_syncnet

NONE = np.zeros((0, 4))


def walk(n, seed=0, width=32):
  """Embeddings that change slowly, as those of speech."""
  rng = np.random.default_rng(seed)
  return np.cumsum(rng.standard_normal((n, width)), 0).astype(np.float32)


@pytest.mark.parametrize("shift", [-15, -7, 0, 4, 15])
def test_a_shift_is_the_offset(shift):
  """v_t = a_{t - shift} and noise: sound that is early has a positive offset."""
  track = walk(300)
  noise = 0.1 * np.random.default_rng(1).standard_normal((200, 32))
  lips, sound = track[50:250] + noise, track[50 + shift : 250 + shift]
  got = synchrony(mean_distances(lips, sound, 15))
  assert got["offset"] == shift
  if shift == 0:
    assert got["sync_d"] == pytest.approx(0.1 * np.sqrt(32), rel=0.05)
  assert got["sync_c"] > 10


def test_unrelated_noise_has_no_confidence():
  lips, sound = np.random.default_rng(0).standard_normal((2, 400, 32))
  got = synchrony(mean_distances(lips, sound, 15))
  assert got["sync_c"] < 0.2 < 7 < got["sync_d"]


def test_equal_vectors_are_eps_apart():
  x = walk(40)
  assert mean_distances(x, x, 15)[15] == pytest.approx(1e-6 * np.sqrt(32))


def test_the_curve_is_the_references():
  """Written with torch's own distance, zeros past the ends."""
  lips, sound = walk(30, 1), walk(30, 2)
  padded = torch.nn.functional.pad(torch.from_numpy(sound), (0, 0, 15, 15))
  rows = [
    torch.nn.functional.pairwise_distance(
      torch.from_numpy(lips[t]).expand(31, -1), padded[t : t + 31]
    )
    for t in range(30)
  ]
  expected = torch.stack(rows).mean(0)
  got = mean_distances(lips, sound, 15)
  np.testing.assert_allclose(got, expected, rtol=1e-5)
  scores = synchrony(got)
  assert scores["sync_d"] == pytest.approx(expected.min().item(), rel=1e-5)
  confidence = expected.median() - expected.min()
  assert scores["sync_c"] == pytest.approx(confidence.item(), rel=1e-4)
  assert scores["offset"] == 15 - expected.argmin().item()


def sound(samples, seed=0):
  rng = np.random.default_rng(seed)
  loud = np.repeat(rng.uniform(0, 1, samples // 800 + 1), 800)[:samples]
  return (4000 * loud * rng.standard_normal(samples)).astype(np.int16)


@pytest.mark.parametrize(
  "frames, samples, windows",
  [(30, 30 * 640, 25), (30, 20 * 640 + 639, 15), (9, 99999, 4)],
)
def test_there_are_five_windows_fewer_than_frames(frames, samples, windows):
  crops = np.zeros((frames, 224, 224, 3), np.uint8)
  lips, sounds = embeddings(crops, sound(samples), small_syncnet())
  assert lips.shape == sounds.shape == (windows, OUT)


def test_the_small_network_sees_and_hears():
  """Its vectors follow the picture and the sound, by a tenth of their deviation at
  least: else no test of whole clips would prove anything.
  """
  rng = np.random.default_rng(0)
  light = rng.integers(40, 256, (2, 25, 1, 1, 1), np.uint8)
  one, two = (np.broadcast_to(x, (25, 224, 224, 3)) for x in light)
  lips, heard = embeddings(one, sound(25 * 640), small_syncnet())
  others = embeddings(two, sound(25 * 640, 1), small_syncnet())
  for x, other in zip((lips, heard), others):
    assert x.std(0).mean() > 0.1 * x.std()
    assert np.abs(x - other).mean() > 0.1 * x.std()


def test_windows_of_sound_are_one_frame_apart():
  wave = sound(20 * 640)
  rows = mfcc(wave)
  windows = mfcc_windows(wave, 15)
  for t in (0, 3, 14):
    expected = rows[4 * t : 4 * t + 20].T
    np.testing.assert_array_equal(windows[t], expected.astype(np.float32))
  # Sound that is three frames later has the embeddings of three windows before.
  embed = lambda w: np.asarray(embed_sound(small_syncnet(), w))
  later = embed(mfcc_windows(wave[3 * 640 :], 12))
  np.testing.assert_allclose(later[1:], embed(windows)[4:], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("n, window", [(5, 1), (8, 1), (9, 5), (20, 5)])
def test_batches_change_nothing(n, window):
  calls = []

  def function(x):
    calls.append(x.shape)
    return np.lib.stride_tricks.sliding_window_view(x, window, 0).sum(-1)

  x = np.random.default_rng(0).standard_normal((n, 3))
  whole = function(x)
  calls.clear()
  np.testing.assert_allclose(in_batches(function, x, 4, window), whole)
  assert set(calls) == {(4 + window - 1, 3)}


def clip(n=70, blobs=((60, 60),), start=0, seed=0):
  """A bright square at each place from frame `start` on, flickering; its sound."""
  rng = np.random.default_rng(seed)
  frames = np.zeros((n, 192, 224, 3), np.uint8)
  for x, y in blobs:
    light = rng.integers(150, 256, (n - start, 1, 1, 3), np.uint8)
    frames[start:, y - 16 : y + 16, x - 16 : x + 16] = light
  return frames, sound(n * 640, seed)


def test_a_clip_from_detector_to_scores():
  frames, wave = clip(52)
  nets = SyncNets(blob_detector(), small_syncnet())
  got = score(frames, wave, nets)
  (track,) = got["tracks"]
  assert {n: got[n] for n in ("sync_c", "sync_d", "offset")}.items() <= track.items()
  assert (track["first_frame"], track["last_frame"], track["seen"]) == (0, 51, 52)
  assert track["windows"] == 47 and track["face_size"] == pytest.approx(128)
  assert got["face_rate"] == 1 and got["protocol"]["min_track"] == 50
  assert got["sync_d"] > 0 and got["sync_c"] > 0 and abs(got["offset"]) <= 15
  assert SyncProtocol(**got["protocol"]) == SyncProtocol()
  with pytest.raises(Unscorable, match="no face in any of 52 frames"):
    score(0 * frames, wave, nets)


def still(n, *boxes):
  return [np.array(boxes, float).reshape(-1, 4)] * n


BOX, OTHER = (20, 20, 140, 140), (90, 40, 215, 160)
SHORT = SyncProtocol(min_track=12)


def test_a_late_track_has_its_own_sound():
  """As the clip that begins with it."""
  frames, wave = clip(35, start=15)
  faces = [NONE] * 15 + still(20, BOX)
  late = score_faces(frames, wave, faces, small_syncnet(), SHORT)
  cut = score_faces(frames[15:], wave[15 * 640 :], faces[15:], small_syncnet(), SHORT)
  assert late["face_rate"] == 20 / 35 and cut["face_rate"] == 1
  for name in ("sync_c", "sync_d", "offset", "windows"):
    assert late["tracks"][0][name] == cut["tracks"][0][name]
  assert late["tracks"][0]["first_frame"] == 15


def test_the_best_of_two_tracks_counts():
  frames, wave = clip(20, blobs=((60, 60), (150, 100)))
  both = score_faces(frames, wave, still(20, BOX, OTHER), small_syncnet(), SHORT)
  one, two = both["tracks"]
  assert one["sync_d"] != two["sync_d"]
  best = max(both["tracks"], key=lambda t: t["sync_c"] - t["sync_d"])
  assert (both["sync_c"], both["sync_d"]) == (best["sync_c"], best["sync_d"])
  alone = score_faces(frames, wave, still(20, BOX), small_syncnet(), SHORT)
  assert alone["tracks"] == [one]


def test_what_cannot_be_scored_is_told():
  frames, wave = clip(60)

  def reason(frames, wave, faces, **options):
    with pytest.raises(Unscorable) as e:
      score_faces(frames, wave, faces, small_syncnet(), SyncProtocol(**options))
    return e.value.reason

  few = "too short: 5 frames and 60 of sound, expected 6"
  assert reason(frames[:5], wave, still(5, BOX)).startswith(few)
  few = "too short: 60 frames and 5 of sound"
  assert reason(frames, wave[: 6 * 640 - 1], still(60, BOX)).startswith(few)
  assert reason(frames, wave, still(60)) == "no face in any of 60 frames"
  assert "longest track has 50" in reason(frames[:50], wave, still(50, BOX))
  assert "largest is 120" in reason(frames, wave, still(60, BOX), min_face_size=120)
  late = [NONE] * 9 + still(51, BOX)
  ends = reason(frames, wave[: 14 * 640], late)
  assert ends == "the sound ends before the first face that counts"
  assert score_faces(frames, wave[: 15 * 640], late, small_syncnet())


@pytest.mark.parametrize(
  "option", [{"scale": 0}, {"scale": 2}, {"min_track": 5}, {"vshift": 0}]
)
def test_protocols_that_make_no_sense(option):
  (name,) = option
  with pytest.raises(UsageError, match=f"{name} is .*expected"):
    SyncProtocol(**option)


def test_a_protocol_is_the_record_of_a_result():
  changed = SyncProtocol(scale=0.5, min_track=20, min_face_size=60, vshift=10)
  frames, wave = clip(25)
  got = score_faces(frames, wave, still(25, BOX), small_syncnet(), changed)
  assert got["protocol"] == dataclasses.asdict(changed)
  assert abs(got["offset"]) <= 10
