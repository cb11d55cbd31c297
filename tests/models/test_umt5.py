"""UMT5's encoder: golden rows, the formula, buckets, masks, files, mistakes."""

import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from ccl_jax.codecs.bundle import Codecs, fingerprint, load_codecs, save_codecs
from ccl_jax.errors import UsageError
from ccl_jax.models.linear_codec import LinearAudioCodec, LinearVideoCodec
from ccl_jax.models.tokenizer import Tokenizer
from ccl_jax.models.umt5 import UMT5Encoder, UMT5Text, bucket
from ccl_jax.weights.load import load_params
from ccl_jax.weights.rules import expected_tensors
from ccl_jax.weights.umt5 import DIFFUSERS, NATIVE, shapes_of
from tests.parity.cases_umt5 import cases_umt5

SIZES = dict(
  vocabulary=40, width=24, attention_width=32, ffn=40, heads=4, depth=2, buckets=8
)
encode = jax.jit(UMT5Text.encode)


def drawn(seed: int = 0):
  """Parameters none of which is zero, about as large as trained ones."""
  rng, flat = np.random.default_rng(seed), {}
  for path, x in shapes_of(SIZES).items():
    noise = rng.standard_normal(x.shape)
    if path.endswith("kernel"):
      noise /= x.shape[-2] ** 0.5
    if path.endswith("scale"):
      noise = 1 + 0.2 * noise
    flat[path] = noise.astype(np.float32)
  return flat


def tree(flat):
  out = {}
  for path, x in flat.items():
    *parents, leaf = path.split("/")
    node = out
    for name in parents:
      node = node.setdefault(name, {})
    node[leaf] = x
  return jax.tree.map(jnp.asarray, out)


def codec(seed: int = 0, **fields) -> UMT5Text:
  fields = {"length": 14, "dtype": "float32"} | fields
  return UMT5Text(tree(drawn(seed)), Tokenizer(b"{}"), **fields)


def prompts(length: int, used: tuple[int, ...]):
  ids = np.random.default_rng(1).integers(1, 40, (len(used), length)).astype(np.int32)
  mask = np.arange(length)[None] < np.array(used)[:, None]
  return np.where(mask, ids, 0), mask


@pytest.mark.shared
@pytest.mark.parametrize("file", ["models_t5_umt5-enc.pth", "umt5.safetensors"])
def test_golden_rows(shared, file):
  for _, got, expected, _ in cases_umt5(shared / "parity/umt5", file):
    assert np.abs(got - expected).max() < 1e-5 * expected.std()


@pytest.mark.shared
def test_golden_rows_in_bfloat16(shared):
  """Two per cent of the deviation, rms: eight bits of mantissa through two layers."""
  for _, got, expected, _ in cases_umt5(shared / "parity/umt5", dtype="bfloat16"):
    error = np.sqrt(np.mean((got - expected) ** 2)) / expected.std()
    assert 1e-4 < error < 0.02


def test_rows_are_the_formula_token_by_token():
  """Written with loops and float64; five tokens, and two that are masked."""
  flat = {k: v.astype(np.float64) for k, v in drawn().items()}
  ids, mask = prompts(7, (5,))
  rms = lambda x, scale: x / np.sqrt((x * x).mean(-1, keepdims=True) + 1e-6) * scale
  gelu = lambda x: (
    0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
  )
  x = flat["token_embedding"][ids[0, :5]]
  for n in range(2):
    w = {k.removeprefix("blocks/"): v[n] for k, v in flat.items() if k[0] == "b"}
    u, out = rms(x, w["norm1/scale"]), np.zeros((5, 32))
    q, k, v = (u @ w[f"attn/{name}/kernel"] for name in "qkv")
    for head in range(4):
      part = np.s_[:, 8 * head : 8 * head + 8]
      logits = q[part] @ k[part].T
      for i in range(5):
        for j in range(5):
          row = abs(j - i) + 4 * (j > i) if abs(j - i) < 2 else 2 + 4 * (j > i)
          logits[i, j] += w["attn/position_bias"][row, head]  # 4 and below are near
      weights = np.exp(logits - logits.max(1, keepdims=True))
      out[part] = weights / weights.sum(1, keepdims=True) @ v[part]
    x = x + out @ w["attn/o/kernel"]
    u = rms(x, w["norm2/scale"])
    gated = u @ w["ffn/fc1/kernel"] * gelu(u @ w["ffn/gate/kernel"])
    x = x + gated @ w["ffn/fc2/kernel"]
  got = np.asarray(encode(codec(), ids, mask))
  np.testing.assert_allclose(got[0, :5], rms(x, flat["norm/scale"]), atol=2e-5)


@pytest.mark.parametrize(
  "buckets, farthest", [(32, 128), (32, 256), (16, 64), (8, 128)]
)
def test_buckets_are_the_formula_and_exact_at_its_powers(buckets, farthest):
  half, m = buckets // 2, buckets // 4
  offset = np.arange(-600, 601)
  got = bucket(offset, buckets, farthest)
  for d, row in zip(offset.tolist(), got.tolist()):
    far = m + math.log(max(abs(d), m) / m) / math.log(farthest / m) * m
    if abs(far - round(far)) < 1e-9:
      far = round(far)  # a power, up to the rounding of the logarithms
    near = abs(d) if abs(d) < m else min(math.floor(far), half - 1)
    assert row == near + half * (d > 0), d


def test_buckets_of_the_release_at_the_powers():
  """8 * 2^(j/2) begins a bucket; and float32 arithmetic, as the reference's, agrees."""
  row = dict(zip(range(600), bucket(-np.arange(600), 32).tolist()))
  begins = {8: 8, 16: 10, 32: 12, 64: 14, 128: 15}
  assert {d: row[d] for d in begins} == begins
  assert [row[d - 1] for d in begins] == [7, 9, 11, 13, 15]
  assert bucket(np.array([1, -1, 0, 500]), 32).tolist() == [17, 1, 0, 31]
  d = np.arange(8, 600, dtype=np.float32)
  ratio = np.log(d / np.float32(8)) / np.float32(math.log(16)) * np.float32(8)
  far = np.minimum(8 + ratio.astype(np.int32), 15)
  np.testing.assert_array_equal(far, [row[int(x)] for x in d])


def test_what_is_past_the_text_is_zero_and_is_not_seen():
  ids, mask = prompts(14, (14, 6, 0))
  rows = np.asarray(encode(codec(), ids, mask))
  assert rows.shape == (3, 14, 24) and rows.dtype == np.float32
  assert not rows[~mask].any() and np.abs(rows[mask]).min(0).max() > 0
  other = np.where(mask, ids, 39 - ids % 3)
  np.testing.assert_array_equal(encode(codec(), other, mask), rows)
  short = np.asarray(encode(codec(), ids[1:2, :6], mask[1:2, :6]))
  np.testing.assert_allclose(short[0], rows[1, :6], atol=2e-5)


def test_bfloat16_is_near_float32_and_norms_and_sums_stay_float32():
  ids, mask = prompts(14, (14, 9))
  whole = np.asarray(encode(codec(), ids, mask))[mask]
  half = np.asarray(encode(codec(dtype="bfloat16"), ids, mask))[mask]
  error = np.sqrt(np.mean((whole - half) ** 2)) / whole.std()
  assert half.dtype == np.float32 and 1e-4 < error < 0.03
  jaxpr = str(jax.make_jaxpr(UMT5Text.encode)(codec(dtype="bfloat16"), ids, mask))
  for op in ("rsqrt", "exp"):
    assert set(re.findall(rf":(\w+)\[[^]]*\] = {op}\b", jaxpr)) == {"f32"}


def test_sizes_and_tensors_of_the_release():
  encoder = UMT5Encoder()
  sizes = {k: getattr(encoder, k) for k in SIZES}
  shapes = shapes_of(sizes)
  assert sum(math.prod(x.shape) for x in shapes.values()) == 5_680_910_336
  for rows in (NATIVE, DIFFUSERS):
    names = {m.name: m.shape for m in expected_tensors(rows, shapes)}
    assert len(names) == 242 and set(names.values()) >= {(32, 64), (10240, 4096)}


def native_file(path, flat):
  """The parameters as a file of the release; names written out once more here."""
  out = {"token_embedding.weight": flat["token_embedding"]}
  out["norm.weight"] = flat["norm/scale"]
  for n in range(2):
    get = lambda name: np.ascontiguousarray(flat[f"blocks/{name}"][n].T)
    for name in "qkvo":
      out[f"blocks.{n}.attn.{name}.weight"] = get(f"attn/{name}/kernel")
    bias = flat["blocks/attn/position_bias"][n]
    out[f"blocks.{n}.pos_embedding.embedding.weight"] = bias
    for ours, theirs in (("gate", "gate.0"), ("fc1", "fc1"), ("fc2", "fc2")):
      out[f"blocks.{n}.ffn.{theirs}.weight"] = get(f"ffn/{ours}/kernel")
    for name in ("norm1", "norm2"):
      out[f"blocks.{n}.{name}.weight"] = get(f"{name}/scale")
  save_file(out, path)
  return out


def diffusers_file(path, native):
  inner = {
    "norm1": "layer.0.layer_norm",
    "norm2": "layer.1.layer_norm",
    "pos_embedding.embedding": "layer.0.SelfAttention.relative_attention_bias",
    "ffn.gate.0": "layer.1.DenseReluDense.wi_0",
    "ffn.fc1": "layer.1.DenseReluDense.wi_1",
    "ffn.fc2": "layer.1.DenseReluDense.wo",
  } | {f"attn.{x}": f"layer.0.SelfAttention.{x}" for x in "qkvo"}
  out = {
    "shared.weight": native["token_embedding.weight"],
    "encoder.embed_tokens.weight": native["token_embedding.weight"],
    "encoder.final_layer_norm.weight": native["norm.weight"],
    "decoder.block.0.layer.0.SelfAttention.q.weight": np.zeros((3, 3), np.float32),
    "lm_head.weight": np.zeros((3, 3), np.float32),
  }
  for name, x in native.items():
    found = re.fullmatch(r"blocks\.(\d)\.(.+)\.weight", name)
    if found:
      out[f"encoder.block.{found[1]}.{inner[found[2]]}.weight"] = x
  save_file(out, path)


@pytest.fixture(scope="module")
def releases(tmp_path_factory):
  """Folders as the two releases have them, with the same numbers."""
  root, flat = tmp_path_factory.mktemp("releases"), drawn(3)
  for folder in ("wan/google/umt5-xxl", "hub/text_encoder", "hub/tokenizer"):
    (root / folder).mkdir(parents=True)
  native = native_file(root / "wan/models_t5_umt5-xxl-enc-bf16.safetensors", flat)
  diffusers_file(root / "hub/text_encoder/model.safetensors", native)
  save_file({"x": np.zeros(3)}, root / "wan/diffusion_pytorch_model.safetensors")
  for folder in ("wan/google/umt5-xxl", "hub/tokenizer"):
    (root / folder / "tokenizer.json").write_bytes(b'{"a": 1}')
  return root, flat


@pytest.mark.parametrize("place", ["wan", "hub", "hub/text_encoder"])
def test_both_releases_are_read(releases, place):
  root, flat = releases
  params, sizes = load_params("umt5", root / place)
  jax.tree.map(np.testing.assert_array_equal, params, tree(flat))
  text = UMT5Text(params, Tokenizer(b""))
  assert text.dim == 24 and {k: getattr(text.encoder, k) for k in SIZES} == SIZES
  assert SIZES.items() <= sizes.items()
  half, _ = load_params("umt5", root / place, "bfloat16")
  assert {x.dtype for x in jax.tree.leaves(half)} == {jnp.dtype("bfloat16")}
  near = lambda a, b: np.testing.assert_allclose(a, b, rtol=2**-8)
  jax.tree.map(near, jax.tree.map(lambda x: x.astype("float32"), half), tree(flat))


def test_mistakes_about_files_are_one_line(releases, tmp_path):
  root, _ = releases
  file = root / "wan/models_t5_umt5-xxl-enc-bf16.safetensors"
  native = load_file(file)

  def message(tensors):
    save_file(tensors, tmp_path / "x.safetensors")
    with pytest.raises(UsageError) as e:
      load_params("umt5", tmp_path / "x.safetensors")
    assert "\n" not in str(e.value)
    return str(e.value)

  without = lambda pattern: {k: v for k, v in native.items() if pattern not in k}
  assert "no UMT5 encoder" in message({"visual.head": np.zeros(3)})
  assert "blocks.1.pos_embedding" in message(without("1.pos_embedding"))  # T5's
  assert "no tensor blocks.0.ffn.fc1.weight" in message(without("0.ffn.fc1"))
  assert "unexpected tensor blocks.1.x" in message(native | {"blocks.1.x": np.zeros(2)})
  assert "no tensor blocks.0.norm1.weight" in message(without("norm1"))
  assert "blocks.0.pos_embedding" in message(without("blocks"))


def test_as_a_codec_it_is_saved_with_its_tokenizer(tmp_path):
  row = jnp.ones(3)
  others = LinearVideoCodec(row, row[None], row), LinearAudioCodec(row, row[None], row)
  half = jax.tree.map(lambda x: x.astype(jnp.bfloat16), codec(5, dtype="bfloat16"))
  codecs = Codecs(*others, half.replace(tokenizer=Tokenizer(b"\x00a tokenizer")))
  for _ in range(2):  # and replaced
    save_codecs(codecs, tmp_path / "c")
  files = {p.name for p in (tmp_path / "c").iterdir()}
  assert "text.tokenizer" in files and len(files) == 7
  loaded = load_codecs(tmp_path / "c")
  assert jax.tree.structure(loaded) == jax.tree.structure(codecs)
  assert "a tokenizer" not in str(jax.tree.structure(loaded))
  jax.tree.map(np.testing.assert_array_equal, loaded, codecs)
  prints = [
    fingerprint(codecs._replace(text=text))
    for text in (loaded.text, half, half.replace(length=13))
  ]
  assert len(set(prints)) == 3 and prints[0] == fingerprint(codecs)

  (tmp_path / "c/text.tokenizer").write_bytes(b"\x00A tokenizer")
  with pytest.raises(UsageError, match=r"text codec .* is damaged"):
    load_codecs(tmp_path / "c")
  (tmp_path / "c/text.tokenizer").unlink()
  with pytest.raises(UsageError, match=r"no text\.tokenizer in"):
    load_codecs(tmp_path / "c")
