"""Rows of `prepare` and what is told of them, by films whose scans are made up."""

import numpy as np
import pytest

from ccl_jax.data.media.decode import MediaInfo
from ccl_jax.data.preparing import rows as prepare
from ccl_jax.data.preparing import shots
from ccl_jax.data.preparing.report import summary
from ccl_jax.data.preparing.rows import Options, rows_of
from ccl_jax.data.preparing.run import Prepared
from ccl_jax.data.sources.captions import Caption, Row

ROWS = [
  {"file": "a.mp4", "caption": "x", "seconds": 1800.0, "start": 0.0, "end": 1800.0,
   "crop": [1, 2, 3, 4], "loudness": -30.0, "loudness_gain": 7.0, "silence": 0.0,
   "clipped": 0.0, "av_offset_ms": 100.0, "speech_share": 0.25},
  {"file": "a.mp4", "caption": "", "seconds": 900.0, "start": 1800.0, "end": 2700.0,
   "loudness": -20.0, "loudness_gain": -3.0, "silence": 0.99, "clipped": 0.001,
   "av_offset_ms": 100.0, "speech_share": 0.75},
  {"file": "b.mp4", "caption": "y", "seconds": 180.0, "loudness": -26.0,
   "loudness_gain": 3.0, "silence": 0.995, "clipped": 0.0011, "av_offset_ms": -100.5,
   "mood": "calm"},
  {"file": "c.wav", "caption": "", "seconds": 0.0, "silence": 1.0, "clipped": 0.5},
  {"file": "d.png", "caption": "z"},
]  # fmt: skip
BAD = [("e.mp4", "lasts 2.5 s"), ("f.mp4", "lasts 3 s"), ("g.mp4", "no picture")]


def told(options=Options(), least=100.0, rows=ROWS, bad=BAD):
  lines = summary(Prepared(rows, bad), options, least)
  return {line[:18].strip(): line[18:] for line in lines if line[0] != " "}, [
    line.strip() for line in lines if line[0] == " "
  ]


def test_a_summary_counts():
  table, rest = told()
  assert table == {
    "files": "4, and 3 skipped",
    "rows": "5, 0.800 h",
    "parts of a file": "2",
    "with black bars": "1",
    "loudness": "median -26.0, -30.0 to -20.0 LUFS",
    "gain": "median 3.0, -3.0 to 7.0 dB",
    "silent": "2 of 4",  # over 99 %
    "clipped": "2 (over 0.1 % of samples)",
    "without caption": "2",
    "sound apart": "1 (over 100 ms)",
  }
  assert rest == ["b.mp4: -100.5 ms", "skipped 2: lasts N s", "skipped 1: no picture"]
  table, rest = told(Options(speech="f", template="{caption} {mood}"), 99.9)
  assert table["speech"] == "median 0.5, 0.2 to 0.8 of a row"
  assert table["without template"] == "4, they lack a field of it"
  assert rest[:2] == ["a.mp4: +100 ms", "b.mp4: -100.5 ms"]


def test_long_lists_are_cut():
  many = [{"file": f"{i:02}", "caption": "", "av_offset_ms": 500.0} for i in range(21)]
  table, rest = told(rows=many, bad=[])
  assert table["sound apart"].startswith("21") and table["loudness"] == "none"
  assert len(rest) == 21 and rest[-1] == "and 1 more"
  assert len(told(rows=many[:20], bad=[])[1]) == 20


@pytest.fixture
def scanned(monkeypatch, tmp_path):
  """A film of 10 s with cuts and bars as given, and the parts of sound it is asked."""
  calls = []

  def setup(cuts=(), bars=()):
    picture = shots.FilmScan(cuts, np.zeros(0), np.zeros((0, 0), np.uint8),
                         np.zeros((0, 0), np.uint8))  # fmt: skip
    monkeypatch.setattr(shots.FilmScan, "crop", lambda self, start, end: bars)
    monkeypatch.setattr(shots, "scan_film", lambda path, cuts: picture)
    info = MediaInfo(True, True, 0.0, 10.0, 25.0, 48, 64)
    monkeypatch.setattr(prepare, "cached_probe", lambda: lambda path, sound: info)
    monkeypatch.setattr(prepare, "_offset_ms", lambda *_: 12.5)
    sound = lambda path, start, end, options: calls.append((start, end)) or {}
    monkeypatch.setattr(prepare, "_sound", sound)

    def run(rows=None, **options):
      calls.clear()
      rows = rows or [Row(Caption("t"), {"id": "a", "text": "t", "mood": 1}, "here")]
      made = rows_of(tmp_path, "a.mp4", rows, Options(**options))
      return [(r.get("start"), r.get("end"), r["seconds"]) for r in made], made, calls

    return run

  return setup


def test_a_film_of_one_shot_is_one_row_of_all(scanned):
  parts, (row,), calls = scanned()()
  assert parts == [(None, None, 10.0)] and calls == [(0.0, None)]
  assert row == {
    "file": "a.mp4", "caption": "t", "mood": 1, "seconds": 10.0, "av_offset_ms": 12.5,
  }  # fmt: skip


def test_shots_are_rows_but_for_the_shortest(scanned):
  """A fifth of a second is enough; sound of the last is read to its own end."""
  run = scanned(cuts=(2.0, 2.2, 3.0, 3.19), bars=(8, 0, 32, 64))
  parts, rows, calls = run()
  ends = [(0.0, 2.0), (2.0, 2.2), (2.2, 3.0), (3.19, 10.0)]
  assert parts == [(a, b, round(b - a, 3)) for a, b in ends]
  assert calls == [*ends[:3], (3.19, None)]
  assert all(row["crop"] == [8, 0, 32, 64] for row in rows)
  parts, (row,), _ = run(shots=False, crop=False)
  assert parts == [(None, None, 10.0)] and "crop" not in row


def test_rows_that_are_parts_stay_parts(scanned):
  run = scanned(cuts=(1.0,), bars=(8, 0, 32, 64))
  part = Row(Caption("t", start=2.0, end=4.0, crop=(1, 2, 3, 4)), {"crop": "own"}, "x")
  parts, (row,), calls = run([part])
  assert parts == [(2.0, 4.0, 2.0)] and calls == [(2.0, 4.0)] and row["crop"] == "own"
  last = Row(Caption("t", start=2.0, end=10.5), {}, "x")
  assert run([last])[0::2] == ([(2.0, 10.0, 8.0)], [(2.0, None)])
  tiny = Row(Caption("t", start=2.0, end=2.1), {}, "x")
  assert run([tiny])[0] == [(2.0, 2.1, 0.1)]  # as it was asked for


def test_options():
  assert Options() == (True, True, None, "", "", "")
