"""Runs commands, each in a fork of a process that has imported what they are made of.

Reads a request a line from stdin, a JSON list, and answers it by a line of JSON:

  ["start", MODULE, FLAGS, DEVICES, FILE, ENVIRONMENT]
                the id of a process that runs `python -m MODULE FLAGS` on so many
                virtual devices, with its output in FILE and more in its environment
  ["poll", ID]  its exit code; null while it runs

A fork imports the command itself and ends as any script does. When stdin ends, the
processes that still run are killed.
"""

import gc
import importlib
import json
import os
import runpy
import signal
import sys

import jax

from tests.quick import keep_programs, quicken

# What takes long to import. None defines flags: a fork defines those of its command.
LIBRARIES = (
  "orbax.checkpoint",
  "tensorboardX",
  "tensorflow_datasets",
  "ccl_jax.audio_codec.run",
  "ccl_jax.encoding.run",
  "ccl_jax.generation.report",
  "ccl_jax.metrics.registry",
  "ccl_jax.metrics.runner",
  "ccl_jax.training.films",
  "ccl_jax.training.latents",
  "ccl_jax.training.loop",
  "ccl_jax.weights.release",
)


def become(flags: list[str], devices: int, file: str, environment: dict) -> None:
  """Makes this process one that a shell would start."""
  os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
  out = os.open(file, os.O_WRONLY | os.O_APPEND)
  os.dup2(out, 1)
  os.dup2(out, 2)
  # A shell's background job ignores the keyboard, and so does all that it starts.
  signal.signal(signal.SIGINT, signal.default_int_handler)
  jax.config.update("jax_num_cpu_devices", devices)
  os.environ.update(environment)
  if programs := environment.get("JAX_COMPILATION_CACHE_DIR"):
    # JAX has read its environment by now.
    jax.config.update("jax_compilation_cache_dir", programs)
  sys.argv[1:] = flags


def serve() -> str | None:
  """Answers all requests; in a fork, returns the module to run."""
  running = set()
  for line in sys.stdin:
    verb, *request = json.loads(line)
    if verb == "start":
      module, *how = request
      pid = os.fork()
      if pid == 0:
        become(*how)
        return module
      running.add(pid)
      answer = pid
    else:
      (pid,) = request
      ended, status = os.waitpid(pid, os.WNOHANG)
      running.discard(ended)
      answer = os.waitstatus_to_exitcode(status) if ended else None
    print(json.dumps(answer), flush=True)
  for pid in running:
    os.kill(pid, signal.SIGKILL)
  return None


if __name__ == "__main__":
  for library in LIBRARIES:
    importlib.import_module(library)
  gc.freeze()
  quicken()
  keep_programs()
  module = serve()
  if module is not None:
    runpy.run_module(module, run_name="__main__", alter_sys=True)
