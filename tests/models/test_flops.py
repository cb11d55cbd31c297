"""The formulas against the products of matrices in the traced program."""

import re

import pytest

from ccl_jax.models.cca import Geometry
from ccl_jax.models.flops import evaluation_flops, forward_flops
from ccl_jax.models.presets import build_model
from tests.models.operations import TEXT, operations

GEOMETRY = Geometry(t=3, h=2, w=5, a=12)  # 4 tokens of sound to a frame: no padding
# (part, modules whose products it counts), the first that fits. What is None is left
# out: it does not grow with the clip.
PARTS = [
  (None, "/time_(embedding|projection)|/image_embedding"),
  ("ends", "/(patch_embedding|head)"),
  ("texts", "/text_embedding|/cross_attn.keys/"),
  ("linear", "/self_attn/[qkvo]$|/cross_attn/[qo]$|/ffn/(in|out)$"),
  ("self_attention", "/self_attn/"),
  ("text_attention", "/cross_attn/"),
  ("cross", "_to_(audio|video)"),
]


def counted(model):
  """FLOPs by part, of the program."""
  context = set()
  d = model.streams[0][1].head_width
  if model.cross is not None:
    context = {model.cross.video_tokens, model.cross.audio_tokens}
  total = {part: 0 for part, _ in PARTS}
  for o in operations(model, GEOMETRY):
    if o.name != "dot_general":
      continue
    part = next(part for part, pattern in PARTS if re.search(pattern, o.path))
    if o.inputs[0].shape[0] in context and len(o.inputs[0].shape) == 2:
      part = None  # the keys and values of context tokens
    if o.inputs[1].shape == (d, d) and o.inputs[0].shape[-1] == d:
      part = None  # RoPE moves partners by a product (`ops.rope`), which is no work
    total[part] += o.flops
  del total[None]
  return total


@pytest.mark.parametrize(
  "options",
  [
    {"times": "uniform"},
    {"times": "uniform", "video_window": 3},
    {"video_window": 0},
    {"variant": "gate", "tarp": False},
    {"times": "uniform", "image_form": "channels"},
    {"streams": ["video"], "image_form": "channels"},
    {"streams": ["audio"]},
  ],
  ids=["joint", "frames", "causal", "gate", "image", "video", "audio"],
)
def test_it_is_what_the_program_multiplies(options):
  model = build_model("tiny", attention="dense", **options)
  got = forward_flops(model, GEOMETRY, *TEXT)
  present = {s for s, _ in model.streams}
  if len(present) == 1:
    lonely = {"video": GEOMETRY._replace(a=0), "audio": Geometry(0, 0, 0, GEOMETRY.a)}
    got = forward_flops(model, lonely[present.pop()], *TEXT)
  assert got == counted(model)


def test_a_stream_without_tokens_is_absent():
  """Of a model with both: it costs what the model of one stream does, and the context
  tokens that it reads in the other's place.
  """
  model = build_model("tiny", attention="dense")
  sound = Geometry(0, 0, 0, 12)
  got = dict(forward_flops(model, sound, *TEXT))
  # Two of q and o, and 16 context tokens, in 4 blocks of width 128.
  assert got.pop("cross") == 4 * (2 * 12 * 2 * 128**2 + 4 * 12 * 16 * 128)
  alone = build_model("tiny", attention="dense", streams=["audio"])
  expected = dict(forward_flops(alone, sound, *TEXT))
  assert expected.pop("cross") == 0 and got == expected


def test_by_hand():
  """The published size at 121 frames of 352 x 640, whose windows hold the 6 tokens of a
  latent frame, 5.2 in fact.
  """
  got = forward_flops(build_model("14b"), Geometry(31, 22, 20, 157), 512, 4096)
  n, a = 31 * 22 * 20, 157
  block = 6 * 5120**2 + 2 * 5120 * 13824, 6 * 1536**2 + 2 * 1536 * 8960
  assert got["linear"] == 40 * 2 * (n * block[0] + a * block[1])
  assert got["self_attention"] == 40 * 4 * (n * n * 5120 + a * a * 1536)
  # q and o at the reader's width, k and v from the other's; 8 context tokens and a
  # window for the video, 128 and a frame for the sound.
  into_video = 4 * n * 5120**2 + 4 * a * 1536 * 5120 + 4 * n * (8 + 6) * 5120
  into_audio = 4 * a * 1536**2 + 4 * n * 5120 * 1536 + 4 * a * (128 + 440) * 1536
  assert got["cross"] == 40 * (into_video + into_audio)
  # k and v of 512 rows, and their embedding.
  texts = lambda d: 40 * 4 * 512 * d**2 + 2 * 512 * (4096 + d) * d
  assert got["texts"] == texts(5120) + texts(1536)
  evaluation = evaluation_flops(
    build_model("14b"), Geometry(31, 22, 20, 157), 512, 4096
  )
  assert evaluation == sum(got.values()) - got["texts"]
