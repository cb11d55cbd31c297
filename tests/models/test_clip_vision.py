"""CLIP's vision tower: golden tokens, the resize, the blocks, files, mistakes."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from ccl_jax.errors import UsageError
from ccl_jax.models.clip_vision import ClipImage, ClipTower, clip_pixels
from ccl_jax.ops.bicubic import matrix as bicubic_matrix
from ccl_jax.weights.clip import DIFFUSERS, NATIVE, shapes_of
from ccl_jax.weights.load import load_params
from ccl_jax.weights.rules import expected_tensors
from tests.parity.cases_wan_clip import cases_wan_clip

SIZES = dict(width=24, ffn=40, heads=3, depth=2, patch=4, grid=3)
squeeze = jax.jit(clip_pixels, static_argnums=1)
encode = jax.jit(ClipImage.encode)


def images(*shape, seed=0):
  rng = np.random.default_rng(seed)
  return rng.uniform(-1, 1, (*shape, 3)).astype(np.float32)


def native(seed: int = 0, layers: int = 3) -> dict[str, np.ndarray]:
  """A file of the release at a small size, with its text half."""
  rng = np.random.default_rng(seed)
  w, f = SIZES["width"], SIZES["ffn"]
  shapes = {
    "visual.cls_embedding": (1, 1, w),
    "visual.pos_embedding": (1, 10, w),
    "visual.patch_embedding.weight": (w, 3, 4, 4),
    "visual.pre_norm.weight": (w,),
    "visual.pre_norm.bias": (w,),
    "visual.post_norm.weight": (w,),
    "visual.post_norm.bias": (w,),
    "visual.head": (w, 16),
    "textual.token_embedding.weight": (10, 8),
    "log_scale": (),
  }
  dense = {"attn.to_qkv": (3 * w, w), "attn.proj": (w, w)}
  dense |= {"mlp.0": (f, w), "mlp.2": (w, f)}
  for n in range(layers):
    for name, shape in (dense | {"norm1": (w,), "norm2": (w,)}).items():
      shapes[f"visual.transformer.{n}.{name}.weight"] = shape
      shapes[f"visual.transformer.{n}.{name}.bias"] = shape[:1]
  out = {}
  for name, shape in shapes.items():
    x = rng.standard_normal(shape)
    if len(shape) > 1 and "transformer" in name:
      x /= shape[1] ** 0.5
    out[name] = np.asarray(1 + 0.2 * x if "norm" in name else x, np.float32)
  return out


def diffusers(tensors) -> dict[str, np.ndarray]:
  names = {
    "norm1": "layer_norm1",
    "norm2": "layer_norm2",
    "attn.proj": "self_attn.out_proj",
    "mlp.0": "mlp.fc1",
    "mlp.2": "mlp.fc2",
  }
  top = "vision_model.embeddings"
  out = {
    f"{top}.class_embedding": tensors["visual.cls_embedding"][0, 0],
    f"{top}.position_embedding.weight": tensors["visual.pos_embedding"][0],
    f"{top}.patch_embedding.weight": tensors["visual.patch_embedding.weight"],
    f"{top}.position_ids": np.arange(10)[None],
    "visual_projection.weight": tensors["visual.head"].T.copy(),
  }
  for kind in ("weight", "bias"):
    out[f"vision_model.pre_layrnorm.{kind}"] = tensors[f"visual.pre_norm.{kind}"]
    out[f"vision_model.post_layernorm.{kind}"] = tensors[f"visual.post_norm.{kind}"]
    for n in range(3):
      here = f"vision_model.encoder.layers.{n}"
      there = f"visual.transformer.{n}"
      for ours, theirs in names.items():
        out[f"{here}.{theirs}.{kind}"] = tensors[f"{there}.{ours}.{kind}"]
      parts = np.split(tensors[f"{there}.attn.to_qkv.{kind}"], 3)
      for x, part in zip("qkv", parts):
        out[f"{here}.self_attn.{x}_proj.{kind}"] = part.copy()
  return out


@pytest.fixture(scope="module")
def releases(tmp_path_factory):
  """Folders as the two releases have them, with the same numbers."""
  root, tensors = tmp_path_factory.mktemp("releases"), native()
  (root / "wan").mkdir()
  (root / "hub/image_encoder").mkdir(parents=True)
  save_file(tensors, root / "wan/models_clip_open-clip.safetensors")
  save_file({"x": np.zeros(3)}, root / "wan/models_t5.safetensors")
  # The configuration of another network of the release, and that of this one.
  (root / "wan/config.json").write_text('{"dim": 5120, "num_heads": 40}')
  save_file(diffusers(tensors), root / "hub/image_encoder/model.safetensors")
  (root / "hub/image_encoder/config.json").write_text(
    '{"hidden_size": 24, "num_attention_heads": 3}'
  )
  return root, tensors


@pytest.mark.shared
@pytest.mark.parametrize("file", ["models_clip.pth", "clip.safetensors"])
def test_golden_pixels_and_tokens(shared, file):
  for _, got, expected, _ in cases_wan_clip(shared / "parity/wan_clip", file):
    assert np.abs(got - expected).max() < 1e-5 * expected.std()


@pytest.mark.shared
def test_golden_tokens_in_bfloat16(shared):
  """One per cent of the deviation, rms: eight bits of mantissa through two blocks."""
  _, (_, got, expected, _) = cases_wan_clip(
    shared / "parity/wan_clip", dtype="bfloat16"
  )
  error = np.sqrt(np.mean((got - expected) ** 2)) / expected.std()
  assert 1e-4 < error < 0.01


@pytest.mark.parametrize("size, target", [(90, 56), (7, 20), (13, 13), (720, 224)])
def test_the_resize_is_cubic_interpolation_with_repeated_borders(size, target):
  matrix = bicubic_matrix(size, target)
  np.testing.assert_allclose(matrix.sum(1), 1, atol=1e-5)
  assert (matrix != 0).sum(1).max() <= 4  # no antialiasing
  line = np.random.default_rng(0).standard_normal(size)
  for i in range(target):
    place = (i + 0.5) * size / target - 0.5
    total = 0.0
    for tap in range(math.floor(place) - 1, math.floor(place) + 3):
      x = abs(place - tap)
      if x < 1:
        weight = 1.25 * x**3 - 2.25 * x**2 + 1
      else:
        weight = -0.75 * x**3 + 3.75 * x**2 - 6 * x + 3
      total += weight * line[min(max(tap, 0), size - 1)]
    assert abs(matrix[i] @ line - total) < 2e-4
  if size == target:
    np.testing.assert_array_equal(matrix, np.eye(size))


def test_pixels_are_squeezed_not_cropped_and_normalised_by_colour():
  image = images(1, 10, 22)
  pixels = np.asarray(squeeze(image, 12))
  mean, std = (
    np.array(x)
    for x in ([0.481455, 0.457828, 0.408211], [0.268630, 0.261303, 0.275777])
  )
  rows, columns = bicubic_matrix(10, 12), bicubic_matrix(22, 12)
  seen = np.einsum("ih,bhwc,jw->bijc", rows, image, columns)
  np.testing.assert_allclose(pixels, (seen / 2 + 0.5 - mean) / std, atol=2e-5)
  border = np.array(squeeze(np.where(np.arange(22)[:, None] < 2, 1, -image), 12))
  assert np.abs(border - squeeze(-image, 12))[:, :, 0].min() > 0  # its left edge counts
  same = images(2, 12, 12)
  expected = (same / 2 + 0.5 - mean) / std
  np.testing.assert_allclose(squeeze(same, 12), expected, atol=1e-5)


def test_tokens_are_the_formula(releases):
  """Written block by block in float64, from the names of the release."""
  root, tensors = releases
  image = images(2, 12, 12)
  w = {k: v.astype(np.float64) for k, v in tensors.items()}

  def ln(x, name):
    x = x - x.mean(-1, keepdims=True)
    x = x / np.sqrt((x * x).mean(-1, keepdims=True) + 1e-5)
    return x * w[f"{name}.weight"] + w[f"{name}.bias"]

  gelu = np.vectorize(lambda x: 0.5 * x * (1 + math.erf(x / math.sqrt(2))))
  dense = lambda x, name: x @ w[f"{name}.weight"].T + w[f"{name}.bias"]
  pixels = np.asarray(squeeze(image, 12), np.float64).reshape(2, 3, 4, 3, 4, 3)
  kernel = w["visual.patch_embedding.weight"]
  x = np.einsum("bhiwjc,ocij->bhwo", pixels, kernel).reshape(2, 9, 24)
  x = np.concatenate([np.tile(w["visual.cls_embedding"], (2, 1, 1)), x], 1)
  x = ln(x + w["visual.pos_embedding"], "visual.pre_norm")
  for n in range(2):  # of three
    here = f"visual.transformer.{n}"
    q, k, v = np.split(dense(ln(x, f"{here}.norm1"), f"{here}.attn.to_qkv"), 3, -1)
    out = []
    for head in np.split(np.arange(24), 3):
      weights = np.exp(q[..., head] @ k[..., head].swapaxes(1, 2) / math.sqrt(8))
      out.append(weights / weights.sum(-1, keepdims=True) @ v[..., head])
    x = x + dense(np.concatenate(out, -1), f"{here}.attn.proj")
    hidden = gelu(dense(ln(x, f"{here}.norm2"), f"{here}.mlp.0"))
    x = x + dense(hidden, f"{here}.mlp.2")
  got = np.asarray(encode(load_clip(root / "hub"), image))
  assert got.shape == (2, 10, 24) and got.dtype == np.float32
  np.testing.assert_allclose(got, x, atol=2e-5)


def load_clip(path, dtype="float32"):
  params, sizes = load_params("clip", path, dtype)
  return ClipImage(params, sizes["heads"], dtype)


def test_images_of_any_size_and_bfloat16(releases):
  clip = load_clip(releases[0] / "hub")
  image = images(2, 9, 17)
  tokens = np.asarray(encode(clip, image))
  assert tokens.shape == (2, 10, 24)
  half = np.asarray(encode(load_clip(releases[0] / "hub", "bfloat16"), image))
  error = np.sqrt(np.mean((half - tokens) ** 2)) / tokens.std()
  assert half.dtype == np.float32 and 1e-4 < error < 0.02
  assert np.abs(tokens[0] - tokens[1]).mean() > 0.05  # the image matters


def test_both_releases_are_read(releases):
  root, tensors = releases
  hub, wan = load_clip(root / "hub"), load_clip(root / "wan")
  jax.tree.map(np.testing.assert_array_equal, hub.params, wan.params)
  sizes = {k: getattr(hub.tower, k) for k in SIZES}
  assert sizes == SIZES
  assert wan.heads == 1  # by the release's head width: another network's config is not
  first = tensors["visual.transformer.1.mlp.0.weight"]
  np.testing.assert_array_equal(hub.params["blocks"]["mlp"]["in"]["kernel"][1].T, first)


def test_sizes_and_tensors_of_the_release():
  tower = ClipTower()
  assert tower.heads == ClipImage({}).heads == 16 and tower.dtype == jnp.bfloat16
  shapes = shapes_of({k: getattr(tower, k) for k in SIZES})
  count = sum(math.prod(x.shape) for x in shapes.values())
  after = 2 * 1280 + 1280 * 1024  # the last norm and the head
  last = sum(math.prod(x.shape[1:]) for p, x in shapes.items() if p[:6] == "blocks")
  assert count + last + after == 632_076_800
  for rows, tensors, shape in (
    (NATIVE, 12, (3840, 1280)),
    (DIFFUSERS, 16, (1280, 1280)),
  ):
    names = {m.name: m.shape for m in expected_tensors(rows, shapes)}
    assert len(names) == 5 + 31 * tensors and shape in names.values()


def test_mistakes_about_files_are_one_line(releases, tmp_path):
  tensors = native()

  def message(tensors):
    save_file(tensors, tmp_path / "x.safetensors")
    with pytest.raises(UsageError) as e:
      load_params("clip", tmp_path / "x.safetensors")
    assert "\n" not in str(e.value)
    return str(e.value)

  without = lambda part: {k: v for k, v in tensors.items() if part not in k}
  assert "no CLIP image encoder" in message({"token_embedding.weight": np.zeros(3)})
  assert "no tensor visual.transformer.1.norm2.bias" in message(without("1.norm2.bias"))
  assert "visual.transformer.0.mlp.0.bias" in message(without("transformer"))
  extra = {"visual.transformer.1.gate": np.zeros(3, np.float32)}
  assert "unexpected tensor visual.transformer.1.gate" in message(tensors | extra)
  theirs = load_file(releases[0] / "hub/image_encoder/model.safetensors")
  del theirs["vision_model.encoder.layers.1.self_attn.k_proj.weight"]
  assert "no tensor vision_model.encoder.layers.1.self_attn.k_proj.w" in message(theirs)


def test_a_clip_encoder_is_an_argument_of_a_jitted_function(releases):
  clip = load_clip(releases[0] / "hub")
  half = jax.tree.map(lambda x: x * jnp.float32(0.5), clip)
  before = encode._cache_size()
  image = images(1, 9, 17)
  encode(clip, image)
  encode(half, image)
  assert encode._cache_size() - before <= 1
