"""Windows and groups: the paper's examples, coverage, and what drifts."""

import jax.numpy as jnp
import numpy as np
import pytest

from ccl_jax.ops import tarp

SIZES = [(31, 157), (21, 158), (17, 81), (9, 41), (4, 11), (5, 5), (1, 7)]


def test_windows_by_hand():
  """4 frames and 11 tokens: c = 2, w = 6, one token more before the centre than after.
  The frames' middles lie at 1.375, 4.125, 6.875 and 9.625 tokens; the literal rule has
  its centres at 1, 3, 5 and 7.
  """
  first = {"aligned": [-2, 1, 3, 6], "floor": [-2, 0, 2, 4]}
  for centre, starts in first.items():
    index, valid = tarp.audio_windows(4, 11, centre)
    for i, start in enumerate(starts):
      tokens = [j for j in range(start, start + 6) if 0 <= j < 11]
      assert index[i][valid[i]].tolist() == tokens, (centre, i)
  # 2 frames and 7 tokens: c = 3, w = 9, as many before the centre as after.
  index, valid = tarp.audio_windows(2, 7)  # middles at 1.75 and 5.25
  assert [index[i][valid[i]].tolist() for i in (0, 1)] == [
    [0, 1, 2, 3, 4, 5],
    [1, 2, 3, 4, 5, 6],
  ]
  assert valid.tolist() == [[False] * 3 + [True] * 6, [True] * 6 + [False] * 3]
  index, valid = tarp.audio_windows(2, 7, "floor")  # centres at 1 and 4
  assert [index[i][valid[i]].tolist() for i in (0, 1)] == [
    [0, 1, 2, 3, 4, 5],
    [0, 1, 2, 3, 4, 5, 6],
  ]


def test_groups_and_times_by_hand():
  """3 frames and 7 tokens: token j is of frame floor(3 j / 7), at 3 j / 7 frames."""
  groups = tarp.frame_groups(3, 7)
  assert groups.index.tolist() == [[0, 1, 2], [3, 4, 5], [5, 6, 6]]
  assert groups.valid.tolist() == [[True] * 3, [True, True, False], [True, True, False]]
  assert groups.place.tolist() == [0, 1, 2, 3, 4, 6, 7]
  np.testing.assert_allclose(tarp.audio_time(3, 7)[[0, 1, 6]], [0, 3 / 7, 18 / 7])


@pytest.mark.parametrize(("t", "a"), SIZES)
@pytest.mark.parametrize("centre", tarp.CENTRES)
def test_windows_are_three_frames_of_tokens(t, a, centre):
  index, valid = tarp.audio_windows(t, a, centre)
  c = a // t
  assert index.shape == (t, 3 * c)
  assert index.min() >= 0 and index.max() < a
  assert valid.any(1).all()  # no frame is left without a key
  for i in range(t):
    seen = index[i][valid[i]]
    np.testing.assert_array_equal(np.diff(seen), 1)


@pytest.mark.parametrize(("t", "a"), SIZES)
def test_aligned_windows_hold_the_frames_own_tokens(t, a):
  """Every token is in the window of its nearest frame: no event is out of sight."""
  index, valid = tarp.audio_windows(t, a)
  for j in range(a):
    i = j * t // a
    assert j in index[i][valid[i]]


def test_rules_agree_where_t_divides_a():
  """31 frames of 5: both centres are the frame's middle token."""
  for x, y in zip(tarp.audio_windows(31, 155), tarp.audio_windows(31, 155, "floor")):
    np.testing.assert_array_equal(x, y)
  index, _ = tarp.audio_windows(31, 155)
  assert index[10].tolist() == list(range(45, 60))


def test_literal_rule_drifts_early():
  """16 fps, 81 frames: the last literal centre lies 0.37 s before the frame."""
  t, a = 21, 158
  middle = lambda centre: tarp.audio_windows(t, a, centre).index[-1]
  drift = (20.5 * a / t - (7 // 2 + 7 * 20)) / 31.25
  assert drift == pytest.approx(0.37, abs=0.02)
  assert middle("aligned").max() > middle("floor").max()


@pytest.mark.parametrize(("t", "a"), SIZES)
def test_groups_partition_the_tokens(t, a):
  groups = tarp.frame_groups(t, a)
  assert sorted(groups.index[groups.valid].tolist()) == list(range(a))
  frame = groups.place // groups.index.shape[1]
  np.testing.assert_array_equal(frame, np.arange(a) * t // a)
  assert groups.index.shape[1] == -(-a // t)


@pytest.mark.parametrize(("t", "a"), SIZES)
def test_gather_and_scatter_are_inverse(t, a):
  x = np.random.default_rng(0).standard_normal((2, a, 3, 4)).astype(np.float32)
  groups = tarp.frame_groups(t, a)
  there = tarp.to_groups(jnp.asarray(x), groups)
  back = tarp.from_groups(there.reshape(*there.shape[:3], 12), groups)
  np.testing.assert_array_equal(back, x.reshape(2, a, 12))


def test_mistakes():
  with pytest.raises(ValueError, match="at least 9"):
    tarp.audio_windows(9, 8)
  with pytest.raises(ValueError, match="aligned"):
    tarp.audio_windows(4, 20, "middle")
