"""Runs commands in this process, and lists their flags.

A command of absl has its flags in one global place, and several commands call a flag
`config`, `batch` or `out`: here each has the place for itself while it runs. Where the
modules lie is said here and nowhere else in this folder.
"""

import argparse
import contextlib
import functools
import importlib
import sys
from collections.abc import Iterator
from types import ModuleType
from unittest import mock

from absl import app, flags

from ccl_jax import cli

PACKAGE = "ccl_jax"
MODULES = {  # commands whose flags are absl's
  "train": "ccl_jax.train",
  "train_audio": "ccl_jax.train_audio",
  "generate": "ccl_jax.generate",
  "report": "ccl_jax.report",
  "encode": "ccl_jax.encode",
  "plan": "ccl_jax.plan",
  "bench compiler": "ccl_jax.benchmarks.compiler",
  "bench data": "ccl_jax.benchmarks.data",
  "bench device": "ccl_jax.benchmarks.device",
  "bench eval": "ccl_jax.benchmarks.eval",
  "bench kernels": "ccl_jax.benchmarks.kernels",
  "bench length": "ccl_jax.benchmarks.length",
  "bench prepare": "ccl_jax.benchmarks.prepare",
  "bench sampling": "ccl_jax.benchmarks.sampling",
  "bench scale": "ccl_jax.benchmarks.scale",
  "bench start": "ccl_jax.benchmarks.start",
  "bench step": "ccl_jax.benchmarks.step",
  "bench vocoder": "ccl_jax.benchmarks.vocoder",
}
PARSERS = {  # command lines whose flags are argparse's
  "convert": ("ccl_jax.convert", []),
  "eval": ("ccl_jax.eval", []),
  "eval make-manifest": ("ccl_jax.eval", ["make-manifest"]),
  "data": ("ccl_jax.data.__main__", []),
  "app": ("ccl_jax.app", []),
  "ablation": ("ccl_jax.ablation.__main__", []),
  "viz": ("ccl_jax.viz.__main__", []),
}
BENCH = "ccl_jax.bench"
# Benchmarks that have no flags of their own; `step` lends them its.
BORROWED = {"denoise": "step", "given": "step", "parts": "step", "pipeline": "step"}


@contextlib.contextmanager
def _only(mine: dict[str, flags.Flag]) -> Iterator[None]:
  """Of the package's flags only `mine` are there."""
  place = flags.FLAGS
  aside = {
    module: list(found)
    for module, found in place.flags_by_module_dict().items()
    if module.startswith(PACKAGE)
  }
  for flag in (flag for found in aside.values() for flag in found):
    delattr(place, flag.name)
  before = set(place)
  for name, flag in mine.items():
    place[name] = flag
  place.unparse_flags()
  try:
    yield
  finally:
    place.unparse_flags()
    for name in set(place) - before:
      # What a library has defined on the way stays; --config.KEY is the command's.
      defined = place.find_module_defining_flag(name, "")
      if name in mine or "." in name or defined.startswith(PACKAGE):
        delattr(place, name)
    for module, found in aside.items():
      for flag in found:
        place[flag.name] = flag
        place.register_flag_by_module(module, flag)


class Command:
  """A command of absl: its module, and its flags by name."""

  def __init__(self, module: str):
    known = flags.FLAGS.flags_by_module_dict()
    if module in sys.modules:
      self.module = sys.modules[module]
      self.flags = {flag.name: flag for flag in known[module]}
      return
    with _only({}):
      self.module = importlib.import_module(module)
      found = flags.FLAGS.flags_by_module_dict()[module]
      self.flags = {flag.name: flag for flag in found}

  def run(self, *argv: str) -> None:
    """As from the command line, to its end; a mistake is a SystemExit."""
    parsed = lambda main, flags_parser: main(flags_parser(sys.argv))
    with (
      _only(self.flags),
      mock.patch.object(sys, "argv", [self.module.__name__, *map(str, argv)]),
      mock.patch.object(app, "run", parsed),
    ):
      cli.run(self.module.main)


@functools.cache
def command(name: str) -> Command:
  """A command of `MODULES`."""
  return Command(MODULES[name])


def module_of(name: str) -> ModuleType:
  """The module of a command of either sort."""
  return importlib.import_module(PARSERS[name][0]) if name in PARSERS else (
    command(name).module
  )  # fmt: skip


class _Seen(Exception):
  """The parser of a command line, before it parses."""


def _parser_of(name: str) -> argparse.ArgumentParser:
  def seen(self, *_, **__):
    raise _Seen(self)

  module, argv = PARSERS[name]
  with mock.patch.object(argparse.ArgumentParser, "parse_args", seen):
    try:
      importlib.import_module(module).main(argv)
    except _Seen as e:
      return e.args[0]
  raise AssertionError(f"{name} parsed nothing")


def _arguments(name: str, parser: argparse.ArgumentParser) -> Iterator[str]:
  for action in parser._actions:
    if isinstance(action, argparse._SubParsersAction):
      for word, sub in action.choices.items():
        yield from _arguments(f"{name} {word}", sub)
    elif isinstance(action, argparse.BooleanOptionalAction):
      yield f"{name} {action.option_strings[0]}"
    elif not isinstance(action, argparse._HelpAction):
      yield f"{name} {(action.option_strings or [action.dest])[0]}"


def all_flags() -> set[str]:
  """Of every command "COMMAND --flag", as its parser tells."""
  out = {f"{name} --{flag}" for name in MODULES for flag in command(name).flags}
  for name in PARSERS:
    out |= set(_arguments(name, _parser_of(name)))
  return out
