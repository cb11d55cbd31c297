"""Which module and pass an operation belongs to, by paths as JAX writes them."""

import pytest

from ccl_jax.planning.modules import Place, module_of, pass_of, place_of
from ccl_jax.planning.program import Program

FORWARD = "jit(step)/jvp(JointDiT)/while/body/closed_call/"
BACKWARD = "jit(step)/transpose(jvp(JointDiT))/while/body/closed_call/checkpoint/"
AGAIN = BACKWARD + "rematted_computation/"


@pytest.mark.parametrize(
  ("path", "module"),
  [
    ("blocks/video.attend/self_attn/q/dot_general", "self-attention"),
    ("blocks/video.attend/self_attn/norm_q/mul", "self-attention"),
    ("blocks/video.read/cross_attn/shard_map/mul", "text attention"),
    ("blocks/video.feed/ffn.shared_forward_fn/jvp(ffn.<lambda>)/ffn/in/mul", "FFN"),
    ("blocks/audio_to_video/audio_to_video._by_frame/gather", "audio to video"),
    ("blocks/audio_to_video.keys/ln_kv/sub", "audio to video"),
    ("blocks/video_to_audio/shard_map/sub", "video to audio"),
    ("blocks/audio.attend/self_attn/q/dot_general", "audio stream"),
    ("blocks/audio.feed/ffn/out/dot_general", "audio stream"),
    ("blocks/video.attend/norm1/sub", "norms, modulation"),
    ("blocks/video.feed/mul", "norms, modulation"),
    ("blocks/add", "scan over blocks"),
    ("jit(dynamic_index_in_dim)/dynamic_slice", "scan over blocks"),
  ],
)
def test_modules_of_a_block(path, module):
  for where in (FORWARD, BACKWARD, AGAIN):
    assert module_of(where + path) == module


@pytest.mark.parametrize(
  ("path", "module", "step"),
  [
    ("jit(step)/jvp(JointDiT)/video.unembed/head_norm/sub", "embeddings, head",
     "forward"),
    ("jit(step)/transpose(jvp(JointDiT))/audio.embed_time/time_embedding/in/mul",
     "embeddings, head", "backward"),
    ("jit(step)/jvp()/reduce_sum", "noise, loss", "forward"),
    ("jit(step)/jit(_normal)/jit(_normal_real)/erf_inv", "noise, loss", "update"),
    ("jit(step)/mul", "optimizer, average", "update"),
    (BACKWARD + "blocks/add", "scan over blocks", "backward"),
    (AGAIN + "blocks/add", "scan over blocks", "made again"),
    (FORWARD + "blocks/add", "scan over blocks", "forward"),
  ],
)  # fmt: skip
def test_modules_outside_and_passes(path, module, step):
  assert (module_of(path), pass_of(path)) == (module, step)


TEXT = f"""HloModule m

FileNames
1 "/x/ccl_jax/models/layers.py"
2 "/x/ccl_jax/ops/rope.py"

FileLocations
1 {{file_name_id=1 function_name_id=1}}
2 {{file_name_id=2 function_name_id=1}}

StackFrames
1 {{file_location_id=1 parent_frame_id=1}}
2 {{file_location_id=2 parent_frame_id=1}}


ENTRY %main (x: f32[4]) -> f32[4] {{
  %x = f32[4] parameter(0), metadata={{op_name="state.params['x']"}}
  %norm = f32[4] multiply(%x, %x), metadata={{op_name="{FORWARD}blocks/video.attend/self_attn/norm_q/mul" stack_frame_id=1}}
  %to = f32[4] copy(%norm), metadata={{op_name="{FORWARD}blocks/video.attend/self_attn/norm_q/mul" stack_frame_id=1}}
  %view = f32[4] bitcast(%to)
  %turned = f32[4] multiply(%view, %view), metadata={{op_name="{FORWARD}blocks/video.attend/self_attn/mul" stack_frame_id=2}}
  %back = f32[4] copy(%turned)
  %sum = f32[4] add(%back, %back), metadata={{op_name="{BACKWARD}blocks/video.feed/ffn/in/mul" stack_frame_id=1}}
  %far = f32[4] copy(%sum)
  %input = f32[4] copy(%x)
  %used = f32[4] negate(%input), metadata={{op_name="{AGAIN}blocks/video.feed/ffn/in/mul"}}
  %alone = f32[4] copy(%x)
}}
"""  # noqa: E501


@pytest.mark.parametrize(
  ("name", "place"),
  [
    ("norm", Place("self-attention", "forward", rope=False)),
    ("turned", Place("self-attention", "forward", rope=True)),
    # Copies into and out of the layout of rotary positions, behind a view.
    ("to", Place("self-attention", "forward", rope=True)),
    ("back", Place("self-attention", "forward", rope=True)),
    ("sum", Place("FFN", "backward", rope=False)),
    ("far", Place("FFN", "backward", rope=False)),
    # A parameter has the name of what it is; its copy belongs to what takes it.
    ("input", Place("FFN", "made again", rope=False)),
    ("alone", Place("optimizer, average", "update", rope=False)),
  ],
)
def test_places_by_paths_and_neighbours(name, place):
  program = Program(TEXT)
  assert place_of(program, program.by_name[name]) == place
