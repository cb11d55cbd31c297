"""Who may import whom: the layers of the package, read from its source."""

import ast
import pathlib
import subprocess
import sys

from tests.trees import calls, imports

ROOT = pathlib.Path(__file__).parents[1]
COMMANDS = {"train", "generate", "convert", "encode", "eval", "plan", "bench",
            "train_audio", "report", "app", "__main__"}  # fmt: skip
# The layers of docs/architecture.md: what a package may import of this project, beside
# itself and the foundations. A command may import everything, and nothing imports one.
FOUNDATIONS = {
  "axes", "errors", "interrupts", "files", "places", "documents", "names", "seeds",
  "tasks", "sharding", "processes", "ops", "progress", "shipped", "hub", "remote",
}  # fmt: skip
ALLOWED = {
  **dict.fromkeys(FOUNDATIONS, set()),
  "cli": set(),
  "models": set(),
  "diffusion": set(),
  "data": set(),
  "checkpoints": set(),
  "viz": set(),
  "codecs": {"models", "checkpoints"},
  "weights": {"models", "checkpoints", "codecs"},
  "training": {"models", "diffusion", "data", "checkpoints", "codecs"},
  "metrics": {"data", "models", "weights"},
  "generation": {
    "codecs", "models", "diffusion", "checkpoints", "data", "weights", "metrics", "viz",
  },
  "page": {"data", "diffusion", "generation"},
  "encoding": {"codecs", "data", "viz"},
  "audio_codec": {"models", "data", "checkpoints", "weights", "training"},
  "planning": {"models", "training", "generation", "data", "codecs", "checkpoints"},
}  # fmt: skip
ALLOWED["__init__"] = set()
ALLOWED["benchmarks"] = set(ALLOWED)
ALLOWED["ablation"] = set(ALLOWED) - {"benchmarks"}
# Calls that give a file its name or put it on the disk, beside those of `files`: these
# modules rename whole folders.
FOLDERS = {
  "checkpoints/steps.py": {"rename"},  # a damaged step is set aside
  "checkpoints/folders.py": {"os.replace"},
}
# Heavy or foreign packages, and the only places that may name them.
FOREIGN = {
  "torch": {"benchmarks"},
  "tensorflow": set(),
  "configs": set(),
  "gradio": {"page"},
}


def modules():
  """Every file and its place; a package's command line is an entry point."""
  for path in sorted((ROOT / "ccl_jax").rglob("*.py")):
    place = path.relative_to(ROOT / "ccl_jax").with_suffix("").parts[0]
    yield path, path.stem if path.stem == "__main__" else place


def test_every_module_has_a_layer():
  assert {place for _, place in modules()} == set(ALLOWED) | COMMANDS | {"__init__"}


def test_import_direction():
  """Commands import what they like; everything else what its row names."""
  wrong = []
  for path, place in modules():
    for name in imports(path):
      target = name.split(".")[1] if name.startswith("ccl_jax.") else place
      if target == "__version__" or target == place:
        continue
      allowed = set(ALLOWED) if place in COMMANDS else ALLOWED[place] | FOUNDATIONS
      if target not in allowed:
        wrong.append(f"{path.relative_to(ROOT)} imports {name}")
  assert not wrong


def test_no_two_modules_import_each_other():
  graph = {}
  for path, _ in modules():
    name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
    graph[name.removesuffix(".__init__")] = {n for n in imports(path) if n != name}
  pairs = {(a, b) for a in graph for b in graph[a] & set(graph) if a in graph[b]}
  assert not pairs


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


def test_files_appear_in_one_way():
  """Nothing but `files` renames a file or syncs it, or writes a text into its place."""
  got = {}
  for path, place in modules():
    if place != "files":
      for written, node in calls(path):
        if name := disk_call(written, node):
          got.setdefault(str(path.relative_to(ROOT / "ccl_jax")), set()).add(name)
  assert got == FOLDERS


def disk_call(name: str, node: ast.Call) -> str | None:
  """`os.replace`, `os.fsync`, or the method of a path, if it is such a call.

  `replace` with one argument is that of a path: that of a string takes two.
  """
  if name == "files.write_text":
    return None
  if name in ("os.replace", "os.rename", "os.fsync", "shutil.move"):
    return name
  method = getattr(node.func, "attr", None)
  alone = len(node.args) == 1 and not node.keywords
  if (method == "replace" and alone) or method in ("rename", "write_text"):
    return method
  return None


def test_the_core_imports_neither_torch_nor_tensorflow():
  code = (
    "import sys, ccl_jax.train, ccl_jax.generate, ccl_jax.generation.report\n"
    "import ccl_jax.convert\n"
    "from absl import flags\n"
    "for name in list(flags.FLAGS): delattr(flags.FLAGS, name)\n"  # each has its own
    "import ccl_jax.encode, ccl_jax.encoding.inspect\n"
    "print([m for m in ('torch', 'tensorflow', 'matplotlib') if m in sys.modules])"
  )
  done = subprocess.run(
    [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True
  )
  assert done.stdout.strip() == "[]", done.stdout + done.stderr
