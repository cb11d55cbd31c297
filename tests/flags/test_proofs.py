"""No flag and no key without a test that proves what it does."""

import ast
import functools
import importlib
import pathlib
import re

import ccl_jax
from tests.flags.command import BENCH, BORROWED, MODULES, PACKAGE, PARSERS, all_flags
from tests.flags.config_keys import all_keys
from tests.flags.proofs import PROOFS
from tests.trees import parsed

ROOT = pathlib.Path(__file__).parents[2]
# Modules that may be run but take no flags: a benchmark that borrows those of another.
OTHERS = {f"ccl_jax.benchmarks.{name}" for name in BORROWED} | {BENCH}
OTHERS.add("ccl_jax.__main__")  # it hands on to the others


def test_every_flag_and_key_is_proved_and_no_other():
  there = all_flags() | all_keys()
  proved = {flag for flags in PROOFS.values() for flag in flags}
  assert sorted(there - proved) == []  # has no proof
  assert sorted(proved - there) == []  # is no flag
  assert len(there) > 350


def test_every_command_is_known():
  """A module with a `__main__` block is a command whose flags are listed."""
  folder = pathlib.Path(ccl_jax.__file__).parent
  found = set()
  for path in folder.rglob("*.py"):
    if 'if __name__ == "__main__":' in path.read_text():
      parts = path.relative_to(folder).with_suffix("").parts
      found.add(".".join([PACKAGE, *parts]))
  known = set(MODULES.values()) | {module for module, _ in PARSERS.values()} | OTHERS
  assert found == known
  bench = importlib.import_module(BENCH)
  named = {name.split()[1] for name in MODULES if name.startswith("bench ")}
  assert set(bench.NAMES) == named | set(BORROWED)


@functools.cache
def tree_of(file: str) -> dict[str, ast.stmt]:
  """The functions and values of a module, by name."""
  out = {}
  for node in parsed((ROOT / file).read_text()).body:
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
      out[node.name] = node
    elif isinstance(node, ast.Assign):
      names = (x.id for target in node.targets for x in ast.walk(target)
               if isinstance(x, ast.Name))  # fmt: skip
      out |= dict.fromkeys(names, node)
  return out


@functools.cache
def own_words(file: str, name: str) -> tuple[set[str], set[str]]:
  """Words in the code of something in a module, and the names that it uses."""
  words, used = set(), set()
  for node in ast.walk(tree_of(file)[name]):
    fields = (getattr(node, f, None) for f in ("id", "arg", "attr", "value", "name"))
    for text in (x for x in fields if isinstance(x, str)):
      words |= set(re.findall(r"\w+", text.replace("-", "_")))
    used |= {node.id} if isinstance(node, ast.Name) else set()
    used |= {node.arg} if isinstance(node, ast.arg) else set()
  return words, used


def words_of(test: str) -> set[str]:
  """Words of a test, and of what of its module it uses."""
  file, name = test.split("::")
  words, queue, seen = set(), [name], set()
  while queue:
    current = queue.pop()
    if current in seen or current not in tree_of(file):
      continue
    seen.add(current)
    own, used = own_words(file, current)
    words |= own
    queue += used
  return words


def words_of_flag(flag: str) -> set[str]:
  """What a test must speak of: the key's own words, or the flag's."""
  name = re.split(r"[ :]", flag)[-1].removeprefix("--").replace("-", "_")
  name = name.removeprefix("config.").removeprefix("data.options.")
  return set(name.split(".")[-1:])


def test_every_proof_is_a_test_that_speaks_of_its_flag():
  for test, flags in PROOFS.items():
    file, name = test.split("::")
    assert name in tree_of(file) and name.startswith("test_"), test
    node = tree_of(file)[name]
    checks = [x for x in ast.walk(node) if isinstance(x, ast.Assert)]
    calls = [ast.unparse(x.func) for x in ast.walk(node) if isinstance(x, ast.Call)]
    checks += [c for c in calls if c.startswith("np.testing.") or c == "pytest.raises"]
    assert checks, f"{test} asserts nothing"
    spoken = {part for word in words_of(test) for part in (word, *word.split("__"))}
    for flag in flags:
      assert words_of_flag(flag) <= spoken, (test, flag)


def test_nothing_is_listed_twice():
  for test, flags in PROOFS.items():
    assert len(flags) == len(set(flags)), test
