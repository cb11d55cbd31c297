"""Ovi's transformer in every file that it comes in, and its whole download."""

import dataclasses
import json
import re

import jax
import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from ccl_jax import convert
from ccl_jax.checkpoints.find import find_parameters
from ccl_jax.checkpoints.slices import SliceReader
from ccl_jax.codecs.bundle import load_codecs
from ccl_jax.data.spec import ClipSpec
from ccl_jax.errors import UsageError
from ccl_jax.generation.sizes import nearest_size
from ccl_jax.models import presets
from ccl_jax.models.stream import StreamConfig
from ccl_jax.weights import ovi, ovi_release
from ccl_jax.weights.join import join
from ccl_jax.weights.reader import open_weights
from ccl_jax.weights.rules import expected_tensors
from ccl_jax.weights.transfer import export_weights, import_weights
from tests.weights.ovi_files import (
  FFN,
  LAYERS,
  TEXT,
  WIDTH,
  fp8,
  ovi_download,
  ovi_tensors,
)
from tests.weights.wan_files import _Call, save_legacy, save_pth, wan_tensors

SIZES = {
  "video": {
    "width": WIDTH, "ffn": FFN, "heads": 1, "in_channels": 48, "out_channels": 48,
    "frequencies": 64,
  },
  "audio": {
    "width": WIDTH, "ffn": FFN, "heads": 1, "in_channels": 20, "out_channels": 20,
    "frequencies": 64, "taps": 7, "rate": 0.19676,
  },
  "depth": LAYERS,
  "text_dim": TEXT,
  "edition": "720x720_5s",
}  # fmt: skip


def equal(got, drawn):
  assert set(got) == set(drawn)
  for name, x in drawn.items():
    assert got[name].dtype == x.dtype and got[name].shape == x.shape, name
    assert got[name].tobytes() == np.ascontiguousarray(x).tobytes(), name


def read_all(folder):
  weights = open_weights(folder, fp8=True)
  return {name: weights.read(name) for name in weights.names()}


@pytest.mark.parametrize("kind", ["float32", "bfloat16", "fp8"])
def test_what_comes_in_goes_out_byte_for_byte(tmp_path, kind):
  drawn = ovi_tensors()
  if kind == "fp8":
    drawn = fp8(drawn)
  elif kind == "bfloat16":
    drawn = {n: x.astype(ml_dtypes.bfloat16) for n, x in drawn.items()}
  save_file(drawn, tmp_path / "model.safetensors")
  about = import_weights("ovi-dit", tmp_path, tmp_path / "in", verify=True)
  assert about["sizes"] == SIZES
  config = export_weights(tmp_path / "in", tmp_path / "out", form="native", verify=True)
  # The library's reader knows no float8.
  read = read_all if kind == "fp8" else load_file
  equal(read(tmp_path / "out" / "model.safetensors"), drawn)
  assert config["audio"]["temporal_rope_scaling_factor"] == 0.19676
  if kind == "fp8":
    reader = SliceReader(tmp_path / "in" / "checkpoints")
    kinds = {p: x.dtype.name for p, x in reader.shapes.items()}
    # Modulations are cast too; norms and biases are not.
    assert kinds["blocks/video/modulation"] == "float8_e4m3fn"
    assert kinds["blocks/audio/cross_attn/q/kernel"] == "float8_e4m3fn"
    assert kinds["blocks/video_to_audio/ln_kv/scale"] == "bfloat16"
    assert kinds["audio/patch_embedding/in/bias"] == "bfloat16"


def test_every_tensor_is_the_parameter_that_it_should_be():
  """What differs from Wan's names, by hand; k_fusion of a tower reads the other one."""
  wanted = {
    "video_model.patch_embedding.weight": "video/patch_embedding/kernel",
    "audio_model.patch_embedding.0.bias": "audio/patch_embedding/in/bias",
    "audio_model.patch_embedding.2.w3.weight": "audio/patch_embedding/w3/kernel",
    "video_model.blocks.1.modulation.modulation": "blocks/video/modulation[1]",
    "audio_model.blocks.0.self_attn.norm_q.weight":
      "blocks/audio/self_attn/norm_q/scale[0]",
    "video_model.blocks.1.cross_attn.k_fusion.weight":
      "blocks/audio_to_video/k/kernel[1]",
    "audio_model.blocks.1.cross_attn.v_fusion.bias": "blocks/video_to_audio/v/bias[1]",
    "video_model.blocks.0.cross_attn.norm_k_fusion.weight":
      "blocks/audio_to_video/norm_k/scale[0]",
    "audio_model.blocks.0.cross_attn.pre_attn_norm_fusion.bias":
      "blocks/video_to_audio/ln_kv/bias[0]",
    "audio_model.head.modulation": "audio/head_modulation",
  }  # fmt: skip
  names = {m.name: m.target for m in expected_tensors(ovi.NATIVE, ovi.shapes_of(SIZES))}
  assert {n: names[n] for n in wanted} == wanted
  assert names.keys() == ovi_tensors().keys()


@pytest.mark.parametrize(
  ("name", "save", "inside"),
  [
    ("model.pt", save_pth, ()),
    ("model.pt", save_pth, ("module",)),
    ("model.pt", save_pth, ("app", "model")),
    ("model_960x960.pt", save_legacy, ("module",)),
  ],
)
def test_pickles_bare_and_wrapped(tmp_path, name, save, inside):
  drawn = ovi_tensors(layers=1)
  save(tmp_path / name, drawn, inside=inside)
  equal(read_all(tmp_path / name), drawn)
  assert ovi.format_of(open_weights(tmp_path / name)) == "native"


def test_the_rate_of_positions_is_the_config_s_or_the_release_s(tmp_path):
  save_file(ovi_tensors(layers=1), tmp_path / "model.safetensors")
  rate = lambda: ovi.sizes_of(
    open_weights(tmp_path), ovi.NATIVE, json.loads(config.read_text())
  )["audio"]["rate"]
  config = tmp_path / "config.json"
  for text, expected in (
    ({}, 0.19676),
    ({"audio": {"temporal_rope_scaling_factor": 0.25}}, 0.25),
    ({"audio": {"dim": WIDTH}}, 1.0),
  ):
    config.write_text(json.dumps(text))
    assert rate() == expected
  config.write_text(json.dumps({"audio": {"temporal_rope_scaling_factor": "x"}}))
  with pytest.raises(UsageError, match="factor='x', expected a positive number"):
    rate()
  config.write_text(json.dumps({"video": {"num_layers": 9}}))
  with pytest.raises(UsageError, match="says video.num_layers=9, expected 1"):
    rate()


def without(part):
  return {n: x for n, x in ovi_tensors(layers=1).items() if part not in n}


def of_two_depths():
  deep = ovi_tensors(layers=2)
  return {n: x for n, x in deep.items() if not n.startswith("audio_model.blocks.1.")}


def scaled():
  drawn = fp8(ovi_tensors(layers=1))
  name = "video_model.blocks.0.ffn.0.scale_weight"
  return drawn | {name: np.ones((), np.float32)}


@pytest.mark.parametrize(
  ("make", "words"),
  [
    (lambda: without("audio_model"), "no tensor begins with audio_model"),
    (lambda: without("fusion"), "without the fusion between them"),
    (lambda: without("v_fusion.bias"), "no tensor .*v_fusion.bias .and 1 more."),
    (of_two_depths, "the video tower has 2 blocks, the audio tower 1"),
    (
      lambda: ovi_tensors(layers=1, audio_width=256),
      "the video tower has 128 channels, the audio tower 256",
    ),
    (scaled, "musubi.s .*weight is float8_e4m3fn without a scale"),
    (wan_tensors, "looks like one tower alone .Wan: use convert wan-dit"),
  ],
)
def test_what_is_no_ovi_is_one_line(tmp_path, capsys, make, words):
  save_file(make(), tmp_path / "model.safetensors")
  with pytest.raises(SystemExit) as e:
    convert.main(["ovi-dit", "--src", str(tmp_path), "--dst", str(tmp_path / "dst")])
  err = capsys.readouterr().err
  assert e.value.code == 2 and err.count("\n") == 1 and re.search(words, err), err
  assert not (tmp_path / "dst").exists()


def test_a_pickle_that_calls_is_refused(tmp_path, capsys):
  bad = {"video_model.x": _Call(print, "called")}
  save_pth(tmp_path / "model.pt", ovi_tensors(layers=1), extra=bad, inside=("module",))
  with pytest.raises(SystemExit) as e:
    convert.main(["ovi-dit", "--src", str(tmp_path), "--dst", str(tmp_path / "dst")])
  out = capsys.readouterr()
  assert e.value.code == 2 and "refused" in out.err and "called" not in out.out


def test_ovi_is_named_where_wan_is_wanted(tmp_path):
  save_file(ovi_tensors(layers=1), tmp_path / "model.safetensors")
  with pytest.raises(UsageError, match="is Ovi .use: convert ovi"):
    import_weights("wan-dit", tmp_path, tmp_path / "dst")


@pytest.mark.parametrize(
  ("name", "edition", "frames", "area", "sound"),
  [
    ("model.safetensors", "720x720_5s", 121, 518400, "tags"),
    ("model_fp8_e4m3fn.safetensors", "720x720_5s", 121, 518400, "tags"),
    ("model_960x960.safetensors", "960x960_5s", 121, 921600, "sentence"),
    ("model_960x960_10s.safetensors", "960x960_10s", 241, 921600, "sentence"),
  ],
)
def test_the_release_is_told_by_the_file_s_name(name, edition, frames, area, sound):
  assert ovi_release.edition_of(name) == edition
  told = ovi_release.defaults_of(edition, 30)
  assert (told["clip"]["frames"], told["area"], told["sound"]) == (frames, area, sound)
  assert (told["clip"]["fps"], told["clip"]["stride"]) == (24, 16)
  # As the reference has them; of another length of clip too.
  spec = ClipSpec(**told["clip"])
  tokens = {n: dataclasses.replace(spec, frames=n).audio_tokens for n in (121, 241)}
  assert tokens == {121: 157, 241: 314}
  assert (spec.latent_frames, spec.audio_tokens) in ((31, 157), (61, 314))
  assert told["objective"] == {"shift": 5.0}
  assert told["guidance"] == {
    "form": "text", "scales": {"video": [4.0], "audio": [3.0]}, "skip_block": 11,
  }  # fmt: skip
  assert told["negative"]["video"] == "jitter, bad hands, blur, distortion"
  assert told["negative"]["audio"] == "robotic, muffled, echo, distorted"
  assert "skip_block" not in ovi_release.defaults_of(edition, 11)["guidance"]
  height, width = told["clip"]["height"], told["clip"]["width"]
  assert abs(height * width / area - 1) < 0.03 and height % 32 == width % 32 == 0


@pytest.mark.parametrize(
  ("picture", "area", "expected"),
  [
    # Of 506.25 squares of 32, 22 x 22 are 22.25 too few, 23 x 23 are 22.75 too many.
    ((500, 500), 720**2, (704, 704)),
    # 16 : 9, p0 = round(16.87) = 17: 17 x 30 = 510, 16 x 28 = 448, 18 x 32 = 576.
    ((1080, 1920), 720**2, (544, 960)),
    # 9 : 16, p0 = 30: 30 x 17 = 510, 29 x 16 = 464, 31 x 17 = 527.
    ((1920, 1080), 720**2, (960, 544)),
    # 4 : 3 of 900: p0 = 26: 26 x 35 = 910, 25 x 33 = 825, 27 x 36 = 972; both sides
    # rounded, 25.98 x 34.64: the same.
    ((300, 400), 960**2, (832, 1120)),
  ],
)
def test_the_size_of_a_clip_from_an_image(picture, area, expected):
  assert nearest_size(*picture, area, 32) == expected


@pytest.fixture(scope="module")
def download(tmp_path_factory):
  return ovi_download(tmp_path_factory.mktemp("ovi") / "ckpts")


@pytest.fixture(scope="module")
def converted(download, tmp_path_factory):
  dst = tmp_path_factory.mktemp("converted") / "ovi"
  convert.main(["ovi", "--src", str(download), "--dst", str(dst), "--verify"])
  return dst


def test_a_whole_download(download, converted):
  assert json.loads((converted / "config.json").read_text())["kind"] == "ovi"
  found = find_parameters(converted)
  assert found.description["kind"] == "ovi-dit" and found.codecs.name == "codecs"
  codecs = load_codecs(found.codecs)
  assert (codecs.video.channels, codecs.audio.channels) == (48, 20)
  assert codecs.text.dim == TEXT and codecs.image is None
  audio = json.loads((converted / "audio-vae" / "config.json").read_text())
  assert "non-commercial" in audio["licence"]
  drawn = load_file(download / "Ovi" / "model.safetensors")
  export_weights(converted, converted.parent / "out", form="native")
  equal(load_file(converted.parent / "out" / "model.safetensors"), drawn)


def test_of_several_files_one_is_named(tmp_path, download, capsys):
  for part in ("Wan2.2-TI2V-5B", "MMAudio"):
    (tmp_path / part).symlink_to(download / part)
  (tmp_path / "Ovi").mkdir()
  for name in ("model.safetensors", "model_960x960_10s.safetensors"):
    save_file(ovi_tensors(), tmp_path / "Ovi" / name)
  to = ["--dst", str(tmp_path / "dst")]
  with pytest.raises(SystemExit):
    convert.main(["ovi", "--src", str(tmp_path), *to])
  assert "model_960x960_10s.safetensors: name the one" in capsys.readouterr().err
  one = tmp_path / "Ovi" / "model_960x960_10s.safetensors"
  convert.main(["ovi", "--src", str(one), *to])
  about = find_parameters(tmp_path / "dst").description
  assert about["sizes"]["edition"] == "960x960_10s" and about["clip"]["frames"] == 241
  assert "non-commercial" in capsys.readouterr().err


@pytest.mark.parametrize("part", ["Wan2.2-TI2V-5B", "MMAudio"])
def test_a_part_of_the_download_is_missing(tmp_path, download, capsys, part):
  for other in {"Ovi", "Wan2.2-TI2V-5B", "MMAudio"} - {part}:
    (tmp_path / other).symlink_to(download / other)
  with pytest.raises(SystemExit) as e:
    convert.main(["ovi", "--src", str(tmp_path), "--dst", str(tmp_path / "dst")])
  err = capsys.readouterr().err
  assert e.value.code == 2 and err.count("\n") == 1 and f"no folder {part}" in err
  assert not (tmp_path / "dst").exists()


def test_towers_without_their_fusion_become_a_joint_model(converted, tmp_path):
  """Both streams as they are, the exchange fresh, with zero output."""
  own = {k: dict(v) for k, v in SIZES.items() if k in ("video", "audio")}
  audio = StreamConfig(**own["audio"], patch=(1, 1, 1), positions="time")
  mini = presets.Preset(StreamConfig(**own["video"]), audio, LAYERS, 5, 3)
  with pytest.MonkeyPatch.context() as patch:
    patch.setitem(presets.PRESETS, "mini", mini)
    about = join(converted, converted, tmp_path / "joint", size="mini")
    model = presets.build_model(**about["model"], dtype="float32")
  assert about["random"] == ["blocks/audio_to_video", "blocks/video_to_audio"]
  assert about["negative"] == ovi_release.NEGATIVE
  assert about["clip"]["stride"] == 16
  assert about["model"]["image_form"] == "first_frame"
  got = SliceReader(tmp_path / "joint" / "checkpoints")
  source = SliceReader(converted / "dit" / "checkpoints")
  for path in got.shapes:
    slots = [(i,) for i in range(LAYERS)] if path.startswith("blocks/") else [()]
    for slot in slots:
      value = got.read(path, slot)
      if "_to_" in path:
        assert not (path.endswith("/o/kernel") and value.any()), path
      else:
        np.testing.assert_array_equal(value, source.read(path, slot))
  assert jax.tree.leaves(model.streams) and model.cross.variant == "context"
