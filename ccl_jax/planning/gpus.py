"""NVIDIA's GPUs as XLA's compiler needs to know them, to compile for absent ones.

The compiler is in the wheels of the extra [plan-gpu]; it asks no driver and no library
of CUDA. Two things differ from a program that is compiled where a GPU is:

  products   whether cuBLAS or Triton multiplies is measured on the GPU; here it is
             cuBLAS, since Triton's blocks are not to be had without measuring
  cuDNN      calls are written without their library: what they need to work in is none
"""

import contextlib
import os
from collections.abc import Iterator
from typing import NamedTuple
from unittest import mock

import jax
from jax._src.cudnn import fused_attention_stablehlo as attention

from ccl_jax.errors import UsageError
from ccl_jax.planning.chips import CHIPS, MACHINE

WHEELS = ("jax-cuda12-pjrt", "nvidia-cuda-nvcc-cu12")
_CUDNN = 91000  # 9.10.0, as its own version numbers have it


class Gpu(NamedTuple):
  """What a compiler asks of a GPU, by NVIDIA's programming guide and its driver.

  Attributes:
    name: as the driver tells it.
    capability: (major, minor).
    cores: streaming multiprocessors.
    lanes: float32 units of one.
    shared: bytes of shared memory of one; and `block`, the most that a block may take.
    l2: bytes of cache.
    clock: GHz.
  """

  name: str
  capability: tuple[int, int]
  cores: int
  lanes: int
  shared: int
  block: int
  l2: int
  clock: float


_KIB = 1024
_HOPPER = (9, 0), 132, 128, 228 * _KIB, 227 * _KIB, 50 * _KIB**2, 1.98
GPUS = {
  "H100": Gpu("NVIDIA H100 80GB HBM3", *_HOPPER),
  "H200": Gpu("NVIDIA H200", *_HOPPER),
  "A100": Gpu(
    "NVIDIA A100-SXM4-80GB", (8, 0), 108, 64, 164 * _KIB, 163 * _KIB, 40 * _KIB**2, 1.41
  ),
}


def gpu_devices(kind: str, count: int) -> list:
  """So many GPUs that are not there, on machines of `chips.MACHINE`.

  Args:
    kind: a name of `GPUS`.
    count: at most a machine's, or a multiple of it.

  Raises:
    UsageError: the compiler is not installed, or not for this version of JAX.
  """
  from jax.experimental import topologies

  # Of CUDA's libraries none is needed, so that their versions do not matter.
  os.environ.setdefault("JAX_SKIP_CUDA_CONSTRAINTS_CHECK", "1")
  given = os.environ.get("XLA_FLAGS", "")
  if "xla_gpu_enable_triton_gemm" not in given:  # read when a backend is first used
    os.environ["XLA_FLAGS"] = f"{given} --xla_gpu_enable_triton_gemm=false".strip()
  machines = max(count // MACHINE, 1)
  try:
    topology = topologies.get_topology_desc(
      platform="cuda",
      # Islands that NVLink joins, machines in one, GPUs of one.
      topology=f"{machines}x1x{count // machines}",
      target_config=target(kind),
    )
  except (NotImplementedError, RuntimeError) as e:
    why = " ".join(str(e).split())[:200]
    raise UsageError(
      f"cannot compile for {kind}: {why}; pip install 'ccl_jax[plan-gpu]' with "
      f"jax-cuda12-plugin=={jax.__version__}, in an environment of its own"
    ) from e
  return topology.devices


def target(kind: str) -> str:
  """A GPU as XLA's `GpuTargetConfigProto`, in protobuf's text form.

  Args:
    kind: a name of `GPUS`.
  """
  gpu, chip = GPUS[kind], CHIPS[kind]
  major, minor = gpu.capability
  # Instructions of this one generation alone, such as Hopper's products.
  special = "feature_extension: ACCELERATED_FEATURES" if major >= 9 else ""
  version = f"{_CUDNN // 10000}.{_CUDNN // 100 % 100}.{_CUDNN % 100}"
  numbers = version.split(".")
  return f"""
    gpu_device_info {{
      cuda_compute_capability {{ major: {major} minor: {minor} {special} }}
      core_count: {gpu.cores} fpus_per_core: {gpu.lanes} clock_rate_ghz: {gpu.clock}
      shared_memory_per_core: {gpu.shared} shared_memory_per_block: {48 * _KIB}
      shared_memory_per_block_optin: {gpu.block} l2_cache_size: {gpu.l2}
      device_memory_size: {int(chip.hbm)} memory_bandwidth: {int(chip.hbm_rate)}
      threads_per_warp: 32 threads_per_block_limit: 1024 threads_per_core_limit: 2048
      registers_per_core_limit: 65536 registers_per_block_limit: 65536
      thread_dim_limit_x: 1024 thread_dim_limit_y: 1024 thread_dim_limit_z: 64
      block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
      runtime_version: "12.9.0" driver_version: "12.9.0" dnn_version: "{version}"
    }}
    platform_name: "CUDA" device_description_str: "{gpu.name}"
    dnn_version_info {{
      major: {numbers[0]} minor: {numbers[1]} patch: {numbers[2]}
    }}
  """


@contextlib.contextmanager
def cudnn_of(kind: str) -> Iterator[None]:
  """While it lasts, JAX writes calls of cuDNN's attention for a GPU of this kind; else
  it would ask the library and the GPU of this machine first. Of a TPU nothing changes.

  Args:
    kind: a name of `chips.CHIPS`.
  """
  if kind not in GPUS:
    yield
    return
  have = GPUS[kind].capability
  asked = lambda text: tuple(int(part) for part in text.split("."))
  with mock.patch.multiple(
    attention,
    check_cudnn_version=lambda: _CUDNN,
    check_compute_capability=lambda text: have >= asked(text),
    is_cuda_compute_capability_equal=lambda text: have == asked(text),
  ):
    yield
