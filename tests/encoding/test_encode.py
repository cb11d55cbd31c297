"""Media to latents: what a set holds, and what it survives."""

import errno
import json
import os
import pathlib
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from ccl_jax.codecs.bundle import load_codecs, save_codecs
from ccl_jax.codecs.embedded import fit_codecs
from ccl_jax.data.media.decode import MediaError
from ccl_jax.data.sets import plan, records
from ccl_jax.data.sets.buckets import Bucket, parse_spec
from ccl_jax.data.sets.record_set import RecordSet
from ccl_jax.data.sources.catalogue import Catalogue, Item
from ccl_jax.data.sources.items import FolderItems
from ccl_jax.encoding import run as encoding
from ccl_jax.encoding.inspect import decode, decode_some, describe, show
from ccl_jax.encoding.run import encode
from ccl_jax.errors import UsageError
from ccl_jax.models.wan_vae import Wan22VideoCodec, WanVideoCodec, init_params
from ccl_jax.viz.media import write_mp4, write_png, write_wav
from configs.encode import get_config

CLIPS = ("17x16x32@25", "17x32x16@25")
SPEC = parse_spec(CLIPS[0])
EVENTS = (0.12, 0.2, 0.28, 0.36, 0.44, 0.52)  # seconds, on a frame


def flash_and_knock(event, seed, height=32, width=64):
  """A white frame and a knock at one instant, in noise."""
  rng = np.random.default_rng(seed)
  video = rng.integers(40, 60, (17, height, width, 3)).astype(np.uint8)
  video[round(event * 25)] = 240
  since = np.arange(SPEC.samples + 1000) / 16000 - event
  knock = np.exp(-np.abs(since) / 0.003) * rng.standard_normal(len(since))
  wave = np.where(since >= 0, 0.3 * knock, 0) + 0.002 * rng.standard_normal(len(since))
  return video, wave.astype(np.float32)


@pytest.fixture(scope="module")
def home(tmp_path_factory):
  return tmp_path_factory.mktemp("encode")


@pytest.fixture(scope="module")
def media(home):
  """Films wide and tall, one silent, a sound, a still, and two files that are bad."""
  root = home / "media"
  for i, event in enumerate(EVENTS):
    write_mp4(root / f"wide{i}.mp4", *_film(flash_and_knock(event, i)))
  write_mp4(root / "tall.mp4", *_film(flash_and_knock(0.2, 9, 64, 32)))
  video, wave = flash_and_knock(0.2, 10)
  write_mp4(root / "silent.mp4", video, 25)
  write_wav(root / "sound.wav", wave)
  write_png(root / "still.png", video[0])
  (root / "empty.mp4").touch()
  (root / "wide0.txt").write_text("a flash é")
  (root / "captions.jsonl").write_text('{"id": "sound", "text": "a knock"}\n')
  return root


def _film(clip):
  return clip[0], 25, clip[1]


@pytest.fixture(scope="module")
def codecs(home, media):
  """Fitted to the films and more like them, and saved."""
  drawn = [flash_and_knock(e, 20 + i) for i, e in enumerate(np.linspace(0.05, 0.6, 18))]
  clips = [{"video": v[:, :16, :32], "audio": a[: SPEC.samples]} for v, a in drawn]
  save_codecs(fit_codecs(clips, text_length=12, text_dim=16), home / "codecs")
  return home / "codecs"


def config(media, out, codecs="", **changes) -> ConfigDict:
  given = f"codecs={codecs}," if codecs else ""
  c = get_config(f"data={media},out={out},{given}runlocal")
  c.clips, c.shard_clips = CLIPS, 2
  with c.unlocked():
    for key, value in changes.items():
      c[key] = value
  return c


@pytest.fixture(scope="module")
def undisturbed(home, media, codecs):
  """A set that nothing interrupted."""
  assert encode(config(media, home / "set", codecs))
  return home / "set"


def content(root):
  """Every byte of a set but for the codecs', which have their own hash."""
  files = (p for p in root.iterdir() if p.is_file())
  return {p.name: p.read_bytes() for p in files}


def test_a_set_holds_every_clip_once(media, undisturbed):
  found = RecordSet(undisturbed)
  kinds = {b.name: (b.kind, len(r)) for b, r in found.buckets.items()}
  assert kinds == {
    "+21": ("sound", 1),
    "17x16x32@25": ("silent", 1),
    "17x16x32@25+21": ("film", 6),
    "17x32x16@25+21": ("film", 1),
    "1x16x32": ("image", 1),
  }
  ids = [found[i]["about"]["id"] for i in range(len(found))]
  assert len(set(ids)) == len(ids) == 10
  reasons = map(json.loads, (undisturbed / "report.jsonl").read_text().splitlines())
  assert [r["file"] for r in reasons] == ["empty.mp4"]
  assert found.index["skipped"] == 1
  assert not list(undisturbed.glob(".*"))


def test_records_hold_what_the_codecs_say(media, codecs, undisturbed):
  loaded = load_codecs(codecs)
  source = FolderItems(media, [parse_spec(c) for c in CLIPS], {})
  items = {i.id: (b, i) for b, ii in source.scan().buckets.items() for i in ii}
  for bucket, clips in RecordSet(undisturbed).buckets.items():
    for i in range(len(clips)):
      record = clips[i]
      clip = source.read(*items[record["about"]["id"]])
      if "video" in clip:
        pixels = jnp.asarray(clip["video"][None] / np.float32(127.5) - 1)
        latent = np.asarray(loaded.video.encode(pixels)[0])
        np.testing.assert_allclose(
          record["video"].astype(np.float32), latent, rtol=2e-2, atol=2e-2
        )
      if bucket.kind in ("film", "silent"):
        # The codecs are causal: the first latent frame is the first frame's own, so no
        # record holds that once more.
        still = loaded.video.encode(pixels[:, :1])[0, 0]
        first = record["video"][0].astype(np.float32)
        np.testing.assert_allclose(first, still, rtol=2e-2, atol=2e-2)
        assert set(record) == {"about", "text", *bucket.streams}
      if "audio" in clip:
        latent = np.asarray(loaded.audio.encode(jnp.asarray(clip["audio"][None]))[0])
        np.testing.assert_allclose(record["audio"], latent, atol=1e-4)
      ids, mask = loaded.text.tokenize([clip["text"]])
      text = np.asarray(loaded.text.encode(jnp.asarray(ids), jnp.asarray(mask))[0])[
        : mask.sum()
      ]
      assert len(record["text"]) == len(clip["text"].encode())
      np.testing.assert_allclose(
        record["text"].astype(np.float32), text, rtol=1e-2, atol=1e-2
      )
      used = {*bucket.streams, "text"}
      assert set(record["about"]["encoders"]) == used
      assert record["about"]["fps"] == bucket.fps


def test_flash_and_knock_stay_together(codecs, undisturbed):
  """From a film through the decoder, the records and the codecs: the picture within a
  frame, the sound within 2 ms.
  """
  loaded, found = load_codecs(codecs), RecordSet(undisturbed)
  films = next(r for b, r in found.buckets.items() if b.name == "17x16x32@25+21")
  smooth, lags = np.hanning(65), np.arange(-320, 321)
  for i in range(len(films)):
    clip = decode(loaded, films[i])
    number = int(clip["id"].removeprefix("wide").split(".")[0])
    event = EVENTS[number]
    light = clip["video"].mean((1, 2, 3))
    assert abs(light.argmax() - round(event * 25)) <= 1
    original = flash_and_knock(event, number)[1][: SPEC.samples]
    a, b = (
      np.sqrt(np.convolve(x**2, smooth, "same")) for x in (clip["audio"], original)
    )
    late = lags[np.argmax([np.roll(b, lag) @ a for lag in lags])] / 16000
    assert abs(late) < 2e-3, (event, late)


class Killed(BaseException):
  """The process is gone: nothing that comes after has any effect."""


class Grave:
  """Counts what reaches the disk, and from call `at` on lets nothing reach it."""

  def __init__(self, monkeypatch, at):
    self.calls, self._at = 0, at
    for owner, name in [
      (os, "fsync"),
      (os, "replace"),
      (pathlib.Path, "write_text"),
      (pathlib.Path, "unlink"),
      (pathlib.Path, "rename"),
      (shutil, "rmtree"),
    ]:
      monkeypatch.setattr(owner, name, self._guard(getattr(owner, name)))
    grave, real = self, records.ArrayRecordWriter

    class Writer:
      def __init__(self, *args):
        self._writer = real(*args)
        self.write = grave._guard(self._writer.write)
        self.close = grave._guard(self._writer.close)

    monkeypatch.setattr(records, "ArrayRecordWriter", Writer)

  def _guard(self, call):
    def guarded(*args, **kwargs):
      self.calls += 1
      if self.calls > self._at:
        raise Killed
      return call(*args, **kwargs)

    return guarded


def moments(count):
  """`count` calls to be killed at, spread over all of an undisturbed run's."""
  return np.random.default_rng(0).permutation(100)[:count].tolist()


@pytest.mark.parametrize("at", moments(20))
def test_a_killed_encoding_goes_on_to_the_same_set(
  tmp_path, media, codecs, undisturbed, at
):
  out = tmp_path / "set"
  with pytest.MonkeyPatch.context() as patch:
    Grave(patch, at)
    with pytest.raises(Killed):
      encode(config(media, out, codecs))
  assert not (out / "index.json").exists()
  assert encode(config(media, out, codecs))
  assert content(out) == content(undisturbed)


def test_the_moments_of_death_cover_a_whole_run(tmp_path, media, codecs, monkeypatch):
  grave = Grave(monkeypatch, 10**9)
  encode(config(media, tmp_path / "set", codecs))
  assert 100 < grave.calls < 130


def test_processes_share_the_work(tmp_path, media, codecs, undisturbed):
  out = tmp_path / "set"
  jobs = config(media, out, codecs)
  assert encode(jobs, 0, 3) is None
  done = {p.name for p in out.glob("shard-*.json")}
  assert encode(jobs, 2, 3) is None
  assert encode(jobs, 2, 3) is None  # its shards are done
  assert encode(jobs, 1, 3)["records"] == 10
  assert 0 < len(done) < len(list(out.glob("shard-*.json")))
  assert content(out) == content(undisturbed)


def test_an_encoding_that_is_done_is_left_alone(media, codecs, undisturbed):
  before = {p: p.stat().st_mtime_ns for p in undisturbed.glob("*.array_record")}
  assert encode(config(media, undisturbed, codecs))["records"] == 10
  assert {p: p.stat().st_mtime_ns for p in before} == before


def test_some_clips_are_as_many_as_asked_for():
  """Drawn from all buckets, the same at every call; what cannot be read is no clip."""
  item = lambda j: Item(str(j), "", 0.0, None, "")
  names = dict(zip("xyz", (Bucket.of(SPEC, k) for k in ("film", "image", "sound"))))
  items = {b: [item(f"{x} {j}") for j in range(9)] for x, b in names.items()}
  listed = Catalogue(items, [])

  class Films(FolderItems):
    def __init__(self):
      pass

    def read(self, bucket, item):
      if item.id.endswith(("3", "4")):
        raise MediaError("broken")
      return {"id": item.id}

  take = lambda n: [c["id"] for c in encoding._some_clips(Films(), listed, n)]
  every = take(99)
  assert sorted(every) == [f"{b} {j}" for b in "xyz" for j in (0, 1, 2, 5, 6, 7, 8)]
  assert every != sorted(every) and {name[0] for name in every[:5]} == set("xyz")
  for count in (0, 1, 6, 21):
    assert take(count) == every[:count]


def test_embedded_codecs_are_fitted_once(tmp_path, media):
  out = tmp_path / "set"
  index = encode(config(media, out))
  shutil.rmtree(tmp_path / "codecs", ignore_errors=True)
  shutil.copytree(out / "codecs", tmp_path / "codecs")
  next(out.glob("shard-*.json")).unlink()
  assert encode(config(media, out)) == index
  again = encode(config(media, tmp_path / "again", tmp_path / "codecs"))
  assert again["sha256"] == index["sha256"]


def test_a_file_that_breaks_after_the_listing_is_reported(tmp_path, media, codecs):
  copy = tmp_path / "media"
  shutil.copytree(media, copy)
  jobs = config(copy, tmp_path / "set", codecs)
  encode(jobs, 0, 2)
  left = plan.read(tmp_path / "set").shards[1::2]
  broken = left[-1].items[0].path
  (copy / broken).write_bytes(b"spoilt")
  index = encode(jobs, 1, 2)
  assert (index["records"], index["skipped"]) == (9, 2)
  report = (tmp_path / "set" / "report.jsonl").read_text().splitlines()
  assert json.loads(report[-1])["file"].startswith(broken)


def test_a_full_disk_leaves_nothing_half_written(tmp_path, media, codecs, undisturbed):
  out = tmp_path / "set"
  jobs = config(media, out, codecs)
  encode(jobs, 0, 2)
  before = content(out)

  def full(*_):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(out / "shard"))

  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(os, "fsync", full)
    with pytest.raises(UsageError, match=r"No space left on device.*make room") as e:
      encode(jobs, 1, 2)
  assert "\n" not in str(e.value)
  assert content(out) == before
  assert encode(jobs, 1, 2)
  assert content(out) == content(undisturbed)


def test_other_settings_for_a_set_that_is_begun(tmp_path, media, codecs, undisturbed):
  drawn = flash_and_knock(0.3, 99)
  clip = {"video": drawn[0][:, :16, :32], "audio": drawn[1][: SPEC.samples]}
  save_codecs(fit_codecs([clip], text_length=12, text_dim=16), tmp_path / "others")
  with pytest.raises(UsageError, match=r"the video codec in .*others .* not the one"):
    encode(config(media, undisturbed, tmp_path / "others"))
  with pytest.raises(UsageError, match="was begun with shard_clips = 2, now it is 5"):
    encode(config(media, undisturbed, codecs, shard_clips=5))
  with pytest.raises(UsageError, match="was begun with clips"):
    encode(config(media, undisturbed, codecs, clips=CLIPS[:1]))


def test_mistakes_are_one_line(tmp_path, media, codecs, monkeypatch):
  monkeypatch.setattr(encoding, "_PATIENCE", 0.0)  # process 0 is not waited for

  def message(**changes):
    index = changes.pop("index", 0)
    out = changes.pop("out", tmp_path / "out")
    with pytest.raises(UsageError) as e:
      encode(config(changes.pop("media", media), out, codecs, **changes), index)
    assert "\n" not in str(e.value)
    return str(e.value)

  (tmp_path / "empty").mkdir()
  (tmp_path / "thesis").mkdir()
  (tmp_path / "thesis" / "thesis.tex").write_text("precious")
  assert "no media in" in message(media=tmp_path / "empty")
  assert "no folder at" in message(media=tmp_path / "absent")
  assert "no set of latents" in message(out=tmp_path / "thesis")
  assert "--process_index is 1; expected 0 to 0 for" in message(index=1)
  assert "--process_index is -1; expected 0 to 0 for" in message(index=-1)
  assert "FRAMESxHEIGHT" in message(clips=("17",))
  assert "shard_clips" in message(shard_clips=0)
  assert "multiple of 8" in message(batch=ConfigDict({"size": 3, "threads": 1}))
  assert "data.options" in message(
    data=ConfigDict(
      {"source": "folder", "root": str(media), "split": "", "options": {"hops": 1}}
    ),
    out=tmp_path / "other",
  )
  assert "clips of one shape" in message(
    data=ConfigDict(
      {"source": "talking_scene", "root": str(media), "split": "", "options": {}}
    ),
    out=tmp_path / "other",
  )


def test_shapes_of_clips_are_those_that_the_video_codec_takes(tmp_path, media, codecs):
  """Wan2.2's VAE and patches of 2 x 2 latents ask for multiples of 32."""
  video = Wan22VideoCodec({"encoder": jnp.zeros(1)})
  save_codecs(load_codecs(codecs)._replace(video=video), tmp_path / "codecs")
  with pytest.raises(UsageError, match="width must be a multiple of 32, got 48"):
    encode(config(media, tmp_path / "out", tmp_path / "codecs", clips=("9x32x48@25",)))
  assert not (tmp_path / "out").exists()


@pytest.fixture(scope="module")
def vae(home, codecs):
  """Codecs with a small VAE of drawn parameters."""
  rng = np.random.default_rng(0)
  params = jax.tree.map(
    lambda x: jnp.asarray(0.2 * rng.standard_normal(x.shape), jnp.float32),
    jax.eval_shape(lambda key: init_params(key, 4), jax.random.key(0)),
  )
  loaded = load_codecs(codecs)
  save_codecs(loaded._replace(video=WanVideoCodec(params, chunk=None)), home / "vae")
  return home / "vae"


def films_alone(media, out, codecs, video_std):
  """In one shard, and so in one batch: a VAE takes long."""
  jobs = config(media, out, codecs, video_std=video_std, clips=CLIPS[:1], shard_clips=8)
  jobs.data.options.kinds = ("film",)
  return jobs


def test_the_deviation_is_stored_where_it_is_asked_for(tmp_path, media, vae):
  plain, stored = tmp_path / "plain", tmp_path / "stored"
  for out, video_std in ((plain, False), (stored, True)):
    assert encode(films_alone(media, out, vae, video_std))["records"] == 7
  found, without = RecordSet(stored), RecordSet(plain)
  (bucket,) = found.buckets
  items = {i.id: i for shard in plan.read(stored).shards for i in shard.items}
  source = FolderItems(media, [SPEC], {})
  read = lambda record: source.read(bucket, items[record["about"]["id"]])["video"]
  pixels = np.stack([read(found[i]) for i in range(7)]) / np.float32(127.5) - 1
  run = jax.jit(lambda codec, x: codec.posterior(x)[1])
  for i, std in enumerate(run(load_codecs(vae).video, pixels)):
    record, other = found[i], without[i]
    assert record.keys() - other.keys() == {"video_std"}
    for name, array in other.items():
      np.testing.assert_array_equal(record[name], array)
    stored_std = record["video_std"].astype(np.float32)
    np.testing.assert_allclose(stored_std, std, rtol=1e-2)

  lines = describe(stored)
  assert "deviation of video latents, by channel" in lines
  assert "deviation of video latents, by channel" not in describe(plain)
  decoded = [decode(load_codecs(vae), s[0])["video"] for s in (found, without)]
  np.testing.assert_array_equal(*decoded)

  with pytest.raises(UsageError, match="begun with video_std = None, now it is True"):
    encode(films_alone(media, plain, vae, True))
  with pytest.raises(UsageError, match="begun with video_std = True, now it is None"):
    encode(films_alone(media, stored, vae, False))
  assert encode(films_alone(media, stored, "", True))["records"] == 7  # its own codecs
  raw = json.loads((plain / plan.FILE).read_text())
  del raw["settings"]["video_std"]  # begun before there was the setting
  (plain / plan.FILE).write_text(json.dumps(raw))
  assert encode(films_alone(media, plain, vae, False))["records"] == 7


@pytest.mark.parametrize("given", [True, False])
def test_codecs_without_a_posterior_are_refused(tmp_path, media, codecs, given):
  out = tmp_path / "set"
  with pytest.raises(UsageError, match="has no posterior") as e:
    encode(films_alone(media, out, codecs if given else "", True))
  assert "\n" not in str(e.value) and not out.exists()


def test_another_source_is_encoded_too(tmp_path):
  jobs = get_config(
    f"data={tmp_path / 'scenes'},out={tmp_path / 'set'},source=talking_scene,runlocal"
  )
  jobs.data.options, jobs.data.split = {"n_train": 1, "n_test": 3}, "test"
  assert encode(jobs)["records"] == 3
  found = RecordSet(tmp_path / "set")
  assert found[2]["about"]["id"].startswith("talking-test-")
  assert "a" in found[2]["about"]["text"]


def test_check_and_inspection(undisturbed, capsys):
  paths = list(decode_some(undisturbed, 6))
  assert len(paths) == 6 and {p.suffix for p in paths} == {".mp4", ".png", ".wav"}
  assert all(p.stat().st_size > 100 for p in paths)
  assert (undisturbed / "check" / "sound.wav@0.000.wav.txt").read_text() == "a knock\n"
  show(undisturbed, 5, None)
  out = capsys.readouterr().out
  for text in (
    "10 records",
    "17x16x32@25+21",
    "silent",
    "caption",
    "encoders",
    "skipped 1",
  ):
    assert text in out
  assert (undisturbed / "inspect.png").stat().st_size > 1000
  for path in [*paths, undisturbed / "inspect.png"]:
    path.unlink()


def test_an_unfinished_set_is_described(tmp_path, media, codecs):
  out = tmp_path / "set"
  encode(config(media, out, codecs), 0, 2)
  text = "\n".join(describe(out))
  assert "not finished" in text
  with pytest.raises(UsageError, match="no set of latents at"):
    describe(media)
