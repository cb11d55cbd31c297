"""A step that trains a part of a model: its gradients follow from the whole's."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import traverse_util
from ml_collections import ConfigDict

from ccl_jax.errors import UsageError
from ccl_jax.models.adapter import Adapter
from ccl_jax.training.build import make_adapter, trained_shapes
from ccl_jax.training.optim import ParamGroup, make_optimizer
from ccl_jax.training.state import new_state
from ccl_jax.training.step import make_train_step
from tests.training.conftest import RECIPE
from tests.training.test_step import CLIP, one_step, run  # noqa: F401

PATH = "blocks/video/ffn/in/kernel"
EXCHANGE = "blocks/audio_to_video/"


def flat(x):
  return traverse_util.flatten_dict(jax.device_get(x), sep="/")


def gradients(result):
  """Before they were clipped: the first moment is a tenth of the clipped ones."""
  norm = max(float(result[1]["grad_norm"]), 1.0)
  mu = optax.tree_utils.tree_get(result[0].opt_state, "mu")
  return {path: 10 * norm * x for path, x in flat(mu).items()}


def test_a_step_of_a_part(small, batch, one_step):  # noqa: F811
  """With the model's W in it, A and B get W's gradient, by the chain rule; the exchange
  its own. Nothing else is in the state.
  """
  model, _, state = small
  adapter = Adapter(2, 6.0, layers=PATH, whole=f"{EXCHANGE}.*")
  rng, params = np.random.default_rng(3), flat(state.params)
  part = flat(adapter.trained(state.params, jax.random.key(0)))
  a, b = (f"adapted/{PATH}/{x}" for x in "ab")
  part[b] = 0.1 * rng.standard_normal(part[b].shape).astype(np.float32)
  base = params | {PATH: params[PATH] - 3 * part[a] @ part[b]}
  # The base has none of the exchange that is trained.
  base |= {p: 0 * x for p, x in params.items() if p.startswith(EXCHANGE)}
  tree = lambda x: traverse_util.unflatten_dict(
    {p: jnp.asarray(v) for p, v in x.items()}, sep="/"
  )
  trained = tree(part)
  optimizer = make_optimizer(
    [ParamGroup(".*", 1e-3, 0.0)], trained, warmup_steps=0, total_steps=10,
    schedule="constant", b1=0.9, b2=0.99, eps=1e-8, clip_norm=1.0,
    moment_dtype="float32",
  )  # fmt: skip
  step = make_train_step(model, optimizer, RECIPE, seed=0, clip=CLIP, adapter=adapter)
  got = jax.jit(step)(new_state(trained, optimizer), batch, base=tree(base))
  np.testing.assert_allclose(got[1]["loss"], one_step[1]["loss"], rtol=2e-6)
  whole, own = gradients(one_step), gradients(got)
  dw = whole[PATH].astype(np.float64)
  want = {a: 3 * dw @ part[b].swapaxes(1, 2), b: 3 * part[a].swapaxes(1, 2) @ dw}
  want |= {f"whole/{p}": x for p, x in whole.items() if p.startswith(EXCHANGE)}
  assert own.keys() == want.keys() == flat(got[0].ema).keys()
  for path, x in want.items():
    scale = np.sqrt((x**2).mean())
    np.testing.assert_allclose(own[path], x, rtol=1e-3, atol=1e-4 * scale, err_msg=path)
  norm = np.sqrt(sum((x.astype(np.float64) ** 2).sum() for x in want.values()))
  np.testing.assert_allclose(got[1]["grad_norm"], norm, rtol=1e-4)
  moved = flat(got[0].params)
  assert all((moved[p] != x).any() for p, x in part.items() if "context" not in p)


def test_what_a_config_trains():
  """Of config.lora rank, alpha, layers and whole; without a pattern all."""
  kernel, context = jnp.zeros((2, 3, 4)), jnp.zeros((2, 5, 3))
  shapes = {"blocks": {"audio": {"ffn": {"in": {"kernel": kernel}}}}}
  shapes["blocks"]["audio_to_video"] = {"context": context}
  config = lambda **lora: ConfigDict(
    {"lora": {"rank": 16, "alpha": 16.0, "layers": "", "whole": ""} | lora}
  )
  assert make_adapter(config()) is None and trained_shapes(config(), shapes) is shapes
  part = config(rank=1, alpha=4.0, layers="blocks", whole="exchange")
  assert make_adapter(part) == Adapter(1, 4.0, "blocks", "exchange")
  found = traverse_util.flatten_dict(trained_shapes(part, shapes), sep="/")
  assert {p: x.shape for p, x in found.items()} == {
    "adapted/blocks/audio/ffn/in/kernel/a": (2, 3, 1),
    "adapted/blocks/audio/ffn/in/kernel/b": (2, 1, 4),
    "whole/blocks/audio_to_video/context": (2, 5, 3),
  }
  with pytest.raises(UsageError, match="lora"):
    make_adapter(config(ranks=3))
