"""Puts every mutant into a copy of the repository and runs the tests that should fail.

  python -m tests.mutation.run                     # all that have no result yet
  python -m tests.mutation.run --area training     # one area; --name TEXT: by name
  python -m tests.mutation.run --survivors         # run those again that passed
  python -m tests.mutation.run --score             # print the score of the results

Results are lines of JSON in `--out`; a run that was stopped goes on. The tests of every
mutant are first run without it: a test that fails anyway proves nothing.
"""

import argparse
import collections
import concurrent.futures
import json
import os
import pathlib
import queue
import shutil
import subprocess
import sys
import tempfile
import threading
import time

from tests.mutation.catalogue import ROOT, Mutant, load
from tests.mutation.server import TIMEOUT

NOTICED, SURVIVED = "noticed", "survived"
# Of pytest: passed, failed, a test or a conftest that cannot be imported; the server's.
ENDINGS = {0: SURVIVED, 1: NOTICED, 2: NOTICED, 4: NOTICED, TIMEOUT: NOTICED}


def main() -> int:
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument("--area", action="append", help="a file of mutants, by its name")
  parser.add_argument("--name", help="only mutants whose name contains this")
  parser.add_argument("--survivors", action="store_true", help="run these again")
  parser.add_argument("--fresh", action="store_true", help="run all again")
  parser.add_argument("--score", action="store_true", help="print the score and end")
  parser.add_argument("--workers", type=int, default=2)
  parser.add_argument("--timeout", type=int, default=900, help="seconds for one mutant")
  parser.add_argument(
    "--out", type=pathlib.Path, default=pathlib.Path("runs/mutation"), metavar="DIR"
  )
  args = parser.parse_args()
  mutants = [
    m
    for m in load()
    if (not args.area or m.area in args.area) and (not args.name or args.name in m.name)
  ]
  args.out.mkdir(parents=True, exist_ok=True)
  results = Results(args.out / "results.jsonl")
  if not args.score:
    todo = [m for m in mutants if not m.equivalent and _due(results.of(m), args)]
    run_all(todo, results, args)
  print(score(mutants, results))
  return 0


def _due(result: str | None, args) -> bool:
  return args.fresh or result is None or (args.survivors and result == SURVIVED)


class Results:
  """The last result of every mutant, in a file of lines."""

  def __init__(self, path: pathlib.Path):
    self._path, self._lock, self._last = path, threading.Lock(), {}
    for line in path.read_text().splitlines() if path.exists() else []:
      row = json.loads(line)
      self._last[row["key"]] = row["result"]

  def of(self, mutant: Mutant) -> str | None:
    return self._last.get(mutant.key)

  def add(self, mutant: Mutant, result: str, seconds: float, tail: str) -> None:
    row = {"key": mutant.key, "area": mutant.area, "name": mutant.name}
    row |= {"result": result, "seconds": round(seconds, 1), "tail": tail}
    with self._lock:
      self._last[mutant.key] = result
      with self._path.open("a") as file:
        file.write(json.dumps(row) + "\n")


class Worker:
  """A copy of the repository, and a server that runs tests in it."""

  def __init__(self, folder: pathlib.Path, cache: pathlib.Path):
    self.folder = _copy(folder)
    self._server = subprocess.Popen(
      [sys.executable, "-m", "tests.mutation.server"],
      cwd=folder,
      env=os.environ | _environment(folder, cache),
      stdin=subprocess.PIPE,
      stdout=subprocess.PIPE,
      text=True,
    )

  def pytest(self, tests: tuple[str, ...], seconds: float) -> tuple[int, str]:
    """Exit code and the end of the output."""
    print(
      json.dumps({"tests": tests, "seconds": seconds}),
      file=self._server.stdin,
      flush=True,
    )
    answer = json.loads(self._server.stdout.readline())
    return answer["code"], answer["tail"]

  def close(self) -> None:
    self._server.stdin.close()
    self._server.wait()


def run_all(todo: list[Mutant], results: Results, args) -> None:
  cache = args.out.resolve() / "compiled"
  clean: dict[tuple[str, ...], str] = {}
  ready = collections.defaultdict(threading.Lock)

  def passes_clean(worker, tests) -> str:
    """Nothing, or how the tests fail without a mutant."""
    with ready[tests]:
      if tests not in clean:
        code, tail = worker.pytest(tests, args.timeout)
        clean[tests] = "" if code == 0 else tail
      return clean[tests]

  def one(mutant: Mutant) -> tuple[Mutant, str, float]:
    worker = workers.get()
    start = time.monotonic()
    try:
      broken = passes_clean(worker, mutant.tests)
      start = time.monotonic()
      if broken:
        result, tail = "fails without it", broken
      else:
        path = worker.folder / mutant.file
        source = path.read_text()
        try:
          path.write_text(mutant.apply(source))
          code, tail = worker.pytest(mutant.tests, args.timeout)
          result = ENDINGS.get(code, f"pytest exit {code}")
        finally:
          path.write_text(source)
    finally:
      workers.put(worker)
    seconds = time.monotonic() - start
    results.add(mutant, result, seconds, tail)
    return mutant, result, seconds

  with tempfile.TemporaryDirectory(prefix="mutants") as scratch:
    workers: queue.Queue = queue.Queue()
    for i in range(args.workers):
      workers.put(Worker(pathlib.Path(scratch) / str(i), cache))
    with concurrent.futures.ThreadPoolExecutor(args.workers) as pool:
      # Mutants of the same tests follow one another: their programs are compiled once.
      jobs = [pool.submit(one, m) for m in sorted(todo, key=lambda m: m.tests)]
      for n, job in enumerate(concurrent.futures.as_completed(jobs), 1):
        mutant, result, seconds = job.result()
        head = f"{n}/{len(todo)} {seconds:5.1f} s {result:>8}"
        print(f"{head}  {mutant.area}: {mutant.name}", flush=True)
    for _ in range(args.workers):
      workers.get().close()


def _copy(folder: pathlib.Path) -> pathlib.Path:
  """A copy of the tracked and the new files of the repository, as they are now."""
  listing = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
  names = subprocess.check_output(listing, cwd=ROOT, text=True).split("\0")
  for name in filter(None, names):
    # The configs beside the code are a link to a folder.
    if (ROOT / name).is_file() or (ROOT / name).is_symlink():
      (folder / name).parent.mkdir(parents=True, exist_ok=True)
      shutil.copy2(ROOT / name, folder / name, follow_symlinks=False)
  return folder


def _environment(folder: pathlib.Path, cache: pathlib.Path) -> dict[str, str]:
  """One cache of compiled programs, and no byte code of the file before."""
  shared = os.environ.get("CCL_SHARED", str(ROOT.parent / "shared"))
  return {
    "CCL_SHARED": shared,
    "PYTHONPATH": str(folder),
    "PYTHONDONTWRITEBYTECODE": "1",
    "JAX_PLATFORMS": "cpu",
    "JAX_COMPILATION_CACHE_DIR": str(cache),
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
  }


def score(mutants: list[Mutant], results: Results) -> str:
  """A table by area, and the mutants that no test noticed."""
  lines = ["| area | mutants | noticed | equivalent | survived |", "|---" * 5 + "|"]
  total = collections.Counter()
  left = []
  for area in dict.fromkeys(m.area for m in mutants):
    row = collections.Counter()
    for m in (m for m in mutants if m.area == area):
      result = "equivalent" if m.equivalent else results.of(m)
      row["mutants"] += 1
      row[result] += 1
      if result not in (NOTICED, "equivalent"):
        left.append(f"{result or 'not run'}: {m.area}: {m.name}")
    total += row
    lines.append(_row(area, row))
  lines.append(_row("all", total))
  return "\n".join(lines + left)


def _row(name: str, row: collections.Counter) -> str:
  columns = (row["mutants"], row[NOTICED], row["equivalent"], row[SURVIVED])
  return f"| {name} | " + " | ".join(map(str, columns)) + " |"


if __name__ == "__main__":
  sys.exit(main())
