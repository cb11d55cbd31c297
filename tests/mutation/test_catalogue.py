"""The mutants still fit the source: each changes one place of a file that parses."""

import ast
import collections

from tests.mutation.catalogue import ROOT, load


def test_every_mutant_applies():
  for mutant in load():
    source = (ROOT / mutant.file).read_text()
    changed = mutant.apply(source)
    assert ast.dump(ast.parse(changed)) != ast.dump(ast.parse(source)), mutant.name
    for test in mutant.tests:
      assert (ROOT / test.split("::")[0]).is_file(), (mutant.name, test)


def test_names_are_unique():
  names = collections.Counter(m.name for m in load())
  assert not [n for n, count in names.items() if count > 1]
