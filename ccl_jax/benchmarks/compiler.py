"""Asks the compiler how close to a TPU's peaks it thinks plain operations are.

  python -m ccl_jax.bench compiler                  v5p, v6e and v5e, as a table
  python -m ccl_jax.bench compiler --chips=v6e

Compiles products of bfloat16 matrices and passes over an array, each alone on one chip,
and prices them as `plan` does (`planning.predict`). Printed is the share of the peak
that this price gives: of FLOP/s for products, of the memory's rate for passes, which
read an array and write one. It says how to read a prediction, and what another version
of the compiler changes. Needs libtpu and a minute or two.
"""

import jax
import jax.numpy as jnp
from absl import flags

from ccl_jax import cli
from ccl_jax.errors import UsageError
from ccl_jax.planning.chips import CHIPS
from ccl_jax.planning.predict import predict
from ccl_jax.planning.program import Program
from ccl_jax.planning.topologies import (
  TPUS,
  compiler,
  one_chip,
  stay_on_the_host,
  text_of,
)

_CHIPS = flags.DEFINE_list("chips", ["v5p", "v6e", "v5e"], "Kinds of TPU.")

# (rows, summed, columns); the last two are of Wan 14B's blocks, 480p and 81 frames.
PRODUCTS = ((8192,) * 3, (4096,) * 3, (32760, 5120, 5120), (32760, 5120, 13824))
PASSES = ("float32", "bfloat16")
SHAPE = (32760, 5120)  # of the array that is passed over


def main() -> None:
  """Prints the table of the chips that the flags name.

  Raises:
    UsageError: a chip that there is none of.
  """
  chips = _CHIPS.value
  if unknown := set(chips) - set(TPUS):
    raise UsageError(f"--chips {','.join(unknown)}: expected of {', '.join(TPUS)}")
  stay_on_the_host()
  print(f"{compiler('tpu')}\n\n| share of peak | {' | '.join(chips)} |")
  print("|---" * (1 + len(chips)) + "|")
  for size in PRODUCTS:
    shares = [product_share(chip, size) for chip in chips]
    print(_line(f"product {size[0]} x {size[1]} x {size[2]}", shares), flush=True)
  for dtype in PASSES:
    shares = [pass_share(chip, dtype) for chip in chips]
    print(_line(f"pass over {dtype}, of the memory's rate", shares), flush=True)


def _line(name: str, shares: list[float]) -> str:
  return f"| {name} | {' | '.join(f'{x:.2f}' for x in shares)} |"


def product_share(chip: str, size: tuple[int, int, int]) -> float:
  """Share of a chip's FLOP/s that the prediction gives a product of matrices.

  Args:
    chip: a name of `chips.CHIPS`.
    size: rows, what is summed over, columns.
  """
  rows, summed, columns = size
  shapes = ((rows, summed), (summed, columns))
  seconds = _seconds(chip, "product", jnp.matmul, shapes, "bfloat16")
  return 2 * rows * summed * columns / CHIPS[chip].flops / seconds


def pass_share(chip: str, dtype: str) -> float:
  """Share of the memory's rate that the prediction gives 2 x + 1.

  Args:
    chip: a name of `chips.CHIPS`.
    dtype: of x.
  """
  seconds = _seconds(chip, "elementwise", lambda x: 2 * x + 1, (SHAPE,), dtype)
  moved = 2 * SHAPE[0] * SHAPE[1] * jnp.dtype(dtype).itemsize
  return moved / CHIPS[chip].hbm_rate / seconds


def _seconds(chip: str, kind: str, operation, shapes, dtype: str) -> float:
  """Of the operation alone, without copies to faster memory, which in larger programs
  are made in the meantime.
  """
  placed = one_chip(chip)
  arrays = (jax.ShapeDtypeStruct(s, dtype, sharding=placed) for s in shapes)
  compiled = jax.jit(operation).lower(*arrays).compile()
  return predict(Program(text_of(compiled)), chip).by("kind")[kind,].est


if __name__ == "__main__":
  cli.run(main)
