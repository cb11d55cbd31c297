"""Counts the cycles of the attention kernels on TPUs, on a host without one.

  python -m ccl_jax.bench kernels              v5e, v5p and v6e, the default blocks
  python -m ccl_jax.bench kernels --chips=v6e --blocks=block_q=2048,block_q_dkv=1024

Compiles attention, forward and backward, by the kernel that models use
(`ops.kernels.Kernel`, whose sizes `--blocks` names) while libtpu dumps what it makes,
counts (`planning.bundles`), and adds the rows to `planning/kernels.json`, or replaces
those of the same chip and form. `plan` prices attention by them. Needs libtpu, some
minutes, and two gigabytes of temporary files.
"""

import importlib.metadata
import json
import os
import pathlib
import subprocess
import sys
import tempfile

from absl import flags

from ccl_jax import cli
from ccl_jax.errors import UsageError
from ccl_jax.files import write_json, write_text
from ccl_jax.ops.kernels import Kernel
from ccl_jax.planning import kernels
from ccl_jax.planning.bundles import static_cycles
from ccl_jax.planning.chips import CHIPS
from ccl_jax.planning.program import Program
from ccl_jax.planning.topologies import (
  TPUS,
  compiler,
  one_chip,
  stay_on_the_host,
  text_of,
)
from ccl_jax.sharding import compiler_options

_CHIPS = flags.DEFINE_list("chips", ["v5e", "v5p", "v6e"], "Kinds of TPU.")
_BLOCKS = flags.DEFINE_list(
  "blocks", [], "Block sizes NAME=SIZE, of ops.kernels.Kernel."
)

WIDTH = 128  # of a head, in all presets from "lab" on
HEADS = 8  # more than the cores of a chip: a grid of one step has no loop
# Queries and keys: long clips', whose padded keys divide by 8192, 6144, 4096 or 2048;
# their text's and image's; a sound's, and its text's.
LENGTHS = (
  (4096, 8192),
  (4096, 6144),
  (4096, 12280),
  (4096, 10240),
  (4096, 512),
  (4096, 257),
  (158, 158),
  (158, 512),
)


def main() -> None:
  """Counts for the chips and blocks of the flags, and writes the rows.

  Raises:
    UsageError: a chip or a size that there is none of, or no libtpu.
  """
  blocks = {}
  for text in _BLOCKS.value:
    name, _, size = text.partition("=")
    if not size.isdigit():
      raise UsageError(f"--blocks {text}: expected NAME=SIZE, such as block_q=2048")
    blocks[name] = int(size)
  if unknown := set(_CHIPS.value) - set(TPUS):
    raise UsageError(f"--chips {','.join(unknown)}: expected of {', '.join(TPUS)}")
  kernel_of(blocks)
  compiler("tpu")
  for chip in _CHIPS.value:
    found = count(chip, blocks)
    for row in found:
      print(chip, row, flush=True)
    write_json(kernels.FILE, kernels.merged(found), indent=1)


def kernel_of(blocks: dict[str, int]) -> Kernel:
  """The kernel of TPUs with some sizes of its blocks.

  Raises:
    UsageError: it has no such size.
  """
  try:
    return Kernel("splash", **blocks)
  except TypeError as e:
    raise UsageError(f"--blocks {','.join(blocks)}: {str(e).split(') ')[-1]}") from e


def count(chip: str, blocks: dict[str, int]) -> list[kernels.Row]:
  """Rows of the attention kernels on a chip.

  Args:
    chip: a kind of TPU.
    blocks: fields of `ops.kernels.Kernel`.
  """
  with tempfile.TemporaryDirectory() as folder:
    # libtpu reads its flags when it is loaded: each chip has a process of its own.
    dump = f"--xla_jf_dump_to={folder} --xla_jf_dump_llo_text=true"
    done = subprocess.run(
      [
        sys.executable,
        "-c",
        f"import sys, {__name__} as x; x.compile_kernels(*sys.argv[1:])",
        folder,
        chip,
        json.dumps(blocks),
      ],
      env=os.environ
      | {
        "LIBTPU_INIT_ARGS": f"{os.environ.get('LIBTPU_INIT_ARGS', '')} {dump}",
        "PYTHONPATH": os.pathsep.join(sys.path),
      },
    )
    if done.returncode:
      raise UsageError(
        f"--chips {chip}: attention with these blocks does not compile for it, as is "
        "told above: give smaller --blocks"
      )
    return rows_of(chip, pathlib.Path(folder))


def rows_of(chip: str, folder: pathlib.Path) -> list[kernels.Row]:
  """Rows of what was dumped to a folder beside the program's text, the file "program".

  Args:
    chip: a kind of TPU.
    folder: where libtpu has dumped.
  """
  version = importlib.metadata.version("libtpu")
  program, found, forms = Program((folder / "program").read_text()), {}, set()
  for instruction in program.by_name.values():
    call = kernels.call_of(instruction)
    if call is None:
      continue
    forms.add(call.form)
    # Of kernels that are equal but for their names, libtpu makes and dumps one.
    for file in folder.glob(f"*-{instruction.name}-*-final_bundles.txt"):
      if "analysis" not in file.name:
        cycles = static_cycles(file.read_text(errors="replace"), CHIPS[chip])
        found[call.form] = kernels.Row(chip, call.form, *cycles, version)
  if missing := forms - set(found):
    raise RuntimeError(
      f"libtpu {version} dumped nothing of {', '.join(map(str, missing))}"
    )
  return list(found.values())


def compile_kernels(folder: str, chip: str, blocks: str) -> None:
  """Compiles attention of all `LENGTHS`, and writes the program into a folder.

  Args:
    folder: also libtpu's, by its flags.
    chip: a kind of TPU.
    blocks: fields of `ops.kernels.Kernel`, as JSON.
  """
  import jax
  import jax.numpy as jnp

  stay_on_the_host()
  # What comes from a cache is not dumped.
  jax.config.update("jax_enable_compilation_cache", False)
  kernel, placed = kernel_of(json.loads(blocks)), one_chip(chip)
  tokens = lambda n: jax.ShapeDtypeStruct(
    (1, n, HEADS, WIDTH), jnp.bfloat16, sharding=placed
  )
  inputs = [(tokens(q), tokens(k)) for q, k in LENGTHS]
  attend = lambda inputs: [jax.vjp(kernel, q, k, k)[1](q) for q, k in inputs]
  options = compiler_options(jax.sharding.Mesh([*placed.device_set], "x"))
  compiled = jax.jit(attend, compiler_options=options).lower(inputs).compile()
  write_text(pathlib.Path(folder, "program"), text_of(compiled))


if __name__ == "__main__":
  cli.run(main)
