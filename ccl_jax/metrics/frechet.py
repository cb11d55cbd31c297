"""Frechet distance of two sets of features, each taken as a Gaussian (FAD, FVD, FD).

  d = |m1 - m2|^2 + tr C1 + tr C2 - 2 tr (C1 C2)^(1/2)

The last trace is the sum of the roots of the eigenvalues of C1^(1/2) C2 C1^(1/2), which
is symmetric: no root of a matrix that is not, and few clips (a singular C) are no
special case. Covariances divide by n - 1. float64; the units are the features' squared.
Some publish FAD times 10^4: this one is not.

Moments are updated chunk by chunk (Chan et al., 1979), so that a set of features needs
not be in memory.
"""

import dataclasses
import os
import warnings
import zipfile
from collections.abc import Iterable

import numpy as np
from jaxtyping import Float

from ccl_jax.errors import UsageError
from ccl_jax.files import new_file
from ccl_jax.metrics.base import Unscorable
from ccl_jax.remote.copies import local

MOST = 2**33  # bytes of arrays in a file
# What NumPy raises of files that hold none.
_NO_ARRAYS = OSError, ValueError, TypeError, EOFError, MemoryError, zipfile.BadZipFile


@dataclasses.dataclass(frozen=True)
class Moments:
  """Mean and scatter of a set of features, to be added to.

  Attributes:
    n: features.
    mean: of them.
    scatter: sum of the outer products of their deviations from the mean.
  """

  n: int
  mean: Float[np.ndarray, " d"]
  scatter: Float[np.ndarray, "d d"]

  @classmethod
  def none(cls, width: int) -> "Moments":
    """The moments of no features, of this width."""
    return cls(0, np.zeros(width), np.zeros((width, width)))

  @classmethod
  def of(cls, chunks: Iterable[Float[np.ndarray, "_ d"]]) -> "Moments":
    """The moments of features that come in chunks.

    Raises:
      Unscorable: there are none.
    """
    total = None
    for chunk in chunks:
      total = (cls.none(chunk.shape[1]) if total is None else total).add(chunk)
    if total is None:
      raise Unscorable("there are no features")
    return total

  def add(self, features: Float[np.ndarray, "m d"]) -> "Moments":
    """The moments with further features added.

    Raises:
      Unscorable: they are not all finite.
    """
    if not np.isfinite(features).all():
      raise Unscorable("some features are not finite")
    if not len(features):  # of which there is no mean
      return self
    features = features.astype(np.float64)
    mean = features.mean(0)
    away = features - mean
    return self.merge(Moments(len(features), mean, away.T @ away))

  def merge(self, other: "Moments") -> "Moments":
    """The moments of both sets together.

    Chan et al. (1979): the scatters add up, and so does n m / (n + m) of the outer
    product of the means' difference.
    """
    if not other.n:
      return self
    n, apart = self.n + other.n, other.mean - self.mean
    # n m / (n + m) (m1 - m2)(m1 - m2)^T
    between = np.outer(apart, apart) * (self.n * other.n / n)
    return Moments(
      n, self.mean + apart * (other.n / n), self.scatter + other.scatter + between
    )

  @property
  def covariance(self) -> Float[np.ndarray, "d d"]:
    """The covariance of the features, divided by n - 1.

    Raises:
      Unscorable: there are fewer than two.
    """
    if self.n < 2:
      raise Unscorable(f"a set of {self.n} features has no spread: two are the least")
    return self.scatter / (self.n - 1)


def frechet(a: Moments, b: Moments) -> float:
  """The distance of two sets. Warns where one is too small to be trusted.

  Raises:
    Unscorable: a set has fewer than two features, or their widths differ.
  """
  if len(a.mean) != len(b.mean):
    raise Unscorable(f"features of width {len(a.mean)} against {len(b.mean)}")
  c1, c2 = a.covariance, b.covariance
  for x in (a, b):
    if x.n < 2 * len(x.mean):
      warnings.warn(  # which stands beside the score: see `summary.distance`
        f"{x.n} features of width {len(x.mean)}: with fewer than two per dimension the "
        "Frechet distance is too large; compare only sets of equal sizes",
        stacklevel=2,
      )
  values, vectors = np.linalg.eigh(c1)
  # C1^(1/2), of a symmetric matrix; rounding may leave eigenvalues below 0.
  root = (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T
  product = root @ c2 @ root
  cross = np.sqrt(np.maximum(np.linalg.eigvalsh((product + product.T) / 2), 0)).sum()
  # tr C1 + tr C2 - 2 tr (C1 C2)^(1/2)
  spread = np.trace(c1) + np.trace(c2) - 2 * cross
  # Rounding may leave equal sets a little below zero.
  return max(float(np.sum((a.mean - b.mean) ** 2) + spread), 0.0)


def write_features(path: str | os.PathLike, features: Float[np.ndarray, "n d"]) -> None:
  """Writes features into an .npz, as its one array `features`."""
  # A file that is there may be another run's reference: it is replaced whole.
  with new_file(path) as part, part.open("wb") as f:
    np.savez(f, features=features)


def read_features(path: str | os.PathLike) -> np.ndarray:
  """The array of an .npy that a run has kept.

  Raises:
    UsageError: it is damaged.
  """
  try:
    return np.load(path, allow_pickle=False)
  except _NO_ARRAYS as e:
    raise UsageError(f"{path} is damaged: remove it, and run it again") from e


def read_moments(path: str | os.PathLike) -> Moments:
  """Moments of an .npz: of its array (n, d), or of its mu and sigma.

  Where those come without an n, the set is taken to be as large as it should be.

  Raises:
    UsageError: it is no such file.
  """
  wanted = "expected one array (n, d), or mu (d,) and sigma (d, d)"
  try:
    with local(path) as file, np.load(file, allow_pickle=False) as held:
      size = sum(entry.file_size for entry in held.zip.infolist())
      if size > MOST:  # of a file that is small: zeros take no room in a zip
        raise UsageError(f"{path} holds {size} bytes; expected at most {MOST}")
      arrays = {name: held[name] for name in held.files}
  except _NO_ARRAYS as e:
    raise UsageError(f"{path} is no .npz of features; {wanted}") from e
  shapes = ", ".join(f"{name} {x.shape}" for name, x in arrays.items())
  if {"mu", "sigma"} <= arrays.keys():
    mean, sigma = arrays["mu"], arrays["sigma"]
    n = arrays.get("n", np.array(2 * len(mean) if mean.ndim else 0))
    whole = n.size == 1 and np.issubdtype(n.dtype, np.integer) and n.item() > 0
    shaped = mean.ndim == 1 and sigma.shape == 2 * mean.shape
    if shaped and whole and _are_numbers(mean) and _are_numbers(sigma):
      mean, sigma = mean.astype(np.float64), sigma.astype(np.float64)
      return Moments(n.item(), mean, sigma * max(n.item() - 1, 1))
  elif len(arrays) == 1:
    (features,) = arrays.values()
    if features.ndim == 2 and len(features) and _are_numbers(features):
      return Moments.of([features])
  raise UsageError(f"{path} holds {shapes}; {wanted}")


def _are_numbers(x: np.ndarray) -> bool:
  return np.issubdtype(x.dtype, np.floating) and bool(np.isfinite(x).all())
