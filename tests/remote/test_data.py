"""Sets of latents, films, pictures and logs in buckets: as on a disk, bit for bit."""

import json
import logging
import pathlib

import av
import numpy as np
import pytest

from ccl_jax.codecs.bundle import fingerprints, load_codecs, save_codecs, stored_digests
from ccl_jax.codecs.embedded import fit_codecs
from ccl_jax.data.media import door
from ccl_jax.data.media.decode import image_size, read_clip, read_image
from ccl_jax.data.sets.batches import LatentBatches
from ccl_jax.data.sets.index import read_index
from ccl_jax.data.sets.mixture import open_mixture
from ccl_jax.data.sets.record_set import RecordSet
from ccl_jax.data.sources.folder import FolderSource
from ccl_jax.data.sources.open import open_source
from ccl_jax.data.spec import ClipSpec
from ccl_jax.errors import UsageError
from ccl_jax.files import UNFINISHED
from ccl_jax.remote import copies, mirror
from ccl_jax.remote.stores import Unreachable
from ccl_jax.training.log import MetricLog
from ccl_jax.viz.media import write_mp4, write_png
from tests.data.latent_sets import FILM, SOUND, make_set

SPEC = ClipSpec(17, 32, 32, 24.0)


def upload(source: pathlib.Path, folder):
  for file in sorted(p for p in source.rglob("*") if p.is_file()):
    (folder / file.relative_to(source).as_posix()).upload(file)
  return folder


@pytest.fixture
def local_set(tmp_path):
  return make_set(tmp_path / "set", {FILM: 7, SOUND: 4})


def batches(root, seed=3):
  mixture = open_mixture(str(root), seed=seed, batch_size=2)
  feed = LatentBatches(mixture, threads=2)
  try:
    return [next(feed) for _ in range(6)]
  finally:
    feed.close()


def test_a_set_has_the_batches_that_it_has_on_a_disk(local_set, folder):
  there = upload(local_set, folder / "set")
  for got, expected in zip(batches(there), batches(local_set), strict=True):
    assert got.keys() == expected.keys()
    for name, array in got.items():
      assert array.tobytes() == expected[name].tobytes()
  mixture = f"{there}:0.7+{there}:0.3"
  with pytest.raises(UsageError, match="set is named twice"):
    open_mixture(mixture, seed=0, batch_size=1)


def test_a_set_that_is_written_there_is_that_of_a_disk(local_set, folder):
  made = make_set(folder / "set", {FILM: 7, SOUND: 4})
  names = sorted(p.name for p in local_set.iterdir())
  assert [p.name for p in made.iterdir()] == names
  for name in names:
    assert (made / name).read_bytes() == (local_set / name).read_bytes()


def test_a_set_is_read_once_to_see_that_it_is_whole(local_set, folder, capsys):
  there = upload(local_set, folder / "set")
  shards = sorted(p for p in there.iterdir() if p.suffix == ".array_record")
  first, second = RecordSet(there), RecordSet(str(there))
  first.require_whole()
  noted = json.loads((there / ".checked.json").read_bytes())
  assert sorted(noted) == [p.name for p in shards]
  # Another set's shard, under this one's name.
  data = {p: p.read_bytes() for p in shards}
  shards[0].write_bytes(data[shards[1]])
  with pytest.raises(UsageError, match="is not the shard that index.json tells of"):
    second.require_whole()


def test_a_half_uploaded_set_is_refused(local_set, folder):
  there = upload(local_set, folder / "set")
  shard = next(p for p in there.iterdir() if p.suffix == ".array_record")
  data = shard.read_bytes()
  shard.write_bytes(data[:100])
  with pytest.raises(UsageError, match=f"{shard.name} of 100 bytes cannot hold"):
    read_index(there)
  shard.unlink()
  with pytest.raises(UsageError, match=f"set lacks {shard.name}: copy the set again"):
    read_index(there)
  (there / "index.json").unlink()
  with pytest.raises(UsageError, match="is not finished, 5 shards are"):
    read_index(there)


def test_a_damaged_record_gives_way_and_a_silent_store_does_not(
  local_set, bucket, caplog
):
  from tests.remote.stores import answering

  there = upload(local_set, bucket / "set")
  records = RecordSet(there).buckets
  shard = records[FILM]._shards[0].path
  with answering(403), pytest.raises(OSError, match="403; reading gs://bucket/set"):
    records[FILM][0]
  assert not records[FILM].damaged
  data = bytearray(shard.read_bytes())
  data[200] ^= 1
  shard.write_bytes(bytes(data))
  with caplog.at_level(logging.WARNING):
    assert RecordSet(there).buckets[FILM][0]["about"]["id"] == "film 1"
  assert "damaged record 0 of 7" in caplog.text
  with answering(403), pytest.raises(UsageError, match="cannot be read|no rights"):
    RecordSet(there).require_whole()


def test_a_set_that_copies_cannot_hold_is_refused_before_anything(
  local_set, amazon_store, monkeypatch
):
  from tests.remote.buckets import emptied

  there = upload(local_set, emptied(amazon_store) / "set")
  monkeypatch.setenv(copies.LIMIT, "1e-6")
  with pytest.raises(UsageError, match="set has 0.0 GB, all of which a run reads"):
    RecordSet(there)


def test_codecs_come_back_bit_for_bit(folder):
  rng = np.random.default_rng(0)
  clip = {
    "video": rng.integers(0, 255, (17, 32, 32, 3), np.uint8),
    "audio": rng.standard_normal(11_333).astype(np.float32),
  }
  codecs = fit_codecs(iter([clip]), text_length=8, text_dim=16)
  save_codecs(codecs, folder / "codecs")
  read = load_codecs(folder / "codecs")
  assert fingerprints(read) == fingerprints(codecs)
  assert stored_digests(str(folder / "codecs")) == fingerprints(codecs)
  (folder / "codecs" / UNFINISHED).write_bytes(b"")
  for use in (load_codecs, stored_digests):
    with pytest.raises(UsageError, match="codecs is half uploaded"):
      use(folder / "codecs")
  save_codecs(codecs, folder / "codecs")  # who writes them again mends that
  assert fingerprints(load_codecs(folder / "codecs")) == fingerprints(codecs)
  (folder / "other" / "x").write_bytes(b"")
  with pytest.raises(UsageError, match="other holds more than codecs"):
    save_codecs(codecs, folder / "other")


@pytest.fixture
def films(tmp_path):
  root, rng = tmp_path / "films", np.random.default_rng(1)
  for name in ("a/b", "a-b", "c"):
    video = rng.integers(0, 255, (18, 32, 32, 3), np.uint8)
    wave = 0.1 * rng.standard_normal(12_500).astype(np.float32)
    write_mp4(root / f"{name}.mp4", video, 24.0, wave)
  (root / "c.txt").write_text("the third")
  (root / "captions.jsonl").write_text('{"file": "a-b.mp4", "text": "the first"}\n')
  write_png(root / "still.png", video[0])
  return root


def test_films_are_those_of_a_disk(films, folder):
  there = FolderSource(upload(films, folder / "films"), SPEC)
  here = FolderSource(films, SPEC)
  assert there.texts == here.texts and len(there) == len(here) == 3
  for got, expected in zip(there, here):
    assert got["id"] == expected["id"] and got["text"] == expected["text"]
    assert got["video"].tobytes() == expected["video"].tobytes()
    assert got["audio"].tobytes() == expected["audio"].tobytes()


def test_ffmpeg_and_pillow_see_files_of_this_machine_alone(
  films, folder, cache, monkeypatch
):
  there, urls, pictures = upload(films, folder / "films"), [], []
  opened, image = av.open, __import__("PIL.Image").Image.open
  monkeypatch.setattr(
    door.av, "open", lambda url, **o: urls.append(url) or opened(url, **o)
  )
  monkeypatch.setattr(
    "PIL.Image.open", lambda file, **o: pictures.append(str(file)) or image(file, **o)
  )
  read_clip(there / "c.mp4", SPEC, 0.0)
  assert image_size(there / "still.png") == (32, 32)
  assert read_image(there / "still.png", 32, 32).shape == (32, 32, 3)
  assert len(urls) == 2 and len(pictures) == 2
  assert all(url.startswith(f"file:{cache}/") for url in urls)
  assert all(name.startswith(f"{cache}/") for name in pictures)


def test_a_film_that_is_not_read_is_named_as_the_user_knows_it(films, folder):
  (folder / "films" / "bad.mp4").write_bytes(b"no film at all")
  for name, text in (("bad", "damaged, or of no format"), ("none", "No such file")):
    with pytest.raises(door.MediaError, match=f"^{folder}/films/{name}.mp4: {text}"):
      read_clip(folder / "films" / f"{name}.mp4", SPEC, 0.0)


def test_a_silent_store_makes_no_film_unreadable(films, bucket):
  """It would be left out of a set for good."""
  from tests.remote.stores import answering

  there = upload(films, bucket / "films")
  for use in (lambda p: read_clip(p, SPEC, 0.0), image_size):
    with answering(403), pytest.raises(Unreachable, match="no rights"):
      use(there / "c.mp4")


@pytest.mark.parametrize("kind", ["tfds", "vggsound", "talking_scene"])
def test_sources_that_read_no_buckets_say_so(kind):
  with pytest.raises(UsageError, match=f"source {kind} reads folders of this machine"):
    open_source(kind, SPEC, "gs://bucket/data")


def lines(path):
  return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_log_is_there_before_the_checkpoint_that_follows_it(folder, monkeypatch):
  log = MetricLog(folder / "run", 10)
  for step in range(4):
    log.write(step, {"loss": step})
  assert not (folder / "run").exists()  # the last time is not long ago
  log.flush()
  assert [x["step"] for x in lines(folder / "run" / "metrics.jsonl")] == [0, 1, 2, 3]
  monkeypatch.setattr(mirror, "SECONDS", 0)
  log.write(4, {"loss": 4})
  log._mirror._thread.join()
  assert lines(folder / "run" / "metrics.jsonl")[-1] == {"step": 4, "loss": 4.0}
  log.close()
  # A run that goes on takes the steps from 3 on again.
  log = MetricLog(folder / "run", 10, start_step=3)
  log.write(3, {"loss": 30})
  log.close()
  got = [(x["step"], x["loss"]) for x in lines(folder / "run" / "metrics.jsonl")]
  assert got == [(0, 0), (1, 1), (2, 2), (3, 30)]
  # Files are called by the second they begin in.
  assert len(list((folder / "run" / "tensorboard").glob("events*"))) in (1, 2)
