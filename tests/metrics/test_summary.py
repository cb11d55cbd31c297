"""Means, rates, intervals and differences by known numbers; the cells of the tables."""

import json

import numpy as np
import pytest

from ccl_jax.metrics import html, tables
from ccl_jax.metrics.columns import COLUMNS, Column
from ccl_jax.metrics.frechet import Moments
from ccl_jax.metrics.outputs import compare, comparison_text, read_run
from ccl_jax.metrics.summary import (
  columns_of,
  difference,
  distance,
  paired_subsets,
  parts_of,
  sum_up,
  terms,
)

NUMBERS = Column("m", "x", None, "X", True, True)
RATE = Column("m", "wrong", "all", "R", False, False)


def test_the_interval_of_a_mean_is_that_of_95_percent():
  """Of 400 normal numbers: 1.96 standard errors to each side, by theory."""
  x = np.random.default_rng(5).normal(3, 2, 400)
  got = sum_up([(float(v), 1.0) for v in x])
  error = x.std() / 20
  assert got["mean"] == pytest.approx(x.mean(), rel=1e-12)
  assert (got["high"] - got["mean"]) / error == pytest.approx(1.96, abs=0.1)
  assert (got["mean"] - got["low"]) / error == pytest.approx(1.96, abs=0.1)


def test_an_interval_of_few_clips_is_what_draws_of_them_give():
  """0 and 1, twice each way: the mean of two draws is 0, 1/2 or 1; of ten clips of
  which one is 1, the number of ones is binomial: none in 35 %, four or more in 1.3 %.
  """
  assert sum_up([(0.0, 1.0), (1.0, 1.0)]) == {"mean": 0.5, "low": 0, "high": 1}
  assert sum_up([(float(i == 7), 1.0) for i in range(10)]) == {
    "mean": 0.1,
    "low": 0.0,
    "high": pytest.approx(0.3),
  }


def test_a_rate_is_all_errors_over_all_words():
  got = sum_up([(1.0, 10.0), (3.0, 2.0)])
  assert got["mean"] == 4 / 12
  # Drawn twice each or one of each: 1/10, 4/12 or 3/2.
  assert (got["low"], got["high"]) == (pytest.approx(0.1), pytest.approx(1.5))
  assert sum_up([(3.0, 2.0)]) == {"mean": 1.5} and sum_up([]) == {}


def test_the_part_of_a_clip():
  assert terms(NUMBERS, {"x": 0.0}) == (0.0, 1.0)
  assert terms(NUMBERS, {"y": 2.0}) is None
  assert terms(RATE, {"wrong": 3, "all": 4}) == (3.0, 4.0)
  assert terms(RATE, {"wrong": 3, "all": 0}) is None
  assert terms(RATE, {"wrong": 3}) is None and terms(RATE, {"all": 3}) is None
  rows = {"a": {"x": 1}, "b": {}, "c": {"x": 3}}
  assert parts_of(NUMBERS, rows) == {"a": (1, 1), "c": (3, 1)}


def test_a_difference_is_the_second_less_the_first_on_common_clips():
  first = {"a": (1.0, 1.0), "b": (2.0, 1.0), "only": (90.0, 1.0)}
  second = {"b": (5.0, 1.0), "a": (3.0, 1.0), "other": (-90.0, 1.0)}
  got = difference(first, second)
  # Clips differ by 2 and 3: draws of both give 2, 2.5 or 3 and no more.
  assert got == {"n": 2, "difference": 2.5, "low": 2.0, "high": 3.0}
  assert difference(first, {"b": (5.0, 2.0)}) == {"n": 1, "difference": 0.5}
  assert difference(first, {"z": (5.0, 2.0)}) == {"n": 0}


def test_a_difference_draws_the_same_clips_of_both():
  """What a hard clip costs both cancels: always 1 apart, whatever is drawn."""
  hard = np.random.default_rng(0).normal(0, 100, 30)
  first = {f"{i:02d}": (x, 1.0) for i, x in enumerate(hard)}
  second = {name: (x + 1, 1.0) for name, (x, _) in first.items()}
  got = difference(first, second)
  assert (got["low"], got["high"]) == (pytest.approx(1), pytest.approx(1))


SCORES = {
  "desync": {
    "a": {"desync": 0.2},
    "b": {"desync": 0.6},
    "c": {"desync": 1.0},
    "d": {"desync": 0.3},
  },
  "wer": {
    "a": {"wer": 0.5, "wer_errors": 1, "wer_words": 2},
    "b": {"wer": 0.1, "wer_errors": 1, "wer_words": 10},
    "c": {"unrequested": 1},
  },
  "aesthetics": {"a": {"CU": 5.555, "PQ": 6.0, "CE": 4.0, "PC": 2.0}},
}


def test_columns_are_of_the_clips_that_are_named():
  got = columns_of(SCORES, ["a", "b", "c"])
  assert got["wer"]["mean"] == 2 / 12 and got["wer_mean"]["mean"] == pytest.approx(0.3)
  assert (got["wer"]["n_scored"], got["wer"]["n_total"]) == (2, 3)
  assert got["unrequested"] == {"mean": 1, "n_scored": 1, "n_total": 3}
  assert got["desync"]["mean"] == pytest.approx(0.6)
  assert got["cu"]["mean"] == 5.555 and got["cer"] == {"n_scored": 0, "n_total": 3}
  assert not {"ib", "sync_c", "av_align"} & got.keys()  # metrics that did not run


def test_which_numbers_are_better_when_they_are_higher():
  better = {
    True: "cu pq ce sync_c ib av_align film_r talking_r impact_f1 event_f1 right_face",
    False: "wer cer wer_mean cer_mean unrequested sync_d desync ser "
    "hue_error place_error face_missing listener_motion",
    None: "pc face_rate talking_lag",
  }
  for higher, keys in better.items():
    assert {k for k, c in COLUMNS.items() if c.higher is higher} == set(keys.split())


def test_subsets_are_paired_by_their_pairs():
  pairs = {"hard": {"p": "c", "q": "b", "z": "b"}, "easy": {"p": "a", "q": "d"}}
  got = paired_subsets(SCORES, pairs)
  assert list(got) == ["hard - easy"]  # c - a and b - d
  apart = got["hard - easy"]["desync"]
  assert apart["n"] == 2 and apart["difference"] == pytest.approx(0.55)
  assert (apart["low"], apart["high"]) == (pytest.approx(0.3), pytest.approx(0.8))
  assert "cu" not in got["hard - easy"]  # which no hard clip has
  assert paired_subsets(SCORES, {"x": {"p": "a"}, "y": {"q": "b"}}) == {}


def test_a_distance_says_what_speaks_against_it():
  x = np.array([[0.0], [2.0], [4.0], [6.0]])
  got = distance([x[:1], x[1:]], Moments.of([x + 3]))
  assert got == {"n_scored": 2, "mean": pytest.approx(9)}
  few = distance([x[:2]], Moments.of([x]))
  # Variances 2 and 20/3 about 1 and 3; no warning at two features per dimension.
  expected = 4 + 2 + 20 / 3 - 2 * (2 * 20 / 3) ** 0.5
  assert few == {"n_scored": 1, "mean": pytest.approx(expected)}
  wide = distance([np.eye(3)[:2]], Moments.of([np.eye(3)]))
  assert [w.split(":")[0] for w in wide["warnings"]] == [
    "2 features of width 3", "3 features of width 3"
  ]  # fmt: skip
  assert distance([], None)["reason"].startswith("no features of real clips")
  assert distance([x[:1]], Moments.of([x]))["reason"].startswith("a set of 1 features")


def summary(scores=SCORES, names="abcd", subsets=None):
  """As a run writes it."""
  subsets = {"easy": ["a", "d"], "hard": ["b", "c"]} if subsets is None else subsets
  return {
    "n_total": len(names),
    "missing": [],
    "overall": columns_of(scores, list(names)),
    "subsets": {s: columns_of(scores, ids) for s, ids in subsets.items()},
    "metrics": {name: {"protocol_id": "1"} for name in scores},
  }


def cells(line):
  return [x.strip() for x in line.split("|")[1:-1]]


def test_the_papers_table_has_the_right_numbers_under_its_labels():
  head, _, row, ends = map(cells, tables.paper_table(summary(), "ours").splitlines())
  assert head == ["", "CU ↑", "PQ ↑", "WER ↓", "DeSync ↓ easy", "DeSync ↓ hard"]
  # 5.555 is 5.55 in binary, 2 / 12 and the means of 0.2, 0.3 and of 0.6, 1.
  assert row == ["ours", "5.55", "6.00", "0.167", "0.250", "0.800"]
  assert ends == [
    "95 %",
    "–",
    "–",
    "[0.100, 0.500]",
    "[0.200, 0.300]",
    "[0.600, 1.000]",
  ]
  assert tables.paper_table(summary({}), "ours") == ""


def test_all_numbers_have_a_line_each():
  rows = {row[0]: row[1:] for row in tables.all_rows(summary())}
  assert rows["mean [95 %] (clips)"] == ["all", "easy", "hard"]
  # Of the 256 draws of four clips 5 have means below 0.25, and 5 above 0.825.
  assert rows["DeSync ↓"] == [
    "0.525 [0.250, 0.825] (4/4)", "0.250 [0.200, 0.300] (2/2)",
    "0.800 [0.600, 1.000] (2/2)",
  ]  # fmt: skip
  # One clip of each subset is to speak: an error in 2 words, and one in 10.
  assert rows["WER ↓"] == [
    "0.167 [0.100, 0.500] (2/4)", "0.500 (1/2)", "0.100 (1/2)",
  ]  # fmt: skip
  assert rows["PC"] == ["2.00 (1/4)", "", ""] and "CER ↓" not in rows
  order = [row[0] for row in tables.all_rows(summary())[1:]]
  assert order == [
    "CU ↑", "PQ ↑", "WER ↓", "DeSync ↓", "CE ↑", "PC", "WER by clip ↓",
    "Unasked speech ↓",
  ]  # fmt: skip


def test_reasons_that_differ_in_numbers_and_names_are_one_note():
  """Three clips, one line; another kind another line; numbers in a name are its own."""
  held = summary(names="abcd")
  held["metrics"] = {
    "desync": {
      "reasons": {
        "1.20 s of picture": ["c1"], "2 s of picture": ["c2"],
        "c3.mp4: no such file": ["c3"], "c10.mp4: no such file": ["c10"],
        "no sound": ["x", "y"],
      }
    },
  }  # fmt: skip
  held["accidents"] = [f"ib of c{i}: MemoryError: {i} bytes" for i in range(7)]
  assert tables.notes(held)[:4] == [
    "desync: 2 not scored, 1.20 s of picture, the others alike (c1, c2)",
    "desync: 2 not scored, c3.mp4: no such file, the others alike (c3, c10)",
    "desync: 2 not scored, no sound (x, y)",
    "ib: 7 failed by accident, MemoryError: 0 bytes, the others alike (c0, c1, c2, c3, "
    "c4 and 2 more)",
  ]


def test_clips_in_no_subset_are_judged_too():
  some = summary(subsets={"easy": ["a", "d"], "hard": ["b"]})
  places = [place for place in tables.layout(some) if place[0] == "desync"]
  assert places == [("desync", None), ("desync", "easy"), ("desync", "hard")]
  assert tables.layout(summary())[-2:] == [("desync", "easy"), ("desync", "hard")]


def test_what_is_not_known_is_a_dash():
  assert tables.shown(None, "wer") == "–" and tables.shown(0.0, "wer") == "0.000"
  assert (
    tables.shown(1.005, "fad") == "1.00" and tables.shown(2.5, "talking_lag") == "2"
  )
  assert tables.interval({"mean": 1}, "wer") == "–"
  assert tables.interval({"low": 1.0, "high": 2.345}, "cu") == "[1.00, 2.35]"


def test_a_table_is_aligned_and_its_bars_are_kept_apart():
  text = tables.table([["", "b|c"], ["name", "1"]])
  assert text.splitlines() == ["|      | b\\|c |", "|------|------|", "| name | 1    |"]


def test_notes_say_what_a_reader_has_to_know():
  held = summary(names="abcdefgh")
  held["missing"] = list("ijklmn")
  held["overall"]["fad"] = {"n_scored": 2, "reason": "too few", "warnings": ["small"]}
  held["metrics"] |= {
    "fad": {},
    "ib": {"skipped": "no weights", "reasons": {}},
    "wer": {"reasons": {"no sound": list("abcde"), "short": ["d"]}},
    "desync": {"reasons": {"short": ["d"]}},
  }
  assert tables.notes(held) == [
    "ib: skipped, no weights",
    "desync, wer: 1 not scored, short (d)",
    "wer: 5 not scored, no sound (a, b, c, d, e)",
    "fad: small",
    "fad: no distance, too few",
    "desync: a network that guesses has 1.048",
    "missing videos: 6 of 8 (i, j, k, l, m and 1 more)",
  ]


def finished(folder, scores, subsets):
  """A run's folder, as far as comparisons read it."""
  folder.mkdir()
  names = sorted({n for rows in scores.values() for n in rows})
  by = {s: [n for n in names if subsets.get(n) == s] for s in subsets.values()}
  text = json.dumps(summary(scores, names, dict(sorted(by.items()))))
  (folder / "summary.json").write_text(text)
  rows = [
    {"id": n, "metric": m, "scores": row, "subset": subsets.get(n)}
    for m, held in scores.items()
    for n, row in held.items()
  ]
  (folder / "per_clip.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
  return folder


def test_two_runs_are_compared_on_common_clips_by_subset(tmp_path):
  subsets = {"a": "easy", "b": "hard", "c": "hard", "d": "easy"}
  one = finished(tmp_path / "one", {"desync": SCORES["desync"]}, subsets)
  moved = {n: {"desync": 0.5 * x["desync"]} for n, x in SCORES["desync"].items()}
  two = finished(tmp_path / "two", {"desync": moved | {"e": {"desync": 9.0}}}, subsets)
  got = compare(one, two)
  assert got["names"] == ["one", "two"] and got["other_protocol"] == []
  rows = {row["subset"]: row for row in got["rows"]}
  assert list(rows) == [None, "easy", "hard"]
  assert rows[None]["means"] == [pytest.approx(0.525), pytest.approx(10.05 / 5)]
  assert rows[None]["paired"]["difference"] == pytest.approx(-0.2625)
  assert rows["hard"]["paired"] == {
    "n": 2, "difference": pytest.approx(-0.4), "low": pytest.approx(-0.5),
    "high": pytest.approx(-0.3),
  }  # fmt: skip
  line = comparison_text(got).splitlines()[4]
  assert cells(line) == [
    "DeSync ↓ hard", "0.800", "0.400", "-0.400", "[-0.500, -0.300]", "2"
  ]  # fmt: skip
  assert read_run(one).parts(COLUMNS["desync"], "easy").keys() == {"a", "d"}


def numbers_of(svg, element, attribute):
  parts = svg.split(f"<{element} ")[1:]
  return [float(p.split(f'{attribute}="')[1].split('"')[0]) for p in parts]


def test_dots_lie_where_their_values_are():
  """Values 0 to 4 on the pixels 140 to 600, a band from 1 to 3 and a line at 2."""
  cell = {"mean": 2.0, "low": 1.0, "high": 3.0}
  groups = [("all", [0.0, 1.0, 4.0], cell), ("some", [3.0], {"mean": 3.0})]
  svg = html.strip_plot(groups, "desync")
  assert numbers_of(svg, "circle", "cx") == [140, 255, 600, 485]
  assert numbers_of(svg, "rect", "x") == [255] and numbers_of(svg, "rect", "width") == [
    230
  ]
  assert numbers_of(svg, "line", "x1") == [370, 485]
  ys = numbers_of(svg, "circle", "cy")
  assert all(abs(y - 17) <= 6 for y in ys[:3]) and abs(ys[3] - 51) <= 6
  assert svg.endswith(
    '<text x="140" y="83" text-anchor="middle">0.000</text>'
    '<text x="600" y="83" text-anchor="middle">4.000</text></svg>'
  )


def test_the_page_shows_the_worst_clips_of_a_number_the_worst_first(tmp_path):
  values = {"a": 0.2, "b": 0.9, "c": 0.5, "d": 0.7, "e": 0.1}
  scores = {
    "desync": {n: {"desync": x} for n, x in values.items()},
    "ib": {n: {"ib_score": x} for n, x in values.items()},
  }
  files = {n: tmp_path / "films" / f"{n}.mp4" for n in values}
  (tmp_path / "films").mkdir()
  for path in files.values():
    path.write_text(path.stem)
  (tmp_path / "worst").mkdir()
  (tmp_path / "worst" / "old.mp4").touch()
  held = summary(scores, "abcde", {})
  html.write_html(tmp_path, held, scores, {}, files, "<ours>")
  page = (tmp_path / "report.html").read_text()
  shown = [x.split("</figcaption>")[0] for x in page.split("<figcaption>")[1:]]
  worst_desync, worst_ib = shown[:3], shown[3:]
  assert worst_desync == ["b: 0.900", "d: 0.700", "c: 0.500"]  # less is better
  assert worst_ib == ["e: 0.100", "a: 0.200", "c: 0.500"]
  assert {p.stem for p in (tmp_path / "worst").iterdir()} == set("abcde")
  assert (tmp_path / "worst/b.mp4").read_text() == "b"
  assert "<title>&lt;ours&gt;</title>" in page
  assert "<td>0.480 [" in page and "] (5/5)</td>" in page
