"""Measures the parts of a denoise step of the joint model, each alone, jitted.

  python -m ccl_jax.bench parts --size=lab --frames=17 --height=256 --width=256
  python -m ccl_jax.bench parts --size=14b --dtype=bfloat16 --frames=81 --height=480 \\
      --width=832                                              (on a GPU or TPU)

A step is that of sampling with guidance ucg2: two evaluations of every clip as one
batch. For each part of both streams its milliseconds in all blocks, and its share of
the step's time beside its share of the FLOPs; a part whose share of time is far above
that of its FLOPs is one to look into.

  rest                     norms, modulation, residual sums: the blocks less their parts
  embeddings, time, heads  the network less its blocks
  guidance, solver         the step less the network

Then the video network's forward pass over growing clips, with the share of a measured
matrix product's rate that it reaches.
"""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags

from ccl_jax import cli
from ccl_jax.axes import STREAMS
from ccl_jax.benchmarks import step
from ccl_jax.benchmarks.step import TEXT
from ccl_jax.benchmarks.timing import device_ceiling, in_turn, median, show
from ccl_jax.data.spec import ClipSpec
from ccl_jax.generation.sampling import Sampling, sample_latents
from ccl_jax.models.cca import CrossAttention, Geometry
from ccl_jax.models.flops import evaluation_flops, forward_flops
from ccl_jax.models.joint import JointDiT, geometry_of
from ccl_jax.models.layers import MLP
from ccl_jax.models.presets import build_model
from ccl_jax.models.stream import SelfAttention, TextAttention
from ccl_jax.tasks import GENERATIONS, TASKS, Route, static_route

flags.adopt_module_key_flags(step)

FORM, EVALUATIONS = "ucg2", 2  # of a step, as one batch
FEW, MANY = 2, 6  # steps: what precedes and follows them cancels
ENDS = "embeddings, time, heads"


def forward(spec: ClipSpec, streams, depth: int, evaluations: int = 1):
  """The forward pass of the first `depth` blocks and the ends, as a step of sampling
  has it: the keys of the texts are there.

  Returns:
    The call, its FLOPs, and the video tokens of a clip.
  """
  model, params, inputs = step.make(spec, streams, depth, evaluations)
  route = static_route(TASKS["joint"]) if model.cross else Route()
  g = geometry_of(model, spec)
  texts = dict.fromkeys(streams, inputs.pop("text"))
  keys = lambda p, x: model.apply({"params": p}, {}, {}, x, collect=True, geometry=g)[1]
  inputs["keys"] = jax.jit(keys)(params, texts)
  run = step.programs(model, params, inputs, route)["forward"]
  flops = evaluations * step.BATCH.value * evaluation_flops(model, g, *TEXT)
  return run, flops, g.t * g.h * g.w


def samplings(spec: ClipSpec, task: str, ways) -> dict:
  """Samplings without text encoder and codecs, as calls that return the latents.

  Args:
    spec: of the clip.
    task: of `GENERATIONS`.
    ways: (steps, whether the keys that steps share are computed once) of each.

  Returns:
    By way, the call.
  """
  model, params, inputs = step.make(spec, STREAMS, step.DEPTH.value)
  kind, latents, text = GENERATIONS[task], inputs["latents"], inputs["text"]
  noise = {s: latents[s] for s in kind.generated}
  given = {s: latents[s] for s in kind.given}
  texts = jnp.stack([text, jnp.zeros_like(text)])  # the prompt's, the negative one's

  def program(steps: int, once: bool):
    how = Sampling(FORM, steps=steps, shift=5.0, solver="unipc")

    @jax.jit
    def run(params, noise, given, texts):
      conditions = {"text": texts, "given": given}
      return sample_latents(
        model, params, kind, noise, conditions, how, reuse_keys=once
      )

    return lambda: jax.block_until_ready(run(params, noise, given, texts))

  return {way: program(*way) for way in ways}


def pieces(model: JointDiT, g: Geometry):
  """The parts of one block, by name and, but for the exchange, stream.

  Returns:
    By part (module, inputs, method), as `compiled_call` takes them.
  """
  configs, dtype, kernel = dict(model.streams), model.dtype, model.kernel
  rng = np.random.default_rng(0)
  rows = EVALUATIONS * step.BATCH.value
  draw = lambda *x: jnp.asarray(rng.standard_normal((rows, *x)), jnp.float32)
  grids = {"video": (g.t, g.h, g.w), "audio": (g.a, 1, 1)}
  tokens = {s: draw(t, h * w, configs[s].width) for s, (t, h, w) in grids.items()}

  def exchange(module, into, own, other):
    c = configs[into]
    place = lambda s: g.cross_table(s, c.head_width, model.cross)
    source = "audio" if into == "video" else "video"
    keys = module.keys(other, place(source))
    return module(own, place(into), g, keys, None)

  out = {}
  for into, source in (("video", "audio"), ("audio", "video")):
    c, x = configs[into], tokens[into]
    d, heads = c.width, c.heads
    table = jnp.asarray(c.rope_table(*grids[into]))
    own = SelfAttention(d, heads, dtype, kernel), (x, table), None
    keys = tuple(draw(TEXT[0], heads, d // heads).astype(dtype) for _ in range(2))
    text = TextAttention(d, heads, False, dtype, kernel), (x, {"text": keys})
    cross = CrossAttention(into, d, heads, configs[source].width, model.cross, dtype)
    call = lambda m, *a, into=into: exchange(m, into, *a)
    out |= {
      ("self_attention", into): own,
      ("text_attention", into): (*text, None),
      ("ffn", into): (MLP(c.ffn, d, dtype), (x,), None),
      ("exchange", into): (cross, (x, tokens[source]), call),
    }
  return out


def compiled_call(module, inputs, method):
  """A call of a module with parameters of its own, compiled on its first use."""
  params = jax.jit(lambda k: module.init(k, *inputs, method=method))(jax.random.key(0))
  forward = jax.jit(lambda p, inputs: module.apply(p, *inputs, method=method))
  return lambda: jax.block_until_ready(forward(params, inputs))


def part_flops(model: JointDiT, g: Geometry) -> dict[str, float]:
  """FLOPs of a step's parts in all blocks of both streams, and of the ends."""
  out = dict.fromkeys(("self_attention", "text_attention", "ffn"), 0.0)
  sizes = {"video": g.t * g.h * g.w, "audio": g.a}
  for s, c in model.streams:
    n, d = sizes[s], c.width
    # Four projections of d x d, 2 FLOPs each; then Q K^T and A V.
    out["self_attention"] += 8 * n * d * d + 4 * n * n * d
    # Queries and output per token; the keys and values of the text are there.
    out["text_attention"] += 4 * n * d * d + 4 * TEXT[0] * n * d
    out["ffn"] += 4 * n * d * c.ffn
  whole = forward_flops(model, g, *TEXT)
  blocks = {k: model.depth * flops for k, flops in out.items()}
  ends = {"exchange": whole["cross"], ENDS: whole["ends"]}
  rows = EVALUATIONS * step.BATCH.value
  return {k: float(rows * flops) for k, flops in (blocks | ends).items()}


def part_rows(spec: ClipSpec, ceiling: float):
  """Rows of every part of a step: its time, and its shares of the step's.

  Args:
    spec: of the clip.
    ceiling: FLOP/s of a matrix product.
  """
  depth = step.DEPTH.value
  model = build_model(
    step.SIZE.value, dtype=step.DTYPE.value, attention=step.ATTENTION.value
  ).clone(depth=depth)
  g = geometry_of(model, spec)
  runs = {name: compiled_call(*piece) for name, piece in pieces(model, g).items()}
  for blocks in {1, 3, depth}:
    runs[blocks], *_ = forward(spec, STREAMS, blocks, EVALUATIONS)
  ways = (FEW, True), (MANY, True)
  runs |= samplings(spec, "joint", ways)
  took = {k: median(v) for k, v in in_turn(runs, step.ROUNDS.value).items()}
  few, many = (took[way] for way in ways)
  whole = (many - few) / (MANY - FEW)
  block = (took[3] - took[1]) / 2
  flops = part_flops(model, g)
  parts = ("self_attention", "text_attention", "ffn", "exchange")
  seconds = {k: depth * sum(took[k, s] for s in STREAMS) for k in parts}
  seconds["rest"] = depth * block - sum(seconds.values())
  seconds[ENDS] = took[depth] - depth * block
  seconds["guidance, solver"] = whole - took[depth]
  for name, x in seconds.items():
    row = {"what": name, "ms": 1e3 * x, "of time": x / whole}
    if name in flops:
      row["of FLOPs"] = flops[name] / sum(flops.values())
      row["ceiling"] = flops[name] / x / ceiling
    yield row
  total = sum(flops.values())
  yield {"what": "step", "ms": 1e3 * whole, "ceiling": total / whole / ceiling}


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
    "size": f"{step.SIZE.value}, {step.DEPTH.value} blocks, {step.DTYPE.value}",
    "matmul GFLOP/s": ceiling / 1e9,
  }
  show(setup, itertools.chain(part_rows(spec, ceiling), scaling_rows(spec, ceiling)))


if __name__ == "__main__":
  cli.run(main)
