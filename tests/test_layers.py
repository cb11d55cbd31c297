"""Who may import whom: the layers of the package, read from its source."""

import ast
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[1]
L0 = {"axes", "errors", "tasks", "sharding", "ops"}
# Package or module -> what it may import of this project, besides itself and L0.
ALLOWED = {
  **dict.fromkeys(L0, set()),
  "models": set(),
  "diffusion": set(),
  "data": set(),
  "converted": {"training", "weights"},
  "codecs": {"models", "converted"},
  "weights": {"models", "metrics"},
  "metrics": {"data"},
  "viz": set(),
  "training": {"models", "diffusion", "data"},
}
ENTRY_POINTS = {
  "train", "generate", "convert", "encode", "eval", "plan", "bench", "app",
  "__main__", "audio_training", "benchmarks", "building", "chips", "cli",
  "codec_scores", "compiled", "encoding", "inference", "inspect_data", "own_weights",
  "planning", "prompt_sets", "release", "report", "sampling", "scoring",
  "shard_encoder", "train_audio", "train_latents",
}  # fmt: skip
# Heavy or foreign packages, and the only places that may name them.
FOREIGN = {"torch": {"benchmarks"}, "tensorflow": set(), "configs": set()}


def imports(path: pathlib.Path):
  for node in ast.walk(ast.parse(path.read_text())):
    if isinstance(node, ast.Import):
      yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom) and node.module:
      yield node.module
      yield from (f"{node.module}.{alias.name}" for alias in node.names)


def modules():
  """Every file and its place; a package's command line is an entry point."""
  for path in sorted((ROOT / "ccl_jax").rglob("*.py")):
    place = path.relative_to(ROOT / "ccl_jax").with_suffix("").parts[0]
    yield path, path.stem if path.stem == "__main__" else place


def test_every_module_has_a_layer():
  known = set(ALLOWED) | ENTRY_POINTS | {"__init__"}
  assert {place for _, place in modules()} <= known


def test_import_direction():
  wrong = []
  for path, place in modules():
    if place in ENTRY_POINTS or place == "__init__":
      continue
    for name in imports(path):
      if not name.startswith("ccl_jax."):
        continue
      target = name.split(".")[1]
      if target != place and target not in ALLOWED[place] | L0:
        wrong.append(f"{path.relative_to(ROOT)} imports {name}")
  assert not wrong


def test_foreign_packages_stay_out():
  wrong = [
    f"{path.relative_to(ROOT)} imports {name}"
    for path, place in modules()
    for name in imports(path)
    if place not in FOREIGN.get(name.split(".")[0], {place})
  ]
  assert not wrong


def test_data_never_sees_devices():
  for path, place in modules():
    if place == "data":
      assert not any(n == "jax" or n.startswith("jax.") for n in imports(path)), path


def test_nothing_imports_configs_but_configs():
  for path in (ROOT / "configs").glob("*.py"):
    names = {n.split(".")[0] for n in imports(path)}
    assert names <= {"configs", "ml_collections", "__future__"}, path


@pytest.mark.parametrize(
  "names",
  [
    "ccl_jax.train, ccl_jax.generate, ccl_jax.generation.report, ccl_jax.convert",
    # the flag --config is each program's own
    "ccl_jax.encode, ccl_jax.encoding.inspect",
  ],
)
def test_the_core_imports_neither_torch_nor_tensorflow(names):
  code = (
    f"import sys, {names}\n"
    "print([m for m in ('torch', 'tensorflow', 'matplotlib') if m in sys.modules])"
  )
  done = subprocess.run(
    [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True
  )
  assert done.stdout.strip() == "[]", done.stdout + done.stderr
