"""Twenty steps of diffusers' UniPC scheduler and model, and of ours: the same latents.

The scheduler is given Wan2.1's native noise levels (its own have changed since, they
run to 1/1000), and from there on runs as in its pipeline, with guidance by text.
"""

import importlib
import types

import jax
import jax.numpy as jnp
import numpy as np

from ccl_jax.data.spec import ClipSpec
from ccl_jax.diffusion.schedules import make_schedule
from ccl_jax.generation.sampling import Sampling, sample_latents
from ccl_jax.tasks import GENERATIONS
from ccl_jax.weights import wan
from tests.flags.command import command

STEPS, SHIFT, SCALE = 20, 5.0, 5.0


def theirs(reference, noise, texts):
  import torch
  from diffusers import UniPCMultistepScheduler

  scheduler = UniPCMultistepScheduler(
    prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=SHIFT
  )
  levels = np.linspace(np.float32(0.999), 0, STEPS + 1)[:-1]
  scheduler.set_timesteps(sigmas=levels)
  schedule = make_schedule("unipc", STEPS, SHIFT)
  np.testing.assert_allclose(scheduler.sigmas, schedule.sigmas, atol=1e-7)
  np.testing.assert_array_equal(scheduler.timesteps, schedule.timesteps)
  x, (prompt, negative) = torch.tensor(noise), map(torch.tensor, texts)
  with torch.no_grad():
    for t in scheduler.timesteps:
      run = lambda text: reference(x, t.expand(len(x)), text, return_dict=False)[0]
      conditional, unconditional = run(prompt), run(negative)
      v = unconditional + SCALE * (conditional - unconditional)
      x = scheduler.step(v, t, x, return_dict=False)[0]
  return x.numpy()


def test_the_same_latents_after_twenty_steps(t2v):
  rng = np.random.default_rng(5)
  noise = rng.standard_normal((1, 16, 3, 8, 12), np.float32)
  texts = rng.standard_normal((2, 1, 512, t2v.sizes["text_dim"]), np.float32)
  texts[0, :, 40:] = texts[1, :, 9:] = 0  # past their ends
  expected = theirs(t2v.reference, noise, texts)
  model = wan.model_of(t2v.sizes)
  sampling = Sampling("text", {"video": {"s": SCALE}}, STEPS, SHIFT, "unipc")

  @jax.jit
  def run(params, noise, text):
    noise, conditions = {"video": noise}, {"text": text}
    task = GENERATIONS["t2v"]
    return sample_latents(model, params, task, noise, conditions, sampling)["video"]

  got = np.moveaxis(run(t2v.params, jnp.moveaxis(noise, 1, -1), texts), -1, 1)
  error = np.linalg.norm(got - expected) / np.linalg.norm(expected)
  assert error < 1e-3


def test_the_benchmark_makes_the_latents_of_their_pipeline(monkeypatch):
  """`bench pipeline`, of one block: the same weights, levels, guidance and noise."""
  step = command("bench step").module
  pipeline = importlib.import_module("ccl_jax.benchmarks.pipeline")
  flags = {
    "SIZE": "lab", "DEPTH": 1, "BATCH": 1, "DTYPE": "float32", "ATTENTION": "dense",
    "ROUNDS": 1,
  }  # fmt: skip
  for name, value in flags.items():
    monkeypatch.setattr(step, name, types.SimpleNamespace(value=value))
  monkeypatch.setattr(step, "TEXT", (512, 24))
  monkeypatch.setattr(pipeline, "STEPS", 4)
  seconds = {"ours": [4.0, 8.0], "theirs": [8.0, 8.0]}

  def in_turn(programs, rounds):
    for run in programs.values():
      run()
    return seconds

  monkeypatch.setattr(pipeline, "in_turn", in_turn)
  row = pipeline.row(ClipSpec(5, 32, 48, 16.0))
  assert 0 < row.pop("latents apart") < 1e-4
  assert row == {
    "what": "step", "ours": 1.5, "theirs": 2.0, "ours/theirs": 0.75, "lowest": 0.5,
    "highest": 1.0,
  }  # fmt: skip
