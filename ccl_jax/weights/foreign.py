"""Files that are no plain weights of a whole network, told by what is in them.

They are common, and a message on a missing tensor would not help who has one: LoRAs and
other adapters in every spelling, quantised weights, files of other programs.
"""

import pathlib
import re
from collections.abc import Collection

from ccl_jax.weights.entries import ending

# What adapters call their parts: A and B, up and down, of LoRA, LoHa, LoKr, DoRA, OFT.
_ADAPTER = re.compile(
  r"(^|[._])(lora|lycoris|loha|lokr|hada|dora|b?oft|glora|ia3|vera)(_|\.|$)"
  # Differences of weights, biases and modulations, which some LoRAs hold beside.
  r"|\.(diff(_[bm])?|set_weight|reshape_weight)$",
  re.IGNORECASE,
)
# How its names begin, or what is in them -> whose spelling that is.
_SPELLINGS = (
  (r"lora_(unet|te\d?|transformer)_", "kohya's and musubi's names"),
  (r"lycoris_", "LyCORIS's names"),
  (r"base_model\.model\.", "PEFT's names"),
  (r"diffusion_model\.", "ComfyUI's names"),
  (r"(transformer|unet|text_encoder)\.|.*\.to_(q|k|v|out)", "diffusers' names"),
  (r".*\.lora_[AB]\.\w+\.weight$", "PEFT's names"),
  (r"blocks\.", "the names of the original"),
)
# What tensors of other programs' formats are called -> which format that is.
_QUANTISED = (
  (r"qweight|qzeros|g_idx|pre_quant_scale", "GPTQ's, AWQ's or another integer"),
  (
    r"SCB|(nested_)?(absmax|quant_map)|quant_state\..*|bitsandbytes__.*",
    "bitsandbytes'",
  ),
  (r"wscales|wtscale|wcscales|smooth_factor(_orig)?", "Nunchaku's"),
  (r"weight\._(data|scale|shift)", "Quanto's"),
  (r"weight_(packed|zero_point)", "compressed-tensors'"),
  (r"W_q", "HQQ's"),
  (r"(weight|input)_quantizer\..*", "ModelOpt's"),
)
# How a file begins, or its name ends -> what it is.
_MAGIC = (
  (b"GGUF", "a GGUF file, of quantised weights"),
  (b"\x89HDF", "an HDF5 file"),
  (b"\x1f\x8b", "a gzip archive"),
  (b"7z\xbc\xaf", "a 7z archive"),
  (b"Rar!", "a RAR archive"),
  *((start, "a web page, such as one that tells of a failed download")
    for start in (b"<!DOCTYPE", b"<!doctype", b"<html", b"<?xml")),
  (b'{"error', "a message that tells of a failed download"),
)  # fmt: skip
_ENDINGS = {
  ".gguf": "a GGUF file, of quantised weights",
  ".onnx": "an ONNX file",
  ".engine": "a TensorRT engine",
  ".msgpack": "a file of Flax",
  ".incomplete": "a download that has not ended",
  ".part": "a download that has not ended",
  ".aria2": "a download that has not ended",
  ".crdownload": "a download that has not ended",
}


def foreign_file(path: pathlib.Path, start: bytes) -> str | None:
  """What a file is, by its name and first bytes, if it can be no file of weights."""
  for magic, what in _MAGIC:
    # The length of a header of safetensors may begin with the same two bytes.
    if start.startswith(magic) and start[8:9] != b"{":
      return what
  return _ENDINGS.get(ending(path))


def foreign_tensors(names: Collection[str]) -> str | None:
  """What a file of tensors is, if it is no plain weights of a network.

  Args:
    names: of its tensors, as they are in the file.
  """
  adapter = next((n for n in names if _ADAPTER.search(n)), None)
  if adapter:
    spelling = next((s for p, s in _SPELLINGS if re.match(p, adapter)), "")
    return f"a LoRA or another adapter{spelling and f', in {spelling}'}"
  for name in names:
    for pattern, whose in _QUANTISED:
      if re.fullmatch(rf"(.*\.)?({pattern})", name):
        return f"{whose} quantised weights, by its tensor {name}"
  return None
