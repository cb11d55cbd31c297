"""The mutants still fit: each changes one place of a file, and its tests are there."""

import collections
import functools
import re

from tests.mutation.catalogue import ROOT, load
from tests.trees import parsed


@functools.cache
def source_of(file: str) -> str:
  return (ROOT / file).read_text()


def test_every_mutant_applies():
  wrong = []
  for mutant in load():
    try:
      changed = mutant.apply(source_of(mutant.file))
      parsed(changed)
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
