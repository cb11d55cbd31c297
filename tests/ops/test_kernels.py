"""Every attention kernel that runs here, forward and gradient, with odd lengths."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ccl_jax.errors import UsageError
from ccl_jax.ops import kernels
from ccl_jax.ops.kernels import Kernel

Q, K, HEADS, WIDTH = 301, 389, 2, 128
SPLASH = Kernel(
  "splash", block_q=128, block_kv=256, block_kv_compute=128, block_q_dkv=128,
  block_kv_dkv=128, interpret=True,
)  # fmt: skip


def normal(seed, *shape):
  return jnp.asarray(np.random.default_rng(seed).standard_normal(shape), jnp.float32)


@pytest.fixture(scope="module")
def arrays():
  return normal(0, 2, Q, HEADS, WIDTH), *(normal(i, 2, K, HEADS, WIDTH) for i in (1, 2))


def value_and_gradients(attend, arrays):
  weights = normal(3, *arrays[0].shape)
  loss = lambda q, k, v: (attend(q, k, v) * weights).sum()
  out = jax.jit(attend)(*arrays)
  return out, *jax.jit(jax.grad(loss, argnums=(0, 1, 2)))(*arrays)


def definition(q, k, v):
  scale = q.shape[-1] ** -0.5
  logits = scale * jnp.einsum("bqnd,bknd->bnqk", q, k, precision="highest")
  weights = jnp.exp(logits - logits.max(-1, keepdims=True))
  weights /= weights.sum(-1, keepdims=True)
  return jnp.einsum("bnqk,bknd->bqnd", weights, v, precision="highest")


@pytest.fixture(scope="module")
def expected(arrays):
  return value_and_gradients(definition, arrays)


@pytest.mark.parametrize(
  "kernel",
  [
    Kernel("dense"),
    Kernel("chunked", block_q=64),
    SPLASH,
    dataclasses.replace(SPLASH, block_kv=128, block_kv_dkv=256),
  ],
  ids=["dense", "chunked", "splash", "splash, larger blocks backward"],
)
def test_kernel(kernel, arrays, expected):
  for got, want in zip(value_and_gradients(kernel, arrays), expected):
    assert jnp.abs(got - want).max() < 1e-5 * jnp.abs(want).max()


@pytest.mark.parametrize("heads", [1, 2])
def test_splash_backward_by_some_heads_at_a_time(heads, arrays, expected, monkeypatch):
  """So many that parts of the gradient of queries fit: one for each block of keys."""
  parts = 2 * 4 * 384 * WIDTH * 4  # bytes of a head: 2 samples, 389 keys in 4 blocks
  monkeypatch.setattr(kernels, "PARTS", heads * parts)
  traced = jax.make_jaxpr(jax.grad(lambda q, k, v: SPLASH(q, k, v).sum()))(*arrays)
  assert f"f32[2,4,{heads},384,128]" in str(traced)
  for got, want in zip(value_and_gradients(SPLASH, arrays), expected):
    assert jnp.abs(got - want).max() < 1e-5 * jnp.abs(want).max()


@pytest.mark.parametrize("case", ["far below zero", "one key alone", "whole blocks"])
def test_splash_without_a_mask(case):
  """Padding takes nothing, whatever the logits are.

  A logit has float32's rounding, of its own size; where the key that padding copies has
  a weight w, the rounding is magnified by 1 + p w.
  """
  length, padding = (256, 0) if case == "whole blocks" else (173, 83)
  q = normal(0, 1, 40, 2, WIDTH)
  k, v = (normal(i, 1, length, 2, WIDTH) for i in (1, 2))
  if case == "far below zero":
    # Logits of -70: beside them padding with a logit of 0 would be all there is.
    q, k = q.at[..., 0].set(20.0), k.at[..., 0].set(-40.0)
  if case == "one key alone":
    k = k.at[:, 0].set(3 * q[:, 7])
  logits = jnp.einsum("bqnd,bknd->bnqk", q, k) * WIDTH**-0.5
  weight = jax.nn.softmax(logits)[..., 0].max()
  assert (weight > 0.999) == (case == "one key alone")
  bound = 8 * 2**-23 * jnp.abs(logits).max() * (1 + padding * weight)
  assert bound < 4e-3
  got, wanted = (value_and_gradients(f, (q, k, v)) for f in (SPLASH, definition))
  for x, y in zip(got, wanted):
    assert jnp.abs(x - y).max() < bound * jnp.abs(y).max()


def test_tokamax(arrays, expected):
  """With whatever it has for this device."""
  pytest.importorskip("tokamax", reason="an optional package")
  for got, want in zip(value_and_gradients(Kernel("tokamax"), arrays), expected):
    assert jnp.abs(got - want).max() < 1e-5 * jnp.abs(want).max()


def test_chunks_bound_the_memory():
  """Of a gradient: far less than the logits that the dense form holds."""
  x = jax.ShapeDtypeStruct((1, 4096, 1, 16), jnp.float32)
  sizes = {}
  for kernel in (Kernel("dense"), Kernel("chunked", block_q=256)):
    loss = lambda q, k, v: kernel(q, k, v).sum()
    compiled = jax.jit(jax.grad(loss, argnums=(0, 1, 2))).lower(x, x, x).compile()
    sizes[kernel.name] = compiled.memory_analysis().temp_size_in_bytes
  assert sizes["chunked"] < sizes["dense"] / 4, sizes


@pytest.mark.parametrize(
  ("length", "blocks", "padded"),
  [
    (32760, (1024, 2048), 32768),
    (32760, (512, 1024), 32768),
    (301, (1024, 1024), 384),
    (600, (1024, 512), 1024),
    (128, (128,), 128),
    (1500, (2048, 1024), 2048),
  ],
)
def test_lengths_are_padded_to_whole_blocks(length, blocks, padded):
  assert kernels._padded(length, *blocks) == padded
  assert all(padded % min(b, padded) == 0 for b in blocks)


@pytest.mark.parametrize(
  ("sizes", "length", "padded", "blocks"),
  [
    ({}, 32760, 32768, (2048, 1024, 8192, 1024)),
    ({}, 27280, 28672, (2048, 1024, 4096, 1024)),
    ({}, 10200, 10240, (2048, 1024, 2048, 1024)),
    ({}, 6100, 6144, (2048, 1024, 6144, 1024)),
    ({}, 1500, 2048, (2048, 1024, 2048, 1024)),
    ({}, 512, 512, (512, 512, 512, 512)),
    ({}, 257, 384, (384, 384, 384, 384)),
    ({"block_kv_dkv": 512}, 4000, 4096, (2048, 1024, 512, 512)),
  ],
)
def test_blocks_of_keys(sizes, length, padded, blocks, monkeypatch):
  """Those of the backward pass are as large as they may be without more padding."""
  programs = []
  seen = lambda program, q, k, v: programs.append(program) or q
  monkeypatch.setattr(kernels.splash, "attend", seen)
  q, k = (jax.ShapeDtypeStruct((1, n, 1, 128), jnp.float32) for n in (4096, length))
  jax.eval_shape(Kernel("splash", **sizes), q, k, k)
  names = ("kv", "kv_compute", "kv_dkv", "kv_dkv_compute")
  (program,) = programs
  assert program.sizes == (4096, padded)
  assert tuple(dict(program.blocks)[f"block_{name}"] for name in names) == blocks


@pytest.mark.parametrize("lengths", [(6, 8), (5, 8), (6, 7), (5, 7)])
def test_cudnn_is_given_even_lengths_and_sees_no_padding(lengths, monkeypatch):
  """By XLA in its place, which takes the same arguments."""
  attend, calls = jax.nn.dot_product_attention, []

  def instead(q, k, v, *, implementation, **options):
    calls.append((implementation, q.shape[1] % 2, k.shape[1] % 2))
    return attend(q, k, v, implementation="xla", **options)

  monkeypatch.setattr(jax.nn, "dot_product_attention", instead)
  q, k, v = (
    normal(i, 2, n, 3, 4) for i, n in enumerate((lengths[0], *lengths[1:] * 2))
  )
  got = Kernel("cudnn")(q, k, v)
  # A query of padding before the others, or keys of it, would show.
  expected = Kernel("dense")(q, k, v)
  assert got.shape == expected.shape
  assert jnp.abs(got - expected).max() < 1e-6 and calls == [("cudnn", 0, 0)]


def test_defaults():
  """Those that the tables of speed were measured with."""
  assert Kernel() == Kernel("dense", 2048, 2048, 1024, 1024, 8192, False)
  for platform, name in (("tpu", "splash"), ("gpu", "cudnn"), ("cpu", "dense")):
    assert kernels.default_kernel(platform) == Kernel(name)


def test_an_unknown_kernel():
  with pytest.raises(UsageError, match="got 'flash'; expected one of dense, chunked"):
    Kernel("flash")
