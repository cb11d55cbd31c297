"""Rotary embedding: Wan's slots, relative positions, the audio side's slow clock."""

import math

import jax.numpy as jnp
import numpy as np

from ccl_jax.ops import rope, tarp

D = 24  # slots 8, 8, 8


def normal(*shape, seed=0):
  return jnp.asarray(np.random.default_rng(seed).standard_normal(shape), jnp.float32)


def test_slots_are_wans():
  assert rope.slots(128) == (44, 42, 42)
  assert rope.slots(D) == (8, 8, 8)


def test_tables_by_hand():
  """Heads of 12 channels: slots of 4, each of the rates 1 and 10000^(-2/4) = 0.01."""

  def close(got, *angles):
    both = [x for x in angles for _ in range(2)]  # channels of a pair
    expected = [[math.cos(x) for x in both], [math.sin(x) for x in both]]
    np.testing.assert_allclose(got, expected, atol=1e-7)

  grid = rope.grid(2, 2, 3, 12)
  assert grid.shape == (2, 2, 6, 12)
  close(grid[:, 0, 0], 0, 0, 0, 0, 0, 0)
  close(grid[:, 1, 0], 1, 0.01, 0, 0, 0, 0)
  close(grid[:, 1, 5], 1, 0.01, 1, 0.01, 2, 0.02)  # row 1, column 2
  close(rope.grid(2, 2, 3, 12, spatial=False)[:, 1, 5], 1, 0.01, 0, 0, 0, 0)
  close(rope.temporal(np.array([0.75]), 12)[:, 0], 0.75, 0.0075, 0, 0, 0, 0)
  close(rope.line(np.array([3.0]), 4)[:, 0], 3, 0.03)
  assert rope.slots(16) == (8, 4, 4)


def test_a_quarter_turn_takes_each_pair_counterclockwise():
  """Pairs are neighbours: (1, 0) becomes (0, 1), and the half-angle of it (r, r)."""
  r = 0.5**0.5
  # Cosines and sines of one token, two pairs.
  table = jnp.asarray([[[0.0, 0.0, r, r]], [[1.0, 1.0, r, r]]])
  x = jnp.asarray([[[[1.0, 0.0, 1.0, 0.0], [0.0, 2.0, 0.0, 2.0]]]])  # two heads
  expected = [[0, 1, r, r], [-2, 0, -2 * r, 2 * r]]
  np.testing.assert_allclose(rope.rotate(x, table)[0, 0], expected, atol=1e-6)
  small = x.astype(jnp.bfloat16)
  assert rope.rotate(small, table).dtype == jnp.float32
  assert rope.rotate(x, table, jnp.bfloat16).dtype == jnp.bfloat16


def test_rotation_is_complex_multiplication_by_axis():
  """Against the definition, in complex numbers and float64."""
  t, h, w, d = 3, 2, 4, 128
  x = np.asarray(normal(1, t, h * w, 2, d))
  got = rope.rotate(jnp.asarray(x), rope.grid(t, h, w, d))
  z = x.astype(np.float64).reshape(1, t, h, w, 2, d // 2, 2)
  z = z[..., 0] + 1j * z[..., 1]
  at = np.meshgrid(np.arange(t), np.arange(h), np.arange(w), indexing="ij")
  phase = [
    p[..., None] * 10000.0 ** (-np.arange(0, n, 2) / n)
    for p, n in zip(at, (44, 42, 42))
  ]
  z = z * np.exp(1j * np.concatenate(phase, -1))[None, :, :, :, None]
  expected = np.stack([z.real, z.imag], -1).reshape(x.shape)
  np.testing.assert_allclose(got, expected, atol=1e-5)


def test_the_rotation_is_float32_whatever_comes_out():
  """In bfloat16 it is the float32 one, rounded once."""
  x = 100 * normal(2, 3, 4, 2, 128)
  table = rope.grid(3, 2, 2, 128)
  exact = rope.rotate(x, table)
  np.testing.assert_array_equal(
    rope.rotate(x, table, jnp.bfloat16), exact.astype(jnp.bfloat16)
  )
  lengths = lambda x: jnp.linalg.norm(x, axis=-1)
  np.testing.assert_allclose(lengths(exact), lengths(x), rtol=1e-6)


def test_only_relative_positions_matter_on_a_line():
  q, k = normal(1, 1, 2, D), normal(1, 1, 2, D, seed=1)

  def logit(i, j):
    a, b = (rope.rotate(x, rope.line(np.array([p]), D)) for x, p in ((q, i), (k, j)))
    return np.asarray((a * b).sum(-1))

  np.testing.assert_allclose(logit(9, 4), logit(105, 100), rtol=1e-4, atol=1e-5)
  assert np.abs(logit(9, 4) - logit(9, 5)).max() > 1e-2


def test_whole_frame_shifts_of_both_streams_leave_cross_logits():
  """Video frame i against audio token j, both moved by three latent frames."""
  t, h, w, per_frame = 8, 2, 3, 5
  video = rope.grid(t, h, w, D)
  audio = rope.temporal(tarp.audio_time(t, t * per_frame, "uniform"), D)
  q, k = normal(1, 1, h * w, 2, D), normal(1, 1, 2, D, seed=1)

  def logits(frame, token):
    a = rope.rotate(q, video[:, frame : frame + 1])
    b = rope.rotate(k, audio[:, token : token + 1])
    return np.einsum("btsnd,bknd->bsnk", a, b)

  still = logits(2, 11)
  np.testing.assert_allclose(still, logits(5, 11 + 3 * per_frame), rtol=1e-4, atol=1e-5)
  assert np.abs(still - logits(5, 11)).max() > 1e-2


def test_a_rate_is_the_time_of_a_frame():
  """Frame i at time 5 i; rows and columns stay."""
  slow, fast = rope.grid(11, 2, 3, D), rope.grid(3, 2, 3, D, rate=5.0)
  np.testing.assert_allclose(fast, slow[:, ::5], atol=1e-6)


def test_temporal_slot_is_the_videos_own():
  """An audio token at a whole frame's time is rotated as that frame's first token."""
  video = rope.grid(4, 2, 2, D)
  audio = rope.temporal(np.arange(4.0), D)
  time = rope.slots(D)[0]
  np.testing.assert_array_equal(audio[..., :time], video[:, :, 0, :time])
  np.testing.assert_array_equal(audio[0, :, time:], 1.0)
  np.testing.assert_array_equal(audio[1, :, time:], 0.0)


def test_time_only_rotation_has_no_place():
  table = rope.grid(3, 2, 2, D, spatial=False)
  np.testing.assert_array_equal(table, jnp.broadcast_to(table[:, :, :1], table.shape))
