"""Boxes of the detector: golden numbers, priors and overlaps by hand."""

import numpy as np
import pytest

from ccl_jax.errors import UsageError
from ccl_jax.metrics.face_detection import (
  decode,
  detected_boxes,
  faces_of,
  find_faces,
  intersection_over_union,
  nms,
  priors,
)
from ccl_jax.models.scorers.s3fd import level_sizes
from tests.metrics.sync_nets import blob_detector
from tests.parity.cases_s3fd import cases_s3fd


@pytest.mark.shared
def test_golden_maps_and_detections(shared):
  """Map by map and as log-odds, not as the probabilities of all maps at once.

  A softmax of random scores is 0 or 1 almost everywhere, which hides errors of the
  scores, and where two of them cancel it has lost digits in the reference itself. The
  maps' scales are a hundred times apart: one deviation of all judges only the largest.
  """
  for name, got, expected, limit in cases_s3fd(shared / "parity/eval/s3fd"):
    assert np.abs(got - expected).max() < limit * expected.std(), name


def test_priors_of_a_small_picture():
  """64 wide, 32 high: the sizes and the places of the six maps."""
  maps = [(8, 16), (4, 8), (2, 4), (1, 2), (1, 1), (1, 1)]
  assert level_sizes(32, 64) == maps
  prior = priors(32, 64) * (64, 32, 64, 32)
  assert len(prior) == sum(h * w for h, w in maps)
  np.testing.assert_allclose(
    prior[[0, 1, 16]], [[2, 2, 16, 16], [6, 2, 16, 16], [2, 6, 16, 16]]
  )
  np.testing.assert_allclose(prior[128 + 8 + 1], [12, 12, 32, 32])
  np.testing.assert_allclose(prior[-2:], [[32, 32, 256, 256], [64, 64, 512, 512]])


def test_the_third_pool_keeps_an_odd_row():
  assert level_sizes(180, 320)[:3] == [(45, 80), (23, 40), (11, 20)]


def test_a_moved_prior():
  prior = np.array([[0.5, 0.4, 0.2, 0.1]], np.float32)
  np.testing.assert_allclose(
    decode(0 * prior, prior), [[0.4, 0.35, 0.6, 0.45]], rtol=1e-6
  )
  moves = np.array([[2.0, -1.0, 5 * np.log(2), 5 * np.log(3)]], np.float32)
  # Centre (0.5 + 0.1 2 0.2, 0.4 - 0.1 0.1), sides twice and three times.
  np.testing.assert_allclose(
    decode(moves, prior), [[0.34, 0.24, 0.74, 0.54]], rtol=1e-6
  )


def test_overlaps():
  a = np.array([0.0, 0, 10, 10])
  others = np.array([[0, 0, 10, 10], [5, 0, 15, 10], [10, 0, 20, 10], [2, 2, 4, 4.0]])
  got = intersection_over_union(a, others)
  np.testing.assert_allclose(got, [1, 50 / 150, 0, 4 / 100])


def test_the_surest_of_overlapping_boxes_is_kept():
  boxes = np.array([[0, 0, 10, 10], [1, 0, 11, 10], [9, 0, 19, 10], [40, 0, 50, 10.0]])
  scores = np.array([0.5, 0.9, 0.6, 0.7])
  assert nms(boxes, scores, 0.3).tolist() == [1, 3, 2]
  assert nms(boxes, scores, 0.05).tolist() == [1, 3]
  assert nms(boxes, scores, 0.9).tolist() == [1, 3, 2, 0]
  assert nms(boxes, scores, 0.3, most=2).tolist() == [1, 3]
  # Suppressed boxes suppress nothing: 2 goes with 1, and 0 is left.
  chain = np.array([[0, 0, 10, 10], [5, 0, 15, 10], [10, 0, 20, 10.0]])
  assert nms(chain, np.array([0.9, 0.8, 0.7]), 0.2).tolist() == [0, 2]
  assert nms(boxes[:0], scores[:0], 0.3).tolist() == []


def test_a_box_at_the_limit_is_kept():
  """Halves of one another's width: an overlap of exactly a third."""
  boxes = np.array([[0, 0, 12, 8], [6, 0, 18, 8.0]])
  assert intersection_over_union(boxes[0], boxes[1:])[0] == 1 / 3
  assert nms(boxes, np.array([0.9, 0.8]), 1 / 3).tolist() == [0, 1]
  assert nms(boxes, np.array([0.9, 0.8]), 0.33).tolist() == [0]


def test_faces_of_one_picture():
  """Below 0.05 nothing is looked at; faces are in pixels, sure, and apart."""
  boxes = np.array(
    [[0.1, 0.1, 0.3, 0.5], [0.3, 0.1, 0.5, 0.5], [0.2, 0.1, 0.38, 0.5], [0.7, 0, 1, 1]]
  ).astype(np.float32)
  scores = np.array([0.95, 0.97, 0.99, 0.04], np.float32)
  assert detected_boxes(scores, boxes).tolist() == [2, 1]
  faces = faces_of(scores, boxes, (100, 200), 0.9)  # 2 and 1 overlap by 0.27
  np.testing.assert_allclose(faces, [[40, 10, 76, 50]], rtol=1e-5)
  scores[3] = 0.9
  assert len(faces_of(scores, boxes, (100, 200), 0.9)) == 1
  assert len(faces_of(scores, boxes, (100, 200), 0.89)) == 2


def test_faces_of_a_clip_in_batches():
  """A network that takes what is bright for a face; frames have 0, 1 or 2."""
  frames = np.zeros((5, 150, 230, 3), np.uint8)
  places = [[], [(40, 60)], [(90, 170)], [(40, 60), (100, 170)], [(60, 100)]]
  for frame, centres in zip(frames, places):
    for y, x in centres:
      frame[y - 16 : y + 16, x - 16 : x + 16] = 255
  found = find_faces(blob_detector(), frames, batch=2)
  assert [len(boxes) for boxes in found] == [0, 1, 1, 2, 1]
  for boxes, centres in zip(found, places):
    for box in boxes:
      assert (
        min(np.abs(box[2:] + box[:2] - 2 * np.array(c[::-1])).max() for c in centres)
        <= 64
      )
      # 32 pixels of 38 x 58, in a picture of 150 x 230
      np.testing.assert_allclose(box[2:] - box[:2], (32 * 230 / 58, 32 * 150 / 38))


def test_frames_too_small_for_the_detector():
  frames = np.zeros((2, 96, 128, 3), np.uint8)
  with pytest.raises(
    UsageError, match=r"128x96 at a scale of 0.25 are 32x24.*raise the"
  ):
    find_faces(blob_detector(), frames)
