import json

import numpy as np
import pytest
from safetensors.numpy import load_file

from ccl_jax.diffusion.schedules import SCHEDULES, make_schedule
from ccl_jax.errors import UsageError

KINDS = {"unipc": "unipc", "dpm": "dpmpp"}


@pytest.mark.shared
def test_the_reference_schedules(shared):
  folder = shared / "parity" / "wan_schedules"
  golden = load_file(folder / "schedules.safetensors")
  for case in json.loads((folder / "config.json").read_text())["cases"]:
    got = make_schedule(KINDS[case["kind"]], case["steps"], case["shift"])
    name = case["name"]
    np.testing.assert_array_equal(got.timesteps, golden[f"{name}.timesteps"])
    # The stored sigmas are rounded to float32.
    np.testing.assert_allclose(got.sigmas, golden[f"{name}.sigmas"], atol=6e-8, rtol=0)


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("steps,shift", [(1, 5.0), (7, 1.0), (50, 3.0), (50, 16.0)])
def test_sigmas_fall_from_noise_to_zero(name, steps, shift):
  got = make_schedule(name, steps, shift)
  assert got.steps == steps and got.sigmas.shape == (steps + 1,)
  assert got.sigmas.dtype == np.float64 and got.sigmas[-1] == 0
  assert np.all(np.diff(got.sigmas) < 0)
  assert (got.sigmas[0] == 1) == (name != "unipc")
  told = 1000 * got.sigmas[:-1] - got.timesteps
  if name == "euler":
    np.testing.assert_array_equal(told, 0)
  else:
    assert np.all((told >= 0) & (told < 1))
    np.testing.assert_array_equal(got.timesteps, got.timesteps.astype(int))


def test_the_published_timesteps_of_fifty_steps():
  got = make_schedule("unipc", 50, 5.0).timesteps
  assert got[:4].tolist() == [999, 995, 991, 987]
  assert got[-3:].tolist() == [241, 172, 92]


@pytest.mark.parametrize(
  "name,steps,shift,message",
  [
    ("ddim", 20, 5.0, "'ddim'.*unipc, dpmpp, euler"),
    ("unipc", 0, 5.0, "0 sampling steps"),
    ("unipc", 20, 0.0, "shift 0.0"),
  ],
)
def test_user_mistakes(name, steps, shift, message):
  with pytest.raises(UsageError, match=message):
    make_schedule(name, steps, shift)
