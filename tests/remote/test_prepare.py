"""Films in a bucket are prepared into a table there: as on a disk, byte for byte."""

import json

import numpy as np
import pytest

from ccl_jax.data.__main__ import main
from ccl_jax.data.preparing import child, engine
from ccl_jax.data.preparing.child import Child
from ccl_jax.data.preparing.parts import Parts
from ccl_jax.data.preparing.rows import Options
from ccl_jax.data.preparing.run import prepare
from ccl_jax.data.sources.folder import FolderSource
from ccl_jax.data.spec import ClipSpec
from ccl_jax.errors import UsageError
from ccl_jax.remote.stores import no_answer
from ccl_jax.viz.media import write_mp4, write_wav

RATE = 16000
# What a 1 kHz sine of -20 dBFS is by EBU R 128, and so on.
LEVELS = {"a/b/loud.wav": -20, "a/cut.mp4": -20, "low.wav": -26}
OPTIONS = Options(loudness=-23.0)


def tone(level, seconds=1.0):
  time = np.arange(round(seconds * RATE)) / RATE
  return (10 ** (level / 20) * np.sin(2 * np.pi * 1000 * time)).astype(np.float32)


@pytest.fixture(scope="module")
def media(tmp_path_factory):
  """A film of two shots in black bars, two sounds, captions, and a file that is bad."""
  root, rng = tmp_path_factory.mktemp("media"), np.random.default_rng(0)
  looks = rng.integers(40, 220, (2, 8, 8, 3)).astype(np.uint8)
  block = np.ones((8, 8, 1), np.uint8)
  video = np.stack([np.kron(looks[k // 24], block) for k in range(48)])
  video[:, :8] = video[:, 56:] = 0
  write_mp4(root / "a" / "cut.mp4", video, 24, tone(-20, 2.0))
  (root / "a" / "cut.txt").write_text("two looks")
  write_wav(root / "a" / "b" / "loud.wav", tone(-20))
  write_wav(root / "low.wav", tone(-26))
  (root / "bad.wav").write_text("no sound")
  row = {"file": "low.wav", "text": "a low tone", "mood": "calm"}
  (root / "c.jsonl").write_text(json.dumps(row) + "\n")
  return root


@pytest.fixture(scope="module")
def here(media, tmp_path_factory):
  """The table of these media on a disk, and the reasons of what was skipped."""
  out = tmp_path_factory.mktemp("table") / "t.jsonl"
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(engine, "has_beam", lambda: False)
    prepare(media, out, OPTIONS)
  return out


@pytest.fixture
def films(media, folder):
  for file in sorted(p for p in media.rglob("*") if p.is_file()):
    (folder / "films" / file.relative_to(media).as_posix()).upload(file)
  return folder / "films"


@pytest.fixture
def within(monkeypatch):
  """Files are decoded in this process, which is quicker than to start another."""
  monkeypatch.setattr(engine, "has_beam", lambda: False)
  monkeypatch.setattr(Child, "rows", lambda self, *args: child._rows(*args))


def is_that_of_a_disk(out, here):
  rows = [json.loads(line) for line in out.read_text().splitlines()]
  assert {row["file"]: round(row["loudness"]) for row in rows} == LEVELS
  cut = [(r["start"], r["end"]) for r in rows if r["file"] == "a/cut.mp4"]
  assert cut == [(0.0, pytest.approx(1.0)), (pytest.approx(1.0), pytest.approx(2.0))]
  for name in ("t.jsonl", "t.jsonl.skipped.txt"):
    assert out.with_name(name).read_bytes() == here.with_name(name).read_bytes()
  # Neither a part nor a lock is left.
  assert {p.name for p in out.parent.iterdir()} == {
    "films", "t.jsonl", "t.jsonl.skipped.txt"
  }  # fmt: skip


def test_the_table_is_that_of_a_disk(films, here, capsys, monkeypatch):
  """By the command, on Beam and without it; decoding has a process of its own."""
  if films.scheme == "s3":
    monkeypatch.setattr(engine, "has_beam", lambda: False)
  out = films.with_name("t.jsonl")
  main(["prepare", str(films), str(out), "--loudness=-23", "--threads=2"])
  is_that_of_a_disk(out, here)
  assert f"{out}: read it as data.options.captions={out}" in capsys.readouterr().out
  source = FolderSource(films, ClipSpec(17, 32, 48, 24), captions=str(out))
  assert [x["text"] for x in source] == ["two looks"] * 2
  with pytest.raises(SystemExit) as e:
    main(["prepare", str(films), str(out)])
  assert e.value.code == 2
  told = capsys.readouterr().err.splitlines()[-1]  # the store on this machine talks too
  assert told == f"error: {out} is there already: remove it or name another"


def test_it_goes_on_after_a_stop_and_an_outage(within, films, here, monkeypatch):
  """What was done lies in the bucket, whoever goes on; no file is called bad."""
  of, out, looked = Child.rows, films.with_name("t.jsonl"), []

  def stopped(self, root, name, *rest):
    looked.append(name)
    if len(looked) == 2:
      raise KeyboardInterrupt
    return of(self, root, name, *rest)

  monkeypatch.setattr(Child, "rows", stopped)
  with pytest.raises(KeyboardInterrupt):
    prepare(films, out, OPTIONS)
  assert not out.exists() and len(Parts.of(out).left()) == 3
  with pytest.raises(UsageError, match="t.jsonl.parts was begun with other settings"):
    prepare(films, out, Options())

  def away(self, path):
    raise no_answer("the store gave no answer", str(self))

  def cut_off(self, root, name, *rest):
    looked.append(name)
    if len(looked) == 4:
      monkeypatch.setattr(type(films), "download", away)
    return of(self, root, name, *rest)

  download = type(films).download
  monkeypatch.setattr(Child, "rows", cut_off)
  with pytest.raises(UsageError, match=f"^{films}/.*: the store gave no answer$"):
    prepare(films, out, OPTIONS)
  assert not out.exists() and len(Parts.of(out).left()) == 2
  monkeypatch.setattr(type(films), "download", download)
  prepare(films, out, OPTIONS)
  is_that_of_a_disk(out, here)
  # Each file once, but for the two that were being read.
  assert len(looked) == 4 + 2 and len(set(looked)) == 4


def test_a_bucket_that_is_not_there_or_not_ours(films, capsys):
  from tests.remote.stores import answering

  def told(*argv):
    with pytest.raises(SystemExit) as e:
      main(["prepare", *argv])
    assert e.value.code == 2
    error = capsys.readouterr().err.splitlines()
    assert {p.name for p in films.parent.iterdir()} == {"films"}
    return error[-1]

  gone = f"{films.scheme}://no-such-bucket"
  assert f"error: --out: got {gone}/t.jsonl; there is no bucket {gone}" in told(
    str(films), f"{gone}/t.jsonl"
  )
  assert f"error: --dir: got {gone}; there is no bucket {gone}" in told(
    gone, str(films.with_name("t.jsonl"))
  )
  if films.scheme == "gs":
    for status, words in ((401, "no credentials for it"), (403, "no rights to do")):
      # The bucket is looked at before anything is written, and again afterwards.
      with answering(status), pytest.raises(SystemExit) as e:
        main(["prepare", str(films), str(films.with_name("t.jsonl"))])
      assert e.value.code == 2 and words in capsys.readouterr().err.splitlines()[-1]
  assert {p.name for p in films.parent.iterdir()} == {"films"}


def test_workers_elsewhere_see_no_disk_of_this_machine(films, media, tmp_path):
  out = films.with_name("t.jsonl")
  for root, table in ((media, out), (films, tmp_path / "t.jsonl")):
    with pytest.raises(UsageError, match="workers of DataflowRunner see no disk of"):
      engine.require_shared("DataflowRunner", root, table)
  engine.require_shared("DataflowRunner", films, out)
  engine.require_shared("FlinkRunner", media, tmp_path / "t.jsonl")
