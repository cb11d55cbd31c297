"""Batches of latents: several sets in given proportions, one bucket a batch.

Everything is a function of the seed, the batch's number g and, of a run whose batch
sizes have changed, where it goes on, so that it does so on any number of processes and
threads:

  (k, j)  = pick(g; w_k)             batch g is the j-th of bucket k
  (s, m)  = pick(o_k + j B_k + r; w_sk)    its row r is the m-th clip of set s there
  record  = epoch after epoch of set s's clips of bucket k, each a new permutation

where set s is to give the share W_s of all clips, n_sk of its n_s clips are of bucket
k, B_k is the bucket's batch size and o_k is 0, or what `go_on` sets:

  w_sk = W_s n_sk / n_s,    w_k = sum_s w_sk / B_k.

`pick` is exact: weights of 7 and 3 give 700 and 300 of every 1000.
"""

import fractions
import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from ccl_jax.data.sets.buckets import Bucket
from ccl_jax.data.sets.record_set import RecordSet
from ccl_jax.data.sets.shuffle import key_of, shuffled_index
from ccl_jax.data.spec import ClipSpec
from ccl_jax.errors import UsageError
from ccl_jax.remote.paths import place


class Row(NamedTuple):
  """The place of a row of a batch: which set, which record of its bucket."""

  set: int
  record: int


def whole_weights(weights: Sequence[fractions.Fraction]) -> list[int]:
  """Whole numbers in the same proportions as fractions."""
  scale = math.lcm(*(w.denominator for w in weights))
  return [int(w * scale) for w in weights]


def counts(n: int, weights: Sequence[int]) -> list[int]:
  """How many of the first n elements of `pick`'s interleaving are of each sequence."""
  out = [0] * len(weights)
  for i in range(len(weights) - 1, 0, -1):
    out[i] = n * weights[i] // sum(weights[: i + 1])
    n -= out[i]
  out[0] = n
  return out


def pick(n: int, weights: Sequence[int]) -> tuple[int, int]:
  """Element n of the even interleaving of endless sequences: (which one, its number).

  Of the first n elements, sequence i has given n w_i / sum(w), up to rounding: the last
  one takes its share of them, the one before it its share of the others, and so on.
  """
  for i in range(len(weights) - 1, 0, -1):
    total = sum(weights[: i + 1])
    # The last sequence has had floor(n w_i / sum) elements before element n.
    before = n * weights[i] // total
    if (n + 1) * weights[i] // total > before:
      return i, before
    n -= before
  return 0, n


class Mixture:
  """A function from a batch's number to the records it is made of.

  Args:
    sets: the record sets.
    weights: shares of the clips, by set.
    batch_sizes: rows of a batch over all processes, by bucket.
    seed: of the order.

  Attributes:
    sets: the record sets.
    buckets: those that give batches, in order.
    batch_sizes: rows of a batch over all processes, by bucket.
    digest: of all that the order depends on, but for the batch sizes.
    sizes: rows of a batch, by the names of the buckets.

  Raises:
    UsageError: a set has no clip of the buckets.
  """

  def __init__(
    self,
    sets: Sequence[RecordSet],
    weights: Sequence[float | int],
    batch_sizes: Mapping[Bucket, int],
    seed: int,
  ):
    self.sets, self.batch_sizes = list(sets), dict(batch_sizes)
    self.buckets = sorted(batch_sizes)
    # As decimal numbers: 0.7 and 0.3 are 7 and 3.
    weights = [fractions.Fraction(str(w)) for w in weights]
    shares, keys = [], []
    counts = {b: [len(s.buckets.get(b, ())) for s in sets] for b in self.buckets}
    clips = [sum(column) for column in zip(*counts.values())]
    for s, n in zip(sets, clips):
      if not n:
        raise UsageError(f"{s.root} has no clip of {', '.join(b.name for b in counts)}")
    for k, of_sets in enumerate(counts.values()):
      # w_sk = W_s n_sk / n_s
      shares.append([w * n / total for w, n, total in zip(weights, of_sets, clips)])
      keys.append([key_of(seed, i, k) for i in range(len(of_sets))])
    self._clips = sum(clips)
    self._keys, self._counts = keys, list(counts.values())
    self._set_weights = [whole_weights(share) for share in shares]
    sizes = [self.batch_sizes[b] for b in self.buckets]
    # w_k = sum_s w_sk / B_k: batches, not clips, are picked by it.
    self._weights = whole_weights([sum(w) / b for w, b in zip(shares, sizes)])
    self.sizes = {bucket.name: n for bucket, n in zip(self.buckets, sizes)}
    self._sizes, self._offsets = sizes, [0] * len(sizes)
    order = [seed, [b.name for b in self.buckets], self._set_weights]
    order += [s.index["sha256"] for s in sets]
    self.digest = hashlib.sha256(json.dumps(order).encode()).hexdigest()[:16]

  def __len__(self) -> int:
    return self._clips

  def taken(self, batch: int) -> dict[str, int]:
    """How many clips of each bucket the batches before batch `batch` have, by name."""
    batches = counts(batch, self._weights)
    ends = [o + n * b for o, n, b in zip(self._offsets, batches, self._sizes)]
    return {bucket.name: end for bucket, end in zip(self.buckets, ends)}

  def go_on(self, taken: Mapping[str, int], batch: int | None = None) -> int:
    """Goes on after so many clips of each bucket, which batches of other sizes may have
    taken: no clip of an epoch is left out, and none comes twice.

    Args:
      taken: as `taken` gives it; 0 of a bucket that it does not name.
      batch: the number of the next batch; None: as many as would have taken so many.

    Returns:
      The number of the next batch.
    """
    ends = [taken.get(bucket.name, 0) for bucket in self.buckets]
    if batch is None:
      # w_k B_k are the shares of the clips.
      shares = sum(w * b for w, b in zip(self._weights, self._sizes))
      batch = sum(ends) * sum(self._weights) // shares
    batches = counts(batch, self._weights)
    self._offsets = [e - n * b for e, n, b in zip(ends, batches, self._sizes)]
    return batch

  def rows(self, batch: int) -> tuple[Bucket, list[Row]]:
    """The bucket of a batch, and the places of all of its rows."""
    k, number = pick(batch, self._weights)
    bucket = self.buckets[k]
    size = self.batch_sizes[bucket]
    rows = []
    first = self._offsets[k] + number * size
    for n in range(first, first + size):
      i, at = pick(n, self._set_weights[k])
      rows.append(Row(i, shuffled_index(at, self._counts[k][i], self._keys[k][i])))
    return bucket, rows

  def text_rows(self, bucket: Bucket) -> int:
    """Rows into which every text of a bucket fits, a multiple of 8."""
    longest = max(s.text_rows(bucket) for s in self.sets if bucket in s.buckets)
    return max(-(-longest // 8), 1) * 8

  def has_video_std(self, bucket: Bucket) -> bool:
    """Whether a set that has the bucket stores deviations of its video latents."""
    return any(
      "video_std" in s.index["latents"] for s in self.sets if bucket in s.buckets
    )

  def common_clip(self) -> ClipSpec | None:
    """The clip shape of most records with moving pictures; those with sound go first.

    None if no record has moving pictures.
    """
    counts = {
      b: (bool(b.tokens), sum(len(s.buckets.get(b, ())) for s in self.sets))
      for b in self.buckets
      if b.fps
    }
    return max(counts, key=counts.get).spec() if counts else None

  def check_encoders(self, hashes: Mapping[str, str]) -> None:
    """Checks that a run's codecs are those that the sets were encoded with.

    Args:
      hashes: fingerprints of the run's codecs, by name; of those that it has.

    Raises:
      UsageError: one is another.
    """
    for s in self.sets:
      for name, digest in s.encoders.items():
        if hashes.get(name, digest) != digest:
          raise UsageError(
            f"{s.root} is encoded with another {name} codec ({digest[:8]}) than the "
            f"run has ({hashes[name][:8]}): leave config.codec.path empty; name a new "
            "workdir if it began with others"
          )


def open_mixture(
  root: str,
  *,
  seed: int,
  batch_size: int,
  batch_sizes: Sequence[tuple[str, int]] = (),
  buckets: Sequence[str] = (),
) -> Mixture:
  """Opens the mixture "DIR" or "DIR_A:0.7+DIR_B:0.3".

  Args:
    root: folders of sets, and their weights.
    seed: of the order.
    batch_size: rows of a batch, over all processes.
    batch_sizes: (bucket, rows) where a bucket has another size.
    buckets: names of those to train on; all of them where none is named.

  Raises:
    UsageError: a set is not there, is named twice, or was made by other codecs than
      the first; or a name is no bucket's.
  """
  paths, weights = zip(*map(_parse, [root] if _is_dir(root) else root.split("+")))
  whole = [str(place(path).resolve()) for path in paths]
  if twice := [path for path, one in zip(paths, whole) if whole.count(one) > 1]:
    raise UsageError(
      f"{twice[0]} is named twice in {root}: give it once, with a weight"
    )
  sets = [RecordSet(path) for path in paths]
  _check_encoders(sets)
  known = {b.name: b for s in sets for b in s.buckets}
  for name in [*buckets, *(name for name, _ in batch_sizes)]:
    if name not in known:
      raise UsageError(f"no bucket {name!r} in {root}: expected {', '.join(known)}")
  sizes = {known[name]: batch_size for name in (buckets or known)}
  sizes |= {known[name]: size for name, size in batch_sizes if known[name] in sizes}
  for bucket, size in sizes.items():
    if size < 1:
      raise UsageError(f"the batch size of {bucket.name} is {size}: expected 1 or more")
  return Mixture(sets, weights, sizes, seed)


def _parse(text: str) -> tuple[str, float]:
  path, colon, weight = text.strip().rpartition(":")
  try:
    path, weight = (path, float(weight)) if colon else (text.strip(), 1.0)
  except ValueError:
    path, weight = text.strip(), 1.0
  if not 0 < weight < math.inf:
    raise UsageError(f"the weight of {path} is {weight:g}: expected more than 0")
  return path, weight


def _is_dir(root: str) -> bool:
  return place(root).is_dir()


def _check_encoders(sets: Sequence[RecordSet]) -> None:
  seen = {}
  for s in sets:
    for name, digest in s.encoders.items():
      root, first = seen.setdefault(name, (s.root, digest))
      if digest != first:
        raise UsageError(
          f"{s.root} is encoded with another {name} codec ({digest[:8]}) than {root} "
          f"({first[:8]}): encode one of them again with the other's codecs"
        )
