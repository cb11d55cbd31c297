"""Meshes for generation: which one is chosen, and that all make the same clip."""

import functools

import jax
import numpy as np
import pytest

from ccl_jax.diffusion.guidance import get_guidance
from ccl_jax.errors import UsageError
from ccl_jax.generation import meshes, pipeline
from ccl_jax.generation.pipeline import LoadedModel
from ccl_jax.generation.sampling import Sampling, most_together
from ccl_jax.models.presets import build_model, parameter_shapes
from ccl_jax.sharding import make_mesh
from ccl_jax.tasks import GENERATIONS
from tests.generation.parts import SPEC, small_parts

GIB = 2**30


@pytest.mark.parametrize(
  "devices, space, heads, rows, size, memory, expected",
  [
    (1, 1560, 40, 2, 40, 16, (1, 1, 1, 1)),
    # The 14B model in bfloat16 on v5e-8: too large for two copies of 4 chips.
    (8, 1560, 40, 2, 40, 16, (1, 1, 8, 1)),
    # On chips of 96 GiB both evaluations have 4 of their own.
    (8, 1560, 40, 2, 40, 96, (2, 1, 4, 1)),
    (8, 1560, 40, 2, 40, None, (2, 1, 4, 1)),
    # 40 heads do not divide by 16: the rest holds parameters.
    (16, 1560, 40, 1, 40, 16, (1, 2, 8, 1)),
    # A frame of 15 x 26 tokens over 8 chips.
    (8, 390, 40, 1, 40, 16, (1, 4, 2, 1)),
    # Sound alone has no space to split.
    (8, 1, 1, 4, 2, 16, (4, 2, 1, 1)),
    (6, 4, 4, 3, 1, 16, (3, 1, 2, 1)),
  ],
)
def test_the_mesh_that_is_chosen(devices, space, heads, rows, size, memory, expected):
  memory = memory and memory * GIB
  got = meshes.shape_for(devices, space, heads, rows, size * GIB, memory)
  assert got == expected and np.prod(got) == devices


def test_how_many_rows_are_evaluated_together():
  cfg = {"guidance": "ucg2", "batched": True}
  rows = lambda task, **how: most_together(
    get_guidance(how.get("guidance", "ucg2"), "context"),
    GENERATIONS[task],
    Sampling(**(cfg | how)),
  )
  assert rows("joint") == 2 and rows("joint", batched=False) == 1
  assert rows("joint", guidance="ucg3") == 3 and rows("joint", guidance="none") == 1


def test_a_mesh_that_does_not_fit_the_model():
  model = build_model("tiny", dtype="float32")
  for shape, words in (
    ((1, 1, 8, 1), "context 8 does not divide the 4 tokens"),
    ((1, 1, 1, 8), "tensor 8 does not divide the 4 heads of the video"),
    ((1, 3, 1, 1), "expected four sizes with product 8"),
    ((2, 4), "expected four sizes"),
  ):
    with pytest.raises(UsageError, match=words):
      meshes.mesh_for(model, SPEC, 2, shape)
  assert dict(meshes.mesh_for(model, SPEC, 2, (1, -1, 1, 1)).shape)["fsdp"] == 8
  assert tuple(meshes.mesh_for(model, SPEC, 2).shape.values()) == (2, 1, 4, 1)


def test_a_mesh_on_which_the_parameters_have_no_room(monkeypatch):
  """8 copies of them on devices that hold 4, and no device that holds an eighth."""
  model = build_model("tiny", dtype="float32")
  size = meshes.parameter_bytes(model)
  of = lambda share: monkeypatch.setattr(meshes, "device_memory", lambda: share)
  of(size // 2)
  assert dict(meshes.mesh_for(model, SPEC, 2, (4, 2, 1, 1)).shape)["data"] == 4
  words = (
    r"--mesh 8,1,1,1: the parameters take .* GiB of each device, which has .*: give "
    "data less than 8"
  )
  with pytest.raises(UsageError, match=words):
    meshes.mesh_for(model, SPEC, 2, (8, 1, 1, 1))
  of(size // 9)
  for shape in (None, (1, 8, 1, 1)):
    with pytest.raises(UsageError, match="each device, which has .*: use more devices"):
      meshes.mesh_for(model, SPEC, 2, shape)
  monkeypatch.setattr(meshes.jax, "devices", lambda: jax.local_devices()[:1])
  with pytest.raises(UsageError, match="^the parameters take"):
    meshes.mesh_for(model, SPEC, 2)
  of(size)
  assert meshes.mesh_for(model, SPEC, 2).size == 1


def test_bytes_of_parameters():
  """Of the tiny model, whose every matrix product is stored in bfloat16."""
  model = build_model("tiny", dtype="float32")
  shapes = parameter_shapes(model, (1, meshes.TEXT_WIDTH))
  count = sum(x.size for x in jax.tree.leaves(shapes))
  assert meshes.parameter_bytes(model) == 4 * count
  half = meshes.parameter_bytes(model.clone(dtype="bfloat16"))
  assert 2 * count < half < 2.2 * count


@pytest.fixture(scope="module")
def parts():
  return small_parts()


@pytest.fixture(scope="module")
def latents_of(parts):
  """A function of a task and a mesh to the latents of two clips, made once."""
  model, params, codecs, clips = parts
  stack = {s: np.stack([c[s] for c in clips[:2]]) for s in ("video", "audio")}
  stack["image"] = stack["video"][:, 0]

  @functools.cache
  def make(task, shape, **how):
    mesh = make_mesh(shape, jax.devices()[: int(np.prod(shape))])
    maker = LoadedModel(model, params, codecs, SPEC, shift=5.0, mesh=mesh)
    inputs = {n: stack[n] for n in GENERATIONS[task].needs()}
    sampling = Sampling(**({"guidance": "ucg2", "steps": 2} | how))
    return maker.generate(
      task, ["a b", "c"], seed=[3, 2**40], sampling=sampling, **inputs
    )

  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(pipeline, "decode", lambda codecs, latents: latents)
    yield make


@pytest.mark.parametrize("task", GENERATIONS)
def test_eight_devices_make_the_clip_of_one(latents_of, task):
  one, eight = (latents_of(task, shape) for shape in ((1, 1, 1, 1), (2, 1, 4, 1)))
  assert one.keys() == eight.keys()
  for s in one:
    scale = np.abs(one[s]).max()
    np.testing.assert_allclose(eight[s], one[s], rtol=0, atol=1e-5 * scale)


@pytest.mark.parametrize("shape", [(1, 2, 2, 2), (1, 8, 1, 1), (1, 1, 2, 4)])
def test_other_meshes_make_it_too(latents_of, shape):
  one, many = (latents_of("joint", x, steps=1) for x in ((1, 1, 1, 1), shape))
  for s in one:
    scale = np.abs(one[s]).max()
    np.testing.assert_allclose(many[s], one[s], rtol=0, atol=1e-5 * scale)


def test_fresh_noise_is_the_same_on_other_meshes(latents_of):
  """Of a schedule that draws some at every step."""
  few = {"schedule": "causvid", "guidance": None, "steps": None}
  one, many = (latents_of("joint", x, **few) for x in ((1, 1, 1, 1), (2, 1, 4, 1)))
  for s in one:
    scale = np.abs(one[s]).max()
    np.testing.assert_allclose(many[s], one[s], rtol=0, atol=1e-5 * scale)
