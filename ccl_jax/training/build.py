"""Builds the parts of a run from its config.

A section of a config is the keywords of one function. `train` runs the parts, `plan`
compiles them for machines that are not there.
"""

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import jax
import optax
from jax.sharding import Mesh

from ccl_jax.axes import STREAMS
from ccl_jax.data.spec import ClipSpec
from ccl_jax.errors import UsageError, bind
from ccl_jax.models.adapter import Adapter
from ccl_jax.models.cca import Geometry
from ccl_jax.models.joint import JointDiT, geometry_of
from ccl_jax.models.presets import build_model, init_params, parameter_shapes
from ccl_jax.sharding import compiler_options, parameter_shardings
from ccl_jax.tasks import servable, task_of_step, task_table
from ccl_jax.training.optim import ParamGroup, make_optimizer
from ccl_jax.training.state import TrainState, abstract_state, new_state
from ccl_jax.training.step import Recipe, make_train_step


def make_recipe(config) -> Recipe:
  """The training objective of a config, with its tasks' probabilities.

  Raises:
    UsageError: a setting of `tasks` or `objective` is wrong.
  """
  names, p = task_table(dict(config.tasks.probabilities))
  if config.tasks.draw not in ("sample", "step"):
    raise UsageError(
      f"config.tasks.draw: got {config.tasks.draw!r}; expected 'sample' or 'step'"
    )
  form = config.model.image_form
  for name in ("image_probability", "last_image_probability"):
    if form != "first_frame" and config.objective[name]:
      raise UsageError(
        f"config.objective.{name}: got {config.objective[name]}; expected 0 with "
        f"image_form={form}, where every video has its images beside it"
      )
  recipe = bind("objective", config.objective, Recipe, names=names, probabilities=p)
  own = [config.tasks.text_dropout.get(n) for n in names]
  if all(x is None for x in own):
    return recipe
  dropout = tuple(recipe.text_dropout if x is None else x for x in own)
  return dataclasses.replace(recipe, text_dropout=dropout)


def make_adapter(config) -> Adapter | None:
  """The part of the model that a config trains; None: all of it.

  Raises:
    UsageError: a setting of `lora` is wrong.
  """
  adapter = bind("lora", config.lora, Adapter)
  return adapter if adapter.layers or adapter.whole else None


def trained_shapes(config, shapes):
  """Shapes of what a config trains, of a model's parameters of these shapes.

  Raises:
    UsageError: a pattern of `lora` fits no parameter.
  """
  adapter = make_adapter(config)
  if adapter is None:
    return shapes
  return jax.eval_shape(adapter.trained, shapes, jax.random.key(0))


def build_optimizer(config, shapes):
  """The optimizer of a config for parameters of these shapes.

  Raises:
    UsageError: a setting of `optim` is wrong, or a group fits no parameter.
  """
  keys = {k: v for k, v in config.optim.items() if k != "groups"}
  groups = [ParamGroup(*row) for row in config.optim.groups]
  return bind("optim", keys, make_optimizer, groups, shapes, total_steps=config.steps)


class Run(NamedTuple):
  """The parts of a run.

  Attributes:
    model, recipe, optimizer: network, objective, and its minimiser.
    init: a key to fresh parameters.
    fresh: a key to a fresh state; with an adapter, a key and the model's parameters.
    state: shapes and shardings of the state.
    step_of: (step, batch) to the name and the jitted program of the step.
    adapter: the part of the model that is trained; None: all of it.
    base: with an adapter, shapes and shardings of the model's parameters.
  """

  model: JointDiT
  recipe: Recipe
  optimizer: optax.GradientTransformation
  init: Callable[[jax.Array], Any]
  fresh: Callable[[jax.Array], TrainState]
  state: TrainState
  step_of: Callable[[int, Mapping[str, jax.Array]], tuple[str, Callable]]
  adapter: Adapter | None = None
  base: Any = None

  @property
  def shardings(self) -> TrainState:
    """The sharding of every array of the training state."""
    return jax.tree.map(lambda x: x.sharding, self.state)


def build_run(
  config,
  mesh: Mesh,
  text: tuple[int, int],
  *,
  batch: int = 1,
  clip: ClipSpec | None = None,
) -> Run:
  """The parts of a run. Nothing is computed: all arrays are shapes.

  Args:
    config: of the run.
    mesh: its devices, which need not be there.
    text: (l, e) of the text embeddings.
    batch: rows of the stand-in that parameters are made with; a mesh may ask for a
      multiple of its devices.
    clip: the films of the run; None: the config's.

  Raises:
    UsageError: a setting is wrong.
  """
  model = bind("model", config.model, build_model)
  recipe = make_recipe(config)
  init = lambda key: init_params(model, key, text, batch=batch)
  params = parameter_shapes(model, text, batch=batch)
  adapter, base = make_adapter(config), None
  if adapter is None:
    optimizer = build_optimizer(config, params)
    fresh = lambda key: new_state(init(key), optimizer)
    trained = params
  else:
    trained = trained_shapes(config, params)
    optimizer = build_optimizer(config, trained)
    fresh = lambda key, base: new_state(adapter.trained(base, key), optimizer)
    placed = parameter_shardings(params, mesh)
    base = jax.tree.map(lambda x, s: x.update(sharding=s), params, placed)
  shapes = jax.eval_shape(lambda params: new_state(params, optimizer), trained)
  state = abstract_state(shapes, mesh)
  shardings = jax.tree.map(lambda x: x.sharding, state)
  films = geometry_of(model, clip or bind("clip", config.clip, ClipSpec))
  step_of = build_steps(config, model, optimizer, recipe, shardings, films)
  return Run(
    model, recipe, optimizer, init, fresh, state, step_of, adapter=adapter, base=base
  )


def build_steps(config, model, optimizer, recipe, shardings, clip: Geometry):
  """The function (step, batch) -> (name, program): one program, or one per task.

  Args:
    config: its `tasks.draw` says which.
    model, optimizer, recipe: parts of the run.
    shardings: of the state.
    clip: token counts of the run's clips.
  """

  def jitted(task):
    step = make_train_step(
      model,
      optimizer,
      recipe,
      seed=config.seed,
      accumulate=config.accumulate,
      ema_decay=config.ema_decay,
      task=task,
      clip=clip,
      adapter=make_adapter(config),
    )
    return jax.jit(
      step,
      donate_argnums=0,
      out_shardings=(shardings, None),
      compiler_options=compiler_options(jax.tree.leaves(shardings)[0].mesh),
    )

  if config.tasks.draw == "sample":
    # Tasks as masks over the batch: one program serves all mixtures.
    by_sample = "sample", jitted(None)
    return lambda step, batch: by_sample
  # Tasks as static routes: each program skips the keys that its task does not see.
  by_task = [(name, jitted(name)) for name in recipe.names]

  def step_of(step, batch):
    streams = tuple(s for s in STREAMS if s in batch)
    # A bucket without sound (or without picture) serves fewer tasks.
    p = servable(recipe.names, recipe.probabilities, streams)
    return by_task[task_of_step(config.seed, step, p)]

  return step_of


def check_sizes(config, mesh: Mesh, sizes: Iterable[int]) -> None:
  """Checks that batches of `sizes` rows divide over the mesh and its microbatches.

  Raises:
    UsageError: one does not.
  """
  rows = mesh.shape["data"] * mesh.shape["fsdp"] * config.accumulate
  for size in sizes:
    if size < 1 or size % rows:
      raise UsageError(
        f"config.batch.size: got {size}; expected a multiple of {rows} "
        "(data x fsdp devices x accumulated microbatches)"
      )
