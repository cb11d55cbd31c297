"""Films, sounds and stills of every ending that is listed are read."""

import av
import numpy as np
import pytest
from PIL import Image

from ccl_jax.data.media.decode import MediaError, image_size, probe, read_audio
from ccl_jax.data.preparing.rows import Options
from ccl_jax.data.preparing.run import prepare
from ccl_jax.data.sources.folder import IMAGES, SOUNDS, SUFFIXES

# By ending: format, picture and sound of a film as others write them; None: no sound.
FILMS = {
  ".mp4": ("mp4", "libx264", "aac"), ".m4v": ("mp4", "libx264", "aac"),
  ".f4v": ("mp4", "libx264", "aac"), ".mov": ("mov", "libx264", "aac"),
  ".3gp": ("3gp", "libx264", "aac"), ".3g2": ("3g2", "libx264", "aac"),
  ".mkv": ("matroska", "libx264", "flac"), ".webm": ("webm", "libvpx-vp9", "libopus"),
  ".avi": ("avi", "mpeg4", "mp3"), ".ts": ("mpegts", "libx264", "aac"),
  ".mts": ("mpegts", "libx264", "ac3"), ".m2ts": ("mpegts", "libx264", "ac3"),
  ".mpg": ("mpeg", "mpeg2video", "mp2"), ".mpeg": ("mpeg", "mpeg1video", "mp2"),
  ".vob": ("vob", "mpeg2video", "ac3"), ".flv": ("flv", "flv1", "mp3"),
  ".wmv": ("asf", "wmv2", "wmav2"), ".asf": ("asf", "msmpeg4v3", "wmav2"),
  ".ogv": ("ogg", "libvpx", "libopus"), ".mxf": ("mxf", "mpeg2video", "pcm_s16le"),
  ".dv": ("dv", "dvvideo", "pcm_s16le"), ".gif": ("gif", "gif", None),
}  # fmt: skip
WAVES = {
  ".wav": ("wav", "pcm_s16le"), ".flac": ("flac", "flac"), ".mp3": ("mp3", "mp3"),
  ".m4a": ("mp4", "aac"), ".aac": ("adts", "aac"), ".ogg": ("ogg", "libopus"),
  ".opus": ("ogg", "libopus"), ".oga": ("ogg", "flac"), ".weba": ("webm", "libopus"),
  ".mka": ("matroska", "pcm_s16le"), ".wma": ("asf", "wmav2"),
  ".aif": ("aiff", "pcm_s16be"), ".aiff": ("aiff", "pcm_s16be"),
  ".caf": ("caf", "pcm_s16le"), ".amr": ("amr", "libopencore_amrnb"),
  ".ac3": ("ac3", "ac3"), ".eac3": ("eac3", "eac3"), ".mp2": ("mp2", "mp2"),
  ".wv": ("wv", "wavpack"), ".tta": ("tta", "tta"), ".au": ("au", "pcm_s16be"),
  ".w64": ("w64", "pcm_s16le"),
}  # fmt: skip
SECONDS, RATE = 0.8, 44100


def write(path, form, picture, sound):
  # DV has one size, and of a small picture a program stream has no end.
  sizes = {"dvvideo": (720, 576), "mpeg2video": (352, 288)}
  size = sizes.get(picture, (96, 64))
  with av.open(str(path), "w", format=form) as out:
    streams = []
    if picture:
      video = out.add_stream(picture, rate=25)
      video.width, video.height = size
      video.pix_fmt = {"gif": "rgb8"}.get(picture, "yuv420p")
      streams.append(video)
    if sound:
      exact = {"rate": 48000} if form in ("mxf", "dv") else {"rate": RATE}
      exact = {"rate": 8000} if sound == "libopencore_amrnb" else exact
      exact = {"rate": 48000} if sound == "libopus" else exact
      layout = "mono" if sound == "libopencore_amrnb" else "stereo"
      streams.append(out.add_stream(sound, layout=layout, **exact))
      streams[-1].bit_rate = 12_200 if layout == "mono" else 128_000
    packets = []
    if picture:
      for k in range(round(25 * SECONDS)):
        frame = av.VideoFrame.from_ndarray(
          np.full((size[1], size[0], 3), 4 * k, np.uint8), "rgb24"
        )
        packets += streams[0].encode(frame)
      packets += streams[0].encode(None)
    if sound:
      audio = streams[-1]
      time = np.arange(round(SECONDS * audio.rate)) / audio.rate
      wave = (8000 * np.sin(880 * np.pi * time)).astype(np.int16)
      channels = audio.codec_context.layout.nb_channels
      frame = av.AudioFrame.from_ndarray(
        np.repeat(wave, channels)[None], "s16", audio.codec_context.layout
      )
      frame.sample_rate, frame.pts = audio.rate, 0
      context = audio.codec_context
      fit = av.AudioResampler(
        context.format, context.layout, audio.rate, context.frame_size or None
      )
      for piece in (*fit.resample(frame), *fit.resample(None), None):
        packets += audio.encode(piece)
    at = lambda p: (p.dts is None, 0 if p.dts is None else p.dts * p.time_base)
    for packet in sorted(packets, key=at):
      out.mux(packet)
  return path


def test_every_ending_is_tried():
  assert FILMS.keys() == set(SUFFIXES) and WAVES.keys() == set(SOUNDS)


@pytest.mark.parametrize("ending", SUFFIXES)
def test_a_film_of_this_ending_is_read(one_by_one, tmp_path, ending):
  """In capitals too: it has its row, and its length."""
  form, picture, sound = FILMS[ending]
  (tmp_path / "films").mkdir()
  path = write(tmp_path / f"films/a{ending.upper()}", form, picture, sound)
  info = probe(path)
  assert (info.has_video, info.has_audio) == (True, sound is not None)
  done = prepare(tmp_path / "films", tmp_path / "t.jsonl", Options(shots=False))
  assert not done.skipped
  (row,) = done.rows
  assert row["file"] == path.name and row["seconds"] == pytest.approx(SECONDS, abs=0.2)
  assert ("silence" in row) == (sound is not None)


@pytest.mark.parametrize("ending", SOUNDS)
def test_a_sound_of_this_ending_is_read(tmp_path, ending):
  form, codec = WAVES[ending]
  path = write(tmp_path / f"a{ending.upper()}", form, None, codec)
  wave = read_audio(path)
  assert len(wave) / 16000 == pytest.approx(SECONDS, abs=0.15)
  # A sine of 8000 of 32768, which codecs change a little.
  assert np.abs(wave[2000:8000]).max() == pytest.approx(0.244, abs=0.1)


@pytest.mark.parametrize("ending", IMAGES)
def test_a_still_of_this_ending_is_read(tmp_path, ending):
  Image.new("RGB", (48, 32)).save(tmp_path / f"a{ending}")
  (tmp_path / f"a{ending}").rename(tmp_path / f"a{ending.upper()}")
  assert image_size(tmp_path / f"a{ending.upper()}") == (32, 48)
  (tmp_path / f"b{ending}").write_bytes(b"no picture")
  with pytest.raises(MediaError, match="not a readable image"):
    image_size(tmp_path / f"b{ending}")
