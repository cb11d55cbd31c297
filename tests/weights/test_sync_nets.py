"""SyncNet and S3FD in and out of the files they are released as."""

import collections
import json
import math
import pathlib

import jax
import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from ccl_jax.convert import main
from ccl_jax.errors import UsageError
from ccl_jax.weights import s3fd, syncnet
from ccl_jax.weights.entries import Entry
from ccl_jax.weights.load import load_network
from ccl_jax.weights.reader import Weights, open_weights
from ccl_jax.weights.rules import match
from ccl_jax.weights.transfer import export_weights, import_weights
from tests.metrics.sync_nets import opened, s3fd_tensors, syncnet_tensors

KINDS = {
  "syncnet": (syncnet, syncnet_tensors, "syncnet_v2.model"),
  "s3fd": (s3fd, s3fd_tensors, "sfd_face.pth"),
}
COUNTERS = "num_batches_tracked"
each_kind = pytest.mark.parametrize("kind", KINDS)


def save(path, tensors, legacy):
  state = {name: torch.from_numpy(np.array(x)) for name, x in tensors.items()}
  torch.save(state, path, _use_new_zipfile_serialization=not legacy)


@pytest.mark.parametrize("legacy", [True, False])
@each_kind
def test_files_of_torch_in_and_out_again(tmp_path, kind, legacy):
  """From a folder with both networks, the same bytes but for training's counters."""
  _, make, name = KINDS[kind]
  tensors = make()
  for *_, draw, file in KINDS.values():
    save(tmp_path / file, draw(), legacy)
  assert (tmp_path / name).read_bytes()[:2] == (b"\x80\x02" if legacy else b"PK")
  about = import_weights(kind, tmp_path, tmp_path / "in", verify=True)
  kept = {n: x for n, x in tensors.items() if COUNTERS not in n}
  assert about["parameters"] == sum(x.size for x in kept.values())
  export_weights(tmp_path / "in", tmp_path / "out", form="native", verify=True)
  written = open_weights(tmp_path / "out")
  assert sorted(written.names()) == sorted(kept)
  for n, x in kept.items():
    assert written.dtype(n) == x.dtype and written.read(n).tobytes() == x.tobytes()
  net, again = load_network(kind, tmp_path), load_network(kind, tmp_path / "out")
  jax.tree.map(np.testing.assert_array_equal, net, again)


class BeforeVersion04:
  """A tensor as torch pickled it then."""

  def __init__(self, x):
    x = torch.from_numpy(np.array(x))
    self.parts = x._typed_storage(), x.storage_offset(), tuple(x.size()), x.stride()

  def __reduce__(self):
    return torch._utils._rebuild_tensor, self.parts


def test_files_of_torch_before_0_4(tmp_path):
  tensors, path = s3fd_tensors(), tmp_path / "sfd_face.pth"
  state = collections.OrderedDict((n, BeforeVersion04(x)) for n, x in tensors.items())
  torch.save(state, path, _use_new_zipfile_serialization=False)
  assert b"_rebuild_tensor\n" in path.read_bytes()
  weights = open_weights(path)
  assert weights.names() == list(tensors)
  for name, x in tensors.items():
    assert (
      weights.shape(name) == x.shape and weights.read(name).tobytes() == x.tobytes()
    )


def test_a_folder_of_a_tokenizer_is_not_taken_for_weights(tmp_path):
  (tmp_path / "spiece.model").write_bytes(b"\n\x0e\n")
  save(tmp_path / "model.pth", {"x": np.zeros(3, np.float32)}, legacy=False)
  assert open_weights(tmp_path).names() == ["x"]
  with pytest.raises(UsageError, match=r"spiece.model is not a weight file"):
    open_weights(tmp_path / "spiece.model")


@pytest.mark.shared
@each_kind
def test_every_released_tensor_has_its_place(shared, kind):
  """Names and shapes of the reference's networks, each used once or a counter."""
  module, _, _ = KINDS[kind]
  keys = json.loads((shared / f"parity/eval/{kind}/keys.json").read_text())
  path = pathlib.Path("full")
  entry = lambda shape: Entry(path, 0, np.dtype(np.float32), tuple(shape))
  full = Weights(path, {name: entry(shape) for name, shape in keys.items()})
  shapes = module.shapes_of(module.sizes_of(full, module.NATIVE, {}))
  matches = match(module.NATIVE, full, shapes, module.UPSTREAM.ignore)
  unused = keys.keys() - {m.name for m in matches}
  assert all(COUNTERS in name for name in unused)
  assert (len(matches), len(unused)) == {"syncnet": (88, 14), "s3fd": (65, 0)}[kind]
  trained = sum(math.prod(m.shape) for m in matches if "running" not in m.name)
  assert trained == {"syncnet": 13_631_616, "s3fd": 22_459_110}[kind]


@each_kind
def test_layouts(kind):
  """Some numbers, by index."""
  _, make, _ = KINDS[kind]
  tensors = make()
  params = opened(kind, tensors).params
  if kind == "s3fd":
    kernel = tensors["vgg.31.weight"]
    assert params["fc6"]["kernel"][2, 0, 5, 3] == kernel[3, 5, 2, 0]
    assert params["norm4"]["scale"][1] == tensors["L2Norm4_3.weight"][1]
    assert params["conf_0"]["bias"].shape == (4,)
  else:
    kernel = tensors["netcnnlip.0.weight"]  # (out, colour, frame, row, column)
    assert (
      params["lips"]["conv_0"]["kernel"][6, 1, 5 * 2 + 3, 1] == kernel[1, 2, 3, 6, 1]
    )
    kernel = tensors["netcnnaud.18.weight"]
    assert params["sound"]["conv_5"]["kernel"][4, 3, 2, 1] == kernel[1, 2, 4, 3]
    norm = params["lips"]["hidden_norm"]
    np.testing.assert_array_equal(norm["var"], tensors["netfclip.1.running_var"])


@each_kind
def test_mistakes_about_files_are_one_line(tmp_path, kind):
  _, make, _ = KINDS[kind]
  tensors = make()

  def message(tensors):
    save_file(tensors, tmp_path / "x.safetensors")
    with pytest.raises(UsageError) as e:
      load_network(kind, tmp_path / "x.safetensors")
    assert "\n" not in str(e.value)
    return str(e.value)

  bias, first, title = {
    "syncnet": ("netfclip.3.bias", "netcnnaud.0.weight", "no SyncNet"),
    "s3fd": ("loc.2.bias", "extras.0.weight", "no S3FD face detector"),
  }[kind]
  without = lambda name: {n: x for n, x in tensors.items() if n != name}
  assert title in message({"visual.head": np.zeros(3)})
  assert f"no tensor {bias}" in message(without(bias))
  assert f"no tensor {first}, which every" in message(without(first))
  extra = {"netcnnlip.30.weight": np.zeros(2, np.float32)}
  assert "unexpected tensor netcnnlip.30.weight" in message(tensors | extra)
  wrong = {bias: np.zeros(99, np.float32)}
  assert f"{bias} has shape (99,), expected" in message(tensors | wrong)


def test_the_command_line(tmp_path, capsys):
  save(tmp_path / "syncnet_v2.model", syncnet_tensors(), legacy=True)
  source, target = str(tmp_path / "syncnet_v2.model"), str(tmp_path / "in")
  main(["syncnet", "--src", source, "--dst", target])
  assert capsys.readouterr().out == f"{target}\n"
  about = json.loads((tmp_path / "in/config.json").read_text())
  assert about["kind"] == "syncnet" and about["sizes"]["lips"]["out"] == 8
  with pytest.raises(SystemExit) as e:
    main(["s3fd", "--src", source, "--dst", str(tmp_path / "other")])
  assert e.value.code == 2 and "is no S3FD face detector" in capsys.readouterr().err
