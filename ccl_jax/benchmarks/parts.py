"""Measures each part of a block of the joint model alone, forward, jitted.

  python -m ccl_jax.bench parts --size=lab --frames=17 --height=256 --width=256
  python -m ccl_jax.bench parts --size=14b --dtype=bfloat16 --frames=81 --height=480 \\
      --width=832                                              (on a GPU or TPU)

For each part its share of the seconds beside its share of the FLOPs; a part whose share
of time is far above that of its FLOPs is one to look into. `rest` is norms, modulation
and residual sums: a whole block less its parts. Then the video network's forward pass
over growing clips, with the share of a measured matrix product's rate that it reaches.
"""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags

from ccl_jax import cli
from ccl_jax.benchmarks import step
from ccl_jax.benchmarks.step import TEXT
from ccl_jax.benchmarks.timing import device_ceiling, in_turn, median, show
from ccl_jax.data.spec import ClipSpec
from ccl_jax.models.cca import CrossAttention, Geometry
from ccl_jax.models.flops import forward_flops
from ccl_jax.models.joint import JointDiT, geometry_of
from ccl_jax.models.layers import MLP
from ccl_jax.models.presets import build_model
from ccl_jax.models.stream import SelfAttention, TextAttention
from ccl_jax.tasks import TASKS, Route, static_route

flags.adopt_module_key_flags(step)


def forward(spec: ClipSpec, streams, depth: int):
  """The forward pass of the first `depth` blocks and the ends.

  Returns:
    The call, its FLOPs, and the video tokens of a clip.
  """
  model, params, inputs = step.make(spec, streams, depth)
  route = static_route(TASKS["joint"]) if model.cross else Route()
  run = step.programs(model, params, inputs, route)["forward"]
  g = geometry_of(model, spec)
  flops = step.BATCH.value * sum(forward_flops(model, g, *TEXT).values())
  return run, flops, g.t * g.h * g.w


def pieces(model: JointDiT, g: Geometry):
  """The parts of one block of the video stream, by name.

  Returns:
    By part (module, inputs, method), as `compiled_call` takes them.
  """
  video, audio = (dict(model.streams)[s] for s in ("video", "audio"))
  d, heads, dtype, kernel = video.width, video.heads, model.dtype, model.kernel
  rng = np.random.default_rng(0)
  shape = lambda *shape: (step.BATCH.value, *shape)
  draw = lambda *x: jnp.asarray(rng.standard_normal(shape(*x)), jnp.float32)
  x, y, text = draw(g.t, g.h * g.w, d), draw(g.a, 1, audio.width), draw(TEXT[0], d)
  table = jnp.asarray(video.rope_table(g.t, g.h, g.w))
  cross = {
    into: CrossAttention(into, c.width, c.heads, other.width, model.cross, dtype)
    for into, c, other in (("video", video, audio), ("audio", audio, video))
  }

  def exchange(module, into, own, other):
    c = dict(model.streams)[into]
    place = lambda s: g.cross_table(s, c.head_width, model.cross)
    source = "audio" if into == "video" else "video"
    keys = module.keys(other, place(source))
    return module(own, place(into), g, keys, None)

  return {
    "self_attention": (SelfAttention(d, heads, dtype, kernel), (x, table), None),
    "text_attention": (
      TextAttention(d, heads, False, dtype, kernel), (x, text, None), None,
    ),
    "ffn": (MLP(video.ffn, d, dtype), (x,), None),
    "audio to video": (cross["video"], (x, y), lambda m, *a: exchange(m, "video", *a)),
    "video to audio": (cross["audio"], (y, x), lambda m, *a: exchange(m, "audio", *a)),
  }  # fmt: skip


def compiled_call(module, inputs, method):
  """A call of a module with parameters of its own, compiled on its first use."""
  params = jax.jit(lambda k: module.init(k, *inputs, method=method))(jax.random.key(0))
  forward = jax.jit(lambda p, inputs: module.apply(p, *inputs, method=method))
  return lambda: jax.block_until_ready(forward(params, inputs))


def part_flops(model: JointDiT, g: Geometry) -> dict[str, float]:
  """FLOPs of one block's parts of the video stream; `cross` is of both directions."""
  c = dict(model.streams)["video"]
  n, d = g.t * g.h * g.w, c.width
  one_clip = {
    # Four projections of d x d, 2 FLOPs each; then Q K^T and A V.
    "self_attention": 8 * n * d * d + 4 * n * n * d,
    # Queries and output per token; keys and values per row of text.
    "text_attention": 4 * n * d * d + 4 * TEXT[0] * (n * d + d * d),
    "ffn": 4 * n * d * c.ffn,
    "cross": forward_flops(model.clone(depth=1), g, *TEXT)["cross"],
  }
  return {k: float(step.BATCH.value * flops) for k, flops in one_clip.items()}


def part_rows(spec: ClipSpec, ceiling: float):
  """Rows of every part of a block: its time, and its shares of the block's.

  Args:
    spec: of the clip.
    ceiling: FLOP/s of a matrix product.
  """
  model = build_model(
    step.SIZE.value, dtype=step.DTYPE.value, attention=step.ATTENTION.value
  )
  g = geometry_of(model, spec)
  runs = {name: compiled_call(*piece) for name, piece in pieces(model, g).items()}
  for depth in (1, 3):  # the ends of the network cancel
    runs[depth], *_ = forward(spec, ("video", "audio"), depth)
  seconds = {k: median(v) for k, v in in_turn(runs, step.ROUNDS.value).items()}
  # Two blocks more, without what precedes and follows the blocks.
  block = (seconds.pop(3) - seconds.pop(1)) / 2
  seconds["cross"] = seconds.pop("audio to video") + seconds.pop("video to audio")
  flops = part_flops(model, g)
  for name in flops:
    yield {
      "what": name,
      "ms": 1e3 * seconds[name],
      "of time": seconds[name] / block,
      "of FLOPs": flops[name] / sum(flops.values()),
      "ceiling": flops[name] / seconds[name] / ceiling,
    }
  rest = block - sum(seconds.values())
  yield {"what": "rest", "ms": 1e3 * rest, "of time": rest / block}


def scaling_rows(spec: ClipSpec, ceiling: float):
  """Rows of the video stream's forward pass on half the length, half the size, and all.

  Args:
    spec: of the whole clip.
    ceiling: FLOP/s of a matrix product.
  """
  half = lambda n: max(16, n // 32 * 16)
  short = ClipSpec(spec.frames // 8 * 4 + 1, spec.height, spec.width, spec.fps)
  small = ClipSpec(spec.frames, half(spec.height), half(spec.width), spec.fps)
  for clip in (short, small, spec):
    run, flops, tokens = forward(clip, ("video",), step.DEPTH.value)
    seconds = median(in_turn({"": run}, step.ROUNDS.value)[""])
    yield {
      "what": f"{clip.frames}x{clip.height}x{clip.width}",
      "tokens": tokens,
      "ms": 1e3 * seconds,
      "ceiling": flops / seconds / ceiling,
    }


def main():
  """Measures by the flags, and prints a table and a JSON object."""
  spec = ClipSpec(step.FRAMES.value, step.HEIGHT.value, step.WIDTH.value, 16.0)
  ceiling = device_ceiling(jnp.dtype(step.DTYPE.value))
  setup = {
    "device": jax.devices()[0].device_kind,
    "size": f"{step.SIZE.value}, {step.DTYPE.value}",
    "matmul GFLOP/s": ceiling / 1e9,
  }
  show(setup, itertools.chain(part_rows(spec, ceiling), scaling_rows(spec, ceiling)))


if __name__ == "__main__":
  cli.run(main)
