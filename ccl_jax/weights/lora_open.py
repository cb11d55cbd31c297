"""LoRAs as a command line names them: FILE:STRENGTH, or hf:OWNER/NAME/FILE:STRENGTH."""

import logging
import math
import os
from collections.abc import Sequence

from ccl_jax.errors import UsageError
from ccl_jax.hub import SCHEME
from ccl_jax.names import with_number
from ccl_jax.weights.download import fetched
from ccl_jax.weights.lora import Lora
from ccl_jax.weights.lora_names import Names
from ccl_jax.weights.reader import open_adapter
from ccl_jax.weights.rules import Shapes

_log = logging.getLogger(__name__)


def open_loras(
  named: Sequence[str | tuple[str | os.PathLike, float]], shapes: Shapes
) -> list[tuple[Lora, float]]:
  """LoRAs with their strengths; a line on stderr names what a file has in vain.

  Args:
    named: each as "FILE:STRENGTH", or as (file, strength).
    shapes: of the model's parameters, by path.

  Raises:
    UsageError: one is no LoRA of this model, or a text is no such pair.
  """
  if not named:
    return []
  names, out = Names(shapes), []
  for text in named:
    path, strength = parse_lora(text) if isinstance(text, str) else text
    lora = Lora(path, names)
    if note := lora.note():
      _log.warning(note)
    out.append((lora, float(strength)))
  return out


def absolute(text: str) -> str:
  """FILE:STRENGTH with the whole path of the file, which may be that of a folder.

  Raises:
    UsageError: see `parse_lora`; or there is no such file, or one that is damaged.
  """
  path, strength = parse_lora(text)
  weights = open_adapter(fetched("lora", path))
  return f"{weights.file_of(weights.names()[0]).absolute()}:{strength!r}"


def parse_lora(text: str) -> tuple[str, float]:
  """(file, strength) of "FILE:STRENGTH"; without a strength it is 1.

  Raises:
    UsageError: there is no file, or the strength is no finite number.
  """
  file, strength = with_number(text, 1.0)
  if f"{file}:" == SCHEME:  # the colon is that of an address
    file, strength = text, 1.0
  if not file or not math.isfinite(strength):
    raise UsageError(
      f"--lora {text}: expected FILE:STRENGTH, as lora.safetensors:0.8, with a finite "
      "strength"
    )
  return file, strength
