"""Plausible bugs as data: one text of the source replaced by another.

A file `mutants/AREA.toml` holds the mutants of an area:

  [[mutant]]
  name = "velocity target negated"        # unique
  file = "ccl_jax/training/step.py"
  old = '''exactly one place of the file'''
  new = '''what stands there instead'''
  tests = ["tests/training/test_step.py"]  # files, or file::test, that should fail
  equivalent = "why no test can see it"    # only where that is so

`python -m tests.mutation.run` puts them in, one at a time, and runs their tests.
"""

import dataclasses
import hashlib
import pathlib
import tomllib

ROOT = pathlib.Path(__file__).parents[2]
FOLDER = pathlib.Path(__file__).parent / "mutants"


@dataclasses.dataclass(frozen=True)
class Mutant:
  """One bug.

  Attributes:
    area: the name of its file in `mutants/`.
    name: what is wrong, unique.
    file: of the source, relative to the repository.
    old, new: text that stands once in the file, and what replaces it.
    tests: what should fail.
    equivalent: why nothing can fail, for a change that is no bug.
  """

  area: str
  name: str
  file: str
  old: str
  new: str
  tests: tuple[str, ...]
  equivalent: str = ""

  @property
  def key(self) -> str:
    """Its identity in the results: another text or other tests make it another one."""
    text = repr((self.file, self.old, self.new, self.tests))
    return hashlib.sha256(text.encode()).hexdigest()[:16]

  def apply(self, source: str) -> str:
    """The source with the bug in it.

    Raises:
      ValueError: `old` does not stand exactly once in the source.
    """
    count = source.count(self.old)
    if count != 1:
      raise ValueError(
        f"{self.area}: {self.name!r}: old text stands {count} times in {self.file}, "
        "expected once"
      )
    return source.replace(self.old, self.new)


def load(folder: pathlib.Path = FOLDER) -> list[Mutant]:
  """All mutants, by area and in the order of their files."""
  return [
    Mutant(area=path.stem, **{**row, "tests": tuple(row["tests"])})
    for path in sorted(folder.glob("*.toml"))
    for row in tomllib.loads(path.read_text())["mutant"]
  ]
