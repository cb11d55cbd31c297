"""The training step: what is drawn, what is learnt, and on how many devices."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ccl_jax.models.cca import Geometry
from ccl_jax.sharding import batch_sharding, make_mesh
from ccl_jax.tasks import TASKS, Route
from ccl_jax.training.state import state_shardings
from ccl_jax.training.step import (
  draw,
  draw_video,
  hold_clean_streams,
  make_train_step,
  sample_losses,
)
from tests.close import assert_close
from tests.parts import assert_every_part_matters
from tests.training.conftest import RECIPE

# Relative errors of float32: of a loss, a mean of some thousand squares; of a gradient
# in units of its rms, which sums over all tokens and passes the block twice. What was
# seen depends on the processor: 2.3e-5 with AVX, 2.1e-5 with AVX2, 1.9e-5 with SSE4.2.
LOSS, GRADIENT = 2e-6, 5e-5
CLIP = Geometry(t=3, h=2, w=4, a=7)  # of the batch


@pytest.fixture(scope="session")
def run(small):
  model, optimizer, _ = small
  return jax.jit(make_train_step(model, optimizer, RECIPE, seed=0, clip=CLIP))


@pytest.fixture(scope="session")
def one_step(run, small, batch):
  return run(small[2], batch)


def gradient(result):
  """A tenth of it, clipped: the optimizer's first moment after the first step."""
  return optax.tree_utils.tree_get(result[0].opt_state, "mu")


def assert_same_step(got, expected):
  """The same loss by task, and the same gradient of every parameter."""
  for name in ("loss", "by_task"):
    np.testing.assert_allclose(got[1][name], expected[1][name], rtol=LOSS)
  np.testing.assert_allclose(
    got[1]["grad_norm"], expected[1]["grad_norm"], rtol=GRADIENT
  )
  assert_close(
    jax.device_get(gradient(got)), jax.device_get(gradient(expected)), GRADIENT
  )


def test_every_part_of_the_model_matters(small, batch):
  """Or the tests below would see nothing."""
  latents = {s: batch[s][:2] for s in ("video", "audio")}
  times = {s: jnp.array([[700.0], [300.0]]) for s in latents}
  inputs = {"latents": latents, "timesteps": times, "text": batch["text"][:2]}
  assert_every_part_matters(small[0], small[2].params, inputs)


def test_a_video_is_drawn_from_its_posterior_where_it_is_noised():
  """Mean and deviation of 4096 draws; clean frames stay the mean, to the bit; the same
  on eight devices.
  """
  rng = np.random.default_rng(0)
  mean = jnp.asarray(rng.standard_normal((1, 3, 2, 2, 4)), jnp.float32)
  std = jnp.asarray(rng.uniform(0.1, 2, mean.shape), jnp.float32).at[0, 1].set(0)
  repeat = lambda x: jnp.repeat(x, 4096, 0)
  sigma = repeat(jnp.array([[0.0, 0.7, 0.2]]))
  run = jax.jit(draw_video)
  args = repeat(mean), repeat(std), sigma
  drawn = np.asarray(run(jax.random.key(1), *args))
  np.testing.assert_array_equal(drawn[:, :2], np.asarray(repeat(mean))[:, :2])
  # Five standard errors.
  error = np.abs(drawn.mean(0) - mean[0])[2] / std[0, 2]
  assert error.max() < 5 / 64
  ratio = drawn.std(0)[2] / std[0, 2]
  assert np.abs(ratio - 1).max() < 5 / 64 / 2**0.5
  other = np.asarray(run(jax.random.key(2), *args))
  assert (other[:, 2] != drawn[:, 2]).mean() > 0.999
  shared = jax.device_put(args, batch_sharding(make_mesh((2, 4, 1, 1))))
  np.testing.assert_array_equal(run(jax.random.key(1), *shared), drawn)


@pytest.mark.parametrize("shape", [(1, 4, 2, 1), (2, 2, 1, 2)])
def test_eight_devices_give_the_loss_of_one(small, batch, one_step, shape):
  model, optimizer, state = small
  mesh = make_mesh(shape)
  shardings = state_shardings(state, mesh)
  step = make_train_step(model, optimizer, RECIPE, seed=0)
  with jax.set_mesh(mesh):
    state = jax.device_put(state, shardings)
    put = lambda k, x: (
      x if k == "null_text" else jax.device_put(x, batch_sharding(mesh))
    )
    sharded = {k: put(k, x) for k, x in batch.items()}
    new = jax.jit(step, out_shardings=(shardings, None))(state, sharded)
  assert_same_step(new, one_step)
  kernel = new[0].params["blocks"]["video"]["ffn"]["in"]["kernel"]
  assert not kernel.sharding.is_fully_replicated


def test_clean_streams_are_held(small):
  params = small[2].params
  held = jax.jit(
    jax.grad(
      lambda p: sum(
        x.sum() for x in jax.tree.leaves(hold_clean_streams(p, TASKS["v2a"]))
      )
    )
  )(params)
  still = (held["video"], held["blocks"]["video"], held["blocks"]["audio_to_video"])
  moves = (held["audio"], held["blocks"]["audio"], held["blocks"]["video_to_audio"])
  assert all((x == 0).all() for x in jax.tree.leaves(still))
  assert all((x == 1).all() for x in jax.tree.leaves(moves))


def test_training_lowers_the_loss(run, small, batch):
  state, first = small[2], None
  for _ in range(30):
    state, metrics = run(state, batch)
    first = first or float(metrics["loss"])
  assert int(state.step) == 30
  assert float(metrics["loss"]) < 0.8 * first
  assert jnp.isfinite(metrics["grad_norm"])


@pytest.mark.parametrize("stream", ["video", "audio"])
def test_clips_of_one_stream_cost_what_the_task_single_costs(small, batch, stream):
  """Their tokens are where they are in a film of the same length, which is as long as
  the frames and tokens of `CLIP` say.
  """
  model, _, state = small
  latents = {s: batch[s] for s in ("video", "audio")}
  drawn = draw(jax.random.key(0), latents, RECIPE, task=RECIPE.names.index("single"))

  @functools.partial(jax.jit, static_argnums=1)
  def losses(batch, clip):
    mine = drawn._replace(noise={s: x for s, x in drawn.noise.items() if s in batch})
    parts = (batch, batch["null_text"], mine, Route())
    return sample_losses(model, state.params, *parts, clip)[stream]

  alone = {k: batch[k] for k in (stream, "text", "null_text")}
  np.testing.assert_allclose(losses(alone, CLIP), losses(batch, CLIP), rtol=LOSS)
  if stream == "audio":  # 7 tokens are also those of one frame
    elsewhere = losses(alone, Geometry(t=1, h=2, w=4, a=7))
    assert np.abs(elsewhere - losses(batch, CLIP)).max() > 100 * LOSS
  with pytest.raises(ValueError, match="token counts of both streams"):
    losses(alone, None)


def test_clips_of_one_stream_train_it_alone(run, small, batch):
  alone = {k: v for k, v in batch.items() if k != "audio"}
  new, metrics = run(small[2], alone)
  assert metrics["drawn"].tolist() == [16 * (n == "single") for n in RECIPE.names]
  assert np.isnan(np.asarray(metrics["by_task"])[:, 1]).all()
  np.testing.assert_allclose(
    metrics["loss"], metrics["by_task"][RECIPE.names.index("single"), 0], rtol=LOSS
  )
  moments = optax.tree_utils.tree_get(new.opt_state, "mu")
  for path in (("video",), ("blocks", "video"), ("blocks", "audio_to_video")):
    assert max(np.abs(x).max() for x in jax.tree.leaves(_at(moments, path))) > 0
  for path in (("audio",), ("blocks", "audio"), ("blocks", "video_to_audio")):
    assert all((x == 0).all() for x in jax.tree.leaves(_at(moments, path)))


def _at(tree, path):
  for key in path:
    tree = tree[key]
  return tree
