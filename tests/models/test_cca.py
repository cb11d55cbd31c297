"""Which tokens of the other stream a token sees, by the gradient of one direction."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ccl_jax.axes import other
from ccl_jax.models.cca import CrossAttention, CrossConfig, Geometry
from tests.params import living_params

CLIP = Geometry(4, 3, 2, 11)
TOKENS = {"video": (4, 6), "audio": (11, 1)}
WIDTH, OTHER_WIDTH, HEADS = 24, 20, 2


def seen_by(into, **cross):
  """A function from a frame, or an audio token, of `into` to what it sees."""
  config = CrossConfig(**{"video_tokens": 5, "audio_tokens": 3} | cross)
  module = CrossAttention(into, WIDTH, HEADS, OTHER_WIDTH, config, jnp.float32)
  table = lambda s: CLIP.cross_table(s, WIDTH // HEADS, config)
  rng = np.random.default_rng(0)
  draw = lambda *shape: jnp.asarray(rng.standard_normal(shape), jnp.float32)
  own = draw(2, *TOKENS[into], WIDTH)
  source = draw(2, *TOKENS[other(into)], OTHER_WIDTH)

  def call(module, x):
    keys = module.keys(x, table(other(into)))
    return module(own, table(into), CLIP, keys, None)

  init = lambda key: module.init(key, source, method=call)["params"]
  params = living_params(jax.eval_shape(init, jax.random.key(0)), 0)

  @jax.jit
  @jax.grad
  def gradient(x, place):
    out = module.apply({"params": params}, x, method=call)
    return (out[:, place] ** 2).sum()

  def seen(place):
    size = np.abs(gradient(source, place)).sum((0, 2, 3))
    return np.flatnonzero(size).tolist()

  return seen


# t = 4, a = 11. Causal: 13 pictures, c = ceil(44/13) = 4; the middle of frame 1, of
# pictures 1 to 4, is at 3 * 11/13 = 2.5 tokens, the four around it are 1 to 4 and the
# twelve from -3 to 8. Uniform: c = 2, w = 6; the centre of frame 1 is floor(1.5 * 11/4)
# = 4 aligned and floor(c/2) + c = 3 by the literal rule.
@pytest.mark.parametrize(
  ("cross", "window"),
  [
    ({}, range(1, 5)),
    ({"window": 3}, range(9)),
    ({"window": 0}, range(11)),
    ({"times": "uniform", "window": 3}, range(1, 7)),
    ({"times": "uniform", "window": 3, "tarp_centre": "floor"}, range(0, 6)),
  ],
)
def test_a_video_frame_sees_its_audio_window(cross, window):
  assert seen_by("video", **cross)(1) == list(window)


# Tokens 0, 1, 5 and 10 are at 0.6, 1.8, 6.5 and 12.4 pictures, 13/11 (j + 1/2); frame 1
# lasts from 1 to 5.
@pytest.mark.parametrize(
  ("cross", "frames"),
  [
    ({}, {0: [0], 1: [1], 5: [2], 10: [3]}),
    ({"video_window": 3}, {0: [0, 1], 5: [1, 2, 3], 10: [2, 3]}),
    ({"video_window": 0}, {5: [0, 1, 2, 3]}),
    ({"times": "uniform"}, {0: [0], 1: [0], 5: [1], 10: [3]}),
  ],
)
def test_an_audio_token_sees_its_own_frame(cross, frames):
  seen = seen_by("audio", **cross)
  assert {token: seen(token) for token in frames} == frames
