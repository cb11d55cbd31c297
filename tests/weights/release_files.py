"""A small download of Wan2.1 or Wan2.2-TI2V with random weights, in either layout, with
all networks in it.
"""

import json
import pathlib
import zlib

import jax.numpy as jnp
import numpy as np
from safetensors.numpy import save_file
from tokenizers import Tokenizer, models, pre_tokenizers

from ccl_jax.weights.rules import expected_tensors
from ccl_jax.weights.upstream import get_upstream
from tests.weights.wan_files import save_pth, save_shards

TEXT = 32
SIZES = {
  "umt5": {
    "vocabulary": 40, "width": TEXT, "attention_width": 32, "ffn": 48, "heads": 4,
    "depth": 2, "buckets": 32,
  },
  "wan-vae": {"width": 8},
  "wan22-vae": {"width": 4, "decoder_width": 8},
  "clip": {
    "width": 1280, "ffn": 64, "heads": 16, "depth": 1, "patch": 14, "grid": 2,
  },
}  # fmt: skip
VAES = {16: ("wan-vae", "Wan2.1_VAE.pth"), 48: ("wan22-vae", "Wan2.2_VAE.pth")}
WORDS = [
  "a",
  "cat",
  "yawns",
  "on",
  "the",
  "grass",
  "says",
  "hello",
  "red",
  "face",
  "left",
]


def dit_sizes(image: bool, channels: int = 16) -> dict:
  return {
    "width": 128, "ffn": 192, "heads": 1, "in_channels": 36 if image else channels,
    "out_channels": channels, "image_tokens": image, "frequencies": 64, "depth": 2,
    "text_dim": TEXT,
  }  # fmt: skip


def tensors(kind: str, sizes: dict, form: str) -> dict[str, np.ndarray]:
  """Random weights of one network under a release's names, the same in every layout:
  unit variance through every matrix, norms near one.
  """
  upstream, out = get_upstream(kind), {}
  shapes = upstream.shapes(sizes)
  for m in expected_tensors(upstream.tables[form], shapes):
    shape = shapes[m.path].shape
    stacked = shape[1:] if m.path.startswith("blocks/") else shape
    rng = np.random.default_rng(zlib.crc32(m.path.encode()))
    fan = np.prod(stacked[:-1]) if m.path.endswith("kernel") else 100
    x = rng.standard_normal(shape) / np.sqrt(fan) + m.path.endswith("scale")
    x = m.transform.backward(x.astype(np.float32)[m.slot])
    out[m.name] = np.asarray(x, order="C")  # ascontiguousarray adds an axis to ()
  return out


def tokenizer_file() -> str:
  vocabulary = {"<pad>": 0, "</s>": 1, "<unk>": 2}
  vocabulary |= {w: i + 3 for i, w in enumerate(WORDS)}
  tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
  tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
  return tokenizer.to_str()


def native_release(
  folder: pathlib.Path, image: bool, channels: int = 16
) -> pathlib.Path:
  """As the original repositories: shards and index, .pth pickles, tokenizer."""
  dit = tensors("wan-dit", dit_sizes(image, channels), "native")
  save_shards(folder, dit)
  config = {"_class_name": "WanModel", "dim": 128, "num_heads": 1, "num_layers": 2}
  (folder / "config.json").write_text(json.dumps(config))
  vae, name = VAES[channels]
  save_pth(folder / name, tensors(vae, SIZES[vae], "native"))
  umt5 = tensors("umt5", SIZES["umt5"], "native")
  umt5 = {k: v.astype(jnp.bfloat16) for k, v in umt5.items()}
  save_pth(folder / "models_t5_umt5-xxl-enc-bf16.pth", umt5)
  (folder / "google" / "umt5-xxl").mkdir(parents=True)
  (folder / "google" / "umt5-xxl" / "tokenizer.json").write_text(tokenizer_file())
  if image:
    clip = tensors("clip", SIZES["clip"], "native")
    name = "models_clip_open-clip-xlm-roberta-large-vit-huge-14.pth"
    after = {"visual.post_norm.weight": (1280,), "log_scale": ()}
    save_pth(folder / name, _with_last_block(clip, after))
  return folder


def _with_last_block(clip: dict, after: dict) -> dict:
  """With the block that is not run and what follows it, which are not read."""
  last = {k.replace(".0.", ".1.", 1): v for k, v in clip.items() if ".0." in k}
  return clip | last | {k: np.zeros(shape, np.float32) for k, shape in after.items()}


def diffusers_release(
  folder: pathlib.Path, image: bool, channels: int = 16
) -> pathlib.Path:
  """As the -Diffusers repositories: a folder for each network."""
  dit = tensors("wan-dit", dit_sizes(image, channels), "diffusers")
  save_shards(folder / "transformer", dit, count=2)
  vae, _ = VAES[channels]
  places = {vae: "vae/diffusion_pytorch_model", "umt5": "text_encoder/model"}
  if image:
    places["clip"] = "image_encoder/model"
  for kind, place in places.items():
    path = folder / f"{place}.safetensors"
    path.parent.mkdir(parents=True)
    drawn = tensors(kind, SIZES[kind], "diffusers")
    if kind == "clip":
      drawn = _with_last_block(drawn, {"vision_model.post_layernorm.weight": (1280,)})
    save_file(drawn, path)
  (folder / "tokenizer").mkdir()
  (folder / "tokenizer" / "tokenizer.json").write_text(tokenizer_file())
  return folder
