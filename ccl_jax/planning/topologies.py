"""Devices of machines that are not there, for the compiler to compile for."""

import importlib.metadata
import os
import re
import textwrap
from typing import Any

import jax

from ccl_jax.errors import UsageError
from ccl_jax.planning.chips import CHIPS, MACHINE, Chip
from ccl_jax.planning.gpus import GPUS, WHEELS, gpu_devices

TPUS = tuple(name for name in CHIPS if name.startswith("v"))


# The compiler runs on this host, and asks nobody where it is.
_ALONE = {
  "TPU_SKIP_MDS_QUERY": "1",
  "ALLOW_MULTIPLE_LIBTPU_LOAD": "true",
  "TPU_WORKER_HOSTNAMES": "localhost",
  "TPU_WORKER_ID": "0",
  # Of any machine: libtpu warns where it finds none, and no topology depends on it.
  "TPU_ACCELERATOR_TYPE": "v5p-8",
}


def stay_on_the_host() -> None:
  """Arrays of this process lie on this host, whatever it compiles for."""
  # JAX has read JAX_PLATFORMS when it was imported.
  jax.config.update("jax_platforms", "cpu")


def parse_topology(name: str, slices: int = 1) -> tuple[Chip, list]:
  """The chip, and the devices that the topology has.

  Args:
    name: KIND:AxB or KIND:AxBxC of TPUs, H100:N of GPUs, or cpu:N.
    slices: how many of them a data-centre network joins.

  Raises:
    UsageError: no such kind or arrangement, or no compiler for it.
  """
  kind, _, shape = name.partition(":")
  joined = [k for k in TPUS if CHIPS[k].network_rate]
  if slices < 1 or (slices > 1 and kind not in joined):
    raise UsageError(
      f"--slices {slices} of --topology {name}: expected 1 or, of "
      f"{', '.join(joined)}, more"
    )
  if kind == "cpu" and shape.isdigit():
    devices = jax.devices("cpu")
    if len(devices) < int(shape):
      raise UsageError(
        f"--topology {name}: this host shows {len(devices)} devices; set "
        f"JAX_NUM_CPU_DEVICES={shape}"
      )
    return CHIPS[kind], devices[: int(shape)]
  if kind in GPUS and re.fullmatch(r"[1-9]\d{0,4}", shape):
    count = int(shape)
    if count > MACHINE and count % MACHINE:
      raise UsageError(
        f"--topology {name}: expected at most {MACHINE} GPUs, those of a machine, or a "
        f"multiple of {MACHINE}: {kind}:{count // MACHINE * MACHINE} or "
        f"{kind}:{-(-count // MACHINE) * MACHINE}"
      )
    return CHIPS[kind], gpu_devices(kind, count)
  # A side of 0 ends the process within libtpu.
  if kind not in TPUS or not re.fullmatch(r"[1-9]\d{0,3}(x[1-9]\d{0,3}){1,2}", shape):
    raise UsageError(
      f"--topology {name}: expected KIND:AxB or AxBxC with KIND one of "
      f"{', '.join(TPUS)}, e.g. v5p:4x4x4 or v6e:8x8; or GPUs, {' or '.join(GPUS)}, "
      "e.g. H100:64; or cpu:8"
    )
  from jax.experimental import topologies

  os.environ |= _ALONE
  # Both cores of a chip are one device, as on pods; of a v4 only if asked for.
  cores = CHIPS[kind].cores
  asked = {"chip_config_name": "megacore"} if cores > 1 else {}
  if slices > 1:
    asked["num_slices"] = slices
  try:
    topology = topologies.get_topology_desc(platform="tpu", topology_name=name, **asked)
  except Exception as e:  # the compiler's own, of several types
    text = str(e).splitlines()[0][:200]
    if "libtpu" in str(e).lower() and "topology" not in str(e).lower():
      raise UsageError(
        f"cannot compile for {name}: {text}; pip install 'ccl_jax[tpu]'"
      ) from e
    raise UsageError(
      f"--topology {name}: {text}; v5p and v4 take AxBxC with sides 2, 4, 8, 12, 16, "
      "v6e and v5e AxB such as 4x4, 8x8, 16x16"
    ) from e
  return CHIPS[kind], topology.devices


def compiler(topology: str) -> str:
  """The packages that compile for a topology, with their versions.

  Raises:
    UsageError: one of them is not installed.
  """
  kind = topology.partition(":")[0]
  names = ["jax", *{"cpu": ()}.get(kind, WHEELS if kind in GPUS else ("libtpu",))]
  try:
    return ", ".join(f"{name} {importlib.metadata.version(name)}" for name in names)
  except importlib.metadata.PackageNotFoundError as e:
    raise UsageError(
      f"the compiler for {kind} is missing ({e}): pip install "
      f"'ccl_jax[{'plan-gpu' if kind in GPUS else 'tpu'}]'"
    ) from e


def text_of(compiled: Any) -> str:
  """The text of a compiled program, in the order in which it runs.

  Args:
    compiled: a `jax.stages.Compiled`.

  Raises:
    UsageError: libtpu is newer than this JAX, which cannot read what it writes.
    JaxRuntimeError: the text cannot be read, and libtpu is not installed.
  """
  try:
    return compiled.as_text()
  except jax.errors.JaxRuntimeError as e:
    try:
      libtpu = importlib.metadata.version("libtpu")
    except importlib.metadata.PackageNotFoundError:
      raise e from None
    raise UsageError(
      f"jax {jax.__version__} cannot read what libtpu {libtpu} compiles "
      f"({textwrap.shorten(str(e), 60)}): install the one it asks for, "
      f"pip install 'jax[tpu]=={jax.__version__}'"
    ) from e


def one_chip(kind: str):
  """A sharding on one TPU of a kind, to compile a single operation for."""
  # One of a host's four: a topology of one chip is none to every version of libtpu.
  shape = "2x2" if kind in ("v5e", "v6e") else "2x2x1"
  _, devices = parse_topology(f"{kind}:{shape}")
  return jax.sharding.SingleDeviceSharding(devices[0])
