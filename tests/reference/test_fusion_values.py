"""Fused cross-attention against the reference in NumPy: velocities, and gradients by
finite differences of the reference in float64.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ccl_jax.models.joint import JointDiT
from ccl_jax.models.presets import FUSION, init_params, parameter_shapes
from ccl_jax.models.stream import StreamConfig
from ccl_jax.sharding import path_of
from ccl_jax.tasks import Route
from tests.params import living_params
from tests.reference.conftest import doubled
from tests.reference.fusion import velocities

# Heads of 14 and 14, of 2 and 3: slots of 6, 4 and 4 channels.
RATE, TEXT = 0.37, (5, 9)
VIDEO = StreamConfig(28, 40, 2, in_channels=6, out_channels=6, frequencies=16)
AUDIO = StreamConfig(
  42, 44, 3, in_channels=4, out_channels=4, patch=(1, 1, 1), positions="time",
  rate=RATE, taps=5, frequencies=12,
)  # fmt: skip
CONFIG = {
  "video": {
    "width": 28, "heads": 2, "patch": (1, 2, 2), "positions": "grid",
    "frequencies": 16, "text_tokens": 6,
  },
  "audio": {
    "width": 42, "heads": 3, "patch": (1, 1, 1), "positions": "time", "rate": RATE,
    "frequencies": 12, "text_tokens": 6,
  },
}  # fmt: skip
READS = {"video": np.array([True, False, True]), "audio": np.array([True, True, False])}


def model_of(depth: int) -> JointDiT:
  return JointDiT((("video", VIDEO), ("audio", AUDIO)), depth, FUSION)


def params_of(model: JointDiT):
  shapes = parameter_shapes(model, TEXT)
  return jax.tree.map(np.asarray, living_params(shapes, 3))


@pytest.fixture(scope="module")
def inputs():
  rng = np.random.default_rng(5)
  normal = lambda *shape: rng.standard_normal(shape).astype(np.float32)
  return jax.tree.map(
    jnp.asarray,
    {
      "latents": {"video": normal(3, 4, 6, 4, 6), "audio": normal(3, 9, 4)},
      "timesteps": {
        "video": np.array([[700.0] * 4, [0, 300, 300, 300], [50] * 4], np.float32),
        "audio": np.array([[200.0], [300.0], [990.0]], np.float32),
      },
      "text": normal(3, *TEXT),
    },
  )


def flat(tree):
  leaves = jax.tree_util.tree_leaves_with_path(tree)
  return {path_of(path): np.asarray(x, np.float64) for path, x in leaves}


def expected(params, inputs, reads=READS, **options):
  x = doubled(inputs)
  return velocities(
    doubled(params), CONFIG, x["latents"], x["timesteps"], x["text"], reads, **options
  )


def test_velocities_of_streams_that_read_and_that_do_not(inputs):
  model = model_of(2)
  params = params_of(model)
  route = Route(jax.tree.map(jnp.asarray, READS))
  got = jax.jit(model.apply)({"params": params}, **inputs, route=route)
  want, _ = expected(params, inputs)
  deaf, _ = expected(params, inputs, {s: np.zeros(3, bool) for s in READS})
  for s in want:
    size = np.std(want[s])
    assert np.abs(got[s] - want[s]).max() < 2e-5 * size
    # It is heard where it is read, and only there (the second block hears of it).
    assert np.std(want[s][READS[s]] - deaf[s][READS[s]]) > 0.1 * size
    assert not np.any(want[s][~READS[s]] - deaf[s][~READS[s]])


@pytest.mark.parametrize("detached", [(), ("audio",)])
def test_gradients_of_a_block(inputs, detached):
  """By the latents and by every part that fusion touches, along a random direction."""
  model = model_of(1)
  params = params_of(model)
  rng = np.random.default_rng(6)
  weights = {s: rng.standard_normal(x.shape) for s, x in inputs["latents"].items()}
  route = Route(
    jax.tree.map(jnp.asarray, READS), {s: jnp.ones(3, bool) for s in detached}
  )
  _, states = expected(params, inputs)

  def loss(given):
    told = jax.tree.map(jnp.asarray, inputs) | {"latents": given["latents"]}
    out = model.apply({"params": given["params"]}, **told, route=route)
    return sum((weights[s] * out[s]).sum() for s in out)

  def reference(given):
    told = inputs | {"latents": given["latents"]}
    _, now = expected(given["params"], told)
    # A detached stream is seen as it was, whatever the parameters are now.
    seen = [now[0] | {s: states[0][s] for s in detached}]
    out, _ = expected(given["params"], told, seen=seen)
    return sum((weights[s] * out[s]).sum() for s in out)

  given = {"params": params, "latents": inputs["latents"]}
  gradient = flat(jax.jit(jax.grad(loss))(given))
  given = doubled(given)
  whole = np.sqrt(sum((g**2).sum() for g in gradient.values()))
  parts = (
    "latents", "params/audio/patch_embedding", "params/blocks/video/cross_attn",
    "params/blocks/audio/self_attn", "params/blocks/audio/cross_attn/q",
    "params/blocks/audio_to_video", "params/blocks/video_to_audio",
  )  # fmt: skip
  for part in parts:
    mine = {path: g for path, g in gradient.items() if path.startswith(part)}
    direction = {path: rng.standard_normal(g.shape) for path, g in mine.items()}

    def at(step, direction=direction):
      move = lambda path, x: x + step * direction.get(path_of(path), 0)
      return reference(jax.tree_util.tree_map_with_path(move, given))

    slope = (at(1e-5) - at(-1e-5)) / 2e-5
    got = sum((g * direction[path]).sum() for path, g in mine.items())
    norm = np.sqrt(sum((g**2).sum() for g in mine.values()))
    assert norm > 0 and abs(got - slope) < 1e-4 * norm + 1e-6 * whole, part


@pytest.mark.parametrize("given", ["audio", "video"])
def test_a_given_stream_that_reads_nothing_does_not_change(inputs, given):
  """Its keys are those of a run alone, which is its tower."""
  model = model_of(2)
  params, made = params_of(model), "video" if given == "audio" else "audio"
  one = lambda s: inputs | {k: {s: inputs[k][s]} for k in ("latents", "timesteps")}
  apply = lambda x, **options: model.apply({"params": params}, **x, **options)
  both = jax.jit(lambda x: apply(x, route=Route({made: True})))(inputs)
  alone, keys = jax.jit(lambda x: apply(x, collect=True))(one(given))
  read = lambda x, k: apply(x, keys=k, route=Route({made: True}))
  kept = jax.jit(read)(one(made), keys)
  for got, s in ((kept, made), (alone, given)):
    assert set(got) == {s}
    assert np.abs(got[s] - both[s]).max() < 1e-5 * np.std(both[s])


def test_a_block_that_is_left_out(inputs):
  """Of the sample that leaves it out, in both streams: the network without it."""
  model = model_of(2)
  params = params_of(model)
  out = np.zeros((2, 3), bool)
  out[0, 1] = True
  route = Route({"video": True, "audio": True})
  run = lambda model, params, **more: jax.jit(
    lambda p, x: model.apply({"params": p}, **x, route=route, **more)
  )(params, inputs)
  got = jax.device_get(run(model, params, left_out=jnp.asarray(out)))
  whole = jax.device_get(run(model, params))
  later = params | {"blocks": jax.tree.map(lambda x: x[1:], params["blocks"])}
  less = run(model_of(1), later)
  for s in got:
    size = np.std(whole[s])
    assert np.abs(got[s][1] - less[s][1]).max() < 1e-5 * size
    assert np.abs(got[s][[0, 2]] - whole[s][[0, 2]]).max() < 1e-5 * size
    assert np.std(whole[s][1] - less[s][1]) > 0.1 * size


def test_a_fresh_fusion_is_the_two_streams_bit_for_bit(inputs):
  model = model_of(1)
  params = params_of(model)
  fresh = jax.jit(lambda k: init_params(model, k, TEXT))(jax.random.key(0))
  for name in ("audio_to_video", "video_to_audio"):
    params["blocks"][name] = jax.tree.map(np.asarray, fresh["blocks"][name])
  run = lambda reads: jax.jit(
    lambda x: model.apply({"params": params}, **x, route=Route(reads))
  )(inputs)
  joint, apart = run({"video": True, "audio": True}), run({})
  for s in joint:
    np.testing.assert_array_equal(joint[s], apart[s])
