"""Permutations that are computed element by element, the same on every machine.

A Feistel network is a bijection of pairs of b-bit numbers, whatever F is:

  (l, r) -> (r, l xor F_i(r)),    F_i(r) = low bits of mix(key xor (2^32 i + r))

Applied until it falls below `count`, it is a permutation of 0 .. count - 1: no list of
millions in memory, no order that changes with a library's version.
"""

_ROUNDS = 8
_WORD = 2**64 - 1


def mix(x: int) -> int:
  """A bijection of 64-bit words that looks random (SplitMix64's output function)."""
  x = (x + 0x9E3779B97F4A7C15) & _WORD
  x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & _WORD
  x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & _WORD
  return x ^ (x >> 31)


def key_of(*numbers: int) -> int:
  """A 64-bit key that depends on every number of a tuple."""
  key = 0
  for n in numbers:
    key = mix(key ^ mix(n & _WORD))
  return key


def shuffled_index(n: int, count: int, key: int) -> int:
  """Element n of epoch after epoch of 0 .. count - 1, each in another order.

  Args:
    n: from 0 on, over all epochs.
    count: of an epoch.
    key: of the order.
  """
  epoch, x = divmod(n, count)
  key = key_of(key, epoch)
  # Half the bits of the least even-sized word that holds count - 1.
  bits = max(1, ((count - 1).bit_length() + 1) // 2)
  low = (1 << bits) - 1
  while True:
    left, right = x >> bits, x & low
    for i in range(_ROUNDS):
      # (l, r) -> (r, l xor F_i(r))
      left, right = right, left ^ (mix(key ^ (i << 32 | right)) & low)
    x = left << bits | right
    # Cycle walking: outside of the range, permute again. It ends, for x began inside.
    if x < count:
      return x
