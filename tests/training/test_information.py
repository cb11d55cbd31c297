"""Information by sigma, where the velocity that is right is known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ccl_jax.errors import UsageError
from ccl_jax.models.joint import JointDiT
from ccl_jax.training import information as module
from ccl_jax.training.information import information, network_velocity

SIGMAS = (0.25, 0.5, 1.0)


@pytest.fixture(scope="module")
def latents():
  """Sound y0 ~ N(0, 1), and a picture that is the sound beside its opposite."""
  y = np.random.default_rng(0).standard_normal((240, 5, 3)).astype(np.float32)
  x = np.stack([y, -y], 2)[..., None]  # b t 2 c 1
  return {"video": x, "audio": y}


def told(params, x, sigma, condition):
  """The velocity (x - x0) / sigma of who reads y and knows that x0 = (y0, -y0)."""
  y = x["audio"]
  x0 = jnp.stack([y, -y], 2)[..., None]
  at = sigma["video"].reshape(-1, 1, 1, 1, 1)
  return {"video": params * (x["video"] - x0) / at, "audio": 0 * y}


def deaf(params, x, sigma, condition):
  """The best without the other stream: x0 given x is (1 - s) x / ((1 - s)^2 + s^2)."""
  out = {}
  for name, z in x.items():
    s = sigma[name].reshape(-1, *[1] * (z.ndim - 1))
    out[name] = z * (2 * s - 1) / ((1 - s) ** 2 + s**2)
  return out


def test_a_network_that_knows_the_other_stream(latents):
  """With the clip's own sound v is exact; with another clip's it is (x - x0') / sigma,
  off by (x0 - x0') / sigma.
  """
  got = information(told, 1.0, latents, None, "a2v", SIGMAS, batch=60)["video"]
  for sigma in SIGMAS:
    row = got[sigma]
    assert row["n"] == 240
    assert row["loss"] == pytest.approx(0, abs=1e-9)
    expected = np.mean(
      [
        ((part - np.roll(part, -1, 0)) ** 2).mean() / sigma**2
        for part in latents["audio"].reshape(4, 60, 5, 3)
      ]
    )
    assert row["shuffled"] == pytest.approx(expected, rel=1e-4)
    assert row["information"] == pytest.approx(expected, rel=1e-4)
    assert row["share"] == pytest.approx(1) and row["share_sem"] < 1e-6
    assert abs(row["chance"]) < 4 * row["chance_sem"]
    # Differences of 15 numbers N(0, 2 / s^2) each: their means' deviation, over 240.
    sem = (2 / sigma**2) * (2 / 15) ** 0.5 / 240**0.5
    assert row["sem"] == pytest.approx(sem, rel=0.2)


def test_a_network_that_reads_nothing_has_none(latents):
  got = information(deaf, None, latents, None, "joint", SIGMAS, batch=80)
  assert set(got) == {"video", "audio"}
  for stream in got:
    for sigma in SIGMAS:
      row = got[stream][sigma]
      for name in ("information", "sem", "share", "share_sem", "chance", "chance_sem"):
        assert row[name] == 0, (stream, sigma, name)
      # Of N(0, 1) data: the variance of eps - x0 given x, 1 / ((1 - s)^2 + s^2).
      expected = 1 / ((1 - sigma) ** 2 + sigma**2)
      assert row["loss"] == row["shuffled"] == pytest.approx(expected, rel=0.05)


def test_what_the_network_is_given(latents):
  """In a2v the sound is clean and another clip's where it is shuffled; the picture, its
  noise and the condition stay. In joint both are noised, with one noise for all sounds.
  """
  few = {s: x[:3] for s, x in latents.items()}
  seen = []

  def spy(params, x, sigma, condition):
    seen.append((x, sigma, condition))
    return {s: jnp.zeros_like(v) for s, v in x.items()}

  text = np.arange(3.0)
  with jax.disable_jit():
    information(spy, None, few, text, "a2v", [0.5])
    information(spy, None, few, text, "joint", [0.5])
  a2v, joint = seen[:3], seen[3:]
  for shift, (x, sigma, condition) in enumerate(a2v):
    np.testing.assert_array_equal(x["audio"], np.roll(few["audio"], -shift, 0))
    np.testing.assert_array_equal(x["video"], a2v[0][0]["video"])
    np.testing.assert_array_equal(condition, text)
    assert (sigma["audio"] == 0).all() and (sigma["video"] == 0.5).all()
  assert len(joint) == 6
  for shift, (x, sigma, _) in enumerate(joint[:3]):
    assert (sigma["audio"] == 0.5).all() and (sigma["video"] == 0.5).all()
    noise = 2 * x["audio"] - np.roll(few["audio"], -shift, 0)
    np.testing.assert_allclose(
      noise, 2 * joint[0][0]["audio"] - few["audio"], atol=1e-5
    )
    np.testing.assert_array_equal(x["video"], joint[0][0]["video"])
  for x, *_ in joint[3:]:  # the sound's loss: now the picture is another clip's
    np.testing.assert_array_equal(x["audio"], joint[0][0]["audio"])


def test_the_seed_decides_the_noise(latents):
  few = {s: x[:6] for s, x in latents.items()}
  run = lambda seed: information(deaf, None, few, None, "v2a", [0.5], seed=seed)
  assert run(1) == run(1) != run(2)
  assert set(run(1)) == {"audio"}


def test_the_share_s_error_is_that_of_a_ratio():
  """Own and shuffled in proportion: the ratio has no error, however they spread."""
  shuffled = np.array([1.0, 2.0, 3.0, 6.0])
  row = module._scores(0.75 * shuffled, shuffled, shuffled[::-1])
  assert row["share"] == pytest.approx(0.25) and row["share_sem"] < 1e-12
  assert row["information"] == pytest.approx(0.75)
  assert row["sem"] == pytest.approx(0.25 * shuffled.std(ddof=1) / 2)
  assert row["chance"] == pytest.approx(0)
  apart = shuffled[::-1] - shuffled
  assert row["chance_sem"] == pytest.approx(apart.std(ddof=1) / 2)


def test_the_network_is_told_its_task(monkeypatch):
  calls = []

  def apply(self, *args):
    calls.append(args)
    return "v"

  monkeypatch.setattr(JointDiT, "apply", apply)
  sigma = {"video": jnp.array([0.5, 1.0]), "audio": jnp.zeros(2)}
  assert network_velocity(JointDiT((), 1), "a2v")("p", "x", sigma, "text") == "v"
  ((variables, x, time, text, route),) = calls
  assert (variables, x, text) == ({"params": "p"}, "x", "text")
  np.testing.assert_array_equal(time["video"], [[500.0], [1000.0]])
  np.testing.assert_array_equal(time["audio"], [[0.0], [0.0]])
  assert route.reads == {"video": True}


def test_mistakes(latents):
  run = lambda task="a2v", sigmas=(0.5,), few=latents: information(
    deaf, None, few, None, task, sigmas
  )
  with pytest.raises(UsageError, match="'single', expected one of a2v, v2a, joint"):
    run("single")
  with pytest.raises(UsageError, match=r"sigma 0.0 is not in \(0, 1\]"):
    run(sigmas=(0.5, 0.0))
  with pytest.raises(UsageError, match="got 2 clips at once, expected three"):
    run(few={s: x[:2] for s, x in latents.items()})
