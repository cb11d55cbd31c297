"""The names of Wan2.1's tensors, and which of our video stream's parameters they are.

  native     the original release, Wan-AI/Wan2.1-*; ComfyUI's single files
  diffusers  Wan-AI/Wan2.1-*-Diffusers, in transformer/

Their norm2 and norm3 have changed places: what the original calls norm3, the affine one
before cross-attention, diffusers calls norm2.
"""

from collections.abc import Sequence

from ccl_jax.weights.rules import Row, dense, norm, patch_linear, squeeze

PATCH = (1, 2, 2)

_PATCHES = dense("patch_embedding", "video/patch_embedding", kernel=patch_linear(PATCH))
_BLOCK, _OURS = r"blocks.(\d+)", "blocks/video"


def native(
  stream: str = "video",
  prefix: str = "",
  patches: Sequence[Row] = _PATCHES,
  modulation: str = "modulation",
) -> list[Row]:
  """The original's rows of a stream.

  Args:
    stream: whose parameters they are.
    prefix: before every name but those of `patches`.
    patches: of the patch embedding.
    modulation: the name of a block's modulation.
  """
  block, ours, own = rf"{prefix}blocks.(\d+)", f"blocks/{stream}", f"{stream}/"
  return [
    *patches,
    *dense(f"{prefix}text_embedding.0", f"{own}text_embedding/in"),
    *dense(f"{prefix}text_embedding.2", f"{own}text_embedding/out"),
    *dense(f"{prefix}time_embedding.0", f"{own}time_embedding/in"),
    *dense(f"{prefix}time_embedding.2", f"{own}time_embedding/out"),
    *dense(f"{prefix}time_projection.1", f"{own}time_projection"),
    Row(f"{prefix}img_emb.emb_pos", f"{own}image_positions", squeeze),
    *norm(f"{prefix}img_emb.proj.0", f"{own}image_norm_in"),
    *dense(f"{prefix}img_emb.proj.1", f"{own}image_embedding/in"),
    *dense(f"{prefix}img_emb.proj.3", f"{own}image_embedding/out"),
    *norm(f"{prefix}img_emb.proj.4", f"{own}image_norm_out"),
    Row(f"{block}.{modulation}", rf"{ours}/modulation[\1]", squeeze),
    *dense(rf"{block}.(self_attn|cross_attn).([qkvo]|[kv]_img)", rf"{ours}/\2/\3[\1]"),
    *norm(
      rf"{block}.(self_attn|cross_attn).(norm_[qk]|norm_k_img)",
      rf"{ours}/\2/\3[\1]",
      bias=False,
    ),
    # norm1 and norm2 are plain: they have no parameters.
    *norm(f"{block}.norm3", rf"{ours}/norm3[\1]"),
    *dense(f"{block}.ffn.0", rf"{ours}/ffn/in[\1]"),
    *dense(f"{block}.ffn.2", rf"{ours}/ffn/out[\1]"),
    *dense(f"{prefix}head.head", f"{own}head"),
    Row(f"{prefix}head.modulation", f"{own}head_modulation", squeeze),
  ]


NATIVE = native()


def _diffusers_attention(theirs: str, ours: str) -> list[Row]:
  block, ours = f"{_BLOCK}.{theirs}", f"{_OURS}/{ours}"
  return [
    *dense(rf"{block}.to_([qkv])", rf"{ours}/\2[\1]"),
    *dense(rf"{block}.to_out.0", rf"{ours}/o[\1]"),
    *norm(rf"{block}.norm_([qk])", rf"{ours}/norm_\2[\1]", bias=False),
  ]


_CONDITION = "condition_embedder"
_IMAGE = f"{_CONDITION}.image_embedder"
DIFFUSERS = [
  *_PATCHES,
  *dense(f"{_CONDITION}.text_embedder.linear_1", "video/text_embedding/in"),
  *dense(f"{_CONDITION}.text_embedder.linear_2", "video/text_embedding/out"),
  *dense(f"{_CONDITION}.time_embedder.linear_1", "video/time_embedding/in"),
  *dense(f"{_CONDITION}.time_embedder.linear_2", "video/time_embedding/out"),
  *dense(f"{_CONDITION}.time_proj", "video/time_projection"),
  Row(f"{_IMAGE}.pos_embed", "video/image_positions", squeeze),
  *norm(f"{_IMAGE}.norm1", "video/image_norm_in"),
  *dense(f"{_IMAGE}.ff.net.0.proj", "video/image_embedding/in"),
  *dense(f"{_IMAGE}.ff.net.2", "video/image_embedding/out"),
  *norm(f"{_IMAGE}.norm2", "video/image_norm_out"),
  Row(f"{_BLOCK}.scale_shift_table", rf"{_OURS}/modulation[\1]", squeeze),
  *_diffusers_attention("attn1", "self_attn"),
  *_diffusers_attention("attn2", "cross_attn"),
  *dense(rf"{_BLOCK}.attn2.add_([kv])_proj", rf"{_OURS}/cross_attn/\2_img[\1]"),
  *norm(
    f"{_BLOCK}.attn2.norm_added_k", rf"{_OURS}/cross_attn/norm_k_img[\1]", bias=False
  ),
  # The original's norm3 (see above).
  *norm(f"{_BLOCK}.norm2", rf"{_OURS}/norm3[\1]"),
  *dense(f"{_BLOCK}.ffn.net.0.proj", rf"{_OURS}/ffn/in[\1]"),
  *dense(f"{_BLOCK}.ffn.net.2", rf"{_OURS}/ffn/out[\1]"),
  *dense("proj_out", "video/head"),
  Row("scale_shift_table", "video/head_modulation", squeeze),
]
