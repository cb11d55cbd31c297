"""Numbers that hold the whole in place: two steps of training, and sampled latents.

  python -m tests.golden        # writes tests/testdata/golden_*.json anew

They come from this code, so they prove nothing by themselves: they say that nothing has
changed. `tests/testdata/README.md` says when they may.
"""

import dataclasses
import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import optax

from ccl_jax.generation.sampling import Sampling, sample_latents
from ccl_jax.models.cca import Geometry
from ccl_jax.models.presets import build_model, parameter_shapes
from ccl_jax.tasks import GENERATIONS
from ccl_jax.training.optim import ParamGroup, make_optimizer
from ccl_jax.training.state import new_state
from ccl_jax.training.step import Recipe, make_train_step
from tests.held import first_frame

FOLDER = pathlib.Path(__file__).parent / "testdata"
TEXT = (5, 16)
B = 6
# 3 latent frames of 2 x 3 tokens, and 7 tokens of sound.
SHAPES = {"video": (3, 4, 6, 16), "audio": (7, 20)}


def model_of(**options):
  """The smallest preset, in float32."""
  return build_model("tiny", dtype="float32", attention="dense", **options)


def params_of(model):
  """Centred parameters that keep magnitudes, so that every part matters; fresh ones
  have heads and exchanges of zero.
  """
  shapes = parameter_shapes(model, TEXT)
  # This generator's numbers are frozen for all versions of NumPy.
  rng = np.random.RandomState(7)

  def leaf(path, x):
    name = path[-1].key
    z = rng.standard_normal(x.shape)
    if name == "kernel":
      z = z / x.shape[-2] ** 0.5
    elif name == "scale":
      z = 1 + 0.2 * z
    else:
      z = 0.3 * z
    return jnp.asarray(z, jnp.float32)

  return jax.tree_util.tree_map_with_path(leaf, shapes)


def _normal(rng, *shape):
  return jnp.asarray(rng.standard_normal(shape), jnp.float32)


def golden_step() -> dict:
  """Two steps: metrics of both, and how far they moved all parameters; by parameter,
  the first gradient and what moved.

  Of an array the norm and the product with a fixed random direction are kept.
  """
  model = model_of()
  recipe = Recipe(
    ("single", "a2v", "v2a", "joint"), (0.2, 0.3, 0.2, 0.3), shift=2.0,
    loss_weights=(1.5, 0.7), text_dropout=0.3, image_probability=0.5,
  )  # fmt: skip
  params = params_of(model)
  optimizer = make_optimizer(
    [ParamGroup(".*(audio_to_video|video_to_audio).*", 1e-2, 0.1),
     ParamGroup(".*", 1e-3, 0.2)],
    params, warmup_steps=3, total_steps=9, schedule="cosine", b1=0.9, b2=0.95,
    # Of the gradients' size: the step of a parameter is then smooth in its gradient.
    eps=1e-3, clip_norm=1.0, moment_dtype="float32",
  )  # fmt: skip
  rng = np.random.RandomState(8)
  batch = {s: _normal(rng, B, *shape) for s, shape in SHAPES.items()}
  batch |= {"text": _normal(rng, B, *TEXT), "null_text": _normal(rng, *TEXT)}
  batch["video_std"] = 0.3 * jnp.abs(_normal(rng, B, *SHAPES["video"]))
  step = jax.jit(make_train_step(model, optimizer, recipe, seed=5, ema_decay=0.3))
  state, out = new_state(params, optimizer), {"metrics": [], "lengths": []}
  for n in range(2):
    before = state.params
    state, metrics = step(state, batch)
    out["lengths"].append(length(state.params, before))
    rows = jax.tree.map(lambda x: np.asarray(x, float).tolist(), dict(metrics))
    rows["by_task"] = [[None if np.isnan(x) else x for x in r] for r in rows["by_task"]]
    out["metrics"].append(rows)
    if n == 0:
      # The first moment is a tenth of the gradient, clipped to norm 1.
      out["gradient"] = fingerprints(optax.tree_utils.tree_get(state.opt_state, "mu"))
  moved = jax.tree.map(lambda x, y: np.asarray(x - y), state.params, params)
  out["moved"] = fingerprints(moved)
  return out


def length(tree, other) -> float:
  """The norm of the difference of two trees of arrays."""
  apart = jax.tree.map(lambda x, y: np.asarray(x, np.float64) - y, tree, other)
  return sum(float((x**2).sum()) for x in jax.tree.leaves(apart)) ** 0.5


def fingerprints(tree) -> dict[str, list[float]]:
  """[norm, product with a random direction] of every leaf, by path."""
  rng = np.random.RandomState(9)
  out = {}
  for path, x in jax.tree_util.tree_leaves_with_path(tree):
    x = np.asarray(x, np.float64)
    product = float((x * rng.standard_normal(x.shape)).sum())
    name = jax.tree_util.keystr(path, simple=True, separator="/")
    out[name] = [float(np.linalg.norm(x)), product]
  return out


# Task, form of guidance, what is not as usual.
CLIPS = {
  "joint none": {"times": "uniform"},  # the paper's, as without another word causal
  "joint text": {"solver": "dpmpp"},
  "joint ucg2": {"solver": "unipc", "shift": 5.0},
  "joint ucg3": {},
  "joint multimodal": {},
  "joint sync": {"batched": False},
  "joint modality": {},
  "joint multimodal2": {},
  "joint ucg2_null": {},
  "joint ucg2_shuffled": {},
  "joint ucg3_text": {},
  "ti2av ucg2": {},
  "t2v text": {},
  "i2v text": {"channels": True},
  "t2a text": {"solver": "unipc"},
  "a2v sync": {},
  "v2a ucg3": {"times": "uniform", "tarp_centre": "floor"},
}


def golden_latents(name: str) -> dict[str, list[float]]:
  """Latents of two clips, three steps; of each stream a few numbers and products."""
  task, form = name.split()
  changes = dict(CLIPS[name])
  channels = changes.pop("channels", False)
  model = model_of(
    **{k: changes.pop(k) for k in ("times", "tarp_centre") if k in changes},
    variant="gate" if form.startswith("multimodal") else "context",
    image_form="channels" if channels else "first_frame",
  )
  if channels:
    streams = dict(model.streams)
    streams["video"] = dataclasses.replace(streams["video"], text_tokens=TEXT[0])
    model = model.clone(streams=tuple(streams.items()))
  params = params_of(model)
  sampling = Sampling(**{"steps": 3, "shift": 2.0, "solver": "euler"} | changes)
  sampling = dataclasses.replace(sampling, guidance=form)
  rng = np.random.RandomState(10)
  noise, clean = (
    {s: _normal(rng, 2, *shape) for s, shape in SHAPES.items()} for _ in range(2)
  )
  text = _normal(rng, 2, 2, *TEXT)
  kind = GENERATIONS[task]
  conditions = {
    "text": text,
    "given": {s: clean[s] for s in kind.given},
    "null": {s: 0.5 * clean[s][::-1] for s in SHAPES},
  }
  if channels:
    conditions["condition"] = _normal(rng, 2, 3, 4, 6, 20)
    conditions["clip"] = _normal(rng, 2, 9, 1280)
  elif kind.image:
    conditions["held"] = first_frame(clean["video"][:, :1], clean["video"].shape[1])
  made = {s: noise[s] for s in kind.generated}
  latents = jax.jit(
    lambda p, n, c: sample_latents(
      model, p, kind, n, c, sampling, clip=Geometry(3, 2, 3, 7)
    )
  )(params, made, conditions)  # fmt: skip
  return {s: summary(x) for s, x in latents.items()}


def summary(x) -> list[float]:
  """Deviation, four products with random directions of unit length, three numbers."""
  x = np.asarray(x, np.float64).ravel()
  directions = np.random.RandomState(11).standard_normal((4, len(x)))
  directions /= np.linalg.norm(directions, axis=1, keepdims=True)
  few = x[[0, len(x) // 2, len(x) - 1]]
  return [float(v) for v in (x.std(), *(directions @ x), *few)]


def _write(name: str, value: dict) -> None:
  shorten = lambda x: float(f"{x:.7g}") if isinstance(x, float) else x
  value = jax.tree.map(shorten, value, is_leaf=lambda x: x is None)
  rows = [f"{json.dumps(k)}: {json.dumps(v)}" for k, v in _flat(value)]
  (FOLDER / name).write_text("{\n" + ",\n".join(rows) + "\n}\n")


def _flat(value: dict):
  """One row a number or list: "a/b" -> value."""
  for k, v in value.items():
    if isinstance(v, dict):
      yield from ((f"{k} {n}", x) for n, x in _flat(v))
    else:
      yield k, v


def stored(name: str) -> dict:
  return json.loads((FOLDER / name).read_text())


def flat(value: dict) -> dict:
  return dict(_flat(value))


if __name__ == "__main__":
  FOLDER.mkdir(exist_ok=True)
  _write("golden_step.json", golden_step())
  _write("golden_latents.json", {name: golden_latents(name) for name in CLIPS})
