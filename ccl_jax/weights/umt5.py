"""UMT5's encoder, whose rows Wan2.1 reads.

  native     models_t5_umt5-xxl-enc-bf16.pth, of the release
  diffusers  text_encoder/ of its repositories (transformers' names); google/umt5-xxl

The embedding of transformers' files has two names, of which some files have one, some
the other, some both. ComfyUI's file is transformers', with the tokenizer as a tensor.
All sizes come from the tensors' shapes.
"""

import functools
import hashlib
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from ccl_jax.errors import UsageError
from ccl_jax.models.layers import EPS
from ccl_jax.models.umt5 import FARTHEST, UMT5Encoder
from ccl_jax.weights.reader import Weights
from ccl_jax.weights.rules import Row, Shapes, dense, flat_shapes, norm
from ccl_jax.weights.upstream import (
  Sizes,
  Upstream,
  layer_count,
  tensor_name,
  tensor_shape,
)

_BLOCK = r"blocks.(\d+)"
NATIVE = [
  Row("token_embedding.weight", "token_embedding"),
  *norm(f"{_BLOCK}.(norm[12])", r"blocks/\2[\1]", bias=False),
  *dense(f"{_BLOCK}.attn.([qkvo])", r"blocks/attn/\2[\1]", bias=False),
  # Unlike T5, every layer has a table of relative positions of its own.
  Row(f"{_BLOCK}.pos_embedding.embedding.weight", r"blocks/attn/position_bias[\1]"),
  *dense(f"{_BLOCK}.ffn.gate.0", r"blocks/ffn/gate[\1]", bias=False),
  *dense(f"{_BLOCK}.ffn.(fc[12])", r"blocks/ffn/\2[\1]", bias=False),
  *norm("norm", "norm", bias=False),
]

_ATTN, _FFN = (rf"encoder.block.(\d+).layer.{i}" for i in (0, 1))
_SELF, _GATED = f"{_ATTN}.SelfAttention", f"{_FFN}.DenseReluDense"
DIFFUSERS = [
  Row("shared.weight", "token_embedding"),
  *norm(f"{_ATTN}.layer_norm", r"blocks/norm1[\1]", bias=False),
  *norm(f"{_FFN}.layer_norm", r"blocks/norm2[\1]", bias=False),
  *dense(f"{_SELF}.([qkvo])", r"blocks/attn/\2[\1]", bias=False),
  Row(f"{_SELF}.relative_attention_bias.weight", r"blocks/attn/position_bias[\1]"),
  *dense(f"{_GATED}.wi_0", r"blocks/ffn/gate[\1]", bias=False),
  *dense(f"{_GATED}.wi_1", r"blocks/ffn/fc1[\1]", bias=False),
  *dense(f"{_GATED}.wo", r"blocks/ffn/fc2[\1]", bias=False),
  *norm("encoder.final_layer_norm", "norm", bias=False),
]

_EMBEDDINGS = ("shared.weight", "encoder.embed_tokens.weight")
_LAYER = r"(?:blocks|encoder\.block)\.(\d+)\."
TOKENIZERS = ("google/umt5-xxl", "tokenizer", "../tokenizer", "")  # beside the weights


def one_embedding(weights: Weights) -> Weights:
  """The weights with one embedding, under the first of its names.

  Raises:
    UsageError: there are two, which differ.
  """
  first, second = _EMBEDDINGS
  if second not in weights:
    return weights
  if first not in weights:
    return weights.renamed(lambda name: first if name == second else name)
  # Names of one storage are equal, unread; otherwise one is in memory at a time.
  if weights.place(first) != weights.place(second) and _hash(weights, first) != _hash(
    weights, second
  ):
    raise UsageError(
      f"{weights.path}: {first} and {second}, two names of the embedding, differ; "
      "expected one of them, or two that are equal"
    )
  return weights


def _hash(weights: Weights, name: str) -> tuple:
  x = weights.read(name)
  digest = hashlib.sha256(x.reshape(-1).view(np.uint8)).hexdigest()
  return x.shape, x.dtype, digest


def format_of(weights: Weights) -> str:
  """The format by the tensors' names: "native" or "diffusers".

  Raises:
    UsageError: they are another network's.
  """
  if "token_embedding.weight" in weights:
    return "native"
  if "shared.weight" in weights:
    return "diffusers"
  raise UsageError(
    f"{weights.path} is no UMT5 encoder: it has neither token_embedding.weight nor "
    f"shared.weight, but {weights.names()[0]}"
  )


def sizes_of(weights: Weights, rows: Sequence[Row], config: dict) -> Sizes:
  """The fields of `UMT5Encoder`, from the tensors' shapes.

  Raises:
    UsageError: a tensor is missing that they are read from, or heads do not divide.
  """
  shape = functools.partial(tensor_shape, weights, rows)
  vocabulary, width = shape("token_embedding", 2)
  buckets, heads = shape("blocks/attn/position_bias[0]", 2)
  attention_width = shape("blocks/attn/q/kernel[0]", 2)[0]
  if attention_width % heads:
    raise UsageError(
      f"{weights.path}: {tensor_name(rows, 'blocks/attn/position_bias[0]')} is of "
      f"{heads} heads, expected a divisor of {attention_width}, the rows of "
      f"{tensor_name(rows, 'blocks/attn/q/kernel[0]')}"
    )
  return {
    "vocabulary": vocabulary,
    "width": width,
    "attention_width": attention_width,
    "ffn": shape("blocks/ffn/gate/kernel[0]", 2)[0],
    "heads": heads,
    "depth": layer_count(weights, _LAYER),
    "buckets": buckets,
  }


def shapes_of(sizes: Sizes) -> Shapes:
  """Shapes by path of the parameters of `UMT5Encoder`, float32."""
  ids = jnp.zeros((1, 8), jnp.int32)
  init = lambda key: UMT5Encoder(**sizes).init(key, ids, ids > 0)["params"]
  return flat_shapes(jax.eval_shape(init, jax.random.key(0)))


def config_of(sizes: Sizes, form: str) -> dict:
  """The config.json that transformers reads; the original release has none."""
  if form == "native":
    return {}
  return {
    "architectures": ["UMT5EncoderModel"],
    "model_type": "umt5",
    "vocab_size": sizes["vocabulary"],
    "d_model": sizes["width"],
    "d_kv": sizes["attention_width"] // sizes["heads"],
    "d_ff": sizes["ffn"],
    "num_heads": sizes["heads"],
    "num_layers": sizes["depth"],
    "relative_attention_num_buckets": sizes["buckets"],
    "relative_attention_max_distance": FARTHEST,
    "feed_forward_proj": "gated-gelu",
    "layer_norm_epsilon": EPS,
    "is_encoder_decoder": False,
  }


UPSTREAM = Upstream(
  tables={"native": NATIVE, "diffusers": DIFFUSERS},
  format_of=format_of,
  sizes=sizes_of,
  shapes=shapes_of,
  # A second name of shared.weight; the half of the network that writes; a tokenizer.
  ignore=(
    r"encoder\.embed_tokens\.weight",
    r"decoder\..*",
    r"lm_head\.weight",
    "spiece_model",
  ),
  places=("", "text_encoder"),
  files=("models_t5*", "umt5*", "model*"),
  config=config_of,
  beside={"tokenizer.json": TOKENIZERS},
  view=one_embedding,
)
