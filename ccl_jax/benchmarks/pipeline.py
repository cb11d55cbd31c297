"""Sampling with guidance by text, beside diffusers' WanPipeline of the same weights.

  python -m ccl_jax.bench pipeline --size=lab --frames=17 --height=256 --width=256
  python -m ccl_jax.bench pipeline --size=1.3b --depth=30 --dtype=bfloat16 \\
      --frames=81 --height=480 --width=832                              (on a GPU)

diffusers draws a network of these sizes and saves it, `convert wan-dit` reads it, and
both make latents from the same noise and text rows, by turns: steps of UniPC at
Wan2.1's own noise levels, two evaluations each, without text encoder and codecs. Prints
the seconds of a step and `ours/theirs`, below one where we are faster, with its lowest
and highest round; and how far apart the latents are, as the norm of their difference
over that of theirs. The peer needs torch and diffusers: pip install 'ccl_jax[test]'.
"""

import pathlib
import tempfile

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags

from ccl_jax import cli
from ccl_jax.benchmarks import step
from ccl_jax.benchmarks.timing import cores, in_turn, keeping, median, ratios, show
from ccl_jax.checkpoints.converted import restore_converted
from ccl_jax.data.spec import ClipSpec
from ccl_jax.generation.sampling import Sampling, sample_latents
from ccl_jax.models.joint import geometry_of
from ccl_jax.models.precision import stored_as
from ccl_jax.models.presets import build_model
from ccl_jax.tasks import GENERATIONS
from ccl_jax.weights.transfer import import_weights

flags.adopt_module_key_flags(step)

STEPS, SHIFT, SCALE = 10, 5.0, 5.0


def drawn(spec: ClipSpec) -> tuple[np.ndarray, np.ndarray]:
  """(noise (b, t, h, w, 16), text rows (2, b, l, e), the prompt's first)."""
  rng, b = np.random.default_rng(0), step.BATCH.value
  noise = rng.standard_normal((b, *spec.latent_shape, 16), np.float32)
  return noise, rng.standard_normal((2, b, *step.TEXT), np.float32)


def theirs(network, spec: ClipSpec, noise: np.ndarray, texts: np.ndarray):
  """A call of diffusers' pipeline, to its latents (b, t, h, w, 16).

  Args:
    network: of diffusers.
    spec: of the clip.
    noise, texts: of `drawn`.
  """
  import torch
  from diffusers import UniPCMultistepScheduler, WanPipeline

  scheduler = UniPCMultistepScheduler(
    prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=SHIFT
  )
  # Wan2.1's own: those of this class end at another one.
  levels = np.linspace(np.float32(0.999), 0, STEPS + 1)[:-1]
  set_levels = scheduler.set_timesteps
  scheduler.set_timesteps = lambda _, device: set_levels(sigmas=levels, device=device)
  pipeline = WanPipeline(None, None, None, scheduler, network)
  pipeline.set_progress_bar_config(disable=True)
  given = lambda x: torch.from_numpy(np.ascontiguousarray(x)).to(network.device)
  # diffusers has channels before frames.
  latents, (prompt, negative) = given(np.moveaxis(noise, -1, 1)), map(given, texts)

  def run() -> np.ndarray:
    out = pipeline(
      height=spec.height, width=spec.width, num_frames=spec.frames,
      num_inference_steps=STEPS, guidance_scale=SCALE, latents=latents,
      prompt_embeds=prompt, negative_prompt_embeds=negative, output_type="latent",
    )  # fmt: skip
    return np.moveaxis(out.frames.float().cpu().numpy(), 1, -1)

  return run


def ours(params, noise: np.ndarray, texts: np.ndarray):
  """A call of our sampling, to its latents (b, t, h, w, 16).

  Args:
    params: converted.
    noise, texts: of `drawn`.
  """
  model = build_model(
    step.SIZE.value, streams=("video",), dtype=step.DTYPE.value,
    attention=step.ATTENTION.value,
  ).clone(depth=step.DEPTH.value)  # fmt: skip
  held = stored_as(jax.eval_shape(lambda: params), model.dtype)
  params = jax.tree.map(lambda x, kind: x.astype(kind.dtype), params, held)
  how = Sampling("text", {"video": {"s": SCALE}}, STEPS, SHIFT, "unipc")

  @jax.jit
  def run(params, noise, texts):
    noise, conditions = {"video": noise}, {"text": texts, "given": {}}
    task = GENERATIONS["t2v"]
    return sample_latents(model, params, task, noise, conditions, how)["video"]

  noise, texts = jnp.asarray(noise), jnp.asarray(texts)
  return lambda: np.asarray(run(params, noise, texts))


def row(spec: ClipSpec) -> dict:
  """The seconds of a step of both, and how far apart their latents are.

  Args:
    spec: of the clip.
  """
  network = step.their_network()
  noise, texts = drawn(spec)
  with tempfile.TemporaryDirectory() as folder:
    saved, converted = pathlib.Path(folder) / "saved", pathlib.Path(folder) / "ours"
    network.save_pretrained(saved)
    import_weights("wan-dit", saved, converted)
    params = restore_converted(converted)
    device, dtype = step.their_place()
    # As users load it: what diffusers keeps in float32 stays so.
    network = network.from_pretrained(saved, torch_dtype=dtype).to(device)
  runs = {
    "ours": ours(params, noise, texts),
    "theirs": theirs(network, spec, noise, texts),
  }
  programs, made = keeping(runs)
  seconds = in_turn(programs, step.ROUNDS.value)
  spread = ratios(seconds["ours"], seconds["theirs"])
  apart = np.linalg.norm(made["ours"] - made["theirs"])
  return {
    "what": "step",
    **{name: median(took) / STEPS for name, took in seconds.items()},
    "ours/theirs": median(spread),
    "lowest": spread[0],
    "highest": spread[-1],
    "latents apart": float(apart / np.linalg.norm(made["theirs"])),
  }


def main() -> None:
  """Measures by the flags, and prints a line and a JSON object."""
  spec = ClipSpec(step.FRAMES.value, step.HEIGHT.value, step.WIDTH.value, 16.0)
  g = geometry_of(build_model(step.SIZE.value), spec)
  setup = {
    "device": jax.devices()[0].device_kind,
    "cores": cores(),
    "size": f"{step.SIZE.value}, {step.DEPTH.value} blocks, {step.DTYPE.value}",
    "tokens": g.t * g.h * g.w,
    "steps": STEPS,
    "rounds": step.ROUNDS.value,
  }
  show(setup, [row(spec)])


if __name__ == "__main__":
  cli.run(main)
