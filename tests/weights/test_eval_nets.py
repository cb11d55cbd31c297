"""Checkpoints of the metrics' networks: every key, every form, and what is wrong."""

import json
import math
import re

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from ccl_jax import convert
from ccl_jax.errors import UsageError
from ccl_jax.models.scorers.synchformer import SynchformerNet
from ccl_jax.weights.load import load_network
from ccl_jax.weights.rules import expected_tensors, match
from ccl_jax.weights.transfer import export_weights, import_weights
from tests.weights.eval_files import KINDS, SYNCHFORMER, UNREAD, Names, eval_tensors
from tests.weights.wan_files import save_legacy, save_pth

NETWORKS = ("synchformer", "imagebind")
every = pytest.mark.parametrize("kind", NETWORKS)
STEM = {"synchformer": "synchformer_state_dict", "imagebind": "imagebind"}


@pytest.fixture(scope="module")
def tensors():
  return {kind: eval_tensors(kind) for kind in NETWORKS}


@pytest.fixture(scope="module")
def loaded(tmp_path_factory, tensors):
  """The networks of plain files."""
  folder, out = tmp_path_factory.mktemp("plain"), {}
  for kind in NETWORKS:
    save_file(tensors[kind], folder / f"{kind}.safetensors")
    out[kind] = load_network(kind, folder / f"{kind}.safetensors")
  return out


@every
def test_sizes_are_read_from_the_tensors(loaded, kind):
  net, (_, sizes) = loaded[kind], KINDS[kind]
  if kind == "imagebind":
    assert net.heads == (sizes["vision"]["heads"], sizes["audio"]["heads"])
    return
  same = sizes.keys() - {"times", "grid", "depths"}
  assert {k: getattr(net.net, k) for k in same} == {k: sizes[k] for k in same}
  assert net.net.depths == tuple(sizes["depths"])


@every
@pytest.mark.parametrize("form", ["model", "state_dict", "module.", "legacy", "folder"])
def test_every_form_of_download(tmp_path, tensors, loaded, kind, form):
  path = tmp_path / "x.pth"
  if form == "module.":
    save_pth(path, {f"module.{n}": x for n, x in tensors[kind].items()}, inside="model")
  elif form == "legacy":
    save_legacy(path, tensors[kind])
  elif form == "folder":
    save_file(tensors[kind], tmp_path / f"{STEM[kind]}.safetensors")
    save_file({"x": np.zeros(3)}, tmp_path / "another.safetensors")
    path = tmp_path
  else:
    save_pth(path, tensors[kind], inside=form)
  got = load_network(kind, path)
  jax.tree.map(np.testing.assert_array_equal, got.params, loaded[kind].params)


@every
def test_in_and_out_again_is_the_same_bytes(tmp_path, tensors, kind):
  save_pth(tmp_path / "x.pth", tensors[kind], inside="state_dict")
  about = import_weights(kind, tmp_path / "x.pth", tmp_path / "in", verify=True)
  read = {n: x for n, x in tensors[kind].items() if n not in UNREAD[kind]}
  assert about["parameters"] == sum(x.size for x in read.values())
  assert ("CC BY-NC-SA 4.0" in about["licence"]) == (kind == "imagebind")
  export_weights(tmp_path / "in", tmp_path / "out", form="native", verify=True)
  got = load_file(tmp_path / "out" / f"{STEM[kind]}.safetensors")
  assert got.keys() == read.keys()
  for name, x in read.items():
    assert got[name].tobytes() == x.tobytes() and got[name].shape == x.shape, name
  again = load_network(kind, tmp_path / "out")
  plain = load_network(kind, tmp_path / "x.pth")
  jax.tree.map(np.testing.assert_array_equal, again.params, plain.params)


@every
def test_mistakes_about_files_are_one_line(tmp_path, tensors, kind):
  good = tensors[kind]
  names = {
    "synchformer": ("transformer.blocks.0.ln1.bias", "transformer.OFF_tok"),
    "imagebind": (
      "modality_trunks.vision.blocks.1.norm_2.bias",
      "modality_preprocessors.vision.rgbt_stem.proj.1.weight",
    ),
  }
  name, first = names[kind]

  def message(tensors):
    save_file(tensors, tmp_path / "x.safetensors")
    with pytest.raises(UsageError) as e:
      load_network(kind, tmp_path / "x.safetensors")
    assert "\n" not in str(e.value)
    return str(e.value)

  less = {n: x for n, x in good.items() if n != name}
  assert f"no tensor {name}" in message(less)
  assert f"unexpected tensor {name}.more" in message(
    good | {f"{name}.more": good[name]}
  )
  bad = good | {name: np.zeros(5, np.float32)}
  assert f"{name} has shape (5,), expected {good[name].shape}" in message(bad)
  other = {n: x for n, x in good.items() if n != first}
  assert re.search(f"is no (Synchformer|ImageBind): it has no {first}", message(other))
  head = (
    "transformer.off_head.bias"
    if kind == "synchformer"
    else ("modality_heads.audio.2.weight")
  )
  less = {n: x for n, x in good.items() if n != head}
  assert f"no tensor {head}, which every" in message(less)


@pytest.mark.shared
@every
def test_every_released_key_is_read_or_named(shared, kind):
  folder = shared / "parity/eval" / kind
  weights, upstream = Names(folder / "keys.json"), KINDS[kind][0].UPSTREAM
  config = json.loads((folder / "config.json").read_text())
  sizes = upstream.sizes(weights, upstream.tables["native"], config)
  matches = match(
    upstream.tables["native"], weights, upstream.shapes(sizes), upstream.ignore
  )
  unread = set(weights.names()) - {m.name for m in matches}
  if kind == "synchformer":
    assert unread == UNREAD[kind].keys()
    assert sum(math.prod(weights.shape(n)) for n in weights.names()) == 237_460_245
  else:
    assert {n.split(".")[1] for n in unread} == {"text", "depth", "thermal", "imu"}
    assert sizes["vision"]["heads"] == sizes["audio"]["heads"] == 4


@pytest.mark.parametrize(
  "kind, keys, parameters", [("synchformer", 511, 236_869_653),
                             ("imagebind", 569, 719_065_089)],
)  # fmt: skip
def test_sizes_of_the_releases(kind, keys, parameters):
  net, towers = SynchformerNet(), {}
  for name, (width, depth) in {"vision": (1280, 32), "audio": (768, 12)}.items():
    towers[name] = dict(width=width, heads=1, hidden=4 * width, depth=depth, out=1024)
  fields = SYNCHFORMER.keys() - {"times", "grid"}
  full = {
    "synchformer": {k: getattr(net, k) for k in fields} | {"times": 8, "grid": 14},
    "imagebind": towers | {"grid": 16},
  }[kind]
  module, _ = KINDS[kind]
  matches = expected_tensors(module.NATIVE, module.shapes_of(full))
  assert len(matches) == keys
  assert sum(math.prod(m.shape) for m in matches) == parameters


def test_the_command_line_says_whose_weights_they_are(tmp_path, tensors, capsys):
  save_file(tensors["imagebind"], tmp_path / "x.safetensors")
  source, out = str(tmp_path / "x.safetensors"), str(tmp_path / "in")
  convert.main(["imagebind", "--src", source, "--dst", out])
  said = capsys.readouterr()
  assert "CC BY-NC-SA 4.0" in said.err
  assert said.out.strip() == out
  with pytest.raises(SystemExit):
    convert.main(["imagebind", "--help"])
  assert "CC BY-NC-SA 4.0: no commercial use" in capsys.readouterr().out
