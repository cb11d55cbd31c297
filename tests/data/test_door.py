"""The door to films and sounds: what it refuses, and that nothing takes the process."""

import ast
import fractions
import os
import pathlib
import socket
import struct
import subprocess
import sys
import time
import types

import av
import numpy as np
import pytest

from ccl_jax.data.media import decode as media
from ccl_jax.data.media import door, tracks
from ccl_jax.data.media.decode import MediaError, probe, read_audio, read_clip
from ccl_jax.data.preparing.rows import Options
from ccl_jax.data.preparing.run import prepare
from ccl_jax.data.sources import catalogue
from ccl_jax.data.spec import ClipSpec
from ccl_jax.metrics.base import Unscorable
from ccl_jax.metrics.clip import Clip
from tests.data.films import film
from tests.trees import calls

ROOT = pathlib.Path(__file__).parents[2]
SPEC = ClipSpec(frames=5, height=32, width=48, fps=25)


@pytest.fixture(scope="module")
def good(tmp_path_factory):
  return film(tmp_path_factory.mktemp("door") / "good.mp4", seconds=0.6, event=0.2)


def beside(good, name, change=bytes):
  """A copy of the film under a name, its bytes changed."""
  path = good.with_name(name)
  path.write_bytes(change(bytearray(good.read_bytes())))
  return path


# ---------------------------------------------------------------- what FFmpeg is given


def test_a_name_is_never_a_url(good, monkeypatch):
  """A file may be called as a URL is; no name makes a connection."""
  with socket.create_server(("127.0.0.1", 0)) as server:
    server.setblocking(False)
    url = f"127.0.0.1:{server.getsockname()[1]}"
    monkeypatch.chdir(good.parent)
    for name in (f"http:{url}?a.mp4", "concat:a.mp4", os.fsdecode(b"caf\xe9.mp4")):
      pathlib.Path(name).write_bytes(good.read_bytes())
      assert read_clip(name, SPEC)[0].shape == (5, 32, 48, 3)
    for name in (f"http://{url}/x.mp4", f"tcp://{url}", "concat:good.mp4", "pipe:0",
                 "file:good.mp4", "data:audio/wav;base64,AA", "a\0b"):  # fmt: skip
      with pytest.raises(MediaError, match=r"No such file|null (byte|character)"):
        probe(name)
    with pytest.raises(BlockingIOError):
      server.accept()


@pytest.mark.parametrize(
  "text",
  [
    "#EXTM3U\n#EXTINF:1,\ngood.mp4\n#EXT-X-ENDLIST\n",
    "ffconcat version 1.0\nfile good.mp4\n",
    "v=0\no=- 0 0 IN IP4 127.0.0.1\nc=IN IP4 127.0.0.1\nm=video 5004 RTP/AVP 96\n",
    '<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"></svg>',
    '<?xml version="1.0"?><MPD><Period><BaseURL>good.mp4</BaseURL></Period></MPD>',
    "[playlist]\nFile1=good.mp4\n",
    "",
  ],
)
def test_lists_and_drawings_are_no_films(good, text):
  path = good.with_name("list.mp4")
  path.write_text(text)
  with pytest.raises(MediaError, match=r"list\.mp4: damaged, or of no format of films"):
    probe(path)


@pytest.mark.parametrize("read", [probe, read_audio, media.picture_size])
def test_only_regular_files_are_read(tmp_path, read):
  """A pipe that nobody writes to would be waited for without end."""
  os.mkfifo(tmp_path / "pipe.mp4")
  for path, why in (
    (tmp_path / "pipe.mp4", "a pipe, a device"),
    (tmp_path, "a folder"),
    ("/dev/zero", "a pipe, a device"),
    (tmp_path / "none.mp4", "No such file"),
  ):
    with pytest.raises(MediaError, match=f"{path}: {why}"):
      read(path)


def calls_of(*wanted):
  """{file: the calls of it in the package}, by how they are written."""
  found = {}
  for path in sorted((ROOT / "ccl_jax").rglob("*.py")):
    for written, node in calls(path):
      if written in wanted:
        name = path.relative_to(ROOT / "ccl_jax").as_posix()
        found.setdefault(name, []).append(ast.unparse(node))
  return found


def test_nothing_else_opens_a_film_or_a_picture():
  films = calls_of("av.open", "av.container.open", "open_url", "wave.open")
  pictures = calls_of("Image.open", "PIL.Image.open", "plt.imread", "imread")
  writers = {"viz/media.py", "generation/joining.py"}
  # The second opens a film again, from the beginning.
  assert set(films) == {"data/media/door.py", "data/media/tracks.py"} | writers
  written = [call for name in writers for call in films[name]]
  assert all("'w'" in call or "'wb'" in call for call in written)
  assert all("(file_url(" in call for call in written if call.startswith("av."))
  assert set(pictures) == {"data/media/image.py"}
  assert all("formats=" in call for call in pictures["data/media/image.py"])
  imports = calls_of("importlib.import_module", "__import__")
  assert not any("'av'" in call for calls in imports.values() for call in calls)


# ----------------------------------------------------- tracks that cannot be decoded


def unknown_sound(raw):
  i = raw.index(b"mp4a")
  raw[i : i + 4] = b"zzzz"
  i = raw.index(b"esds")
  raw[i + 4 : i + 40] = bytes(36)
  return raw


def unknown_picture(raw, tag=b"zzzz"):
  i = raw.index(b"avc1", raw.index(b"stsd"))
  raw[i : i + 4] = tag
  if tag == b"zzzz":
    i = raw.index(b"avcC")
    raw[i : i + 4] = b"free"
  return raw


def test_one_film_that_cannot_be_decoded_ends_no_folder(one_by_one, good, tmp_path):
  """Its row is a reason with its name; the others are prepared and scored."""
  encrypted = {"encryption_scheme": "cenc-aes-ctr", "encryption_key": "00" * 16,
               "encryption_kid": "11" * 16}  # fmt: skip
  changes = {
    "a.mp4": bytes,
    "sound.mp4": unknown_sound,
    "picture.mp4": unknown_picture,
    "tag.mp4": lambda raw: unknown_picture(raw, b"encv"),
  }
  for name, change in changes.items():
    beside(good, name, change).rename(tmp_path / name)
  film(tmp_path / "locked.mp4", seconds=0.6, event=0.2, options=encrypted)
  wav = struct.pack("<HHIIHH", 0xFFFF, 1, 16000, 32000, 2, 16)
  body = b"WAVEfmt " + struct.pack("<I", 16) + wav + b"data" + struct.pack("<I", 4000)
  head = b"RIFF" + struct.pack("<I", len(body) + 4000)
  (tmp_path / "none.wav").write_bytes(head + body + bytes(4000))
  (tmp_path / "a.rm").write_bytes(b"RMF")
  out = tmp_path.with_suffix(".jsonl")
  done = prepare(tmp_path, out, Options(), threads=1)
  assert [row["file"] for row in done.rows] == ["a.mp4"]
  why = dict(done.skipped)
  assert why["sound.mp4"] == "no decoder for the codec of its audio track"
  assert why["picture.mp4"] == why["tag.mp4"]
  assert why["tag.mp4"] == "no decoder for the codec of its video track"
  assert why["locked.mp4"] == "the video track is encrypted"
  assert why["none.wav"] == "no decoder for the codec of its audio track"
  assert why["a.rm"].startswith("files that end in .rm are not read")
  with pytest.raises(MediaError, match="locked.mp4: the video track is encrypted"):
    read_clip(tmp_path / "locked.mp4", SPEC)  # not its noise
  found = catalogue.scan(tmp_path, [SPEC])  # for encode
  assert {item.path for items in found.buckets.values() for item in items} == {"a.mp4"}
  assert {name for name, _ in found.skipped} == set(why)
  for name in ("sound.mp4", "picture.mp4", "locked.mp4"):
    clip = Clip(tmp_path / name)
    with pytest.raises(Unscorable, match=f"cannot be decoded: {name}: "):
      clip.check(frozenset(["picture", "sound"]))


def test_large_and_odd_pictures_are_refused_by_their_headers():
  def made(width, height, aspect=None, tag="avc1"):
    stream = types.SimpleNamespace(
      width=width, height=height, sample_aspect_ratio=aspect, disposition=0,
      metadata={}, codec_context=types.SimpleNamespace(codec_tag=tag),
    )  # fmt: skip
    best = {"video": stream}.get
    return types.SimpleNamespace(name="x", streams=types.SimpleNamespace(best=best))

  assert tracks.main_track(made(8192, 8192), "video").width == 8192
  for bad, why in (
    (made(8193, 8192), "8193 x 8192 pixels, expected 67108864 at most"),
    (made(64, 48, 1 / 1000), "0.001 times as wide as high, expected 1/16 to 16"),
    (made(64, 48, 17), "17 times as wide"),
    (made(64, 48, 1, "dvh1"), "Dolby Vision without an HDR10 or HLG layer"),
  ):
    with pytest.raises(MediaError, match=f"x: .*{why}"):
      tracks.main_track(bad, "video")


def test_a_decoder_that_gives_nothing_is_given_up(monkeypatch):
  packet = types.SimpleNamespace(
    stream=types.SimpleNamespace(type="video", metadata={}, index=0),
    has_sidedata=lambda kind: False,
    decode=list,
    dts=0,
    size=1,
  )
  form = types.SimpleNamespace(name="flv")
  packets = lambda *_: iter([packet] * 100)
  endless = types.SimpleNamespace(name="x", format=form, demux=packets)
  assert list(door.decoded(endless)) == []
  monkeypatch.setattr(door, "LIMIT", -1.0)
  with pytest.raises(MediaError, match="x: nothing could be decoded for"):
    list(door.decoded(endless))


# ------------------------------------------------------------------ many channels


def pcm(path, place, channels, rate=16000, seconds=0.25):
  """A WAV whose sine of 0.5 is in one channel."""
  x = np.zeros((round(seconds * rate), channels))
  x[:, place] = 0.5 * np.sin(2 * np.pi * 440 * np.arange(len(x)) / rate)
  data = (x * 32767).astype("<i2").tobytes()
  sizes = channels, rate, rate * channels * 2, channels * 2, 16
  body = b"WAVEfmt " + struct.pack("<IHHIIHH", 16, 1, *sizes)
  body += b"data" + struct.pack("<I", len(data)) + data
  path.write_bytes(b"RIFF" + struct.pack("<I", len(body)) + body)
  return path


@pytest.mark.parametrize("channels", [3, 6, 8, 9, 10, 24, 64])
def test_no_channel_is_lost(tmp_path, channels):
  """A mix is the mean of all, in training and in scoring alike."""
  for place in (0, channels - 1):
    path = pcm(tmp_path / "a.wav", place, channels)
    for wave in (
      read_audio(path),
      Clip(path, needs=frozenset(["sound"])).sound(16000),
      Clip(path, needs=frozenset(["sound"])).integers(16000) / 32768,
    ):
      assert np.abs(wave).max() == pytest.approx(0.5 / channels, abs=1e-4)


def test_too_many_channels_are_counted(tmp_path):
  path = pcm(tmp_path / "a.wav", 0, 65)
  with pytest.raises(MediaError, match="the sound has 65 channels, expected 64 at"):
    read_audio(path)


def surround(path, layout, codec="pcm_s16le"):
  wave = np.zeros((4800, av.AudioLayout(layout).nb_channels), np.int16)
  wave[:, -1] = 16000
  with av.open(str(path), "w") as out:
    stream = out.add_stream(codec, rate=48000, layout=layout)
    frame = av.AudioFrame.from_ndarray(wave.reshape(1, -1), "s16", layout)
    frame.sample_rate, frame.pts = 48000, 0
    form, size = stream.codec_context.format.name, stream.codec_context.frame_size
    fit = av.AudioResampler(form, layout, 48000, size or None)
    for piece in (*fit.resample(frame), *fit.resample(None), None):
      out.mux(stream.encode(piece))
  return path


# Of Core Audio, six channels in orders that are not FFmpeg's own.
ORDERS = {
  "films": 124 << 16 | 6,
  "L R Ls Rs C LFE": 122 << 16 | 6,
  "none": 147 << 16 | 6,
}


def test_channels_in_any_order_do_not_crash(tmp_path):
  """In a process of its own: it once died, and no line said of which file."""
  raw = bytearray(surround(tmp_path / "own.mov", "5.1").read_bytes())
  at = raw.index(b"chan") + 8
  for name, tag in ORDERS.items():
    raw[at : at + 4] = struct.pack(">I", tag)
    (tmp_path / f"{name}.mov").write_bytes(raw)
  surround(tmp_path / "sixteen.mov", "hexadecagonal")
  surround(tmp_path / "eight.mkv", "7.1", "flac")
  surround(tmp_path / "eight.webm", "7.1", "libopus")
  surround(tmp_path / "eight.mp4", "7.1", "aac")
  program = (
    "import sys, numpy as np\n"
    "from ccl_jax.data.media.decode import read_audio\n"
    "for path in sys.argv[1:]:\n"
    "  for _ in range(20): wave = read_audio(path)\n"
    "  print(round(float(np.median(np.abs(wave))), 3))"
  )
  paths = sorted(map(str, tmp_path.iterdir()))
  done = subprocess.run(
    [sys.executable, "-c", program, *paths], cwd=ROOT, capture_output=True, text=True
  )
  assert done.returncode == 0, (done.returncode, done.stderr[-500:])
  got = dict(zip([pathlib.Path(p).name for p in paths], done.stdout.split()))
  six, level = round(16000 / 32768 / 6, 3), 16000 / 32768 / 8
  assert float(got.pop("sixteen.mov")) == pytest.approx(16000 / 32768 / 16, abs=1e-3)
  assert {k: float(v) for k, v in got.items() if k.endswith("mov")} == dict.fromkeys(
    [f"{name}.mov" for name in (*ORDERS, "own")], six
  )
  assert float(got["eight.webm"]) > 0  # a constant, of which Opus keeps little
  assert float(got["eight.mkv"]) == pytest.approx(level, abs=1e-3)
  # A constant is nothing that AAC keeps well.
  assert float(got["eight.mp4"]) == pytest.approx(level, abs=0.02)


def test_layouts_of_ffmpeg_have_no_map():
  own = (
    "mono",
    "stereo",
    "5.1",
    "5.1(side)",
    "7.1",
    "22.2",
    "hexadecagonal",
    "10 channels",
  )
  for name in own:
    assert not door._has_map(av.AudioLayout(name))
  for name in ("FR+FL", "FL+FC+FR+BL+BR+LFE", "FL+FL"):
    assert door._has_map(av.AudioLayout(name))
  assert not door._has_map(av.AudioLayout("FL+FR+FC+LFE+TC"))  # in order, but unnamed


# ---------------------------------------------------------------- threads at the end


def test_threads_are_through_before_the_interpreter_ends(tmp_path):
  """A thread that decodes without end stops when the program does."""
  path = film(tmp_path / "a.mp4", seconds=2, size=(320, 240))
  program = (
    "import sys, threading, time\n"
    "from ccl_jax.data.media.decode import read_clip\n"
    "from ccl_jax.data.spec import ClipSpec\n"
    "def work():\n"
    "  try:\n"
    "    while True: read_clip(sys.argv[1], ClipSpec(33, 64, 64, 25))\n"
    "  except SystemExit:\n"
    "    print('stopped', flush=True)\n"
    "for _ in range(3): threading.Thread(target=work, daemon=True).start()\n"
    "time.sleep(0.5)\n"
    "raise KeyboardInterrupt"
  )
  began = time.monotonic()
  done = subprocess.run(
    [sys.executable, "-c", program, path], cwd=ROOT, capture_output=True, text=True
  )
  assert done.stderr.strip().endswith("KeyboardInterrupt"), done.stderr[-500:]
  assert done.returncode in (1, 130, -2), done.returncode  # that of Ctrl-C
  assert "stopped" in done.stdout and time.monotonic() - began < 30


# ---------------------------------------------------------------------- AVI


@pytest.mark.parametrize(
  ("codec", "between"),
  [("mpeg4", 0), ("mpeg4", 2), ("libx264", 0), ("libx264", 2), ("mjpeg", 0)],
)
def test_frames_of_an_avi_are_shown_in_turn(tmp_path, codec, between):
  """Its packets have times of decoding alone: frame k is at k / 25 s, sought or not."""
  path, tick = tmp_path / "a.avi", fractions.Fraction(1, 25)
  with av.open(str(path), "w") as out:
    stream = out.add_stream(codec, rate=25, options={"bf": str(between)})
    stream.bit_rate = 4_000_000
    stream.width, stream.height = 64, 48
    stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
    stream.codec_context.time_base, stream.codec_context.gop_size = tick, 12
    for k in range(120):
      frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), 2 * k, np.uint8), "rgb24")
      frame.pts, frame.time_base = k, tick
      out.mux(stream.encode(frame))
    out.mux(stream.encode(None))
  for first in (0, 30, 90):
    video = media.read_video(path, ClipSpec(17, 48, 64, 25), first / 25)
    levels = video.mean((1, 2, 3)) / 2
    np.testing.assert_allclose(levels, first + np.arange(17), atol=0.9)
