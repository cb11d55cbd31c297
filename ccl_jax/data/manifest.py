"""Manifests: lists of prompts and clips, one JSON object a line.

  {"id": "e001", "subset": "easy", "pair": "p001", "image": "images/e001.png",
   "prompt": "... says, \\"...\\"", "transcript": "...", "language": "en", "seed": 0}

Required are id and prompt. An empty transcript wants no speech; without one it is what
the prompt has in quotation marks. `pair` joins clips of different subsets that are to
be compared. `image`, `last_image`, `extend`, `audio` and `video` are what a clip is to
be made from; their paths are relative to the manifest. `negative_prompt`, or that of
one stream, `negative_prompt_video` and `negative_prompt_audio`, is what it is to lack.
The clip that is scored is <videos>/<id>.mp4, or what `clip` names in the folder of
videos.

A file that ends in .csv is a table of prompts and images (data/prompt_table.py).
"""

import dataclasses
import json
import posixpath
from collections.abc import Sequence
from typing import Any

from ccl_jax import hub, names
from ccl_jax.data.prompt_table import read_prompt_table
from ccl_jax.documents import numbered_lines, parse
from ccl_jax.errors import UsageError
from ccl_jax.files import write_text
from ccl_jax.remote.paths import Place, place

Path = str | Place


@dataclasses.dataclass(frozen=True)
class Line:
  """One line of a manifest; the module says what its fields mean."""

  id: str
  prompt: str
  subset: str | None = None
  pair: str | None = None
  image: str | None = None
  last_image: str | None = None
  extend: str | None = None
  audio: str | None = None
  video: str | None = None
  transcript: str | None = None
  language: str = "en"
  seed: int = 0
  clip: str | None = None
  negative_prompt: str | None = None
  negative_prompt_video: str | None = None
  negative_prompt_audio: str | None = None


_TYPES = {"seed": int} | {
  f.name: str for f in dataclasses.fields(Line) if f.name != "seed"
}


def local_manifest(path: Path) -> Place:
  """The manifest on this disk. One on the hub is downloaded, with the files that its
  lines name.

  Args:
    path: of a manifest or a list of prompts (.txt); or its address.

  Raises:
    UsageError: it is not there, or a file that it names is not in its repository.
  """
  found = hub.local(path)
  if hub.is_address(path) and found.suffix.lower() != ".txt":
    repository = hub.open_repository(str(path))
    top = posixpath.dirname(repository.address.path)
    names = ("image", "last_image", "extend", "audio", "video")
    inputs = [getattr(x, name) for x in read_manifest(found) for name in names]
    named = {posixpath.normpath(posixpath.join(top, x)) for x in inputs if x}
    hub.download([(repository, sorted(named))])
  return found


def read_manifest(path: Path) -> list[Line]:
  """The lines of a manifest, in its order.

  Raises:
    UsageError: it cannot be read, has no lines, or a line is not what it should be.
  """
  if place(path).suffix.lower() == ".csv":
    rows = read_prompt_table(path)
    return [Line(id, prompt, image=image) for id, prompt, image in rows]
  lines, seen = [], {}
  for number, text in numbered_lines(path):
    line = _line(f"{path}, line {number}", text)
    if line.id in seen:
      raise UsageError(
        f"{path}, line {number}: id {line.id!r} is that of line {seen[line.id]} too"
      )
    seen[line.id] = number
    lines.append(line)
  if not lines:
    raise UsageError(f"{path} has no lines: expected one JSON object a line")
  return lines


def _line(place: str, text: str) -> Line:
  row = parse(text, place)
  if not isinstance(row, dict):
    raise UsageError(f"{place}: expected an object, got {text[:60]!r}")
  for name in ("id", "prompt"):
    if name not in row:
      raise UsageError(f"{place}: no {name!r}; expected at least id and prompt")
  known: dict[str, Any] = {}
  for name, kind in _TYPES.items():
    value = row.get(name)
    if value is None:
      continue
    if not isinstance(value, kind) or isinstance(value, bool):
      raise UsageError(f"{place}: {name} is {value!r}; expected {kind.__name__}")
    known[name] = value
  name = known.get("id", "")
  if wrong := names.flaw(name):
    raise UsageError(f"{place}: id {name[:60]!r} is no name of a file: it {wrong}")
  if "clip" in known:  # the others may lie anywhere: see docs/security.md
    names.inside(known["clip"], f"{place}: clip")
  if "prompt" not in known:
    raise UsageError(f"{place}: prompt is null; expected str")
  return Line(**known)


def write_manifest(path: Path, lines: Sequence[Line]) -> None:
  """Writes a manifest, with the fields that are set; the file appears whole."""
  default = {f.name: f.default for f in dataclasses.fields(Line)}
  rows = [
    {k: v for k, v in dataclasses.asdict(x).items() if v != default[k]} for x in lines
  ]
  text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
  write_text(path, text)
