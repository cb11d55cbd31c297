"""Damaged and foreign downloads, as files, through the command line.

Each is one line on stderr that names the file and the tensor, what was got and what was
expected; the exit code is 2, and nothing appears at the destination.
"""

import functools
import json
import os
import re

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from ccl_jax import convert
from ccl_jax.weights.upstream import get_upstream
from tests.weights import release_files
from tests.weights.test_round_trip import SIZES
from tests.weights.wan_files import save_pth, save_shards, wan_tensors

# A matrix in the middle of each network.
KEYS = {
  "wan-dit": "blocks.1.cross_attn.k.weight",
  "wan-vae": "decoder.middle.0.residual.2.weight",
  "wan22-vae": "decoder.upsamples.1.upsamples.3.time_conv.weight",
  "umt5": "blocks.1.ffn.fc1.weight",
  "clip": "visual.transformer.1.attn.to_qkv.weight",
}


@functools.cache
def release(kind, form="native"):
  return release_files.tensors(kind, SIZES[kind], form)


@pytest.fixture
def refused(tmp_path, capsys):
  """(kind, src) -> the line that `convert` leaves."""

  def run(kind, src):
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(SystemExit) as e:
      convert.main([kind, "--src", str(src), "--dst", str(tmp_path / "new" / "dst")])
    out = capsys.readouterr()
    assert e.value.code == 2 and not out.out
    assert out.err.startswith("error: ") and out.err.count("\n") == 1
    assert sorted(tmp_path.rglob("*")) == before
    return out.err

  return run


def missing_shard(folder, tensors, key):
  shard = shard_of(folder, tensors, key)
  first = re.escape(min(load_file(shard)))
  shard.unlink()
  return rf"{shard.name} is missing, and .*index.json expects {first} in it"


def index_of_an_absent_tensor(folder, tensors, key):
  shard = shard_of(folder, tensors, key)
  rest = {n: x for n, x in load_file(shard).items() if n != key}
  save_file(rest, shard)
  return rf"index.json expects {re.escape(key)} in {shard.name}, which does not hold it"


def missing_tensor(folder, tensors, key):
  rest = {n: x for n, x in tensors.items() if n != key}
  save_file(rest, folder / "weights.safetensors")
  return rf"no tensor {re.escape(key)}, expected one of shape {shape(tensors[key])}"


def unknown_tensor(folder, tensors, key):
  more = {"adapter.up": np.zeros((2, 3), np.float32)}
  save_file(tensors | more, folder / "weights.safetensors")
  return (
    r"weights.safetensors: unexpected tensor adapter.up \(2, 3\); expected exactly "
    rf"the {len(tensors)} tensors"
  )


def wrong_shape(folder, tensors, key):
  x = np.ascontiguousarray(tensors[key][:, 1:])
  save_file(tensors | {key: x}, folder / "weights.safetensors")
  return (
    rf"weights.safetensors: {re.escape(key)} has shape {shape(x)}, expected "
    rf"{shape(tensors[key])}"
  )


def integers(folder, tensors, key):
  x = tensors[key].astype(np.int8)
  save_file(tensors | {key: x}, folder / "weights.safetensors")
  return rf"weights.safetensors: {re.escape(key)} is int8, expected one of float32"


def truncated(folder, tensors, key):
  path = folder / "weights.safetensors"
  save_file(tensors, path)
  size = path.stat().st_size
  os.truncate(path, size - 10)
  return rf"weights.safetensors is truncated: got {size - 10} bytes, expected {size};"


def truncated_pickle(folder, tensors, key):
  save_pth(folder / "weights.pth", tensors)
  os.truncate(folder / "weights.pth", 5000)
  return r"weights.pth is truncated or damaged: download it again"


def git_lfs_pointer(folder, tensors, key):
  text = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"
  (folder / "weights.safetensors").write_text(text)
  return r"weights.safetensors is a Git LFS pointer, .*: run 'git lfs pull'"


def malicious_pickle(folder, tensors, key):
  class Evil:
    def __reduce__(self):
      return os.mkdir, (str(folder / "run"),)

  save_pth(folder / "weights.pth", tensors, extra={"evil": Evil()})
  return r"weights.pth asks for posix.mkdir, which is refused: expected a dict of tens"


def shard_of(folder, tensors, key):
  """The shard, of three that are written, that has `key`."""
  save_shards(folder, tensors)
  (index,) = folder.glob("*.index.json")
  return folder / json.loads(index.read_text())["weight_map"][key]


def shape(x):
  return re.escape(str(x.shape))


MISTAKES = [
  missing_shard, index_of_an_absent_tensor, missing_tensor, unknown_tensor, wrong_shape,
  integers, truncated, truncated_pickle, git_lfs_pointer, malicious_pickle,
]  # fmt: skip


@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda m: m.__name__)
@pytest.mark.parametrize("kind", KEYS)
def test_a_damaged_download(tmp_path, refused, kind, mistake):
  folder = tmp_path / "download"
  folder.mkdir()
  expected = mistake(folder, release(kind), KEYS[kind])
  files = [*folder.glob("weights.*"), *folder.glob("*.index.json")]
  assert re.search(expected, refused(kind, files[0]))


def zeros(shapes):
  return {name: np.zeros(x, np.float32) for name, x in shapes.items()}


def wan22_5b(folder):
  """Wan2.2-TI2V-5B, with a part of its VAE."""
  x = {"patch_embedding.weight": (256, 48, 1, 2, 2), "head.head.weight": (192, 256)}
  save_shards(folder, wan_tensors() | zeros(x | {"head.head.bias": (192,)}))
  (folder / "config.json").write_text('{"_class_name": "WanModel", "in_dim": 48}')
  vae = {
    "encoder.conv1.weight": (16, 12, 3, 3, 3),
    "encoder.downsamples.0.downsamples.0.residual.0.gamma": (16, 1, 1, 1),
    "conv2.weight": (48, 48, 1, 1, 1),
    "decoder.conv1.weight": (64, 48, 3, 3, 3),
  }
  save_pth(folder / "Wan2.2_VAE.pth", zeros(vae))


def ltx(folder):
  """LTX-Video, as diffusers has it; its text encoder is a T5."""
  block = "transformer_blocks.0"
  parts = {
    "transformer/diffusion_pytorch_model": {
      f"{block}.attn1.to_q.weight": (64, 64),
      f"{block}.scale_shift_table": (6, 64),
      "caption_projection.linear_1.weight": (64, 32),
      "proj_in.weight": (64, 128),
      "time_embed.emb.timestep_embedder.linear_1.weight": (64, 256),
    },
    "vae/diffusion_pytorch_model": {
      "decoder.conv_in.conv.weight": (64, 128, 3, 3, 3),
      "encoder.conv_in.conv.weight": (64, 48, 3, 3, 3),
      "latents_mean": (128,),
    },
    "text_encoder/model": {
      name: x.shape
      for name, x in release("umt5", "diffusers").items()
      if not re.search("block.1.*bias", name)
    },
  }
  for name, shapes in parts.items():
    path = folder / f"{name}.safetensors"
    path.parent.mkdir()
    save_file(zeros(shapes), path)


def ltx_file(folder):
  """LTX-Video in the one file of its release."""
  prefix = "model.diffusion_model."
  shapes = {
    f"{prefix}adaln_single.emb.timestep_embedder.linear_1.weight": (64, 256),
    f"{prefix}patchify_proj.weight": (64, 128),
    "vae.decoder.conv_in.conv.weight": (64, 128, 3, 3, 3),
  }
  save_file(zeros(shapes), folder / "ltx-video-2b.safetensors")


def control(folder):
  """Wan-Fun with a control video beside latent and image: 48 channels in, 16 out."""
  x = {"patch_embedding.weight": (256, 48, 1, 2, 2)}
  save_file(wan_tensors() | zeros(x), folder / "diffusion_pytorch_model.safetensors")


FOREIGN = [
  ("wan-dit", control, "", "takes 48 channels and gives 16, .* expected Wan2.1 T2V"),
  ("wan22-vae", wan22_5b, "", "download: no tensor decoder.head.2.weight, which every"),
  ("wan-vae", wan22_5b, "Wan2.2_VAE.pth", "channels, expected 16.*convert wan22-vae"),
  ("wan-vae", wan22_5b, "", "is not Wan2.1's VAE: .* but blocks.0.cross_attn.k.bias"),
  ("wan-dit", ltx, "", "is LTX-Video or another model, by its tensor proj_in.weight"),
  ("wan-vae", ltx, "", "is not Wan2.1's VAE: .* but decoder.conv_in.conv.weight"),
  ("umt5", ltx, "", r"no tensor encoder.block.1.*bias.weight, expected .* \(8, 4\)"),
  ("clip", ltx, "", r"no checkpoint: expected .* named models_clip\* or .* name the f"),
  ("wan-dit", ltx_file, "", "is LTX-Video, by its tensor adaln_single.emb.*; expected"),
  ("clip", ltx_file, "ltx-video-2b.safetensors", "has none of visual.patch_embedding"),
]


@pytest.mark.parametrize(("kind", "model", "file", "expected"), FOREIGN)
def test_another_model(tmp_path, refused, kind, model, file, expected):
  folder = tmp_path / "download"
  folder.mkdir()
  model(folder)
  assert re.search(expected, refused(kind, folder / file))


@pytest.mark.parametrize("other", [k for k in KEYS if k != "wan-dit"])
def test_another_network_of_the_release(tmp_path, refused, other):
  for form in get_upstream(other).tables:
    if (other, form) != ("clip", "transformers"):  # names that say nothing
      save_file(release(other, form), tmp_path / "x.safetensors")
      line = refused("wan-dit", tmp_path / "x.safetensors")
      assert f"use: convert {other}" in line


# Tensors that sizes are read from, and a shape that none can have.
ODD = [
  ("wan-dit", "patch_embedding.bias", (0,), r"\(0,\), expected 1 axis, none of"),
  ("wan-dit", "blocks.0.ffn.0.bias", (1, 40), r"\(1, 40\), expected 1 axis"),
  ("wan-vae", "encoder.conv1.weight", (4,), r"\(4,\), expected 5 axes"),
  ("wan22-vae", "decoder.head.2.weight", (12, 4), r"\(12, 4\), expected 5 axes"),
  ("wan22-vae", "conv2.weight", (16, 16, 1, 1, 1), "expected 48.*use: convert wan-vae"),
  ("umt5", "token_embedding.weight", (40,), r"\(40,\), expected 2 axes"),
  ("umt5", "blocks.0.pos_embedding.embedding.weight", (8, 3), "3 heads, expected a"),
  ("clip", "visual.pos_embedding", (10, 24), r"\(10, 24\), expected 3 axes"),
]


@pytest.mark.parametrize(("kind", "name", "size", "expected"), ODD)
def test_a_size_that_cannot_be(tmp_path, refused, kind, name, size, expected):
  tensors = release(kind) | zeros({name: size})
  save_file(tensors, tmp_path / "x.safetensors")
  line = refused(kind, tmp_path / "x.safetensors")
  assert name in line and re.search(expected, line)
