"""MMAudio's VAE in and out of its released layout, byte for byte, and its licence."""

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util
from safetensors.numpy import load_file, save_file

from ccl_jax import convert
from ccl_jax.checkpoints.checkpointer import restore_params
from ccl_jax.errors import UsageError
from ccl_jax.models.audio_vae import PRESETS
from ccl_jax.weights.load import load_params
from ccl_jax.weights.mmaudio import NATIVE, shapes_of
from ccl_jax.weights.reader import open_weights
from ccl_jax.weights.rules import expected_tensors
from ccl_jax.weights.transfer import export_weights, import_weights
from tests.weights.wan_files import save_pth

BANDS, CHANNELS, HIDDEN = 6, 3, 4


def released_shapes(bands: int, channels: int, hidden: int) -> dict[str, tuple]:
  """Names and shapes of the release, written out once more."""
  a, b, c = hidden, 2 * hidden, 4 * hidden
  shapes = {"data_mean": (1, bands, 1), "data_std": (1, bands, 1)}

  def conv(name, out, into, size=3):
    shapes[f"{name}.weight"] = (out, into, size)

  def block(name, into, out):
    conv(f"{name}.conv1", out, into)
    conv(f"{name}.conv2", out, out)
    if into != out:
      conv(f"{name}.nin_shortcut", out, into, 1)

  for half in ("encoder", "decoder"):
    shapes[f"{half}.learnable_gain"] = ()
    for i in (1, 2):
      block(f"{half}.mid.block_{i}", c, c)
    conv(f"{half}.mid.attn_1.qkv", 3 * c, c, 1)
    conv(f"{half}.mid.attn_1.proj_out", c, c, 1)
  conv("encoder.conv_in", a, bands)
  for level, (into, out) in enumerate([(a, a), (a, b), (b, c)]):
    block(f"encoder.down.{level}.block.0", into, out)
    block(f"encoder.down.{level}.block.1", out, out)
  for i in (1, 2):
    conv(f"encoder.down.0.downsample.conv{i}", a, a, 1)
  conv("encoder.conv_out", 2 * channels, c)
  conv("decoder.conv_in", c, channels)
  for level, (into, out) in enumerate([(b, a), (c, b), (c, c)]):
    block(f"decoder.up.{level}.block.0", into, out)
    for i in (1, 2):
      block(f"decoder.up.{level}.block.{i}", out, out)
  conv("decoder.up.1.upsample.conv", b, b)
  conv("decoder.conv_out", bands, a)
  return shapes


@pytest.fixture(scope="module")
def tensors():
  rng = np.random.default_rng(0)
  shapes = released_shapes(BANDS, CHANNELS, HIDDEN)
  return {n: np.asarray(rng.standard_normal(s), np.float32) for n, s in shapes.items()}


@pytest.fixture(scope="module")
def imported(tensors, tmp_path_factory):
  """From a download of MMAudio: its VAE among the other files of ext_weights."""
  root = tmp_path_factory.mktemp("mmaudio")
  (root / "ext_weights").mkdir()
  save_pth(root / "ext_weights" / "v1-16.pth", tensors)
  save_pth(root / "ext_weights" / "best_netG.pt", {"x": np.zeros(3, np.float32)})
  about = import_weights("audio-vae", root, root / "in", verify=True)
  assert about["sizes"] == {"bands": BANDS, "channels": CHANNELS, "hidden": HIDDEN}
  return root


def assert_same_bytes(got, expected):
  assert got.keys() == expected.keys()
  for name, x in expected.items():
    assert (got[name].shape, got[name].dtype) == (x.shape, x.dtype), name
    assert got[name].tobytes() == x.tobytes(), name


@pytest.mark.parametrize("preset", PRESETS)
def test_names_and_shapes_of_the_releases(preset):
  shapes = shapes_of(PRESETS[preset])
  names = {m.name: m.shape for m in expected_tensors(NATIVE, shapes)}
  assert names == released_shapes(**PRESETS[preset])


@pytest.mark.shared
def test_names_and_shapes_of_the_golden_file(shared):
  weights = open_weights(shared / "parity" / "mmaudio_16k" / "vae_weights.safetensors")
  sizes = json.loads((shared / "parity/mmaudio_16k/config.json").read_text())["vae"]
  expected = released_shapes(*(sizes[f"{k}_dim"] for k in ("data", "embed", "hidden")))
  assert {n: weights.shape(n) for n in weights.names()} == expected


def test_in_and_out_again_is_the_same_bytes(imported, tensors):
  """Raw weights stay raw: MMAudio normalises what it reads."""
  about = export_weights(imported / "in", imported / "out", form="native", verify=True)
  assert about == {}
  assert_same_bytes(load_file(imported / "out" / "model.safetensors"), tensors)
  again = import_weights("audio-vae", imported / "out", imported / "again")
  first = json.loads((imported / "in" / "config.json").read_text())
  assert again["source"]["sha256"] == first["source"]["sha256"]


def test_half_precision_comes_back(tmp_path, tensors):
  half = {name: x.astype(np.float16) for name, x in tensors.items()}
  save_file(half, tmp_path / "mmaudio_vae_44k_fp16.safetensors")
  about = import_weights("audio-vae", tmp_path, tmp_path / "in")
  assert about["dtype"] == "float16"
  export_weights(tmp_path / "in", tmp_path / "out", form="native")
  assert_same_bytes(load_file(tmp_path / "out" / "model.safetensors"), half)
  wide = traverse_util.flatten_dict(load_params("audio-vae", tmp_path)[0], sep="/")
  assert {x.dtype for x in wide.values()} == {jnp.dtype("float32")}


def test_what_is_loaded_is_what_was_converted(imported, tensors):
  """From the release, and from a converted folder as training restores it."""
  loaded, _ = load_params("audio-vae", imported)
  assert loaded["encoder"]["gain"] == tensors["encoder.learnable_gain"]
  np.testing.assert_array_equal(loaded["data_std"], tensors["data_std"][0, :, 0])
  kernel = loaded["decoder"]["up_1_2"]["conv2"]["weight"]
  torch = tensors["decoder.up.1.block.2.conv2.weight"]
  np.testing.assert_array_equal(kernel, torch.transpose(2, 1, 0))
  here = jax.sharding.SingleDeviceSharding(jax.devices()[0])
  shape = functools.partial(jax.ShapeDtypeStruct, dtype=jnp.float32, sharding=here)
  abstract = jax.tree.map(lambda x: shape(x.shape), loaded)
  restored = restore_params(imported / "in" / "checkpoints", "params", abstract)[1]
  jax.tree.map(np.testing.assert_array_equal, restored, loaded)


def test_mistakes_are_one_line(tmp_path, tensors):
  def message(change):
    file = tmp_path / "x.safetensors"
    save_file(change, file)
    with pytest.raises(UsageError) as e:
      load_params("audio-vae", file)
    assert "\n" not in str(e.value)
    return str(e.value)

  without = lambda name: {k: v for k, v in tensors.items() if k != name}
  assert "not MMAudio's VAE: it has no encoder.learnable_gain, but conv1" in message(
    {"conv1.weight": np.zeros(3)}
  )
  assert "no tensor encoder.conv_in.weight with 3 axes" in message(
    without("encoder.conv_in.weight")
  )
  flat = tensors | {"encoder.conv_out.weight": np.zeros((3, 3), np.float32)}
  assert "no tensor encoder.conv_out.weight with 3 axes" in message(flat)
  assert "no tensor data_std" in message(without("data_std"))
  assert "unexpected tensor quant_conv.weight" in message(
    tensors | {"quant_conv.weight": np.zeros((6, 6, 1), np.float32)}
  )
  wrong = tensors | {"decoder.conv_in.weight": np.zeros((16, 4, 3), np.float32)}
  assert "decoder.conv_in.weight has shape (16, 4, 3), expected (16, 3, 3)" in message(
    wrong
  )


def test_two_releases_in_a_folder_are_not_chosen_between(imported, tensors, tmp_path):
  for name in ("v1-16.pth", "v1-44.pth"):
    save_pth(tmp_path / name, tensors)
  with pytest.raises(UsageError, match=r"holds v1-16.pth, v1-44.pth: name the one"):
    load_params("audio-vae", tmp_path)


def test_the_licence_is_told(imported, capsys):
  """In the list of commands, in the command's help, and at every conversion."""
  terms = "CC-BY-NC 4.0: non-commercial use only"
  for arguments in (["--help"], ["audio-vae", "--help"]):
    with pytest.raises(SystemExit):
      convert.main(arguments)
    assert terms in " ".join(capsys.readouterr().out.split())
  with pytest.raises(SystemExit):
    convert.main(["clip", "--help"])
  assert "CC-BY-NC" not in capsys.readouterr().out
  source, target = (str(imported / name) for name in ("ext_weights", "told"))
  convert.main(["audio-vae", "--src", source, "--dst", target])
  out = capsys.readouterr()
  assert out.out == f"{target}\n"
  told = [line for line in out.err.splitlines() if line.startswith("licence: ")]
  assert len(told) == 1 and terms in told[0] and "docs/licences.md" in told[0]
