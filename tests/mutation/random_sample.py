"""Draws mutants at random and stores them as data, with cosmic-ray's operators.

  pip install cosmic-ray
  python -m tests.mutation.random_sample --count 200 --seed 0

First a place is drawn, each operator, number and loop of the files alike, then one of
the changes that cosmic-ray knows for it: so a place with twenty variants weighs no more
than one with two. Type annotations are no places: nothing runs them. Writes
`mutants/random.toml`; the tests of a mutant are those of its file (`tests_of`).
"""

import argparse
import ast
import collections
import difflib
import json
import random
import sys

from tests.mutation.catalogue import FOLDER, ROOT, load
from tests.trees import parsed

PLACES = (
  "models/**/*.py",
  "diffusion/*.py",
  "training/*.py",
  "tasks.py",
  "sampling.py",
  "inference.py",
  "prompt_sets.py",
  "report.py",
)
# What should notice a bug, beside the tests of the mutants made by hand of that file.
GOLDEN = {"models": "tests/parity/test_check_case.py"}


def annotations(tree: ast.AST):
  """The (first line, first column, last line, last column) of every annotation."""
  for node in ast.walk(tree):
    for name in ("annotation", "returns"):
      part = getattr(node, name, None)
      if part is not None:
        yield part.lineno, part.col_offset, part.end_lineno, part.end_col_offset


def variants(source: str):
  """Every (place, operator, occurrence) of cosmic-ray's operators without arguments."""
  from cosmic_ray.ast import ast_nodes, get_ast
  from cosmic_ray.plugins import get_operator, operator_names

  hidden = list(annotations(parsed(source)))
  nodes = list(ast_nodes(get_ast(source)))
  for name in sorted(operator_names()):
    if "Variable" in name:  # these are told which
      continue
    operator = get_operator(name)()
    places = (p for node in nodes for p in operator.mutation_positions(node))
    for occurrence, (start, _) in enumerate(places):
      if not any(a[:2] <= tuple(start) < a[2:] for a in hidden):
        yield tuple(start), name, occurrence


def replacement(source: str, changed: str) -> tuple[str, str]:
  """The lines that differ, with as many around them as make the old ones unique."""
  old, new = source.splitlines(True), changed.splitlines(True)
  blocks = difflib.SequenceMatcher(None, old, new, autojunk=False).get_opcodes()
  blocks = [b for b in blocks if b[0] != "equal"]
  first, last = blocks[0][1], blocks[-1][2]
  shift = len(new) - len(old)
  for around in range(len(old)):
    start, end = max(0, first - around), min(len(old), last + around)
    text = "".join(old[start:end])
    if text and source.count(text) == 1:
      return text, "".join(new[start : end + shift])
  raise ValueError("the file repeats itself")


def draw(count: int, seed: int) -> list[dict]:
  """`count` mutants, each of another place."""
  from cosmic_ray.mutating import mutate_code
  from cosmic_ray.plugins import get_operator

  by_place: dict[tuple, list] = {}
  for pattern in PLACES:
    for path in sorted((ROOT / "ccl_jax").glob(pattern)):
      file = str(path.relative_to(ROOT))
      for place, name, occurrence in variants(path.read_text()):
        by_place.setdefault((file, place), []).append((name, occurrence))
  rng = random.Random(seed)
  rows = []
  for file, place in rng.sample(sorted(by_place), len(by_place)):
    if len(rows) == count:
      break
    name, occurrence = rng.choice(by_place[file, place])
    source = (ROOT / file).read_text()
    changed = mutate_code(source, get_operator(name)(), occurrence)
    try:
      parsed(changed)
    except SyntaxError:  # the * between arguments is taken for an operator
      continue
    old, new = replacement(source, changed)
    title = f"{file}:{place[0]}:{place[1]} {name.split('/')[1]}"
    rows.append({"name": title, "file": file, "old": old, "new": new})
  return sorted(rows, key=lambda row: row["name"])


def to_toml(row: dict) -> str:
  """One table; strings as JSON writes them, which TOML reads alike."""
  lines = [f"{key} = {json.dumps(value)}" for key, value in row.items()]
  return "[[mutant]]\n" + "\n".join(lines) + "\n"


def main() -> int:
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument("--count", type=int, default=200)
  parser.add_argument("--seed", type=int, default=0)
  args = parser.parse_args()
  rows = draw(args.count, args.seed)
  for row in rows:
    row["tests"] = tests_of(row["file"])
  path = FOLDER / "random.toml"
  path.write_text("\n".join(map(to_toml, rows)))
  print(f"{len(rows)} mutants in {path.relative_to(ROOT)}")
  return 0


def tests_of(file: str) -> list[str]:
  """The test files that the mutants made by hand of a file name, most often first."""
  counts = collections.Counter(
    test.split("::")[0]
    for m in load()
    if m.file == file and m.area != "random"
    for test in m.tests
  )
  golden = GOLDEN.get(file.split("/")[1])
  return [test for test, _ in counts.most_common()] + ([golden] if golden else [])


if __name__ == "__main__":
  sys.exit(main())
