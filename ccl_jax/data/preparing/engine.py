"""Runs the shards of a table on Apache Beam: on this machine, or on a cluster.

The pipeline is the numbers of the shards, spread over the workers, each of which does a
shard (`shard.py`) and writes its file. Without Beam the same is done here, shard by
shard. Workers of a cluster need this package, and must see the media and OUT.parts.
"""

import contextlib
import importlib.util
import logging
import os
import re
import shutil
import threading
from collections.abc import Iterator, Sequence

from ccl_jax import progress
from ccl_jax.data.preparing.parts import Parts
from ccl_jax.data.preparing.shard import Shard, stopping
from ccl_jax.errors import UsageError
from ccl_jax.remote.paths import Place, is_remote

LOCAL, PLAIN = "DirectRunner", ""  # of this machine: on Beam, and by a plain loop
RUNNERS = (LOCAL, "DataflowRunner", "FlinkRunner", "SparkRunner", "PortableRunner")
_BEAM = "pip install 'ccl_jax[beam]'"
_log = logging.getLogger(__name__)


def has_beam() -> bool:
  """Whether Apache Beam is installed on this machine."""
  return importlib.util.find_spec("apache_beam") is not None


def require_runner(runner: str, options: Sequence[str] = ()) -> None:
  """Checks that a runner is there with what it needs, and knows its options.

  Args:
    runner: one of `RUNNERS`.
    options: for Beam, such as "--region=europe-west4".

  Raises:
    UsageError: it is not; or an option is unknown.
  """
  if runner not in RUNNERS:
    raise UsageError(f"--runner: got {runner!r}, expected one of {', '.join(RUNNERS)}")
  if not has_beam():
    if runner != LOCAL or options:
      raise UsageError(f"{runner} needs Apache Beam, which is not installed: {_BEAM}")
    return
  with _quiet():  # it warns of packages that only other runners need
    from apache_beam.options.pipeline_options import PipelineOptions

  if runner == "DataflowRunner" and importlib.util.find_spec("apitools") is None:
    raise UsageError(
      "DataflowRunner needs Google Cloud's packages, which are not installed: pip "
      "install 'apache-beam[gcp]'"
    )
  java = os.path.join(os.environ.get("JAVA_HOME", ""), "bin", "java")
  if runner in ("FlinkRunner", "SparkRunner") and not shutil.which(
    java if os.environ.get("JAVA_HOME") else "java"
  ):
    raise UsageError(
      f"{runner} starts a job server in Java, which is not installed: install a Java "
      "runtime, or give --runner=PortableRunner -- --job_endpoint=HOST:PORT of one"
    )
  if runner == "PortableRunner" and not any("--job_endpoint" in o for o in options):
    raise UsageError("PortableRunner needs -- --job_endpoint=HOST:PORT of a job server")
  with _quiet():
    try:
      parsed = PipelineOptions(list(options))
      known = parsed.get_all_options(retain_unknown_options=False)
      every = parsed.get_all_options(retain_unknown_options=True)
    except SystemExit as e:
      raise UsageError(f"options of Beam: got {' '.join(options)}") from e
  if unknown := sorted(set(every) - set(known)):
    raise UsageError(f"Beam knows no option --{unknown[0]}; look at the runner's pages")


def require_shared(runner: str, *paths: Place) -> None:
  """Checks that the workers of a runner can see the media and the table.

  Args:
    runner: one of `RUNNERS`.
    paths: of these.

  Raises:
    UsageError: Dataflow's machines, which are made for the job, see none of these.
  """
  for path in paths:
    if runner == "DataflowRunner" and not is_remote(path):
      raise UsageError(
        f"the workers of {runner} see no disk of this machine: got {path}, expected a "
        "path in a bucket, such as gs://BUCKET/films"
      )


def run(
  parts: Parts,
  runner: str,
  options: Sequence[str],
  workers: int,
  what: str = "preparing",
) -> None:
  """Does the shards that are left, and shows how many files are done.

  Args:
    parts: of the table.
    runner, options: see `require_runner`; or `PLAIN`.
    what: is being done, for the line of progress.
    workers: files at a time, of the local runner with Beam.

  Raises:
    UsageError: see `Shard.do`; or the runner failed.
  """
  left = parts.left()
  if not left:
    return
  stopping.clear()
  bar = progress.Bar(what, parts.plan["files"], "files")
  with contextlib.closing(bar), _watched(parts):
    if runner == PLAIN or not has_beam():
      if workers > 1:
        _log.warning("one file at a time: several need Apache Beam, %s", _BEAM)
      with contextlib.closing(Shard(str(parts.folder))) as shard:
        for number in left:
          shard.do(number)
    else:
      _run_beam(str(parts.folder), left, runner, options, workers)


def _run_beam(
  folder: str, left: list[int], runner: str, options: Sequence[str], workers: int
) -> None:
  import apache_beam as beam
  from apache_beam.options.pipeline_options import PipelineOptions

  from ccl_jax.data.preparing.dofn import DoShard

  local = runner == LOCAL
  # Beam's own DirectRunner looks for a program first that it would download.
  flags = [f"--runner={'FnApiRunner' if local else runner}", *options]
  if local:
    flags += ["--direct_running_mode=multi_threading"]
    flags += [f"--direct_num_workers={min(workers, len(left))}"]
  try:
    if local:
      # Beam tells of an error with the traceback of every layer, and after Ctrl-C those
      # of all threads: it is told once, here.
      logging.getLogger("apache_beam").setLevel(logging.CRITICAL + 1)
    pipeline = beam.Pipeline(options=PipelineOptions(flags))
    # Not all numbers at once: a job's description has a limit of 10 MB.
    _ = (
      pipeline
      | "Shards" >> beam.Create([left[k : k + 1000] for k in range(0, len(left), 1000)])
      | "Numbers" >> beam.FlatMap(list)
      | "Spread" >> beam.Reshuffle()
      | "Rows" >> beam.ParDo(DoShard(folder))
    )
    pipeline.run().wait_until_finish()
  except UsageError:
    raise
  except Exception as e:
    raise UsageError(_reason(runner, str(e) or type(e).__name__)) from e
  finally:
    stopping.set()  # after Ctrl-C, workers end with the file that they are at


def _reason(runner: str, text: str) -> str:
  """The user's mistake that a worker has told of, or the last line of what is said."""
  own = re.search(
    r"(?:UsageError|WriteError|Malformed|Unreachable): (.+?)(?: \[while running.*)?$",
    text,
    re.M,
  )
  if own:
    return own[1]
  lines = [line for line in text.splitlines() if line.strip()]
  return f"{runner} failed: {lines[-1].strip() if lines else text}"


@contextlib.contextmanager
def _watched(parts: Parts) -> Iterator[None]:
  """Shows how many files are done while the block runs."""
  end, every = threading.Event(), 30.0 if is_remote(parts.folder) else 0.5
  told = None

  def tell():
    nonlocal told
    done = parts.done()
    if done != told:
      progress.at(done)
    told = done

  def watch():
    while not end.wait(every):
      with contextlib.suppress(OSError, UsageError):
        tell()

  tell()
  thread = threading.Thread(target=watch, daemon=True)
  thread.start()
  try:
    yield
  finally:
    end.set()
    thread.join()
  tell()


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
  """Without warnings of any logger while the block runs."""
  logging.disable(logging.WARNING)
  try:
    yield
  finally:
    logging.disable(logging.NOTSET)
