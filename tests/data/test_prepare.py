"""Shots, bars, loudness and the table that `prepare` makes of them."""

import json

import av
import numpy as np
import pytest

from ccl_jax.data.__main__ import main
from ccl_jax.data.media.decode import read_audio
from ccl_jax.data.media.loudness import PEAK, apply_gain, gain_to, integrated_loudness
from ccl_jax.data.preparing import shots, sound_checks
from ccl_jax.data.preparing.child import Child
from ccl_jax.data.preparing.rows import Options
from ccl_jax.data.preparing.run import prepare
from ccl_jax.data.sets.buckets import parse_spec
from ccl_jax.data.sources.catalogue import read, scan
from ccl_jax.data.sources.folder import FolderSource
from ccl_jax.data.sources.items import open_items
from ccl_jax.data.spec import ClipSpec
from ccl_jax.errors import UsageError
from ccl_jax.viz.media import write_mp4, write_png, write_wav
from tests.data.films import film

SPEC = ClipSpec(17, 32, 48, 25)
CUTS = (1.2, 2.4)


def scenes(frames=100, bars=0, moving=True):
  """Three scenes of moving noise that change at `CUTS`, in bars, with a flash."""
  rng = np.random.default_rng(0)
  looks = rng.integers(40, 220, (3, 8, 8, 3)).astype(np.uint8)
  video = np.zeros((frames, 64, 96, 3), np.uint8)
  for k in range(frames):
    scene = sum(k / 25 >= cut for cut in CUTS)
    look = np.kron(looks[scene], np.ones((12, 12, 1), np.uint8))
    look = np.roll(look, k if moving else 0, 1)[: 64 - 2 * bars]
    video[k, bars : 64 - bars] = look
  video[15, bars : 64 - bars] = 255  # a flash is no cut
  return video


def tone(level, seconds=4.0, rate=16000, hertz=1000):
  time = np.arange(round(seconds * rate)) / rate
  return (10 ** (level / 20) * np.sin(2 * np.pi * hertz * time)).astype(np.float32)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
  """Two films, a sound, a still and two files that are bad."""
  root = tmp_path_factory.mktemp("media")
  write_mp4(root / "cut.mp4", scenes(bars=8), 25, tone(-30))
  film(root / "late.mp4", sound_from=0.3, seconds=1.5)
  write_wav(root / "quiet.wav", np.zeros(16000, np.float32))
  write_png(root / "still.png", np.zeros((32, 48, 3), np.uint8))
  (root / "empty.mp4").touch()
  (root / "notes.wav").write_text("no sound")
  rows = [
    {"id": "cut", "text": 'he nods "so"', "speech": 'a "dog"', "mood": "calm"},
    {"id": "late.mp4", "prompt": "a flash"},
  ]
  (root / "c.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
  return root


def table(path):
  return [json.loads(line) for line in path.read_text().splitlines()]


def test_cuts_are_found_and_flashes_are_none(made, tmp_path):
  found = shots.scan_film(made / "cut.mp4")
  np.testing.assert_allclose(found.cuts, CUTS, atol=0.021)
  assert found.shots(1.0, 2.4) == [(1.0, found.cuts[0]), (found.cuts[0], 2.4)]
  fade = scenes(moving=False)[0] * np.linspace(1, 0, 50)[:, None, None, None]
  write_mp4(tmp_path / "fade.mp4", fade.astype(np.uint8), 25)
  assert shots.scan_film(tmp_path / "fade.mp4").cuts == ()
  rng = np.random.default_rng(1)  # so much motion that nothing stands out
  write_mp4(
    tmp_path / "noise.mp4",
    np.repeat(
      np.repeat(rng.integers(0, 255, (40, 4, 4, 3)).astype(np.uint8), 16, 1), 16, 2
    ),
    25,
  )
  assert shots.scan_film(tmp_path / "noise.mp4").cuts == ()


@pytest.mark.parametrize(
  ("top", "bottom", "side", "box"),
  [
    (8, 8, 0, (8, 0, 48, 96)),
    (8, 8, 16, (8, 16, 48, 64)),
    (0, 12, 0, ()),
    (0, 0, 16, (0, 16, 64, 64)),
    (0, 0, 0, ()),
    (1, 1, 1, ()),
    (30, 30, 0, ()),
  ],
)
def test_black_bars(tmp_path, top, bottom, side, box):
  video = scenes(30)
  video[:, :top] = video[:, 64 - bottom :] = 0
  video[:, :, :side] = video[:, :, 96 - side :] = 0
  write_mp4(tmp_path / "a.mp4", video, 25)
  assert shots.scan_film(tmp_path / "a.mp4").crop(0.0, 1.2) == box


def test_frames_that_change_their_size_give_no_crop(tmp_path):
  bars = scenes(16, bars=8)[0]
  film(
    tmp_path / "a.ts",
    seconds=0.6,
    event=0.2,
    sound="stereo",
    size=(96, 64),
    pixels=bars,
  )
  small = bars[::2, ::2]
  film(tmp_path / "b.ts", seconds=2.0, sound="stereo", size=(48, 32), pixels=small)
  both = (tmp_path / "a.ts").read_bytes() + (tmp_path / "b.ts").read_bytes()
  (tmp_path / "both.ts").write_bytes(both)
  assert shots.scan_film(tmp_path / "a.ts").crop(0.0, 9.0) == (8, 0, 48, 96)
  found = shots.scan_film(tmp_path / "both.ts")
  assert not len(found.times) and found.crop(0.0, 9.0) == ()


def test_loudness_of_the_ebu_tones_and_beside_pyloudnorm(tmp_path):
  pyloudnorm = pytest.importorskip("pyloudnorm")
  for level in (-23, -33):
    assert abs(integrated_loudness(tone(level, 20.0)) - level) < 0.1
  # EBU Tech 3341, case 3: the quieter parts fall to the gate.
  parts = [tone(-36, 10.0), tone(-23, 60.0), tone(-36, 10.0)]
  assert abs(integrated_loudness(np.concatenate(parts)) + 23) < 0.1
  rng = np.random.default_rng(0)
  wave = (0.1 * rng.standard_normal(48000 * 3)).astype(np.float32)
  wave[48000:96000] *= 0.05
  meter = pyloudnorm.Meter(48000)
  expected = meter.integrated_loudness(np.stack([wave, wave], 1))
  assert abs(integrated_loudness(wave, 48000) - expected) < 0.1
  stereo(tmp_path / "a.wav", np.stack([tone(-23, 5.0), tone(-23, 5.0)]))
  assert abs(integrated_loudness(read_audio(tmp_path / "a.wav")) + 23) < 0.1


def stereo(path, waves):
  with av.open(str(path), "w") as out:
    stream = out.add_stream("pcm_f32le", rate=16000, layout="stereo")
    packed = np.ascontiguousarray(waves.T).reshape(1, -1)
    frame = av.AudioFrame.from_ndarray(packed, "flt", "stereo")
    frame.sample_rate, frame.pts = 16000, 0
    out.mux(stream.encode(frame))
    out.mux(stream.encode(None))


def test_gain_stops_at_the_peak_and_leaves_silence():
  quiet = tone(-40)
  raised = apply_gain(quiet, gain_to(-23, quiet))
  assert abs(integrated_loudness(raised) + 23) < 0.1
  spiky = tone(-40)
  spiky[1000] = 0.5
  raised = apply_gain(spiky, gain_to(-23, spiky))
  assert 20 * np.log10(np.abs(raised).max()) == pytest.approx(PEAK, abs=1e-3)
  loud = tone(-6)
  assert abs(integrated_loudness(apply_gain(loud, gain_to(-23, loud))) + 23) < 0.1
  for silent in (np.zeros(16000, np.float32), np.zeros(10, np.float32)):
    assert gain_to(-23, silent) == 0 and not apply_gain(silent, 0.0).any()


def test_encode_levels_every_clip(made):
  levelled = open_items("folder", made, "", {}, [parse_spec("17x32x48@25")], -20.0)
  plain = open_items("folder", made, "", {}, [parse_spec("17x32x48@25")])
  for bucket, items in levelled.scan().buckets.items():
    for item in items:
      clip, was = levelled.read(bucket, item), plain.read(bucket, item)
      if item.path == "quiet.wav":
        assert not clip["audio"].any()
      elif item.path == "cut.mp4":
        assert abs(integrated_loudness(clip["audio"]) + 20) < 0.2
        assert abs(integrated_loudness(was["audio"]) + 30) < 0.2
  with pytest.raises(UsageError, match="loudness: got 23.0 LUFS"):
    open_items("folder", made, "", {}, [parse_spec("17x32x48@25")], 23.0)


@pytest.mark.parametrize(
  ("level", "good"),
  [(-69.9, True), (-0.1, True), (0, False), (-70, False), (5.0, False)],
)
def test_the_levels_that_may_be_asked_for(tmp_path, level, good):
  options = ("folder", tmp_path, "", {}, [parse_spec("17x32x48@25")], level)
  if good:
    assert open_items(*options)
  else:
    with pytest.raises(UsageError, match=f"got {level} LUFS, expected such as -23"):
      open_items(*options)


def test_what_is_measured_of_a_sound(tmp_path):
  wave = np.concatenate([tone(-20, 1.0), np.zeros(16000, np.float32)])
  assert sound_checks.measure([wave])["silence"] == 0.5
  assert sound_checks.measure([wave])["peak"] == pytest.approx(-20, abs=0.01)
  assert sound_checks.measure([np.zeros(1000, np.float32)]) == {"silence": 1.0}
  both = np.stack([tone(-20, 1.0), np.clip(tone(6, 1.0), -1, 1)])
  stereo(tmp_path / "a.wav", both)
  share = (np.abs(both) >= 0.999).mean()
  assert share > 0.2
  assert sound_checks.clipped(tmp_path / "a.wav", 0.0, np.inf) == pytest.approx(
    share, abs=1e-4
  )


def test_the_table_and_how_it_is_read(made, tmp_path):
  out = tmp_path / "out.jsonl"
  prepared = prepare(made, out, Options(loudness=-23.0), threads=1)
  rows = table(out)
  assert rows == prepared.rows and not list(tmp_path.glob("*.part"))
  cut = [row for row in rows if row["file"] == "cut.mp4"]
  assert len(cut) == 3
  for row, (start, end) in zip(cut, [(0, 1.2), (1.2, 2.4), (2.4, 4.0)]):
    assert (row["start"], row["end"]) == pytest.approx((start, end), abs=0.03)
    assert row["crop"] == [8, 0, 48, 96]
    assert row["loudness"] == pytest.approx(-30, abs=0.2)
    assert row["loudness_gain"] == pytest.approx(7, abs=0.2)
    assert row["caption"] == 'he nods "so"' and row["mood"] == "calm"
    assert row["clipped"] == 0 and row["silence"] == 0
  (late,) = [row for row in rows if row["file"] == "late.mp4"]
  assert late["av_offset_ms"] == pytest.approx(300, abs=25)
  assert "start" not in late and "crop" not in late and late["caption"] == "a flash"
  (quiet,) = [row for row in rows if row["file"] == "quiet.wav"]
  assert quiet["silence"] == 1 and not {"loudness", "loudness_gain"} & set(quiet)
  skipped = (tmp_path / "out.jsonl.skipped.txt").read_text().splitlines()
  assert [line.split("\t")[0] for line in skipped] == ["empty.mp4", "notes.wav"]

  source = FolderSource(made, SPEC, captions=str(out))
  clips = [source[i] for i, w in enumerate(source.windows) if w.name == "cut.mp4"]
  starts = [float(clip["id"].split("@")[1]) for clip in clips]
  assert starts == pytest.approx([0, 1.2, 2.4, 3.08], abs=0.03)
  assert abs(integrated_loudness(clips[0]["audio"]) + 23) < 0.3
  for clip in clips:  # no bars are left, and no frame of the next scene
    assert clip["video"][:, :2].mean() > 40 and clip["video"][:, -2:].mean() > 40
    steps = np.abs(np.diff(clip["video"].astype(int), axis=0)).mean((1, 2, 3))
    if clip is not clips[0]:  # that one has the flash
      assert steps.max() < 40
  found = scan(made, [parse_spec("17x32x48@25")], captions=str(out))
  items = [(b, i) for b, ii in found.buckets.items() for i in ii if "cut" in i.path]
  assert [i.start for _, i in items] == pytest.approx(starts)
  np.testing.assert_array_equal(read(made, *items[1])["video"], clips[1]["video"])
  np.testing.assert_array_equal(read(made, *items[1])["audio"], clips[1]["audio"])


def test_nothing_that_is_not_asked_for(one_by_one, made, tmp_path):
  rows = prepare(made, tmp_path / "o.jsonl", Options(shots=False, crop=False)).rows
  keys = {"start", "end", "crop", "loudness_gain", "speech_share"}
  assert len(rows) == 4 and not any(keys & set(row) for row in rows)


def test_it_goes_on_where_it_stopped(one_by_one, made, tmp_path, monkeypatch):
  out, of, looked = tmp_path / "out.jsonl", Child.rows, []

  def counted(self, root, name, *rest):
    looked.append(name)
    if len(looked) == 4:
      raise KeyboardInterrupt
    return of(self, root, name, *rest)

  monkeypatch.setattr(Child, "rows", counted)
  with pytest.raises(KeyboardInterrupt):
    prepare(made, out, Options())
  assert not out.exists()
  with pytest.raises(UsageError, match="was begun with other settings"):
    prepare(made, out, Options(crop=False))
  done = looked[:3]
  looked[:] = [None] * 4
  prepare(made, out, Options())
  files = {p.name for p in made.iterdir() if p.suffix != ".jsonl"}
  assert len(done) == 3 and sorted(looked[4:]) == sorted(files - set(done))
  monkeypatch.setattr(Child, "rows", of)
  prepare(made, tmp_path / "whole.jsonl", Options())
  assert out.read_bytes() == (tmp_path / "whole.jsonl").read_bytes()
  assert not list(tmp_path.glob("*.parts"))
  with pytest.raises(UsageError, match="is there already"):
    prepare(made, out, Options())


def test_templates_quote_what_is_spoken(one_by_one, made, tmp_path):
  template = '{caption}. He says "{speech}"'
  rows = prepare(made, tmp_path / "a.jsonl", Options(template=template)).rows
  texts = {row["file"]: row["caption"] for row in rows}
  assert texts["cut.mp4"] == 'he nods "so". He says "a \'dog\'"'
  assert texts["late.mp4"] == "a flash"
  for template, match in (
    ("{caption} {spoken}", "no row has spoken; the fields are .*mood"),
    ("says", "expected names of fields in braces"),
    ("{caption", "template"),
    ("{caption.upper}", "expected names"),
  ):
    with pytest.raises(UsageError, match=match):
      prepare(made, tmp_path / "b.jsonl", Options(template=template))
  assert not list(tmp_path.glob("b*"))


def test_speech_is_what_the_hook_says(one_by_one, made, tmp_path, monkeypatch):
  (tmp_path / "hooks.py").write_text(
    "def share(wave, rate):\n"
    "  return (abs(wave) > 0.01).mean() if rate == 16000 else 0\n"
    "def bad(wave, rate):\n"
    "  return 'much'\n"
  )
  monkeypatch.syspath_prepend(tmp_path)
  rows = prepare(made, tmp_path / "a.jsonl", Options(speech="hooks:share")).rows
  shares = {row["file"]: row.get("speech_share") for row in rows}
  assert shares["quiet.wav"] == 0 and shares["cut.mp4"] > 0.5
  assert shares["still.png"] is None
  with pytest.raises(UsageError, match="hooks:bad gave 'much'"):
    prepare(made, tmp_path / "b.jsonl", Options(speech="hooks:bad"))
  for name in ("hooks", "hooks:absent", "no_such:f"):
    with pytest.raises(UsageError, match="expected silero, or module:function"):
      prepare(made, tmp_path / "c.jsonl", Options(speech=name))


def test_the_command(one_by_one, made, tmp_path, capsys):
  out = tmp_path / "out.jsonl"
  main(["prepare", str(made), str(out), "--loudness=-23", "--max_offset_ms=100"])
  told = capsys.readouterr().out
  for text in (
    "4, and 2 skipped", "with black bars   3", "LUFS", "silent            1 of 5",
    "sound apart       1", "late.mp4: +2", "skipped 2: ", "data.options.captions=",
  ):  # fmt: skip
    assert text in told, told
  for argv, match in (
    ([str(tmp_path), str(tmp_path / "x.jsonl")], "no media in"),
    ([str(made), str(tmp_path / "x.csv")], "ends in .jsonl"),
    ([str(made), str(tmp_path / "x.jsonl"), "--loudness=900"], "got 900.0 LUFS"),
    ([str(made), str(made / "still.png" / "x.jsonl")], "cannot write"),
  ):
    with pytest.raises(SystemExit) as e:
      main(["prepare", *argv])
    assert e.value.code == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("error: ") and match in error
  (tmp_path / "bad").mkdir()
  (tmp_path / "bad" / "a.wav").touch()
  with pytest.raises(UsageError, match="no usable file among 1"):
    prepare(tmp_path / "bad", tmp_path / "y.jsonl", Options())
  assert not (tmp_path / "y.jsonl").exists()
