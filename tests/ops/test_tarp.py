"""Windows, groups and times: by hand, in seconds, coverage, and what drifts."""

import jax.numpy as jnp
import numpy as np
import pytest

from ccl_jax.ops import tarp

SIZES = [(31, 157), (21, 158), (17, 81), (9, 41), (4, 11), (5, 5), (1, 7)]
# Pictures and their rate: those of docs/equations.md.
FILMS = [(81, 16), (121, 24), (121, 25), (33, 25), (65, 24), (65, 25), (121, 30)]
TOKEN = 512 / 16000  # seconds


def rows(windows):
  return [row[on].tolist() for row, on in zip(*windows)]


def film(frames, fps):
  """(t, a, pictures of every latent frame): the codec keeps picture 0, then by four."""
  pictures = [[0]] + [list(range(k, k + 4)) for k in range(1, frames, 4)]
  return len(pictures), int(frames / fps / TOKEN), pictures


@pytest.mark.parametrize(("frames", "fps"), FILMS)
def test_a_click_is_in_the_window_of_the_frame_that_shows_it(frames, fps):
  """A click in the middle of picture k, (k + 1/2) / fps seconds into the film."""
  t, a, pictures = film(frames, fps)
  seen = rows(tarp.audio_windows(t, a))
  index, valid, _ = tarp.frame_groups(t, a)
  groups = rows((index, valid))
  for i, shown in enumerate(pictures):
    for k in shown:
      heard = min(int((k + 0.5) / fps / TOKEN), a - 1)
      # Less than a token at the end of a film is in no token, so that all are taken for
      # a little longer than they are.
      assert {heard - 1, heard} & set(seen[i]), (i, k)
      if k not in (shown[0], shown[-1]):
        assert heard in seen[i]
  for i, tokens in enumerate(groups):
    for j in tokens:
      at = (j + 0.5) * TOKEN
      assert shown_at(pictures[i], fps, at) < TOKEN


def shown_at(shown, fps, seconds):
  """How far outside the time of these pictures a time is."""
  return max(shown[0] / fps - seconds, seconds - (shown[-1] + 1) / fps, 0.0)


@pytest.mark.parametrize(("frames", "fps"), FILMS)
def test_windows_are_centred_on_their_pictures(frames, fps):
  t, a, pictures = film(frames, fps)
  index, valid = tarp.audio_windows(t, a)
  for i, shown in enumerate(pictures):
    if not valid[i].all():
      continue  # at the ends, where a window reaches beyond the film
    heard = (index[i].min() + index[i].max() + 1) / 2 * TOKEN
    middle = (shown[0] + shown[-1] + 1) / 2 / fps
    # Half a token, since windows are of whole ones, and the film's rest of a token.
    assert abs(heard - middle) < 1.5 * TOKEN
  width = (index.shape[1] - 1) * TOKEN
  assert width < 4 / fps + 1e-9 < width + 1.2 * TOKEN


@pytest.mark.parametrize(("frames", "fps"), FILMS)
def test_both_streams_have_one_clock(frames, fps):
  """The time of a token is that of the picture that is shown with it: linear between
  the middles of latent frames from the first of four pictures on.
  """
  t, a, pictures = film(frames, fps)
  middles = [(shown[0] + shown[-1] + 1) / 2 / fps for shown in pictures]
  seconds = (np.arange(a) + 0.5) * TOKEN
  times = tarp.audio_time(t, a)
  inside = (seconds > middles[1]) & (seconds < middles[-1])
  expected = np.interp(seconds[inside], middles, range(t))
  # What a film's rest of a token comes to at its end, in latent frames.
  drift = (frames / fps - a * TOKEN) / (4 / fps)
  assert 0 <= drift < TOKEN / (4 / fps)
  late = times[inside] - expected
  assert late.min() > -1e-9 and late.max() < drift + 1e-9
  # The first picture's sound is around time 0, within half of its latent frame.
  first = times[seconds < 0.9 / fps]
  assert len(first) and (np.abs(first) < 0.5).all()
  unit = tarp.tokens_per_frame(t, a)
  np.testing.assert_allclose(np.diff(unit * times)[4:], 1)
  assert abs(unit - 4 / fps / TOKEN) < 0.08


def test_uniform_times_are_wrong_by_what_was_measured():
  """Milliseconds that the centres are late at frame 1, the middle and the last; share
  of tokens that read another frame than the one shown.
  """
  for (frames, fps), late, wrong in [
    ((81, 16), (180, 107, 7), 0.42),
    ((121, 24), (115, 54, -14), 0.41),
    ((121, 25), (104, 40, -24), 0.50),
    ((33, 25), (72, 40, -24), 0.49),
  ]:
    t, a, pictures = film(frames, fps)
    index, _ = tarp.audio_windows(t, a, "uniform", window=3)
    for i, expected in zip((1, t // 2, t - 1), late):
      middle = (2 * i + 1) * a // (2 * t)
      assert middle in index[i]
      got = 1000 * (middle * TOKEN - (4 * i - 1) / fps)
      assert got == pytest.approx(expected, abs=18)
    shown = np.repeat(np.arange(t), [len(p) for p in pictures])
    true = shown[((np.arange(a) + 0.5) * TOKEN * fps).astype(int)]
    apart = true - np.repeat(
      np.arange(t), tarp.frame_groups(t, a, "uniform").valid.sum(1)
    )
    assert set(apart) == {0, 1}  # it is always the frame before
    assert apart.mean() == pytest.approx(wrong, abs=0.01)


def test_causal_windows_by_hand():
  """33 pictures at 25 a second: 9 latent frames, 41 tokens of 33 / 41 pictures; 5 to a
  latent frame. Frame 1 shows pictures 1 to 4, 40 to 200 ms: tokens 1 to 5.
  """
  assert tarp.audio_windows(9, 41).index.shape == (9, 5)
  seen = rows(tarp.audio_windows(9, 41))
  assert seen[:3] == [[0, 1, 2], [1, 2, 3, 4, 5], [6, 7, 8, 9, 10]]
  assert seen[8] == [36, 37, 38, 39, 40]
  # Of even width: 4 frames are 13 pictures, 13 tokens; frame 1 is 1 to 4.
  assert rows(tarp.audio_windows(4, 13))[:2] == [[0, 1], [1, 2, 3, 4]]
  assert rows(tarp.audio_windows(4, 13, window=3))[1] == list(range(0, 9))
  # A still, whose latent frame lasts one picture.
  still = tarp.audio_windows(1, 7)
  assert rows(still) == [list(range(7))] and still.index.shape == (1, 7)


def test_causal_groups_and_times_by_hand():
  """3 latent frames, 9 pictures, 12 tokens of 3/4 picture: at 3/8, 9/8, 15/8, ..."""
  groups = tarp.frame_groups(3, 12)
  assert rows(groups[:2]) == [[0], [1, 2, 3, 4, 5, 6], [7, 8, 9, 10, 11]]
  assert groups.place.tolist() == [0, *range(6, 17)]
  times = tarp.audio_time(3, 12)
  np.testing.assert_allclose(times[[0, 1, 11]], [-1 / 8, 17 / 32, (8.625 + 1) / 4])
  assert tarp.tokens_per_frame(3, 12) == 48 / 9


def test_uniform_windows_by_hand():
  """4 frames and 11 tokens: c = 2, w = 6, one token more before the centre than after.
  The frames' middles lie at 1.375, 4.125, 6.875 and 9.625 tokens; the literal rule has
  its centres at 1, 3, 5 and 7.
  """
  first = {"aligned": [-2, 1, 3, 6], "floor": [-2, 0, 2, 4]}
  for centre, starts in first.items():
    seen = rows(tarp.audio_windows(4, 11, "uniform", centre, 3))
    for i, start in enumerate(starts):
      tokens = [j for j in range(start, start + 6) if 0 <= j < 11]
      assert seen[i] == tokens, (centre, i)
  # 2 frames and 7 tokens: c = 3, w = 9, as many before the centre as after.
  windows = tarp.audio_windows(2, 7, "uniform", window=3)  # middles at 1.75 and 5.25
  assert rows(windows) == [[0, 1, 2, 3, 4, 5], [1, 2, 3, 4, 5, 6]]
  assert windows.valid.tolist() == [
    [False] * 3 + [True] * 6,
    [True] * 6 + [False] * 3,
  ]
  windows = tarp.audio_windows(2, 7, "uniform", "floor", 3)  # centres at 1 and 4
  assert rows(windows) == [[0, 1, 2, 3, 4, 5], [0, 1, 2, 3, 4, 5, 6]]
  assert rows(tarp.audio_windows(2, 7, "uniform")) == [[0, 1, 2], [4, 5, 6]]


def test_uniform_groups_and_times_by_hand():
  """3 frames and 7 tokens: token j is of frame floor(3 j / 7), at 3 j / 7 frames."""
  groups = tarp.frame_groups(3, 7, "uniform")
  assert groups.index.tolist() == [[0, 1, 2], [3, 4, 5], [5, 6, 6]]
  assert groups.valid.tolist() == [[True] * 3, [True, True, False], [True, True, False]]
  assert groups.place.tolist() == [0, 1, 2, 3, 4, 6, 7]
  times = tarp.audio_time(3, 7, "uniform")
  np.testing.assert_allclose(times[[0, 1, 6]], [0, 3 / 7, 18 / 7])
  assert tarp.tokens_per_frame(3, 7, "uniform") == 7 / 3


@pytest.mark.parametrize(("t", "a"), SIZES)
@pytest.mark.parametrize("centre", tarp.CENTRES)
def test_uniform_windows_are_three_frames_of_tokens(t, a, centre):
  index, valid = tarp.audio_windows(t, a, "uniform", centre, 3)
  c = a // t
  assert index.shape == (t, 3 * c)
  assert index.min() >= 0 and index.max() < a
  assert valid.any(1).all()  # no frame is left without a key
  for i in range(t):
    seen = index[i][valid[i]]
    np.testing.assert_array_equal(np.diff(seen), 1)


@pytest.mark.parametrize(
  ("times", "window", "t", "a"),
  [("causal", 1, *size) for size in (*SIZES, (9, 8), (31, 10))]
  + [("uniform", 3, *size) for size in SIZES],
)
def test_windows_hold_the_frames_own_tokens(times, window, t, a):
  """Every token is in the window of its own frame: no event is out of sight."""
  index, valid = tarp.audio_windows(t, a, times, window=window)
  assert valid.any(1).all()  # no frame is left without a key
  groups = tarp.frame_groups(t, a, times)
  for i in range(t):
    own = groups.index[i][groups.valid[i]].tolist()
    assert set(own) <= set(index[i][valid[i]].tolist())


def test_rules_agree_where_t_divides_a():
  """31 frames of 5: both centres are the frame's middle token."""
  aligned, floor = (
    tarp.audio_windows(31, 155, "uniform", centre, 3) for centre in tarp.CENTRES
  )
  for x, y in zip(aligned, floor):
    np.testing.assert_array_equal(x, y)
  assert aligned.index[10].tolist() == list(range(45, 60))


def test_literal_rule_drifts_early():
  """16 fps, 81 frames: the last literal centre lies 0.37 s before the frame."""
  t, a = 21, 158
  last = lambda centre: tarp.audio_windows(t, a, "uniform", centre, 3).index[-1]
  drift = (20.5 * a / t - (7 // 2 + 7 * 20)) / 31.25
  assert drift == pytest.approx(0.37, abs=0.02)
  assert last("aligned").max() > last("floor").max()


@pytest.mark.parametrize(("t", "a"), SIZES)
@pytest.mark.parametrize("times", tarp.TIMES)
def test_groups_partition_the_tokens(t, a, times):
  groups = tarp.frame_groups(t, a, times)
  assert sorted(groups.index[groups.valid].tolist()) == list(range(a))
  np.testing.assert_array_equal(groups.index.ravel()[groups.place], np.arange(a))
  assert groups.valid.ravel()[groups.place].all()
  if times == "uniform":
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


def test_neighbours_by_hand():
  """4 frames of 2 tokens, numbered 10 i + place; three frames to each."""
  windows = tarp.frame_windows(4, 3)
  assert windows.index.tolist() == [[0, 0, 1], [0, 1, 2], [1, 2, 3], [2, 3, 3]]
  assert rows(windows) == [[0, 1], [0, 1, 2], [1, 2, 3], [2, 3]]
  x = np.add.outer(10 * np.arange(4), np.arange(2))[None, :, :, None, None]
  got = tarp.to_neighbours(jnp.float32(x), windows)[0, :, :, 0, 0]
  assert got[1].tolist() == [0, 10, 20, 1, 11, 21]


def test_mistakes():
  with pytest.raises(ValueError, match="at least 9"):
    tarp.audio_windows(9, 8, "uniform")
  with pytest.raises(ValueError, match="aligned"):
    tarp.audio_windows(4, 20, "uniform", "middle")
  for function in (tarp.audio_windows, tarp.frame_groups, tarp.audio_time):
    with pytest.raises(ValueError, match="causal"):
      function(4, 20, "late")
