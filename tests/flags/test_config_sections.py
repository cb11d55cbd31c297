"""What a key of a config makes of the model, the objective and the optimizer."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ccl_jax.data.spec import ClipSpec
from ccl_jax.errors import UsageError, bind
from ccl_jax.models.cca import Geometry
from ccl_jax.models.presets import build_model, parameter_shapes
from ccl_jax.sharding import make_mesh
from ccl_jax.training import build as building
from ccl_jax.training.optim import ParamGroup, assign_groups
from ccl_jax.training.step import Recipe
from configs import common, joint
from tests.flags.recording import Recorder


def changed(section, key, value):
  config = common.base()
  config[section][key] = value
  return config


def at(thing, path):
  for name in path.split("."):
    thing = dict(thing)[name] if isinstance(thing, tuple) else getattr(thing, name)
  return thing


# (key of `model`, value, where the model has it, what is there)
MODEL = [
  ("preset", "tiny", "depth", 4),
  ("preset", "lab", "streams.video.width", 512),
  ("preset", "1.3b", "streams.audio.ffn", 3072),
  ("preset", "14b", "streams.video.heads", 40),
  ("streams", ("audio",), "cross", None),
  ("patch", 1, "streams.video.patch", (1, 1, 1)),
  ("patch", None, "streams.video.patch", (1, 2, 2)),
  ("variant", "gate", "cross.variant", "gate"),
  ("variant", "context", "cross.variant", "context"),
  ("tarp", False, "cross.window", 0),
  ("tarp", True, "cross.window", 1),
  ("times", "uniform", "cross.times", "uniform"),
  ("times", "uniform", "cross.rope_unit", "latent"),
  ("times", "causal", "cross.rope_unit", "token"),
  ("window", 3, "cross.window", 3),
  ("video_window", 5, "cross.video_window", 5),
  ("rope_unit", "index", "cross.rope_unit", "index"),
  ("video_tokens", 3, "cross.video_tokens", 3),
  ("audio_tokens", 0, "cross.audio_tokens", 0),
  ("context_std", 1.0, "cross.context_std", 1.0),
  ("context_values", False, "cross.context_values", False),
  ("tarp_centre", "floor", "cross.tarp_centre", "floor"),
  ("tarp_centre", "aligned", "cross.tarp_centre", "aligned"),
  ("cross_rope", "temporal", "cross.cross_rope", "temporal"),
  ("cross_rope", "3d", "cross.cross_rope", "3d"),
  ("image_form", "channels", "streams.video.in_channels", 36),
  ("image_form", "channels", "streams.video.image_tokens", True),
  ("image_form", "first_frame", "streams.video.in_channels", 16),
  ("image_form", "first_frame", "streams.video.image_tokens", False),
  ("remat", "full", "remat", "full"),
  ("remat", "none", "remat", "none"),
  ("dtype", "float32", "dtype", jnp.dtype("float32")),
  ("dtype", "bfloat16", "dtype", jnp.dtype("bfloat16")),
  ("residual", "bfloat16", "residual", jnp.dtype("bfloat16")),
  ("residual", "float32", "residual", jnp.dtype("float32")),
  ("attention", "dense", "kernel.name", "dense"),
  ("attention", "splash", "kernel.name", "splash"),
  ("attention", "auto", "kernel.name", "dense"),  # of this processor
  ("blocks", {"block_kv": 96}, "kernel.block_kv", 96),
]


@pytest.mark.parametrize(("key", "value", "path", "expected"), MODEL)
def test_a_key_of_the_model(key, value, path, expected):
  model = bind("model", changed("model", key, value).model, build_model)
  assert at(model, path) == expected


# (key of `objective`, value)
OBJECTIVE = [
  ("sigma", "logit_normal"), ("shift", 2.5), ("loss_weights", (2.0, 0.5)),
  ("text_dropout", 0.3), ("image_probability", 0.7), ("shared_sigma", False),
  ("detach", False), ("last_image_probability", 0.2),
]  # fmt: skip


@pytest.mark.parametrize(("key", "value"), OBJECTIVE)
def test_a_key_of_the_objective(key, value):
  recipe = building.make_recipe(changed("objective", key, value))
  default = building.make_recipe(common.base())
  assert getattr(recipe, key) == value != getattr(default, key)
  same = {f for f in Recipe.__dataclass_fields__ if f != key}
  assert all(getattr(recipe, f) == getattr(default, f) for f in same)


def test_probabilities_of_tasks_go_to_their_names():
  config = common.base()
  config.tasks.probabilities = {"single": 1.0, "a2v": 2.0, "v2a": 3.0, "joint": 4.0}
  recipe = building.make_recipe(config)
  found = dict(zip(recipe.names, recipe.probabilities))
  assert found == pytest.approx({"single": 0.1, "a2v": 0.2, "v2a": 0.3, "joint": 0.4})
  config.tasks.probabilities = {"single": 0.0, "a2v": 0.5, "v2a": 1.5, "joint": 0.0}
  recipe = building.make_recipe(config)
  assert (recipe.names, recipe.probabilities) == (("a2v", "v2a"), (0.25, 0.75))


def test_what_a_recipe_refuses():
  config = changed("tasks", "draw", "batch")
  with pytest.raises(UsageError, match="got 'batch'; expected 'sample' or 'step'"):
    building.make_recipe(config)
  for form in ("channels", "first_last"):
    for name in ("image_probability", "last_image_probability"):
      config = changed("model", "image_form", form)
      assert getattr(building.make_recipe(config), name) == 0
      config.objective[name] = 0.1
      with pytest.raises(
        UsageError, match=f"{name}.*expected 0 with image_form={form}"
      ):
        building.make_recipe(config)
  config = common.base()
  with config.unlocked():
    config.objective.sigmas = "uniform"
  with pytest.raises(UsageError, match="config.objective: .*'sigmas'"):
    building.make_recipe(config)


OPTIM = {
  "warmup_steps": 3, "schedule": "cosine", "b1": 0.7, "b2": 0.8, "eps": 0.05,
  "clip_norm": 1.5, "moment_dtype": "float32",
}  # fmt: skip
TOTAL = 9
GROUPS = (("fast/.*", 0.02, 0.5), ("held/.*", 0.0, 0.5), (".*", 0.003, 0.1))
SHAPES = {
  "fast": {"kernel": (3, 2), "bias": (4,)}, "slow": {"kernel": (2, 5)},
  "held": {"kernel": (2, 2)},
}  # fmt: skip


def drawn(seed):
  rng = np.random.default_rng(seed)
  draw = lambda shape: rng.standard_normal(shape)
  return jax.tree.map(draw, SHAPES, is_leaf=lambda x: isinstance(x, tuple))


def adamw(options, steps):
  """Parameters after so many steps, in float64, from the equations of the section."""
  o, p = options, drawn(0)
  m, v = jax.tree.map(np.zeros_like, p), jax.tree.map(np.zeros_like, p)
  rates = {"fast": (0.02, 0.5), "slow": (0.003, 0.1)}
  for t in range(steps):
    g = drawn(100 + t)
    norm = np.sqrt(sum((g[k][n] ** 2).sum() for k in rates for n in g[k]))
    scale = min(1.0, o["clip_norm"] / norm)
    rise = min(1.0, (t + 1) / o["warmup_steps"])
    if o["schedule"] == "cosine":
      done = max(0.0, (t - o["warmup_steps"]) / (TOTAL - o["warmup_steps"]))
      rise *= (1 + np.cos(np.pi * done)) / 2
    for k, (lr, decay) in rates.items():
      for n in p[k]:
        x = g[k][n] * scale
        m[k][n] = o["b1"] * m[k][n] + (1 - o["b1"]) * x
        v[k][n] = o["b2"] * v[k][n] + (1 - o["b2"]) * x * x
        mean = m[k][n] / (1 - o["b1"] ** (t + 1))
        square = v[k][n] / (1 - o["b2"] ** (t + 1))
        u = mean / (np.sqrt(square) + o["eps"])
        p[k][n] = p[k][n] - lr * rise * (u + decay * p[k][n] * (n == "kernel"))
  return p


def trained(options, steps):
  """The same by a config's section `optim`."""
  config = common.base()
  config.steps = TOTAL
  config.optim.update(options)
  config.optim.groups = GROUPS
  params = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), drawn(0))
  optimizer = building.build_optimizer(config, params)
  state, update = optimizer.init(params), jax.jit(optimizer.update)
  for t in range(steps):
    g = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), drawn(100 + t))
    updates, state = update(g, state, params)
    params = optax.apply_updates(params, updates)
  return params, state


def test_the_optimizer_is_adamw_of_the_section():
  """b1, b2, eps, clip_norm, warmup_steps, schedule and groups at once, by hand."""
  steps = 6
  found, _ = trained(OPTIM, steps)
  expected = adamw(OPTIM, steps)
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), found, expected
  )
  # Each key matters: another value moves the result by more than is tolerated.
  others = {
    "warmup_steps": 2, "schedule": "constant", "b1": 0.75, "b2": 0.85, "eps": 0.06,
    "clip_norm": 1.4,
  }  # fmt: skip
  for key, value in others.items():
    moved = adamw(OPTIM | {key: value}, steps)
    apart = jax.tree.map(lambda a, b: np.abs(a - b).max(), moved, expected)
    assert max(jax.tree.leaves(apart)) > 1e-4, key
  held = drawn(0)["held"]["kernel"].astype(np.float32)
  np.testing.assert_array_equal(found["held"]["kernel"], held)


def test_moment_dtype_is_the_first_moments():
  config = common.base()
  config.optim.groups, config.optim.moment_dtype = ((".*", 1e-3, 0.0),), "bfloat16"
  params = {"kernel": jnp.zeros((2, 2))}
  state = building.build_optimizer(config, params).init(params)
  kinds = {str(x.dtype) for x in jax.tree.leaves(state) if x.ndim == 2}
  assert kinds == {"bfloat16", "float32"}


def test_the_exchange_learns_ten_times_as_fast():
  """The groups of stage 2, over the whole model's parameters."""
  config = joint.get_config("runlocal")
  model = build_model(**config.model)
  shapes = parameter_shapes(model, (7, 24))
  groups = [ParamGroup(*row) for row in config.optim.groups]
  labels = assign_groups(shapes, groups)
  rates = {
    jax.tree_util.keystr(path, simple=True, separator="/"): groups[i].lr
    for path, i in jax.tree_util.tree_leaves_with_path(labels)
  }
  fast = {path for path, lr in rates.items() if lr == 1e-4}
  exchange = {p for p in rates if "audio_to_video" in p or "video_to_audio" in p}
  assert fast == exchange and any("context" in path for path in fast)
  assert {lr for path, lr in rates.items() if path not in exchange} == {1e-5}


def test_text_dropout_by_task():
  """Where a task has none, the objective's; in the order of the recipe's tasks."""
  config = common.base()
  assert building.make_recipe(config).text_dropout == 0.1
  config.tasks.probabilities.v2a = 0.0
  config.objective.text_dropout = 0.2
  config.tasks.text_dropout.single = 0.5
  config.tasks.text_dropout.v2a = 0.6
  config.tasks.text_dropout.joint = 0.0
  recipe = building.make_recipe(config)
  assert recipe.names == ("a2v", "joint", "single")
  assert recipe.text_dropout == (0.2, 0.0, 0.5)
  config = common.base()
  config.tasks.text_dropout.a2v = 0.7
  assert building.make_recipe(config).text_dropout == (0.7, 0.1, 0.1, 0.1)


BUILT = {"seed": 12, "accumulate": 3, "ema_decay": 0.75}
FILM = Geometry(9, 2, 2, 41)
MADE = BUILT | {"clip": FILM, "adapter": None}


@pytest.fixture
def steps(monkeypatch):
  """build_steps of a config, with a stand-in that names its task."""
  r = Recorder(monkeypatch)
  made = lambda *_, task, **__: lambda state, batch: (state + 1, {"task": task})
  r.replace(building, "make_train_step", made)

  def build(draw):
    config = common.base()
    config.tasks.draw = draw
    config.update(BUILT)
    recipe = building.make_recipe(config)
    one = jax.NamedSharding(make_mesh((1, 1, 1, 1), jax.devices()[:1]), jax.P())
    return building.build_steps(config, "model", "optimizer", recipe, one, FILM), recipe

  r.build = build
  return r


def test_one_program_draws_tasks_by_sample(steps):
  """Seed, accumulate and ema_decay are the step's."""
  step_of, recipe = steps.build("sample")
  call = steps.last("make_train_step")
  assert call == (("model", "optimizer", recipe), MADE | {"task": None})
  names = {step_of(i, {"video": 0, "audio": 0})[0] for i in range(20)}
  assert names == {"sample"} and len(steps.calls["make_train_step"]) == 1


def test_draw_by_step_is_one_static_task_a_step(steps):
  """In the shares of the table, the same for a seed, and only tasks the clips serve."""
  step_of, recipe = steps.build("step")
  made = [c.kwargs for c in steps.calls["make_train_step"]]
  assert made == [MADE | {"task": name} for name in recipe.names]
  both = {"video": 0, "audio": 0, "text": 0}
  names = [step_of(i, both)[0] for i in range(3000)]
  shares = {n: names.count(n) / 3000 for n in recipe.names}
  for name, p in (("single", 0.1), ("a2v", 0.15), ("v2a", 0.15), ("joint", 0.6)):
    assert abs(shares[name] - p) < 4 * (p * (1 - p) / 3000) ** 0.5, name
  assert names == [step_of(i, both)[0] for i in range(3000)]
  assert {step_of(i, {"audio": 0})[0] for i in range(30)} == {"single"}
  for stream in ("video", "audio"):
    assert {step_of(i, {stream: 0})[0] for i in range(30)} == {"single"}


def test_tokens_of_a_clip():
  """Frames (F - 1) / 4 + 1, rows H / 16, columns W / 16, sound 31.25 a second."""
  g = building.geometry_of(build_model("tiny"), ClipSpec(121, 352, 640, 24.0))
  assert (g.t, g.h, g.w, g.a) == (31, 22, 40, 157)
  g = building.geometry_of(
    build_model("tiny", streams=("audio",)), ClipSpec(17, 32, 48, 25.0)
  )
  assert (g.t, g.h, g.w, g.a) == (5, 2, 3, 21)
