"""AudioBox Aesthetics: golden scores, the published package, windows, files."""

import json
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from ccl_jax.errors import UsageError
from ccl_jax.metrics.aesthetics import RATE, WINDOW, Aesthetics, score, windows
from ccl_jax.metrics.base import Unscorable
from ccl_jax.models.scorers.aesthetics import AXES, AestheticsNet
from ccl_jax.models.scorers.wavlm import WavLM, bucket, frame_mask
from ccl_jax.weights.aesthetics import net_of, shapes_of
from ccl_jax.weights.load import load_network
from ccl_jax.weights.transfer import export_weights, import_weights
from tests.parity.cases_aesthetics import cases_aesthetics

SIZES = dict(
  channels=6, width=16, ffn=24, heads=2, depth=2, buckets=16, taps=8, groups=4
)
SCALE = {axis: {"mean": 5.0 + i, "std": 1.0 + 0.1 * i} for i, axis in enumerate(AXES)}


@pytest.mark.shared
def test_golden_scores_at_full_size(shared):
  case = shared / "parity/eval/audiobox_aesthetics"
  results = cases_aesthetics(case)
  assert [name for name, *_ in results] == list(AXES)
  for _, got, expected, limit in results:
    assert np.abs(got - expected).max() < limit * expected.std()


def draw(shapes, seed=0):
  """Tensors none of which is zero, about as large as trained ones."""
  rng, out = np.random.default_rng(seed), {}
  for name, shape in shapes.items():
    x = rng.standard_normal(shape, dtype=np.float32)
    if len(shape) > 1:
      x /= math.sqrt(math.prod(shape[1:]))
    elif name.endswith("weight"):
      x = 1 + 0.2 * x
    out[name] = x * np.float32(
      3 if "relative" in name or "layer_weights" in name else 1
    )
  return out


@pytest.fixture(scope="module")
def package():
  """The published package's network, small: (module, state dict)."""
  pytest.importorskip("torch")
  aes = pytest.importorskip("audiobox_aesthetics.model.aes")
  wavlm = aes.DEFAULT_AUDIO_CFG
  small = {
    "encoder_layers": SIZES["depth"], "encoder_embed_dim": SIZES["width"],
    "encoder_ffn_embed_dim": SIZES["ffn"], "encoder_attention_heads": SIZES["heads"],
    "conv_feature_layers": "[(6,10,5)] + [(6,3,2)] * 4 + [(6,2,2)] * 2",
    "conv_pos": SIZES["taps"], "conv_pos_groups": SIZES["groups"],
    "num_buckets": SIZES["buckets"],
  }  # fmt: skip
  before = {name: getattr(wavlm, name) for name in small}
  wavlm.update(small)
  yield aes
  wavlm.update(before)


def published(aes, seed=0, **options):
  """(network, tensors) of the package, with drawn weights."""
  import torch

  net = aes.AesMultiOutput(nth_layer=1 + SIZES["depth"], **options).eval()
  tensors = draw({k: tuple(v.shape) for k, v in net.state_dict().items()}, seed)
  net.load_state_dict({k: torch.from_numpy(x) for k, x in tensors.items()})
  return net, tensors


def release(folder, tensors, **config):
  folder.mkdir()
  save_file(tensors, folder / "model.safetensors")
  about = {"normalize_embed": True, "target_transform": SCALE} | config
  (folder / "config.json").write_text(json.dumps(about))
  return folder


HEADS = [  # a single dense layer, the default, is in the test of a clip
  dict(proj_num_layer=3, proj_ln=True, normalize_embed=True),
  dict(proj_num_layer=3, proj_ln=False, proj_dropout=0.1, normalize_embed=False),
]


@pytest.mark.parametrize("head", HEADS)
def test_the_published_package(package, tmp_path, head):
  """Rows of a batch that end at a frame's edge, inside one, and nowhere."""
  import torch

  net, tensors = published(package, **head)
  model = load_network("aesthetics", release(tmp_path / "w", tensors, **head))
  wave = np.random.default_rng(1).standard_normal((3, 12011), dtype=np.float32)
  valid = np.arange(12011)[None] < np.array([[12011], [6400], [5001]])
  wave = np.where(valid, wave, 0)
  got = jax.jit(model.net.apply)({"params": model.params}, wave, valid)
  batch = {"wav": wave[:, None], "mask": valid[:, None]}
  expected = net({k: torch.from_numpy(v) for k, v in batch.items()})
  for axis in AXES:
    np.testing.assert_allclose(got[axis], expected[axis].numpy(), rtol=2e-5, atol=2e-5)


def test_a_clip_as_the_published_procedure_scores_it(package, tmp_path):
  """12.5 s: a full window, and a quarter of one that counts a quarter as much."""
  import torch

  net, tensors = published(package, 3)
  model = load_network("aesthetics", release(tmp_path / "w", tensors))
  wave = np.random.default_rng(2).standard_normal(200_000).astype(np.float32) / 9
  padded = np.pad(wave, (0, 120_000)).reshape(2, 1, 160_000)
  mask = np.arange(320_000).reshape(2, 1, 160_000) < 200_000
  raw = net({"wav": torch.from_numpy(padded), "mask": torch.from_numpy(mask)})
  got = score(wave, model)
  assert list(got) == list(AXES)
  for axis in AXES:
    parts = raw[axis].numpy() * SCALE[axis]["std"] + SCALE[axis]["mean"]
    assert got[axis] == pytest.approx(parts @ [0.8, 0.2], abs=2e-5)
    assert abs(parts[0] - parts[1]) > 1e-3  # so that the weights matter


def test_windows_of_5_10_and_25_seconds():
  for seconds, lengths in ((5, [5]), (10, [10]), (25, [10, 10, 5])):
    wave = np.arange(seconds * RATE) / RATE
    cut, n = windows(wave)
    assert cut.shape == (len(lengths), WINDOW)
    np.testing.assert_array_equal(n, RATE * np.array(lengths))
    np.testing.assert_array_equal(cut.ravel()[: len(wave)], wave)
    assert not cut.ravel()[len(wave) :].any()


class Recorder(AestheticsNet):
  """Scores that are the number of samples of sound, in the axis's units."""

  def apply(self, variables, wave, valid):
    return {axis: (i + 1.0) * valid.sum(1) for i, axis in enumerate(AXES)}


def test_windows_weigh_as_much_as_their_sound():
  model = Aesthetics({}, Recorder(), ((1.0, 2.0),) * 4)
  got = score(np.ones(25 * RATE, np.float32), model)
  mean = (2 * WINDOW**2 + (WINDOW / 2) ** 2) / (2.5 * WINDOW)
  for i, axis in enumerate(AXES):
    assert got[axis] == pytest.approx(2 * (i + 1) * mean + 1, rel=1e-6)


def test_what_cannot_be_scored():
  model = Aesthetics({}, Recorder(), ((0.0, 1.0),) * 4)
  with pytest.raises(Unscorable, match="empty"):
    score(np.zeros(0, np.float32), model)
  with pytest.raises(Unscorable, match="not numbers"):
    score(np.array([0.0, np.nan], np.float32), model)


def test_only_the_mask_hides_padding(package, tmp_path):
  _, tensors = published(package, 5)
  model = load_network("aesthetics", release(tmp_path / "w", tensors))
  run = jax.jit(Aesthetics.__call__)
  wave = np.random.default_rng(0).standard_normal((1, 16000), dtype=np.float32)
  valid = np.arange(16000)[None] < 8000
  hidden, seen = (run(model, wave * valid, mask) for mask in (valid, valid | True))
  assert np.abs(hidden - seen).min() > 1e-3


def test_frames_with_any_sound_are_kept():
  valid = np.arange(103)[None] < np.array([[103], [21], [20], [0]])
  got = np.asarray(frame_mask(jnp.asarray(valid), 5))
  np.testing.assert_array_equal(got.sum(1), [5, 2, 1, 0])


def test_buckets_are_those_of_the_reference():
  """The formula, except within a rounding of a range's first offset."""
  offset = np.arange(-1200, 1201)
  got = bucket(offset, 320)
  assert got[offset == 0] == 0 and got.min() == 0 and got.max() == 319
  for d, row in zip(offset.tolist(), got.tolist()):
    exact = 80 + math.log(max(abs(d), 80) / 80) / math.log(10) * 80
    far = min(math.floor(exact + 1e-9), 159)
    assert row == (abs(d) if abs(d) < 80 else far) + 160 * (d > 0), d
  torch = pytest.importorskip("torch")
  d = torch.arange(80, 1201)
  ratio = torch.log(d.float() / 80) / math.log(10) * 80
  far = torch.clamp(80 + ratio.to(torch.long), max=159)
  np.testing.assert_array_equal(bucket(-d.numpy(), 320), far.numpy())


def test_sizes_and_tensors_of_the_release():
  sizes = {"wavlm": {"kernels": WavLM().kernels}, "dense": [0], "norms": False}
  sizes |= {"unit": True, "scale": [[0, 1]] * 4}
  count = sum(math.prod(x.shape) for x in shapes_of(sizes).values())
  assert count + 768 == 94_385_064  # with mask_emb, which nothing reads
  assert net_of(sizes) == AestheticsNet()


@pytest.mark.parametrize("form", ["native", "checkpoint"])
def test_in_and_out_again_is_the_same_bytes(package, tmp_path, form):
  import torch

  _, tensors = published(package, 1, proj_num_layer=2, proj_ln=True)
  if form == "native":
    source = release(tmp_path / "w", tensors)
  else:
    state = {f"model.{k}": torch.from_numpy(x) for k, x in tensors.items()}
    config = {"normalize_embed": True, "proj_num_layer": 2, "precision": "bf16"}
    held = {"state_dict": state, "model_cfg": config, "target_transform": SCALE}
    source = tmp_path / "checkpoint.pt"
    torch.save(held, source)
  about = import_weights("aesthetics", source, tmp_path / "in", verify=True)
  assert about["source"]["format"] == form
  assert about["sizes"]["wavlm"].items() >= SIZES.items()
  export_weights(tmp_path / "in", tmp_path / "out", form="native", verify=True)
  out = load_file(tmp_path / "out/model.safetensors")
  assert set(tensors) - set(out) == {"wavlm_model.mask_emb"}
  assert all(out[k].tobytes() == tensors[k].tobytes() for k in out)
  again, first = (
    load_network("aesthetics", tmp_path / "out"),
    load_network("aesthetics", source),
  )
  assert (again.net, again.scale) == (first.net, first.scale)
  jax.tree.map(np.testing.assert_array_equal, again.params, first.params)


def test_mistakes_about_files_are_one_line(package, tmp_path):
  _, tensors = published(package)
  number = iter(range(99))

  def message(tensors, **config):
    with pytest.raises(UsageError) as e:
      load_network(
        "aesthetics", release(tmp_path / str(next(number)), tensors, **config)
      )
    assert "\n" not in str(e.value)
    return str(e.value)

  without = lambda part: {k: v for k, v in tensors.items() if part not in k}
  assert "is not AudioBox Aesthetics" in message({"x": np.zeros(3)})
  assert "no tensor wavlm_model.encoder.pos_conv.0.weight_v" in message(
    without("weight_v")
  )
  assert re.search(r"no tensor .*layers\.1\.fc2\.bias", message(without("1.fc2.bias")))
  extra = tensors | {"proj_layer.XX.0.weight": np.zeros((1, 16), np.float32)}
  assert "unexpected tensor proj_layer.XX.0.weight" in message(extra)
  wide = tensors | {"layer_weights.PQ": np.zeros(5, np.float32)}
  assert "layer_weights.PQ has shape (5,), expected (3,)" in message(wide)
  assert "no target_transform" in message(tensors, target_transform=None)
  assert "use_weighted" in message(tensors, use_weighted_layer_sum=False)
