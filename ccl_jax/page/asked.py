"""What a form asks for, as the pipeline takes it.

Nothing of a form is trusted: a browser sends what its user wants. The pipeline checks
values as the command does; here is what it cannot know.
"""

import contextlib
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from ccl_jax.errors import UsageError
from ccl_jax.tasks import GENERATIONS

# What the page calls each argument of the pipeline, in the order of a form's values.
LABELS = {
  "prompt": "Prompt",
  "task": "Task",
  "image": "First frame",
  "audio": "Sound",
  "video": "Film",
  "seed": "Seed",
  "steps": "Steps",
  "guidance": "Guidance",
  "solver": "Solver",
  "scale_video": "Guidance scale, picture",
  "scale_audio": "Guidance scale, sound",
  "negative_prompt": "Negative prompt",
  "seconds": "Seconds",
  "size": "Size",
  "lora": "LoRAs",
}
FORM = tuple(LABELS)
PROMPT = 4000  # characters


def asked(
  form: Mapping[str, Any], loras: Sequence[str], uploads: str | os.PathLike
) -> dict[str, Any]:
  """Arguments of a call of the pipeline.

  Args:
    form: values by the names of `FORM`, as a browser sends them; None, "" or a list of
      nothing is what the model has by itself.
    loras: that users may choose from.
    uploads: the folder of their files.

  Raises:
    UsageError: a text is too long, a LoRA is none of these, or a file none of theirs.
  """
  kind = GENERATIONS.get(form["task"]) if isinstance(form["task"], str) else None
  takes = kind.takes if kind else ()
  # What an earlier task took is still in the form.
  given = {n: x for n in ("image", "audio", "video") if (x := form[n]) and n in takes}
  files = {name: _upload(name, x, uploads) for name, x in given.items()}
  chosen = form["lora"] or []
  if not isinstance(chosen, list) or any(text not in loras for text in chosen):
    raise UsageError(f"--lora: got {chosen!r:.80}; expected one of the page's")
  for name in ("prompt", "negative_prompt"):
    text = form[name] or ""
    if not isinstance(text, str):
      raise UsageError(f"--{name}: got {text!r:.80}; expected a text")
    if len(text) > PROMPT:
      raise UsageError(
        f"--{name}: got {len(text)} characters; expected at most {PROMPT}"
      )
  rest = set(FORM) - {"prompt", "task", "image", "audio", "video", "seed", "lora"}
  settings = {n: x for n in rest if (x := form[n]) not in (None, "", [])}
  for name in {"steps", "seconds"} & settings.keys():
    settings[name] = _number(settings[name])
  for name in {"scale_video", "scale_audio"} & settings.keys():
    settings[name] = str(settings[name]).split(",")
  seed = 0 if form["seed"] in (None, "") else _number(form["seed"])
  call = {"prompt": form["prompt"] or "", "task": form["task"], "seed": seed}
  return call | {"lora": chosen or None} | files | settings


def _upload(name: str, value: Any, folder: str | os.PathLike) -> str:
  path = value.get("path") if isinstance(value, Mapping) else None
  if isinstance(path, str):
    with contextlib.suppress(OSError, ValueError):  # a text that is no path
      real = pathlib.Path(path).resolve()
      if real.is_relative_to(pathlib.Path(folder).resolve()) and real.is_file():
        return path
  raise UsageError(f"--{name}: no file that was uploaded; choose it again")


def _number(text: Any) -> Any:
  """The number of a text, whole if it is; what is none stays, to be refused."""
  for kind in (int, float):
    try:
      return kind(text) if isinstance(text, str) else text
    except ValueError:
      pass
  return text
