"""Compiles the real train step for a machine that is not there, and says if it fits.

  python -m ccl_jax.plan --config=configs/joint.py:size=14b --topology v5p:4x4x4 \\
      --mesh 1,64,1,1 --batch 64 --config.clip.frames=81 --config.clip.height=480 \\
      --config.clip.width=832
  python -m ccl_jax.plan ... --generate            a sampling step, bf16 parameters; and
                                                   the memory of text and decoding
  python -m ccl_jax.plan ... --generate --vae_tile 256   whose video is decoded by tiles
  python -m ccl_jax.plan ... --slices 2            two of them, by a data-centre network
  python -m ccl_jax.plan ... --sweep               all meshes and remat policies
  python -m ccl_jax.plan ... --out docs/plans/14b.json --compare docs/plans/old.json

TOPOLOGY is a kind of chip and their arrangement: v5p:4x4x4, v6e:8x8, v5e:4x4, v4:2x2x2;
H100:64, H200:8 or A100:1, GPUs on machines of 8; or cpu:8, virtual devices of this host
(JAX_NUM_CPU_DEVICES=8), to try a plan quickly. For TPUs pip install 'ccl_jax[tpu]', for
GPUs 'ccl_jax[plan-gpu]' in an environment of its own; no TPU and no GPU is needed. The
14b preset takes minutes, whatever its depth.

Reported: bytes of a chip's memory against its limit; FLOPs by formula, since the
compiler counts a scan's body once and kernels not at all; what is moved between chips,
by kind, as often as it runs; and the time of a step, in two ways.

Floors, below which no program can be, with the MFU if nothing overlaps and if
everything does:

  arithmetic  FLOPs, with those made again for the backward pass, at the chip's peak
  memory      arguments and results once, temporaries written and read, at HBM's rate
  network     results of collectives, at the rate of a chip's links, or of a GPU's
              network card for what leaves its machine

The prediction, by the compiler's own estimate of each operation (planning/predict.py):
seconds by module and kind of work. It was never run; "low" takes elementwise operations
and copies at the memory's rate. `--sweep` ranks by it, and `--compare` fails where it
grew by more than 5 %. For GPUs there are floors alone. Attention kernels are priced by
a table of counted cycles: a form that is not in it is named as unknown, and
`python -m ccl_jax.bench kernels` counts it.
"""

from ccl_jax import progress

if __name__ == "__main__":
  progress.starting()  # before the imports that take seconds

import dataclasses
import sys

import jax
from absl import flags
from ml_collections import config_flags

from ccl_jax import cli, documents
from ccl_jax.errors import UsageError, whole
from ccl_jax.files import check_writable, write_json
from ccl_jax.planning.chips import GIB
from ccl_jax.planning.compile import plan, sweep
from ccl_jax.planning.gpus import GPUS
from ccl_jax.planning.report import Earlier, regressions, show
from ccl_jax.planning.topologies import parse_topology, stay_on_the_host

CONFIG = config_flags.DEFINE_config_file(
  "config", None, "Config file of the run to plan."
)
TOPOLOGY = flags.DEFINE_string(
  "topology", "v5p:4x4x4", "Kind and arrangement of the chips, KIND:AxBxC."
)
SLICES = flags.DEFINE_integer(
  "slices", 1, "Such topologies that a data-centre network joins."
)
MESH = flags.DEFINE_list(
  "mesh",
  None,
  "Sizes of the axes data,fsdp,context,tensor; default: slices on data, chips on fsdp, "
  "or as generate chooses them.",
)
BATCH = flags.DEFINE_integer(
  "batch", None, "Clips; default: one per chip, or one with --generate."
)
GENERATE = flags.DEFINE_bool("generate", False, "Plan a generation, not a train step.")
VAE_TILE = flags.DEFINE_string(
  "vae_tile",
  "auto",
  "With --generate: side of the tiles that the video is decoded by, in pixels, or off; "
  "auto: compiled whole and, if there is no room, by tiles.",
)
SWEEP = flags.DEFINE_bool("sweep", False, "Compare all meshes and remat policies.")
OUT = flags.DEFINE_string("out", None, "JSON file to write the report to.")
COMPARE = flags.DEFINE_string(
  "compare",
  None,
  "Earlier report; exit with 1 if memory, traffic or predicted time grew.",
)
flags.mark_flags_as_required(["config"])


def main():
  """Plans by the flags, and prints the reports."""
  stay_on_the_host()
  config = cli.require_config(
    CONFIG.value, ("model.attention", "objective", "clip", "optim"), "configs/joint.py"
  )
  if BATCH.present and not whole(1).holds(BATCH.value):
    raise UsageError(f"--batch: got {BATCH.value}; expected {whole(1).words}")
  if config.model.attention == "auto":
    kind = TOPOLOGY.value.partition(":")[0]
    own = {"cpu": "chunked"} | dict.fromkeys(GPUS, "cudnn")
    config = config.copy_and_resolve_references().unlock()
    config.model.attention = own.get(kind, "splash")
  if VAE_TILE.present and not GENERATE.value:
    raise UsageError("--vae_tile does nothing without --generate")
  if OUT.value:
    check_writable(OUT.value)
  earlier = None
  if COMPARE.value:
    found = documents.read_json(COMPARE.value)
    advice = "name a file that --out wrote"
    earlier = documents.check(found, Earlier, COMPARE.value, advice)
  slices = SLICES.value
  if slices > 1:  # programs of several slices are written to caches but not read
    jax.config.update("jax_enable_compilation_cache", False)
  chip, devices = parse_topology(TOPOLOGY.value, slices)
  batch = BATCH.value or (1 if GENERATE.value else len(devices))
  if SWEEP.value:
    reports = list(
      sweep(config, TOPOLOGY.value, batch, GENERATE.value, slices, VAE_TILE.value)
    )
    progress.end()
    good = sorted((r for r in reports if r.fits), key=lambda r: r.rank)
    print(f"{len(good)} of {len(reports)} fit {chip.hbm / GIB:.0f} GiB; fastest first:")
    for r in good:
      incomplete, seconds = r.rank
      by = "predicted" if r.prediction else "sum of floors"
      print(f"  mesh {r.mesh} remat {r.remat}: {r.hbm_bytes / GIB:.1f} GiB, "
            f"{seconds:.2f} s ({by}{', lacks a price' * incomplete})")  # fmt: skip
    if OUT.value:
      _write([dataclasses.asdict(r) for r in reports])
    return
  shape = cli.mesh_sizes(MESH.value)
  try:
    report = plan(
      config, TOPOLOGY.value, shape, batch, GENERATE.value, slices, VAE_TILE.value
    )
  except jax.errors.JaxRuntimeError as e:
    raise UsageError(f"{TOPOLOGY.value}: {' '.join(str(e).split())[:600]}") from e
  progress.say(show(report), sys.stdout)
  if OUT.value:
    _write(dataclasses.asdict(report))
  if earlier:
    worse = regressions(report, earlier)
    print("\n".join(worse) or f"no worse than {COMPARE.value}")
    sys.exit(1 if worse else 0)


def _write(value) -> None:
  write_json(OUT.value, value, indent=2)


if __name__ == "__main__":
  cli.run(main)
