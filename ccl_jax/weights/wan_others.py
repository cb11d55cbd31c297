"""What a user may take for Wan2.1's transformer, and how it is told.

Most models have a tensor that only they have. The two experts of Wan2.2's A14B have
Wan2.1's tensors, of the same shapes: names of files and folders tell them. A file that
was renamed, and lies alone, cannot be told.
"""

import pathlib
import re

from ccl_jax.weights.reader import Weights
from ccl_jax.weights.strict_json import read_object

EXPECTED = "expected Wan2.1 T2V, I2V or FLF2V, or Wan2.2 TI2V-5B"
# A tensor that only it has, and its name. The first match speaks.
OTHERS = [
  (r"vace_.*", "Wan2.1-VACE"),
  (r"(casual_audio_encoder|audio_injector)\..*", "Wan2.2-S2V (speech to video)"),
  (r"(motion_encoder|face_encoder|face_adapter)\..*", "Wan2.2-Animate"),
  (r"(video|audio)_model\..*", "Ovi (use: convert ovi, or convert ovi-dit)"),
  (r"(control_adapter|ref_conv)\..*", "Wan-Fun (with control inputs)"),
  (r"(patchify_proj|adaln_single|audio_adaln_single)\..*", "LTX-Video"),
  (r"(proj_in|time_embed)\..*|transformer_blocks\..*", "LTX-Video or another model"),
  (r"(double_blocks|single_blocks)\..*", "HunyuanVideo or FLUX"),
  (r"visual\..*|vision_model\..*", "a CLIP image encoder (use: convert clip)"),
  (
    r"token_embedding\.weight|shared\.weight|encoder\.embed_tokens\.weight",
    "a UMT5 text encoder (use: convert umt5)",
  ),
  (
    r"encoder\.(downsamples\.\d\.downsamples|down_blocks\.\d\.resnets)\..*\.gamma",
    "Wan2.2's video VAE (use: convert wan22-vae)",
  ),
  (r"(encoder|decoder)\.(conv1|conv_in)\..*", "a video VAE (use: convert wan-vae)"),
]
# Tensors of the branch that reads a picture through CLIP, by either release's name.
_IMAGE = re.compile(r"img_emb\..*|condition_embedder\.image_embedder\..*")
_PARTS = ("low_noise_model", "high_noise_model", "transformer_2")
_EXPERT = re.compile(r"(high|low)[-_. ]?noise|A14B", re.IGNORECASE)
_VERSION = re.compile(r"(?<![a-z])wan[-_. ]?2[-_. ]?([12])(?!\d)", re.IGNORECASE)
_REPOSITORY = re.compile(r"wan2\.([12])-\w+-[a-z]?\d", re.IGNORECASE)
# Of version 2.2, but no expert: their tensors tell them.
_WHOLE = re.compile(r"5B|VAE|S2V|Animate", re.IGNORECASE)
_A14B = (
  "Wan2.2-A14B, a model of two experts (low noise and high noise) of which each is "
  f"half; {EXPECTED}"
)


def other_tensors(weights: Weights) -> str | None:
  """The model that tensors are of, if it is another one than Wan2.1's or TI2V-5B."""
  names = weights.names()
  for pattern, model in OTHERS:
    tensor = next((n for n in names if re.fullmatch(pattern, n)), None)
    if tensor:
      return f"{model}, by its tensor {tensor}; {EXPECTED}"
  if "patch_embedding.weight" not in weights:
    return None
  shape = weights.shape("patch_embedding.weight")
  channels = shape[1] if len(shape) == 5 else 0
  if channels == 36 and not any(map(_IMAGE.fullmatch, names)):
    return (
      "an expert of Wan2.2-I2V-A14B or a like model, by the 36 channels of its "
      f"patch_embedding without the image branch (img_emb) of Wan2.1 I2V; {EXPECTED}"
    )
  return None


def is_ti2v(weights: Weights) -> bool:
  """Whether patches have the 48 channels that only Wan2.2's TI2V-5B has."""
  name = "patch_embedding.weight"
  return name in weights and weights.shape(name)[1:2] == (48,)


def other_names(path: pathlib.Path) -> str | None:
  """Wan2.2's A14B, if a file or folder is called so, or lies where its experts do."""
  path = path.absolute()
  folder = path if path.is_dir() else path.parent
  inner = folder.name in (*_PARTS, "transformer")
  download = folder.parent if inner else folder
  if any((download / part).exists() for part in _PARTS):
    return _A14B
  if _is_pipeline_of_two(download / "model_index.json"):
    return _A14B
  # The nearest name that speaks of a version counts; further up, names of repositories,
  # which caches of downloads have above a folder of hashes.
  for name in dict.fromkeys((path.name, folder.name, download.name)):
    if _EXPERT.search(name):
      return f"by its name, {_A14B}"
    if version := _VERSION.search(name):
      return _of_version(version[1], name)
  for name in (p.name for p in list(download.parents)[:3]):
    if version := _REPOSITORY.search(name):
      return _of_version(version[1], name)
  return None


def _of_version(minor: str, name: str) -> str | None:
  if minor == "1" or _WHOLE.search(name):
    return None
  return f"by the name {name}, {_A14B}"


def _is_pipeline_of_two(index: pathlib.Path) -> bool:
  if not index.is_file():
    return False
  about = read_object(index)
  second = about.get("transformer_2")
  # diffusers writes [null, null] for a part that a pipeline lacks.
  return bool(about.get("boundary_ratio")) or bool(
    isinstance(second, list) and any(second)
  )
