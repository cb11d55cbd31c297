"""GPUs that are not there: how the compiler is told of them, and what it makes."""

import os
import re

import jax
import jax.numpy as jnp
import pytest
from jax._src.cudnn import fused_attention_stablehlo as attention
from jax.experimental import topologies

from ccl_jax.errors import UsageError
from ccl_jax.planning.chips import CHIPS
from ccl_jax.planning.gpus import GPUS, cudnn_of, gpu_devices, target
from ccl_jax.planning.launches import launches
from ccl_jax.planning.program import Program
from ccl_jax.planning.topologies import compiler, parse_topology

# By NVIDIA's programming guide: capability, multiprocessors, and in KiB the shared
# memory of a multiprocessor and of a block.
SHEETS = {"H100": (9, 132, 228, 227), "H200": (9, 132, 228, 227), "A100": (8, 108, 164, 163)}  # fmt: skip  # noqa: E501


@pytest.mark.parametrize("kind", GPUS)
def test_what_the_compiler_is_told(kind):
  told = dict(re.findall(r'(\w+): "?([\w.]+)', target(kind)))
  major, cores, shared, block = SHEETS[kind]
  assert f"major: {major} minor: 0" in target(kind)
  assert int(told["core_count"]) == cores
  assert int(told["shared_memory_per_core"]) == shared * 1024
  assert int(told["shared_memory_per_block_optin"]) == block * 1024
  assert int(told["device_memory_size"]) == int(CHIPS[kind].hbm)
  assert int(told["memory_bandwidth"]) == int(CHIPS[kind].hbm_rate)
  # Hopper's own instructions; older ones have none of their own.
  assert ("ACCELERATED" in target(kind)) == (major == 9)


@pytest.mark.parametrize(
  ("count", "shape"), [(1, "1x1x1"), (4, "1x1x4"), (64, "8x1x8")]
)
def test_machines_of_eight(monkeypatch, count, shape):
  asked = []
  monkeypatch.setenv("XLA_FLAGS", "--xla_x=1")

  def described(**settings):
    asked.append(settings)
    raise NotImplementedError("topology not implemented for cuda")

  monkeypatch.setattr(topologies, "get_topology_desc", described)
  with pytest.raises(UsageError, match=r"H200: topology not .*'ccl_jax\[plan-gpu\]'"):
    gpu_devices("H200", count)
  assert asked[0]["topology"] == shape and asked[0]["platform"] == "cuda"
  assert "H200" in asked[0]["target_config"]
  # Triton's blocks for a product are measured, where there is a GPU.
  products = "--xla_x=1 --xla_gpu_enable_triton_gemm=false"
  assert os.environ["XLA_FLAGS"] == products
  with pytest.raises(UsageError):
    gpu_devices("H200", 8)
  assert os.environ["XLA_FLAGS"] == products


def test_the_compiler_is_named():
  try:
    assert re.fullmatch(r"jax [\d.]+, jax-cuda12-pjrt .*", compiler("H100:8"))
  except UsageError as e:
    assert "for H100 is missing" in str(e) and "ccl_jax[plan-gpu]" in str(e)


def test_cudnn_is_asked_of_no_machine():
  """The planned GPU answers; afterwards and for TPUs JAX asks as ever."""
  asks = attention.check_cudnn_version
  with cudnn_of("H100"):
    assert attention.check_cudnn_version() == 91000
    assert attention.check_compute_capability("8.0")
    assert attention.check_compute_capability("9.0")
    assert not attention.check_compute_capability("10.0")
    assert not attention.is_cuda_compute_capability_equal("10.3")
  assert attention.check_cudnn_version is asks
  with cudnn_of("v6e"):
    assert attention.check_cudnn_version is asks


# As XLA 0.10.2 writes them for an H100, shortened.
TEXT = """
HloModule jit_step, is_scheduled=true, num_partitions=8
%body (p: (f32[4])) -> (f32[4]) {
  %gemm_fusion_dot.1 = bf16[8,8]{1,0} fusion(%a, %b), kind=kCustom, calls=%inside, backend_config={"fusion_backend_config":{"kind":"__triton_nested_gemm_fusion","block_level_fusion_config":{}}}
  %fusion.2 = bf16[8,8]{1,0} fusion(%a), kind=kCustom, calls=%inside, backend_config={"fusion_backend_config":{"kind":"__triton"}}
  %slice.1 = bf16[8,8]{1,0} fusion(%a), kind=kCustom, calls=%inside, backend_config={"operation_queue_id":"0","fusion_backend_config":{"kind":"__custom_fusion","custom_fusion_config":{"name":"dynamic_slice_fusion","kernel_index":0}}}
  %cublas.1 = (bf16[8,8]{1,0}, s8[4194304]{0}) custom-call(%a, %b), custom_call_target="__cublas$lt$matmul"
  %fmha.1 = (bf16[1,8,64,128]{3,1,2,0}, f32[1,8,64]{2,1,0}, u8[0]{0}) custom-call(%q, %k, %v), custom_call_target="__cudnn$fmhaSoftmax"
  %fmha.2 = (bf16[1,8,64,128]{3,1,2,0}, u8[0]{0}) custom-call(%q, %k, %v), custom_call_target="__cudnn$fmhaSoftmaxBackward"
}
%inside (a: bf16[8,8]) -> bf16[8,8] {
  %copy.3 = bf16[8,8]{0,1} copy(%a)
}
ENTRY %main (p: (f32[4])) -> f32[4] {
  %copy.1 = f32[4]{0} copy(%x)
  %loop.1 = f32[4]{0} fusion(%x), kind=kLoop, calls=%inside
  %input.1 = f32[4]{0} fusion(%x), kind=kInput, calls=%inside
  %part = f32[4]{0} custom-call(%x), custom_call_target="Sharding"
  %all-reduce.1 = f32[4] all-reduce(%p), replica_groups={{0,1}}, to_apply=%add
  %w = (f32[4]) while(%p), condition=%c, body=%body, backend_config={"known_trip_count":{"n":"5"}}
}
"""  # noqa: E501


def test_what_a_program_starts():
  """By kind, and in a loop of five rounds five times; the inside of a fusion is one."""
  assert launches(Program(TEXT)) == {
    "Triton product": 5, "Triton fusion": 5, "cuBLAS product": 5, "cuDNN attention": 5,
    "dynamic_slice fusion": 5, "cuDNN attention, backward": 5, "copy": 1,
    "elementwise fusion": 1, "reduction or transpose fusion": 1,
  }  # fmt: skip


def test_of_a_program_of_several_steps_one_is_told():
  """Of five rounds, which are steps; what is outside of them counts in full."""
  found = launches(Program(TEXT), steps=5)
  assert found["cuBLAS product"] == found["copy"] == 1


def test_attention_is_compiled_for_a_gpu_without_gpu_and_cudnn(monkeypatch):
  pytest.importorskip("jax_plugins.xla_cuda12", reason="needs the extra [plan-gpu]")
  monkeypatch.delenv("XLA_FLAGS", raising=False)
  chip, devices = parse_topology("H100:16")
  assert len(devices) == 16 and chip is CHIPS["H100"]
  assert [d.process_index for d in devices] == [0] * 8 + [1] * 8
  mesh = jax.make_mesh((8,), ("x",), devices=devices[:8])
  x = jax.ShapeDtypeStruct(
    (8, 256, 2, 128), jnp.bfloat16, sharding=jax.NamedSharding(mesh, jax.P("x"))
  )
  attend = lambda q: (
    jax.nn.dot_product_attention(q, q, q, implementation="cudnn").astype("f4").sum()
  )
  with cudnn_of("H100"), jax.set_mesh(mesh):
    compiled = jax.jit(jax.grad(attend)).lower(x).compile()
  found = launches(Program(compiled.as_text()))
  assert found["cuDNN attention"] == found["cuDNN attention, backward"] == 1
