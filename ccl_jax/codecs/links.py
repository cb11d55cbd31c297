"""Makes codecs of converted weights: which kinds of folders make which codec."""

import json
import math
import os
from typing import Any

from ccl_jax.checkpoints import converted
from ccl_jax.codecs.bundle import KINDS
from ccl_jax.errors import UsageError
from ccl_jax.models.mel_codec import CHANNELS
from ccl_jax.models.tokenizer import Tokenizer
from ccl_jax.remote.paths import Place, place

TOKENIZER = "tokenizer.json"  # of a converted text encoder


def link_codec(*folders: str | os.PathLike, **options):
  """The codec of converted weights, with links in place of its parameters: to be saved.

  Args:
    folders: of one codec, each as `convert` wrote it.
    options: fields of the codec that are not in the weights.

  Raises:
    UsageError: the folders' kinds make no codec, or their sizes do not fit.
  """
  kinds = tuple(converted.read_description(folder)["kind"] for folder in folders)
  if kinds not in LINKED:
    known = " or ".join(" with ".join(k) for k in LINKED)
    raise UsageError(f"{' '.join(map(str, folders))}: expected weights of {known}")
  name, fields, more = LINKED[kinds]
  links = tuple(
    (field, str(place(folder).absolute()), converted.digest(folder))
    for field, folder in zip(fields, folders)
  )
  options = more(*map(place, folders)) | options
  return KINDS[name](**dict.fromkeys(fields), links=links, **options)


def _tokenizer_of(folder: Place) -> dict[str, Any]:
  path = folder / TOKENIZER
  if not path.is_file():
    raise UsageError(
      f"{folder} has no {TOKENIZER}: copy that of the UMT5 release (google/umt5-xxl) "
      "there"
    )
  return {"tokenizer": Tokenizer(path.read_bytes())}


def _check_vae(folder: Place) -> dict[str, Any]:
  """No options: a VAE alone is a codec, with Griffin-Lim."""
  got = converted.of_sizes(folder, lambda x: (x["bands"], x["channels"]))
  if got != (80, CHANNELS):
    raise UsageError(
      f"{folder}: got a VAE of {got[0]} bands and {got[1]} channels, expected 80 and "
      f"{CHANNELS}, the 16 kHz mode"
    )
  return {}


def _generator_of(vae: Place, vocoder: Place) -> dict[str, Any]:
  sizes = converted.read_description(vocoder)["sizes"]
  got = converted.of_sizes(vocoder, lambda x: (x["bands"], math.prod(x["rates"])))
  if got != (80, 256):
    raise UsageError(
      f"{vocoder}: got a vocoder of {got[0]} bands and {got[1]} samples a frame, "
      "expected 80 and 256, the 16 kHz mode"
    )
  return _check_vae(vae) | {"generator": json.dumps(sizes)}


# Kinds of converted folders -> kind of codec, the fields they hold, its other fields.
LINKED = {
  ("wan-vae",): ("wan_vae", ("params",), lambda folder: {}),
  ("wan22-vae",): ("wan22_vae", ("params",), lambda folder: {}),
  ("umt5",): ("umt5", ("params",), _tokenizer_of),
  ("clip",): (
    "clip",
    ("params",),
    lambda folder: converted.of_sizes(folder, lambda x: {"heads": x["heads"]}),
  ),
  ("audio-vae",): ("mel_audio", ("vae",), _check_vae),
  ("audio-vae", "vocoder"): ("mel_audio", ("vae", "vocoder"), _generator_of),
}
