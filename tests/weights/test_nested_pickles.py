"""Pickles that hold more than tensors: settings, nested dicts, TorchScript."""

import numpy as np
import pytest

from ccl_jax.errors import UsageError
from ccl_jax.weights.pickles import plain_values
from ccl_jax.weights.reader import open_weights

torch = pytest.importorskip("torch")


def network():
  torch.manual_seed(0)
  inner = torch.nn.Sequential(torch.nn.Conv1d(3, 4, 2), torch.nn.BatchNorm1d(4))
  return torch.nn.Sequential(inner, torch.nn.Linear(5, 2))


def assert_same(path, state):
  weights = open_weights(path)
  assert set(weights.names()) == set(state)
  for name, x in state.items():
    np.testing.assert_array_equal(weights.read(name), x.numpy())


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("key", ["state_dict", "model"])
def test_tensors_among_settings(tmp_path, key, zipped):
  state = network().state_dict()
  held = {"epoch": 3, "args": {"lr": 1e-3, "name": "x"}, key: state, "best": None}
  torch.save(held, tmp_path / "a.pt", _use_new_zipfile_serialization=zipped)
  assert_same(tmp_path / "a.pt", state)
  about = plain_values(tmp_path / "a.pt")
  assert about == {"epoch": 3, "args": {"lr": 1e-3, "name": "x"}, "best": None}


def test_a_network_with_a_tensor_called_model(tmp_path):
  state = {"model": torch.ones(3), "x": torch.zeros(2)}
  torch.save(state, tmp_path / "a.pt")
  assert_same(tmp_path / "a.pt", state)
  assert plain_values(tmp_path / "a.pt") == {}


def test_settings_alone(tmp_path):
  torch.save({"epoch": 3}, tmp_path / "a.pt")
  with pytest.raises(UsageError, match="epoch is no tensor"):
    open_weights(tmp_path / "a.pt")
  torch.save({"model": {"epoch": 3}}, tmp_path / "b.pt")
  with pytest.raises(UsageError, match="epoch is no tensor"):
    open_weights(tmp_path / "b.pt")


@pytest.mark.parametrize("how", ["script", "trace", "frozen"])
def test_torchscript(tmp_path, how):
  net = network().eval()
  state = net.state_dict()
  if how == "trace":
    scripted = torch.jit.trace(net, torch.zeros(1, 3, 6))
  else:
    scripted = torch.jit.script(net)
  if how == "frozen":  # parameters become constants of the code, which is not read
    torch.jit.freeze(scripted).save(tmp_path / "a.pt")
    with pytest.raises(UsageError, match="holds no tensors"):
      open_weights(tmp_path / "a.pt")
    return
  scripted.save(tmp_path / "a.pt")
  assert_same(tmp_path / "a.pt", state)
