"""Attention on a mesh: which device attends to what.

Tokens are (b, t, s, n, d): batch over `data` and `fsdp`, heads n over `tensor`, and the
video's space s over `context`. Kernels see one device's arrays, inside `shard_map`.

  self-attention   every query needs every key. Ulysses: an all-to-all trades space for
                   heads, each device attends with n / context heads to the whole clip,
                   and back. Ring, where the heads do not divide: keys and values go
                   round the devices, partial results are joined by their log-sum-exps
  to text          keys are whole on every device: nothing moves
  from audio       every device holds its part of each frame's keys: partial softmaxes
                   are joined by a maximum and sums of the size of the audio's queries.
                   Nothing of the size of the video is moved

Each is exact: sharded and whole give the same numbers up to rounding.
"""

import functools

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Bool, Float

from ccl_jax.ops.attention import Keys, context_attention, joined_softmax
from ccl_jax.ops.kernels import Kernel
from ccl_jax.sharding import spec

Tokens = Float[Array, "b t s n d"]
AXIS = "context"


def self_attention(q: Tokens, k: Tokens, v: Tokens, kernel: Kernel) -> Tokens:
  """Attention of every token of a sample to every other, on the mesh in use.

  Without a mesh, or with one device, the kernel sees whole arrays.

  Args:
    q, k, v: tokens (b, t, s, n, d), as they are sharded on the mesh.
    kernel: what multiplies on one device.
  """
  mesh = jax.sharding.get_abstract_mesh()
  if mesh.empty or mesh.size == 1:
    return _whole(q, k, v, kernel)
  axes = spec(("batch", None, "space", "heads", None), q.shape, mesh)
  parts = mesh.shape[AXIS] if axes[2] else 1
  heads = q.shape[3] // (mesh.shape["tensor"] if axes[3] else 1)
  if parts == 1:
    body = functools.partial(_whole, kernel=kernel)
  # Ulysses moves each array once; the ring moves keys once per device.
  elif heads % parts == 0:
    body = functools.partial(_ulysses, kernel=kernel)
  else:
    body = functools.partial(_ring, parts=parts, chunk=kernel.block_q)
  return _mapped(body, mesh, (axes, axes, axes), axes)(q, k, v)


def text_attention(
  q: Tokens, k: Float[Array, "b l n d"], v: Float[Array, "b l n d"], kernel: Kernel
) -> Tokens:
  """Attention of every token of a sample to the l tokens of its text.

  Args:
    q: tokens (b, t, s, n, d), as they are sharded on the mesh.
    k, v: of the text, whole on every device but for the heads.
    kernel: what multiplies on one device.
  """

  def body(q, k, v):
    b, t, s, n, d = q.shape
    return kernel(q.reshape(b, t * s, n, d), k, v).reshape(q.shape)

  mesh = jax.sharding.get_abstract_mesh()
  if mesh.empty or mesh.size == 1:
    return body(q, k, v)
  axes = spec(("batch", None, "space", "heads", None), q.shape, mesh)
  keys = P(axes[0], None, axes[3], None)
  return _mapped(body, mesh, (axes, keys, keys), axes)(q, k, v)


def frame_attention(
  q: Float[Array, "b f q n d"],
  context: Keys | None,
  keys: Keys | None,
  mask: Bool[Array, "#b #f k"] | None,
) -> tuple[Float[Array, "b f q n d"], Float[Array, "b f q"]]:
  """`context_attention` of the audio to each video frame's tokens k, over `context`."""
  mesh = jax.sharding.get_abstract_mesh()
  if keys is None or mesh.empty or mesh.size == 1:
    return context_attention(q, context, keys, mask)
  whole = spec(("batch", None, None, "heads", None), q.shape, mesh)
  split = spec(("batch", None, "space", "heads", None), keys[0].shape, mesh)
  if not split[2]:
    return context_attention(q, context, keys, mask)
  operands, axes = {"q": q, "keys": keys}, {"q": whole, "keys": (split, split)}
  if context is not None:
    operands["context"], axes["context"] = context, (P(None, whole[3], None),) * 2
  if mask is not None:
    operands["mask"] = mask
    axes["mask"] = P(
      whole[0] if mask.shape[0] > 1 else None,
      None,
      split[2] if mask.shape[2] > 1 else None,
    )

  def body(x):
    return joined_softmax(
      x["q"],
      x.get("context"),
      x["keys"],
      x.get("mask"),
      maximum=lambda x: lax.pmax(x, AXIS),
      total=lambda x: lax.psum(x, AXIS),
      heads=(lambda x: lax.pmean(x, "tensor")) if whole[3] else (lambda x: x),
    )

  out = whole, P(whole[0], None, None)
  return _mapped(body, mesh, (axes,), out)(operands)


def _mapped(body, mesh, in_specs, out_specs):
  # Kernels in Pallas do not say over which axes their results vary.
  return jax.shard_map(
    body, mesh=mesh, in_specs=in_specs, out_specs=out_specs, check_vma=False
  )


def _whole(q: Tokens, k: Tokens, v: Tokens, kernel: Kernel) -> Tokens:
  flat = lambda x: x.reshape(x.shape[0], -1, *x.shape[3:])
  return kernel(flat(q), flat(k), flat(v)).reshape(q.shape)


def _ulysses(q: Tokens, k: Tokens, v: Tokens, kernel: Kernel) -> Tokens:
  """Space to heads, attention, heads to space."""
  # (b, t, s / p, n, d) to (b, t, s, n / p, d), and back.
  to_heads = lambda x: lax.all_to_all(x, AXIS, split_axis=3, concat_axis=2, tiled=True)
  to_space = lambda x: lax.all_to_all(x, AXIS, split_axis=2, concat_axis=3, tiled=True)
  return to_space(_whole(to_heads(q), to_heads(k), to_heads(v), kernel))


def _ring(q: Tokens, k: Tokens, v: Tokens, parts: int, chunk: int) -> Tokens:
  """Ring attention: every device's keys pass by every device's queries in turn.

  With running maximum m, sum l and values o of the softmax over the keys so far,

    m' = max(m, max x),  l' = l e^(m - m') + sum e^(x - m'),  o' likewise
  """
  b, t, s, n, d = q.shape
  size = min(chunk, t * s)
  count = -(-t * s // size)
  flat = q.reshape(b, t * s, n, d)
  flat = jnp.pad(flat, ((0, 0), (0, count * size - t * s), (0, 0), (0, 0)))
  blocks = flat.reshape(b, count, size, n, d).swapaxes(0, 1)
  around = [(i, (i + 1) % parts) for i in range(parts)]

  @jax.checkpoint  # logits are made again in the backward pass
  def part(q, k, v):
    x = jnp.einsum("bqnd,bknd->bnqk", q, k, preferred_element_type=jnp.float32)
    x = x * d**-0.5
    # The maximum cancels in the quotient, so it has no gradient.
    m = lax.stop_gradient(x.max(-1))
    w = jnp.exp(x - m[..., None])
    # m, l and o of one part of the keys.
    return m, w.sum(-1), jnp.einsum("bnqk,bknd->bnqd", w.astype(v.dtype), v)

  def attend(stats, k, v):
    m, total, out = stats
    new_m, new_total, new_out = lax.map(lambda q: part(q, k, v), blocks)
    top = jnp.maximum(m, new_m)
    # Both parts to the common maximum: m' of the docstring.
    old, new = jnp.exp(m - top), jnp.exp(new_m - top)
    total = total * old + new_total * new
    out = out * old[..., None] + new_out.astype(jnp.float32) * new[..., None]
    return top, total, out

  def step(carry, _):
    stats, k, v = carry
    # Keys go on while they are attended to: the next ones come in the meantime.
    following = (lax.ppermute(x, AXIS, around) for x in (k, v))
    return (attend(stats, k, v), *following), None

  zeros = jnp.zeros((count, b, n, size), jnp.float32)
  start = zeros - 1e30, zeros, jnp.zeros((*zeros.shape, d))
  keys = lambda x: x.reshape(b, t * s, n, d)
  # The last keys to come are attended to and sent no further.
  last, _ = lax.scan(step, (start, keys(k), keys(v)), length=parts - 1)
  _, total, out = attend(*last)
  out = (out / total[..., None]).astype(q.dtype)  # count b n q d
  out = out.transpose(1, 0, 3, 2, 4).reshape(b, count * size, n, d)
  return out[:, : t * s].reshape(q.shape)
