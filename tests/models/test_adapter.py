"""A part of a model that is trained on top of the rest, by products made by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

from ccl_jax.errors import UsageError
from ccl_jax.models.adapter import LAYERS, Adapter, pairs_of
from ccl_jax.sharding import parameter_axes

RNG = np.random.default_rng(0)
SHAPES = {
  "blocks/video/self_attn/q/kernel": (3, 6, 8),
  "blocks/video/self_attn/q/bias": (3, 8),
  "blocks/video/ffn/in/kernel": (3, 6, 10),
  "blocks/audio_to_video/k/kernel": (3, 5, 8),
  "blocks/audio_to_video/k/bias": (3, 8),
  "blocks/audio_to_video/context": (3, 4, 5),
  "audio/patch_embedding/in/kernel": (7, 4, 6),
}
KEY = jax.random.key(0)


def tree(dtype=np.float32):
  flat = {p: RNG.standard_normal(s).astype(dtype) for p, s in SHAPES.items()}
  return traverse_util.unflatten_dict(flat, sep="/")


def flat(x):
  return traverse_util.flatten_dict(jax.device_get(x), sep="/")


def test_it_starts_as_the_model():
  """Bit for bit, in the dtypes that the parameters have."""
  adapter, base = Adapter(2, 4.0, layers="attention"), tree()
  trained = adapter.trained(base, KEY)
  assert {p: x.shape for p, x in flat(trained).items()} == {
    "adapted/blocks/video/self_attn/q/kernel/a": (3, 6, 2),
    "adapted/blocks/video/self_attn/q/kernel/b": (3, 2, 8),
  }
  a = flat(trained)["adapted/blocks/video/self_attn/q/kernel/a"]
  assert a.std() > 0.1 and (a[0] != a[1]).any()
  other = flat(adapter.trained(base, jax.random.key(1)))
  assert (other["adapted/blocks/video/self_attn/q/kernel/a"] != a).any()
  half = jax.tree.map(lambda x: x.astype(jnp.bfloat16), base)
  for start in (base, half):
    got = flat(adapter.applied(start, trained))
    for path, x in flat(start).items():
      assert got[path].dtype == x.dtype and (got[path] == x).all(), path


def test_what_is_trained_is_put_in():
  """W + alpha / rank A B by block, or by tap of a convolution; and whole parameters."""
  pattern = r"blocks/video/.*|audio/patch_embedding/.*"
  adapter, base = Adapter(2, 3.0, layers=pattern, whole="exchange"), tree()
  trained = adapter.trained(base, KEY)
  assert sorted(p for p, _, _ in pairs_of(trained)) == [
    "audio/patch_embedding/in/kernel",
    "blocks/video/ffn/in/kernel",
    "blocks/video/self_attn/q/kernel",
  ]
  exchange = [p for p in SHAPES if "audio_to_video" in p]
  whole = traverse_util.flatten_dict(trained["whole"], sep="/")
  assert sorted(whole) == sorted(exchange)
  for path in exchange:  # they start where the model is
    assert (whole[path] == flat(base)[path]).all()
  draw = lambda x: RNG.standard_normal(x.shape).astype(np.float32)
  trained = jax.tree.map(draw, trained)
  got, now = flat(adapter.applied(base, trained)), flat(trained)
  for path, w in flat(base).items():
    want = now.get(f"whole/{path}", w).astype(np.float64)
    if (a := now.get(f"adapted/{path}/a")) is not None:
      b = now[f"adapted/{path}/b"]
      into = "tir,ro->tio" if path.startswith("audio") else "nir,nro->nio"
      want = w + 1.5 * np.einsum(into, a.astype(np.float64), b)
    np.testing.assert_allclose(got[path], want, rtol=1e-6, atol=1e-6, err_msg=path)


def test_no_gradient_reaches_the_model():
  adapter, base = Adapter(2, layers="blocks"), tree()
  trained = adapter.trained(base, KEY)
  total = lambda base, x: sum(jnp.sum(v**2) for v in jax.tree.leaves(
    adapter.applied(base, x)))  # fmt: skip
  of_base, of_part = jax.grad(total, (0, 1))(base, trained)
  assert not any(x.any() for x in flat(of_base).values())
  assert all(x.any() for p, x in flat(of_part).items() if p.endswith("/b"))


def test_patterns_fit_and_have_a_place_on_a_mesh():
  for layers, whole in (("blocks", ""), ("", "exchange"), ("blocks", "exchange")):
    for path, x in flat(Adapter(2, 2.0, layers, whole).trained(tree(), KEY)).items():
      assert len(parameter_axes(f"/{path}", x.ndim)) == x.ndim
  for name in ("layers", "whole"):
    with pytest.raises(UsageError, match=rf"lora.{name}: no parameter fits 'blocks/x'"):
      Adapter(**{name: "blocks/x"}).trained(tree(), KEY)
  assert sorted(LAYERS) == ["attention", "blocks", "exchange"]
