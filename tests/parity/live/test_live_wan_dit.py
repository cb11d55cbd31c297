"""Our video stream and diffusers' `WanTransformer3DModel`: values, gradients, bf16.

Of Wan2.1's T2V, I2V and FLF2V, and of Wan2.2's TI2V with a clean first frame.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

from ccl_jax.weights import wan
from ccl_jax.weights.rules import unload
from ccl_jax.weights.transfer import export_weights
from tests.parity.check_case import relative_error

TIMESTEPS = np.array([999, 371])


def timesteps_of(pair):
  """(the reference's, ours). TI2V's first frame is clean: the reference has a timestep
  a token, as its pipelines make them with expand_timesteps; we have one a frame.
  """
  if pair.sizes["out_channels"] == 16:
    return TIMESTEPS, TIMESTEPS[:, None]
  mask = np.ones((3, 8, 12), int)
  mask[0] = 0
  tokens = [(mask[:, ::2, ::2] * t).reshape(-1) for t in TIMESTEPS]
  return np.stack(tokens), np.array([[0, t, t] for t in TIMESTEPS])


def drawn(pair):
  """Inputs by the reference's names and in its layout, and a projection of the output.

  As many text rows as Wan2.1 has; video of 3 x 4 x 6 tokens.
  """
  rng = np.random.default_rng(3)
  normal = lambda *shape: rng.standard_normal(shape, np.float32)
  inputs = {
    "hidden_states": normal(2, pair.sizes["in_channels"], 3, 8, 12),
    "encoder_hidden_states": normal(2, 512, pair.sizes["text_dim"]),
  }
  if pair.sizes["image_tokens"]:
    # The reference has a row an image: of FLF2V the first and the last of a clip.
    images = 2 if pair.sizes.get("image_positions") else 1
    inputs["encoder_hidden_states_image"] = normal(2 * images, 257, 1280)
  return inputs, normal(2, pair.sizes["out_channels"], 3, 8, 12)


def velocity(model, params, inputs, timesteps):
  """Ours, of the reference's inputs, in its layout."""
  image = inputs.get("encoder_hidden_states_image")
  out = model.apply(
    {"params": params},
    {"video": jnp.moveaxis(inputs["hidden_states"], 1, -1)},
    {"video": jnp.asarray(timesteps, jnp.float32)},
    inputs["encoder_hidden_states"],
    image=None if image is None else {"video": image.reshape(2, -1, 1280)},
  )["video"]
  return jnp.moveaxis(out, -1, 1)


@pytest.fixture(scope="module", params=["t2v", "i2v", "flf2v", "ti2v"])
def pair(request):
  return request.getfixturevalue(request.param)


@pytest.fixture(scope="module")
def theirs(pair):
  """The velocity, and the gradients of its projection by name."""
  import torch

  inputs, weight = drawn(pair)
  inputs = {n: torch.tensor(x, requires_grad=True) for n, x in inputs.items()}
  timesteps, _ = timesteps_of(pair)
  out = pair.reference(timestep=torch.tensor(timesteps), **inputs).sample
  leaves = dict(pair.reference.named_parameters()) | inputs
  grads = torch.autograd.grad((out * torch.tensor(weight)).sum(), leaves.values())
  return out.detach().numpy(), {n: g.numpy() for n, g in zip(leaves, grads)}


@pytest.fixture(scope="module")
def ours(pair):
  """The same, under the same names and in the same layouts."""
  inputs, weight = drawn(pair)
  model = wan.model_of(pair.sizes)
  _, timesteps = timesteps_of(pair)

  def loss(params, inputs):
    out = velocity(model, params, inputs, timesteps)
    return jnp.sum(out * weight), out

  run = jax.jit(jax.value_and_grad(loss, (0, 1), has_aux=True))
  (_, out), (grads, of_inputs) = jax.device_get(run(pair.params, inputs))
  flat = traverse_util.flatten_dict(grads, sep="/")
  # A table changes the layout of a gradient as it does that of a weight.
  named = unload(
    wan.DIFFUSERS, wan.shapes_of(pair.sizes), lambda path, slot: flat[path][slot]
  )
  return out, dict(named) | of_inputs


def test_the_velocity(ours, theirs):
  assert relative_error(ours[0], theirs[0]) < 1e-4


def test_the_gradient_of_every_tensor_and_input(ours, theirs):
  got, expected = ours[1], theirs[1]
  assert got.keys() == expected.keys()
  errors = {
    name: np.linalg.norm(got[name] - x) / np.linalg.norm(x)
    for name, x in expected.items()
  }
  worst = max(errors, key=errors.get)
  assert errors[worst] < 1e-4, (worst, errors[worst])


@pytest.mark.parametrize("pair", ["t2v", "flf2v"], indirect=True, scope="module")
def test_bfloat16_is_nearer_to_float32_than_theirs(pair, theirs):
  """Both multiply in bfloat16; our residual stream, time embedding and norms do not. Of
  text alone, and of the images of two frames.
  """
  import torch

  inputs, _ = drawn(pair)
  timesteps, own = timesteps_of(pair)
  half = type(pair.reference).from_pretrained(pair.saved, torch_dtype=torch.bfloat16)
  with torch.no_grad():
    halved = {n: torch.tensor(x, dtype=torch.bfloat16) for n, x in inputs.items()}
    out = half(timestep=torch.tensor(timesteps), **halved).sample.float().numpy()
  model = wan.model_of(pair.sizes, jnp.bfloat16)
  run = jax.jit(lambda p, x: velocity(model, p, x, own))
  rms = lambda x: np.sqrt(np.mean((x - theirs[0]) ** 2)) / theirs[0].std()
  assert 1e-3 < rms(np.asarray(run(pair.params, inputs))) < 0.8 * rms(out)


def test_diffusers_loads_our_export(tmp_path, pair):
  export_weights(pair.imported, tmp_path / "out", form="diffusers")
  loaded, report = type(pair.reference).from_pretrained(
    tmp_path / "out", output_loading_info=True
  )
  assert not any(report.values()), report
  assert loaded.config["num_layers"] == pair.reference.config["num_layers"]
  for name, x in pair.reference.state_dict().items():
    np.testing.assert_array_equal(loaded.state_dict()[name], x, err_msg=name)
