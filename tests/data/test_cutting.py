"""Which files become which items, by headers made up: shapes and filters at borders."""

import math
import pathlib

import numpy as np
import pytest

from ccl_jax.data.builders.folder import Folder
from ccl_jax.data.builders.openhumanvid import Openhumanvid, OpenHumanVidConfig
from ccl_jax.data.builders.vggsound import Vggsound
from ccl_jax.data.media import decode as media
from ccl_jax.data.media.decode import MediaError, MediaInfo
from ccl_jax.data.sets.buckets import Bucket
from ccl_jax.data.sources import catalogue, media_builder
from ccl_jax.data.sources.captions import Caption
from ccl_jax.data.sources.catalogue import Item, read, scan_rows, without_soundtracks
from ccl_jax.data.sources.media_builder import SPEECH, Entry, Example, MediaConfig
from ccl_jax.data.spec import ClipSpec
from ccl_jax.errors import UsageError

SHORT, LONG = ClipSpec(17, 32, 48, 25), ClipSpec(33, 32, 48, 25)  # 0.68, 1.32 s


@pytest.fixture
def files(monkeypatch, tmp_path):
  """Headers by name: (seconds, has picture, has sound); pictures are 64 x 96."""
  known = {}

  def probe(path):
    seconds, video, audio = known[path.name]
    return MediaInfo(video, audio, 0.0, float(seconds), 25.0, 64, 96)

  monkeypatch.setattr(media, "probe", probe)
  monkeypatch.setattr(media, "picture_size", lambda path, crop: crop[2:] or (64, 96))
  monkeypatch.setattr(media, "image_size", lambda path, crop=(): crop[2:] or (64, 96))
  return known


def items(root, rows, specs=(SHORT, LONG), **options):
  rows = {name: found if isinstance(found, list) else [found] for name, found in
          rows.items()}  # fmt: skip
  found = scan_rows(root, rows, specs, **options)
  return {b.name: [i.id for i in ii] for b, ii in found.buckets.items()}


def test_films_and_sounds_fall_to_the_longest_shape_they_fill(files, tmp_path):
  """Tokens: 21 of 0.68 s, 41 of 1.32 s; films may hold a frame, sounds nothing."""
  files |= {
    "a.mp4": (1.28, True, True), "b.mp4": (1.2799, True, True),
    "c.mp4": (0.64, True, False),
    "a.wav": (1.312, False, True), "b.wav": (1.3119, False, True),
    "c.wav": (0.672, False, True), "d.wav": (0.6719, False, True),
    "e.wav": (4.0, False, True),
  }  # fmt: skip
  rows = {name: Caption() for name in [*files, "f.png"]}
  assert items(tmp_path, rows) == {
    "+21": ["b.wav@0.000", "c.wav@0.000"],
    "+41": ["a.wav@0.000", "e.wav@0.000", "e.wav@1.312", "e.wav@2.624"],
    "1x32x48": ["f.png"],
    "17x32x48@25": ["c.mp4@0.000"],
    "17x32x48@25+21": ["b.mp4@0.000"],
    "33x32x48@25+41": ["a.mp4@0.000"],
  }
  del files["a.mp4"], files["b.mp4"], rows["a.mp4"], rows["b.mp4"]
  found = scan_rows(tmp_path, {"d.wav": [Caption()], "c.mp4": [Caption()]}, [SHORT])
  assert found.skipped == [("d.wav", "too short, 0.67 s of the 0.67 s of a clip")]


def test_parts_hops_and_kinds(files, tmp_path):
  files |= {"a.mp4": (9.0, True, True), "b.mp4": (1.0, True, False)}
  parts = [Caption(start=1.0, end=3.0), Caption("t", start=3.0, end=4.0)]
  rows = {"a.mp4": parts, "b.mp4": Caption()}
  assert items(tmp_path, rows, [SHORT]) == {
    "17x32x48@25": ["b.mp4@0.000"],
    "17x32x48@25+21": ["a.mp4@1.000", "a.mp4@1.680", "a.mp4@3.000"],
  }
  assert items(tmp_path, rows, [SHORT], hop=1, kinds=("film",)) == {
    "17x32x48@25+21": ["a.mp4@1.000", "a.mp4@2.000", "a.mp4@3.000"],
  }
  found = scan_rows(tmp_path, rows | {"b.mp4": [Caption()]}, [SHORT], kinds=("film",))
  ((name, why),) = found.skipped
  assert name == "b.mp4" and "of the kind silent, which is not asked" in why
  assert [i.text for ii in found.buckets.values() for i in ii] == ["", "", "t"]


def test_a_crop_decides_the_shape(files, tmp_path):
  tall = ClipSpec(17, 48, 32, 25)
  files["a.mp4"] = (1.0, True, False)
  assert list(items(tmp_path, {"a.mp4": Caption()}, [SHORT, tall])) == ["17x32x48@25"]
  cropped = Caption(crop=(0, 0, 64, 40))
  got = items(tmp_path, {"a.mp4": cropped, "a.png": cropped}, [SHORT, tall])
  assert set(got) == {"17x48x32@25", "1x48x32"}


def test_what_is_the_sound_of_another_is_no_item_of_its_own():
  rows = {
    "b.mp4": [Caption(audio="c.wav")],
    "a.wav": [Caption(audio="a.wav")],
    "c.wav": [Caption()],
  }
  assert list(without_soundtracks(rows)) == ["a.wav", "b.mp4"]


def test_an_item_is_read_as_its_bucket_says(monkeypatch, tmp_path):
  calls = []
  call = lambda name, value: lambda *args, **kw: calls.append((name, args, kw)) or value
  video, audio = np.zeros((17, 32, 48, 3), np.uint8), np.full(4, 0.1, np.float32)
  monkeypatch.setattr(media, "read_image", call("image", video[0]))
  monkeypatch.setattr(media, "read_video", call("video", video))
  monkeypatch.setattr(media, "read_audio", call("audio", audio))
  monkeypatch.setattr(media, "read_clip", call("clip", (video, audio)))
  item = Item("i", "a", 0.5, "s", "t", [1, 2, 3, 4], 20.0)
  box, path = (1, 2, 3, 4), tmp_path / "a"
  expected = {
    "image": ({"video"}, "image", (path, 32, 48, box), {}),
    "silent": ({"video"}, "video", (path, SHORT, 0.5, box), {}),
    "sound": ({"audio"}, "audio", (path, 21 * 512), {"start": 0.5}),
    "film": ({"video", "audio"}, "clip", (path, SHORT, 0.5, tmp_path / "s", box), {}),
  }
  for kind, (streams, *how) in expected.items():
    clip = read(tmp_path, Bucket.of(SHORT, kind), item)
    assert clip.keys() == {"id", "text", *streams}
    assert calls.pop() == tuple(how)
    if "audio" in clip:
      np.testing.assert_allclose(clip["audio"], 1.0)  # raised by 20 dB
  assert read(tmp_path, Bucket.of(SHORT, "image"), item)["video"].shape == (
    1,
    32,
    48,
    3,
  )


def builder(kind=Folder, config=None):
  made = kind.__new__(kind)
  made._builder_config = config or kind.CONFIG(name="x")
  return made


def example(files, config, path, caption=None, **about):
  entry = Entry("e", (path,), caption or Caption(), "here", **about)
  probe = lambda path, sound: media.probe(path)
  return builder(config=config)._example(pathlib.Path("/"), path, entry, probe)


def test_filters_at_their_borders(files):
  files |= {"a.mp4": (2.0, True, True), "a.wav": (2.0, False, True)}
  config = lambda **options: MediaConfig(name="x", **options)
  for name in files:
    example(files, config(min_seconds=2.0, max_seconds=2.0), name)
    for options in ({"min_seconds": 2.001}, {"max_seconds": 1.999}):
      with pytest.raises(MediaError, match="lasts 2.00 s, asked are"):
        example(files, config(**options), name)
    part = Caption(start=0.5, end=1.0)
    assert example(files, config(max_seconds=0.5), name, part).seconds == 0.5
  example(files, config(min_side=64), "a.mp4")
  example(files, config(min_side=999), "a.wav")  # a sound has no sides
  still = example(files, config(min_seconds=5.0, min_side=64), "a.png")
  assert (still.kind, still.seconds, still.height, still.width) == ("image", 0, 64, 96)
  for name in ("a.mp4", "a.png"):
    with pytest.raises(MediaError, match="64 x 96 pixels, asked are 65"):
      example(files, config(min_side=65), name)
  narrow = Caption(crop=(0, 0, 30, 50))
  assert example(files, config(min_side=30), "a.mp4", narrow).height == 30
  with pytest.raises(MediaError, match="30 x 50"):
    example(files, config(min_side=31), "a.mp4", narrow)


def test_kinds_of_examples(files):
  files |= {
    "a.mp4": (2.0, True, True), "b.mp4": (2.0, True, False),
    "a.wav": (2.0, False, True), "none.mp4": (2.0, False, False),
  }  # fmt: skip
  kind = lambda name: example(files, MediaConfig(name="x"), name).kind
  assert [kind(n) for n in ("a.mp4", "b.mp4", "a.wav", "a.png")] == [
    "film", "silent", "sound", "image",
  ]  # fmt: skip
  with pytest.raises(MediaError, match="no picture and no sound"):
    kind("none.mp4")
  sound = example(files, MediaConfig(name="x"), "a.wav", split="test", group="g")
  assert (sound.height, sound.width, sound.split, sound.group) == (0, 0, "test", "g")


@pytest.mark.parametrize(
  ("text", "spoken"),
  [
    ("a man says hello", True), ("She SAID so", True), ("they are talking", True),
    ("a woman speaks", True), ("spoken words", True), ("a voice-over", True),
    ("a dog barks", False), ("an essay about speed", False), ("a saying", True),
    ("special effects", False), ("whispering wind", True), ("", False),
  ],
)  # fmt: skip
def test_captions_that_speak_of_speech(files, text, spoken):
  assert bool(SPEECH.search(text)) == spoken
  files["a.mp4"] = (2.0, True, True)
  for speech in ("with", "without"):
    take = lambda: example(
      files, MediaConfig(name="x", speech=speech), "a.mp4", Caption(text)
    )
    if (speech == "with") == spoken:
      assert take().caption.text == text
    else:
      with pytest.raises(MediaError, match=f"its caption is not {speech} speech"):
        take()


def test_configurations_at_their_borders():
  defaults = MediaConfig(name="x")
  assert (defaults.min_seconds, defaults.max_seconds) == (0.0, math.inf)
  assert (defaults.min_side, defaults.speech, defaults.test_share) == (0, "", 0.02)
  MediaConfig(name="x", test_share=0), MediaConfig(name="x", test_share=0.999)
  for share in (1, -0.001):
    with pytest.raises(UsageError, match=f"test_share: got {share}, expected 0 to"):
      MediaConfig(name="x", test_share=share)


def kept(names, splits=None, groups=None):
  about = lambda n: ((splits or {}).get(n, ""), (groups or {}).get(n, ""))
  return [Example(n, n, Caption(), "film", 1.0, 1, 1, *about(n)) for n in names]


def hashed(name):
  import hashlib

  return int.from_bytes(hashlib.blake2s(name.encode(), digest_size=4).digest()) / 2**32


def test_the_test_split_is_a_share_by_hash():
  names = [f"clip {i}" for i in range(200)]
  split = lambda share, *args: {
    k: [e.id for e in v]
    for k, v in builder(config=MediaConfig(name="x", test_share=share))
    ._splits(kept(*args))
    .items()
  }
  got = split(0.3, names)
  assert got["test"] == [n for n in names if hashed(n) < 0.3]
  assert got["train"] == [n for n in names if hashed(n) >= 0.3]
  assert split(0.0, names) == {"train": names, "test": []}
  # None falls to it: the smallest does, unless that is all there is.
  least = min(names, key=hashed)
  assert split(1e-9, names)["test"] == [least]
  assert split(1e-9, names[:1]) == {"train": names[:1], "test": []}
  # What is published counts.
  assert split(0.5, ["a", "b"], {"a": "test", "b": "train"}) == {
    "train": ["b"],
    "test": ["a"],
  }
  groups = {n: f"film {i % 7}" for i, n in enumerate(names)}
  got = split(0.4, names, None, groups)
  assert got["test"] == [n for n in names if hashed(groups[n]) < 0.4]


def test_ids_are_unique():
  entry = lambda name, where: Entry(name, (), Caption(), where)
  unique = lambda entries: list(media_builder._unique(entries))
  assert len(unique(iter([entry("a", "1"), entry("b", "2")]))) == 2
  with pytest.raises(UsageError, match="2: the id a was at 1 before"):
    unique(iter([entry("a", "1"), entry("a", "2")]))
  with pytest.raises(UsageError, match="the metadata has no rows"):
    unique(iter([]))


@pytest.mark.parametrize(("seconds", "cut"), [(10.5, True), (10.51, False)])
def test_a_file_of_vggsound_is_cut_or_whole(seconds, cut):
  """Half a second more than ten is a cut clip; the caption's part is then all of it."""
  info = MediaInfo(True, True, 0.0, seconds, 25.0, 64, 96)
  caption = Caption("barking", start=30.0, end=40.0)
  got = builder(Vggsound).part(Entry("e", (), caption, "here"), info)
  assert got == (Caption("barking") if cut else caption)


def human(row, **options):
  config = OpenHumanVidConfig(name="x", **options)
  return builder(Openhumanvid, config)._entry("here", row)


def test_rows_of_openhumanvid():
  row = {
    "video_id": "v1", "url": "https://x.org/a/b.mp4?x=1", "path": "f/c.mp4",
    "short_caption": "s", "long_caption": "l", "start": 1.5, "end": "2.5", "score": 4.5,
  }  # fmt: skip
  got = human(row)
  assert got.names == ("f/c.mp4", "b.mp4", "v1")
  assert (got.id, got.group, got.refused) == ("v1@1.500", "v1", "")
  assert got.caption == Caption("l", start=1.5, end=2.5)
  assert human(row, caption="short_caption").caption.text == "s"
  for least, refused in ((4.5, ""), (4.6, "score is 4.5")):
    assert human(row, min_scores=(("score", least),)).refused == refused
  bare = human({"url": "https://x.org/a/b.mp4", "text": "t"})
  assert (bare.id, bare.group, bare.names) == ("b.mp4", "b.mp4", ("b.mp4",))
  for bad in ({"id": 1}, {"text": "t"}):
    with pytest.raises(UsageError, match="here: the columns with a value are"):
      human(bad)
  with pytest.raises(UsageError, match="a score or time is no number"):
    human(row | {"start": "soon"})
  with pytest.raises(UsageError, match="a score or time is no number"):
    human(row | {"score": "high"}, min_scores=(("score", 1),))


def test_suffixes():
  assert {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif"} < set(catalogue.IMAGES)
  films = {".mp4", ".m4v", ".avi", ".ts", ".gif", ".mpg", ".flv", ".wmv", ".3gp"}
  assert films < set(catalogue.SUFFIXES)
  assert {".wav", ".flac", ".mp3", ".ogg"} < set(catalogue.SOUNDS)
  ranks = [catalogue._rank(n) for n in ("b.MP4", "a.mp4", "c.wav", "d.PNG")]
  assert sorted(ranks) == [(0, "d.PNG"), (1, "c.wav"), (2, "a.mp4"), (2, "b.MP4")]
