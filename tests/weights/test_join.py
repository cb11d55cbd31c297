"""A joint model of two streams is the two streams, and says what in it is random."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util
from safetensors.numpy import save_file

from ccl_jax.checkpoints.checkpointer import Checkpointer, restore_params
from ccl_jax.checkpoints.slices import SliceReader
from ccl_jax.errors import UsageError
from ccl_jax.models import presets
from ccl_jax.models.stream import StreamConfig
from ccl_jax.tasks import Route
from ccl_jax.weights.join import join
from ccl_jax.weights.reader import open_weights
from ccl_jax.weights.transfer import export_weights, import_weights
from ccl_jax.weights.wan import NEGATIVE, NEGATIVE_IMAGE
from tests.weights.wan_files import FFN, LAYERS, TEXT, WIDTH, wan_tensors

AUDIO = StreamConfig(
  48, 64, 4, in_channels=20, out_channels=20, patch=(1, 1, 1), positions="line",
  frequencies=64,
)  # fmt: skip
VIDEO = StreamConfig(WIDTH, FFN, WIDTH // 128, frequencies=64)


@pytest.fixture(scope="module", autouse=True)
def mini():
  """A preset of the sizes of the small Wan."""
  with pytest.MonkeyPatch.context() as patch:
    mini = presets.Preset(VIDEO, AUDIO, LAYERS, 5, 3)
    wide = presets.Preset(dataclasses.replace(VIDEO, heads=4), AUDIO, LAYERS)
    patch.setitem(presets.PRESETS, "mini", mini)
    patch.setitem(presets.PRESETS, "wide", wide)
    of_48 = dataclasses.replace(VIDEO, in_channels=48, out_channels=48)
    patch.setitem(presets.PRESETS, "mini48", presets.Preset(of_48, AUDIO, LAYERS))
    yield


@pytest.fixture(scope="module")
def video(tmp_path_factory):
  """A converted T2V model."""
  folder = tmp_path_factory.mktemp("video")
  save_file(wan_tensors(), folder / "model.safetensors")
  import_weights("wan-dit", folder, folder / "converted")
  return folder / "converted"


def shapes_of(**model):
  shapes = presets.parameter_shapes(presets.build_model(**model), (8, TEXT))
  here = jax.sharding.SingleDeviceSharding(jax.devices()[0])
  return jax.tree.map(lambda x: x.update(sharding=here), shapes)


def save_run(folder, seed, **model):
  """A training run's folder, whose EMA is random."""
  rng = np.random.default_rng(seed)
  draw = lambda x: jnp.asarray(rng.standard_normal(x.shape, np.float32))
  ema = jax.tree.map(draw, shapes_of(**model))
  checkpointer = Checkpointer(folder / "checkpoints", keep=1)
  checkpointer.save(
    7,
    {"ema": ema, "params": jax.tree.map(jnp.zeros_like, ema)},
    {},
    {"model": model},
  )
  checkpointer.close()
  (folder / "config.json").write_text(json.dumps({"model": model}))
  return flat(ema)


def flat(tree):
  return traverse_util.flatten_dict(jax.device_get(tree), sep="/")


def restored(folder):
  config = json.loads((folder / "config.json").read_text())
  abstract = shapes_of(**config["model"])
  return config, flat(restore_params(folder / "checkpoints", "params", abstract)[1])


def test_both_streams_are_the_given_ones(tmp_path, video):
  audio = save_run(tmp_path / "run", 1, preset="mini", streams=["audio"])
  config = join(video, tmp_path / "run", tmp_path / "joint", size="mini")
  assert config["random"] == ["blocks/audio_to_video", "blocks/video_to_audio"]
  assert config["model"]["image_form"] == "first_frame"
  assert config["negative"] == {"video": NEGATIVE}  # the release's, and of no sound
  assert config["clip"] == {"frames": 81, "height": 480, "width": 832, "fps": 16.0}
  written, got = restored(tmp_path / "joint")
  assert written == config
  for path, x in audio.items():
    np.testing.assert_array_equal(got[path], x, err_msg=path)
  tensors = wan_tensors()
  for i in range(LAYERS):
    np.testing.assert_array_equal(
      got["blocks/video/cross_attn/k/kernel"][i],
      tensors[f"blocks.{i}.cross_attn.k.weight"].T,
    )
  # The exchange adds nothing yet, but would learn: its other matrices are drawn, and
  # not the same in two layers.
  for direction in config["random"]:
    assert not got[f"{direction}/o/kernel"].any()
    kernel = got[f"{direction}/q/kernel"]
    assert kernel.std() > 0.01 and not np.array_equal(kernel[0], kernel[1])
  # Out again: the video stream of a joint model.
  export_weights(tmp_path / "joint", tmp_path / "out", form="native", verify=True)
  out = open_weights(tmp_path / "out")
  assert sorted(out.names()) == sorted(tensors)
  assert all(out.read(n).tobytes() == x.tobytes() for n, x in tensors.items())


@pytest.mark.parametrize("variant", ["context", "gate"])
def test_the_joint_model_starts_as_the_video_model(tmp_path, video, variant):
  """Bit for bit, while each stream reads the other one, of a random audio stream."""
  join(video, None, tmp_path / "joint", size="mini", variant=variant)
  alone = {"preset": "mini", "streams": ["video"], "dtype": "float32"}
  joint = {"preset": "mini", "variant": variant, "dtype": "float32"}
  rng = np.random.default_rng(0)
  normal = lambda *shape: rng.standard_normal(shape, np.float32)
  latents = {"video": normal(2, 3, 4, 6, 16), "audio": normal(2, 11, 20)}
  times = {s: np.full((2, 1), 700, np.float32) for s in latents}
  text = normal(2, 8, TEXT)

  def velocity(folder, model, streams):
    params = restore_params(folder / "checkpoints", "params", shapes_of(**model))[1]
    only = lambda d: {s: d[s] for s in streams}
    route = Route(dict.fromkeys(streams, len(streams) == 2))
    network = presets.build_model(**model)
    run = jax.jit(lambda p, *inputs: network.apply({"params": p}, *inputs, route))
    return run(params, only(latents), only(times), text)

  expected = velocity(video, alone, ["video"])["video"]
  got = velocity(tmp_path / "joint", joint, ["video", "audio"])
  assert got["audio"].std() == 0  # the head of a random stream is zero
  assert expected.std() > 0.1
  np.testing.assert_array_equal(got["video"], expected)


def test_the_form_of_the_condition_is_the_video_streams(tmp_path):
  """Weights that take 36 channels are joined as a model that is given them."""
  tensors = wan_tensors(image=True)
  save_file(tensors, tmp_path / "model.safetensors")
  import_weights("wan-dit", tmp_path, tmp_path / "video")
  config = join(tmp_path / "video", None, tmp_path / "joint", size="mini")
  assert config["model"]["image_form"] == "channels"
  assert config["negative"]["video"] == NEGATIVE_IMAGE + NEGATIVE
  reader = SliceReader(tmp_path / "joint" / "checkpoints")
  kernel = reader.read("video/patch_embedding/kernel", ())
  patches = tensors["patch_embedding.weight"].transpose(2, 3, 4, 1, 0)
  np.testing.assert_array_equal(kernel, patches.reshape(4 * 36, WIDTH))
  np.testing.assert_array_equal(
    reader.read("blocks/video/cross_attn/v_img/kernel", (1,)),
    tensors["blocks.1.cross_attn.v_img.weight"].T,
  )


def test_between_two_pictures(tmp_path):
  tensors = wan_tensors(image=True, last=True)
  save_file(tensors, tmp_path / "model.safetensors")
  import_weights("wan-dit", tmp_path, tmp_path / "video")
  config = join(tmp_path / "video", None, tmp_path / "joint", size="mini")
  assert config["model"]["image_form"] == "first_last"
  assert config["objective"] == {"shift": 16.0}
  reader = SliceReader(tmp_path / "joint" / "checkpoints")
  np.testing.assert_array_equal(
    reader.read("video/image_positions", ()), tensors["img_emb.emb_pos"][0]
  )


def test_wan22s_first_frame_is_a_clean_one_and_its_clip_goes_along(tmp_path):
  """48 channels go in and come out: none of them is a condition."""
  tensors = wan_tensors()
  for name in ("patch_embedding.weight", "head.head.weight", "head.head.bias"):
    axis = int(name.startswith("patch"))
    tensors[name] = np.repeat(tensors[name], 3, axis)
  save_file(tensors, tmp_path / "model.safetensors")
  import_weights("wan-dit", tmp_path, tmp_path / "video")
  config = join(tmp_path / "video", None, tmp_path / "joint", size="mini48")
  assert config["model"]["image_form"] == "first_frame"
  assert config["clip"] == {
    "frames": 121, "height": 704, "width": 1280, "fps": 24.0, "stride": 16,
  }  # fmt: skip
  assert config["negative"] == {"video": NEGATIVE}


def test_without_an_audio_stream_it_is_random(tmp_path, video):
  config = join(video, None, tmp_path / "a", size="mini", seed=5)
  assert config["random"] == [
    "audio", "blocks/audio", "blocks/audio_to_video", "blocks/video_to_audio",
  ]  # fmt: skip
  assert config["seed"] == 5
  join(video, None, tmp_path / "b", size="mini", seed=5)
  join(video, None, tmp_path / "c", size="mini", seed=6)
  first, same, other = (
    SliceReader(tmp_path / x / "checkpoints").read("blocks/audio/ffn/in/kernel", (1,))
    for x in "abc"
  )
  np.testing.assert_array_equal(first, same)
  assert not np.array_equal(first, other)
  # As training would draw it: xavier's bound for 48 -> 64.
  assert 0.95 < np.abs(first).max() / np.sqrt(6 / (48 + 64)) <= 1


def test_what_variants_share_is_the_same(tmp_path, video):
  """Bit by bit, of one seed; they differ in their context tokens alone."""
  asked = {
    "context": {},
    "gate": {"variant": "gate"},
    "many": {"video_tokens": 9, "audio_tokens": 4},
  }
  got = {}
  for name, options in asked.items():
    join(video, None, tmp_path / name, size="mini", seed=5, **options)
    config, got[name] = restored(tmp_path / name)
    assert {k: config["model"].get(k) for k in options} == options
  first = got.pop("context")
  tokens = {p for p in first if p.endswith("/context")}
  assert len(tokens) == 2
  for other in got.values():
    assert first.keys() - other.keys() <= tokens
    for path in first.keys() - tokens:
      np.testing.assert_array_equal(first[path], other[path], err_msg=path)
  assert not tokens & got["gate"].keys()
  widths = {"audio_to_video": (4, 48), "video_to_audio": (9, WIDTH)}
  for d, shape in widths.items():
    assert got["many"][f"blocks/{d}/context"].shape == (LAYERS, *shape)


def test_a_run_is_exported_by_its_average(tmp_path):
  ema = save_run(tmp_path / "run", 2, preset="mini", streams=["video"])
  export_weights(tmp_path / "run", tmp_path / "out", form="diffusers")
  out = open_weights(tmp_path / "out")
  np.testing.assert_array_equal(
    out.read("blocks.1.ffn.net.0.proj.weight"), ema["blocks/video/ffn/in/kernel"][1].T
  )


def test_mistakes(tmp_path, video):
  with pytest.raises(UsageError, match="--video .* has heads=2, expected 4 for --size"):
    join(video, None, tmp_path / "j", size="wide")
  with pytest.raises(UsageError, match="--size lab|has width=256, expected 512"):
    join(video, None, tmp_path / "j", size="lab")
  with pytest.raises(UsageError, match="has no audio stream"):
    join(video, video, tmp_path / "j", size="mini")
  with pytest.raises(UsageError, match="--audio .* holds no model"):
    join(video, tmp_path, tmp_path / "j", size="mini")
  with pytest.raises(UsageError, match="preset: got 'huge'"):
    join(video, None, tmp_path / "j", size="huge")
  save_run(tmp_path / "run", 1, preset="wide", streams=["video"])
  with pytest.raises(UsageError, match="4 heads of 64; Wan.s layout has heads of 128"):
    export_weights(tmp_path / "run", tmp_path / "out", form="native")
  assert {p.name for p in tmp_path.iterdir()} == {"run"}
