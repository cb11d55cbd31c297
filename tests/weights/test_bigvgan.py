"""BigVGAN's checkpoints: every form of file gives the reference's wave; mistakes."""

import json

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from ccl_jax import convert
from ccl_jax.errors import UsageError
from ccl_jax.models.vocoder import Generator, synthesize
from ccl_jax.ops.antialias import low_pass
from ccl_jax.weights.bigvgan import Folded, fold, generator_of
from ccl_jax.weights.load import load_params
from ccl_jax.weights.pickles import pickle_entries
from ccl_jax.weights.reader import Weights, open_weights
from ccl_jax.weights.transfer import export_weights, import_weights
from tests.parity import bigvgan_reference as reference
from tests.weights.wan_files import save_legacy, save_pth

VERSION_1 = Generator(
  bands=6,
  channels=16,
  rates=(4, 2),
  kernels=(8, 4),
  blocks=((3, (1, 3, 5)), (7, (1, 3, 5))),
)
# No bias and no tanh; rates and dilations that only the config.json tells.
VERSION_2 = Generator(
  bands=7,
  channels=12,
  rates=(2, 3),
  kernels=(6, 7),
  blocks=((5, (1, 2)), (3, (4, 1))),
  bias=False,
  tanh=False,
)
wave_of = jax.jit(synthesize, static_argnums=0)


def tensors_of(model):
  return {name: x.detach().numpy() for name, x in model.state_dict().items()}


def normed(model) -> dict[str, np.ndarray]:
  """The tensors as the newer way of weight norm names them."""
  names = {"weight_g": "original0", "weight_v": "original1"}
  out = {}
  for name, x in tensors_of(model).items():
    layer, _, part = name.rpartition(".")
    part = f"parametrizations.weight.{names[part]}" if part in names else part
    out[f"{layer}.{part}"] = x
  return out


@pytest.fixture(scope="module")
def first():
  """(model, mel, wave) of a version 1."""
  model = reference.torch_generator(reference.config_of(VERSION_1))
  mel = reference.mel(VERSION_1.bands, 15)
  return model, mel, reference.wave_of(model, mel)


def assert_wave(path, mel, expected, generator):
  """Through the converter's reader, to 1e-4 of the wave's deviation."""
  params, sizes = load_params("vocoder", path)
  assert generator_of(sizes) == generator
  error = np.abs(wave_of(generator, params, mel) - expected).max() / expected.std()
  assert error < 1e-4, error


@pytest.mark.parametrize("form", ["netG.pt", "plain.pth", "legacy", "safetensors"])
def test_every_form_of_version_1(tmp_path, first, form):
  import torch

  model, mel, wave = first
  assert 0.1 < wave.std() < 0.6  # neither silent nor all cut
  if form == "netG.pt":  # as MMAudio's, weight_g and weight_v
    state = {"generator": model.state_dict(), "steps": 7, "epoch": {"of": "training"}}
    torch.save(state, tmp_path / "best_netG.pt")
    path = tmp_path
  elif form == "plain.pth":
    path = tmp_path / "vocoder.pth"
    torch.save(model.state_dict(), path)
  elif form == "legacy":
    path = tmp_path / "vocoder.pth"
    save_legacy(path, tensors_of(model))
  else:
    path = tmp_path / "vocoder.safetensors"
    save_file(normed(model), path)
  assert_wave(path, mel, wave, VERSION_1)


def test_version_2_with_its_config(tmp_path):
  """In the folder that the reference itself saves, loud enough to be clipped."""
  config = reference.config_of(VERSION_2)
  model = reference.torch_generator(config, seed=1, loudness=1.2)
  model._save_pretrained(tmp_path)
  mel = reference.mel(VERSION_2.bands, 15)
  wave = reference.wave_of(model, mel)
  assert 0.02 < np.mean(np.abs(wave) == 1) < 0.5
  assert_wave(tmp_path, mel, wave, VERSION_2)


def test_in_and_out_of_the_converter(tmp_path, first):
  """The export is what the reference loads, without weight norm."""
  import torch

  model, mel, wave = first
  torch.save({"generator": model.state_dict()}, tmp_path / "best_netG.pt")
  about = import_weights("vocoder", tmp_path, tmp_path / "in", verify=True)
  assert about["parameters"] == sum(
    x.numel() for n, x in model.named_parameters() if not n.endswith("weight_g")
  )
  export_weights(tmp_path / "in", tmp_path / "out", form="native", verify=True)
  assert_wave(tmp_path / "out", mel, wave, VERSION_1)

  state = load_file(tmp_path / "out/bigvgan_generator.safetensors")
  config = json.loads((tmp_path / "out/config.json").read_text())
  again = reference.torch_generator(config, seed=9)
  again.remove_weight_norm()
  state = {name: torch.tensor(x) for name, x in state.items()}
  missing, unexpected = again.load_state_dict(state, strict=False)
  assert not unexpected and all(name.endswith(".filter") for name in missing)
  error = np.abs(reference.wave_of(again, mel) - wave).max()
  assert error < 1e-5 * wave.std()
  # And in again, plain as it now is.
  back = import_weights("vocoder", tmp_path / "out", tmp_path / "again")
  assert back["sizes"] == about["sizes"]
  assert back["source"]["sha256"] == about["source"]["sha256"]


def drawn(*shape):
  rng = np.random.default_rng(sum(shape))
  return rng.standard_normal(shape).astype(np.float32)


def test_fold_is_the_formula_and_torch(tmp_path):
  """For a convolution per output, for a transposed one per input: the first axis."""
  torch = pytest.importorskip("torch")
  v, g = drawn(4, 3, 5), drawn(4, 1, 1)
  for i, kernel in enumerate(fold(v, g)):
    length = np.sqrt(np.sum(v[i].astype(np.float64) ** 2))
    np.testing.assert_allclose(kernel, g[i] * v[i] / length, rtol=1e-6)
  for layer in (torch.nn.Conv1d(3, 4, 5), torch.nn.ConvTranspose1d(4, 3, 5)):
    layer = torch.nn.utils.parametrizations.weight_norm(layer)
    parts = layer.parametrizations.weight
    with torch.no_grad():
      parts.original0.copy_(torch.tensor(g))
      parts.original1.copy_(torch.tensor(v))
    np.testing.assert_allclose(fold(v, g), layer.weight.detach(), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("kind", ["old", "new"])
def test_folded_shows_one_kernel_and_no_filters(tmp_path, kind):
  v, g = drawn(4, 3, 5), drawn(4, 1, 1)
  parts = {
    "old": ("weight_v", "weight_g"),
    "new": ("parametrizations.weight.original1", "parametrizations.weight.original0"),
  }[kind]
  tensors = {f"conv_pre.{part}": x for part, x in zip(parts, (v, g))}
  tensors["conv_pre.bias"] = drawn(4)
  tensors["a.upsample.filter"] = low_pass().reshape(1, 1, 12)
  tensors["a.downsample.lowpass.filter"] = low_pass().reshape(1, 1, 12)
  half = {name: x.astype(np.float16) for name, x in tensors.items()}
  for stored, limit in ((tensors, 1e-6), (half, 2e-3)):
    save_file(stored, tmp_path / "x.safetensors")
    weights = Folded(open_weights(tmp_path / "x.safetensors"))
    assert weights.names() == ["conv_pre.bias", "conv_pre.weight"]
    assert "conv_pre.weight" in weights and f"conv_pre.{parts[0]}" not in weights
    assert weights.shape("conv_pre.weight") == (4, 3, 5)
    assert weights.nbytes("conv_pre.weight") == 60 * stored["conv_pre.bias"].itemsize
    assert weights.file_of("conv_pre.weight") == tmp_path / "x.safetensors"
    got = weights.read("conv_pre.weight")
    assert (
      got.dtype == weights.dtype("conv_pre.weight") == stored["conv_pre.bias"].dtype
    )
    np.testing.assert_allclose(got.astype(np.float32), fold(v, g), atol=limit)


def test_a_trainer_s_file_is_its_generator(tmp_path):
  """Of what else is in it, only names are looked at: code is refused as ever."""
  tensors = {"a": drawn(3), "b": drawn(2, 2)}
  torch = pytest.importorskip("torch")
  inner = {name: torch.tensor(x) for name, x in tensors.items()}
  torch.save({"generator": inner, "steps": 3}, tmp_path / "x.pt")
  weights = Weights(tmp_path, dict(pickle_entries(tmp_path / "x.pt")))
  assert weights.names() == ["a", "b"]
  np.testing.assert_array_equal(weights.read("b"), tensors["b"])
  torch.save({"generator": inner, "of": np.dtype}, tmp_path / "x.pt")
  with pytest.raises(UsageError, match="which is refused"):
    list(pickle_entries(tmp_path / "x.pt"))
  save_pth(tmp_path / "y.pth", tensors, {"generator": drawn(2).tolist()})
  with pytest.raises(UsageError, match="generator is no tensor"):
    list(pickle_entries(tmp_path / "y.pth"))


def test_mistakes_are_one_line(tmp_path, first, capsys):
  model, _, _ = first
  tensors = tensors_of(model)

  def message(tensors, config=None):
    save_file(tensors, tmp_path / "x.safetensors")
    (tmp_path / "config.json").write_text(json.dumps(config or {}))
    with pytest.raises(UsageError) as e:
      import_weights("vocoder", tmp_path / "x.safetensors", tmp_path / "in")
    assert "\n" not in str(e.value) and not (tmp_path / "in").exists()
    return str(e.value)

  changed = lambda name, x: tensors | {name: x}
  without = lambda part: {k: v for k, v in tensors.items() if part not in k}
  name = "resblocks.1.activations.2.downsample.lowpass.filter"
  other = tensors[name].copy()
  other[0, 0, 3] += 1e-3
  assert f"{name} is another filter" in message(changed(name, other))
  assert "another filter" in message(changed(name, other[..., 1:-1].copy()))
  assert "is not BigVGAN's generator" in message({"conv_pre.weight": drawn(2, 2, 7)})
  assert "no tensor conv_pre.weight with 3 axes" in message(
    without("conv_pre.weight_g")
  )
  assert "resblocks.0.convs1.0.weight" in message(without("convs1"))
  assert "act.beta" in message(without("beta"))  # another activation
  wrong = changed("ups.1.0.weight_g", drawn(3, 1, 1))
  assert "ups.1.0.weight_g has shape (3, 1, 1), expected (8, 1, 1)" in message(wrong)
  assert "unexpected tensor x" in message(changed("x", drawn(2)))
  assert "snake_logscale" in message(tensors, {"snake_logscale": False})
  assert "for the rate 5" in message(tensors, {"upsample_rates": [5, 2]})
  assert "unexpected tensor" in message(tensors, {"upsample_rates": [4]})


def test_the_command_line_tells_the_licence(tmp_path, first, capsys):
  import torch

  torch.save({"generator": first[0].state_dict()}, tmp_path / "best_netG.pt")
  args = ["--src", str(tmp_path / "best_netG.pt"), "--dst", str(tmp_path / "in")]
  convert.main(["vocoder", *args])
  assert "CC-BY-NC 4.0" in capsys.readouterr().err
  with pytest.raises(SystemExit):
    convert.main(["vocoder", "--help"])
  assert "CC-BY-NC 4.0" in " ".join(capsys.readouterr().out.split())
