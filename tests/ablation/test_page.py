"""The commands that make the page and its figures of the stored results."""

import re

import pytest

from ccl_jax.ablation import figures
from ccl_jax.ablation.__main__ import main
from ccl_jax.ablation.results import check, read
from ccl_jax.ablation.table import page, sections
from ccl_jax.files import write_json
from tests.ablation.stored import cells, result


@pytest.fixture
def folder(tmp_path):
  """Stored results of two variants, with the ceiling and the scales of guidance."""
  ceiling = {"real, through the codecs": cells(sync_r0=0.91)}
  files = {"ceiling": ceiling, "scales": {"gate": {}}}
  for name, seed in (("gate", 0), ("gate", 1), ("ccl", 0), ("ccl", 1)):
    files[f"{name}-{seed}"] = check(result(name, seed), "a result of the tests")
  for name, value in files.items():
    write_json(tmp_path / "stored" / f"{name}.json", value)
  return tmp_path / "stored"


def run(*argv):
  with pytest.raises(SystemExit) as e:
    main(list(map(str, argv)))
  return e.value.code


def test_table(folder, tmp_path):
  out = tmp_path / "docs" / "page.md"
  assert run("table", "--results", folder, "--out", out) == 0
  first = out.read_bytes()
  ceiling = {"real, through the codecs": cells(sync_r0=0.91)}
  assert first.decode() == page(read(folder), sections(), ceiling)
  assert run("table", "--results", folder, "--out", out) == 0
  assert out.read_bytes() == first


def test_a_page_shows_the_figures_that_are_there(folder, tmp_path):
  """One at the top, the others at the end, as they are seen from the page."""
  for name in ("keys", "training", "loss", "other"):
    (folder / f"{name}.png").write_bytes(b"")
  page = tmp_path / "docs" / "page.md"
  assert run("table", "--results", folder, "--out", page) == 0
  text = page.read_text()
  shown = re.findall(r"!\[(.*?)\]\((.*?)\)", text)
  assert [path for _, path in shown] == [
    f"../stored/{name}.png" for name in ("training", "loss", "keys")
  ]
  assert all(words == figures.ABOUT[path[10:-4]] for words, path in shown)
  places = [
    text.index(x) for x in ("training.png", "## Training", "## Fig", "loss.png")
  ]
  assert places == sorted(places)


def test_what_a_score_is_is_said_once(folder):
  text = page(read(folder), sections())
  assert text.count("**sync_r0**: correlation of mouths and voices (more") == 1
  assert text.count("**sync_r0** (more is better)") >= 2


def test_plots(folder, tmp_path, monkeypatch):
  """Into the folder of the results, or into another one."""
  monkeypatch.setattr(
    figures, "made", lambda runs, *_: {"loss": figures.loss_figure(runs)}
  )
  assert run("plots", "--results", folder) == 0
  assert run("plots", "--results", folder, "--out", tmp_path / "other") == 0
  (there,) = (tmp_path / "other").iterdir()
  assert there.name == "loss.png"
  assert there.read_bytes() == (folder / "loss.png").read_bytes()


@pytest.mark.parametrize("command", ["table", "plots"])
def test_versions_are_not_mixed(command, folder, tmp_path, capsys):
  write_json(folder / "ccl-2.json", result("ccl", 2, version="b77"))
  assert run(command, "--results", folder, "--out", tmp_path / "out") == 2
  said = capsys.readouterr().err
  assert "differ in version: got 3f2a of ccl-0" in said and said.count("\n") == 1
  assert not (tmp_path / "out").exists()
