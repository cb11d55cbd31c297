"""The networks of diffusers and transformers, small and with random weights.

Each maker saves its network in a folder, as its library does, and returns it. To import
this imports torch and both libraries.
"""

import math
import pathlib

import torch
from diffusers import AutoencoderKLWan, WanTransformer3DModel
from transformers import (
  CLIPVisionConfig,
  CLIPVisionModel,
  UMT5Config,
  UMT5EncoderModel,
)

from ccl_jax.models.wan_vae_layers import WAN22


def randomised(module: torch.nn.Module, seed: int = 0) -> torch.nn.Module:
  """The module with every parameter drawn anew, none of them zero or one: matrices keep
  the variance of what goes through them, scales are near one.
  """
  generator = torch.Generator().manual_seed(seed)
  with torch.no_grad():
    for name, p in module.named_parameters():
      noise = torch.randn(p.shape, generator=generator)
      kind = name.rpartition(".")[2]
      if kind in ("weight", "gamma") and p.numel() == max(p.shape):
        p.copy_(1 + 0.2 * noise)
      elif kind == "weight":
        p.copy_(noise / math.sqrt(p[0].numel()))
      else:  # biases, modulations, a class token
        p.copy_(0.2 * noise)
  return module.eval()


def wan_dit(
  folder: pathlib.Path, *, image: bool, channels: int = 16, last: bool = False
) -> WanTransformer3DModel:
  """Two blocks of two heads; in shards. With `last`, of a first and a last frame."""
  options = {"in_channels": channels, "out_channels": channels}
  if image:
    options |= {"in_channels": 36, "image_dim": 1280, "added_kv_proj_dim": 256}
  if last:
    options["pos_embed_seq_len"] = 2 * 257
  model = WanTransformer3DModel(
    num_attention_heads=2,
    attention_head_dim=128,
    text_dim=48,
    ffn_dim=320,
    num_layers=2,
    **options,
  )
  randomised(model, seed=int(image)).save_pretrained(folder, max_shard_size="4MB")
  return model


def wan_vae(folder: pathlib.Path) -> AutoencoderKLWan:
  model = randomised(AutoencoderKLWan(base_dim=4))
  with torch.no_grad():  # pixels are cut at 1: most of them shall be below
    model.decoder.conv_out.weight.mul_(0.3)
  model.save_pretrained(folder)
  return model


def wan22_vae(folder: pathlib.Path) -> AutoencoderKLWan:
  """With the settings of Wan2.2-TI2V-5B, but for the widths."""
  model = randomised(
    AutoencoderKLWan(
      base_dim=4,
      decoder_base_dim=8,
      z_dim=48,
      is_residual=True,
      in_channels=12,
      out_channels=12,
      patch_size=2,
      scale_factor_spatial=16,
      latents_mean=list(WAN22.mean),
      latents_std=list(WAN22.std),
    )
  )
  with torch.no_grad():  # pixels are cut at 1: most of them shall be below
    model.decoder.conv_out.weight.mul_(0.3)
  model.save_pretrained(folder)
  return model


def umt5(folder: pathlib.Path) -> UMT5EncoderModel:
  """Two layers, in shards."""
  config = UMT5Config(
    vocab_size=64, d_model=48, d_kv=16, d_ff=80, num_layers=2, num_heads=4
  )
  model = randomised(UMT5EncoderModel(config))
  model.save_pretrained(folder, max_shard_size="40KB")
  return model


def clip(folder: pathlib.Path) -> CLIPVisionModel:
  """Three layers, of which the last is not read."""
  config = CLIPVisionConfig(
    hidden_size=48,
    intermediate_size=96,
    num_hidden_layers=3,
    num_attention_heads=3,
    image_size=28,
    patch_size=7,
    hidden_act="gelu",
  )
  model = randomised(CLIPVisionModel(config))
  model.save_pretrained(folder)
  return model
