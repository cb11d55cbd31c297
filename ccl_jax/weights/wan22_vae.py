"""Wan2.2's video VAE, which TI2V-5B and Ovi have: its tensors by either name.

  native     the original release, Wan2.2_VAE.pth
  diffusers  Wan-AI/Wan2.2-TI2V-5B-Diffusers, in vae/

It has the layers of Wan2.1's, in nested levels; the shortcuts have no parameters.
"""

from ccl_jax.models.wan_vae_layers import WAN22
from ccl_jax.weights.wan_vae import DIFFUSERS_NAMES, NATIVE_NAMES, make_upstream, table

# Four levels of two blocks, with a resampling after each but the last: 11 layers.
_DOWN = [(i, j) for i in range(4) for j in range(3)][:11]
# Four levels of three blocks, with a resampling after each but the last: 15.
_UP = [(i, j) for i in range(4) for j in range(4)][:15]

NATIVE = table(
  NATIVE_NAMES._replace(
    down=[f"downsamples.{i}.downsamples.{j}" for i, j in _DOWN],
    up=[f"upsamples.{i}.upsamples.{j}" for i, j in _UP],
  )
)
_DOWN_PARTS = ["resnets.0", "resnets.1", "downsampler"]
_UP_PARTS = ["resnets.0", "resnets.1", "resnets.2", "upsampler"]
DIFFUSERS = table(
  DIFFUSERS_NAMES._replace(
    down=[f"down_blocks.{i}.{_DOWN_PARTS[j]}" for i, j in _DOWN],
    up=[f"up_blocks.{i}.{_UP_PARTS[j]}" for i, j in _UP],
  )
)

UPSTREAM = make_upstream(
  WAN22,
  NATIVE,
  DIFFUSERS,
  ("Wan2.2_VAE*", "vae.safetensors", "diffusion_pytorch_model*"),
  {
    "is_residual": True,
    "in_channels": 12,  # of three colours, folded
    "out_channels": 12,
    "patch_size": WAN22.fold,
    "scale_factor_temporal": WAN22.stride[0],
    "scale_factor_spatial": WAN22.stride[1],
  },
)
