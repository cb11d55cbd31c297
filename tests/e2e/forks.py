"""Runs an entry point once for each command line on stdin, a JSON list a line.

Each runs in a fork taken after the imports, so that a dozen command lines cost the time
of one. Prints two lines for each: its process id, and when it has ended [exit code,
output] as JSON.
"""

import importlib
import importlib.util
import inspect
import json
import os
import runpy
import sys
import tempfile
import traceback
import warnings


def start(module, name: str, argv: list[str], out) -> int:
  """The id of a process that runs the command line, with its output in `out`."""
  from ccl_jax import cli

  pid = os.fork()
  if pid == 0:
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(out.fileno(), 1)
    os.dup2(out.fileno(), 2)
    sys.argv = [name, *argv]
    code = 0
    try:
      # The flags of absl are defined once, so those commands do not run as a script.
      if inspect.signature(module.main).parameters:
        warnings.simplefilter("ignore", RuntimeWarning)  # that it is imported already
        runpy.run_module(name, run_name="__main__", alter_sys=True)
      else:
        cli.run(module.main)
    except SystemExit as e:
      code = e.code or 0
    except BaseException:
      traceback.print_exc()
      code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
  return pid


if __name__ == "__main__":
  name = sys.argv[1]
  package = importlib.util.find_spec(name).submodule_search_locations is not None
  module = importlib.import_module(f"{name}.__main__" if package else name)
  for line in sys.stdin:
    with tempfile.TemporaryFile("w+") as out:
      pid = start(module, name, json.loads(line), out)
      print(pid, flush=True)
      _, status = os.waitpid(pid, 0)
      out.seek(0)
      print(json.dumps([os.waitstatus_to_exitcode(status), out.read()]), flush=True)
