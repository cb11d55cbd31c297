"""What `app` does with its flags, told by a pipeline and a page that only listen."""

import socket
import types

import numpy as np
import pytest
from safetensors.numpy import save_file

from ccl_jax import app
from ccl_jax.generation import api
from ccl_jax.viz import __main__ as viz


@pytest.fixture
def told(monkeypatch):
  """What is loaded and served; the page's own module needs gradio, and is not read."""
  told = {}

  def launched(page, host, port):
    told.update(page=page, host=host, port=port)
    raise KeyboardInterrupt

  layout = types.ModuleType("ccl_jax.page.layout")
  layout.page_of, layout.launched = lambda pipe, loras: (pipe, loras), launched
  monkeypatch.setitem(app.sys.modules, "ccl_jax.page.layout", layout)
  monkeypatch.setattr(app.importlib.util, "find_spec", lambda name: name)
  load = lambda ckpt, **options: told.update(ckpt=ckpt, **options) or "pipe"
  monkeypatch.setattr(api.Pipeline, "load", load)
  return told


def run(*argv):
  with pytest.raises(SystemExit) as e:
    app.main(list(argv))
  return e.value.code


def test_what_is_loaded_and_served(told, tmp_path, capsys):
  """--ckpt --codecs --step --weights --lora --mesh --vae_tile --host --port"""
  assert run("--ckpt", "here") == 130
  assert capsys.readouterr().err.strip().endswith("stopped")
  assert told == {
    "ckpt": "here", "choices": [], "codecs": None, "step": None, "weights": None,
    "mesh": None, "vae_tile": "auto", "page": ("pipe", []),
    "host": "127.0.0.1", "port": 7860,
  }  # fmt: skip
  save_file({"x": np.zeros(1)}, tmp_path / "x.safetensors")
  lora = f"{tmp_path / 'x.safetensors'}:0.5"
  flags = ["--ckpt=run", "--codecs=c", "--step=3", "--weights=params", f"--lora={lora}"]
  flags += ["--mesh=1,2,1,1", "--vae_tile=64", "--host=127.0.0.2", "--port=7999"]
  assert run(*flags) == 130
  assert told == {
    "ckpt": "run", "choices": [lora], "codecs": "c", "step": 3, "weights": "params",
    "mesh": (1, 2, 1, 1), "vae_tile": "64", "page": ("pipe", [lora]),
    "host": "127.0.0.2", "port": 7999,
  }  # fmt: skip


def test_mistakes_before_anything_is_loaded(told, monkeypatch, capsys):
  with socket.socket() as taken:
    taken.bind(("127.0.0.1", 0))
    taken.listen()
    busy = str(taken.getsockname()[1])
    for flags, words in (
      ([f"--port={busy}"], f"cannot listen at 127.0.0.1:{busy}"),
      (["--port=0"], "--port: got 0; expected 1 to 65535"),
      (["--host=192.0.2.1"], "cannot listen at 192.0.2.1:7860"),
      (["--mesh=1,x"], "--mesh 1,x"),
      (["--lora=none.safetensors"], "no file or folder none.safetensors"),
      (["--weights=adam"], "invalid choice: 'adam'"),
    ):
      assert run("--ckpt=here", *flags) == 2
      error = capsys.readouterr().err
      assert words in error and error.startswith("error: "), error
      assert error.count("\n") == 1, error
  monkeypatch.setattr(app.importlib.util, "find_spec", lambda name: None)
  assert run("--ckpt=here") == 2
  assert "pip install 'ccl_jax[app]'" in capsys.readouterr().err
  assert run() == 2  # --ckpt
  assert told == {}


def test_help_has_the_defaults_that_there_are(capsys):
  """None and off are no defaults to be told; 0 is one."""
  assert run("--help") == 0
  page = capsys.readouterr().out
  for told in ("(default: 7860)", "127.0.0.1)", "(default: auto)"):
    assert told in page
  assert page.count("default") == 3
  with pytest.raises(SystemExit):
    viz.main(["attention", "--help"])
  assert "Of the clip and the noise. (default: 0)" in capsys.readouterr().out
