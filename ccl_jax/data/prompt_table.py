"""Tables of prompts as Ovi's examples are: a CSV file with a header line.

  text_prompt,image_path
  "A man says, <S>Hello.<E>",example_prompts/pngs/1.png

`image_path` may be empty or missing. It is a path from the folder of the file, or from
one of the folders around it: the examples' are from the top of their repository. The
clips of set.csv are set_0001 and so on, as `eval make-manifest` calls them too.
"""

import csv
import io
import pathlib
import re
from collections.abc import Iterator

from ccl_jax.documents import read_text, refuse_twice
from ccl_jax.errors import UsageError

PROMPT, IMAGE = "text_prompt", "image_path"


def read_prompt_table(
  path: str | pathlib.Path,
) -> Iterator[tuple[str, str, str | None]]:
  """(id, prompt, absolute path of the image or None) of every row.

  Raises:
    UsageError: it cannot be read, has no column of prompts, or a row has no prompt.
  """
  path = pathlib.Path(path)
  text = read_text(path)
  rows = csv.DictReader(io.StringIO(text, newline=""), strict=True)
  number, stem = 0, re.sub(r"[^\w.-]+", "_", path.stem)
  try:
    columns = [name.strip() for name in rows.fieldnames or ()]
    if PROMPT not in columns:
      raise UsageError(
        f"{path} has the columns {', '.join(columns) or 'none'}; expected {PROMPT} "
        f"and, for clips from pictures, {IMAGE}"
      )
    refuse_twice(columns, path)
    rows.fieldnames = columns
    for number, row in enumerate(rows, 1):
      prompt = (row[PROMPT] or "").strip()
      if not prompt or None in row:
        what = "no prompt" if not prompt else "more columns than the header"
        raise UsageError(f"{path}, row {number}: {what}; expected {', '.join(columns)}")
      yield f"{stem}_{number:04d}", prompt, _image(path, (row.get(IMAGE) or "").strip())
  except csv.Error as e:
    raise UsageError(f"{path}, row {number + 1}: no CSV ({e})") from e
  if not number:
    raise UsageError(f"{path} has no rows; expected a prompt a row")


def _image(table: pathlib.Path, name: str) -> str | None:
  if not name:
    return None
  folders = table.absolute().parents
  found = (f / name for f in folders if (f / name).is_file())
  return str(next(found, folders[0] / name))
