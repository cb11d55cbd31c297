"""A disk that fails says nothing against a file, which is not called damaged."""

import errno
import json

import jax.numpy as jnp
import pytest
from safetensors.numpy import save_file

from ccl_jax.codecs import bundle
from ccl_jax.errors import UsageError
from ccl_jax.weights import pickles

FAILED = OSError(errno.EIO, "Input/output error")


@pytest.mark.parametrize("error", [FAILED, MemoryError()], ids=repr)
@pytest.mark.parametrize("start", [b"PK", b"\x80\x02"])
def test_a_pickle(tmp_path, monkeypatch, start, error):
  (tmp_path / "a.pt").write_bytes(start + bytes(100))

  def read(path):
    raise error

  monkeypatch.setattr(pickles, "_read_zip", read)
  monkeypatch.setattr(pickles, "_read_legacy", read)
  with pytest.raises(UsageError, match="cannot read .*a.pt: .*[Ee]rror"):
    list(pickles.pickle_entries(tmp_path / "a.pt"))


def test_a_codec(tmp_path, monkeypatch):
  about = {"kind": "", "static": {}, "sha256": 64 * "0"}
  (tmp_path / "video.json").write_text(json.dumps(about))
  save_file({"x": jnp.ones(3).__array__()}, tmp_path / "video.safetensors")

  def read(path):
    raise FAILED

  monkeypatch.setattr(bundle, "load_file", read)
  with pytest.raises(UsageError, match="cannot read the video codec .*Input/output"):
    bundle.load_codecs(tmp_path)
