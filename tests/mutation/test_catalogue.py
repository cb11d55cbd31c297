"""The mutants still fit: each changes one place of a file, and its tests are there."""

import collections
import functools
import itertools
import re

from tests.mutation.catalogue import ROOT, load
from tests.trees import parsed


@functools.cache
def source_of(file: str) -> str:
  return (ROOT / file).read_text()


@functools.cache
def starts_of(file: str) -> list[int]:
  """Where the statements of a file begin that are in no other, and where it ends."""
  source = source_of(file)
  lines = itertools.accumulate(map(len, source.splitlines(True)), initial=0)
  offsets = list(lines)
  first = lambda node: min(
    x.lineno for x in (node, *getattr(node, "decorator_list", ()))
  )
  return [0, *(offsets[first(x) - 1] for x in parsed(source).body), len(source)]


def around(mutant, changed: str) -> str:
  """The whole statements of a changed source in which it is changed."""
  source, starts = source_of(mutant.file), starts_of(mutant.file)
  begin = source.index(mutant.old)
  end = begin + len(mutant.old)
  before = max(x for x in starts if x <= begin)
  after = min(x for x in starts if x >= end)
  return changed[before : after + len(changed) - len(source)]


def test_every_mutant_applies():
  """To a program, of which only what is changed is read again."""
  wrong = []
  for mutant in load():
    try:
      changed = mutant.apply(source_of(mutant.file))
      parsed(around(mutant, changed))
    except (ValueError, SyntaxError) as e:
      wrong.append(f"{mutant.area}: {mutant.name}: {e}")
      continue
    if changed == source_of(mutant.file):
      wrong.append(f"{mutant.area}: {mutant.name}: changes nothing")
  assert not wrong


def test_the_tests_of_every_mutant_are_there():
  wrong = []
  for mutant in load():
    for test in mutant.tests:
      file, _, name = test.partition("::")
      name = name.split("[")[0]
      path = ROOT / file
      there = path.is_file() or (path.is_dir() and not name)
      if there and name:
        there = re.search(rf"^def {name}\(", source_of(file), re.MULTILINE)
      if not there:
        wrong.append(f"{mutant.area}: {mutant.name}: {test}")
  assert not wrong


def test_names_are_unique():
  names = collections.Counter((m.area, m.name) for m in load())
  assert not [n for n, count in names.items() if count > 1]
