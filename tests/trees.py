"""Python's syntax trees, for tests that read the source."""

import ast
import functools
import gc
import pathlib


def parsed(source: str) -> ast.Module:
  """The tree of a source, with the collector of garbage held off.

  It may run a finalizer that prints a traceback, for which Python 3.11 parses a line:
  in the midst of another parse this ends in "recursion depth mismatch".
  """
  collecting = gc.isenabled()
  gc.disable()
  try:
    return ast.parse(source)
  finally:
    if collecting:
      gc.enable()


@functools.cache
def imports(path: pathlib.Path) -> list[str]:
  """What a file imports: modules, and what may be modules in them."""
  names = []
  for node in _nodes(path):
    if isinstance(node, ast.Import):
      names += [alias.name for alias in node.names]
    elif isinstance(node, ast.ImportFrom) and node.module:
      names += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
  return names


@functools.cache
def calls(path: pathlib.Path) -> list[tuple[str, ast.Call]]:
  """The calls of a file, each with what is called as it is written."""
  found = (node for node in _nodes(path) if isinstance(node, ast.Call))
  return [(_written(node.func), node) for node in found]


@functools.cache
def _nodes(path: pathlib.Path) -> list[ast.AST]:
  wanted = (ast.Import, ast.ImportFrom, ast.Call)
  tree = parsed(path.read_text("utf-8"))
  return [node for node in ast.walk(tree) if isinstance(node, wanted)]


def _written(node: ast.expr) -> str:
  """As `ast.unparse`, which takes long over a dotted name."""
  if isinstance(node, ast.Name):
    return node.id
  if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
    return f"{node.value.id}.{node.attr}"
  return ast.unparse(node)
