"""Wan2.1's names, its sizes, and what is not Wan2.1."""

import re

import jax
import numpy as np
import pytest
from safetensors.numpy import save_file

from ccl_jax.errors import UsageError
from ccl_jax.models.presets import build_model
from ccl_jax.weights import wan
from ccl_jax.weights.reader import open_weights, read_config
from ccl_jax.weights.rules import expected_tensors, load_tree, match
from ccl_jax.weights.transfer import open_source
from tests.weights.wan_files import (
  FFN,
  LAYERS,
  TEXT,
  WIDTH,
  config,
  save_pth,
  wan_tensors,
)

T2V_14B = {
  "width": 5120, "ffn": 13824, "heads": 40, "in_channels": 16, "out_channels": 16,
  "image_tokens": False, "frequencies": 256, "depth": 40, "text_dim": 4096,
}  # fmt: skip
SMALL = {
  "width": WIDTH, "ffn": FFN, "heads": 2, "in_channels": 36, "out_channels": 16,
  "image_tokens": True, "frequencies": 64, "depth": LAYERS, "text_dim": TEXT,
}  # fmt: skip
# Of the published models: parameters and tensors.
PUBLISHED = {
  "t2v-1.3B": (
    T2V_14B | {"width": 1536, "ffn": 8960, "heads": 12, "depth": 30}, 1418996800, 825
  ),
  "t2v-14B": (T2V_14B, 14288491584, 1095),
  "i2v-14B": (T2V_14B | {"in_channels": 36, "image_tokens": True}, 16394878784, 1303),
  "flf2v-14B": (
    T2V_14B | {"in_channels": 36, "image_tokens": True, "image_positions": 514},
    16395536704, 1304,
  ),
}  # fmt: skip
# What FLF2V has beside I2V: our parameter, the original's name, diffusers', the shape.
POSITIONS = (
  "video/image_positions", "img_emb.emb_pos",
  "condition_embedder.image_embedder.pos_embed", (1, 514, 1280),
)  # fmt: skip


@pytest.mark.parametrize("model", PUBLISHED)
def test_the_published_sizes(model):
  sizes, parameters, tensors = PUBLISHED[model]
  shapes = wan.shapes_of(sizes)
  assert sum(x.size for x in shapes.values()) == parameters
  for table in (wan.NATIVE, wan.DIFFUSERS):
    matches = expected_tensors(table, shapes)
    assert len({m.name for m in matches}) == len(matches) == tensors


@pytest.mark.shared
@pytest.mark.parametrize("model", PUBLISHED)
def test_every_published_name_and_shape(shared, model):
  """The list of the reference's tensors; its block 0 stands for all."""
  expected = {}
  listed = model.replace("flf2v", "i2v")
  for line in (shared / "design" / "wan_keys.tsv").read_text().splitlines()[1:]:
    component, native, diffusers, shape = line.split("\t")
    if component.split(" ")[0] == listed:
      shape = tuple(int(n) for n in re.findall(r"\d+", shape))
      expected[native] = (diffusers, shape)
  if listed != model:
    expected[POSITIONS[1]] = POSITIONS[2:]
  shapes = wan.shapes_of(PUBLISHED[model][0] | {"depth": 1})
  native, diffusers = (expected_tensors(t, shapes) for t in (wan.NATIVE, wan.DIFFUSERS))
  got = {}
  for ours, theirs in zip(native, diffusers):
    assert (ours.path, ours.slot, ours.shape) == (
      theirs.path,
      theirs.slot,
      theirs.shape,
    )
    got[ours.name] = (theirs.name, ours.shape)
  assert got == expected


def test_the_presets_hold_wan():
  for preset, model in (("1.3b", "t2v-1.3B"), ("14b", "t2v-14B")):
    sizes = PUBLISHED[model][0]
    ours = build_model(preset, streams=["video"], dtype="float32")
    assert ours == wan.model_of(sizes)
  conditioned = build_model(
    "14b", streams=["video"], image_form="channels", dtype="float32"
  )
  assert conditioned == wan.model_of(PUBLISHED["i2v-14B"][0])
  between = build_model(
    "14b", streams=["video"], image_form="first_last", dtype="float32"
  )
  assert between == wan.model_of(PUBLISHED["flf2v-14B"][0])
  images = [dict(m.streams)["video"].images for m in (ours, conditioned, between)]
  assert images == [0, 1, 2]


def opened(tmp_path, tensors):
  save_file(tensors, tmp_path / "model.safetensors")
  return open_weights(tmp_path / "model.safetensors")


@pytest.mark.parametrize("image", [False, True])
def test_sizes_from_the_tensors(tmp_path, image):
  weights = opened(tmp_path, wan_tensors(image))
  assert wan.format_of(weights) == "native"
  sizes = wan.sizes_of(weights, wan.NATIVE, config(image))
  expected = {"in_channels": 36 if image else 16, "image_tokens": image}
  assert sizes == SMALL | expected
  tree = load_tree(wan.NATIVE, weights, wan.shapes_of(sizes))
  kernel = tree["blocks"]["video"]["cross_attn"]["k"]["kernel"][1]
  np.testing.assert_array_equal(
    kernel, wan_tensors(image)["blocks.1.cross_attn.k.weight"].T
  )


@pytest.mark.parametrize("wrapped", ["model.", "net."])
def test_names_of_step_distilled_files(tmp_path, wrapped):
  """From within another module, under "generator"; with a matrix for patches, whose
  columns are a patch's channels, rows and columns in the convolution's order.
  """
  plain = wan_tensors()
  matrix = plain["patch_embedding.weight"].reshape(WIDTH, -1)
  tensors = plain | ({"patch_embedding.weight": matrix} if wrapped == "net." else {})
  path = tmp_path / "model.pt"
  inside = "generator" if wrapped == "model." else None
  save_pth(path, {f"{wrapped}{n}": x for n, x in tensors.items()}, inside=inside)
  source = open_source("wan-dit", path)
  assert source.form == "native"
  got = load_tree(wan.NATIVE, source.weights, wan.shapes_of(source.sizes))
  want = load_tree(wan.NATIVE, opened(tmp_path, plain), wan.shapes_of(source.sizes))
  jax.tree.map(np.testing.assert_array_equal, got, want)


def test_a_patch_embedding_of_no_whole_patches(tmp_path):
  tensors = wan_tensors() | {"patch_embedding.weight": np.zeros((WIDTH, 63))}
  save_file(tensors, tmp_path / "x.safetensors")
  with pytest.raises(UsageError, match=r"patch_embedding.weight is \(256, 63\)"):
    open_source("wan-dit", tmp_path / "x.safetensors")


def test_the_unused_tensor_of_some_exports_is_left_alone(tmp_path):
  shapes = wan.shapes_of(SMALL)
  tensors = {
    m.name: np.zeros(m.shape, np.float32)
    for m in expected_tensors(wan.DIFFUSERS, shapes)
  }
  tensors["blocks.0.attn2.norm_added_q.weight"] = np.ones(WIDTH, np.float32)
  weights = opened(tmp_path, tensors)
  assert wan.format_of(weights) == "diffusers"
  assert wan.sizes_of(weights, wan.DIFFUSERS, {}) == SMALL
  assert len(match(wan.DIFFUSERS, weights, shapes, wan.UPSTREAM.ignore)) + 1 == len(
    tensors
  )
  with pytest.raises(UsageError, match="unexpected tensor .*norm_added_q"):
    match(wan.DIFFUSERS, weights, shapes)


CHANNELS_48 = {"patch_embedding.weight": (256, 48, 1, 2, 2)}
OTHER_MODELS = {
  "Wan2.1-VACE": {"vace_patch_embedding.weight": (256, 96, 1, 2, 2)},
  "LTX-Video": {"patchify_proj.weight": (4, 4)},
  "a LoRA": {"blocks.0.self_attn.q.lora_A.weight": (4, 4)},
  "a UMT5 text encoder": {"token_embedding.weight": (4, 4)},
  "a video VAE": {"encoder.conv1.weight": (4, 3, 3, 3, 3)},
  "a CLIP image encoder": {"visual.cls_embedding": (1, 1, 4)},
  r"Wan2.2-S2V": {"casual_audio_encoder.weights": (4,)},
  "Wan2.2-Animate": {"face_adapter.fuser.weight": (4,)},
  "Wan-Fun": {"control_adapter.conv.weight": (4,)},
  "LTX-Video or": {"proj_in.weight": (4, 4)},
  "HunyuanVideo or FLUX": {"double_blocks.0.x.weight": (4, 4)},
  r"is Wan2.1-VACE.*vace_blocks": {"vace_blocks.0.x": (4,), "motion_encoder.x": (4,)},
  r"use: convert umt5": {"shared.weight": (4, 4)},
  r"use: convert clip": {"vision_model.x": (4, 4)},
  r"use: convert wan-vae": {"decoder.conv_in.weight": (4, 3, 3, 3, 3)},
  r"use: convert wan22-vae": {
    "encoder.conv1.weight": (4, 12, 3, 3, 3),
    "encoder.downsamples.1.downsamples.0.residual.0.gamma": (4, 1, 1, 1),
  },
  r"is \(256, 30, 1, 2, 2\)": {"patch_embedding.weight": (256, 30, 1, 2, 2)},
}


@pytest.mark.parametrize("model", OTHER_MODELS)
def test_other_models_are_named(tmp_path, model):
  extra = {n: np.zeros(s, np.float32) for n, s in OTHER_MODELS[model].items()}
  with pytest.raises(UsageError, match=f"{model}.*expected"):
    wan.format_of(opened(tmp_path, wan_tensors() | extra))
  with pytest.raises(UsageError, match="no Wan2.1 model.*but x;"):
    wan.format_of(opened(tmp_path, {"x": np.zeros(3, np.float32)}))


def test_flf2v_is_known_by_its_positions(tmp_path):
  """Its sizes, its clip, its shift and its negative prompt; config.json of both."""
  weights = opened(tmp_path, wan_tensors(image=True, last=True))
  sizes = wan.sizes_of(weights, wan.NATIVE, config(True))
  assert sizes == SMALL | {"image_positions": 514}
  tree = load_tree(wan.NATIVE, weights, wan.shapes_of(sizes))
  positions = wan_tensors(image=True, last=True)["img_emb.emb_pos"][0]
  np.testing.assert_array_equal(tree["video"]["image_positions"], positions)
  usage = wan.usage_of({"kind": "wan-dit", "sizes": sizes})
  assert usage["clip"] == {"frames": 81, "height": 720, "width": 1280, "fps": 16.0}
  assert usage["objective"] == {"shift": 16.0}
  assert usage["negative"]["video"].startswith("镜头切换，镜头晃动，色调艳丽")
  assert wan.config_of(sizes, "native")["model_type"] == "flf2v"
  assert wan.config_of(sizes, "diffusers")["pos_embed_seq_len"] == 514
  assert wan.config_of(SMALL, "diffusers")["pos_embed_seq_len"] is None
  assert wan.sizes_of_model(wan.model_of(sizes), TEXT) == sizes


def test_positions_of_another_number_of_images(tmp_path):
  tensors = wan_tensors(image=True) | {"img_emb.emb_pos": np.zeros((1, 257, 1280))}
  with pytest.raises(UsageError, match="is for 257 image tokens; expected 514"):
    wan.sizes_of(opened(tmp_path, tensors), wan.NATIVE, {})


HEAD_48 = {"head.head.weight": (192, 256), "head.head.bias": (192,)}


def test_ti2v_is_known_by_its_channels_in_and_out(tmp_path):
  """Wan-Fun's models with a control video take as many and give 16."""
  zeros = lambda shapes: {n: np.zeros(s, np.float32) for n, s in shapes.items()}
  tensors = wan_tensors() | zeros(CHANNELS_48 | HEAD_48)
  weights = opened(tmp_path, tensors)
  sizes = wan.sizes_of(weights, wan.NATIVE, {"in_dim": 48, "out_dim": 48})
  assert sizes == SMALL | {
    "in_channels": 48, "out_channels": 48, "image_tokens": False,
  }  # fmt: skip
  match(wan.NATIVE, weights, wan.shapes_of(sizes))
  written = wan.config_of(sizes, "native")
  assert (written["model_type"], written["in_dim"], written["out_dim"]) == (
    "ti2v", 48, 48,
  )  # fmt: skip
  weights = opened(tmp_path, wan_tensors() | zeros(CHANNELS_48))
  with pytest.raises(UsageError, match="takes 48 channels and gives 16, .* expected"):
    wan.sizes_of(weights, wan.NATIVE, {})


@pytest.mark.parametrize(
  ("key", "value"),
  [("num_heads", 4), ("num_layers", 3), ("eps", 1e-5), ("in_channels", 36)],
)
def test_a_config_that_contradicts_the_tensors(tmp_path, key, value):
  weights = opened(tmp_path, wan_tensors())
  with pytest.raises(UsageError, match=f"config.json says {key}={value}, expected"):
    wan.sizes_of(weights, wan.NATIVE, config() | {key: value})


def test_a_tensor_with_other_axes(tmp_path):
  tensors = wan_tensors() | {"head.head.bias": np.zeros((8, 8), np.float32)}
  with pytest.raises(
    UsageError, match=r"head.head.bias has shape \(8, 8\), expected 1"
  ):
    wan.sizes_of(opened(tmp_path, tensors), wan.NATIVE, {})


def test_a_width_no_head_divides(tmp_path):
  tensors = wan_tensors() | {"patch_embedding.bias": np.zeros(200, np.float32)}
  with pytest.raises(UsageError, match="200 channels; expected a multiple of 128"):
    wan.sizes_of(opened(tmp_path, tensors), wan.NATIVE, {})


@pytest.mark.parametrize("image", [False, True])
def test_an_export_describes_itself(tmp_path, image):
  weights = opened(tmp_path, wan_tensors(image))
  sizes = wan.sizes_of(weights, wan.NATIVE, {})
  for form in wan.UPSTREAM.tables:
    written = wan.config_of(sizes, form)
    assert wan.sizes_of(weights, wan.NATIVE, written) == sizes
  assert read_config(tmp_path / "model.safetensors") == {}
