"""What a given stream's keys save: v2a and a2v with them computed once, or every step.

  python -m ccl_jax.bench given --size=lab --frames=17 --height=256 --width=256
  python -m ccl_jax.bench given --size=14b --dtype=bfloat16 --frames=81 --height=480 \\
      --width=832                                              (on a GPU or TPU)

A stream that is given is clean and reads context tokens only, so its keys are the same
at every step. A step of sampling by each guidance of --guidance, of random parameters,
latents and texts, without codecs: `once` is what `generate` does, `every step` runs the
given stream beside the other one in every evaluation. Both take turns; `faster` has its
lowest and highest round beside it. `apart` says how near both clips are: the largest
difference of their latents over the standard deviation of these.
"""

import jax
import jax.numpy as jnp
from absl import flags

from ccl_jax import cli
from ccl_jax.axes import STREAMS
from ccl_jax.benchmarks import step
from ccl_jax.benchmarks.timing import in_turn, median, ratios, show
from ccl_jax.data.spec import ClipSpec
from ccl_jax.generation.sampling import Sampling, sample_latents
from ccl_jax.tasks import GENERATIONS

flags.adopt_module_key_flags(step)

TASKS = ("v2a", "a2v")
FORM = "ucg2"
FEW, MANY = 2, 6  # steps: what precedes and follows them cancels


def calls(spec: ClipSpec, task: str) -> dict:
  """Samplings by (whether keys are computed once, steps).

  Each call returns the latents.

  Args:
    spec: of the clip.
    task: that is given a stream.
  """
  model, params, inputs = step.make(spec, STREAMS, step.DEPTH.value)
  kind, latents, text = GENERATIONS[task], inputs["latents"], inputs["text"]
  noise = {s: latents[s] for s in kind.generated}
  given = {s: latents[s] for s in kind.given}
  texts = jnp.stack([text, jnp.zeros_like(text)])

  def program(once: bool, steps: int):
    how = Sampling(FORM, steps=steps, shift=5.0, solver="unipc")

    @jax.jit
    def run(params, noise, given, texts):
      conditions = {"text": texts, "given": given}
      return sample_latents(
        model, params, kind, noise, conditions, how, reuse_keys=once
      )

    return lambda: jax.block_until_ready(run(params, noise, given, texts))

  return {(once, n): program(once, n) for once in (True, False) for n in (FEW, MANY)}


def apart(a, b) -> float:
  """The largest difference of latents over the standard deviation of the second.

  Args:
    a, b: of the generated stream, by its name.
  """
  (a,), (b,) = a.values(), b.values()
  return float(jnp.abs(a - b).max() / jnp.std(b))


def rows(spec: ClipSpec):
  """A row a task."""
  for task in TASKS:
    made = {}
    runs = calls(spec, task)

    def keep(key):
      made[key] = runs[key]()

    programs = {key: lambda key=key: keep(key) for key in runs}
    took = in_turn(programs, step.ROUNDS.value)
    each = {
      once: [
        (many - few) / (MANY - FEW)
        for few, many in zip(took[once, FEW], took[once, MANY], strict=True)
      ]
      for once in (True, False)
    }
    faster = ratios(each[False], each[True])
    yield {
      "what": task,
      "once, s": median(each[True]),
      "every step, s": median(each[False]),
      "faster": median(faster),
      "lowest": faster[0],
      "highest": faster[-1],
      "apart": apart(made[True, MANY], made[False, MANY]),
    }


def main() -> None:
  """Measures by the flags, and prints a table and a JSON object."""
  spec = ClipSpec(step.FRAMES.value, step.HEIGHT.value, step.WIDTH.value, 16.0)
  setup = {
    "device": jax.devices()[0].device_kind,
    "size": f"{step.SIZE.value}, {step.DEPTH.value} blocks, {step.DTYPE.value}",
    "guidance": FORM,
    "rounds": step.ROUNDS.value,
  }
  show(setup, list(rows(spec)))


if __name__ == "__main__":
  cli.run(main)
