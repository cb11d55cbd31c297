"""Fingerprints of arrays: 32 bits that change when any value changes or moves.

  fingerprint(x) = sum_i mix(bits(x_i) xor mix(i + 1))   mod 2^32

i is the element's row-major index in the *global* array and mix is the 32-bit finaliser
of MurmurHash3, a bijection. So one changed element always changes the sum; two swapped
elements, or any larger damage, are missed with probability 2^-32. A sum of integers
does not depend on the order of addition, so every sharding of an array has the same
fingerprint, computed where the shards lie and all-reduced, and the fingerprints of its
slices, each from the index where it starts, add up to the array's.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, PyTree, Shaped, UInt32

Bits = UInt32[Array, "..."] | UInt32[np.ndarray, "..."]


def _mix(x: Bits) -> Bits:
  x = (x ^ (x >> np.uint32(16))) * np.uint32(0x85EBCA6B)
  x = (x ^ (x >> np.uint32(13))) * np.uint32(0xC2B2AE35)
  return x ^ (x >> np.uint32(16))


@jax.jit
def fingerprint(
  x: Shaped[Array, "..."], start: UInt32[Array, ""] | int = 0
) -> UInt32[Array, ""]:
  """The fingerprint of one array of any real dtype, on device, sharded or not.

  Args:
    x: an array, or elements of one that follow each other.
    start: the index of the first of them, mod 2^32.
  """
  if x.dtype == jnp.bool_:
    x = x.astype(jnp.uint8)
  # 8-byte dtypes become pairs of uint32 along a new last axis.
  width = min(x.dtype.itemsize, 4)
  # Bits, not values: -0.0 and 0.0, and all NaNs, are told apart.
  bits = lax.bitcast_convert_type(x, jnp.dtype(f"uint{8 * width}")).astype(jnp.uint32)
  index = jnp.zeros(bits.shape, jnp.uint32)
  for axis, size in enumerate(bits.shape):
    # Row-major, mod 2^32: what wraps around wraps around on the host too.
    index = index * jnp.uint32(size) + lax.broadcasted_iota(
      jnp.uint32, bits.shape, axis
    )
  index = index + start + 1
  # sum_i mix(bits(x_i) xor mix(i + 1)): the place takes part, so swaps show.
  return jnp.sum(_mix(bits ^ _mix(index)), dtype=jnp.uint32)


def host_fingerprint(
  x: Shaped[np.ndarray, "..."], start: int = 0, run: int = 2**16
) -> int:
  """`fingerprint` of an array in the host's memory, with elements of 4 bytes at most.

  It compiles no program for every size, of which a checkpoint has many.

  Args:
    x: an array, or elements of one that follow each other.
    start: the index of the first of them.
    run: elements at a time, such that they fit a cache.
  """
  assert x.dtype.itemsize <= 4, x.dtype
  bits = np.ascontiguousarray(x).reshape(-1).view(f"u{x.dtype.itemsize}")
  total = 0
  for i in range(0, bits.size, run):
    part = bits[i : i + run].astype(np.uint32)
    first = (start + i + 1) % 2**32
    index = np.arange(first, first + part.size, dtype=np.uint64).astype(np.uint32)
    total += int(_mix(part ^ _mix(index)).sum(dtype=np.uint64))
  return total % 2**32


def leaf_paths(tree: PyTree) -> dict[str, object]:
  """The leaves of a tree by their '/'-joined paths, in the tree's order."""
  return {
    jax.tree_util.keystr(path, simple=True, separator="/"): leaf
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
  }


def fingerprints(tree: PyTree) -> dict[str, int]:
  """The fingerprints of all leaves of a tree, by path."""
  # One at a time: on virtual CPU devices many collectives in flight can deadlock.
  jax.block_until_ready(tree)
  return {path: int(fingerprint(leaf)) for path, leaf in leaf_paths(tree).items()}
