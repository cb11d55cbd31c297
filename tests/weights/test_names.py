"""Published names and the parameters they are, written out by hand, both directions.

Names that could be mistaken for each other, of equal shapes: no shape would tell.
"""

import csv
import pathlib

import jax
import numpy as np
import pytest

from ccl_jax.errors import UsageError
from ccl_jax.weights import vggish
from ccl_jax.weights.entries import Entry
from ccl_jax.weights.reader import Weights
from ccl_jax.weights.rules import Row
from ccl_jax.weights.upstream import LICENCES, MODULES, get_upstream, tensor_shape
from ccl_jax.weights.wan import NEGATIVE, NEGATIVE_IMAGE, negative_prompt

# Of Wan2.1: every tensor of the original release, of its block 0.
WAN = {
  "patch_embedding": "video/patch_embedding",
  "text_embedding.0": "video/text_embedding/in",
  "text_embedding.2": "video/text_embedding/out",
  "time_embedding.0": "video/time_embedding/in",
  "time_embedding.2": "video/time_embedding/out",
  "time_projection.1": "video/time_projection",
  "blocks.0.self_attn.q": "blocks/video/self_attn/q[0]",
  "blocks.0.self_attn.k": "blocks/video/self_attn/k[0]",
  "blocks.0.self_attn.v": "blocks/video/self_attn/v[0]",
  "blocks.0.self_attn.o": "blocks/video/self_attn/o[0]",
  "blocks.0.cross_attn.q": "blocks/video/cross_attn/q[0]",
  "blocks.0.cross_attn.k": "blocks/video/cross_attn/k[0]",
  "blocks.0.cross_attn.v": "blocks/video/cross_attn/v[0]",
  "blocks.0.cross_attn.o": "blocks/video/cross_attn/o[0]",
  "blocks.0.cross_attn.k_img": "blocks/video/cross_attn/k_img[0]",
  "blocks.0.cross_attn.v_img": "blocks/video/cross_attn/v_img[0]",
  "blocks.0.ffn.0": "blocks/video/ffn/in[0]",
  "blocks.0.ffn.2": "blocks/video/ffn/out[0]",
  "img_emb.proj.1": "video/image_embedding/in",
  "img_emb.proj.3": "video/image_embedding/out",
  "head.head": "video/head",
}
WAN_NORMS = {
  "blocks.0.self_attn.norm_q": "blocks/video/self_attn/norm_q[0]",
  "blocks.0.self_attn.norm_k": "blocks/video/self_attn/norm_k[0]",
  "blocks.0.cross_attn.norm_q": "blocks/video/cross_attn/norm_q[0]",
  "blocks.0.cross_attn.norm_k": "blocks/video/cross_attn/norm_k[0]",
  "blocks.0.cross_attn.norm_k_img": "blocks/video/cross_attn/norm_k_img[0]",
  "blocks.0.norm3": "blocks/video/norm3[0]",
  "img_emb.proj.0": "video/image_norm_in",
  "img_emb.proj.4": "video/image_norm_out",
}
WAN_TABLES = {
  "blocks.0.modulation": "blocks/video/modulation[0]",
  "head.modulation": "video/head_modulation",
}


def leaf(path, name):
  """The path "a/b[0]" with its leaf, "a/b/name[0]"."""
  path, bracket, slot = path.partition("[")
  return f"{path}/{name}{bracket}{slot}"


def of_layers(kernels, norms=(), weights="kernel"):
  """{tensor: parameter} of layers with a weight and a bias."""
  out = {}
  for layers, name in ((kernels, weights), (dict(norms), "scale")):
    for source, target in layers.items():
      out[f"{source}.weight"] = leaf(target, name)
      out[f"{source}.bias"] = leaf(target, "bias")
  return out


def both_ways(kind, form, pairs):
  """Each name has one parameter, that parameter this one name."""
  rows = get_upstream(kind).tables[form]
  for source, target in pairs.items():
    reached = [x for row in rows if (x := row.forward(source))]
    assert reached == [target], (source, reached)
    back = [x for row in rows if (x := row.backward(target))]
    assert back == [source], (target, back)


@pytest.mark.shared
def test_every_tensor_of_wan(shared):
  """Names by the list of the reference's; parameters by hand."""
  ours = of_layers(WAN, WAN_NORMS) | WAN_TABLES
  with open(shared / "design" / "wan_keys.tsv") as file:
    published = {
      row[1]: row[2] for row in csv.reader(file, delimiter="\t") if "i2v" in row[0]
    }
  assert len(published) == 55
  both_ways("wan-dit", "native", {name: ours[name] for name in published})
  theirs = {diffusers: ours[native] for native, diffusers in published.items()}
  both_ways("wan-dit", "diffusers", theirs)


VAE = {
  "encoder.conv1": "encoder/first",
  "encoder.downsamples.4.residual.2": "encoder/down_4/conv1",
  "encoder.downsamples.4.residual.6": "encoder/down_4/conv2",
  "encoder.downsamples.3.shortcut": "encoder/down_3/shortcut",
  "encoder.downsamples.5.resample.1": "encoder/down_5/in_space",
  "encoder.downsamples.5.time_conv": "encoder/down_5/in_time",
  "encoder.middle.0.residual.2": "encoder/middle_0/conv1",
  "encoder.middle.1.to_qkv": "encoder/middle_1/qkv",
  "encoder.middle.1.proj": "encoder/middle_1/out",
  "encoder.middle.2.residual.6": "encoder/middle_2/conv2",
  "encoder.head.2": "encoder/last",
  "conv1": "encoder/moments",
  "conv2": "decoder/latent",
  "decoder.conv1": "decoder/first",
  "decoder.upsamples.14.residual.6": "decoder/up_14/conv2",
  "decoder.upsamples.7.time_conv": "decoder/up_7/in_time",
}
VAE_DIFFUSERS = {
  "encoder.conv_in": "encoder/first",
  "encoder.down_blocks.4.conv1": "encoder/down_4/conv1",
  "encoder.down_blocks.5.resample.1": "encoder/down_5/in_space",
  "encoder.mid_block.resnets.0.conv2": "encoder/middle_0/conv2",
  "encoder.mid_block.resnets.1.conv1": "encoder/middle_2/conv1",
  "encoder.mid_block.attentions.0.proj": "encoder/middle_1/out",
  "quant_conv": "encoder/moments",
  "post_quant_conv": "decoder/latent",
  "decoder.up_blocks.0.resnets.2.conv1": "decoder/up_2/conv1",
  "decoder.up_blocks.1.upsamplers.0.time_conv": "decoder/up_7/in_time",
  "decoder.up_blocks.3.resnets.2.conv2": "decoder/up_14/conv2",
}
VAE_NORMS = {
  "encoder.downsamples.4.residual.0": "encoder/down_4/norm1",
  "encoder.downsamples.4.residual.3": "encoder/down_4/norm2",
  "encoder.middle.1.norm": "encoder/middle_1/norm",
  "decoder.head.0": "decoder/norm",
}


def test_wans_vae():
  gammas = {f"{k}.gamma": f"{v}/scale" for k, v in VAE_NORMS.items()}
  both_ways("wan-vae", "native", of_layers(VAE) | gammas)
  theirs = {
    "encoder.down_blocks.4.norm1.gamma": "encoder/down_4/norm1/scale",
    "encoder.down_blocks.4.norm2.gamma": "encoder/down_4/norm2/scale",
    "encoder.mid_block.attentions.0.norm.gamma": "encoder/middle_1/norm/scale",
    "decoder.norm_out.gamma": "decoder/norm/scale",
  }
  both_ways("wan-vae", "diffusers", of_layers(VAE_DIFFUSERS) | theirs)


VAE22 = {
  "encoder.downsamples.0.downsamples.2.resample.1": "encoder/down_2/in_space",
  "encoder.downsamples.2.downsamples.2.time_conv": "encoder/down_8/in_time",
  "encoder.downsamples.3.downsamples.1.residual.6": "encoder/down_10/conv2",
  "encoder.middle.1.to_qkv": "encoder/middle_1/qkv",
  "conv1": "encoder/moments",
  "conv2": "decoder/latent",
  "decoder.upsamples.2.upsamples.0.shortcut": "decoder/up_8/shortcut",
  "decoder.upsamples.1.upsamples.3.time_conv": "decoder/up_7/in_time",
  "decoder.upsamples.3.upsamples.2.residual.2": "decoder/up_14/conv1",
}
VAE22_DIFFUSERS = {
  "encoder.down_blocks.0.downsampler.resample.1": "encoder/down_2/in_space",
  "encoder.down_blocks.2.downsampler.time_conv": "encoder/down_8/in_time",
  "encoder.down_blocks.3.resnets.1.conv2": "encoder/down_10/conv2",
  "encoder.mid_block.resnets.1.conv1": "encoder/middle_2/conv1",
  "quant_conv": "encoder/moments",
  "post_quant_conv": "decoder/latent",
  "decoder.up_blocks.2.resnets.0.conv_shortcut": "decoder/up_8/shortcut",
  "decoder.up_blocks.1.upsampler.time_conv": "decoder/up_7/in_time",
  "decoder.up_blocks.3.resnets.2.conv1": "decoder/up_14/conv1",
}


def test_the_vae_of_wan22():
  both_ways("wan22-vae", "native", of_layers(VAE22))
  both_ways("wan22-vae", "diffusers", of_layers(VAE22_DIFFUSERS))


def test_umt5():
  kernel = lambda pairs: {f"{k}.weight": leaf(v, "kernel") for k, v in pairs.items()}
  scale = lambda pairs: {f"{k}.weight": leaf(v, "scale") for k, v in pairs.items()}
  native = {f"blocks.3.attn.{x}": f"blocks/attn/{x}[3]" for x in "qkvo"}
  native |= {
    "blocks.3.ffn.gate.0": "blocks/ffn/gate[3]",
    "blocks.3.ffn.fc1": "blocks/ffn/fc1[3]",
    "blocks.3.ffn.fc2": "blocks/ffn/fc2[3]",
  }
  norms = {
    "blocks.3.norm1": "blocks/norm1[3]",
    "blocks.3.norm2": "blocks/norm2[3]",
    "norm": "norm",
  }
  tables = {
    "token_embedding.weight": "token_embedding",
    "blocks.3.pos_embedding.embedding.weight": "blocks/attn/position_bias[3]",
  }
  both_ways("umt5", "native", kernel(native) | scale(norms) | tables)
  block = "encoder.block.3.layer"
  theirs = {f"{block}.0.SelfAttention.{x}": f"blocks/attn/{x}[3]" for x in "qkvo"}
  theirs |= {  # gelu(wi_0 x) * wi_1 x
    f"{block}.1.DenseReluDense.wi_0": "blocks/ffn/gate[3]",
    f"{block}.1.DenseReluDense.wi_1": "blocks/ffn/fc1[3]",
    f"{block}.1.DenseReluDense.wo": "blocks/ffn/fc2[3]",
  }
  norms = {
    f"{block}.0.layer_norm": "blocks/norm1[3]",
    f"{block}.1.layer_norm": "blocks/norm2[3]",
    "encoder.final_layer_norm": "norm",
  }
  bias = f"{block}.0.SelfAttention.relative_attention_bias.weight"
  tables = {"shared.weight": "token_embedding", bias: "blocks/attn/position_bias[3]"}
  both_ways("umt5", "diffusers", kernel(theirs) | scale(norms) | tables)


def test_clip():
  block = "visual.transformer.5"
  layers = {
    f"{block}.attn.to_qkv": "blocks/attn/qkv[5]",
    f"{block}.attn.proj": "blocks/attn/proj[5]",
    f"{block}.mlp.0": "blocks/mlp/in[5]",
    f"{block}.mlp.2": "blocks/mlp/out[5]",
  }
  norms = {
    f"{block}.norm1": "blocks/norm1[5]",
    f"{block}.norm2": "blocks/norm2[5]",
    "visual.pre_norm": "pre_norm",
  }
  both_ways("clip", "native", of_layers(layers, norms))
  for form, prefix in (("diffusers", "vision_model."), ("transformers", "")):
    block = f"{prefix}encoder.layers.5"
    layers = {
      f"{block}.self_attn.q_proj": "blocks/attn/qkv[5,0]",
      f"{block}.self_attn.k_proj": "blocks/attn/qkv[5,1]",
      f"{block}.self_attn.v_proj": "blocks/attn/qkv[5,2]",
      f"{block}.self_attn.out_proj": "blocks/attn/proj[5]",
      f"{block}.mlp.fc1": "blocks/mlp/in[5]",
      f"{block}.mlp.fc2": "blocks/mlp/out[5]",
    }
    norms = {
      f"{block}.layer_norm1": "blocks/norm1[5]",
      f"{block}.layer_norm2": "blocks/norm2[5]",
      f"{prefix}pre_layrnorm": "pre_norm",
    }
    both_ways("clip", form, of_layers(layers, norms))


def test_synchformer():
  video, audio = "vfeat_extractor", "afeat_extractor.ast"
  layers = {
    f"{video}.blocks.2.timeattn.qkv": "video/blocks/time/qkv[2]",
    f"{video}.blocks.2.timeattn.proj": "video/blocks/time/proj[2]",
    f"{video}.blocks.2.attn.qkv": "video/blocks/space/qkv[2]",
    f"{video}.blocks.2.attn.proj": "video/blocks/space/proj[2]",
    f"{video}.blocks.2.mlp.fc1": "video/blocks/mlp/in[2]",
    f"{video}.blocks.2.mlp.fc2": "video/blocks/mlp/out[2]",
    f"{audio}.encoder.layer.2.attention.attention.query": "audio/blocks/attn/query[2]",
    f"{audio}.encoder.layer.2.attention.attention.value": "audio/blocks/attn/value[2]",
    f"{audio}.encoder.layer.2.attention.output.dense": "audio/blocks/attn/proj[2]",
    f"{audio}.encoder.layer.2.intermediate.dense": "audio/blocks/mlp/in[2]",
    f"{audio}.encoder.layer.2.output.dense": "audio/blocks/mlp/out[2]",
    "vproj": "joint/video",
    "aproj": "joint/audio",
    "transformer.blocks.1.attn.key": "joint/blocks/attn/key[1]",
    "transformer.blocks.1.mlp.0": "joint/blocks/mlp/in[1]",
    "transformer.blocks.1.mlp.2": "joint/blocks/mlp/out[1]",
    "transformer.off_head": "joint/logits",
    f"{video}.spatial_attn_agg.linear1": "video/pool/block/mlp/in",
    "afeat_extractor.freq_attn_agg.linear2": "audio/pool/block/mlp/out",
  }
  norms = {f"{video}.blocks.2.norm{i}": f"video/blocks/norm{i}[2]" for i in (1, 2, 3)}
  norms |= {
    f"{audio}.encoder.layer.2.layernorm_before": "audio/blocks/norm1[2]",
    f"{audio}.encoder.layer.2.layernorm_after": "audio/blocks/norm2[2]",
    "transformer.vis_in_lnorm": "joint/video_norm",
    "transformer.aud_in_lnorm": "joint/audio_norm",
    "transformer.blocks.1.ln1": "joint/blocks/norm1[1]",
    "transformer.blocks.1.ln2": "joint/blocks/norm2[1]",
    "transformer.ln_f": "joint/norm",
    f"{video}.spatial_attn_agg.norm2": "video/pool/block/norm2",
  }
  tokens = {
    f"{audio}.embeddings.cls_token": "audio/class_token",
    f"{audio}.embeddings.distillation_token": "audio/distillation_token",
    "transformer.OFF_tok": "joint/off_token",
    "transformer.MOD_tok": "joint/mod_token",
    f"{video}.pos_embed": "video/place_embedding",
    f"{video}.temp_embed": "video/time_embedding",
  }
  both_ways("synchformer", "native", of_layers(layers, norms) | tokens)


def test_imagebind():
  pairs, layers, norms = {}, {}, {}
  for name in ("vision", "audio"):
    block, ours = f"modality_trunks.{name}.blocks.3", f"{name}/tower/blocks"
    layers |= {
      f"{block}.attn.out_proj": f"{ours}/attn/proj[3]",
      f"{block}.mlp.fc1": f"{ours}/mlp/in[3]",
      f"{block}.mlp.fc2": f"{ours}/mlp/out[3]",
    }
    norms |= {f"{block}.norm_{i}": f"{ours}/norm{i}[3]" for i in (1, 2)}
    norms[f"modality_heads.{name}.0"] = f"{name}/tower/norm"
    pairs |= {
      f"{block}.attn.in_proj_weight": f"{ours}/attn/qkv/kernel[3]",
      f"{block}.attn.in_proj_bias": f"{ours}/attn/qkv/bias[3]",
      f"modality_heads.{name}.2.weight": f"{name}/tower/head/kernel",
    }
  sink = "modality_trunks.audio.blocks.3.attn.bias_"
  pairs |= {
    f"{sink}k": "audio/tower/blocks/attn/sink_key[3]",
    f"{sink}v": "audio/tower/blocks/attn/sink_value[3]",
    "modality_postprocessors.audio.1.log_logit_scale": "audio/log_scale",
  }
  norms |= {
    "modality_trunks.vision.pre_transformer_layer.0": "vision/tower/first_norm",
    "modality_preprocessors.audio.rgbt_stem.norm_layer": "audio/patch_norm",
  }
  both_ways("imagebind", "native", of_layers(layers, norms) | pairs)


def batch_norm(source, target):
  return {
    f"{source}.weight": f"{target}/scale",
    f"{source}.bias": f"{target}/bias",
    f"{source}.running_mean": f"{target}/mean",
    f"{source}.running_var": f"{target}/var",
  }


def test_i3d_and_vggish():
  unit = batch_norm("Mixed_4f.b1b.bn", "Mixed_4f/b1b")
  unit |= batch_norm("Conv3d_2b_1x1.bn", "Conv3d_2b_1x1")
  unit |= {
    "Mixed_4f.b1b.conv3d.weight": "Mixed_4f/b1b/kernel",
    "logits.conv3d.weight": "logits/kernel",
    "logits.conv3d.bias": "logits/bias",
  }
  both_ways("i3d", "native", unit)
  layers = {f"features.{n}": f"conv_{i}" for i, n in enumerate((0, 3, 6, 8, 11, 13))}
  layers |= {f"embeddings.{2 * i}": f"dense_{i}" for i in range(3)}
  both_ways("vggish", "native", of_layers(layers))


def test_syncnet():
  convs, norms = (0, 4, 8, 11, 14, 18), (1, 5, 9, 12, 15, 19)
  layers, pairs = {}, {}
  for theirs, ours in (("lip", "lips"), ("aud", "sound")):
    for i in range(6):
      layers[f"netcnn{theirs}.{convs[i]}"] = f"{ours}/conv_{i}"
      pairs |= batch_norm(f"netcnn{theirs}.{norms[i]}", f"{ours}/norm_{i}")
    layers |= {
      f"netfc{theirs}.0": f"{ours}/hidden",
      f"netfc{theirs}.3": f"{ours}/out",
    }
    pairs |= batch_norm(f"netfc{theirs}.1", f"{ours}/hidden_norm")
  both_ways("syncnet", "native", of_layers(layers) | pairs)


def test_s3fd():
  """VGG's places with its pools and rectifiers counted; the four extra layers."""
  layers = {
    "vgg.0": "conv1_1", "vgg.2": "conv1_2", "vgg.5": "conv2_1", "vgg.10": "conv3_1",
    "vgg.12": "conv3_2", "vgg.14": "conv3_3", "vgg.19": "conv4_2", "vgg.21": "conv4_3",
    "vgg.28": "conv5_3", "vgg.31": "fc6", "vgg.33": "fc7", "extras.0": "conv6_1",
    "extras.3": "conv7_2", "loc.4": "loc_4", "conf.4": "conf_4",
  }  # fmt: skip
  scales = {f"L2Norm{i}_3.weight": f"norm{i}/scale" for i in (3, 4, 5)}
  both_ways("s3fd", "native", of_layers(layers) | scales)


def test_aesthetics():
  layer = "wavlm_model.encoder.layers.7"
  layers = {f"{layer}.self_attn.{x}_proj": f"wavlm/layers/attn/{x}[7]" for x in "qkv"}
  layers |= {
    f"{layer}.self_attn.out_proj": "wavlm/layers/attn/out[7]",
    f"{layer}.self_attn.grep_linear": "wavlm/layers/attn/gate[7]",
    f"{layer}.fc1": "wavlm/layers/fc1[7]",
    f"{layer}.fc2": "wavlm/layers/fc2[7]",
    "wavlm_model.post_extract_proj": "wavlm/project",
  }
  norms = {
    f"{layer}.self_attn_layer_norm": "wavlm/layers/norm_1[7]",
    f"{layer}.final_layer_norm": "wavlm/layers/norm_2[7]",
    "wavlm_model.layer_norm": "wavlm/norm",
    "wavlm_model.encoder.layer_norm": "wavlm/encoder_norm",
  }
  pairs = of_layers(layers, norms) | {
    f"{layer}.self_attn.grep_a": "wavlm/layers/attn/gate_scale[7]",
    "wavlm_model.encoder.pos_conv.0.weight_v": "wavlm/position/v",
    "wavlm_model.encoder.pos_conv.0.weight_g": "wavlm/position/g",
    "layer_weights.CE": "layers_CE",
    "layer_weights.PQ": "layers_PQ",
  }
  both_ways("aesthetics", "native", pairs)
  both_ways("aesthetics", "checkpoint", {f"model.{k}": v for k, v in pairs.items()})
  rows = get_upstream("aesthetics").tables["native"]
  for target in ("head_PC/dense_2/kernel", "head_PC/norm_2/scale"):
    assert {row.backward(target) for row in rows} - {None} == {"proj_layer.PC.2.weight"}


def test_mmaudios_vae_and_bigvgan():
  pairs = {
    "encoder.mid.block_1.conv2.weight": "encoder/middle_0/conv2/weight",
    "decoder.mid.block_2.conv1.weight": "decoder/middle_2/conv1/weight",
    "encoder.mid.attn_1.proj_out.weight": "encoder/middle_1/out/weight",
    "encoder.down.1.block.0.nin_shortcut.weight": "encoder/down_1_0/shortcut/weight",
    "decoder.up.2.block.1.conv2.weight": "decoder/up_2_1/conv2/weight",
    "encoder.down.0.downsample.conv1.weight": "encoder/downsample/conv1/weight",
    "encoder.down.0.downsample.conv2.weight": "encoder/downsample/conv2/weight",
    "decoder.learnable_gain": "decoder/gain",
    "data_mean": "data_mean",
    "data_std": "data_std",
  }
  both_ways("audio-vae", "native", pairs)
  layers = {
    "conv_pre": "first",
    "conv_post": "last",
    "ups.3.0": "up_3",
    "resblocks.7.convs1.2": "block_7/conv1_2",
    "resblocks.7.convs2.1": "block_7/conv2_1",
  }
  snakes = {
    "resblocks.7.activations.5.act.alpha": "block_7/snake_5/alpha",
    "resblocks.7.activations.5.act.beta": "block_7/snake_5/beta",
    "activation_post.act.beta": "snake/beta",
  }
  both_ways("vocoder", "native", of_layers(layers) | snakes)


def test_kinds_are_known_and_narrow_licences_told():
  assert set(MODULES) == {
    "wan-dit", "ovi-dit", "wan-vae", "wan22-vae", "umt5", "clip", "aesthetics", "i3d",
    "vggish", "syncnet", "s3fd", "synchformer", "imagebind", "audio-vae", "vocoder",
  }  # fmt: skip
  assert set(LICENCES) == {"audio-vae", "imagebind", "vocoder"}
  with pytest.raises(UsageError, match="unknown kind 'x'; expected one of wan-dit"):
    get_upstream("x")


def test_a_network_is_traced_once_for_its_sizes(monkeypatch):
  told = []
  vector = lambda n: {"x": jax.ShapeDtypeStruct((n,), np.float32)}

  def shapes(sizes):
    told.append(sizes["n"])
    return vector(sizes["n"])

  upstream = vggish.UPSTREAM._replace(shapes=shapes)
  monkeypatch.setattr(vggish, "UPSTREAM", upstream)
  of = get_upstream.__wrapped__("vggish").shapes
  assert [of({"n": n}) for n in (1, 2, 1)] == [vector(n) for n in (1, 2, 1)]
  assert told == [1, 2]
  of({"n": 1}).clear()  # whoever changes what it was given changes nobody's
  assert of({"n": 1}) == vector(1)


def test_negative_prompts_are_the_releases():
  """For image-to-video a shaking camera comes first."""
  assert negative_prompt({"image_tokens": False}) == NEGATIVE
  assert negative_prompt({"image_tokens": True}) == "镜头晃动，" + NEGATIVE
  last = {"image_tokens": True, "image_positions": 514}
  assert negative_prompt(last) == "镜头切换，镜头晃动，" + NEGATIVE
  assert NEGATIVE_IMAGE == "镜头晃动，"
  assert NEGATIVE.startswith("色调艳丽，过曝，静态，") and NEGATIVE.endswith("，倒着走")
  assert len(NEGATIVE.split("，")) == 28


def test_a_size_is_of_so_many_axes_and_none_is_empty():
  path = pathlib.Path("x")
  entry = lambda *shape: Entry(path, 0, np.dtype(np.float32), shape)
  weights = Weights(path, {"a": entry(3, 4), "b": entry(3, 0), "c": entry()})
  rows = [Row(n, n) for n in "abcd"]
  assert tensor_shape(weights, rows, "a", 2) == (3, 4)
  for name, axes, what in (
    ("a", 1, "expected 1 axis,"), ("b", 2, "none of them empty"),
    ("c", 1, "expected 1 axis,"), ("a", 3, "expected 3 axes"),
    ("d", 2, "no tensor d, which every model"),
  ):  # fmt: skip
    with pytest.raises(UsageError, match=what):
      tensor_shape(weights, rows, name, axes)
  assert tensor_shape(weights, rows, "c", 0) == ()
