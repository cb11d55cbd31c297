"""Runs an entry point once for each command line given on stdin, as JSON.

Each runs in a fork taken after the imports, so that a dozen command lines cost the time
of one. Prints a JSON list of [exit code, output].
"""

import importlib
import json
import os
import sys
import tempfile
import traceback


def run(module, name: str, argv: list[str]) -> tuple[int, str]:
  from ccl_jax import cli

  with tempfile.TemporaryFile("w+") as out:
    pid = os.fork()
    if pid == 0:
      os.dup2(out.fileno(), 1)
      os.dup2(out.fileno(), 2)
      sys.argv = [name, *argv]
      code = 0
      try:
        cli.run(module.main)
      except SystemExit as e:
        code = e.code or 0
      except BaseException:
        traceback.print_exc()
        code = 1
      sys.stdout.flush()
      sys.stderr.flush()
      os._exit(code)
    _, status = os.waitpid(pid, 0)
    out.seek(0)
    return os.waitstatus_to_exitcode(status), out.read()


if __name__ == "__main__":
  name = sys.argv[1]
  module = importlib.import_module(name)
  print(json.dumps([run(module, name, argv) for argv in json.load(sys.stdin)]))
