"""Denoise and train steps of the video stream, beside diffusers' Wan transformer.

  python -m ccl_jax.bench step --size=lab --depth=4 --frames=17 --height=256 --width=256
  python -m ccl_jax.bench step --size=1.3b --depth=2 --dtype=bfloat16     (on a GPU)

Both networks have the same sizes, inputs, threads and dtype, random weights, and take
turns in one run: a forward pass, and a step of training (forward, backward, AdamW).
`ours/theirs` below one means that we are faster. Then what one step of the joint model
adds: the time of cross-modal attention against its share of the FLOPs, and masks by
sample against a static route. `ceiling` is the share of the rate of a square matrix
product, measured in the same run. The peer needs torch and diffusers:
pip install 'ccl_jax[test]'.
"""

import dataclasses
import itertools
import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
from absl import flags

from ccl_jax import cli
from ccl_jax.benchmarks.timing import (
  cores,
  device_ceiling,
  in_turn,
  median,
  ratios,
  show,
)
from ccl_jax.data.spec import ClipSpec
from ccl_jax.errors import UsageError
from ccl_jax.models.flops import forward_flops
from ccl_jax.models.joint import geometry_of
from ccl_jax.models.presets import build_model, init_params
from ccl_jax.tasks import TASKS, Route, sample_tasks, static_route

SIZE = flags.DEFINE_string("size", "lab", "Preset of the network's sizes.")
DEPTH = flags.DEFINE_integer("depth", 4, "Number of blocks.", 1)
FRAMES = flags.DEFINE_integer("frames", 17, "Frames per clip, 4k + 1.", 1)
HEIGHT = flags.DEFINE_integer("height", 256, "Height in pixels.", 1)
WIDTH = flags.DEFINE_integer("width", 256, "Width in pixels.", 1)
BATCH = flags.DEFINE_integer("batch", 1, "Clips per batch.", 1)
DTYPE = flags.DEFINE_enum(
  "dtype", "float32", ["float32", "bfloat16"], "Type of products."
)
ATTENTION = flags.DEFINE_string(
  "attention", "auto", "Attention kernel; see docs/scale.md."
)
ROUNDS = flags.DEFINE_integer("rounds", 5, "Timed runs per network.", 1)
PEER = flags.DEFINE_bool("peer", True, "Also run diffusers' network.")
JOINT = flags.DEFINE_bool("joint", True, "Also run the joint model.")
PROFILE = flags.DEFINE_string(
  "profile",
  None,
  "Folder for a trace of the video stream's two steps, for TensorBoard.",
)

TEXT = (512, 4096)


def make(spec: ClipSpec, streams, depth: int, evaluations: int = 1) -> tuple:
  """A model of these streams, random parameters, and random inputs.

  Args:
    spec: of the clip.
    streams: names.
    depth: blocks.
    evaluations: of every clip, as one batch.
  """
  model = build_model(
    SIZE.value, streams=streams, dtype=DTYPE.value, attention=ATTENTION.value
  ).clone(depth=depth)
  params = jax.jit(lambda k: init_params(model, k, TEXT))(jax.random.key(0))
  # A fresh head is zero, and then so is every gradient.
  params = jax.tree.map(
    lambda x: x + 0.02 * jax.random.normal(jax.random.key(x.size), x.shape), params
  )
  rng, b = np.random.default_rng(0), evaluations * BATCH.value
  draw = lambda *shape: jnp.asarray(rng.standard_normal(shape), jnp.float32)
  shapes = {"video": (*spec.latent_shape, 16), "audio": (spec.audio_tokens, 20)}
  inputs = {
    "latents": {s: draw(b, *shapes[s]) for s in streams},
    "timesteps": {s: jnp.full((b, 1), 500.0) for s in streams},
    "text": draw(b, *TEXT),
  }
  return model, params, inputs


def programs(model, params, inputs, route=Route()):
  """Calls of one step each: "forward", and "train" with AdamW.

  Args:
    model, params, inputs: as of `make`.
    route: what cross-modal attention sees.
  """
  apply = lambda p, x: model.apply({"params": p}, **x, route=route)
  forward = jax.jit(apply)
  optimizer = optax.adamw(1e-5)

  def loss(params, x):
    return sum(jnp.mean(v**2) for v in apply(params, x).values())

  def train(params, state, x):
    gradients = jax.grad(loss)(params, x)
    updates, state = optimizer.update(gradients, state, params)
    return optax.apply_updates(params, updates), state

  step = jax.jit(train, donate_argnums=(0, 1))
  # Copied: the step donates its arguments, and `forward` still needs the parameters.
  kept = {"state": (jax.tree.map(jnp.copy, params), jax.jit(optimizer.init)(params))}

  def run_train():
    kept["state"] = jax.block_until_ready(step(*kept["state"], inputs))

  return {
    "forward": lambda: jax.block_until_ready(forward(params, inputs)),
    "train": run_train,
  }


def their_network():
  """Diffusers' network of the flags' sizes, with random weights in float32.

  Raises:
    UsageError: torch or diffusers is not installed, or torch sees no GPU where JAX has.
  """
  try:
    import torch
    from diffusers import WanTransformer3DModel
  except ImportError as e:
    raise UsageError(
      f"the peer needs {e.name}: pip install 'ccl_jax[test]', or bench step --nopeer"
    ) from e
  if jax.default_backend() == "gpu" and not torch.cuda.is_available():
    raise UsageError(
      f"the peer needs torch with CUDA, got torch {torch.__version__}; or bench step "
      "--nopeer"
    )
  torch.set_num_threads(cores())
  c = dict(build_model(SIZE.value).streams)["video"]
  torch.manual_seed(0)
  return WanTransformer3DModel(
    num_attention_heads=c.heads,
    attention_head_dim=c.head_width,
    ffn_dim=c.ffn,
    num_layers=DEPTH.value,
    text_dim=TEXT[1],
  )


def their_place():
  """(device, dtype) of Diffusers' network: the accelerator, where torch sees one."""
  import torch

  device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
  return device, getattr(torch, DTYPE.value)


def peer(spec: ClipSpec, inputs):
  """Calls of one step each of diffusers' network of the same sizes, on the same inputs.

  Raises:
    UsageError: see `their_network`.
  """
  model = their_network()
  import torch

  device, dtype = their_place()
  # As diffusers loads a release in this dtype.
  held = set(model._keep_in_fp32_modules)
  for name, x in itertools.chain(model.named_parameters(), model.named_buffers()):
    if not held & set(name.split(".")):
      x.data = x.data.to(dtype)
  model.to(device)
  x = {
    # diffusers has channels before frames.
    "hidden_states": np.moveaxis(np.asarray(inputs["latents"]["video"]), -1, 1),
    "timestep": np.full((BATCH.value,), 500.0, np.float32),
    "encoder_hidden_states": np.asarray(inputs["text"]),
  }
  x = {k: torch.from_numpy(v.copy()).to(device, dtype) for k, v in x.items()}
  optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5)
  wait = torch.cuda.synchronize if device.type == "cuda" else lambda: None

  def forward():
    with torch.no_grad():
      model(**x)
    wait()

  def train():
    optimizer.zero_grad()
    model(**x, return_dict=False)[0].float().square().mean().backward()
    optimizer.step()
    wait()

  return {"forward": forward, "train": train}


def row(
  name: str, ours: list[float], theirs: list[float] | None, flops: float, ceiling
):
  """A row of the table: the median seconds of a program, and what they compare to.

  Args:
    name: of the row.
    ours, theirs: seconds by round; None: no peer.
    flops: of a run.
    ceiling: FLOP/s of a matrix product.
  """
  out = {
    "what": name,
    "seconds": median(ours),
    "ceiling": flops / median(ours) / ceiling,
  }
  if theirs:
    spread = ratios(ours, theirs)
    out |= {
      "theirs": median(theirs),
      "ours/theirs": median(spread),
      "lowest": spread[0],
      "highest": spread[-1],
    }
  return out


def video_rows(spec: ClipSpec, ceiling: float):
  """Rows of the video stream's two steps, beside the peer's.

  Args:
    spec: of the clip.
    ceiling: FLOP/s of a matrix product.
  """
  model, params, inputs = make(spec, ("video",), DEPTH.value)
  g = geometry_of(model, spec)
  flops = BATCH.value * sum(forward_flops(model, g, *TEXT).values())
  ours = programs(model, params, inputs)
  theirs = peer(spec, inputs) if PEER.value else {}
  for name, times in (("forward", 1), ("train", 3)):
    pair = {"ours": ours[name]} | ({"theirs": theirs[name]} if theirs else {})
    seconds = in_turn(pair, ROUNDS.value)
    # The backward pass costs two forward ones.
    yield row(
      f"video {name}", seconds["ours"], seconds.get("theirs"), times * flops, ceiling
    )
  if PROFILE.value:
    with jax.profiler.trace(PROFILE.value):
      for run in ours.values():
        run()


def joint_rows(spec: ClipSpec, ceiling: float):
  """Rows of what the exchange costs, with every key read, against a model without it.

  Args:
    spec: of the clip.
    ceiling: FLOP/s of a matrix product.
  """
  model, params, inputs = make(spec, ("video", "audio"), DEPTH.value)
  parts = forward_flops(model, geometry_of(model, spec), *TEXT)
  apart = dataclasses.replace(model, cross=None)
  task = sample_tasks(jnp.zeros((BATCH.value,), jnp.int32), ("joint",))
  routes = {"joint": static_route(TASKS["joint"]), "by sample": task.route}
  runs = {k: programs(model, params, inputs, r) for k, r in routes.items()}
  runs["apart"] = programs(apart, params, inputs)
  for name, times in (("forward", 1), ("train", 3)):
    seconds = in_turn({k: r[name] for k, r in runs.items()}, ROUNDS.value)
    flops = times * BATCH.value * sum(parts.values())
    out = row(f"joint {name}", seconds["joint"], None, flops, ceiling)
    took = median(seconds["joint"])
    # The same model without the exchange: the difference is what the exchange takes.
    out["cross, of time"] = 1 - median(seconds["apart"]) / took
    out["cross, of FLOPs"] = parts["cross"] / sum(parts.values())
    out["masks by sample/static"] = median(seconds["by sample"]) / took
    yield out


def main():
  """Measures by the flags, and prints a table and a JSON object."""
  spec = ClipSpec(FRAMES.value, HEIGHT.value, WIDTH.value, 16.0)
  ceiling = device_ceiling(jnp.dtype(DTYPE.value))
  g = geometry_of(build_model(SIZE.value), spec)
  setup = {
    "device": jax.devices()[0].device_kind,
    "size": f"{SIZE.value}, {DEPTH.value} blocks, {DTYPE.value}",
    "tokens": g.t * g.h * g.w,
    "matmul GFLOP/s": ceiling / 1e9,
  }
  print(json.dumps(setup))
  joint = joint_rows(spec, ceiling) if JOINT.value else ()
  show(setup, itertools.chain(video_rows(spec, ceiling), joint))


if __name__ == "__main__":
  cli.run(main)
