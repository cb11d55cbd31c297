"""LoRAs are read in every spelling, and change what they say, by hand-made products."""

import json

import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from flax import traverse_util

from ccl_jax.errors import UsageError
from ccl_jax.weights.lora import Lora
from ccl_jax.weights.lora_merge import merge
from ccl_jax.weights.lora_names import Names
from ccl_jax.weights.lora_open import parse_lora
from tests.weights.lora_files import model, random, save_file, to_native, to_ours
from tests.weights.wan_files import FFN, WIDTH, save_pth

R = 4


@pytest.fixture(scope="module")
def t2v():
  shapes, tensors = model()
  return shapes, tensors, Names(shapes)


@pytest.fixture(scope="module")
def i2v():
  shapes, tensors = model(image=True)
  return shapes, tensors, Names(shapes)


def merged(wan, *files, dtype=np.float32):
  """The model's tensors by native name, with (file, strength) added."""
  shapes, tensors, names = wan
  flat = {p: jnp.asarray(x, dtype) for p, x in to_ours(shapes, tensors).items()}
  tree = traverse_util.unflatten_dict(flat, sep="/")
  loras = [(Lora(path, names), strength) for path, strength in files]
  tree = merge(tree, loras)
  return to_native(shapes, traverse_util.flatten_dict(tree, sep="/"))


def check(wan, got, expected, rtol=1e-6):
  """Of all tensors: those of `expected` are it, the others did not change."""
  for name, x in wan[1].items():
    want = np.asarray(expected.get(name, x), np.float64)
    np.testing.assert_allclose(got[name], want, rtol=rtol, atol=rtol, err_msg=name)
    assert name in expected or (got[name] == x).all(), name
  assert expected.keys() <= wan[1].keys()


def pair(out, into, r=R):
  return random(r, into), random(out, r)


# The key table of the document: how a writer spells layers, and its parts.
KOHYA = ("lora_down.weight", "lora_up.weight")
PEFT = ("lora_A.weight", "lora_B.weight")
SPELLINGS = {
  "comfyui": ("diffusion_model.{}", *PEFT),
  "lightx2v": ("diffusion_model.{}", *KOHYA),
  "comfyui_file": ("model.diffusion_model.{}", *PEFT),
  "diffsynth": ("{}", "lora_A.default.weight", "lora_B.default.weight"),
  "diffsynth_pipe": ("pipe.dit.{}", "lora_A.default.weight", "lora_B.default.weight"),
  "peft": ("base_model.model.{}", *PEFT),
  "native_lora": ("{}", "lora.down.weight", "lora.up.weight"),
  "linear_layer": (
    "transformer.{}", "lora_linear_layer.down.weight", "lora_linear_layer.up.weight"
  ),
  "bare": ("diffusion_model.{}", "lora_A", "lora_B"),
}  # fmt: skip
FLAT = {
  "kohya": ("lora_unet_", *KOHYA),
  "wan_fun": ("lora_unet__", *KOHYA),
  "lycoris": ("lycoris_", *KOHYA),
}
# Native layer -> (diffusers' layer, out, in).
LAYERS = {
  "blocks.0.self_attn.q": ("blocks.0.attn1.to_q", WIDTH, WIDTH),
  "blocks.1.self_attn.o": ("blocks.1.attn1.to_out.0", WIDTH, WIDTH),
  "blocks.1.cross_attn.k": ("blocks.1.attn2.to_k", WIDTH, WIDTH),
  "blocks.0.ffn.0": ("blocks.0.ffn.net.0.proj", FFN, WIDTH),
  "blocks.1.ffn.2": ("blocks.1.ffn.net.2", WIDTH, FFN),
  "text_embedding.0": ("condition_embedder.text_embedder.linear_1", WIDTH, 24),
  "time_embedding.0": (
    "condition_embedder.time_embedder.linear_1", WIDTH, 64
  ),
  "time_embedding.2": ("condition_embedder.time_embedder.linear_2", WIDTH, WIDTH),
  "time_projection.1": ("condition_embedder.time_proj", 6 * WIDTH, WIDTH),
  "head.head": ("proj_out", 64, WIDTH),
}  # fmt: skip
IMAGE_LAYERS = {
  "blocks.1.cross_attn.k_img": ("blocks.1.attn2.add_k_proj", WIDTH, WIDTH),
  "img_emb.proj.1": ("condition_embedder.image_embedder.ff.net.0.proj", 1280, 1280),
}


def written(layers, spelled, down, up, alpha=None, dot="."):
  """(tensors of a file, by native layer the product) of random matrices."""
  tensors, product = {}, {}
  for native, (diffusers, out, into) in layers.items():
    a, b = pair(out, into)
    name = spelled(native, diffusers)
    tensors |= {f"{name}{dot}{down}": a, f"{name}{dot}{up}": b}
    scale = 1.0
    if alpha is not None:
      tensors[f"{name}.alpha"] = np.float32(alpha)
      scale = alpha / R
    product[f"{native}.weight"] = scale * (b.astype(np.float64) @ a)
  return tensors, product


def applied(wan, path, product, strength=0.7):
  tensors = wan[1]
  expected = {n: tensors[n] + strength * dw for n, dw in product.items()}
  check(wan, merged(wan, (path, strength)), expected)


@pytest.mark.parametrize("kind", [*SPELLINGS, *FLAT, "diffusers", "lycoris_diffusers"])
@pytest.mark.parametrize("alpha", [None, 1.0])
def test_every_spelling_of_the_key_table(tmp_path, t2v, kind, alpha):
  flat = lambda name: name.replace(".", "_")
  if kind in FLAT:
    prefix, *parts = FLAT[kind]
    spelled = lambda native, diffusers: prefix + flat(native)
  elif kind in SPELLINGS:
    pattern, *parts = SPELLINGS[kind]
    spelled = lambda native, diffusers: pattern.format(native)
  else:
    parts = PEFT if kind == "diffusers" else KOHYA
    spelled = lambda native, diffusers: (
      f"transformer.{diffusers}"
      if kind == "diffusers"
      else f"lycoris_{flat(diffusers)}"
    )
  tensors, product = written(LAYERS, spelled, *parts, alpha)
  save_file(tensors, tmp_path / "x.safetensors")
  lora = Lora(tmp_path / "x.safetensors", t2v[2])
  assert {p.name for p in (x for y in lora.layers for x in y.targets.values())} == {
    f"{n}.weight" for n in LAYERS
  } or kind.endswith("diffusers")
  assert not lora.left
  if kind in ("comfyui", "kohya", "diffusers"):  # the others differ in names alone
    applied(t2v, tmp_path / "x.safetensors", product)
  else:
    for name, dw in product.items():
      target = next(m for (m) in t2v[2].forms["comfyui"].values() if m.name == name)
      d = lora.delta(target.path, target.slot, 1.0)
      ours = target.transform.forward(dw)
      np.testing.assert_allclose(d.a @ d.b, ours, rtol=1e-5, atol=1e-7)


def test_the_old_underscored_part(tmp_path, t2v):
  """`to_q_lora.up.weight`: of diffusers' first versions."""
  layers = {n: LAYERS[n] for n in ("blocks.0.self_attn.q", "blocks.0.ffn.0")}
  tensors, product = written(
    layers, lambda n, d: f"transformer.{d}_", "lora.down.weight", "lora.up.weight",
    dot="",
  )  # fmt: skip
  save_file(tensors, tmp_path / "x.safetensors")
  applied(t2v, tmp_path / "x.safetensors", product)


def test_image_layers_of_i2v_and_what_t2v_makes_of_them(tmp_path, i2v, t2v):
  layers = IMAGE_LAYERS | {"blocks.0.ffn.0": LAYERS["blocks.0.ffn.0"]}
  spelled = {
    "native": lambda n, d: f"diffusion_model.{n}",
    "diffusers": lambda n, d: f"transformer.{d}",
    "kohya": lambda n, d: "lora_unet_" + n.replace(".", "_"),
  }
  for kind, name in spelled.items():
    tensors, product = written(layers, name, *PEFT)
    if kind == "native":  # as an extractor of differences writes
      shapes = {
        "blocks.0.cross_attn.norm_k_img.diff": (WIDTH,),
        "blocks.0.cross_attn.k_img.diff_b": (WIDTH,),
        "img_emb.proj.0.diff": (1280,),
        "patch_embedding.diff": (WIDTH, 36, 1, 2, 2),
      }
      more = {f"diffusion_model.{n}": random(*s) for n, s in shapes.items()}
      tensors |= more
      tail = {"diff": "weight", "diff_b": "bias"}
      for n, x in more.items():
        layer, _, part = n.removeprefix("diffusion_model.").rpartition(".")
        product[f"{layer}.{tail[part]}"] = x
    path = tmp_path / f"{kind}.safetensors"
    save_file(tensors, path)
    if kind != "kohya":
      applied(i2v, path, product)
    lora = Lora(path, t2v[2])
    assert len(lora.left) == len(tensors) - 2
    note = lora.note()
    assert "\n" not in note and "k" in note and f"{len(lora.left)} tensors" in note
    applied(t2v, path, {k: v for k, v in product.items() if "ffn" in k})


@pytest.mark.parametrize("kind", ["comfyui", "diffusers", "kohya"])
def test_a_lora_of_ti2v_5b_and_none_of_its_for_another(tmp_path, t2v, kind):
  """Wan2.2's 5B has 48 channels: its ends are wider than those of Wan2.1."""
  shapes, tensors = model(channels=48)
  ti2v = shapes, tensors, Names(shapes)
  layers = {n: LAYERS[n] for n in ("blocks.0.self_attn.q", "blocks.1.ffn.2")}
  layers["head.head"] = ("proj_out", 192, WIDTH)
  spelled = {
    "comfyui": lambda native, diffusers: f"diffusion_model.{native}",
    "diffusers": lambda native, diffusers: f"transformer.{diffusers}",
    "kohya": lambda native, diffusers: "lora_unet_" + native.replace(".", "_"),
  }[kind]
  path = tmp_path / "x.safetensors"
  tensors, product = written(
    layers, spelled, *(KOHYA if kind == "kohya" else PEFT), 2.0
  )
  save_file(tensors, path)
  applied(ti2v, path, product)
  wide = r"does not fit this model: .*\(192, 4\)"
  with pytest.raises(UsageError, match=wide):
    Lora(path, t2v[2])
  tensors, _ = written({"head.head": LAYERS["head.head"]}, spelled, *PEFT)
  save_file(tensors, path)
  with pytest.raises(UsageError, match=r"does not fit this model: .*\(64, 4\)"):
    Lora(path, ti2v[2])


def test_differences_of_all_sorts(tmp_path, t2v):
  """Times the strength, never alpha/r; PEFT's bias of B as B is."""
  d = "diffusion_model."
  down, up = pair(WIDTH, WIDTH)
  bias, plain = random(WIDTH), random(WIDTH)
  x = {
    "head.head.diff": random(64, WIDTH),
    "patch_embedding.diff": random(WIDTH, 16, 1, 2, 2),
    "patch_embedding.diff_b": random(WIDTH),
    "blocks.0.norm3.diff": random(WIDTH),
    "blocks.0.norm3.diff_b": random(WIDTH),
    "blocks.1.self_attn.norm_q.diff": random(WIDTH),
    "blocks.0.diff_m": random(1, 6, WIDTH),
    "blocks.1.modulation.diff": random(1, 6, WIDTH),
    "head.diff_m": random(1, 2, WIDTH),
    "blocks.0.ffn.2.set_weight": random(WIDTH, FFN),
    "blocks.1.cross_attn.q.lora_B.bias": bias,
    "blocks.1.cross_attn.q.diff_b": plain,
    "blocks.1.cross_attn.q.lora_A.weight": down,
    "blocks.1.cross_attn.q.lora_B.weight": up,
    "blocks.1.cross_attn.q.alpha": np.float32(2 * R),
  }
  save_file({d + n: t for n, t in x.items()}, tmp_path / "x.safetensors")
  s, w = 0.5, t2v[1]
  add = {
    "head.head.weight": x["head.head.diff"],
    "patch_embedding.weight": x["patch_embedding.diff"],
    "patch_embedding.bias": x["patch_embedding.diff_b"],
    "blocks.0.norm3.weight": x["blocks.0.norm3.diff"],
    "blocks.0.norm3.bias": x["blocks.0.norm3.diff_b"],
    "blocks.1.self_attn.norm_q.weight": x["blocks.1.self_attn.norm_q.diff"],
    "blocks.0.modulation": x["blocks.0.diff_m"],
    "blocks.1.modulation": x["blocks.1.modulation.diff"],
    "head.modulation": x["head.diff_m"],
    "blocks.1.cross_attn.q.weight": 2.0 * up.astype(np.float64) @ down,
    "blocks.1.cross_attn.q.bias": plain + 2.0 * bias,
  }
  expected = {n: w[n] + s * dw for n, dw in add.items()}
  name = "blocks.0.ffn.2.weight"
  expected[name] = (1 - s) * w[name] + s * x["blocks.0.ffn.2.set_weight"]
  check(t2v, merged(t2v, (tmp_path / "x.safetensors", s)), expected)
  got = merged(t2v, (tmp_path / "x.safetensors", 1.0))  # overwritten, bit for bit
  assert (got[name] == x["blocks.0.ffn.2.set_weight"]).all()


def test_a_convolution(tmp_path, t2v):
  down, up = random(R, 16, 1, 2, 2), random(WIDTH, R, 1, 1, 1)
  file = tmp_path / "x.safetensors"
  parts = {"lora_down.weight": down, "lora_up.weight": up, "alpha": np.float32(8)}
  save_file({f"diffusion_model.patch_embedding.{n}": x for n, x in parts.items()}, file)
  dw = 2 * np.einsum("or,rcthw->octhw", up[:, :, 0, 0, 0].astype(np.float64), down)
  applied(t2v, file, {"patch_embedding.weight": dw})


@pytest.mark.parametrize("kind", ["rows", "peft", "columns", "conv"])
def test_dora(tmp_path, t2v, kind):
  """Magnitude (W + dW) / |W + dW| by rows, or by columns; then W + s (W' - W)."""
  layer = "patch_embedding" if kind == "conv" else "blocks.0.self_attn.v"
  w = t2v[1][f"{layer}.weight"].astype(np.float64)
  down, up = random(R, *w.shape[1:]), random(len(w), R, *(1,) * (w.ndim - 2))
  new = w + 0.5 * (
    up.reshape(len(w), R).astype(np.float64) @ down.reshape(R, -1)
  ).reshape(w.shape)
  axes = 0 if kind == "columns" else tuple(range(1, w.ndim))
  m = 1 + np.abs(RNG_M.standard_normal(w.shape[1 if kind == "columns" else 0]))
  m = m.astype(np.float32)
  name, stored = {
    "rows": ("dora_scale", m[:, None]),
    "peft": ("lora_magnitude_vector.default.weight", m),
    "columns": ("dora_scale", m[None]),
    "conv": ("dora_scale", m.reshape(-1, 1, 1, 1, 1)),
  }[kind]
  m = m[None] if kind == "columns" else m.reshape(-1, *(1,) * (w.ndim - 1))
  new = m * new / np.sqrt((new**2).sum(axes, keepdims=True))
  parts = {"lora_A.weight": down, "lora_B.weight": up, "alpha": np.float32(R / 2)}
  tensors = {f"diffusion_model.{layer}.{n}": x for n, x in parts.items()}
  tensors[f"diffusion_model.{layer}.{name}"] = stored
  save_file(tensors, tmp_path / "x.safetensors")
  applied(t2v, tmp_path / "x.safetensors", {f"{layer}.weight": new - w})


RNG_M = np.random.default_rng(3)


def test_products_of_lycoris(tmp_path, t2v):
  """LoHa and LoKr, element by element."""
  w1a, w1b, w2a, w2b = (
    random(FFN, R),
    random(R, WIDTH),
    random(FFN, R),
    random(R, WIDTH),
  )
  k1, k2a, k2b = random(4, 8), random(WIDTH // 4, R), random(R, WIDTH // 8)
  full = random(2, 2), random(WIDTH // 2, WIDTH // 2)
  q, k = "lycoris_blocks_0_self_attn_q", "lycoris_blocks_1_self_attn_k"
  h = "lycoris_blocks_0_ffn_net_0_proj"
  tensors = {
    f"{h}.hada_w1_a": w1a, f"{h}.hada_w1_b": w1b, f"{h}.hada_w2_a": w2a,
    f"{h}.hada_w2_b": w2b, f"{h}.alpha": np.float32(2),
    f"{q}.lokr_w1": k1, f"{q}.lokr_w2_a": k2a, f"{q}.lokr_w2_b": k2b,
    f"{q}.alpha": np.float32(8),
    # Without a rank there is nothing for alpha to be divided by.
    f"{k}.lokr_w1": full[0], f"{k}.lokr_w2": full[1], f"{k}.alpha": np.float32(9),
  }  # fmt: skip
  save_file(tensors, tmp_path / "x.safetensors")
  kron = lambda a, b: np.einsum("ij,kl->ikjl", a, b).reshape(WIDTH, WIDTH)
  product = {
    "blocks.0.ffn.0.weight": 0.5 * (w1a @ w1b) * (w2a @ w2b),
    "blocks.0.self_attn.q.weight": 2 * kron(k1, k2a @ k2b),
    "blocks.1.self_attn.k.weight": kron(*full),
  }
  applied(t2v, tmp_path / "x.safetensors", product)


def test_what_headers_say_of_alpha(tmp_path, t2v):
  """Diffusers' header and PEFT's adapter_config.json take the place of alpha = r."""
  names = ["blocks.0.attn1.to_q", "blocks.1.attn1.to_q", "blocks.0.ffn.net.2"]
  native = ["blocks.0.self_attn.q", "blocks.1.self_attn.q", "blocks.0.ffn.2"]
  sizes = [(WIDTH, WIDTH, R), (WIDTH, WIDTH, 2 * R), (WIDTH, FFN, R)]
  pairs = [pair(*s) for s in sizes]

  def save(path, prefix, about=None):
    tensors = {}
    for n, (a, b) in zip(names, pairs):
      tensors |= {f"{prefix}{n}.lora_A.weight": a, f"{prefix}{n}.lora_B.weight": b}
    save_file(tensors, path, about and {"lora_adapter_metadata": json.dumps(about)})

  def product(*scales):
    return {
      f"{n}.weight": s * (b.astype(np.float64) @ a)
      for n, s, (a, b) in zip(native, scales, pairs)
    }

  about = {
    "r": R, "lora_alpha": 2 * R, "rank_pattern": {"blocks.1.attn1.to_q": 2 * R},
    "alpha_pattern": {"ffn.net.2": 3.0}, "use_rslora": False,
  }  # fmt: skip
  file = tmp_path / "x.safetensors"
  save(file, "transformer.", {f"transformer.{k}": v for k, v in about.items()})
  applied(t2v, file, product(2, 1, 3 / R))
  folder = tmp_path / "peft"
  folder.mkdir()
  save(folder / "adapter_model.safetensors", "base_model.model.")
  rs = about | {"use_rslora": True}
  (folder / "adapter_config.json").write_text(json.dumps(rs))
  root = np.sqrt(R)
  applied(t2v, folder, product(2 * R / root, 2 * R / np.sqrt(2 * R), 3 / root))
  wrong = {f"transformer.{k}": v for k, v in (about | {"r": 7}).items()}
  save(file, "transformer.", wrong)
  with pytest.raises(UsageError, match="has rank 4, but what is told.*says 7"):
    Lora(file, t2v[2])
  save(file, "transformer.", {"transformer.lora_alpha": "8"})
  with pytest.raises(UsageError, match="lora_alpha.*download the LoRA again"):
    Lora(file, t2v[2])


def test_several_at_once_and_one_rounding(tmp_path, t2v):
  """In one sum, whatever their order; of bfloat16 parameters rounded once."""
  layers, files = {"blocks.0.ffn.0": LAYERS["blocks.0.ffn.0"]}, []
  total, strengths = 0.0, (0.3, -1.25, 1.0)
  for i, s in enumerate(strengths):
    kind = ml_dtypes.bfloat16 if i == 2 else np.float16 if i else np.float32
    tensors, _ = written(layers, lambda n, d: n, *PEFT, None)
    tensors = {n: x.astype(kind) for n, x in tensors.items()}
    a, b = (x.astype(np.float64) for x in tensors.values())
    total = total + s * (b @ a)
    files.append((tmp_path / f"{i}.safetensors", s))
    save_file(tensors, files[-1][0])
  name = "blocks.0.ffn.0.weight"
  expected = {name: t2v[1][name] + total}
  check(t2v, merged(t2v, *files), expected)
  check(t2v, merged(t2v, *files[::-1]), expected)
  half = t2v[1][name].astype(ml_dtypes.bfloat16)
  got = merged(t2v, *files, dtype=ml_dtypes.bfloat16)[name]
  want = (half.astype(np.float64) + total).astype(ml_dtypes.bfloat16)
  assert got.dtype == want.dtype
  assert (got == want).mean() > 0.999  # but for ties within a float32's error


def test_pickles_are_read_too(tmp_path, t2v):
  tensors, product = written(LAYERS, lambda n, d: n, "lora_A.default.weight",
                             "lora_B.default.weight")  # fmt: skip
  save_pth(tmp_path / "adapter.pth", tensors)
  applied(t2v, tmp_path / "adapter.pth", product)


Q = "diffusion_model.blocks.0.self_attn.q"
A, B = random(R, WIDTH), random(WIDTH, R)
LOW = {f"{Q}.lora_A.weight": A, f"{Q}.lora_B.weight": B}
BAD = {
  "ranks": (
    {f"{Q}.lora_A.weight": A, f"{Q}.lora_B.weight": random(WIDTH, 3)},
    r"lora_A.weight \(4, 256\) and .*\(256, 3\) have other ranks",
  ),
  "no up": ({f"{Q}.lora_A.weight": A}, r"A.weight stands without up \(lora_B\)"),
  "no down": ({f"{Q}.lora_up.weight": B}, r"stands without down \(lora_A\)"),
  "alpha alone": ({f"{Q}.alpha": np.float32(1)}, "alpha stands without"),
  "dora alone": ({f"{Q}.dora_scale": B[:, :1]}, "dora_scale stands without"),
  "bias alone": ({f"{Q}.lora_B.bias": B[:, 0]}, "lora_B.bias stands without"),
  "half a LoHa": ({f"{Q}.hada_w1_a": B, f"{Q}.hada_w1_b": A}, "without hada_w2_a"),
  "half a LoKr": ({f"{Q}.lokr_w1": B, f"{Q}.lokr_w2_a": B}, "without one lokr_w2"),
  "two ways": (LOW | {f"{Q}.hada_w1_a": B}, "changed in several ways"),
  "two names": (
    {f"{Q}.diff_b": B[:, 0], "blocks.0.self_attn.q.diff_b": B[:, 0]},
    "are both of blocks.0.self_attn.q.bias",
  ),
  "two spellings": (LOW | {f"{Q}.lora_down.weight": A}, "are both the down of"),
  "NaN": (
    LOW | {f"{Q}.lora_A.weight": np.where(A > 0.1, np.nan, A)},
    "lora_A.weight holds NaN or infinity",
  ),
  "infinity": (
    LOW | {f"{Q}.lora_B.weight": np.where(B > 0.1, np.inf, B)},
    "lora_B.weight holds NaN or infinity",
  ),
  "infinite alpha": (LOW | {f"{Q}.alpha": np.float32(np.inf)}, "alpha is no number"),
  "width": (
    {f"{Q}.lora_A.weight": random(R, 128), f"{Q}.lora_B.weight": random(128, R)},
    r"does not fit this model: .*lora_A.weight has shape \(4, 128\).*\(256, 256\)",
  ),
  "width of a difference": (
    {f"{Q}.diff_b": random(128)},
    r"has shape \(128,\), expected \(256,\) of blocks.0.self_attn.q.bias",
  ),
  "depth": (
    {"lora_unet_blocks_2_ffn_0.lora_down.weight": A,
     "lora_unet_blocks_2_ffn_0.lora_up.weight": random(FFN, R)},
    r"does not fit this model \(2 blocks, video of 256 channels\): lora_unet_"
    "blocks_2_ffn_0.lora_down.weight is of no layer of it, and so are 1 more",
  ),
  "other model": (
    {"transformer.single_transformer_blocks.0.attn.to_q.lora_A.weight": A},
    "does not fit this model.*is of no layer",
  ),
  "vace": (
    {"diffusion_model.vace_blocks.0.self_attn.q.lora_A.weight": A},
    "vace_blocks.*is of no layer",
  ),
  "text encoder": (
    LOW | {"lora_te1_encoder_0_q.lora_up.weight": B}, "lora_te1.* is of no layer"
  ),
  "unknown part": (
    LOW | {f"{Q}.lora_mid.weight": A}, "lora_mid.weight is part of no known change"
  ),
  "a whole model": (
    {"blocks.0.self_attn.q.weight": A}, "is no LoRA: none of its 1 tensors"
  ),
  "integers": (
    LOW | {f"{Q}.lora_A.weight": A.astype(np.int8)},
    "lora_A.weight is int8; expected one of float32",
  ),
  "magnitude": (
    LOW | {f"{Q}.dora_scale": random(7, 1)}, r"has shape \(7, 1\), expected"
  ),
}  # fmt: skip


@pytest.mark.parametrize("kind", BAD)
def test_what_is_refused_in_one_line(tmp_path, t2v, kind):
  tensors, message = BAD[kind]
  path = tmp_path / "x.safetensors"
  save_file(tensors, path)
  with pytest.raises(UsageError, match=message) as e:
    lora = Lora(path, t2v[2])
    for place in lora.places():
      lora.delta(*place, 1.0)
  assert "\n" not in str(e.value) and str(path) in str(e.value)


def test_a_file_that_is_cut_short_or_not_there(tmp_path, t2v):
  path = tmp_path / "x.safetensors"
  save_file({f"{Q}.lora_A.weight": A, f"{Q}.lora_B.weight": B}, path)
  path.write_bytes(path.read_bytes()[:-1])
  with pytest.raises(UsageError, match="is truncated"):
    Lora(path, t2v[2])
  with pytest.raises(UsageError, match="no file or folder"):
    Lora(tmp_path / "y.safetensors", t2v[2])


def test_a_strength_of_the_command_line(tmp_path):
  (tmp_path / "a:2").write_bytes(b"")
  assert parse_lora("x/y.safetensors:0.5") == ("x/y.safetensors", 0.5)
  assert parse_lora("x:-1e-1") == ("x", -0.1)
  assert parse_lora("x.safetensors") == ("x.safetensors", 1.0)
  assert parse_lora(f"{tmp_path}/a:2") == (f"{tmp_path}/a:2", 1.0)
  assert parse_lora(f"{tmp_path}/a:2:3") == (f"{tmp_path}/a:2", 3.0)
  for text in ("x:nan", "x:inf", "x:", ":1", "x:much", ""):
    with pytest.raises(UsageError, match="expected FILE:STRENGTH"):
      parse_lora(text)
