"""How much every part of a model changes what comes out of it."""

import jax
import jax.numpy as jnp

from ccl_jax.tasks import Route
from tests.close import difference

STREAMS = ("video", "audio")


def changes_of_parts(model, params, inputs):
  """{part: {stream: change}} in deviations of the output, where a part is turned off or
  told something else. One compilation.

  Args:
    inputs: keywords of the model's call, of two different samples or more.
  """

  @jax.jit
  def run(params, inputs, reads):
    samples = len(inputs["text"])
    route = Route({s: jnp.full(samples, reads) for s in STREAMS})
    return model.apply({"params": params}, **inputs, route=route)

  exact = run(params, inputs, True)
  changes = lambda out: {s: difference(out[s], exact[s]) for s in out}
  told = lambda key, f: run(params, inputs | {key: jax.tree.map(f, inputs[key])}, True)
  out = {
    "exchange": changes(run(params, inputs, False)),
    "text": changes(told("text", lambda x: jnp.roll(x, 1, 0))),
    "timestep": changes(told("timesteps", lambda x: x / 2 + 50)),
  }
  # Positions: tokens in the opposite order, and what comes out back in the first.
  patch = dict(model.streams)["video"].patch
  for axis, name in enumerate(("frames", "rows", "columns"), 1):
    turn = lambda x, axis=axis: _reversed(x, axis, patch[axis - 1])
    turned = _with_latent(inputs, "video", turn)
    if name == "frames":
      times = inputs["timesteps"]
      turned["timesteps"] = times | {"video": jnp.flip(times["video"], 1)}
    video = turn(run(params, turned, True)["video"])
    out[name] = changes({"video": video})
  turn = lambda x: jnp.flip(x, 1)
  audio = run(params, _with_latent(inputs, "audio", turn), True)["audio"]
  out["tokens"] = changes({"audio": turn(audio)})
  if model.cross.variant == "context":
    out["context"] = changes(run(_without_context(params), inputs, True))
  if "image" in inputs:
    # Of the stream that reads them: the other one knows of them by the exchange.
    video = told("image", lambda x: jnp.roll(x, 1, 0))["video"]
    out["image tokens"] = changes({"video": video})
    own = dict(model.streams)["video"].out_channels
    other = lambda x: x.at[..., own:].set(jnp.roll(x, 1, 0)[..., own:])
    video = run(params, _with_latent(inputs, "video", other), True)["video"]
    out["image channels"] = changes({"video": video})
  return out


def assert_every_part_matters(model, params, inputs, least: float = 0.1):
  """Each of them by a tenth of the output's deviation and more: a bug in a part cannot
  drown in rounding, nor in the other parts.
  """
  changes = changes_of_parts(model, params, inputs)
  weak = {(p, s): x for p, by in changes.items() for s, x in by.items() if x < least}
  assert not weak, weak


def _with_latent(inputs, stream, change):
  latents = inputs["latents"]
  return inputs | {"latents": latents | {stream: change(latents[stream])}}


def _reversed(x, axis, size):
  """Patches of `size` in the opposite order, each as it is."""
  shape = x.shape
  assert shape[axis] > size
  x = x.reshape(*shape[:axis], -1, size, *shape[axis + 1 :])
  return jnp.flip(x, axis).reshape(shape)


def _without_context(params):
  directions = ("audio_to_video", "video_to_audio")
  blocks = dict(params["blocks"])
  for d in directions:
    blocks[d] = blocks[d] | {"context": jnp.zeros_like(blocks[d]["context"])}
  return params | {"blocks": blocks}
