"""The doors of films, sounds, pictures and TFDS sets: files that were right, spoilt."""

import io
import json
import pathlib
import shutil

import av
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from ccl_jax.data.builders.folder import Folder
from ccl_jax.data.media import decode as media
from ccl_jax.data.sources import media_set, tfds_set
from ccl_jax.data.spec import ClipSpec
from ccl_jax.errors import UsageError
from ccl_jax.viz.media import write_wav
from tests.data.films import film
from tests.fuzz.frame import changed, fuzz, opens_or_refuses, spoilt

SPEC = ClipSpec(frames=5, height=32, width=48, fps=25)
FILMS = {
  "a.mp4": {"options": {"movflags": "faststart"}},
  "a.mkv": {"codecs": ("libvpx-vp9", "libopus")},
  "a.ts": {},
}
SOUNDS = {"a.wav": "pcm_s16le", "a.flac": "flac", "a.ogg": "libopus", "a.mp3": "mp3"}
STILLS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF")


def one_line(read):
  """The reader, its `MediaError` as the line that a user sees: it names the file."""

  def door(path):
    try:
      return read(path)
    except media.MediaError as e:
      assert path.name in str(e), e
      raise UsageError(str(e)) from e

  return door


def read_all(path):
  """As `data prepare`, `encode` and `eval` do; the first refusal is as good as any."""
  info = media.probe(path)
  if info.has_video:
    media.picture_size(path)
    media.read_video(path, SPEC)
  return info.has_audio and np.isfinite(media.read_audio(path)).all()


@pytest.fixture(scope="module")
def files(tmp_path_factory):
  """{name: bytes} of right files."""
  folder = tmp_path_factory.mktemp("right")
  for name, how in FILMS.items():
    film(folder / name, seconds=0.4, event=0.2, **how)
  for name, codec in SOUNDS.items():
    write_sound(folder / name, codec)
  return {path.name: path.read_bytes() for path in folder.iterdir()}


def write_sound(path, codec):
  wave = (8000 * np.sin(np.arange(14400) / 9)).astype(np.int16)
  with av.open(str(path), "w") as out:
    stream = out.add_stream(codec, rate=48000, layout="mono")
    form, size = stream.codec_context.format.name, stream.codec_context.frame_size
    frame = av.AudioFrame.from_ndarray(wave[None], "s16", "mono")
    frame.sample_rate, frame.pts = 48000, 0
    fit = av.AudioResampler(form, "mono", 48000, size or None)
    for piece in (*fit.resample(frame), *fit.resample(None), None):
      out.mux(stream.encode(piece))


@st.composite
def spoilt_head(draw, good, most=2000):
  """As `spoilt`, or with the damage in the first bytes, where headers are."""
  if draw(st.booleans()):
    return draw(spoilt(good))
  return draw(spoilt(good[:most])) + good[most:]


@pytest.mark.parametrize("name", [*FILMS, *SOUNDS])
def test_spoilt_films_and_sounds(files, name):
  @fuzz(40)
  @given(spoilt_head(files[name]))
  def spoil(data):
    opens_or_refuses(one_line(read_all), data, name)

  assert opens_or_refuses(one_line(read_all), files[name], name)
  spoil()


@pytest.mark.parametrize("form", STILLS)
def test_spoilt_pictures(form):
  out = io.BytesIO()
  pixels = np.arange(16 * 24 * 3, dtype=np.uint8).reshape(16, 24, 3)
  exif = Image.Exif()
  exif[274] = 6
  more = {"exif": exif} if form in ("PNG", "JPEG", "WEBP", "TIFF") else {}
  Image.fromarray(pixels).save(out, form, **more)
  good = out.getvalue()

  def read(path):
    media.image_size(path)
    return media.read_image(path, 16, 16).shape

  @fuzz(80)
  @given(spoilt_head(good, 64))
  def spoil(data):
    assert opens_or_refuses(one_line(read), data, "a.png") in (None, (16, 16, 3))

  assert opens_or_refuses(one_line(read), good, "a.png") == (16, 16, 3)
  spoil()


@pytest.mark.parametrize("name", ["a.mp4", "a.wav", "a.png"])
@fuzz(60)
@given(st.binary(max_size=60), st.sampled_from([b"", b"RIFF", b"\0\0\0\x20ftypisom",
  b"\x89PNG\r\n\x1a\n", b"II*\0", b"OggS", b"fLaC", b"\x1aE\xdf\xa3", b"GIF89a",
  b"#EXTM3U\n", b"ffconcat version 1.0\n", b"<svg", b"%!PS-Adobe"]))  # fmt: skip
def test_any_bytes(name, data, head):
  read = media.image_size if name.endswith("png") else read_all
  opens_or_refuses(one_line(read), head + data, name)


@pytest.fixture(scope="module")
def built(tmp_path_factory):
  root = tmp_path_factory.mktemp("media")
  write_wav(root / "a.wav", np.full(16000, 0.1, np.float32))
  return pathlib.Path(media_set.prepare(Folder, root, test_share=0).data_dir)


@pytest.mark.parametrize("name", ["dataset_info.json", "features.json", "record"])
def test_spoilt_tfds_sets(built, tmp_path, name):
  path = next(built.glob("*array_record*")) if name == "record" else built / name
  good = path.read_bytes()
  copy = pathlib.Path(shutil.copytree(built, tmp_path / "set"))

  def read(spoiled):
    (copy / path.name).write_bytes(spoiled.read_bytes())
    records = tfds_set.open_set(copy)
    return [rows[i] for rows in records.values() for i in range(len(rows))]

  @fuzz(25)
  @given(data=st.data())
  def spoil(data):
    if name == "record":
      content = data.draw(spoilt(good))
    else:
      content = json.dumps(data.draw(changed(json.loads(good)))).encode()
    opens_or_refuses(read, content, path.name)

  assert len(opens_or_refuses(read, good, path.name)) == 1
  spoil()
