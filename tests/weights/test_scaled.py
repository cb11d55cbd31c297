"""fp8 weights with scales: their values, whose layout it is, and what is refused."""

import json

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

from ccl_jax import convert
from ccl_jax.checkpoints.slices import SliceReader
from ccl_jax.errors import UsageError
from ccl_jax.weights.reader import open_weights
from ccl_jax.weights.scaled import dequantised
from ccl_jax.weights.transfer import import_weights, open_source
from tests.weights import release_files
from tests.weights.ovi_files import ovi_tensors
from tests.weights.scaled_files import E4M3, LAYOUTS, by_blocks, scaled
from tests.weights.wan_files import save_shards, wan_tensors

WHOSE = {
  "comfy_old": "ComfyUI's old", "comfy_new": "ComfyUI's new",
  "comfy_quant": "ComfyUI's new", "lightx2v": "LightX2V's", "musubi": "musubi's",
}  # fmt: skip
E5M2 = ml_dtypes.float8_e5m2


def equal(got, expected):
  assert (got.dtype, got.shape) == (expected.dtype, expected.shape)
  assert got.tobytes() == np.ascontiguousarray(expected).tobytes()


def test_values_by_hand():
  """1.5 x 0.5, -2 x 0.5, ...; rows and blocks of rows have scales of their own."""
  q = np.array([[1.5, -2, 0.25, 448], [3, 0, -1, 2]], E4M3)
  one = [[0.75, -1, 0.125, 224], [1.5, 0, -0.5, 1]]
  for shape in ((), (1,), (1, 1)):
    equal(dequantised(q, np.full(shape, 0.5, np.float16)), np.array(one, np.float32))
  rows = dequantised(q, np.array([[2.0], [0.5]], np.float32))
  equal(rows, np.array([[3, -4, 0.5, 896], [1.5, 0, -0.5, 1]], np.float32))
  scale = np.array([[[1], [2]], [[4], [8]]], ml_dtypes.bfloat16)
  blocks = dequantised(q, scale)
  equal(blocks, np.array([[1.5, -2, 0.5, 896], [12, 0, -8, 16]], np.float32))


@pytest.mark.parametrize("dtype", [E4M3, E5M2])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_tensor_is_what_it_stands_for(tmp_path, layout, dtype):
  drawn = wan_tensors()
  prefix = "model.diffusion_model." if layout.startswith("comfy") else ""
  tensors, about, values = scaled(
    drawn, layout, dtype=dtype, prefix=prefix, inputs=layout != "musubi"
  )
  save_file(tensors, tmp_path / "any name.safetensors", metadata=about)
  weights = open_weights(tmp_path)
  assert weights.layout.startswith(WHOSE[layout])
  assert set(weights.names()) == set(values)
  for name, x in values.items():
    equal(weights.read(name), x)
    assert (weights.dtype(name), weights.nbytes(name)) == (x.dtype, x.nbytes)
  assert len(weights.notes) == (layout != "musubi")


@pytest.mark.parametrize(
  ("layout", "dtype"),
  zip(LAYOUTS, (None, "bfloat16", "float16", "bfloat16", None), strict=True),
)
def test_the_converter_casts_what_was_dequantised(tmp_path, layout, dtype):
  drawn = wan_tensors()
  tensors, about, values = scaled(drawn, layout)
  save_file(tensors, tmp_path / "a.safetensors", metadata=about)
  args = ["--src", str(tmp_path), "--dst", str(tmp_path / "dst"), "--verify"]
  convert.main(["wan-dit", *args, *(["--dtype", dtype] if dtype else [])])
  told = json.loads((tmp_path / "dst" / "config.json").read_text())
  assert told["dtype"] == (dtype or "float32")
  assert told["source"]["scales"].startswith(WHOSE[layout])
  reader = SliceReader(tmp_path / "dst" / "checkpoints")
  kind = np.dtype(dtype or "float32")
  for name in ("self_attn.q", "cross_attn.o", "ffn.0", "ffn.2"):
    for i in range(2):
      ours = (
        name.replace(".", "/").replace("ffn/0", "ffn/in").replace("ffn/2", "ffn/out")
      )
      got = reader.read(f"blocks/video/{ours}/kernel", (i,))
      equal(got, values[f"blocks.{i}.{name}.weight"].T.astype(kind))
  equal(reader.read("video/head/kernel", ()), drawn["head.head.weight"].T.astype(kind))


def test_scales_in_another_file_than_their_weights(tmp_path):
  """Shards are cut by size, wherever that is."""
  tensors, _, values = scaled(wan_tensors(), "lightx2v")
  names = sorted(tensors, key=lambda n: "scale" in n)
  save_shards(tmp_path, {n: tensors[n] for n in names})
  weights = open_weights(tmp_path)
  for name, x in values.items():
    equal(weights.read(name), x)


def test_scales_in_a_pickle(tmp_path):
  torch = pytest.importorskip("torch")
  q = torch.tensor([[1.0, 2.0], [3.0, -4.0]]).to(torch.float8_e4m3fn)
  state = {"l.weight": q, "l.weight_scale": torch.tensor([[2.0], [0.5]])}
  torch.save(state, tmp_path / "a.pth")
  got = open_weights(tmp_path / "a.pth").read("l.weight")
  equal(got, np.array([[2, 4], [1.5, -2]], np.float32))


def test_blocks_of_any_size(tmp_path):
  rng = np.random.default_rng(0)
  for block in (1, 32, 64, 192):
    q, scale, real = by_blocks(rng.standard_normal((5, 192), np.float32), block)
    tensors = {"l.weight": q, "l.scale_weight": scale}
    save_file(tensors, tmp_path / "a.safetensors")
    equal(open_weights(tmp_path).read("l.weight"), real)


@pytest.mark.parametrize("layout", ["comfy_old", "musubi"])
def test_ovi(tmp_path, layout):
  tensors, about, values = scaled(ovi_tensors(layers=1), layout)
  save_file(tensors, tmp_path / "model.safetensors", metadata=about)
  source = open_source("ovi-dit", tmp_path)
  name = "audio_model.blocks.0.cross_attn.k_fusion.weight"
  equal(source.weights.read(name), values[name])
  assert len(source.matches) == len(values)


@pytest.mark.parametrize("form", ["native", "diffusers"])
def test_a_text_encoder(tmp_path, form):
  """ComfyUI's umt5_xxl_fp8_e4m3fn_scaled, and LightX2V's models_t5_*-fp8."""
  drawn = release_files.tensors("umt5", release_files.SIZES["umt5"], form)
  layout = "comfy_old" if form == "diffusers" else "lightx2v"
  tensors, about, values = scaled(drawn, layout)
  tensors["spiece_model"] = np.arange(9, dtype=np.uint8)
  save_file(tensors, tmp_path / "umt5_xxl.safetensors", metadata=about)
  source = open_source("umt5", tmp_path)
  name = next(n for n in values if n.endswith((".q.weight", ".wo.weight")))
  assert tensors[name].dtype == E4M3
  equal(source.weights.read(name), values[name])


def test_a_whole_download_whose_networks_are_scaled(tmp_path):
  src = release_files.native_release(tmp_path / "src", image=False)
  for file in [*src.glob("diffusion*"), src / "models_t5_umt5-xxl-enc-bf16.pth"]:
    file.unlink()
  (src / "config.json").unlink()
  sizes = release_files.dit_sizes(image=False)
  dit = release_files.tensors("wan-dit", sizes, "native")
  tensors, about, values = scaled(dit, "comfy_new")
  save_file(tensors, src / "dit_fp8_scaled.safetensors", metadata=about)
  umt5 = release_files.tensors("umt5", release_files.SIZES["umt5"], "native")
  tensors, about, texts = scaled(umt5, "lightx2v")
  save_file(tensors, src / "umt5_xxl_fp8.safetensors")
  # Of two networks in .safetensors, the transformer is named.
  to = ["--dst", str(tmp_path / "dst"), "--verify"]
  convert.main(["wan", "--src", str(src / "dit_fp8_scaled.safetensors"), *to])
  read = lambda folder, path: SliceReader(
    tmp_path / "dst" / folder / "checkpoints"
  ).read(path, (1,))
  equal(read("dit", "blocks/video/ffn/in/kernel"), values["blocks.1.ffn.0.weight"].T)
  expected = texts["blocks.1.attn.q.weight"].T.astype(ml_dtypes.bfloat16)
  equal(read("umt5", "blocks/attn/q/kernel"), expected)


def test_what_is_exported_is_what_was_read(tmp_path):
  tensors, about, values = scaled(wan_tensors(), "musubi")
  save_file(tensors, tmp_path / "a.safetensors", metadata=about)
  import_weights("wan-dit", tmp_path / "a.safetensors", tmp_path / "in")
  to = ["--dst", str(tmp_path / "out"), "--format", "native"]
  convert.main(["export", "--src", str(tmp_path / "in"), *to])
  weights = open_weights(tmp_path / "out")
  for name, x in values.items():
    equal(weights.read(name), x)


Q = "blocks.0.self_attn.q"


def changed(layout, **change):
  """A file's tensors and metadata, some of the tensors (".name" of Q) others."""
  tensors, about, _ = scaled(wan_tensors(), layout)
  for name, x in change.items():
    name = f"{Q}.{name.removeprefix('q_')}" if name.startswith("q_") else name
    if x is None:
      del tensors[name]
    else:
      tensors[name] = x
  return tensors, about


def told(form, layer=Q, **more):
  """Metadata of ComfyUI's new layout in which one layer has another format."""
  tensors, about = changed("comfy_new")
  value = json.loads(about["_quantization_metadata"])
  value["layers"][layer] = {"format": form} | more
  return tensors, about | {"_quantization_metadata": json.dumps(value)}


def packed(form):
  """One layer in a format that is not read, without metadata."""
  ones = lambda shape, dtype: np.ones(shape, dtype)
  return {
    "int8": {"q_weight": ones((256, 256), np.int8)},
    "nvfp4": {
      "q_weight": ones((256, 128), np.uint8), "q_weight_scale": ones((256, 16), E4M3),
      "q_weight_scale_2": ones((), np.float32),
    },
    "mxfp8": {"q_weight_scale": ones((256, 8), np.uint8)},
    "packed": {"q_weight": ones((256, 128), np.uint8)},
    "torchao": {"q__weight_qdata": ones((256, 256), E4M3)},
    "inverse": {"q_weight_scale_inv": ones((2, 2), np.float32)},
  }[form]  # fmt: skip


X = np.ones
JSON = np.frombuffer(b'{"format": "mxfp8"}', np.uint8)
BAD = {
  "a scale is missing, old": (
    lambda: changed("comfy_old", q_scale_weight=None),
    f"ComfyUI's old .*{Q}.weight is float8_e4m3fn without a scale",
  ),
  "new": (
    lambda: changed("comfy_new", q_weight_scale=None),
    f"ComfyUI's new .*{Q}.weight is .* without a scale",
  ),
  "LightX2V": (
    lambda: changed("lightx2v", q_weight_scale=None),
    f"LightX2V's .*{Q}.weight is .* without a scale",
  ),
  "musubi": (
    lambda: changed("musubi", q_scale_weight=None),
    f"musubi's .*{Q}.weight is .* without a scale",
  ),
  "all scales": (
    lambda: (
      {n: x for n, x in changed("comfy_old")[0].items() if "scale_w" not in n}, None
    ),
    "ComfyUI's old .*weight is .* without a scale",
  ),
  "a weight is missing": (
    lambda: changed("musubi", q_weight=None),
    f"musubi's .*{Q}.scale_weight is a scale without its weight {Q}.weight",
  ),
  "an input's weight is missing": (
    lambda: changed("comfy_new", **{"x.input_scale": X(())}),
    "x.input_scale is a scale without its weight x.weight",
  ),
  "of a bias": (
    lambda: changed("musubi", q_bias=X(256, E4M3)), f"{Q}.bias is .* without a scale"
  ),
  "one a column": (
    lambda: changed("lightx2v", q_weight_scale=X((1, 256), np.float32)),
    rf"{Q}.weight_scale has shape \(1, 256\); expected one number, \(256, 1\)",
  ),
  "no axis for columns": (
    lambda: changed("lightx2v", q_weight_scale=X(256, np.float32)), r"shape \(256,\)",
  ),
  "rows of another": (
    lambda: changed("lightx2v", q_weight_scale=X((255, 1), np.float32)), r"\(255, 1\)",
  ),
  "blocks that do not divide": (
    lambda: changed("musubi", q_scale_weight=X((256, 3, 1), np.float32)),
    r"musubi's .*\(256, 3, 1\); .*, or \(256, n, 1\) where n divides 256",
  ),
  "no blocks": (
    lambda: changed("musubi", q_scale_weight=X((256, 0, 1), np.float32)), "has shape",
  ),
  "rows of no matrix": (
    lambda: changed("musubi", **{
      "patch_embedding.weight": X((256, 16, 1, 2, 2), E4M3),
      "patch_embedding.scale_weight": X((256, 1), np.float32),
    }),
    "patch_embedding.scale_weight has shape .*; expected one number, for",
  ),
  "two scales": (
    lambda: changed("musubi", q_weight_scale=X((), np.float32)), "is the second scale",
  ),
  "of a whole weight": (
    lambda: changed("musubi", q_weight=X((256, 256), np.float32)),
    rf"is scaled float32 weights \({Q}.weight\)",
  ),
  "a marker alone": (
    lambda: (wan_tensors() | {"scaled_fp8": X(0, np.float32)}, None),
    "scaled_fp8 is of ComfyUI's old scaled fp8, but no weight is fp8",
  ),
  "int8": (lambda: changed("lightx2v", **packed("int8")), rf"int8 weights \({Q}.wei"),
  "nvfp4": (lambda: changed("lightx2v", **packed("nvfp4")), rf"nvfp4 weights \({Q}.w"),
  "mxfp8": (lambda: changed("lightx2v", **packed("mxfp8")), rf"mxfp8 weights \({Q}.w"),
  "packed": (lambda: changed("lightx2v", **packed("packed")), f"nvfp4 or other.*{Q}.w"),
  "torchao": (lambda: changed("lightx2v", **packed("torchao")), f"torchao's .*{Q}._we"),
  "inverse": (lambda: changed("lightx2v", **packed("inverse")), f"inverse .*{Q}.weig"),
  "stated nvfp4": (lambda: told("nvfp4"), rf"is nvfp4 weights \({Q}.weight\)"),
  "stated mxfp8": (lambda: told("mxfp8"), rf"is mxfp8 weights \({Q}.weight\)"),
  "stated int8": (lambda: told("int8_tensorwise"), "is int8_tensorwise weights"),
  "rotated": (lambda: told("float8_e4m3fn", convrot=True), "with convrot weights"),
  "no format": (lambda: told(None), f"quantisation of {Q} has no format"),
  "stated e5m2": (lambda: told("float8_e5m2"), f"{Q}.weight is float8_e4m3fn; expect"),
  "no such layer": (lambda: told("float8_e4m3fn", "x"), "x.weight is missing; expect"),
  "no JSON": (
    lambda: (changed("comfy_new")[0], {"_quantization_metadata": "{"}), "no JSON object"
  ),
  "no layers": (
    lambda: (changed("comfy_new")[0], {"_quantization_metadata": "{}"}), "no layers",
  ),
  "tensor of mxfp8": (lambda: changed("lightx2v", q_comfy_quant=JSON), "mxfp8 weights"),
  "tensor of no bytes": (
    lambda: changed("lightx2v", q_comfy_quant=X(3, np.float32)), "bytes of JSON",
  ),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_one_line_and_nothing_written(tmp_path, capsys, case):
  make, words = BAD[case]
  tensors, about = make()
  save_file(tensors, tmp_path / "a.safetensors", metadata=about)
  to = [
    "--src",
    str(tmp_path / "a.safetensors"),
    "--dst",
    str(tmp_path / "new" / "dst"),
  ]
  with pytest.raises(SystemExit) as e:
    convert.main(["wan-dit", *to])
  out = capsys.readouterr()
  assert e.value.code == 2 and not out.out and out.err.count("\n") == 1
  with pytest.raises(UsageError, match=words) as raised:
    open_weights(tmp_path / "a.safetensors")
  assert "a.safetensors" in str(raised.value) and str(raised.value) in out.err
  assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
  ("dtype", "words"),
  [("F8_E8M0", "mxfp8"), ("F4", "nvfp4"), ("F6_E2M3", "mxfp6"), ("X", "no type")],
)
def test_types_of_the_format_that_are_not_read(tmp_path, dtype, words):
  head = {"l.weight": {"dtype": dtype, "shape": [4], "data_offsets": [0, 4]}}
  raw = json.dumps(head).encode()
  file = tmp_path / "a.safetensors"
  file.write_bytes(len(raw).to_bytes(8, "little") + raw + bytes(4))
  with pytest.raises(UsageError, match=f"l.weight is {dtype}, .*{words}"):
    open_weights(file)


def test_plain_fp8_beside_no_scale_is_refused_by_name(tmp_path):
  tensors = {n: x for n, x in wan_tensors().items() if "blocks.1" not in n}
  tensors[f"{Q}.weight"] = tensors[f"{Q}.weight"].astype(E4M3)
  save_file(tensors, tmp_path / "a.safetensors")
  with pytest.raises(UsageError, match=rf"without scales \(float8_e4m3fn, {Q}.weight"):
    open_weights(tmp_path)


def test_a_scale_that_is_no_number(tmp_path):
  tensors, _ = changed("lightx2v")
  tensors[f"{Q}.weight_scale"][7] = np.nan
  save_file(tensors, tmp_path / "a.safetensors")
  with pytest.raises(UsageError, match=f"{Q}.weight holds NaN or infinity"):
    import_weights("wan-dit", tmp_path / "a.safetensors", tmp_path / "dst")
  assert not (tmp_path / "dst").exists()


def test_layers_of_two_kinds_ask_for_a_type(tmp_path):
  """ComfyUI's mixed files keep some layers whole."""
  whole = wan_tensors()[f"{Q}.weight"].astype(ml_dtypes.bfloat16)
  tensors, about = changed("comfy_quant", q_weight=whole)
  for part in ("weight_scale", "comfy_quant"):
    del tensors[f"{Q}.{part}"]
  save_file(tensors, tmp_path / "a.safetensors", metadata=about)
  file, dst = tmp_path / "a.safetensors", tmp_path / "dst"
  with pytest.raises(UsageError, match="the layers before it bfloat16: choose one wi"):
    import_weights("wan-dit", file, dst)
  import_weights("wan-dit", file, dst, dtype="bfloat16", verify=True)
  got = SliceReader(dst / "checkpoints").read("blocks/video/self_attn/q/kernel", (0,))
  equal(got, whole.T)
