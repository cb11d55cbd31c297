"""Turns media into a set of latents, to train from at scale.

  python -m ccl_jax.encode --config=configs/encode.py:data=FILMS,out=SET
  python -m ccl_jax.encode \\
      --config=configs/encode.py:data=FILMS,codecs=CODECS,out=SET,clips=81x480x832@16

Without CODECS the embedded codecs are fitted to the data. The set is made shard by
shard; a shard appears when it is whole, so the same command goes on after any
interruption. On N machines that share a disk, run it with --process_count=N and
--process_index=0 to N - 1, or on the hosts of a pod with --distributed.

--check=N also decodes N records back to files in SET/check, for the eye and the ear.
"""

from ccl_jax import progress

if __name__ == "__main__":
  progress.starting()  # before the imports that take seconds

import jax
from absl import flags
from ml_collections import config_flags

from ccl_jax import cli
from ccl_jax.data.sets.buckets import KINDS, Bucket
from ccl_jax.encoding.run import encode
from ccl_jax.errors import UsageError
from ccl_jax.processes import join_processes
from ccl_jax.sharding import require_devices

CONFIG = config_flags.DEFINE_config_file(
  "config", None, "Config file, with its arguments: FILE:NAME=VALUE,..."
)
INDEX = flags.DEFINE_integer("process_index", 0, "Number of this process, from 0.")
COUNT = flags.DEFINE_integer(
  "process_count", 1, "Number of processes that share the work."
)
DISTRIBUTED = flags.DEFINE_bool(
  "distributed", False, "Run as one of the hosts of a TPU pod or Slurm job."
)
CHECK = flags.DEFINE_integer("check", 0, "Number of records to decode into OUT/check.")
BUCKETS = (
  *("config.data.root", "config.data.options.captions", "config.out"),
  "config.codec.path",
)
flags.mark_flags_as_required(["config"])


def silence(index):
  """Lines on the clips of a set that have no sound to learn from.

  Args:
    index: content of its index.json.
  """
  count = {kind: 0 for kind in KINDS}
  for entry in index["buckets"].values():
    count[Bucket(**entry["shape"]).kind] += entry["records"]
  films, heard = count["film"] + count["silent"], count["film"] + count["sound"]
  if count["silent"]:
    yield f"{count['silent']} of {films} films have no sound track"
  if index.get("silent"):
    yield f"{index['silent']} of {heard} clips with sound are silent (below -60 dBFS)"


def main():
  """Encodes by the flags, and prints what the set holds once it is whole."""
  config = cli.require_config(
    CONFIG.value, ("data.root", "out", "clips", "codec"), "configs/encode.py:data=DIR"
  )
  if CHECK.value < 0:
    raise UsageError(f"--check is {CHECK.value}; expected a number from 0 on")
  if DISTRIBUTED.value:
    join_processes(instead="--process_index and --process_count in its place")
  for key, value in (("data=DIR", config.data.root), ("out=DIR", config.out)):
    if not value:
      raise UsageError(f"say where: --config=configs/encode.py:{key}")
  require_devices()
  index, count = INDEX.value, COUNT.value
  if DISTRIBUTED.value:
    index, count = jax.process_index(), jax.process_count()
  done = encode(config, index, count)
  if done is None:
    print("this process is done; the last one to finish completes the set")
    return
  sizes = ", ".join(f"{b['records']} of {name}" for name, b in done["buckets"].items())
  print(
    f"{config.out}: {done['records']} records ({sizes}), {done['bytes'] / 1e6:.1f} MB, "
    f"{done['skipped']} skipped (report.jsonl)"
  )
  for line in silence(done):
    print(line)
  if CHECK.value:
    from ccl_jax.encoding.inspect import decode_some

    for path in decode_some(config.out, CHECK.value):
      print(path)


if __name__ == "__main__":
  cli.run(main, BUCKETS)
