"""Makes of a finished run the small checkpoint that the package ships.

  python -m ccl_jax.train --config=quickstart --workdir=runs/quickstart
  python launch/ship.py runs/quickstart ccl_jax/shipped/checkpoints/quickstart

DST gets the moving average in bfloat16, the codecs, and a config.json with all that
`generate` asks for: no optimizer, no history. `generate --ckpt quickstart` finds it by
its name. Prints its size.
"""

import pathlib
import sys

import jax
import jax.numpy as jnp
import numpy as np

from ccl_jax.checkpoints.find import find_parameters
from ccl_jax.checkpoints.folders import new_folder
from ccl_jax.checkpoints.slices import SliceReader, SliceWriter
from ccl_jax.checkpoints.usage import stated
from ccl_jax.codecs.bundle import load_codecs, save_codecs
from ccl_jax.errors import UsageError, one_line_errors
from ccl_jax.files import write_json


def ship(run: pathlib.Path, dst: pathlib.Path) -> int:
  """Writes the checkpoint into the new folder `dst`; returns its bytes.

  Args:
    run: a finished training run.
    dst: a folder that is not there yet.

  Raises:
    UsageError: `run` is no training run, or `dst` is there.
  """
  found = find_parameters(run)
  if found.name != "ema" or found.codecs is None:
    raise UsageError(f"{run}: expected a training run, with its codecs")
  reader = SliceReader(found.folder / "checkpoints", name="ema")
  small = {
    path: jax.ShapeDtypeStruct(x.shape, jnp.bfloat16)
    for path, x in reader.shapes.items()
  }
  about = {"kind": "joint", "licence": "Apache-2.0"}
  about |= {"model": found.description["model"], **stated(found.description)}
  total = sum(2 * x.size for x in small.values())
  with new_folder(dst, total) as folder:
    with SliceWriter(folder / "checkpoints", small) as writer:
      for path in small:
        writer.write(path, (), np.asarray(reader.read(path, ()), jnp.bfloat16))
      writer.finish(about)
    save_codecs(load_codecs(found.codecs), folder / "codecs")
    write_json(folder / "config.json", about, indent=2)
  return sum(p.stat().st_size for p in dst.rglob("*") if p.is_file())


def main(argv: list[str]) -> None:
  """Ships the run that the arguments name."""
  if len(argv) != 3:
    print(__doc__)
    sys.exit(0 if argv[1:] in ([], ["--help"]) else 2)
  with one_line_errors():
    size = ship(*map(pathlib.Path, argv[1:]))
  print(f"{argv[2]}: {size / 1e6:.2f} MB")


if __name__ == "__main__":
  main(sys.argv)
