"""Solvers of dx/dsigma = v from noise to data, after their papers.

alpha = 1 - sigma, lambda = log(alpha / sigma), h = lambda_{i+1} - lambda_i; the data
prediction is m = x - sigma v. DPM-Solver++(2M): arXiv 2211.01095, in its midpoint form.
UniPC-2: arXiv 2302.04867 with B(h) = e^h - 1, on data predictions and so of -h;
predictor and corrector from their linear system.
"""

import numpy as np

from tests.reference.objective import shifted


def schedule(solver, steps, shift):
  """(sigmas of N + 1 levels, what the network is told at the first N)."""
  first = 0.999 if solver == "unipc" else 1.0
  u = np.array([first * (1 - i / steps) for i in range(steps)])
  sigma = shifted(u, shift)
  told = 1000 * sigma if solver == "euler" else np.floor(1000 * sigma)
  return np.append(sigma, 0.0), told


def solve(solver, velocity, x, steps, shift):
  """Data from noise x, by stream; `velocity` is (x, timestep) -> v, by stream."""
  sigmas, told = schedule(solver, steps, shift)
  return _SOLVERS[solver](velocity, x, sigmas, told)


def _euler(velocity, x, sigma, told):
  for i, timestep in enumerate(told):
    v = velocity(x, timestep)
    x = {s: x[s] + (sigma[i + 1] - sigma[i]) * v[s] for s in x}
  return x


def _log_snr(sigma):
  with np.errstate(divide="ignore"):
    return np.log(1 - sigma) - np.log(sigma)


def _dpmpp(velocity, x, sigma, told):
  lam, last = _log_snr(sigma), None
  for i, timestep in enumerate(told):
    v = velocity(x, timestep)
    m = {s: x[s] - sigma[i] * v[s] for s in x}
    h = lam[i + 1] - lam[i]
    point = m
    if i > 0 and i + 1 < len(told):
      r = (lam[i] - lam[i - 1]) / h
      point = {s: (1 + 1 / (2 * r)) * m[s] - 1 / (2 * r) * last[s] for s in x}
    ratio, phi = sigma[i + 1] / sigma[i], np.expm1(-h)
    x = {s: ratio * x[s] - (1 - sigma[i + 1]) * phi * point[s] for s in x}
    last = m
  return x


def _unipc(velocity, x, sigma, told):
  lam, n = _log_snr(sigma), len(told)
  alpha = 1 - sigma
  history, before = [], None  # predictions m_i; the sample at which the step began
  for i, timestep in enumerate(told):
    v = velocity(x, timestep)
    history.append({s: x[s] - sigma[i] * v[s] for s in x})
    if i > 0:  # correct the step that led here, at the order it was made
      x = {
        s: _unified(before[s], i - 1, [m[s] for m in history], sigma, alpha, lam, order)
        for s in x
      }
    order = min(2, i + 1, n - i)
    before = x
    x = {
      s: _unified(x[s], i, [m[s] for m in history], sigma, alpha, lam, order) for s in x
    }
  return x


def _unified(x, i, m, sigma, alpha, lam, order):
  """The step from level i to i + 1, with m_{i+1} where it is known (the corrector)."""
  h = lam[i + 1] - lam[i]
  corrector = len(m) > i + 1
  b_h = np.expm1(-h)  # B(-h)
  base = sigma[i + 1] / sigma[i] * x - alpha[i + 1] * b_h * m[i]
  nodes, slopes = [], []  # (lambda - lambda_i) / h and (m - m_i) at it
  if order == 2:
    nodes.append((lam[i - 1] - lam[i]) / h)
    slopes.append(m[i - 1] - m[i])
  if corrector:
    nodes.append(1.0)
    slopes.append(m[i + 1] - m[i])
  if not nodes:
    return base
  if len(nodes) == 1:
    rho = [0.5]  # either way: the simplification of the paper
  else:  # sum_k rho_k r_k^(j-1) = j! phi_{j+1}(-h) / B(-h), with h phi_1 = B
    phi = lambda j: _phi(j + 1, -h) * -h * np.prod(np.arange(1, j + 1))
    a = np.array([[r ** (j - 1) for r in nodes] for j in (1, 2)])
    rho = np.linalg.solve(a, [phi(1) / b_h, phi(2) / b_h])
  slope = sum(w * d / r for w, d, r in zip(rho, slopes, nodes))
  return base - alpha[i + 1] * b_h * slope


def _phi(k, z):
  """phi_0 = e^z, phi_{k+1}(z) = (phi_k(z) - 1 / k!) / z."""
  value, factorial = np.exp(z), 1.0
  for j in range(k):
    factorial *= max(j, 1)
    value = (value - 1 / factorial) / z
  return value


_SOLVERS = {"euler": _euler, "dpmpp": _dpmpp, "unipc": _unipc}
