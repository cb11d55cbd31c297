"""Summaries of records, which need not be read again: counts, lengths, moments.

A shard's summary is a dict of sums, so that those of many shards add up to that of the
set. Moments are of the stored numbers, by channel:

  mean = S1 / n,   std^2 = S2 / n - mean^2.
"""

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Annotated, Any

import numpy as np
import pydantic
from typing_extensions import TypedDict

from ccl_jax.axes import STREAMS
from ccl_jax.documents import DOCUMENT, Count, Number, Sha256, check, read_json
from ccl_jax.errors import UsageError
from ccl_jax.remote.paths import Place

LATENTS = (*STREAMS, "video_std")  # the arrays that moments are taken of


# How often each whole number is there, the numbers as text.
Histogram = dict[Annotated[str, pydantic.Field(pattern=r"^[0-9]{1,9}$")], Count]
Sums = Annotated[list[Count | list[Number]], pydantic.Field(min_length=3, max_length=3)]


class ShardFile(TypedDict):
  """The content of a shard's JSON file."""

  file: str
  bucket: str
  skipped: list[list[str]]
  records: Count
  bytes: Count
  seconds: Number
  sha256: Sha256
  moments: dict[str, Sums]
  text_rows: Histogram
  caption_words: Histogram


def read_summary(path: Place) -> dict[str, Any]:
  """The summary of a shard that is done.

  Raises:
    UsageError: the file is damaged.
  """
  advice = "copy or encode the set again"
  try:
    found = check(read_json(path, DOCUMENT), ShardFile, path, advice)
    for n, first, second in found["moments"].values():
      if not (isinstance(n, int) and n > 0 and len(first) == len(second) > 0):
        raise TypeError("moments that are no sums")
  except (UsageError, TypeError) as e:
    raise UsageError(f"{path} is damaged ({e}): {advice}") from e
  return found


class Summary:
  """Running sums over the records of one shard."""

  def __init__(self):
    self._hash = hashlib.sha256()
    self._counts = Counter()
    self._moments: dict[str, list] = {}
    self._histograms = {"text_rows": Counter(), "caption_words": Counter()}

  def add(
    self, record: Mapping[str, np.ndarray], about: Mapping[str, Any], data: bytes
  ) -> None:
    """Adds one record.

    Args:
      record: its arrays.
      about: its seconds and text.
      data: its bytes.
    """
    self._hash.update(data)
    self._counts.update(records=1, bytes=len(data), seconds=about["seconds"])
    self._histograms["text_rows"][len(record["text"])] += 1
    self._histograms["caption_words"][len(about["text"].split())] += 1
    for s in LATENTS:
      if s in record:
        rows = np.asarray(record[s], np.float64).reshape(-1, record[s].shape[-1])
        sums = [len(rows), rows.sum(0), (rows**2).sum(0)]
        old = self._moments.get(s, [0, 0.0, 0.0])
        self._moments[s] = [a + b for a, b in zip(old, sums)]

  def to_json(self) -> dict[str, Any]:
    """The sums as JSON, for `total` to add up."""
    moments = {
      s: [n, first.tolist(), second.tolist()]
      for s, (n, first, second) in self._moments.items()
    }
    return {
      **{k: self._counts[k] for k in ("records", "bytes", "seconds")},
      "sha256": self._hash.hexdigest(),
      "moments": moments,
      **{k: _with_strings(v) for k, v in self._histograms.items()},
    }


def total(summaries: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
  """The summaries of several shards, in their order, as one.

  `latents` has mean and std by stream and channel in place of the sums, and so has
  `video_std` if it is stored.
  """
  summaries = list(summaries)
  digest = hashlib.sha256("".join(s["sha256"] for s in summaries).encode())
  out = {k: sum(s[k] for s in summaries) for k in ("records", "bytes", "seconds")}
  out |= {"sha256": digest.hexdigest(), "latents": {}}
  for k in ("text_rows", "caption_words"):
    counts = sum((Counter(s[k]) for s in summaries), Counter())
    out[k] = _with_strings({int(n): c for n, c in counts.items()})
  for name in LATENTS:
    sums = [s["moments"][name] for s in summaries if name in s["moments"]]
    if sums:
      n = sum(x[0] for x in sums)
      # mean = S1 / n, std^2 = S2 / n - mean^2.
      first, second = (np.sum([x[i] for x in sums], 0) / n for i in (1, 2))
      std = np.sqrt(np.maximum(second - first**2, 0))
      out["latents"][name] = {"mean": first.tolist(), "std": std.tolist()}
  return out


def _with_strings(histogram: Mapping[int, int]) -> dict[str, int]:
  """Keys as JSON has them, in order."""
  return {str(k): histogram[k] for k in sorted(histogram)}
