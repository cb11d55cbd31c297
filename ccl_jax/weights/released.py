"""Whether a file is a release's, byte for byte: shapes tell a network, no training.

Digests are those that the releases publish, or that stand beside their files where they
are downloaded. Other releases publish none.
"""

import hashlib
import pathlib
from typing import NamedTuple

from ccl_jax.errors import UsageError
from ccl_jax.hub import digest_of, origin


class Released(NamedTuple):
  """A published file: who made it, its size in bytes if known, and its digest."""

  of: str
  size: int | None
  algorithm: str
  digest: str


RELEASED = {
  "Wan2.1_VAE.pth": Released(
    "Wan2.1",
    507_609_880,
    "sha256",
    "38071ab59bd94681c686fa51d75a1968f64e470262043be31f7a094e442fd981",
  ),
  "models_t5_umt5-xxl-enc-bf16.pth": Released(
    "Wan2.1",
    11_361_920_418,
    "sha256",
    "7cace0da2b446bbbbc57d031ab6cf163a3d59b366da94e5afe36745b746fd81d",
  ),
  "diffusion_pytorch_model.safetensors": Released(
    "Wan2.1-T2V-1.3B",
    5_676_070_424,
    "sha256",
    "96b6b242ca1c2f24e9d02cd6596066fab6d310e2d7538f33ae267cb18d957e8f",
  ),
  "v1-16.pth": Released("MMAudio", None, "md5", "69f56803f59a549a1a507c93859fd4d7"),
  "v1-44.pth": Released("MMAudio", None, "md5", "fab020275fa44c6589820ce025191600"),
  "best_netG.pt": Released("MMAudio", None, "md5", "eeaf372a38a9c31c362120aba2dde292"),
  "synchformer_state_dict.pth": Released(
    "MMAudio", None, "md5", "5b2f5594b0730f70e41e549b7c94390c"
  ),
}


def compared(path: pathlib.Path) -> str | None:
  """What a comparison with the release's file of this name says, or of a file of the
  hub with the digest that it has there; None: there is none.

  Raises:
    UsageError: the file cannot be read.
  """
  known = RELEASED.get(path.name)
  try:
    if known and known.size not in (None, path.stat().st_size):
      known = None  # of another model, or in another precision
    if known is None:
      digest, address = digest_of(path), origin(path)
      if digest is None or _digest(path, "sha256") == digest:
        return digest and f"{path.name} is {address}, byte for byte"
      return f"{path.name} has other bytes than {address}: it is damaged"
    same = _digest(path, known.algorithm) == known.digest
  except OSError as e:
    raise UsageError(f"cannot read {path}: {e.strerror}") from e
  if same:
    return f"{path.name} is the file of {known.of}'s release, byte for byte"
  return (
    f"{path.name} has the name of a file of {known.of}'s release, but other bytes: it "
    "is damaged, or of another training"
  )


def _digest(path: pathlib.Path, algorithm: str) -> str:
  with open(path, "rb") as f:
    return hashlib.file_digest(f, algorithm).hexdigest()
