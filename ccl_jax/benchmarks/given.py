"""What the keys that steps share save: computed once, or at every step.

  python -m ccl_jax.bench given --size=lab --frames=17 --height=256 --width=256
  python -m ccl_jax.bench given --size=14b --dtype=bfloat16 --frames=81 --height=480 \\
      --width=832                                              (on a GPU or TPU)

The keys of texts and context tokens are the same at every step, and those of a stream
that is given, as it is clean and reads context tokens only. Steps of sampling with
guidance ucg2, of random parameters, latents and texts, without codecs: `once` is what
`generate` does, `every step` computes all keys in every evaluation and runs the given
stream beside the other one. Both take turns; `faster` has its lowest and highest round
beside it. `apart` says how near both clips are: the largest difference of their latents
over the standard deviation of these.
"""

import itertools

import jax
import jax.numpy as jnp
from absl import flags

from ccl_jax import cli
from ccl_jax.benchmarks import step
from ccl_jax.benchmarks.parts import FEW, FORM, MANY, samplings
from ccl_jax.benchmarks.timing import in_turn, keeping, median, ratios, show
from ccl_jax.data.spec import ClipSpec

flags.adopt_module_key_flags(step)

TASKS = ("joint", "v2a", "a2v")


def apart(a, b) -> float:
  """The largest difference of latents over the standard deviation of the second.

  Args:
    a, b: of the generated streams, by name.
  """
  return max(float(jnp.abs(a[s] - b[s]).max() / jnp.std(b[s])) for s in b)


def rows(spec: ClipSpec):
  """A row a task: seconds of a step, and what the keys save.

  Args:
    spec: of the clip.
  """
  for task in TASKS:
    ways = itertools.product((FEW, MANY), (True, False))
    programs, made = keeping(samplings(spec, task, ways))
    took = in_turn(programs, step.ROUNDS.value)
    each = {
      once: [
        (many - few) / (MANY - FEW)
        for few, many in zip(took[FEW, once], took[MANY, once], strict=True)
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
      "apart": apart(made[MANY, True], made[MANY, False]),
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
