"""Converts a full-size checkpoint and prints the peak memory it took.

  python tests/weights/check_memory.py SCRATCH [--size 14b] [--scaled] [--limit 6]

The source has the real names, shapes and types, and holes for data: it takes no room,
but is read like any other. The result does: SCRATCH needs 58 GB for 14b, 24 GB for ovi,
20 GB for 5b, 12 GB for umt5, 6 GB for 1.3b. The exit code is 1 where the peak exceeds
the limit in GiB.

--scaled: the matrices of the blocks are fp8, with a scale for every row, as LightX2V
writes them; they become float32.
"""

import argparse
import json
import math
import pathlib
import resource
import subprocess
import sys
import tempfile
import time
from typing import NamedTuple

sys.path.insert(0, str(pathlib.Path(__file__).parents[2]))

from ccl_jax.weights.rules import expected_tensors
from ccl_jax.weights.upstream import get_upstream

_TEXT = {"frequencies": 256, "text_dim": 4096}
_WAN = _TEXT | {"in_channels": 16, "out_channels": 16, "image_tokens": False}
_TI2V = {
  "width": 3072, "ffn": 14336, "heads": 24, "in_channels": 48, "out_channels": 48,
}  # fmt: skip
_TOWER = _TI2V | {"frequencies": 256}


class Size(NamedTuple):
  """A published network: its command of `convert`, its sizes, and its files' type."""

  kind: str
  sizes: dict
  dtype: str = "F32"


SIZES = {
  "1.3b": Size(
    "wan-dit", _WAN | {"width": 1536, "ffn": 8960, "heads": 12, "depth": 30}
  ),
  "5b": Size("wan-dit", _WAN | _TI2V | {"depth": 30}),
  "14b": Size(
    "wan-dit", _WAN | {"width": 5120, "ffn": 13824, "heads": 40, "depth": 40}
  ),
  "ovi": Size(
    "ovi-dit",
    {
      "video": _TOWER,
      "audio": _TOWER
      | {"in_channels": 20, "out_channels": 20, "taps": 7, "rate": 0.19676},
      "depth": 30,
      "text_dim": 4096,
      "edition": "720x720_5s",
    },
    "BF16",
  ),
  "umt5": Size(
    "umt5",
    {
      "vocabulary": 256384, "width": 4096, "attention_width": 4096, "ffn": 10240,
      "heads": 64, "depth": 24, "buckets": 32,
    },
    "BF16",
  ),
}  # fmt: skip
_BYTES = {"F32": 4, "BF16": 2, "F8_E4M3": 1}


def write_sparse(path: pathlib.Path, size: Size, scaled: bool = False) -> int:
  """A .safetensors file of holes; returns the bytes of its data."""
  upstream, tensors = get_upstream(size.kind), {}
  table = upstream.tables["native"]
  for match in expected_tensors(table, upstream.shapes(size.sizes)):
    matrix = len(match.shape) == 2 and "blocks." in match.name
    if scaled and matrix and match.name.endswith(".weight"):
      tensors[match.name] = ("F8_E4M3", match.shape)
      tensors[f"{match.name}_scale"] = ("F32", (match.shape[0], 1))
    else:
      tensors[match.name] = (size.dtype, match.shape)
  header, offset = {}, 0
  for name, (dtype, shape) in tensors.items():
    end = offset + math.prod(shape) * _BYTES[dtype]
    about = {"dtype": dtype, "shape": list(shape), "data_offsets": [offset, end]}
    header[name], offset = about, end
  raw = json.dumps(header).encode()
  with open(path, "wb") as f:
    f.write(len(raw).to_bytes(8, "little") + raw)
    f.truncate(8 + len(raw) + offset)
  return offset


def main() -> None:
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument("scratch", type=pathlib.Path)
  parser.add_argument("--size", choices=SIZES, default="14b")
  parser.add_argument("--scaled", action="store_true")
  parser.add_argument("--limit", type=float, default=6, help="GiB")
  args = parser.parse_args()
  chosen = SIZES[args.size]
  with tempfile.TemporaryDirectory(dir=args.scratch) as folder:
    source = pathlib.Path(folder) / "model.safetensors"
    size = write_sparse(source, chosen, args.scaled)
    command = [sys.executable, "-m", "ccl_jax.convert", chosen.kind, "--verify"]
    start = time.monotonic()
    subprocess.run(
      [*command, "--src", source, "--dst", pathlib.Path(folder) / "converted"],
      cwd=pathlib.Path(__file__).parents[2],
      check=True,
    )
    seconds = time.monotonic() - start
  peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20
  print(f"{size / 1e9:.1f} GB in {seconds:.0f} s, at most {peak:.2f} GiB of memory")
  sys.exit(peak > args.limit)


if __name__ == "__main__":
  main()
