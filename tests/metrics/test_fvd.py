"""FVD's features: I3D against a plain torch program, pixels, files, mistakes."""

import math
import re

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from ccl_jax.errors import UsageError
from ccl_jax.metrics.base import Unscorable
from ccl_jax.metrics.fvd import features, film_pixels
from ccl_jax.models.scorers.i3d import I3D, FilmFeatures
from ccl_jax.weights.i3d import shapes_of
from ccl_jax.weights.load import load_network
from ccl_jax.weights.transfer import export_weights, import_weights

torch = pytest.importorskip("torch")
F = torch.nn.functional

FIRST = {"Conv3d_1a_7x7": (6, 3, 7), "Conv3d_2b_1x1": (5, 6, 1)}
FIRST |= {"Conv3d_2c_3x3": (7, 5, 3)}
MIXED = {
  name: (2 + i % 3, 3, 4, 2, 3 + i % 2, 2)
  for i, name in enumerate(["3b", "3c", "4b", "4c", "4d", "4e", "4f", "5b", "5c"])
}
CLASSES = 11


def tensors(seed=0):
  """A small network under the released names, none of its tensors trivial."""
  rng, out = np.random.default_rng(seed), {}
  normal = lambda *shape: rng.standard_normal(shape, dtype=np.float32)

  def unit(name, width, into, kernel):
    scale = (2 / (into * kernel**3)) ** 0.5
    out[f"{name}.conv3d.weight"] = scale * normal(width, into, *3 * (kernel,))
    out[f"{name}.bn.weight"] = 1 + 0.2 * normal(width)
    out[f"{name}.bn.bias"] = 0.3 * normal(width)
    out[f"{name}.bn.running_mean"] = 0.3 * normal(width)
    out[f"{name}.bn.running_var"] = 0.5 + abs(normal(width))
    out[f"{name}.bn.num_batches_tracked"] = np.array(7)

  for name, sizes in FIRST.items():
    unit(name, *sizes)
  width = FIRST["Conv3d_2c_3x3"][0]
  for name, (b0, b1a, b1b, b2a, b2b, b3b) in MIXED.items():
    unit(f"Mixed_{name}.b0", b0, width, 1)
    unit(f"Mixed_{name}.b1a", b1a, width, 1)
    unit(f"Mixed_{name}.b1b", b1b, b1a, 3)
    unit(f"Mixed_{name}.b2a", b2a, width, 1)
    unit(f"Mixed_{name}.b2b", b2b, b2a, 3)
    unit(f"Mixed_{name}.b3b", b3b, width, 1)
    width = b0 + b1b + b2b + b3b
  out["logits.conv3d.weight"] = normal(CLASSES, width, 1, 1, 1) / width**0.5
  out["logits.conv3d.bias"] = normal(CLASSES)
  return out


def same(x, kernel, stride):
  """Zeros for a stride that does not divide: the odd one after."""
  pads = []
  for size, k, s in zip(reversed(x.shape[2:]), reversed(kernel), reversed(stride)):
    total = max(k - s, 0) if size % s == 0 else max(k - size % s, 0)
    pads += [total // 2, total - total // 2]
  return F.pad(x, pads)


def reference(weights, x):
  """Logits of pixels (b, 3, F, H, W), as the published layers run."""
  w = {name: torch.from_numpy(np.asarray(x)) for name, x in weights.items()}

  def unit(x, name, stride=1):
    kernel = w[f"{name}.conv3d.weight"]
    x = same(x, kernel.shape[2:], 3 * (stride,))
    x = F.conv3d(x, kernel, stride=stride)
    norm = (
      f"{name}.bn.{part}" for part in ["running_mean", "running_var", "weight", "bias"]
    )
    return F.relu(F.batch_norm(x, *(w[n] for n in norm), eps=1e-5))

  def pool(x, kernel, stride):
    return F.max_pool3d(same(x, kernel, stride), kernel, stride)

  def mixed(x, name):
    u = lambda x, branch: unit(x, f"{name}.{branch}")
    rows = [u(x, "b0"), u(u(x, "b1a"), "b1b"), u(u(x, "b2a"), "b2b")]
    return torch.cat([*rows, u(pool(x, (3, 3, 3), (1, 1, 1)), "b3b")], 1)

  x = pool(unit(x, "Conv3d_1a_7x7", 2), (1, 3, 3), (1, 2, 2))
  x = unit(unit(x, "Conv3d_2b_1x1"), "Conv3d_2c_3x3")
  x = mixed(mixed(pool(x, (1, 3, 3), (1, 2, 2)), "Mixed_3b"), "Mixed_3c")
  x = pool(x, (3, 3, 3), (2, 2, 2))
  for name in "bcdef":
    x = mixed(x, f"Mixed_4{name}")
  x = mixed(mixed(pool(x, (2, 2, 2), (2, 2, 2)), "Mixed_5b"), "Mixed_5c")
  x = F.avg_pool3d(x, (2, 7, 7), stride=1)
  x = F.conv3d(x, w["logits.conv3d.weight"], w["logits.conv3d.bias"])
  return x.squeeze(3).squeeze(3).mean(2).numpy()


@pytest.fixture(scope="module")
def released(tmp_path_factory):
  folder = tmp_path_factory.mktemp("i3d")
  torch.save(
    {name: torch.from_numpy(np.asarray(x)) for name, x in tensors().items()},
    folder / "i3d_pretrained_400.pt",
  )
  return folder


def film(frames, height=224, width=224):
  rng = np.random.default_rng(frames)
  small = rng.integers(0, 256, (frames, height // 8, width // 8, 3), np.uint8)
  return small.repeat(8, 1).repeat(8, 2)


def test_a_plain_program_of_the_published_layers(released):
  """17 frames: odd after every stride, and two logits to average."""
  net, video = load_network("i3d", released), film(17)
  x = torch.from_numpy(np.moveaxis(video, -1, 0)[None].astype(np.float32))
  expected = reference(tensors(), x / 127.5 - 1)[0]
  got = features(video, net)
  assert got.shape == (CLASSES,) and expected.std() > 0.1
  np.testing.assert_allclose(got, expected, atol=1e-5 * expected.std())


@pytest.mark.parametrize("size", [(240, 320), (320, 240), (160, 96), (230, 224)])
def test_pixels_are_what_torch_makes_of_them(size):
  video = np.random.default_rng(0).integers(0, 256, (2, *size, 3), np.uint8)
  x = torch.from_numpy(np.moveaxis(video, -1, 1).astype(np.float32))
  scale = 224 / min(size)
  target = [224 if n == min(size) else math.ceil(n * scale) for n in size]
  x = F.interpolate(x, target, mode="bilinear", align_corners=False)
  top, left = ((n - 224) // 2 for n in target)
  x = x[:, :, top : top + 224, left : left + 224] / 127.5 - 1
  got = np.asarray(film_pixels(video))
  np.testing.assert_allclose(np.moveaxis(got, -1, 1), x.numpy(), atol=2e-5)
  assert got.min() >= -1 and got.max() <= 1


def test_few_frames_cannot_be_scored():
  with pytest.raises(Unscorable, match="8 frames; I3D needs 9"):
    features(film(8), FilmFeatures({}))
  half = lambda n: -(-n // 2)  # three strides in time, then windows of two
  assert [half(half(half(n))) for n in (8, 9)] == [1, 2]


def test_sizes_of_the_release():
  net = I3D()
  shapes = shapes_of({k: getattr(net, k) for k in ("stem", "mixed", "classes")})
  learnt = [x for path, x in shapes.items() if not re.search("/(mean|var)$", path)]
  assert sum(math.prod(x.shape) for x in learnt) == 12_697_264


def torchscript(path):
  """The same names as attributes of a scripted module."""
  root = torch.nn.Module()
  for name, x in tensors().items():
    *parents, leaf = name.split(".")
    node = root
    for parent in parents:
      if not hasattr(node, parent):
        node.add_module(parent, torch.nn.Module())
      node = getattr(node, parent)
    node.register_buffer(leaf, torch.from_numpy(np.asarray(x)))
  torch.jit.script(root).save(path)


def test_a_scripted_module_is_the_same_network(released, tmp_path):
  torchscript(tmp_path / "i3d_torchscript.pt")
  got, expected = load_network("i3d", tmp_path), load_network("i3d", released)
  assert got.net == expected.net
  jax.tree.map(np.testing.assert_array_equal, got.params, expected.params)


def test_in_and_out_again_is_the_same_bytes(released, tmp_path):
  import_weights("i3d", released, tmp_path / "in", verify=True)
  export_weights(tmp_path / "in", tmp_path / "out", form="native", verify=True)
  out, expected = load_file(tmp_path / "out/model.safetensors"), tensors()
  kept = {name for name in expected if "num_batches" not in name}
  assert set(out) == kept
  assert all(out[name].tobytes() == expected[name].tobytes() for name in kept)


def test_mistakes_about_files_are_one_line(tmp_path):
  def message(held):
    save_file(held, tmp_path / "i3d.safetensors")
    with pytest.raises(UsageError) as e:
      load_network("i3d", tmp_path)
    assert "\n" not in str(e.value)
    return str(e.value)

  right = tensors()
  without = lambda part: {k: v for k, v in right.items() if part not in k}
  assert "is not I3D: no Conv3d_1a_7x7" in message(without("Conv3d"))
  name = "Mixed_4c.b2b.bn.running_var"
  assert f"no tensor {name}" in message(without(name))
  assert "no tensor Mixed_5b.b0.conv3d.weight" in message(without("Mixed_5b"))
  extra = {"Mixed_5c.b4.conv3d.weight": np.zeros((1, 1, 1, 1, 1), np.float32)}
  assert "unexpected tensor Mixed_5c.b4" in message(right | extra)
  assert "has shape (9,)" in message(right | {name: np.zeros(9, np.float32)})
