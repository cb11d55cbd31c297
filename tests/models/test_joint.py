"""What the exchange between the streams must and must not do."""

import dataclasses
import functools
import re

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ccl_jax.models.cca import Geometry
from ccl_jax.models.joint import JointDiT, token_geometry
from ccl_jax.models.presets import init_params, parameter_shapes
from ccl_jax.ops.kernels import Kernel
from ccl_jax.planning.gpus import cudnn_of
from ccl_jax.tasks import TASKS, Route, static_route
from tests.close import assert_close, difference
from tests.models.conftest import TEXT, random_params, run, small_model
from tests.parts import assert_every_part_matters

BOTH = Route({"video": True, "audio": True})
GLOBAL = {"window": 0, "video_window": 0, "rope_unit": "index"}
# Errors are in units of the output's rms, which is about 1. A product of 64 terms in
# float32 is off by 1e-7 to 4e-7, in another order of its sums; a few blocks by some of
# these. Gradients sum over all tokens and pass every block twice.
EXACT, GRADIENT = 5e-6, 2e-5


def one_stream(model, stream):
  return JointDiT(tuple(s for s in model.streams if s[0] == stream), model.depth)


def stream_params(params, stream):
  return {stream: params[stream], "blocks": {stream: params["blocks"][stream]}}


def only(inputs, stream):
  return {
    "latents": {stream: inputs["latents"][stream]},
    "timesteps": {stream: inputs["timesteps"][stream]},
    "text": inputs["text"],
  }


def test_every_part_matters(model, params, inputs):
  """Or the tests below would see nothing."""
  assert_every_part_matters(model, params, inputs)


@pytest.mark.parametrize("cross", [GLOBAL, {}])
def test_every_part_of_the_baseline_matters(inputs, cross):
  model = small_model(variant="gate", **cross).clone(depth=1)
  assert_every_part_matters(model, random_params(model), inputs)


def test_fresh_exchange_is_the_two_streams_bit_for_bit(model, params, inputs):
  @jax.jit
  def fresh(key):  # to compile all draws takes long
    blocks = init_params(model, key, TEXT)["blocks"]
    return {name: blocks[name] for name in ("audio_to_video", "video_to_audio")}

  exchange = fresh(jax.random.key(3))
  params = params | {"blocks": params["blocks"] | exchange}
  assert not np.any(exchange["audio_to_video"]["o"]["kernel"])
  joint = run(model, params, inputs, BOTH)
  for s in ("video", "audio"):
    alone = run(one_stream(model, s), stream_params(params, s), only(inputs, s))
    np.testing.assert_array_equal(joint[s], alone[s])


def test_single_route_keeps_the_streams_apart(model, params, inputs):
  before = run(model, params, inputs)
  for changed, kept in (("audio", "video"), ("video", "audio")):
    latents = dict(inputs["latents"])
    latents[changed] = latents[changed] + 1.0
    after = run(model, params, {**inputs, "latents": latents})
    np.testing.assert_array_equal(before[kept], after[kept])
    assert difference(after[changed], before[changed]) > 0.1


@pytest.mark.parametrize("task", ["a2v", "v2a"])
def test_clean_stream_gets_no_gradient(model, params, inputs, task):
  made, given = ("video", "audio") if task == "a2v" else ("audio", "video")

  def loss(params):
    out = model.apply({"params": params}, **inputs, route=static_route(TASKS[task]))
    return (out[made] ** 2).sum()

  grads = jax.jit(jax.grad(loss))(params)
  for part in (
    grads[given],
    grads["blocks"][given],
    grads["blocks"][f"{made}_to_{given}"],
  ):
    chex.assert_trees_all_equal(part, jax.tree.map(jnp.zeros_like, part))
  keys = grads["blocks"][f"{given}_to_{made}"]["k"]["kernel"]
  assert np.abs(keys).max() > 0


@pytest.mark.parametrize("given", ["audio", "video"])
def test_cached_keys_of_a_clean_stream_are_exact(model, params, inputs, given):
  """The stream that is given reads context only: its keys are those of a run alone."""
  made = "video" if given == "audio" else "audio"
  inputs = {**inputs, "timesteps": {**inputs["timesteps"], given: jnp.zeros((2, 1))}}
  full = run(model, params, inputs, Route({made: True}))
  geometry = token_geometry(model.streams, inputs["latents"])
  _, keys = run(model, params, only(inputs, given), collect=True, geometry=geometry)
  route = Route({made: True})
  cached = run(model, params, only(inputs, made), route, keys=keys, geometry=geometry)
  assert set(cached) == {made}
  assert_close(cached[made], full[made], EXACT)


@pytest.mark.parametrize("given", ["audio", "video"])
def test_kept_keys_are_read_where_the_route_reads(model, params, inputs, given):
  """Guidance's anchor has the keys of a given stream at hand and must not see them."""
  made = "video" if given == "audio" else "audio"
  geometry = token_geometry(model.streams, inputs["latents"])
  _, keys = run(model, params, only(inputs, given), collect=True, geometry=geometry)
  assert set(keys[made]) == {"other"}
  apart = run(model, params, inputs)
  kept = run(model, params, only(inputs, made), keys=keys, geometry=geometry)
  assert_close(kept[made], apart[made], EXACT)


@pytest.mark.parametrize("stream", ["video", "audio"])
def test_a_stream_alone_is_what_the_route_single_makes_of_it(
  model, params, inputs, stream
):
  """Where its tokens are depends on the clip, not on who else is there."""
  both = run(model, params, inputs)
  geometry = token_geometry(model.streams, inputs["latents"])
  alone = run(model, params, only(inputs, stream), geometry=geometry)
  assert_close(alone[stream], both[stream], EXACT)
  longer = {"video": geometry._replace(a=22), "audio": geometry._replace(t=8)}
  other = run(model, params, only(inputs, stream), geometry=longer[stream])
  assert difference(other[stream], both[stream]) > 1e-3
  with pytest.raises(ValueError, match="token counts of both streams"):
    run(model, params, only(inputs, stream))


def test_the_length_of_an_absent_stream():
  """Of a film of 33 pictures and 41 tokens: 17 pictures have 21.1 of them."""
  film = Geometry(9, 2, 2, 41)
  assert Geometry(9, 2, 2, 0).completed(film) == film
  assert Geometry(0, 0, 0, 41).completed(film) == Geometry(9, 0, 0, 41)
  assert Geometry(5, 3, 3, 0).completed(film) == Geometry(5, 3, 3, 21)
  assert Geometry(0, 0, 0, 20).completed(film) == Geometry(5, 0, 0, 20)
  assert Geometry(0, 0, 0, 1).completed(film).t == 1
  assert Geometry(1, 2, 2, 0).completed(Geometry(31, 2, 2, 60)).a == 1
  assert Geometry(5, 2, 2, 7).completed(film) == Geometry(5, 2, 2, 7)
  assert Geometry(5, 2, 2, 0).completed(None) == Geometry(5, 2, 2, 0)


def test_context_share_is_a_share(model, params, inputs):
  _, state = run(model, params, inputs, BOTH, mutable="intermediates")
  shares = state["intermediates"]["blocks"]
  video = shares["audio_to_video"]["context_share"][0]
  audio = shares["video_to_audio"]["context_share"][0]
  assert video.shape == (2, 2, 4, 6) and audio.shape == (2, 2, 11, 1)
  for x in (video, audio):
    assert 0 < x.min() and x.max() < 1
  _, state = run(model, params, inputs, mutable="intermediates")
  alone = state["intermediates"]["blocks"]["audio_to_video"]["context_share"][0]
  np.testing.assert_allclose(alone, 1.0, rtol=1e-6)


def gradient_of(model, inputs):
  """(the gradient of what becomes of the picture, shapes of the parameters)."""
  shapes = parameter_shapes(model, TEXT)
  loss = lambda p: model.apply({"params": p}, **inputs, route=BOTH)["video"].sum()
  return jax.grad(loss), shapes


@pytest.fixture(scope="module")
def kept(inputs):
  """(remat, dtype of the residual stream) -> what the backward pass is given."""

  @functools.cache
  def of(policy, residual):
    model = small_model().clone(remat=policy, residual=residual)
    loss = lambda p: model.apply({"params": p}, **inputs, route=BOTH)["video"].mean()
    _, backward = jax.eval_shape(lambda p: jax.vjp(loss, p), random_params(model))
    return jax.tree.leaves(backward)

  return of


def test_full_remat_keeps_the_residual_stream_as_it_is_stored(kept):
  """Of every block and stream one array (depth, b, t, s, c), of the stream's dtype."""
  stacks = [(2, 2, 4, 6, 48), (2, 2, 11, 1, 36)]
  for dtype in (jnp.bfloat16, jnp.float32):
    stored = {x.shape: x.dtype for x in kept("full", dtype) if x.shape in stacks}
    assert set(stored.values()) == {jnp.dtype(dtype)}


def test_offloading_moves_the_residual_stream_to_the_host(inputs):
  """And leaves none of it on the device: (depth, b, t, s, c) of both streams."""

  def kept(policy):
    gradient, shapes = gradient_of(small_model().clone(remat=policy), inputs)
    text = str(jax.make_jaxpr(gradient)(shapes))
    stacks = re.findall(r"f32(<host>)?\[2,2,(?:4,6,48|11,1,36)\]", text)
    return set(stacks)

  assert kept("full") == {""}
  assert kept("offload") == {"<host>"}


def test_saved_attention_is_kept(kept):
  """Beside the residual stream, what self-attention gave by block and stream, (depth,
  b, tokens, n, d), and nothing that the few keys of a text gave; full remat keeps none.
  """

  def count(policy):
    shapes = [x.shape for x in kept(policy, jnp.float32)]
    return [shapes.count(s) for s in [(2, 2, 24, 4, 12), (2, 2, 11, 3, 12)]]

  assert count("full") == [0, 0]
  assert count("save_attention") == [1, 1]


def test_saved_attention_of_cudnn_is_not_made_again(inputs):
  """It has no name in the program. In a block forward: two of itself and two of the
  text; in its backward pass full remat makes all four again, or else the text's alone.
  """

  def forward(policy):
    model = small_model()
    model = model.clone(
      # cuDNN takes heads of whole eights.
      streams=tuple((s, dataclasses.replace(c, width=48, heads=3))
                    for s, c in model.streams),
      remat=policy, kernel=Kernel("cudnn"), dtype=jnp.bfloat16,
    )  # fmt: skip
    with cudnn_of("H100"):
      gradient, shapes = gradient_of(model, inputs)
      text = str(jax.make_jaxpr(gradient)(shapes))
    return len(re.findall(r"= dot_product_attention_fwd\w*\[", text))

  assert forward("full") == 4 + 4
  assert forward("save_attention") == 4 + 2


def test_remat_policies_change_no_gradient(inputs):
  base = small_model().clone(depth=1)
  params = random_params(base)

  def grads(policy):
    model = base.clone(remat=policy)
    loss = lambda p: sum(
      (x**2).mean() for x in model.apply({"params": p}, **inputs, route=BOTH).values()
    )
    return jax.jit(jax.grad(loss))(params)

  reference = grads("none")
  for policy in ("full", "save_attention"):
    assert_close(grads(policy), reference, GRADIENT)


@pytest.mark.parametrize("residual", [jnp.float32, jnp.bfloat16])
def test_bf16_stays_near_and_answers_in_float32(inputs, residual):
  model = small_model()
  params = random_params(model)
  exact = run(model, params, inputs, BOTH)
  rough = run(model.clone(dtype=jnp.bfloat16, residual=residual), params, inputs, BOTH)
  for s in exact:
    assert rough[s].dtype == jnp.float32
    error = difference(rough[s], exact[s])
    # 2^-9 for each of some ten products on the way through two blocks.
    assert 1e-3 < error < 0.02


def test_the_program_does_not_grow_with_depth(inputs):
  """Neither, then, does the time to compile it."""

  def lines(depth):
    model = small_model().clone(depth=depth, remat="full")
    gradient, shapes = gradient_of(model, inputs)
    return len(jax.jit(gradient).lower(shapes).as_text().splitlines())

  assert lines(2) == lines(5)


def test_what_the_blocks_add_stands_for_them(model, params, inputs):
  """The same velocity from it; and another one from another input of the network, whose
  own patches, time and head are computed.
  """
  # Jitted once each: what is changed below is an argument.
  whole = jax.jit(lambda p, x: model.apply({"params": p}, **x, tell_added=True))
  ends = jax.jit(lambda p, x, added: model.apply({"params": p}, **x, added=added))
  out, added = whole(params, inputs)
  assert_close(ends(params, inputs, added), out, EXACT)
  assert {s: x.shape for s, x in added.items()} == {
    "video": (2, 4, 6, 48), "audio": (2, 11, 1, 36),
  }  # fmt: skip
  for name in ("latents", "timesteps"):
    changed = inputs | {name: jax.tree.map(lambda x: x + 0.5, inputs[name])}
    moved = ends(params, changed, added)
    assert all(difference(moved[s], out[s]) > 1e-3 for s in out), name
  without = ends(params, inputs, jax.tree.map(jnp.zeros_like, added))
  assert all(difference(without[s], out[s]) > 0.1 for s in out)


def test_without_blocks_only_the_ends_are_computed(model, params, inputs):
  """Products and FLOPs of patches, time and head, by hand; no loop over blocks is in
  the program.
  """
  run = lambda p, x, **how: model.apply({"params": p}, **x, **how)
  _, added = jax.eval_shape(lambda p, x: run(p, x, tell_added=True), params, inputs)
  lower = lambda f, *args: jax.jit(f).lower(*args)
  cached = lower(lambda p, x, a: run(p, x, added=a), params, inputs, added)
  count = lambda lowered, what: lowered.as_text().count(f"stablehlo.{what}")
  # In and out, and two for time, of both streams.
  assert (count(cached, "dot_general"), count(cached, "while")) == (8, 0)
  whole = lower(run, params, inputs)
  assert count(whole, "dot_general") > 50 and count(whole, "while") == 1

  def ends(tokens, channels, frames, width):
    patches = tokens * channels * width  # in, and the same out
    time = frames * (256 * width + width * width)
    return 2 * 2 * (2 * patches + time)  # FLOPs of two clips

  by_hand = ends(4 * 6, 6 * 4, 4, 48) + ends(11, 5, 1, 36)
  flops = cached.compile().cost_analysis()["flops"]
  assert by_hand < flops < 1.15 * by_hand  # norms, modulation and the sum beside it
