"""Benchmarks are programs of their own, with flags of the same names."""

import importlib
import types

from absl import flags


def alone(name: str) -> types.ModuleType:
  """A benchmark's module, in the place of the flags of those before it."""
  ours = "ccl_jax.benchmarks."
  for flag in list(flags.FLAGS):
    if flags.FLAGS.find_module_defining_flag(flag, "").startswith(ours):
      delattr(flags.FLAGS, flag)
  return importlib.import_module(ours + name)
