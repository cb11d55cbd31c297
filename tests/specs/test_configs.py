"""Every config, at full size: a whole train step and its shardings, as shapes only."""

import importlib
import pathlib

import jax
import jax.numpy as jnp
import pytest

from ccl_jax.data.spec import ClipSpec
from ccl_jax.models.presets import PRESETS, build_model, parameter_shapes
from ccl_jax.sharding import make_mesh, parameter_axes, path_of
from ccl_jax.training.build import build_run
from ccl_jax.training.step import make_train_step

ROOT = pathlib.Path(__file__).parents[2]
CASES = [
  ("quickstart", ""),
  ("joint", "size=14b"),
  ("joint", "size=14b,image_form=channels"),
  ("joint", "size=1.3b"),
  ("joint", "size=5b"),
  ("joint", "runlocal"),
  ("joint", "size=tiny,records=SET"),
  ("audio", "size=14b,records=SET"),
  ("audio", "runlocal,records=SET"),
  ("ablation", "stage=video"),
  ("ablation", "stage=audio"),
  ("ablation", ""),
  ("ablation", "size=gpu"),
  ("lora", "size=tiny,init=DIR"),
  ("lora", "size=1.3b,init=DIR,whole=exchange"),
]


def test_cases_name_every_config():
  # Not of a transformer's training run.
  others = {"common", "__init__", "encode", "audio_vae", "vocoder"}
  files = {p.stem for p in (ROOT / "configs").glob("*.py")} - others
  assert files == {name for name, _ in CASES}


@pytest.mark.parametrize(("name", "arg"), CASES)
def test_train_step_has_the_shapes_it_should(name, arg):
  config = importlib.import_module(f"configs.{name}").get_config(arg)
  spec = ClipSpec(**config.clip)
  text = (config.codec.text_length, config.codec.text_dim)
  run = build_run(config, make_mesh((1, 2, 2, 2)), text)
  model, recipe, state = run.model, run.recipe, run.state
  base = () if run.base is None else (run.base,)  # what a part is trained of
  fresh = jax.eval_shape(run.fresh, jax.random.key(0), *base)
  batch = {
    "video": (
      config.batch.size,
      *spec.latent_shape,
      48 if config.model.preset == "5b" else 16,
    ),
    "audio": (config.batch.size, spec.audio_tokens, 20),
    "text": (config.batch.size, *text),
    "null_text": text,
  }
  if config.model.image_form == "channels":
    # Wan2.1-I2V: 4 mask and 16 latent channels beside the video, and CLIP tokens.
    batch["condition"] = (config.batch.size, *spec.latent_shape, 20)
    batch["image"] = (config.batch.size, 257, 1280)
  absent = {"video", "audio"} - {s for s, _ in model.streams}
  batch = {
    k: jax.ShapeDtypeStruct(v, jnp.float32) for k, v in batch.items() if k not in absent
  }
  # A task's own step differs by its route alone, which one config shows.
  tasks = recipe.names if (name, arg) == ("joint", "runlocal") else ()
  for task in (None, *tasks):
    step = make_train_step(
      model, run.optimizer, recipe, seed=0, task=task, adapter=run.adapter
    )
    new, metrics = jax.eval_shape(step, fresh, batch, *base)
    assert jax.tree.map(lambda x: (x.shape, x.dtype), new) == jax.tree.map(
      lambda x: (x.shape, x.dtype), fresh
    )
    assert metrics["by_task"].shape == (len(recipe.names), 2)
  large = [
    path_of(p)
    for p, x in jax.tree_util.tree_leaves_with_path((state, base))
    if x.size >= 2**22 and x.sharding.is_fully_replicated
  ]
  assert not large


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("image_form", ["first_frame", "channels"])
def test_every_parameter_has_a_sharding_rule(preset, image_form):
  model = build_model(preset, image_form=image_form)
  shapes = parameter_shapes(model, (512, 4096))
  for path, x in jax.tree_util.tree_leaves_with_path(shapes):
    assert len(parameter_axes("/" + path_of(path), x.ndim)) == x.ndim
