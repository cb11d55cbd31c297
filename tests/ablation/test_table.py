"""The page of tables: its rows, its numbers by hand, and what it refuses."""

import pytest

from ccl_jax.ablation.table import Row, Section, page, sections, write_table
from ccl_jax.ablation.variants import QUESTIONS
from ccl_jax.errors import UsageError
from tests.ablation.stored import cells, result

GATE, CCL = Row("gate", "text", "gate"), Row("ccl", "ucg2", "ccl")
TWO = [Section("Two", "", [GATE, CCL], ["sync_r0"])]


def rows(text, heading="**sync_r0**"):
  """The cells of the table below a heading, by the first of each line."""
  lines = text[text.index(heading) :].split("\n\n")[1].strip().split("\n")
  cells = [[x.strip() for x in line.strip("|").split("|")] for line in lines]
  return {row[0]: row[1:] for row in cells if not row[0].startswith("-")}


@pytest.fixture
def results():
  """Gate 0.2, 0.4, 0.6 of seeds 0 to 2; ccl 0.1 more, of seeds 0, 1 and 3."""
  gate = [result("gate", k, x) for k, x in enumerate((0.2, 0.4, 0.6))]
  return gate + [result("ccl", k, x) for k, x in ((3, 0.9), (1, 0.5), (0, 0.3))]


def test_numbers_by_hand(results):
  got = rows(page(results, TWO))
  assert got[""] == ["joint", "v2a", "seeds", "paired"]
  # t = 4.3027 of 2 degrees; s = 0.2, and 0.3055 of 0.9, 0.5, 0.3
  assert got["gate"] == ["0.400 ± 0.497", "0.200 ± 0.248", "3", "-"]
  ccl = ["0.567 ± 0.759 (**+0.100 ± 0.000**)", "0.283 ± 0.379 (**+0.050 ± 0.000**)"]
  assert got["ccl"] == [*ccl, "3", "2"]


def test_chance_is_the_first_row_and_real_clips_the_last(results):
  real = {
    "real, through the codecs": cells(sync_r0=0.91),
    "real": cells(sync_r0=0.97),
    "real, with other sounds": cells(sync_r0=0.03),
  }
  got = rows(page(results, TWO, real))
  assert list(got) == ["", "chance", "gate", "ccl", *list(real)[1::-1]]
  assert got["chance"] == ["0.100", "0.100", "", ""]
  assert got["real, through the codecs"] == ["0.910", "0.910", "", ""]


def test_a_difference_whose_interval_holds_0_is_not_bold():
  runs = [result("gate", k, x) for k, x in enumerate((0.2, 0.4))]
  runs += [result("ccl", k, x) for k, x in enumerate((0.3, 0.4))]
  # differences 0.1 and 0: mean 0.05, half 12.706 * 0.0707 / sqrt(2)
  assert "0.350 ± 0.635 (+0.050 ± 0.635)" in rows(page(runs, TWO))["ccl"]


def test_under_a_question_rows_are_held_against_the_first(results):
  third = Row("ccl_paper", "ucg2", "paper")
  runs = results + [result("ccl_paper", k, x) for k, x in enumerate((0.7, 0.9))]
  for first, change in ((False, "+0.400"), (True, "+0.500")):  # to 0.3, 0.5; 0.2, 0.4
    section = Section("Three", "", [GATE, CCL, third], ["sync_r0"], first)
    assert f"(**{change} ± 0.000**)" in rows(page(runs, [section]))["paper"][0]
  assert all(s.first == (s.title in QUESTIONS) for s in sections())


def test_one_seed_has_no_interval(results):
  got = rows(page([results[0], results[-1]], TWO))
  assert got["gate"] == ["0.200 ± -", "0.100 ± -", "1", "-"]
  assert got["ccl"] == ["0.300 ± - (+0.100 ± -)", "0.150 ± - (+0.050 ± -)", "1", "1"]


def test_no_common_seed_has_no_difference(results):
  got = rows(page([results[0], results[3]], TWO))
  assert got["ccl"] == ["0.900 ± - (-)", "0.450 ± - (-)", "1", "0"]


def test_a_score_that_some_runs_lack(results):
  del results[0]["guidance"]["text"]["joint"]["scores"]["sync_r0"]  # gate, seed 0
  for r in results[3:]:
    del r["guidance"]["ucg2"]["v2a"]
  got = rows(page(results, TWO))
  assert got["gate"][0] == "0.500 ± 1.271 of 2" and got["gate"][2] == "3"
  assert got["ccl"][0] == "0.567 ± 0.759 (+0.100 ± -)"  # paired at seed 1 alone
  assert got["ccl"][1:] == ["-", "3", "1"]


def test_a_score_that_is_not_a_number_is_missing(results):
  results[0]["guidance"]["text"]["joint"]["scores"]["sync_r0"]["mean"] = float("nan")
  assert rows(page(results, TWO))["gate"][0].endswith(" of 2")


def test_information_is_the_mean_over_noise_levels_in_percent(results):
  section = Section("Two", "", [GATE, CCL], ["information"])
  by_sigma = results[0]["information"]["joint"]["video"]
  by_sigma["0.3"]["share"], by_sigma["0.9"]["share"] = 0.08, 0.02  # beside 0.02
  by_sigma["0.3"]["chance"] = 0.033  # / 0.55 = 6 %, a third of it at this run
  got = rows(page([results[0], results[3]], [section]), "**information**")
  assert got[""][:2] == ["joint, video", "joint, audio"]
  assert got["gate"][:2] == ["4.00 ± -", "4.00 ± -"]
  assert got["chance"][0] == "1.00"  # 2 % of one run of two


def test_training_numbers(results):
  section = Section("Two", "", [GATE, CCL], ["training"])
  for r in results[3:]:
    cosines = {"joint/joint": 0.9, "joint/a2v": 0.1, "joint/v2a": 0.3}
    cosines = {f"blocks {k}": v for k, v in cosines.items()}
    r["stability"] = {"difference_std": 0.01, "gradient_cosine": cosines}
  got = rows(page(results, [section]), "**training**")
  assert got[""][:3] == ["last loss", "deviation", "cosine, blocks"]
  assert got["gate"][1:3] == ["0.0200 ± 0.0000", "-"]
  assert got["ccl"][1] == "0.0100 ± 0.0000 (**-0.0100 ± 0.0000**)"
  assert got["ccl"][2] == "0.200 ± 0.000 (-)"


def test_the_last_loss_is_that_of_the_last_fifth(results):
  loss = {"step": [20, 40, 60, 80, 90, 100], "loss": [9, 9, 9, 9, 2, 4], "by_task": {}}
  runs = [r | {"loss": loss} for r in results]
  section = Section("Two", "", [GATE, CCL], ["training"])
  assert rows(page(runs, [section]), "**training**")["gate"][0] == "3.0000 ± 0.0000"


def test_kinds_of_clips(results):
  section = Section("Two", "", [GATE, CCL], ["sync_r0 by kind of clip"])
  for r, x in zip(results[3:], (0.2, 0.3, 0.4)):
    r["guidance"]["ucg2"]["joint"]["kinds"] = {"two": cells(sync_r0=x)}
  got = rows(page(results, [section]), "**sync_r0 by kind")
  assert got[""] == ["two", "seeds", "paired"]
  assert got["gate"] == ["-", "0", "-"]
  assert got["ccl"] == ["0.300 ± 0.248 (-)", "3", "0"]


def test_what_the_page_is_of(results):
  results[0]["machine"] = "another, 8 cores"
  results[0]["steps"] = 4000
  line = next(x for x in page(results, TWO).split("\n") if x.startswith("6 runs"))
  assert line == (
    "6 runs of size `cpu`, 1000 to 4000 steps each after joining, 1000000 parameters, "
    "seeds 0, 1, 2, 3; up to 64 clips a score; code `3f2a`; on a processor, 2 cores; "
    "another, 8 cores."
  )


def test_the_sections_are_those_of_the_variants():
  names = ("gate", "ccl", "ccl_paper", "gate_tarp", "own_sigma")
  runs = [result(name, seed) for name in names for seed in (0, 1)]
  text = page(runs, sections())
  assert [x for x in text.split("\n") if x.startswith("## ")] == [
    "## Training",
    "## Training, text guidance alone",
    "## Guidance of gate",
    "## Guidance of ccl",
    "## Which times?",
    "## One noise level for both streams?",  # of tasks by step there are no runs
  ]
  assert "Without runs: `gate_causal`, `ccl_causal_wide`, `ccl_global`." in text
  assert text.strip().split("Without runs: ")[-1].startswith("`floor`")
  main = rows(text)
  assert list(main) == ["", "chance", "gate", "gate_tarp", "ccl_paper", "ccl"]
  assert main["gate"][0] == "-"  # its best form has no scores here
  assert list(rows(text[text.index("## Which") :]))[2:] == ["ccl", "ccl_paper"]
  assert "* `own_sigma`: each stream its own noise level" in text
  guidance = rows(text[text.index("## Guidance of ccl") :])
  assert list(guidance)[2:4] == ["text", "ucg2"] and guidance["sync"][0] == "-"


def test_the_order_of_the_files_changes_no_byte(results, tmp_path):
  files = [tmp_path / name for name in ("a.md", "b.md")]
  write_table(results, files[0])
  write_table(results[::-1], files[1])
  assert files[0].read_bytes() == files[1].read_bytes()
  assert files[0].read_text("utf-8") == page(results, sections())


@pytest.mark.parametrize(
  "changed, said",
  [
    ({"version": "b77"}, r"differ in version: got 3f2a of .*; b77 of gate-9; expected"),
    (
      {"size": "gpu"},
      r"differ in size: got cpu of ccl-0, ccl-1, ccl-3 and 3 more; gpu",
    ),
    ({"seed": 1}, "two results of gate-1: expected one"),
  ],
)
def test_runs_that_cannot_be_compared(results, tmp_path, changed, said):
  odd = result("gate", 9) | changed
  with pytest.raises(UsageError, match=said):
    write_table([*results, odd], tmp_path / "table.md")
  assert not list(tmp_path.iterdir())


def test_no_results(tmp_path):
  with pytest.raises(UsageError, match="no results of runs: got 0"):
    write_table([], tmp_path / "table.md")
