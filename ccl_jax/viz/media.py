"""Writes a clip as mp4, a sound as wav, a picture as png; every file appears whole."""

import contextlib
import fractions
import math
import os
import wave
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float32, UInt8

from ccl_jax.errors import UsageError
from ccl_jax.files import new_file
from ccl_jax.names import file_url

Path = str | os.PathLike
_PICTURE = {"crf": "14", "preset": "medium"}  # x264: visually lossless
_TICKS = 90_000  # per second, of frames at their own times
AAC_RATES = (
  *(96000, 88200, 64000, 48000, 44100, 32000, 24000, 22050, 16000, 12000, 11025),
  *(8000, 7350),
)
AAC_LAYOUTS = {1: "mono", 2: "stereo", 6: "5.1"}  # by the number of channels
# Per second, of two channels; AAC lowers it where the sample rate allows less.
_SOUND_BITS = 192_000


def write_mp4(
  path: Path,
  video: UInt8[np.ndarray, "F H W 3"],
  fps: float | int,
  audio: Float32[np.ndarray, "n"] | None = None,
  sample_rate: int = 16000,
) -> None:
  """Writes H.264 in BT.709 and mono AAC; frame 0 and sample 0 start together.

  An odd height or width repeats its last row or column, as the format has even sizes.

  Args:
    path: of the file.
    video: RGB.
    fps: frames per second.
    audio: mono, clipped to [-1, 1]; None: no sound.
    sample_rate: in Hz.

  Raises:
    UsageError: PyAV has no libx264.
  """
  rate = fractions.Fraction(fps).limit_denominator(1001)
  with _new_mp4(path) as out:
    picture = _add_picture(out, video.shape[1:3], rate)
    sound = None if audio is None else _add_sound(out, sample_rate, 1)
    for k, pixels in enumerate(video):
      out.mux(picture.encode(_frame(pixels, picture, k, 1 / rate)))
    out.mux(picture.encode(None))
    if sound is not None:
      _encode_sound(out, sound, audio[None], sample_rate)


def write_timed(
  path: Path, frames: Iterable[tuple[float, UInt8[np.ndarray, "H W 3"]]]
) -> None:
  """Writes frames of a film at their own times: H.264 as of `write_mp4`, no sound.

  Args:
    path: of the file.
    frames: (seconds, RGB) in order; one at least.

  Raises:
    UsageError: PyAV has no libx264.
  """
  picture = None
  with _new_mp4(path) as out:
    for at, pixels in frames:
      if picture is None:
        # The rate is a guess that the encoder wants; times are as told.
        picture = _add_picture(out, pixels.shape[:2], fractions.Fraction(25))
        picture.codec_context.time_base = 1 / fractions.Fraction(_TICKS)
      base = 1 / fractions.Fraction(_TICKS)
      out.mux(picture.encode(_frame(pixels, picture, round(at * _TICKS), base)))
    out.mux(picture.encode(None))


def write_sound(
  path: Path, audio: Float32[np.ndarray, "c n"], sample_rate: int
) -> None:
  """Writes AAC in an mp4 without a picture.

  Args:
    path: of the file.
    audio: of as many channels as `AAC_LAYOUTS` names, clipped to [-1, 1].
    sample_rate: in Hz, one of `AAC_RATES`.
  """
  with _new_mp4(path) as out:
    sound = _add_sound(out, sample_rate, len(audio))
    _encode_sound(out, sound, audio, sample_rate)


@contextlib.contextmanager
def _new_mp4(path: Path) -> Iterator[Any]:
  import av

  options = {"movflags": "faststart"}
  with (
    new_file(path) as partial,
    av.open(file_url(partial), "w", format="mp4", options=options) as out,
  ):
    yield out


def _add_picture(out, size: Sequence[int], rate: fractions.Fraction):
  import av

  try:
    av.codec.Codec("libx264", "w")
  except av.codec.codec.UnknownCodecError as e:
    raise UsageError(
      "this build of PyAV has no libx264 to write mp4 files: install the wheel of "
      "`av` from its package index"
    ) from e
  height, width = (side + side % 2 for side in size)
  picture = out.add_stream("libx264", rate=rate, options=_PICTURE)
  picture.width, picture.height, picture.pix_fmt = width, height, "yuv420p"
  context = picture.codec_context
  context.colorspace = context.color_primaries = context.color_trc = 1  # BT.709
  context.color_range = 1  # 16 to 235
  return picture


def _add_sound(out, sample_rate: int, channels: int):
  sound = out.add_stream("aac", rate=sample_rate, layout=AAC_LAYOUTS[channels])
  sound.bit_rate = _SOUND_BITS * math.ceil(channels / 2)
  return sound


def _frame(pixels, picture, pts: int, base: fractions.Fraction):
  import av

  height, width = picture.height, picture.width
  pad = [(0, height - pixels.shape[0]), (0, width - pixels.shape[1]), (0, 0)]
  frame = av.VideoFrame.from_ndarray(np.pad(pixels, pad, "edge"), "rgb24")
  frame = frame.reformat(
    format="yuv420p",
    dst_colorspace="ITU709",
    dst_color_range="MPEG",
    interpolation="BICUBIC",
  )
  frame.pts, frame.time_base = pts, base
  return frame


def _encode_sound(out, sound, audio, sample_rate: int) -> None:
  import av

  samples = np.ascontiguousarray(np.clip(audio, -1, 1).astype(np.float32))
  layout = AAC_LAYOUTS[len(samples)]
  frame = av.AudioFrame.from_ndarray(samples, "fltp", layout)
  frame.sample_rate, frame.pts = sample_rate, 0
  out.mux(sound.encode(frame))
  out.mux(sound.encode(None))


def write_wav(
  path: Path, audio: Float32[np.ndarray, "n"], sample_rate: int = 16000
) -> None:
  """Writes 16-bit mono sound at `sample_rate` Hz; beyond [-1, 1] it is clipped."""
  samples = np.round(np.clip(audio, -1, 1) * 32767).astype("<i2")
  with new_file(path) as partial, wave.open(str(partial), "wb") as out:
    out.setnchannels(1)
    out.setsampwidth(2)
    out.setframerate(sample_rate)
    out.writeframes(samples.tobytes())


def write_samples(
  path: Path, audio: Float32[np.ndarray, "n"], sample_rate: int
) -> None:
  """Writes mono sound as a wav file of 32-bit floats: nothing is rounded or clipped."""
  import av

  with new_file(path) as partial, av.open(file_url(partial), "w", format="wav") as out:
    sound = out.add_stream("pcm_f32le", rate=sample_rate, layout="mono")
    frame = av.AudioFrame.from_ndarray(audio[None], "flt", "mono")
    frame.sample_rate, frame.pts = sample_rate, 0
    out.mux(sound.encode(frame))
    out.mux(sound.encode(None))


def write_lossless(
  path: Path, video: UInt8[np.ndarray, "F H W 3"], fps: float | int
) -> None:
  """Writes RGB pictures as they are: FFV1 in a Matroska file.

  Args:
    path: of the file.
    video: of any size.
    fps: frames per second.
  """
  import av

  rate = fractions.Fraction(fps).limit_denominator(1001)
  with (
    new_file(path) as partial,
    av.open(file_url(partial), "w", format="matroska") as out,
  ):
    picture = out.add_stream("ffv1", rate=rate)
    picture.height, picture.width, picture.pix_fmt = *video.shape[1:3], "bgr0"
    for k, pixels in enumerate(video):
      frame = av.VideoFrame.from_ndarray(pixels, "rgb24").reformat(format="bgr0")
      frame.pts, frame.time_base = k, 1 / rate
      out.mux(picture.encode(frame))
    out.mux(picture.encode(None))


def write_png(path: Path, image: UInt8[np.ndarray, "H W 3"]) -> None:
  """Writes an RGB picture as a PNG file."""
  from PIL import Image

  with new_file(path) as partial:
    Image.fromarray(image).save(partial, format="png")
