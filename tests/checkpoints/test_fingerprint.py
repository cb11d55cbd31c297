"""Fingerprints notice one bit and one swap, and do not depend on the sharding."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from ccl_jax.checkpoints.fingerprint import fingerprint, fingerprints, host_fingerprint

DTYPES = ["float32", "bfloat16", "int32", "uint32", "uint8", "bool"]


def _values(dtype, shape=(24, 40), seed=0):
  x = np.random.default_rng(seed).standard_normal(shape) * 50
  return np.asarray(jnp.asarray(x > 0 if dtype == "bool" else abs(x)).astype(dtype))


def _print(x):
  return int(fingerprint(jnp.asarray(x)))


def by_hand(words, start=0):
  """The formula in whole numbers, one element after the other."""

  def mix(x):
    x = (x ^ (x >> 16)) * 0x85EBCA6B % 2**32
    x = (x ^ (x >> 13)) * 0xC2B2AE35 % 2**32
    return x ^ (x >> 16)

  each = [mix(w ^ mix((start + i + 1) % 2**32)) for i, w in enumerate(words)]
  return sum(each) % 2**32


def test_the_formula():
  """Bits of known numbers, row by row. The hash of nothing by MurmurHash3 is published:
  0x514E28B7 of the seed 1, 0x81F16F39 of 2^32 - 1.
  """
  one, last = 0x514E28B7, 0x81F16F39
  for word, expected in ((one, 0), (one ^ 1, one), (one ^ 0xFFFFFFFF, last)):
    assert _print(np.array([word], np.uint32)) == by_hand([word]) == expected
  words = [0x3F800000, 0xC0000000, 0, 0x80000000, 0x7F800000, 0x3DCCCCCD]
  x = np.array([[1.0, -2.0, 0.0], [-0.0, np.inf, 0.1]], np.float32)
  assert _print(x) == host_fingerprint(x) == by_hand(words)
  far = 2**32 - 3
  assert int(fingerprint(jnp.asarray(x), np.uint32(far))) == by_hand(words, far)
  half = np.asarray(jnp.array([1.0, -2.0], jnp.bfloat16))
  assert _print(half) == host_fingerprint(half) == by_hand([0x3F80, 0xC000])
  small = np.array([[3, 255]], np.uint8)
  assert _print(small) == host_fingerprint(small) == by_hand([3, 255])
  assert _print(np.array([True, False])) == by_hand([1, 0])
  assert _print(np.array(7, np.int32)) == by_hand([7])
  with jax.enable_x64():
    wide = jnp.array(
      [1.0, -2.0], jnp.float64
    )  # two words an element, the low one first
    assert int(fingerprint(wide)) == by_hand([0, 0x3FF00000, 0, 0xC0000000])


@pytest.mark.parametrize("dtype", DTYPES)
def test_one_bit(dtype):
  x = _values(dtype)
  width = 1 if dtype == "bool" else 8 * x.dtype.itemsize
  seen = {_print(x)}
  for bit in range(width):
    y = x.copy()
    y.view(f"uint{8 * x.dtype.itemsize}")[7, 11] ^= 1 << bit
    seen.add(_print(y))
  assert len(seen) == width + 1


@pytest.mark.parametrize("dtype", DTYPES)
def test_in_the_memory_of_the_host_it_is_the_same(dtype):
  x = _values(dtype)
  assert host_fingerprint(x) == host_fingerprint(x, run=7) == _print(x)
  assert host_fingerprint(x.T) == _print(x.T)
  assert host_fingerprint(x[3:4, 5]) == _print(x[3, 5])
  far = 2**32 - 100  # the index begins again on the way
  expected = int(fingerprint(jnp.asarray(x), np.uint32(far)))
  assert host_fingerprint(x, far) == expected


@pytest.mark.parametrize("dtype", DTYPES)
def test_swap(dtype):
  x = _values(dtype)
  i, j = (3, 5), tuple(np.argwhere(x != x[3, 5])[-1])
  y = x.copy()
  y[i], y[j] = x[j], x[i]
  assert _print(x) != _print(y)


def test_swaps_that_a_weighted_sum_would_miss():
  # The bits of x and -x differ by 2^31, those of 1 and 2 by 2^23: a sum of bits times
  # odd position weights is blind to these swaps at even or far positions.
  x = np.zeros(4096, np.float32)
  x[0], x[2], x[1], x[1025] = 3.0, -3.0, 1.0, 2.0
  for i, j in ((0, 2), (1, 1025)):
    y = x.copy()
    y[[i, j]] = x[[j, i]]
    assert _print(x) != _print(y)


def test_transposed_and_zero_arrays_differ():
  x = _values("float32", (32, 32))
  assert _print(x) != _print(x.T)
  assert _print(np.zeros((8, 4), np.float32)) != _print(np.zeros((8, 5), np.float32))
  assert _print(np.float32(0.0)) != _print(np.float32(-0.0))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "uint8"])
def test_every_sharding_has_the_same_fingerprint(dtype):
  x = _values(dtype, (16, 24, 3))
  auto = (jax.sharding.AxisType.Auto,) * 2
  mesh = jax.make_mesh((2, 4), ("data", "fsdp"), axis_types=auto)
  expected = _print(x)
  for spec in (
    (),
    ("fsdp",),
    (None, ("data", "fsdp")),
    ("data", "fsdp"),
    (None, "data"),
  ):
    sharded = jax.device_put(x, NamedSharding(mesh, PartitionSpec(*spec)))
    assert int(fingerprint(sharded)) == expected, spec


def test_paths():
  tree = {"params": {"a": {"kernel": jnp.ones(3)}}, "opt": (jnp.zeros(2), None)}
  assert list(fingerprints(tree)) == ["opt/0", "params/a/kernel"]
