"""OUT.parts: the work on a table in shards, each of which is done as a whole.

  plan.json        what was asked, and how many shards there are; written last
  00003.in.json    [name, what is known of it] for each name of a shard
  00003.out.json   [name, what was found]; there when it is done

Of the work "rows", a table of captions, names are those of files, known are the fields
of their captions, and found are their rows or the reason why there are none. Of the
work "headers", a join of metadata with files (`sources/media_builder.py`), names are
the ids of clips.

The folder lies beside OUT, on a disk or in a bucket that all workers see. A shard that
was done is not done again, by whoever goes on, and doing one twice gives the same file.
"""

import itertools
import json
import logging
from collections.abc import Iterable, Iterator, Sequence
from typing import Annotated, Any, NotRequired

import pydantic
from typing_extensions import TypedDict

from ccl_jax.data.preparing.rows import Options
from ccl_jax.documents import check, parse, read_bytes
from ccl_jax.errors import UsageError
from ccl_jax.files import remove_folder, write_json
from ccl_jax.remote.paths import Place, place

_SHARDS, _MOST = 1000, 256  # shards of a table, and files of a shard, as a rule
# [file, fields of its captions] and [file, rows or a reason]; a name may be no Unicode.
_Pair = Annotated[list[Any], pydantic.Field(min_length=2, max_length=2)]
_log = logging.getLogger(__name__)
Files = Sequence[Sequence[Any]]  # (name, fields of its captions)


class Plan(TypedDict):
  """What a table was begun with."""

  root: str
  options: list[Any]
  shards: int
  files: int
  size: int
  work: NotRequired[str]


class Parts:
  """The shards of one table.

  Args:
    folder: OUT.parts.
  """

  def __init__(self, folder: str | Place):
    self.folder = place(folder)
    self._plan: Plan | None = None

  @classmethod
  def of(cls, out: Place) -> "Parts":
    """Those of the table `out`, whether it was begun or not."""
    return cls(out.with_name(f"{out.name}.parts"))

  def begin(self, root: Place, options: Options, files: Files) -> None:
    """Writes the plan of a table, unless it was begun before: then its own counts.

    Args:
      root: the folder of the files.
      options: what to measure.
      files: by name, the fields of their captions.

    Raises:
      UsageError: it was begun with other settings.
      WriteError: the plan cannot be written.
    """
    asked = json.loads(json.dumps([str(root.absolute()), list(options)]))
    if self.is_laid():
      begun = [self.plan["root"], self.plan["options"]]
      if begun != asked:
        raise UsageError(
          f"{self.folder} was begun with other settings, {begun}: remove it, or go on "
          "with those"
        )
      if self.plan["files"] != len(files):
        _log.warning(
          "%s was begun with %d files, now there are %d: those of then are done, with "
          "their captions of then",
          *(self.folder, self.plan["files"], len(files)),
        )
      return
    size = min(max(len(files) // _SHARDS, 1), _MOST)
    self.lay(asked[0], asked[1], files, size)

  def lay(
    self,
    root: str,
    options: Sequence[Any],
    files: Iterable[Sequence[Any]],
    size: int,
    work: str = "rows",
  ) -> None:
    """Writes shards as they come, and the plan when all are there.

    Args:
      root: the folder of the files.
      options: of the work.
      files: what is known of each, by name.
      size: of a shard but the last.
      work: of `shard.WORK`.

    Raises:
      WriteError: they cannot be written.
    """
    files, shards, count = iter(files), 0, 0
    while part := list(itertools.islice(files, size)):
      write_json(self._path(shards, "in"), part)
      shards, count = shards + 1, count + len(part)
    plan = {"root": root, "options": options, "work": work}
    plan |= {"shards": shards, "files": count, "size": size}
    write_json(self.folder / "plan.json", plan)

  def is_laid(self) -> bool:
    """Whether all shards and the plan are there."""
    return (self.folder / "plan.json").exists()

  @property
  def plan(self) -> Plan:
    """What the table was begun with.

    Raises:
      UsageError: it cannot be read.
    """
    if self._plan is None:
      path = self.folder / "plan.json"
      plan = parse(read_bytes(path), path)
      self._plan = check(plan, Plan, path, "remove its folder")
    return self._plan

  def left(self) -> list[int]:
    """The shards that are not done."""
    done = self._done()
    return [k for k in range(self.plan["shards"]) if k not in done]

  def done(self) -> int:
    """How many files are done, by their shards."""
    last = self.plan["files"] - (self.plan["shards"] - 1) * self.plan["size"]
    sizes = (
      last if k == self.plan["shards"] - 1 else self.plan["size"] for k in self._done()
    )
    return sum(sizes)

  def is_done(self, shard: int) -> bool:
    """Whether the file of a shard is there."""
    return self._path(shard, "out").exists()

  def files(self, shard: int) -> Files:
    """The files of a shard, with the fields of their captions."""
    return self._read(shard, "in")

  def write(self, shard: int, results: Sequence[Sequence[Any]]) -> None:
    """Notes a shard as done.

    Raises:
      WriteError: it cannot be written.
    """
    write_json(self._path(shard, "out"), results)

  def results(self) -> Iterator[Sequence[Any]]:
    """(name, rows or reason) of the files of all shards, in order."""
    for shard in range(self.plan["shards"]):
      yield from self._read(shard, "out")

  def asked(self) -> Iterator[Sequence[Any]]:
    """(name, what is known of it) of all shards, in order."""
    for shard in range(self.plan["shards"]):
      yield from self.files(shard)

  def remove(self) -> None:
    """Removes the folder, once the table is written."""
    remove_folder(self.folder)

  def _path(self, shard: int, kind: str) -> Place:
    return self.folder / f"{shard:05}.{kind}.json"

  def _read(self, shard: int, kind: str) -> Any:
    path = self._path(shard, kind)
    found = parse(read_bytes(path), path, names=True)
    return check(found, list[_Pair], path, "remove its folder")

  def _done(self) -> set[int]:
    names = (path.name for path in self.folder.iterdir())
    return {int(n.partition(".")[0]) for n in names if n.endswith(".out.json")}
