"""Files that are no plain weights are named as what they are, in one line, exit 2."""

import ast
import json
import pathlib
import re
import shutil

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

from ccl_jax import convert
from ccl_jax.errors import UsageError
from ccl_jax.weights.entries import Entry
from ccl_jax.weights.foreign import foreign_tensors
from ccl_jax.weights.load import load_params
from ccl_jax.weights.reader import open_weights
from ccl_jax.weights.scaled import with_scales
from ccl_jax.weights.transfer import import_weights, open_source
from ccl_jax.weights.upstream import MODULES, get_upstream
from tests.weights import release_files
from tests.weights.test_round_trip import SIZES
from tests.weights.wan_files import save_pth, save_shards, wan_tensors

X = np.zeros((2, 2), np.float32)
LORAS = {
  "diffusers": [
    "transformer.blocks.0.attn1.to_q.lora_A.weight",
    "transformer.blocks.0.attn1.to_out.0.lora_B.weight",
    "transformer.condition_embedder.time_proj.lora_B.bias",
    "unet.down_blocks.0.attn1.processor.to_q_lora.up.weight",
    "blocks.0.attn1.to_q_lora.down.weight",
    "transformer.blocks.0.attn1.to_q.lora_linear_layer.up.weight",
    "transformer.proj_out.lora.down.weight",
  ],
  "kohya": [
    "lora_unet_blocks_0_self_attn_q.lora_down.weight",
    "lora_unet_blocks_0_ffn_0.hada_w1_a",
    "lora_unet_blocks_0_ffn_0.hada_t1",
    "lora_te1_text_model_encoder_layers_0_mlp_fc1.lora_mid.weight",
    "lora_unet__blocks_0_cross_attn_k.lora_up.weight",
    "lora_unet_blocks_0_ffn_2.alpha",
  ],
  "LyCORIS": [
    "lycoris_blocks_0_ffn_net_0_proj.lokr_w1",
    "lycoris_blocks_0_q.dora_scale",
  ],
  "PEFT": [
    "base_model.model.blocks.0.self_attn.q.lora_A.weight",
    "base_model.model.blocks.0.self_attn.q.lora_magnitude_vector",
    "base_model.model.blocks.0.ffn.0.oft_r",
    "blocks.0.self_attn.q.lora_A.default.weight",
  ],
  "ComfyUI": [
    "diffusion_model.blocks.0.self_attn.q.lora_A.weight",
    "diffusion_model.blocks.0.self_attn.q.lora_down.weight",
    "diffusion_model.patch_embedding.diff",
    "diffusion_model.blocks.0.cross_attn.k_img.diff_b",
    "diffusion_model.head.diff_m",
  ],
  "original": ["blocks.0.self_attn.q.lora_up.weight", "blocks.0.ffn.0.lokr_w2_a"],
}
ONE = [(who, n) for who, names in LORAS.items() for n in names]


@pytest.fixture
def refused(tmp_path, capsys):
  """(kind, src) -> the line that `convert` leaves."""

  def run(kind, src):
    with pytest.raises(SystemExit) as e:
      convert.main([kind, "--src", str(src), "--dst", str(tmp_path / "new" / "dst")])
    out = capsys.readouterr()
    assert e.value.code == 2 and not out.out
    assert out.err.startswith("error: ") and out.err.count("\n") == 1
    assert not (tmp_path / "new").exists()
    return out.err

  return run


@pytest.mark.parametrize(("who", "name"), ONE)
def test_loras(tmp_path, who, name):
  """Each name alone, among a norm that could be any network's."""
  save_file({"norm.weight": X, name: X}, tmp_path / "my_style.safetensors")
  with pytest.raises(UsageError, match=f"my_style.safetensors is a LoRA.*{who}"):
    open_weights(tmp_path / "my_style.safetensors")


@pytest.mark.parametrize("kind", ["wan-dit", "umt5", "vocoder"])
def test_loras_through_the_commands(tmp_path, refused, kind):
  names = LORAS["kohya"][:1]
  save_file(dict.fromkeys(names, X), tmp_path / "a.safetensors")
  save_pth(tmp_path / "b.pt", dict.fromkeys(names, X), inside="state_dict")
  for file in ("a.safetensors", "b.pt"):
    assert f"{file} is a LoRA" in refused(kind, tmp_path / file)
  (tmp_path / "b.pt").unlink()
  (tmp_path / "adapter_config.json").write_text("{}")
  assert "a.safetensors is a LoRA" in refused(kind, tmp_path)  # a folder of PEFT


FP8 = {"float8_e4m3fn": ml_dtypes.float8_e4m3fn, "float8_e5m2": ml_dtypes.float8_e5m2}


@pytest.mark.parametrize("dtype", FP8)
def test_fp8(tmp_path, dtype):
  """Without scales; with them, see test_scaled.py."""
  name = "blocks.0.ffn.0.weight"
  tensors = {name: np.zeros((4, 4), FP8[dtype]), "norm.weight": X}
  save_file(tensors, tmp_path / "a.safetensors")
  with pytest.raises(
    UsageError, match=rf"a.safetensors is fp8 .*\({dtype}, {name}\).*float32, bfloat"
  ):
    open_weights(tmp_path)


def test_fp8_through_the_commands_and_the_metrics(tmp_path, refused):
  x = np.zeros((4, 4), FP8["float8_e5m2"])
  save_file({"shared.weight": x}, tmp_path / "a.safetensors")
  for kind in ("umt5", "wan-dit", "audio-vae"):
    assert "a.safetensors is fp8 weights" in refused(kind, tmp_path / "a.safetensors")
  with pytest.raises(UsageError, match="a.safetensors is fp8 weights"):
    load_params("syncnet", tmp_path / "a.safetensors")


def test_fp8_that_torch_saved(tmp_path):
  torch = pytest.importorskip("torch")
  torch.save({"x": torch.ones(3).to(torch.float8_e4m3fn)}, tmp_path / "a.pth")
  with pytest.raises(
    UsageError, match="a.pth is fp8 weights without scales .float8_e4"
  ):
    open_weights(tmp_path / "a.pth")
  # Types of the same form that are no quantised weights.
  x = torch.tensor([[1, 2, 65535]], dtype=torch.uint16)
  torch.save({"x": x.T[1:], "dtype": x}, tmp_path / "b.pth")
  assert open_weights(tmp_path / "b.pth").read("x").tolist() == [[2], [65535]]


OTHER = {
  "GPTQ's, AWQ's": ["l.qweight", "l.qzeros", "l.g_idx", "l.pre_quant_scale"],
  "bitsandbytes'": [
    "l.weight.absmax", "l.SCB", "l.weight.quant_state.bitsandbytes__nf4",
    "l.weight.nested_quant_map",
  ],
  "Nunchaku's": ["blocks.0.q.wscales", "l.smooth_factor_orig", "l.wtscale"],
  "Quanto's": ["l.weight._data", "l.weight._scale"],
  "compressed-tensors'": ["l.weight_packed", "l.weight_zero_point"],
  "HQQ's": ["l.W_q"],
  "ModelOpt's": ["l.weight_quantizer._amax", "l.input_quantizer._scale"],
}  # fmt: skip


@pytest.mark.parametrize(("whose", "name"), [(w, n) for w in OTHER for n in OTHER[w]])
def test_other_quantised_files(tmp_path, whose, name):
  save_file({"l.weight": X.astype(np.int8), name: X}, tmp_path / "a.safetensors")
  with pytest.raises(
    UsageError, match=f"is {whose}.* quantised weights, by its tensor {name}"
  ):
    open_weights(tmp_path)


FILES = {
  "model-Q4_K_M.gguf": (b"GGUF\3\0\0\0", "a GGUF file, of quantised weights"),
  "model.safetensors": (b"GGUF\3\0\0\0", "a GGUF file, of quantised weights"),
  "model.bin": (b"GGUF\3\0\0\0", "a GGUF file, of quantised weights"),
  "model.gguf": (b"other", "a GGUF file"),
  "MODEL.GGUF": (b"GGUF\3\0\0\0", "a GGUF file"),
  "page.safetensors": (b"<!DOCTYPE html>", "a web page"),
  "page.pth": (b'<?xml version="1.0"?><Error>', "a web page"),
  "error.safetensors": (b'{"error": "denied"}', "a message that tells of a failed"),
  "model.onnx": (b"\x08\x07", "an ONNX file"),
  "model.h5": (b"\x89HDF\r\n", "an HDF5 file"),
  "model.pth": (b"\x1f\x8b\x08", "a gzip archive"),
  "model.safetensors.part": (b"{", "a download that has not ended"),
}


@pytest.mark.parametrize("name", FILES)
def test_files_of_other_programs(tmp_path, refused, name):
  raw, what = FILES[name]
  (tmp_path / name).write_bytes(raw + bytes(100))
  for kind in ("wan-dit", "clip"):
    line = refused(kind, tmp_path / name)
    assert f"{name} is {what}" in line and "expected whole weights in float32" in line
  if name.lower().endswith(".gguf"):  # alone in a folder
    assert "is a GGUF file" in refused("wan-dit", tmp_path)


def test_endings_in_capitals_are_endings(tmp_path):
  """As some systems write them; the header's scales and settings count too."""
  name = "blocks.0.ffn.0.weight"
  about = {"layers": {"blocks.0.ffn.0": {"format": "mxfp8"}}}
  for part in ("SAFETENSORS", "SafeTensors"):
    path = tmp_path / f"a.{part}"
    save_file({name: X}, path)
    assert open_weights(tmp_path).names() == open_weights(path).names() == [name]
    save_file(
      {name: X.astype(FP8["float8_e5m2"])}, path,
      {"_quantization_metadata": json.dumps(about)},
    )  # fmt: skip
    with pytest.raises(UsageError, match=f"a.{part} is mxfp8 weights"):
      open_weights(path)
    path.unlink()
  save_pth(tmp_path / "a.PTH", {name: X})
  assert open_weights(tmp_path).names() == [name]


def test_a_header_as_long_as_another_format_begins_is_a_header(tmp_path):
  """0x081f8b of little-endian bytes is a gzip archive's start, and a length."""
  header = json.dumps({"x": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}})
  length = int.from_bytes(b"\x1f\x8b\x08", "little")
  raw = length.to_bytes(8, "little") + header.encode().ljust(length) + bytes(4)
  (tmp_path / "a.safetensors").write_bytes(raw)
  assert open_weights(tmp_path).names() == ["x"]


def test_no_name_of_a_table_is_taken_for_another_thing():
  for kind in MODULES:
    for rows in get_upstream(kind).tables.values():
      names = {re.sub(r"\(.*?\)|\\", "", row.source) for row in rows}
      assert foreign_tensors(names) is None
      entry = Entry(pathlib.Path("a"), 0, np.dtype(np.float32), (2, 2))
      entries = dict.fromkeys(names, entry)
      assert with_scales(entries, list).entries == entries


def expert(folder, image=False):
  tensors = wan_tensors(image)
  if image:  # 36 channels, and no CLIP: as Wan2.2's I2V
    tensors = {
      n: x for n, x in tensors.items() if not re.search("img_emb|_img", n)
    }  # fmt: skip
  save_shards(folder, tensors)
  return folder


@pytest.mark.parametrize("image", [False, True])
def test_experts_of_wan22(tmp_path, refused, image):
  release = tmp_path / "download"
  for name in ("low_noise_model", "high_noise_model"):
    expert(release / name, image)
  for path in ("", "low_noise_model", "high_noise_model"):
    assert "Wan2.2-A14B" in refused("wan-dit", release / path)
  (file,) = (release / "low_noise_model").glob("*00001-of*")
  assert "Wan2.2-A14B" in refused("wan-dit", file)
  assert "Wan2.2-A14B" in refused("wan", release)
  shutil.move(
    release / "low_noise_model", tmp_path / "weights"
  )  # alone, by its tensors
  if image:
    assert "Wan2.2-I2V-A14B" in refused("wan-dit", tmp_path / "weights")


def test_experts_in_the_layout_of_diffusers(tmp_path, refused):
  sizes = release_files.dit_sizes(image=False)
  tensors = release_files.tensors("wan-dit", sizes, "diffusers")
  save_shards(tmp_path / "a" / "transformer", tensors)
  (tmp_path / "a" / "transformer_2").mkdir()
  save_shards(tmp_path / "b" / "transformer", tensors)  # the second is not there yet
  index = {
    "transformer_2": ["diffusers", "WanTransformer3DModel"],
    "boundary_ratio": 0.9,
  }
  (tmp_path / "b" / "model_index.json").write_text(json.dumps(index))
  for path in ("a", "b", "a/transformer", "b/transformer"):
    for kind in ("wan", "wan-dit"):
      assert "Wan2.2-A14B" in refused(kind, tmp_path / path)
  # Pipelines of one transformer have the parts that they lack as nulls.
  index = {"transformer_2": [None, None], "boundary_ratio": None}
  (tmp_path / "b" / "model_index.json").write_text(json.dumps(index))
  assert get_upstream("wan-dit").other(tmp_path / "b") is None


NAMES = {
  "wan2.2_t2v_high_noise_14B_fp16.safetensors": True,
  "Wan2_2-T2V-A14B-LOW_bf16.safetensors": True,
  "wan22T2V_lowNoise.safetensors": True,
  "Wan-2.2-T2V/model.safetensors": True,
  "models--Wan-AI--Wan2.2-T2V-A14B/snapshots/ab12/model.safetensors": True,
  "wan2.1_t2v_14B_bf16.safetensors": False,
  "Wan2.2-TI2V-5B/diffusion_pytorch_model.safetensors": False,  # its channels tell
  "wan2.2/Wan2.1-T2V-14B/model.safetensors": False,
  "models--Wan-AI--Wan2.1-T2V-1.3B/snapshots/ab12/model.safetensors": False,
  "wan2.1_2.2/Wan2.1-T2V-1.3B/model.safetensors": False,
  "swan2.2/model.safetensors": False,
  "wan2.25/model.safetensors": False,
  "other/model.safetensors": False,
}


@pytest.mark.parametrize("name", NAMES)
def test_experts_by_name(tmp_path_factory, name):
  path = tmp_path_factory.mktemp("names") / name
  path.parent.mkdir(parents=True, exist_ok=True)
  path.touch()
  assert bool(get_upstream("wan-dit").other(path)) == NAMES[name]


@pytest.fixture(scope="module")
def umt5():
  return release_files.tensors("umt5", SIZES["umt5"], "diffusers")


def test_names_of_umt5s_embedding(tmp_path, umt5):
  """As transformers writes it by either name, and by both."""
  first, second = "shared.weight", "encoder.embed_tokens.weight"
  rest = {n: x for n, x in umt5.items() if n != first}
  e = umt5[first]
  forms = [
    umt5, rest | {second: e}, umt5 | {second: e.copy()},
    umt5 | {"spiece_model": np.arange(200, dtype=np.uint8)},
    umt5 | {"lm_head.weight": e + 1, "decoder.embed_tokens.weight": e + 2},
  ]  # fmt: skip
  expected = load_params("umt5", save_form(tmp_path, forms[0]))
  for form in forms[1:]:
    params, sizes = load_params("umt5", save_form(tmp_path, form))
    assert sizes == expected[1]
    np.testing.assert_array_equal(params["token_embedding"], e)
  for one, two in ((0 * e, e), (e, 0 * e), (e, e + 1), (e, e.astype(np.float16))):
    path = save_form(tmp_path, rest | {first: one, second: two})
    with pytest.raises(
      UsageError, match=f"{first} and {second}, .*, differ; expected on"
    ):
      load_params("umt5", path)


def save_form(folder, tensors):
  save_file(tensors, folder / "model.safetensors")
  return folder / "model.safetensors"


@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16])
def test_values_that_are_not_finite(tmp_path, umt5, dtype):
  name = "shared.weight"
  tensors = {n: y.astype(dtype) for n, y in umt5.items()}
  for value in (np.nan, np.inf, -np.inf):
    tensors[name][-1, -1] = value
    path = save_form(tmp_path, tensors)
    with pytest.raises(UsageError, match=f"{name} holds NaN or infinity, which no net"):
      import_weights("umt5", path, tmp_path / "dst")
  assert not (tmp_path / "dst").exists()


def test_a_type_that_is_too_narrow(tmp_path, umt5):
  x = umt5["shared.weight"] + 1e5
  path = save_form(tmp_path, umt5 | {"shared.weight": x})
  with pytest.raises(UsageError, match="holds NaN or infinity in float16"):
    import_weights("umt5", path, tmp_path / "dst", dtype="float16")


def test_a_layer_of_any_number(tmp_path, umt5, refused):
  """A name cannot make a loop of a thousand million layers."""
  more = {"encoder.block.999999999.layer.0.layer_norm.weight": X[0]}
  line = refused("umt5", save_form(tmp_path, umt5 | more))
  assert f"a tensor of layer 999999999, but {len(umt5) + 1} tensors" in line


CONFIGS = {
  "{'num_heads': '16'}": "says that there are '16' heads",
  "{'num_heads': {}}": "says that there are {} heads",
  "{'num_heads': True}": "says that there are True heads",
  "{'num_attention_heads': 7}": "says that there are 7 heads; expected",
  "{'num_heads': -1}": "says that there are -1 heads",
  "{'vision_config': []}": "does not describe this network",
  "{'num_layers': 'x'}": "speaks of x layers",
}


@pytest.mark.parametrize("config", CONFIGS)
def test_a_config_of_other_types(tmp_path, config):
  tensors = release_files.tensors("clip", SIZES["clip"], "native")
  path = save_form(tmp_path, tensors)
  about = {"dim": SIZES["clip"]["width"]} | ast.literal_eval(config)
  (tmp_path / "config.json").write_text(json.dumps(about))
  with pytest.raises(UsageError, match=re.escape(CONFIGS[config])):
    open_source("clip", path)
