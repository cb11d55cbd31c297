"""A release's file is told by its digest, and everyone is told where to get one."""

import hashlib

import pytest

from ccl_jax import convert
from ccl_jax.metrics.base import Unscorable
from ccl_jax.metrics.registry import RELEASED as EVAL
from ccl_jax.metrics.registry import Folders
from ccl_jax.weights import released, transfer
from ccl_jax.weights.released import RELEASED, Released, compared
from ccl_jax.weights.sources import SOURCES
from ccl_jax.weights.upstream import MODULES
from tests.weights import release_files
from tests.weights.test_round_trip import SIZES
from tests.weights.wan_files import save_pth


def test_a_file_by_its_digest(tmp_path, monkeypatch):
  raw = b"abc"  # FIPS 180-2's example, and RFC 1321's
  sha = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
  known = {
    "a.pth": Released("A", 3, "sha256", sha),
    "b.pth": Released("B", None, "md5", "900150983cd24fb0d6963f7d28e17f72"),
  }
  monkeypatch.setattr(released, "RELEASED", known)
  for name in (*known, "c.pth"):
    (tmp_path / name).write_bytes(raw)
  assert (
    compared(tmp_path / "a.pth") == "a.pth is the file of A's release, byte for byte"
  )
  assert "B's release, byte for byte" in compared(tmp_path / "b.pth")
  assert compared(tmp_path / "c.pth") is None
  for name in known:
    (tmp_path / name).write_bytes(b"abd")
    assert "but other bytes" in compared(tmp_path / name)
    (tmp_path / name).write_bytes(b"abcd")
  assert compared(tmp_path / "a.pth") is None  # another size: another model
  assert "but other bytes" in compared(tmp_path / "b.pth")


def test_digests_are_digests():
  for known in RELEASED.values():
    size = 2 * hashlib.new(known.algorithm).digest_size
    assert len(known.digest) == size and int(known.digest, 16)


def test_verify_says_it(tmp_path, capsys):
  tensors = release_files.tensors("umt5", SIZES["umt5"], "native")
  path = tmp_path / "v1-16.pth"  # a name of MMAudio's
  save_pth(path, tensors)
  transfer.import_weights("umt5", path, tmp_path / "a", verify=True)
  assert "v1-16.pth has the name of a file of MMAudio's rel" in capsys.readouterr().err
  transfer.import_weights("umt5", path, tmp_path / "b")
  assert "MMAudio" not in capsys.readouterr().err


def test_every_network_has_a_source(tmp_path, capsys):
  assert SOURCES.keys() == {"wan", "ovi", "whisper", *MODULES}
  with pytest.raises(SystemExit):
    convert.main(["vocoder", "--help"])
  out = capsys.readouterr().out
  assert "To get it: --src hf:hkchengrex/MMAudio/ext_weights/best_netG.pt" in out
  for network in EVAL:
    with pytest.raises(
      Unscorable, match=f"missing weights of {network}: .*To get it: "
    ):
      Folders([tmp_path]).find(network)
  (tmp_path / "whisper-large-v3.pt").touch()
  with pytest.raises(
    Unscorable, match="large-v3.pt is a file; expected Whisper as a fol"
  ):
    Folders([tmp_path]).find("whisper")
