"""The names of Wan2.1's tensors, and which of our video stream's parameters they are.

  native     the original release, Wan-AI/Wan2.1-*; ComfyUI's single files
  diffusers  Wan-AI/Wan2.1-*-Diffusers, in transformer/

Their norm2 and norm3 have changed places: what the original calls norm3, the affine one
before cross-attention, diffusers calls norm2.
"""

from ccl_jax.weights.rules import Row, dense, norm, patch_linear, squeeze

PATCH = (1, 2, 2)

_PATCHES = dense("patch_embedding", "video/patch_embedding", kernel=patch_linear(PATCH))
_BLOCK, _OURS = r"blocks.(\d+)", "blocks/video"

NATIVE = [
  *_PATCHES,
  *dense("text_embedding.0", "video/text_embedding/in"),
  *dense("text_embedding.2", "video/text_embedding/out"),
  *dense("time_embedding.0", "video/time_embedding/in"),
  *dense("time_embedding.2", "video/time_embedding/out"),
  *dense("time_projection.1", "video/time_projection"),
  *norm("img_emb.proj.0", "video/image_norm_in"),
  *dense("img_emb.proj.1", "video/image_embedding/in"),
  *dense("img_emb.proj.3", "video/image_embedding/out"),
  *norm("img_emb.proj.4", "video/image_norm_out"),
  Row(f"{_BLOCK}.modulation", rf"{_OURS}/modulation[\1]", squeeze),
  *dense(rf"{_BLOCK}.(self_attn|cross_attn).([qkvo]|[kv]_img)", rf"{_OURS}/\2/\3[\1]"),
  *norm(
    rf"{_BLOCK}.(self_attn|cross_attn).(norm_[qk]|norm_k_img)",
    rf"{_OURS}/\2/\3[\1]",
    bias=False,
  ),
  # norm1 and norm2 are plain: they have no parameters.
  *norm(f"{_BLOCK}.norm3", rf"{_OURS}/norm3[\1]"),
  *dense(f"{_BLOCK}.ffn.0", rf"{_OURS}/ffn/in[\1]"),
  *dense(f"{_BLOCK}.ffn.2", rf"{_OURS}/ffn/out[\1]"),
  *dense("head.head", "video/head"),
  Row("head.modulation", "video/head_modulation", squeeze),
]


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
