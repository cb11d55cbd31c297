"""Every key of the config of `encode`, and its flags, at the place they are for."""

import dataclasses
import itertools
from types import SimpleNamespace

import numpy as np
import pytest

from ccl_jax.codecs.bundle import Codecs
from ccl_jax.data.sets.buckets import Bucket, parse_spec
from ccl_jax.data.sources import items
from ccl_jax.data.sources.catalogue import Catalogue, Item
from ccl_jax.data.spec import ClipSpec
from ccl_jax.encoding import inspect as inspect_data
from ccl_jax.encoding import run as encoding
from ccl_jax.errors import UsageError
from tests.flags.command import command
from tests.flags.config_keys import get
from tests.flags.recording import Recorder

SPECS = [ClipSpec(17, 32, 48, 25.0), ClipSpec(33, 48, 32, 24.0)]
FITTED = Codecs(video="fitted")
LOADED = Codecs(video=SimpleNamespace(stride=(4, 8, 8)))


class Media(items.FolderItems):
  """Ten films, with no file."""

  def __init__(self):
    pass

  def scan(self):
    items = [Item(f"film {i}", "", 0.0, None, "") for i in range(10)]
    return Catalogue({Bucket.of(SPECS[0]): items}, [])

  def read(self, bucket, item):
    return {"id": item.id}


def first(shard):
  """The number of a shard's first film; every shard has two."""
  return int(shard.items[0].id.split()[1])


@pytest.fixture
def parts(monkeypatch, tmp_path):
  """Stand-ins for media, codecs and shards; `run(**changes)` encodes."""
  r, plans = Recorder(monkeypatch), {}
  r.replace(encoding, "open_items", Media())

  def fit(clips, **_):
    r.calls["fitted"].append([clip["id"] for clip in clips])
    return FITTED

  r.replace(encoding, "fit_codecs", fit)
  r.replace(encoding, "load_codecs", LOADED)
  r.replace(encoding, "save_codecs")
  r.replace(encoding, "fingerprints", {"video": "hash"})
  r.replace(encoding.plan, "read", lambda out: plans.get(out))
  r.spy(encoding.plan, "make")
  r.replace(encoding.plan, "write", lambda made, out: plans.update({out: made}))
  r.replace(encoding, "is_done", lambda out, shard: first(shard) in r.done)
  r.replace(encoding, "make_encoder", "program")
  r.replace(encoding, "encode_shard")
  r.replace(encoding, "finish", {"records": 1})
  r.done, r.numbers = (), itertools.count()

  def run(index=0, count=1, **changes):
    config = get("encode", f"data=FILMS,out={tmp_path / str(next(r.numbers))}")
    config.shard_clips = 2
    config.clips = ("17x32x48@25", "33x48x32@24")
    config.update_from_flattened_dict(
      {k.replace("__", "."): v for k, v in changes.items()}
    )
    r.calls.clear()
    return encoding.encode(config, index, count)

  r.run = run
  return r


def test_media_are_opened_as_the_section_says(parts):
  """data.source, root, split, options, loudness; and clips."""
  parts.run()
  call = parts.last("open_items").kwargs
  assert call["source"] == "folder" and call["root"] == "FILMS"
  assert call["split"] == "train" and call["loudness"] is None
  assert call["specs"] == SPECS
  parts.run(
    data__source="vggsound", data__split="test", data__loudness=-20.0,
    data__options={"hop": 2.0}, clips=("17x32x48@25",),
  )  # fmt: skip
  call = parts.last("open_items").kwargs
  assert call["source"] == "vggsound" and call["split"] == "test"
  assert call["loudness"] == -20.0 and call["options"]["hop"] == 2.0
  assert call["specs"] == SPECS[:1]


def test_codecs_are_loaded_or_fitted(parts):
  """codec.path, else fit_clips clips by text_length and text_dim."""
  parts.run(codec__fit_clips=4, codec__text_length=9, codec__text_dim=33)
  assert parts.last("fit_codecs").kwargs == {"text_length": 9, "text_dim": 33}
  (first,) = parts.calls["fitted"]
  assert len(set(first)) == 4
  assert parts.told("save_codecs", 0) == FITTED
  parts.run(codec__fit_clips=4)
  assert parts.calls["fitted"] == [first]  # the same ones
  parts.run(codec__fit_clips=99)
  assert len(parts.calls["fitted"][0]) == 10  # all there are
  parts.run(codec__path="BUNDLE")
  assert not parts.calls["fitted"] and parts.told("save_codecs", 0) == LOADED
  assert parts.calls["load_codecs"][0].args == ("BUNDLE",)


def test_the_plan_has_the_settings_and_the_size_of_a_shard(parts):
  parts.run(shard_clips=3, data__loudness=-20.0)
  settings, encoders, _, size = parts.last("make").args
  assert size == 3 and encoders == {"video": "hash"}
  assert settings["loudness"] == -20.0 and settings["shard_clips"] == 3
  assert settings["clips"] == ["17x32x48@25", "33x48x32@24"]
  assert settings["source"] == "folder" and settings["split"] == "train"
  assert settings["root"].endswith("/FILMS") and settings["video_std"] is None
  with pytest.raises(UsageError, match="config.shard_clips: got 0"):
    parts.run(shard_clips=0)


def test_the_encoder_is_told_the_batch_and_whether_to_keep_deviations(
  parts, monkeypatch
):
  """batch.size, batch.threads and video_std."""
  pools = []
  pool = encoding.futures.ThreadPoolExecutor
  keep = lambda workers: pools.append(workers) or pool(workers)
  monkeypatch.setattr(encoding.futures, "ThreadPoolExecutor", keep)
  parts.run(batch__size=5, batch__threads=3)
  assert parts.told("make_encoder", 1) == 5 and parts.told("make_encoder", 2) is False
  assert pools == [3]
  shard = parts.last("encode_shard").args
  assert first(shard[1]) == 8 and shard[2] == {"video": "hash"} and shard[5] == 5
  parts.run(batch__threads=0)
  assert pools == [3, 1]
  with pytest.raises(UsageError, match="has no posterior"):
    parts.run(video_std=True)
  vae = SimpleNamespace(posterior=None, stride=(4, 8, 8))
  monkeypatch.setattr(encoding, "load_codecs", lambda _: Codecs(video=vae))
  parts.run(video_std=True, codec__path="BUNDLE")
  assert parts.told("make_encoder", 2) is True
  assert parts.told("make", 0)["video_std"] is True


@pytest.mark.parametrize(
  ("index", "count", "done", "expected"),
  [
    (0, 1, (), [0, 2, 4, 6, 8]),
    (0, 2, (), [0, 4, 8]),
    (1, 2, (), [2, 6]),
    (0, 2, (4,), [0, 8]),
  ],
)
def test_processes_share_the_shards(parts, monkeypatch, index, count, done, expected):
  """--process_index of --process_count; what is done is not done again."""
  items = Media().scan()
  made = encoding.plan.make({}, {}, items, 2)
  monkeypatch.setattr(encoding, "prepare", lambda *_: (made, LOADED))
  parts.done = done
  parts.run(index, count)
  assert [first(c.args[1]) for c in parts.calls["encode_shard"]] == expected


def test_a_process_that_is_none(parts, monkeypatch):
  monkeypatch.setattr(encoding, "_PATIENCE", 0.0)  # for the plan of process 0
  for index, count, words in (
    (2, 2, "--process_index is 2; expected 0 to 1 for --process_count 2"),
    (-1, 2, "--process_index is -1; expected 0 to 1"),
    (0, 0, "--process_count is 0; expected 1 at least"),
  ):
    with pytest.raises(UsageError, match=words):
      parts.run(index, count)


def buckets_of(**records):
  """Entries of index.json with so many records of a kind."""
  of = lambda kind: dataclasses.asdict(Bucket.of(parse_spec("17x32x48@25"), kind))
  return {kind: {"records": n, "shape": of(kind)} for kind, n in records.items()}


@pytest.fixture
def told(monkeypatch):
  """What the command hands on, and `done`: what encoding returns."""
  r, encode = Recorder(monkeypatch), command("encode").module
  r.done = {"records": 7, "bytes": 2_500_000, "skipped": 3, "silent": 0,
            "buckets": buckets_of(film=4, sound=3)}  # fmt: skip
  r.replace(encode, "encode", lambda *_: r.done)
  r.replace(inspect_data, "decode_some", lambda *_: iter(["a.mp4"]))
  r.replace(encode, "join_processes")
  r.replace(encode.jax, "process_index", 2)
  r.replace(encode.jax, "process_count", 5)
  return r


CONFIG = "--config=configs/encode.py:data=FILMS,out=SET"


def test_the_flags_of_encode(told, capsys):
  """--process_index of --process_count, or the hosts of a pod by --distributed."""
  command("encode").run(CONFIG, "--config.batch.size=3")
  config, *part = told.last("encode").args
  assert config.data.root == "FILMS" and config.out == "SET" and config.batch.size == 3
  assert part == [0, 1] and not told.calls["join_processes"]
  text = capsys.readouterr().out
  sizes = "7 records (4 of film, 3 of sound), 2.5 MB, 3 skipped"
  assert text == f"SET: {sizes} (report.jsonl)\n"
  command("encode").run(CONFIG, "--process_index=1", "--process_count=3")
  assert told.last("encode").args[1:] == (1, 3)
  command("encode").run(CONFIG, "--distributed")
  assert told.last("encode").args[1:] == (2, 5)
  (met,) = told.calls["join_processes"]
  assert met.args == () and "--process_index" in met.kwargs["instead"]


def test_a_check_of_fewer_than_no_records(told, capsys):
  with pytest.raises(SystemExit) as e:
    command("encode").run(CONFIG, "--check=-1")
  assert e.value.code == 2 and "--check is -1; expected" in capsys.readouterr().err
  assert not told.calls["encode"]


def test_how_many_films_are_silent_is_said(told, capsys):
  told.done |= {"silent": 2, "buckets": buckets_of(film=4, silent=3, sound=1, image=9)}
  command("encode").run(CONFIG)
  lines = capsys.readouterr().out.splitlines()
  assert lines[1:] == [
    "3 of 7 films have no sound track",
    "2 of 5 clips with sound are silent (below -60 dBFS)",
  ]


def test_check_decodes_so_many_records(told, capsys):
  command("encode").run(CONFIG)
  assert not told.calls["decode_some"]
  command("encode").run(CONFIG, "--check=6")
  assert told.last("decode_some").args == ("SET", 6)
  assert capsys.readouterr().out.endswith("a.mp4\n")
  told.done = None  # others still work: there is no set to look into
  command("encode").run(CONFIG, "--check=6")
  assert len(told.calls["decode_some"]) == 1
  assert "this process is done" in capsys.readouterr().out


def test_what_encode_must_be_told(told, capsys):
  for config, words in (("out=SET", "data=DIR"), ("data=FILMS", "out=DIR")):
    with pytest.raises(SystemExit) as e:
      command("encode").run(f"--config=configs/encode.py:{config}")
    assert e.value.code == 2 and words in capsys.readouterr().err
  with pytest.raises(SystemExit):
    command("encode").run()
  assert not told.calls["encode"]


def test_loudness_levels_what_is_read(monkeypatch):
  """Items of the config's loudness are louder by as much as they were too quiet."""
  options = {"kinds": ("film",)}
  plain = items.open_items("folder", "FILMS", "train", options, SPECS)
  assert isinstance(plain, items.FolderItems)
  wave = 0.01 * np.random.default_rng(0).standard_normal(16000).astype(np.float32)
  read = lambda *_: {"audio": wave.copy()}
  monkeypatch.setattr(items.FolderItems, "read", read)
  levels = []
  for loudness in (-30.0, -24.0):
    levelled = items.open_items("folder", "FILMS", "train", options, SPECS, loudness)
    clip = levelled.read(Bucket.of(SPECS[0]), Item("a", "", 0.0, None, ""))
    levels.append(20 * np.log10(np.abs(clip["audio"]).mean()))
  assert levels[1] - levels[0] == pytest.approx(6, abs=1e-2)
  for wrong in (0.0, -70.0, 3.0):
    with pytest.raises(UsageError, match="LUFS, expected such as -23"):
      items.open_items("folder", "FILMS", "train", options, SPECS, wrong)


def test_a_check_of_records_is_written_once_each(tmp_path, monkeypatch):
  """`decode_some` names a file by its clip, and lays the text beside it."""
  bucket = Bucket.of(SPECS[0], "sound")
  clips = [{"id": f"a/{i}", "audio": np.zeros(512, np.float32), "text": f"text {i}"}
           for i in range(3)]  # fmt: skip
  some = lambda root, count: iter([(bucket, c) for c in clips[:count]])
  monkeypatch.setattr(inspect_data, "some_clips", some)
  paths = list(inspect_data.decode_some(tmp_path, 2))
  assert [p.name for p in paths] == ["a_0.wav", "a_1.wav"]
  texts = [p.with_name(f"{p.name}.txt").read_text() for p in paths]
  assert texts == ["text 0\n", "text 1\n"]
