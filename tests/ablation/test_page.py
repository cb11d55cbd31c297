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


def test_scales_that_were_tried(folder, tmp_path):
  """What each scale gives, by hand: the best is bold, what has no number a dash."""
  tried = lambda worth, scores, **scales: {
    "scales": scales, "worth": worth, "scores": scores
  }  # fmt: skip
  grid = [
    tried(0.5, {"sync_r0": 0.625, "event_f1": 0.9, "ser": 0.125}, s_m=1.0, s_t=2.0),
    tried(0.75, {"sync_r0": 0.75, "ser": 0.0, "place_error": 0.0625}, s_m=2.5, s_t=4.0),
  ]
  best = {s: {"s_m": 2.5, "s_t": 4.0} for s in ("video", "audio")}
  kind = {"run": "ccl-0", "clips": 64, "ucg3": {"scales": best, "grid": grid}}
  write_json(folder / "scales.json", {"gate": {}, "context": kind})
  out = tmp_path / "page.md"
  assert run("table", "--results", folder, "--out", out) == 0
  _, text = out.read_text().split("## What do the scales of guidance do?\n")
  lines = [" ".join(x.split()) for x in text.splitlines() if x.startswith(("| ", "`"))]
  assert lines == [
    "`ccl-0`, 64 clips:",
    "| | scales | sync_r0 | event_f1 | ser | place_error | worth |",
    "| ucg3 | s_m 1, s_t 2 | 0.625 | 0.900 | 0.125 | - | 0.500 |",
    "| ucg3 | **s_m 2.5, s_t 4** | **0.750** | **-** | **0.000** | **0.062** "
    "| **0.750** |",
  ]


def test_a_page_without_scales(folder, tmp_path):
  out = tmp_path / "page.md"
  assert run("table", "--results", folder, "--out", out) == 0
  assert "scales of guidance do" not in out.read_text()


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
