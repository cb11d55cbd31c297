"""Converts a full-size Wan checkpoint and prints the peak memory it took.

  python tests/weights/check_memory.py SCRATCH [--size 14b] [--limit 6]

The source has the real names and shapes, and holes for data: it takes no room, but is
read like any other. The result does: SCRATCH needs 58 GB for 14b, 20 GB for 5b, 6 GB
for 1.3b. The exit code is 1 where the peak exceeds the limit in GiB.
"""

import argparse
import json
import pathlib
import resource
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, str(pathlib.Path(__file__).parents[2]))

from ccl_jax.weights import wan
from ccl_jax.weights.rules import expected_tensors

SIZES = {
  "1.3b": {"width": 1536, "ffn": 8960, "heads": 12, "depth": 30},
  "5b": {
    "width": 3072, "ffn": 14336, "heads": 24, "depth": 30, "in_channels": 48,
    "out_channels": 48,
  },
  "14b": {"width": 5120, "ffn": 13824, "heads": 40, "depth": 40},
}  # fmt: skip
COMMON = {
  "in_channels": 16,
  "out_channels": 16,
  "image_tokens": False,
  "frequencies": 256,
  "text_dim": 4096,
}


def write_sparse(path: pathlib.Path, sizes: dict) -> int:
  """A .safetensors file of float32 holes; returns its size."""
  header, offset = {}, 0
  for match in expected_tensors(wan.NATIVE, wan.shapes_of(sizes)):
    size = 4
    for n in match.shape:
      size *= n
    header[match.name] = {
      "dtype": "F32",
      "shape": list(match.shape),
      "data_offsets": [offset, offset + size],
    }
    offset += size
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
  parser.add_argument("--limit", type=float, default=6, help="GiB")
  args = parser.parse_args()
  with tempfile.TemporaryDirectory(dir=args.scratch) as folder:
    source = pathlib.Path(folder) / "model.safetensors"
    size = write_sparse(source, COMMON | SIZES[args.size])
    command = [sys.executable, "-m", "ccl_jax.convert", "wan-dit", "--verify"]
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
