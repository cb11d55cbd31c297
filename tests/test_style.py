"""The code is formatted, linted and documented as CONTRIBUTING says."""

import ast
import pathlib
import subprocess
import sys
from collections.abc import Iterator

import pytest

from tests.trees import parsed

ROOT = pathlib.Path(__file__).parents[1]
WORDS = 6  # that a docstring has at least


@pytest.mark.parametrize("command", [["check"], ["format", "--check"]])
def test_ruff(command):
  done = subprocess.run(
    [sys.executable, "-m", "ruff", *command, "."],
    cwd=ROOT,
    capture_output=True,
    text=True,
  )
  assert done.returncode == 0, done.stdout


def _definitions(body: list[ast.stmt], kinds: tuple) -> Iterator[ast.stmt]:
  """Functions or classes of a module or class, those in `if` and `try` too."""
  for node in body:
    if isinstance(node, ast.If | ast.Try):
      yield from _definitions(node.body, kinds)
    elif isinstance(node, kinds):
      yield node


def _is_documented(node: ast.AST) -> bool:
  return len((ast.get_docstring(node) or "").split()) >= WORDS


def _inherited(name: str, bases: set[str], classes: dict[str, ast.ClassDef]) -> bool:
  """Whether a base class within the package documents the method `name`."""
  for base in map(classes.get, bases):
    if base is None:
      continue
    own = _definitions(base.body, (ast.FunctionDef,))
    if any(method.name == name and _is_documented(method) for method in own):
      return True
    if _inherited(name, _bases(base), classes):
      return True
  return False


def _bases(node: ast.ClassDef) -> set[str]:
  return {ast.unparse(base).rpartition(".")[2] for base in node.bases}


def undocumented(sources: dict[str, str]) -> list[str]:
  """`FILE:LINE NAME` of all public names without a docstring of `WORDS` words.

  Excused are `setup` of flax's modules, which Flax calls, and methods that override a
  documented method of a base class.

  Args:
    sources: text by name of the file.
  """
  trees = {file: parsed(text) for file, text in sources.items()}
  kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
  classes = {
    node.name: node
    for tree in trees.values()
    for node in ast.walk(tree)
    if isinstance(node, ast.ClassDef)
  }
  missing = []
  for file, tree in trees.items():
    if tree.body and not _is_documented(tree):
      missing.append(f"{file}:1 the module")
    scopes = [("", set(), tree.body)]
    for prefix, bases, body in scopes:
      for node in _definitions(body, kinds):
        if node.name.startswith("_"):
          continue
        if isinstance(node, ast.ClassDef):
          scopes.append((f"{prefix}{node.name}.", _bases(node), node.body))
        excused = (node.name == "setup" and "Module" in bases) or _inherited(
          node.name, bases, classes
        )
        if not _is_documented(node) and not excused:
          missing.append(f"{file}:{node.lineno} {prefix}{node.name}")
  return missing


def test_public_names_are_documented():
  files = [p for top in ("ccl_jax", "configs") for p in (ROOT / top).rglob("*.py")]
  sources = {str(p.relative_to(ROOT)): p.read_text() for p in sorted(files)}
  missing = undocumented(sources)
  assert not missing, f"no docstring of {WORDS} words:\n" + "\n".join(missing)


def test_what_lacks_a_docstring_is_named():
  base = '''"""A module with two classes and a function."""
class Base:
  """A class with one method that is documented."""
  def read(self):
    """Reads the numbers of the next entry."""
  def _private(self): pass
'''
  derived = '''"""Too short."""
class Derived(base.Base):
  def read(self): pass
  def write(self):
    """Writes them."""
class Net(nn.Module):
  """A network whose layers Flax sets up."""
  def setup(self): pass
if True:
  def setup(): pass
'''
  assert undocumented({"base.py": base, "derived.py": derived}) == [
    "derived.py:1 the module",
    "derived.py:2 Derived",
    "derived.py:10 setup",
    "derived.py:4 Derived.write",
  ]
