"""Frechet distance: closed forms, scipy's matrix root, chunks, files."""

import io
import warnings
import zipfile

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ccl_jax.errors import UsageError
from ccl_jax.metrics import frechet as module
from ccl_jax.metrics.base import Unscorable
from ccl_jax.metrics.frechet import (
  Moments,
  frechet,
  read_features,
  read_moments,
  write_features,
)


def gaussian(mean, covariance, n=1000):
  mean, covariance = np.asarray(mean, float), np.asarray(covariance, float)
  return Moments(n, mean, covariance * (n - 1))


def drawn(n, d, seed=0):
  rng = np.random.default_rng(seed)
  return rng.standard_normal((n, d)) @ rng.standard_normal((d, d)) + rng.uniform(
    0, 3, d
  )


def test_a_set_is_at_no_distance_from_itself():
  x = Moments.of([drawn(100, 8)])
  assert frechet(x, x) < 1e-10 * np.trace(x.covariance)


def test_diagonal_covariances():
  """With sum (m1 - m2)^2 + (sqrt a - sqrt b)^2, one of the variances zero."""
  rng = np.random.default_rng(1)
  m1, m2, a, b = rng.uniform(0, 2, (4, 6))
  a[2] = 0
  expected = np.sum((m1 - m2) ** 2 + (np.sqrt(a) - np.sqrt(b)) ** 2)
  got = frechet(gaussian(m1, np.diag(a)), gaussian(m2, np.diag(b)))
  assert got == pytest.approx(expected, rel=1e-12)


def test_four_times_the_covariance():
  c = np.cov(drawn(50, 7).T)
  got = frechet(gaussian(np.zeros(7), c), gaussian(np.zeros(7), 4 * c))
  # Small eigenvalues lose digits: their roots are taken after a product.
  assert got == pytest.approx(np.trace(c), rel=1e-10)


@pytest.mark.parametrize("n", [300, 9])
def test_the_root_of_a_matrix_agrees_and_order_does_not_matter(n):
  """9 features of width 16 have singular covariances."""
  linalg = pytest.importorskip("scipy.linalg")
  x, y = drawn(n, 16), drawn(n + 5, 16, 2)
  c1, c2 = np.cov(x.T), np.cov(y.T)
  with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    a, b = Moments.of([x]), Moments.of([y])
    got, back = frechet(a, b), frechet(b, a)
    root = linalg.sqrtm(c1 @ c2).real
  apart = x.mean(0) - y.mean(0)
  expected = apart @ apart + np.trace(c1 + c2 - 2 * root)
  assert got == pytest.approx(expected, rel=1e-6) and got == pytest.approx(back, 1e-6)


def test_samples_of_two_gaussians_come_near_their_distance():
  rng = np.random.default_rng(3)
  x, y = rng.standard_normal((2, 20000, 3)) * np.array([1, 2, 0.5])
  a, b = Moments.of([x]), Moments.of([3 * y + 1])
  assert frechet(a, b) == pytest.approx(3 + 4 * (1 + 4 + 0.25), rel=0.05)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(0, 9), min_size=1, max_size=6), st.integers(0, 99))
def test_chunks_give_the_moments_of_the_whole(sizes, seed):
  x = np.random.default_rng(seed).standard_normal((sum(sizes) + 2, 3)) + 1e4
  cuts = np.cumsum(sizes)
  whole = Moments.of(np.split(x, cuts))
  assert whole.n == len(x)
  np.testing.assert_allclose(whole.mean, x.mean(0), rtol=1e-14)
  np.testing.assert_allclose(whole.covariance, np.cov(x.T), rtol=1e-7, atol=1e-9)
  half = Moments.of([x[: cuts[0]]]).merge(Moments.of([x[cuts[0] :]]))
  np.testing.assert_allclose(half.scatter, whole.scatter, rtol=1e-7, atol=1e-9)


def test_small_sets_are_warned_of():
  few, many = Moments.of([drawn(7, 4)]), Moments.of([drawn(8, 4)])
  with pytest.warns(UserWarning, match="7 features of width 4"):
    frechet(many, few)
  with warnings.catch_warnings():
    warnings.simplefilter("error")
    frechet(many, many)


def test_what_cannot_be_scored():
  x = Moments.of([drawn(9, 4)])
  with pytest.raises(Unscorable, match="width 4 against 3"):
    frechet(x, Moments.of([drawn(9, 3)]))
  with pytest.raises(Unscorable, match="1 features has no spread"):
    frechet(x, Moments.of([drawn(1, 4)]))
  with pytest.raises(Unscorable, match="no features"):
    Moments.of([])
  with pytest.raises(Unscorable, match="not finite"):
    Moments.of([np.full((2, 2), np.nan)])


def test_files(tmp_path):
  x = drawn(12, 5).astype(np.float32)
  write_features(tmp_path / "x.npz", x)
  read = read_moments(tmp_path / "x.npz")
  np.testing.assert_array_equal(np.load(tmp_path / "x.npz")["features"], x)
  np.savez(tmp_path / "m.npz", n=read.n, mu=read.mean, sigma=read.covariance)
  again = read_moments(tmp_path / "m.npz")
  assert again.n == read.n == 12
  np.testing.assert_array_equal(again.mean, read.mean)
  np.testing.assert_allclose(again.scatter, read.scatter, rtol=1e-12)
  np.savez(tmp_path / "others.npz", mu=read.mean, sigma=read.covariance)
  others = read_moments(tmp_path / "others.npz")
  np.testing.assert_allclose(others.covariance, read.covariance)
  np.savez(tmp_path / "plain.npz", x)
  np.testing.assert_array_equal(read_moments(tmp_path / "plain.npz").mean, read.mean)


def test_moments_of_others_are_of_as_many_as_there_should_be(tmp_path):
  """Two per dimension where nobody says, so that nothing is warned of; else what is
  said.
  """
  mean, sigma = np.array([1.0, -2.0, 0.5]), np.diag([4.0, 1.0, 9.0])
  np.savez(tmp_path / "plain.npz", mu=mean, sigma=sigma)
  plain = read_moments(tmp_path / "plain.npz")
  assert plain.n == 6
  np.testing.assert_allclose(plain.covariance, sigma)
  shifted = gaussian(mean + [0, 3, 0], np.diag([1.0, 1.0, 1.0]))
  with warnings.catch_warnings():
    warnings.simplefilter("error")
    # 3^2 between the means, and 2 - 1, 1 - 1, 3 - 1 between the deviations.
    assert frechet(plain, shifted) == pytest.approx(9 + 1 + 0 + 4)
  np.savez(tmp_path / "few.npz", mu=mean, sigma=sigma, n=5)
  few = read_moments(tmp_path / "few.npz")
  assert few.n == 5
  np.testing.assert_allclose(few.covariance, sigma)
  with pytest.warns(UserWarning, match="5 features of width 3"):
    frechet(few, shifted)


def test_mistakes_about_files(tmp_path):
  (tmp_path / "text.npz").write_text("features")
  (tmp_path / "cut.npz").write_bytes(b"PK\x03\x04 and no more")
  np.save(tmp_path / "one.npy", np.zeros((3, 2)))
  np.savez(tmp_path / "flat.npz", np.zeros(3))
  np.savez(tmp_path / "two.npz", np.zeros((3, 2)), np.zeros((3, 2)))
  np.savez(tmp_path / "odd.npz", mu=np.zeros(3), sigma=np.zeros((2, 2)))
  for name in ("absent.npz", "text.npz", "cut.npz", "one.npy"):
    with pytest.raises(UsageError, match=f"{name} is no .npz of features; expected"):
      read_moments(tmp_path / name)
  for name in ("flat", "two", "odd"):
    with pytest.raises(UsageError, match=rf"{name}.npz holds .*; expected one array"):
      read_moments(tmp_path / f"{name}.npz")


@pytest.mark.parametrize(
  "arrays",
  [
    {"mu": np.zeros(3), "sigma": np.eye(3), "n": np.array([3, 4])},
    {"mu": np.zeros(3), "sigma": np.eye(3), "n": np.array("many")},
    {"mu": np.zeros(3), "sigma": np.eye(3), "n": np.array(0)},
    {"mu": np.array(3.0), "sigma": np.eye(3)},
    {"mu": np.array(["a", "b", "c"]), "sigma": np.eye(3)},
    {"mu": np.full(3, np.nan), "sigma": np.eye(3)},
    {"mu": np.zeros(3), "sigma": np.full((3, 3), np.inf)},
    {"x": np.zeros((0, 3))},
    {"x": np.full((4, 3), np.nan)},
    {"x": np.zeros((4, 3), object)},
  ],
)
def test_arrays_that_are_no_features(tmp_path, arrays):
  np.savez(tmp_path / "x.npz", **arrays)
  with pytest.raises(UsageError, match=r"x\.npz .*; expected one array"):
    read_moments(tmp_path / "x.npz")


def test_small_files_of_large_arrays(tmp_path, monkeypatch):
  """A header that asks for terabytes, and zeros, which take no room in a zip."""
  head = io.BytesIO()
  np.lib.format.write_array_header_1_0(
    head, {"descr": "<f4", "fortran_order": False, "shape": (10**9, 10**6)}
  )
  with zipfile.ZipFile(tmp_path / "x.npz", "w") as z:
    z.writestr("x.npy", head.getvalue())
  with pytest.raises(UsageError, match=r"x\.npz is no \.npz of features"):
    read_moments(tmp_path / "x.npz")
  np.savez_compressed(tmp_path / "y.npz", np.zeros((1000, 100)))
  read_moments(tmp_path / "y.npz")
  monkeypatch.setattr(module, "MOST", 8 * 100 * 1000)
  with pytest.raises(UsageError, match=r"y\.npz holds 800128 bytes; expected at most"):
    read_moments(tmp_path / "y.npz")


def test_features_that_a_disk_has_damaged(tmp_path):
  """Those that a run has kept for its next start."""
  np.save(tmp_path / "a.npy", np.ones((2, 3), np.float32))
  np.testing.assert_array_equal(read_features(tmp_path / "a.npy"), np.ones((2, 3)))
  whole = (tmp_path / "a.npy").read_bytes()
  for bad in (b"", whole[:50], whole[:-1], b"x" + whole[1:]):
    (tmp_path / "a.npy").write_bytes(bad)
    with pytest.raises(UsageError, match=r"a\.npy is damaged: remove it"):
      read_features(tmp_path / "a.npy")
