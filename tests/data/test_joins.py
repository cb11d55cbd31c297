"""Metadata of published sets joined with files, in shards: by hand, and on Beam."""

import json
import os
import pathlib

import numpy as np
import pytest

from ccl_jax.data.__main__ import main
from ccl_jax.data.builders.wavcaps import Wavcaps
from ccl_jax.data.preparing import engine
from ccl_jax.data.sources import media_builder, media_set
from ccl_jax.data.sources.media_builder import MediaBuilder
from ccl_jax.errors import UsageError
from ccl_jax.viz.media import write_wav

# The second is too long, the fourth too short, the fifth is none, 6 is not there.
SECONDS = {"1": 0.5, "2": 0.75, "3": 0.5, "4": 0.1}
OPTIONS = {"min_seconds": 0.3, "max_seconds": 0.7, "test_share": 0.0}


@pytest.fixture
def published(tmp_path, monkeypatch):
  """WavCaps' table of six sounds, in shards of two."""
  root = tmp_path / "wavcaps"
  for name, seconds in SECONDS.items():
    wave = np.full(round(16000 * seconds), 0.1, np.float32)
    write_wav(root / "sounds" / f"{name}.wav", wave)
  (root / "sounds" / "5.wav").write_text("no sound")
  rows = [{"id": str(k), "caption": f"sound {k}"} for k in (3, 1, 2, 6, 5, 4)]
  (root / "fsd_final.json").write_text(json.dumps({"data": rows}))
  monkeypatch.setattr(media_builder, "SHARD", 2)
  return root


def built(root, data_dir, **options):
  """The rows, what is missing, what was left out, and the bytes of the records."""
  made = media_set.prepare(Wavcaps, root, str(data_dir), **OPTIONS | options)
  folder = pathlib.Path(made.data_dir)
  (rows,) = media_set.splits(folder).values()
  skipped = [json.loads(x) for x in (folder / "skipped.jsonl").read_text().splitlines()]
  records = sorted(p for p in folder.iterdir() if "array_record" in p.name)
  assert not list(pathlib.Path(data_dir).glob("*.parts"))
  return (
    {name: [r.text for r in own] for name, own in rows.items()},
    (folder / "missing.txt").read_text(),
    {row["id"].rpartition("/")[2]: row["reason"] for row in skipped},
    [p.read_bytes() for p in records],
  )


def is_right(rows, missing, skipped, records):
  assert rows == {"sounds/1.wav": ["sound 1"], "sounds/3.wav": ["sound 3"]}
  assert missing == "FreeSound/6\t6 or 6\n"
  assert list(skipped) == ["2", "5", "4"]  # in the order of the table
  assert skipped["2"] == "lasts 0.75 s, asked are 0.3 to 0.7"
  assert skipped["4"] == "lasts 0.10 s, asked are 0.3 to 0.7"
  assert "damaged, or of no format" in skipped["5"] and len(records) == 1


def test_a_join_is_that_of_hand(published, tmp_path):
  is_right(*built(published, tmp_path / "sets"))


def test_on_beam_the_set_is_the_same(published, tmp_path, monkeypatch):
  pytest.importorskip("apache_beam", reason="the extra [beam] is not installed")
  here = built(published, tmp_path / "here")
  threads = []
  of = MediaBuilder.examined
  note = lambda self, *rest: (
    threads.append(engine.threading.get_ident()) or of(self, *rest)
  )
  monkeypatch.setattr(MediaBuilder, "examined", note)
  there = built(published, tmp_path / "there", runner="DirectRunner")
  is_right(*there)
  assert there == here and len(threads) == 3
  assert engine.threading.get_ident() not in threads  # Beam's workers did it


def test_a_join_goes_on_where_it_stopped(published, tmp_path, monkeypatch):
  of, seen = MediaBuilder.examined, []

  def stopped(self, root, pairs):
    seen.append([name.rpartition("/")[2] for name, _ in pairs])
    if len(seen) == 2:
      raise KeyboardInterrupt
    return of(self, root, pairs)

  monkeypatch.setattr(MediaBuilder, "examined", stopped)
  with pytest.raises(KeyboardInterrupt):
    built(published, tmp_path / "sets")
  assert [p.suffix for p in (tmp_path / "sets").iterdir()] == [".parts"]
  monkeypatch.setattr(Wavcaps, "entries", None)  # the metadata are not read again
  is_right(*built(published, tmp_path / "sets"))
  assert seen == [["3", "1"], ["2", "6"], ["2", "6"], ["5", "4"]]


def test_other_requests_and_other_files_begin_anew(published, tmp_path, monkeypatch):
  """What another request has left is not gone on with."""

  def stopped(self, root, pairs):
    raise KeyboardInterrupt

  with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
    patch.setattr(MediaBuilder, "examined", stopped)
    built(published, tmp_path / "sets", min_seconds=0.0)
  (left,) = (tmp_path / "sets").glob("*.parts")
  made = media_set.prepare(Wavcaps, published, str(tmp_path / "sets"), **OPTIONS)
  (rows,) = media_set.splits(made.data_dir).values()
  assert sorted(rows) == ["sounds/1.wav", "sounds/3.wav"] and left.exists()


def test_a_runner_that_is_not_there_leaves_nothing(published, monkeypatch, capsys):
  monkeypatch.setattr(engine.shutil, "which", lambda name: None)
  for has, runner, words in (
    (False, "FlinkRunner", "FlinkRunner needs Apache Beam, which is not installed"),
    (
      True,
      "DataflowRunner",
      "DataflowRunner sees no disk of this machine, and publish",
    ),
    (True, "Spark", "--runner: got 'Spark', expected one of DirectRunner"),
    (True, "", "unexpected '--region=x': options after -- are those of a --runner"),
  ):
    monkeypatch.setattr(engine, "has_beam", lambda has=has: has)
    with pytest.raises(SystemExit) as e:
      asked = [f"--runner={runner}"] if runner else []
      main(["build", "wavcaps", str(published), *asked, "--", "--region=x"])
    told = capsys.readouterr().err.strip().splitlines()
    assert e.value.code == 2 and len(told) == 1 and words in told[0]
  assert sorted(os.listdir(published)) == ["fsd_final.json", "sounds"]


def test_a_worker_without_the_builder_says_so():
  with pytest.raises(UsageError, match="no builder nowhere:Wavcaps on a worker"):
    media_set.builder_of("nowhere:Wavcaps", {})
  made = media_set.builder_of(
    "ccl_jax.data.builders.openhumanvid:Openhumanvid", {"min_scores": [["a", 1.5]]}
  )
  assert made.builder_config.min_scores == (("a", 1.5),)
