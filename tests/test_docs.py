"""What README and docs name exists: modules, paths, commands, their flags, configs."""

import ast
import contextlib
import functools
import importlib.util
import io
import itertools
import json
import pathlib
import re
import shlex

import numpy as np
import pytest

from ccl_jax.generation import api
from ccl_jax.generation.meshes import alone
from ccl_jax.shipped import config_names
from ccl_jax.viz.media import write_mp4, write_png, write_wav
from tests.flags.listener import listening
from tests.trees import parsed

ROOT = pathlib.Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(ROOT.glob("docs/*.md"))]
PLACES = (ROOT, ROOT / "ccl_jax")
every_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)


BLOCK = re.compile(r"```\w*\n(.*?)```", re.DOTALL)


def spans(text: str) -> list[str]:
  """What stands between backticks within a line of text, or goes on in the next one."""
  return [" ".join(x.split()) for x in re.findall(r"`([^`]+)`", BLOCK.sub("", text))]


def commands(text: str) -> list[list[str]]:
  """Arguments of every `python -m ccl_jax.NAME` or `ccl-jax NAME`, the name first."""
  blocks = "\n".join(BLOCK.findall(text)).replace("\\\n", " ").replace(" &&", "\n")
  lines = [*blocks.splitlines(), *spans(text)]
  form = re.compile(r"\s*(?:python -m ccl_jax\.|ccl-jax (?!COMMAND))([a-z].+)")
  found = map(form.match, lines)
  return [shlex.split(m[1], comments=True) for m in found if m]


@functools.cache
def flags_of(name: str) -> set[str]:
  """The long options that a command's modules define."""
  files = [ROOT / "ccl_jax" / f"{name}.py", *(ROOT / "ccl_jax" / name).glob("*.py")]
  files += (ROOT / "ccl_jax" / "benchmarks").glob("*.py") if name == "bench" else []
  found = {"--help"}
  files = [file for file in files if file.is_file()]
  if any("cli.process_flags(" in file.read_text() for file in files):
    files.append(ROOT / "ccl_jax" / "cli.py")  # which defines no other flags
  for file in files:
    for node in ast.walk(parsed(file.read_text())):
      text = getattr(node, "value", None) if isinstance(node, ast.Constant) else None
      if isinstance(text, str) and re.fullmatch(r"--[a-z][\w-]*", text):
        found |= {text, text.replace("--", "--no-", 1)}
      if isinstance(node, ast.Call) and "DEFINE_" in ast.unparse(node.func):
        found |= {f"--{node.args[0].value}", f"--no{node.args[0].value}"}
  return found


@every_page
def test_modules_and_paths_exist(page):
  """`ccl_jax.a.b`, files with their folders, and what links lead to."""
  text, missing = page.read_text("utf-8"), []
  for name in set(re.findall(r"\bccl_jax(?:\.[A-Za-z_]\w*)+", text)):
    parts = name.split(".")
    file = ROOT.joinpath(*parts)
    above = file.parent.with_suffix(".py")
    above = above if above.is_file() else file.parent / "__init__.py"
    inside = above.is_file() and parts[-1] in above.read_text()
    if not (file.is_dir() or file.with_suffix(".py").is_file() or inside):
      missing.append(name)
  for span in spans(text):
    is_path = re.fullmatch(r"(\w[\w.-]*/)+(\w[\w.-]*\.(py|sh|toml|md))", span)
    if is_path and not any((place / span).exists() for place in PLACES):
      missing.append(span)
  for link in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", text):
    if not (page.parent / link).exists():
      missing.append(link)
  assert not missing


@every_page
def test_flags_of_commands_exist(page):
  missing = []
  for name, *args in commands(page.read_text("utf-8")):
    known = flags_of(name.split(".")[0])
    assert len(known) > 1, f"no command {name}"
    for arg in itertools.takewhile(lambda a: a != "--", args):  # then another's
      flag = arg.split("=")[0]
      own = re.match(r"--[a-z]", flag) and not flag.startswith("--config.")
      if own and flag not in known:
        missing.append(f"{name} {flag}")
  assert not missing


@every_page
def test_configs_take_their_arguments_and_keys(page):
  """`--config=FILE:ARGUMENTS` loads, and holds every `--config.KEY` beside it."""
  for name, *args in commands(page.read_text("utf-8")):
    given = dict(a.split("=", 1) for a in args if a.startswith("--config") and "=" in a)
    file, _, argument = given.pop("--config", "").partition(":")
    if file in config_names():
      file = f"configs/{file}.py"
    if not file.startswith("configs/"):
      continue
    argument = argument.replace("=N", "=0")  # a number of the reader's
    spec = importlib.util.spec_from_file_location("page_config", ROOT / file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    config = module.get_config(argument or None) if argument else module.get_config()
    for key in given:
      value = config
      for part in key.split(".")[1:]:
        assert part in value, f"{name} --config={file}: no {key}"
        value = value[part]


def test_the_example_in_python_runs(tmp_path, monkeypatch):
  """As it is printed, but for the network: it writes the clip that it was given."""
  (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.S)
  listener = listening(monkeypatch)
  monkeypatch.chdir(tmp_path)
  exec(code, {})
  assert listener.loaded["ckpt"] == "quickstart"
  assert sorted(p.name for p in tmp_path.iterdir()) == ["clip.json", "clip.mp4"]


def test_the_examples_of_a_page_run(tmp_path, monkeypatch):
  """All of docs/python.md in its order, but for the network."""
  listener = listening(monkeypatch)
  monkeypatch.chdir(tmp_path)
  write_png("first.png", np.zeros((32, 48, 3), np.uint8))
  write_wav("voice.wav", np.zeros(16000, np.float32))
  film = np.zeros((17, 32, 48, 3), np.uint8)
  write_mp4("film.mp4", film, 25.0, np.zeros(16000, np.float32))
  text = (ROOT / "docs" / "python.md").read_text()
  blocks = re.findall(r"```python\n(.*?)```", text, re.S)
  names = {}
  for block in blocks:
    exec(block, names)
  assert {call["task"] for call in listener.calls} >= {"joint", "i2v", "a2v", "v2a"}


def test_the_notebook_runs(tmp_path, monkeypatch):
  """Cell by cell with the shipped checkpoint; what is stored was printed by them. One
  device makes the clips: they are no other on eight.
  """
  monkeypatch.setattr(api, "mesh_for", lambda *_, **__: alone())
  book = json.loads((ROOT / "docs" / "pipeline.ipynb").read_text())
  cells = [cell for cell in book["cells"] if cell["cell_type"] == "code"]
  monkeypatch.chdir(tmp_path)
  names, compared = {}, 0
  for number, cell in enumerate(cells, 1):
    assert cell["execution_count"] == number
    printed, source = io.StringIO(), "".join(cell["source"])
    with contextlib.redirect_stdout(printed):
      exec(source, names)
    for output in cell["outputs"]:
      if output["output_type"] == "stream" and output["name"] == "stdout":
        assert printed.getvalue() == "".join(output["text"]), source
        compared += 1
  assert compared >= 3
  assert len((ROOT / "docs" / "pipeline.ipynb").read_bytes()) < 200_000


def test_the_readme_leads_to_every_page():
  text = (ROOT / "README.md").read_text()
  pages = [p.name for p in ROOT.glob("docs/*.md")]
  assert [name for name in pages if f"(docs/{name})" not in text] == []


@every_page
def test_nothing_is_said_twice(page):
  blocks = [block for block in page.read_text().split("\n\n") if len(block) > 120]
  assert len(blocks) == len(set(blocks))
