"""LoRAs under other names read back equal, and are what other programs load."""

import dataclasses
import json
import pathlib
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util
from safetensors import safe_open
from safetensors.numpy import load_file

from ccl_jax import convert
from ccl_jax.checkpoints.find import Parameters
from ccl_jax.errors import UsageError
from ccl_jax.models.adapter import Adapter
from ccl_jax.weights import lora_write
from ccl_jax.weights.lora import Lora
from ccl_jax.weights.lora_merge import merge
from ccl_jax.weights.lora_names import Names
from tests.weights.lora_files import model, random, save_file
from tests.weights.wan_files import FFN, WIDTH

Q, FF = "lora_unet_blocks_0_self_attn_q", "lora_unet_blocks_1_ffn_0"
TENSORS = {
  f"{Q}.lora_down.weight": random(4, WIDTH),
  f"{Q}.lora_up.weight": random(WIDTH, 4),
  f"{Q}.alpha": np.float32(1),
  f"{FF}.lora_down.weight": random(2, WIDTH, dtype=np.float16),
  f"{FF}.lora_up.weight": random(FFN, 2, dtype=np.float16),
  f"{FF}.alpha": np.float32(3),
  f"{FF}.dora_scale": random(FFN, 1),
  "lora_unet_blocks_0_cross_attn_o.lora_down.weight": random(4, WIDTH),
  "lora_unet_blocks_0_cross_attn_o.lora_up.weight": random(WIDTH, 4),
  "lora_unet_blocks_0_cross_attn_o.alpha": np.float32(1),
  "lora_unet_blocks_0_cross_attn_o.diff_b": random(WIDTH),
  "lycoris_blocks_1_attn1_to_v.hada_w1_a": random(WIDTH, 3),
  "lycoris_blocks_1_attn1_to_v.hada_w1_b": random(3, WIDTH),
  "lycoris_blocks_1_attn1_to_v.hada_w2_a": random(WIDTH, 3),
  "lycoris_blocks_1_attn1_to_v.hada_w2_b": random(3, WIDTH),
  "lycoris_blocks_1_attn1_to_v.alpha": np.float32(6),
  "diffusion_model.patch_embedding.diff": random(WIDTH, 16, 1, 2, 2),
  "diffusion_model.blocks.1.norm3.diff": random(WIDTH),
  "diffusion_model.blocks.1.diff_m": random(1, 6, WIDTH),
  "diffusion_model.head.diff_m": random(1, 2, WIDTH),
  "diffusion_model.head.head.set_weight": random(64, WIDTH),
}


@pytest.fixture(scope="module")
def shapes():
  return model()[0]


@pytest.fixture
def known(monkeypatch, shapes):
  """The names of the small model, whatever folder is named."""
  monkeypatch.setattr(lora_write, "model_names", lambda folder: Names(shapes))
  return Names(shapes)


def deltas(path, names):
  lora = Lora(path, names)
  return {place: lora.delta(*place, 1.0) for place in lora.places()}


def same(one, other):
  """Bit for bit."""
  assert one.keys() == other.keys()
  for place in one:
    for field, x in one[place]._asdict().items():
      np.testing.assert_array_equal(getattr(other[place], field), x, str(place))


def test_there_and_back_is_equal(tmp_path, known, shapes):
  """Through all forms, one after the other."""
  path = tmp_path / "0.safetensors"
  save_file(TENSORS, path)
  first = deltas(path, known)
  assert len(first) == 10 and first["blocks/video/self_attn/q/kernel", (0,)].b.any()
  for i, form in enumerate(("comfyui", "diffusers", "ours", "diffusers", "comfyui")):
    src, path = path, tmp_path / f"{i + 1}.safetensors"
    assert lora_write.convert_lora(src, path, model="M", form=form) == ""
    same(first, deltas(path, known))
  assert load_file(path).keys() == load_file(tmp_path / "1.safetensors").keys()
  with pytest.raises(UsageError, match="is there already"):
    lora_write.convert_lora(src, path, model="M", form="ours")


def test_the_names_that_other_programs_look_for(tmp_path, known):
  src = tmp_path / "x.safetensors"
  save_file(TENSORS, src)
  written = {}
  for form in ("comfyui", "diffusers", "ours"):
    written[form] = tmp_path / f"{form}.safetensors"
    convert.main(["lora", "--src", str(src), "--model", "M", "--format", form,
                  "--dst", str(written[form])])  # fmt: skip
  comfy = load_file(written["comfyui"])
  q = "diffusion_model.blocks.0.self_attn.q"
  assert (comfy[f"{q}.lora_A.weight"] == TENSORS[f"{Q}.lora_down.weight"]).all()
  assert (comfy[f"{q}.lora_B.weight"] == TENSORS[f"{Q}.lora_up.weight"]).all()
  assert comfy[f"{q}.alpha"] == 1 and comfy[f"{q}.alpha"].shape == ()
  assert comfy["diffusion_model.blocks.1.ffn.0.lora_A.weight"].dtype == np.float16
  assert "diffusion_model.blocks.1.modulation.diff" in comfy
  assert "diffusion_model.blocks.1.self_attn.v.hada_w1_a" in comfy
  assert all(name.startswith("diffusion_model.") for name in comfy)
  diffusers = load_file(written["diffusers"])
  names = {
    "blocks.0.attn1.to_q.lora_A.weight", "blocks.1.ffn.net.0.proj.lora_B.weight",
    "blocks.1.ffn.net.0.proj.lora_magnitude_vector", "blocks.0.attn2.to_out.0.diff_b",
    "patch_embedding.diff", "blocks.1.norm2.diff", "blocks.1.scale_shift_table.diff",
    "scale_shift_table.diff", "proj_out.set_weight",
  }  # fmt: skip
  assert {f"transformer.{n}" for n in names} <= diffusers.keys()
  # It has no tensors for alphas: the header says them, as to PEFT.
  assert not any("alpha" in name for name in diffusers)
  with safe_open(written["diffusers"], "np") as f:
    about = json.loads(f.metadata()["lora_adapter_metadata"])
  assert about["transformer.r"] == 4 and about["transformer.lora_alpha"] == 1.0
  other, hada = "blocks.1.ffn.net.0.proj", "blocks.1.attn1.to_v"
  assert about["transformer.rank_pattern"] == {other: 2, hada: 3}
  assert about["transformer.alpha_pattern"] == {other: 3.0, hada: 6.0}
  ours = load_file(written["ours"])
  assert "blocks.0.video.self_attn.q.lora_A.weight" in ours
  assert "video.head_modulation.diff" in ours


def test_our_own_layers_have_our_names_alone(tmp_path, monkeypatch):
  """The exchange and the audio stream of a model of two streams."""
  f = lambda *shape: jax.ShapeDtypeStruct(shape, np.float32)
  own = Names(
    {
      "blocks/video_to_audio/q/kernel": f(3, 8, 16),
      "blocks/video_to_audio/o/bias": f(3, 8),
      "blocks/video_to_audio/context": f(3, 5, 8),
      "audio/patch_embedding/in/kernel": f(7, 20, 8),
      "blocks/audio/self_attn/norm_q/scale": f(3, 8),
    }
  )
  monkeypatch.setattr(lora_write, "model_names", lambda folder: own)
  exchange = "blocks.2.video_to_audio"
  tensors = {
    f"{exchange}.q.lora_A.weight": random(2, 8),
    f"{exchange}.q.lora_B.weight": random(16, 2),
    f"{exchange}.o.diff_b": random(8),
    f"{exchange}.context.diff": random(5, 8),
    "audio.patch_embedding.in.lora_A.weight": random(2, 20, 7),
    "audio.patch_embedding.in.lora_B.weight": random(8, 2, 1),
    "blocks.0.audio.self_attn.norm_q.diff": random(8),
  }
  src = tmp_path / "x.safetensors"
  save_file(tensors, src)
  found = deltas(src, own)
  assert len(found) == 5
  d = found["blocks/video_to_audio/q/kernel", (2,)]
  want = tensors[f"{exchange}.q.lora_B.weight"] @ tensors[f"{exchange}.q.lora_A.weight"]
  np.testing.assert_allclose(d.a @ d.b, want.T, rtol=1e-5)
  d = found["audio/patch_embedding/in/kernel", ()]  # (taps, in, out)
  name = "audio.patch_embedding.in.lora_{}.weight"
  b, a = tensors[name.format("B")][..., 0], tensors[name.format("A")]
  want = np.einsum("or,rct->tco", b, a)
  np.testing.assert_allclose(d.a @ d.b, want, rtol=1e-4, atol=1e-7)
  assert (found["blocks/video_to_audio/context", (2,)].diff ==
          tensors[f"{exchange}.context.diff"]).all()  # fmt: skip
  lora_write.convert_lora(src, tmp_path / "y.safetensors", model="M", form="ours")
  assert load_file(tmp_path / "y.safetensors").keys() == tensors.keys()
  same(found, deltas(tmp_path / "y.safetensors", own))
  for form in ("comfyui", "diffusers"):
    with pytest.raises(UsageError, match=f"--format {form} has no name for .*ours"):
      lora_write.convert_lora(src, tmp_path / "z.safetensors", model="M", form=form)
  assert sorted(p.name for p in tmp_path.iterdir()) == [src.name, "y.safetensors"]


def test_what_a_run_has_trained(tmp_path, monkeypatch):
  """Its average is written as a LoRA, and what it trained itself in W's place."""
  f = lambda *shape: jax.ShapeDtypeStruct(shape, np.float32)
  shapes = {
    "blocks/video/self_attn/q/kernel": f(2, 8, 6),
    "audio/patch_embedding/in/kernel": f(7, 4, 8),
    "blocks/audio_to_video/o/kernel": f(2, 6, 8),
    "blocks/audio_to_video/o/bias": f(2, 8),
    "blocks/audio_to_video/context": f(2, 3, 5),
  }
  adapter = Adapter(2, 5.0, r"blocks/video/.*|audio/.*", "exchange")
  tree = jax.eval_shape(
    adapter.trained, traverse_util.unflatten_dict(shapes, sep="/"), jax.random.key(0)
  )
  trained = {
    path: random(*x.shape)
    for path, x in traverse_util.flatten_dict(tree, sep="/").items()
  }
  about = {"base": {"folder": "B"}, "lora": dataclasses.asdict(adapter)}
  found = lambda folder: Parameters(pathlib.Path(folder), "ema", about, None)
  reader = SimpleNamespace(shapes=trained, read=lambda path, slot: trained[path][slot])
  monkeypatch.setattr(lora_write, "find_parameters", found)
  monkeypatch.setattr(lora_write, "SliceReader", lambda place, name: reader)
  run, dst = tmp_path / "run", tmp_path / "x.safetensors"
  # The base is named from the run's folder.
  named = {run / "B": Names(shapes)}
  monkeypatch.setattr(lora_write, "model_names", named.__getitem__)
  (run / "checkpoints").mkdir(parents=True)
  lora_write.convert_lora(run, dst, form="ours")
  base = {p: random(*x.shape) for p, x in shapes.items()}
  params = jax.tree.map(jnp.asarray, traverse_util.unflatten_dict(base, sep="/"))
  part = traverse_util.unflatten_dict(trained, sep="/")
  want = traverse_util.flatten_dict(adapter.applied(params, part), sep="/")
  got = merge(params, [(Lora(dst, Names(shapes)), 1.0)])
  got = traverse_util.flatten_dict(got, sep="/")
  for path, x in want.items():
    np.testing.assert_allclose(got[path], x, rtol=1e-5, atol=1e-6, err_msg=path)
    assert (np.asarray(got[path]) != base[path]).any()
  assert load_file(dst)["blocks.0.video.self_attn.q.alpha"] == 5
  with pytest.raises(UsageError, match="--format comfyui has no name for"):
    lora_write.convert_lora(run, tmp_path / "y.safetensors", form="comfyui")
  del about["base"]
  with pytest.raises(UsageError, match="has trained a whole model, no part of one"):
    lora_write.convert_lora(run, tmp_path / "y.safetensors", form="ours")
  with pytest.raises(UsageError, match="--model is missing"):
    lora_write.convert_lora(dst, tmp_path / "y.safetensors", form="ours")
  assert sorted(p.name for p in tmp_path.iterdir()) == ["run", "x.safetensors"]


def test_ovis_names_are_of_both_streams_and_not_of_another_exchange():
  """`k_fusion` is of fusion, though our context attention has parameters so called."""
  f = lambda *shape: jax.ShapeDtypeStruct(shape, np.float32)
  fused = {
    "blocks/video/self_attn/q/kernel": f(2, 8, 8),
    "blocks/audio/ffn/in/kernel": f(2, 8, 12),
    "blocks/audio_to_video/k/kernel": f(2, 8, 8),
  }
  names = Names(fused)
  find = lambda layer: names.find(layer, "down")
  q = find("diffusion_model.video_model.blocks.1.self_attn.q")
  assert q.target == find("blocks.1.self_attn.q").target  # Wan's, of the video
  assert q.target == "blocks/video/self_attn/q/kernel[1]"
  assert find("audio_model.blocks.0.ffn.0").target == "blocks/audio/ffn/in/kernel[0]"
  k = "video_model.blocks.0.cross_attn.k_fusion"
  assert find(k).target == "blocks/audio_to_video/k/kernel[0]"
  names = Names(fused | {"blocks/audio_to_video/o/kernel": f(2, 8, 8)})
  assert find(k) is None and find("audio_model.blocks.0.ffn.0")
  assert find("blocks.0.audio_to_video.k").target == "blocks/audio_to_video/k/kernel[0]"


def test_mistakes_leave_nothing(tmp_path, known):
  src, dst = tmp_path / "x.safetensors", tmp_path / "y.safetensors"
  bad = TENSORS | {f"{Q}.lora_up.weight": np.full((WIDTH, 4), np.nan, np.float32)}
  save_file(bad, src)
  for options, said in (
    ({"form": "kohya"}, "--format kohya: expected one of ours, comfyui, diffusers"),
    ({"form": "ours", "dst": tmp_path / "folder"}, r"expected the name of a file"),
    ({"form": "comfyui"}, "lora_up.weight holds NaN"),
  ):
    options = {"dst": dst, "model": "M"} | options
    with pytest.raises(UsageError, match=said):
      lora_write.convert_lora(src, **options)
    assert list(tmp_path.iterdir()) == [src]
