"""Runs under published names: which layout a run has, and what has none."""

import dataclasses
import json

import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from flax import traverse_util
from safetensors.numpy import load_file, save_file

from ccl_jax import convert
from ccl_jax.checkpoints.checkpointer import Checkpointer
from ccl_jax.checkpoints.slices import SliceReader
from ccl_jax.errors import UsageError
from ccl_jax.models import presets
from ccl_jax.models.stream import StreamConfig
from ccl_jax.weights import ovi_release
from ccl_jax.weights.transfer import export_weights, import_weights
from ccl_jax.weights.transformers import published_as
from tests.weights.ovi_files import FFN, HIDDEN, LAYERS, WIDTH, ovi_tensors

VIDEO = StreamConfig(WIDTH, FFN, 1, in_channels=48, out_channels=48, frequencies=64)
AUDIO = StreamConfig(
  WIDTH, FFN, 1, in_channels=20, out_channels=20, patch=(1, 1, 1), positions="time",
  rate=0.19676, taps=7, frequencies=64,
)  # fmt: skip
FUSED = {"preset": "mini_ovi", "variant": "fusion"}


@pytest.fixture(scope="module", autouse=True)
def mini():
  """Presets of small towers, as Ovi's and not."""
  change = dataclasses.replace
  line = change(AUDIO, positions="line", rate=1.0, taps=0)
  wide = change(AUDIO, width=256, heads=2)
  narrow = [change(c, heads=2) for c in (VIDEO, AUDIO)]
  streams = {
    "mini_ovi": (VIDEO, AUDIO),
    "mini_line": (VIDEO, line),
    "mini_bare": (VIDEO, change(AUDIO, taps=0)),
    "mini_wide": (VIDEO, wide),
    "mini_narrow": narrow,
    "mini_24": (change(VIDEO, in_channels=24, out_channels=24), AUDIO),
  }
  with pytest.MonkeyPatch.context() as patch:
    for name, pair in streams.items():
      patch.setitem(presets.PRESETS, name, presets.Preset(*pair, LAYERS))
    yield


def as_run(folder, converted, **metadata):
  """A run whose average is the parameters of a conversion, in float32 as runs have."""
  reader = SliceReader(converted / "checkpoints")
  depth = lambda path, n: range(n) if path.startswith("blocks/") else [()]
  flat = {}
  for path, x in reader.shapes.items():
    slots = [reader.read(path, i if i == () else (i,)) for i in depth(path, LAYERS)]
    whole = np.stack(slots) if path.startswith("blocks/") else slots[0]
    assert whole.shape == x.shape
    flat[path] = jnp.asarray(whole.astype(np.float32))
  ema = traverse_util.unflatten_dict(flat, sep="/")
  metadata = {"model": FUSED} | metadata
  checkpointer = Checkpointer(folder / "checkpoints", keep=1)
  checkpointer.save(3, {"ema": ema}, {}, metadata)
  checkpointer.close()
  (folder / "config.json").write_text(json.dumps({"model": metadata["model"]}))
  return folder


@pytest.fixture(scope="module")
def ovi(tmp_path_factory):
  """(tensors of Ovi in bfloat16, a run that started from them)."""
  folder = tmp_path_factory.mktemp("ovi")
  drawn = {n: x.astype(ml_dtypes.bfloat16) for n, x in ovi_tensors().items()}
  save_file(drawn, folder / "model_960x960_10s.safetensors")
  about = import_weights("ovi-dit", folder, folder / "in")
  run = as_run(folder / "run", folder / "in", edition=about["sizes"]["edition"])
  return drawn, run


def test_a_run_with_fusion_goes_back_into_ovis_layout(ovi, tmp_path, capsys):
  """Both towers and the fusion, byte for byte; the name tells the edition."""
  drawn, run = ovi
  args = ["export", "--src", str(run), "--format", "native", "--verify"]
  convert.main([*args, "--dst", str(tmp_path / "own")])
  file = "model_960x960_10s.safetensors"
  got = load_file(tmp_path / "own" / file)
  assert got.keys() == drawn.keys()
  for name, x in drawn.items():
    assert got[name].dtype == np.float32 and got[name].shape == x.shape
    assert got[name].tobytes() == x.astype(np.float32).tobytes(), name
  convert.main([*args, "--dst", str(tmp_path / "same"), "--dtype", "bfloat16"])
  got = load_file(tmp_path / "same" / file)
  assert all(got[n].tobytes() == x.tobytes() for n, x in drawn.items())
  assert "alone" not in capsys.readouterr().err
  about = import_weights("ovi-dit", tmp_path / "same", tmp_path / "again")
  assert about["sizes"]["edition"] == "960x960_10s"


def test_a_weight_that_was_trained_is_the_only_other_one(ovi, tmp_path):
  drawn, _ = ovi
  name = "audio_model.blocks.1.cross_attn.k_fusion.weight"
  changed = dict(drawn) | {name: -drawn[name]}
  save_file(changed, tmp_path / "model.safetensors")
  import_weights("ovi-dit", tmp_path / "model.safetensors", tmp_path / "in")
  trained = as_run(tmp_path / "run", tmp_path / "in")
  export_weights(trained, tmp_path / "out", form="native", dtype="bfloat16")
  got = load_file(tmp_path / "out" / "model.safetensors")
  other = [n for n, x in drawn.items() if got[n].tobytes() != x.tobytes()]
  assert other == [name]
  assert got[name].tobytes() == (-drawn[name]).tobytes()


def test_every_edition_is_told_by_its_exported_file():
  for edition in ovi_release.EDITIONS:
    name = f"{ovi_release.stem_of(edition)}.safetensors"
    assert ovi_release.edition_of(name) == edition


REFUSED = {
  "line": (
    {"preset": "mini_line", "variant": "fusion"},
    "audio stream has positions=line; Ovi's layout has time",
  ),
  "no convolution": (
    {"preset": "mini_bare", "variant": "fusion"}, "audio stream has taps=0; Ovi's",
  ),
  "widths": (
    {"preset": "mini_wide", "variant": "fusion"}, "widths 128 and 256; Ovi's layout",
  ),
  "heads": (
    {"preset": "mini_narrow", "variant": "fusion"},
    "video stream has 2 heads of 64; Ovi's layout has heads of 128",
  ),
  "condition channels": (
    FUSED | {"image_form": "channels"}, "image_tokens=True; Ovi's layout has False",
  ),
  "patches": (
    {"preset": "mini_ovi", "patch": 1},
    r"patch=\(1, 1, 1\); Wan's layout has \(1, 2, 2\)",
  ),
  "Wan's heads": ({"preset": "mini_narrow"}, "2 heads of 64; Wan's layout has heads"),
  "channels": (
    {"preset": "mini_24"}, "takes 24 channels and gives 24; Wan's layout has 16 and 16",
  ),
  "sound": ({"preset": "mini_ovi", "streams": ["audio"]}, "has no video stream"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_no_layout_holds(case):
  model, words = REFUSED[case]
  with pytest.raises(UsageError, match=words):
    published_as(presets.build_model(**model), 32)


def test_what_a_layout_holds():
  kinds = {
    ("mini_ovi", "fusion"): "ovi-dit",
    ("mini_ovi", "context"): "wan-dit",
    ("mini_line", "gate"): "wan-dit",
  }
  for (preset, variant), kind in kinds.items():
    model = presets.build_model(preset, variant=variant)
    assert published_as(model, 32)[0] == kind
  _, sizes = published_as(presets.build_model(**FUSED), 32, "960x960_5s")
  assert sizes["audio"] == {
    "width": WIDTH, "ffn": FFN, "heads": 1, "in_channels": 20, "out_channels": 20,
    "frequencies": 64, "taps": 7, "rate": 0.19676,
  }  # fmt: skip
  assert (sizes["depth"], sizes["text_dim"]) == (LAYERS, 32)
  assert sizes["edition"] == "960x960_5s" and HIDDEN % 256 == 0


def test_one_line_of_a_run_without_a_layout(ovi, tmp_path, capsys):
  _, run = ovi
  wrong = as_run(tmp_path / "run", run.parent / "in", model={"preset": "mini_line"} | {
    "variant": "fusion",
  })  # fmt: skip
  args = ["--src", str(wrong), "--dst", str(tmp_path / "new" / "dst")]
  with pytest.raises(SystemExit) as e:
    convert.main(["export", *args, "--format", "native"])
  err = capsys.readouterr().err
  assert e.value.code == 2 and err.count("\n") == 1
  assert "has no published layout: its audio stream has positions=line" in err
  with pytest.raises(SystemExit) as e:
    convert.main(["export", "--src", str(run), *args[2:], "--format", "diffusers"])
  err = capsys.readouterr().err
  assert e.value.code == 2 and err.count("\n") == 1
  assert "--format diffusers: ovi-dit has native" in err
  assert not (tmp_path / "new").exists()


def test_what_is_left_behind_is_said(ovi, tmp_path, capsys):
  _, run = ovi
  other = as_run(tmp_path / "run", run.parent / "in", model={"preset": "mini_ovi"})
  export_weights(other, tmp_path / "out", form="native")
  assert "the video stream alone is exported; its audio" in capsys.readouterr().err
  got = load_file(tmp_path / "out" / "diffusion_pytorch_model.safetensors")
  assert not any("audio" in n or "fusion" in n for n in got)


def test_a_type_that_is_too_narrow(tmp_path):
  drawn = ovi_tensors(layers=LAYERS)
  drawn["video_model.head.head.bias"][0] = 1e6
  save_file(drawn, tmp_path / "model.safetensors")
  import_weights("ovi-dit", tmp_path / "model.safetensors", tmp_path / "in")
  with pytest.raises(UsageError, match="video/head/bias holds .* infinity in float16"):
    export_weights(tmp_path / "in", tmp_path / "out", form="native", dtype="float16")
  assert not (tmp_path / "out").exists()
