"""Four steps of joint sampling by a whole preset, with random parameters.

  python -m ccl_jax.bench denoise --size=14b --dtype=bfloat16 --frames=81 \\
      --height=480 --width=832                                 (on a GPU or TPU)

The program of `generate` on one device, without codecs and text encoder: the whole
depth unless --depth is given, guidance by two evaluations a step (ucg2), parameters in
the dtype in which a generation stores them. Told: seconds to compile and a step, the
share of a measured matrix product's rate, and the memory that is held, by the
compiler's account and, on accelerators, by the allocator's of the whole process.
"""

import time

import jax
import jax.numpy as jnp
from absl import flags

from ccl_jax import cli
from ccl_jax.benchmarks import step
from ccl_jax.benchmarks.parts import EVALUATIONS, FORM
from ccl_jax.benchmarks.step import TEXT
from ccl_jax.benchmarks.timing import device_ceiling, in_turn, median, show
from ccl_jax.data.spec import ClipSpec
from ccl_jax.generation.memory import GIB, held, worked_in
from ccl_jax.generation.sampling import Sampling, sample_latents
from ccl_jax.models.flops import evaluation_flops
from ccl_jax.models.joint import JointDiT, geometry_of
from ccl_jax.models.precision import stored_as
from ccl_jax.models.presets import build_model, parameter_shapes
from ccl_jax.tasks import GENERATIONS

flags.adopt_module_key_flags(step)

STEPS = 4


def random_params(model: JointDiT):
  """Random parameters as a generation stores them, drawn one after the other: together
  their random bits would take as much memory again.
  """
  shapes = stored_as(parameter_shapes(model, TEXT), model.dtype)
  draw = jax.jit(
    lambda key, x: 0.02 * jax.random.normal(key, x.shape, x.dtype), static_argnums=1
  )
  leaves, tree = jax.tree.flatten(shapes)
  keys = jax.random.split(jax.random.key(0), len(leaves))
  made = [jax.block_until_ready(draw(k, x)) for k, x in zip(keys, leaves)]
  return jax.tree.unflatten(tree, made)


def rows(spec: ClipSpec, ceiling: float):
  """The row of a sampling step.

  Args:
    spec: of the clip.
    ceiling: FLOP/s of a matrix product.
  """
  model = build_model(
    step.SIZE.value, dtype=step.DTYPE.value, attention=step.ATTENTION.value
  )
  if step.DEPTH.present:
    model = model.clone(depth=step.DEPTH.value)
  b, key = step.BATCH.value, jax.random.key(1)
  sizes = {"video": spec.latent_shape, "audio": (spec.audio_tokens,)}
  draw = lambda *shape: jax.random.normal(key, shape)
  noise = {s: draw(b, *sizes[s], c.out_channels) for s, c in model.streams}
  params, text = random_params(model), draw(2, b, *TEXT)  # the prompt, and none
  how = Sampling(FORM, steps=STEPS, shift=5.0, solver="unipc")

  def program(params, noise, text):
    conditions = {"text": text, "given": {}}
    return sample_latents(model, params, GENERATIONS["joint"], noise, conditions, how)

  start = time.perf_counter()
  compiled = jax.jit(program).lower(params, noise, text).compile()
  compiling = time.perf_counter() - start
  run = lambda: jax.block_until_ready(compiled(params, noise, text))
  seconds = median(in_turn({"": run}, step.ROUNDS.value)[""]) / STEPS
  each = evaluation_flops(model, geometry_of(model, spec), *TEXT)
  flops = EVALUATIONS * b * each
  used = jax.local_devices()[0].memory_stats() or {}
  row = {
    "what": "sampling step",
    "seconds": seconds,
    "compile seconds": compiling,
    "TFLOP/s": flops / seconds / 1e12,
    "ceiling": flops / seconds / ceiling,
    "GiB of the program": (held(params, noise, text) + worked_in(compiled)) / GIB,
  }
  if "peak_bytes_in_use" in used:
    row["GiB in use at most"] = used["peak_bytes_in_use"] / GIB
  yield row


def main() -> None:
  """Measures by the flags, and prints a table and a JSON object."""
  spec = ClipSpec(step.FRAMES.value, step.HEIGHT.value, step.WIDTH.value, 16.0)
  ceiling = device_ceiling(jnp.dtype(step.DTYPE.value))
  setup = {
    "device": jax.devices()[0].device_kind,
    "size": f"{step.SIZE.value}, {STEPS} steps, {step.DTYPE.value}",
    "matmul GFLOP/s": ceiling / 1e9,
  }
  show(setup, rows(spec, ceiling))


if __name__ == "__main__":
  cli.run(main)
