"""Shared fixtures: eight virtual CPU devices, strict shapes, the reference material."""

import collections
import gc
import importlib.metadata
import itertools
import os
import pathlib
import shutil
import tempfile

os.environ.setdefault("JAX_PLATFORMS", "cpu")
# Workers share the cores: threads of NumPy's and torch's products wait for one another
# and burn the time. An eigendecomposition of 576 rows takes 0.05 s with one thread, and
# 0.2 to 0.9 with two beside another program. Workers and commands inherit this.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")
# The older emitters take a third of the time to compile. jaxlib has them until 0.10;
# later versions end at a flag that they do not know. A program is one module of LLVM:
# cut into several it takes longer, and equal formulas round differently by where they
# are cut. The commands inherit this.
os.environ["XLA_FLAGS"] = " ".join(
  [
    "--xla_cpu_use_fusion_emitters=false"
    if importlib.metadata.version("jaxlib").startswith("0.10.")
    else "",
    "--xla_cpu_parallel_codegen_split_count=1",
    os.environ.get("XLA_FLAGS", ""),
  ]
)

import jax
import psutil
import pytest

from tests.quick import quicken

jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_numpy_rank_promotion", "raise")
# Tiny shapes: the compiler is the cost of this suite, not the programs it makes.
jax.config.update("jax_disable_most_optimizations", True)
new_context = quicken()

ROOT = pathlib.Path(__file__).parents[1]
PROGRAMS = "JAX_COMPILATION_CACHE_DIR"


def pytest_configure(config):
  """What one worker or command compiles all others read, until the session ends."""
  if PROGRAMS not in os.environ:
    folder = tempfile.mkdtemp(prefix="ccl_jax-")
    config.add_cleanup(lambda: shutil.rmtree(folder, ignore_errors=True))
    os.environ[PROGRAMS] = folder
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
    jax.config.update("jax_compilation_cache_dir", folder)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)


# Where the minutes are: what starts first leaves no worker alone with it at the end.
LONG = (
  "e2e",
  "audio_codec",
  "models",
  "reference",
  "specs",
  "test_golden.py",
  "metrics",
)


def pytest_collection_modifyitems(items):
  """Long files first; each stays together."""
  parts = lambda item: item.path.relative_to(ROOT / "tests").parts
  rank = {name: i for i, name in enumerate(LONG)}
  items.sort(key=lambda item: rank.get(parts(item)[0], len(LONG)))


def pytest_terminal_summary(terminalreporter):
  """Where the minutes of a long run went: seconds by file, fixtures included."""
  seconds = collections.Counter()
  for report in itertools.chain(*terminalreporter.stats.values()):
    if isinstance(report, pytest.TestReport):
      seconds[report.nodeid.partition("::")[0]] += report.duration
  if seconds.total() < 300:
    return
  terminalreporter.section(f"{seconds.total():.0f} s of tests and fixtures, by file")
  for name, spent in seconds.most_common(60):
    terminalreporter.write_line(f"{spent:7.1f} {name}")


def pytest_collection_finish():
  """What is imported stays: the collector of garbage need not look at it again."""
  global limit
  gc.collect()
  gc.freeze()
  limit = memory() + GROWTH


# By how many bytes a worker may grow before it forgets what it compiled.
GROWTH = 2**30
memory = lambda: psutil.Process().memory_info().rss


@pytest.fixture(scope="module", autouse=True)
def compiled_programs():
  """What one module compiles all that follow run, until a worker is too large."""
  global limit
  yield
  new_context()
  if memory() > limit:
    jax.clear_caches()
    gc.collect()
    limit = memory() + GROWTH


@pytest.fixture(scope="session")
def shared() -> pathlib.Path:
  """The folder with golden numbers and real clips, by CCL_SHARED or beside the repo."""
  path = pathlib.Path(os.environ.get("CCL_SHARED", ROOT.parent / "shared"))
  if not (path / "parity").is_dir():
    pytest.skip(f"no reference material at {path}; set CCL_SHARED to its folder")
  return path
