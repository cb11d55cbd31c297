"""FAD's features: VGGish against torch's modules, its mel, patches, files."""

import math

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from ccl_jax.errors import UsageError
from ccl_jax.metrics.base import Unscorable
from ccl_jax.metrics.fad import RATE, features, patches
from ccl_jax.models.scorers.vggish import VGGish
from ccl_jax.weights.load import load_network
from ccl_jax.weights.transfer import export_weights, import_weights
from ccl_jax.weights.vggish import shapes_of

torch = pytest.importorskip("torch")
nn = torch.nn

CONVS, DENSE = (3, 4, 5, 6, 7, 8), (20, 16, 10)


class Reference(nn.Module):
  """The published layers, in torch's Sequentials: their numbers are the names."""

  def __init__(self):
    super().__init__()
    layers, into = [], 1
    for width, pooled in zip(CONVS, (1, 1, 0, 1, 0, 1)):
      layers += [nn.Conv2d(into, width, 3, padding=1), nn.ReLU()]
      layers += [nn.MaxPool2d(2, 2)] * pooled
      into = width
    self.features = nn.Sequential(*layers)
    layers, into = [], into * 6 * 4
    for width in DENSE:
      layers += [nn.Linear(into, width), nn.ReLU()]
      into = width
    self.embeddings = nn.Sequential(*layers[:-1])

  def forward(self, mel):
    x = self.features(mel[:, None])
    return self.embeddings(x.permute(0, 2, 3, 1).flatten(1))


@pytest.fixture(scope="module")
def reference():
  torch.manual_seed(0)
  return Reference().eval()


@pytest.fixture(scope="module")
def released(reference, tmp_path_factory):
  path = tmp_path_factory.mktemp("vggish") / "vggish-10086976.pth"
  torch.save(reference.state_dict(), path)
  return path


def sound(samples, seed=0):
  return np.random.default_rng(seed).uniform(-1, 1, samples).astype(np.float32)


def test_torch_s_modules(reference, released):
  wave, net = sound(3 * RATE), load_network("vggish", released)
  mel = patches(wave)
  expected = reference(torch.from_numpy(mel)).detach().numpy()
  got = features(wave, net)
  assert got.shape == expected.shape == (3, 10) and (expected < 0).any()
  np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5)


def test_log_mel_is_the_formula():
  """One number at a time; a frame in the second patch."""
  wave, frame = sound(40000), 96 + 40
  window = [
    float(wave[160 * frame + j]) * (0.5 - 0.5 * math.cos(2 * math.pi * j / 400))
    for j in range(400)
  ]
  power = lambda k: abs(
    sum(x * np.exp(-2j * np.pi * j * k / 512) for j, x in enumerate(window))
  )
  mel = lambda hertz: 1127 * math.log(1 + hertz / 700)
  step = (mel(7500) - mel(125)) / 65
  for band in (0, 1, 30, 63):
    low, peak, high = (mel(125) + step * (band + i) for i in range(3))
    total = 0.0
    for k in range(257):
      place = mel(31.25 * k)
      weight = min((place - low) / (peak - low), (high - place) / (high - peak))
      total += max(weight, 0) * power(k)
    assert patches(wave)[1, 40, band] == pytest.approx(math.log(total + 0.01), abs=1e-5)


def test_patches_are_whole_and_a_tone_is_in_its_band():
  counts = {15599: 0, 15600: 1, 5 * RATE: 5, 10 * RATE: 10}
  for samples, count in counts.items():
    assert patches(sound(samples)).shape == (count, 96, 64)
  tone = np.sin(2 * np.pi * 1000 * np.arange(RATE) / RATE)
  mel = lambda hertz: math.log(1 + hertz / 700)
  band = (mel(1000) - mel(125)) / (mel(7500) - mel(125)) * 65 - 1
  assert abs(patches(tone)[0].mean(0).argmax() - band) < 1
  np.testing.assert_allclose(patches(np.zeros(RATE)), math.log(0.01), rtol=1e-6)


def test_short_sounds_cannot_be_scored(released):
  net = load_network("vggish", released)
  with pytest.raises(Unscorable, match=r"0\.97 s of sound; VGGish needs 0\.975 s"):
    features(sound(15599), net)
  assert features(sound(15600), net).shape == (1, 10)


def test_sizes_of_the_release():
  net = VGGish()
  shapes = shapes_of({"convs": net.convs, "dense": net.dense})
  assert sum(math.prod(x.shape) for x in shapes.values()) == 72_141_184


def test_in_and_out_again_is_the_same_bytes(released, tmp_path):
  import_weights("vggish", released, tmp_path / "in", verify=True)
  export_weights(tmp_path / "in", tmp_path / "out", form="native", verify=True)
  out = load_file(tmp_path / "out/model.safetensors")
  expected = torch.load(released)
  assert set(out) == set(expected)
  for name, x in expected.items():
    assert out[name].tobytes() == x.numpy().tobytes(), name
  np.testing.assert_array_equal(
    features(sound(16000), load_network("vggish", tmp_path / "out")),
    features(sound(16000), load_network("vggish", released)),
  )


def test_mistakes_about_files_are_one_line(reference, tmp_path):
  right = {k: v.numpy() for k, v in reference.state_dict().items()}

  def message(held):
    save_file(held, tmp_path / "vggish.safetensors")
    with pytest.raises(UsageError) as e:
      load_network("vggish", tmp_path)
    assert "\n" not in str(e.value)
    return str(e.value)

  without = lambda part: {k: v for k, v in right.items() if part not in k}
  assert "is not VGGish" in message(without("embeddings"))
  assert "no tensor features.8.weight" in message(without("features.8.weight"))
  assert "no tensor embeddings.2.bias" in message(without("embeddings.2"))
  extra = {"embeddings.6.weight": np.zeros((2, 10), np.float32)}
  assert "unexpected tensor embeddings.6.weight" in message(right | extra)
  shape = {"embeddings.4.weight": np.zeros((10, 15), np.float32)}
  assert "has shape (10, 15), expected (10, 16)" in message(right | shape)
  pca = {"pproc.pca_means": np.zeros((128, 1), np.float32)}
  save_file(right | pca, tmp_path / "vggish.safetensors")
  load_network("vggish", tmp_path)
