"""Writes a clip as mp4, a sound as wav, a picture as png; every file appears whole."""

import fractions
import os
import wave

import numpy as np
from jaxtyping import Float32, UInt8

from ccl_jax.errors import UsageError
from ccl_jax.files import new_file

Path = str | os.PathLike
_PICTURE = {"crf": "14", "preset": "medium"}  # x264: visually lossless
_SOUND_BITS = 192_000  # per second; AAC lowers it where the sample rate allows less


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
  import av

  try:
    av.codec.Codec("libx264", "w")
  except av.codec.codec.UnknownCodecError as e:
    raise UsageError(
      "this build of PyAV has no libx264 to write mp4 files: install the wheel of "
      "`av` from its package index"
    ) from e
  height, width = (side + side % 2 for side in video.shape[1:3])
  rate = fractions.Fraction(fps).limit_denominator(1001)
  with (
    new_file(path) as partial,
    av.open(str(partial), "w", format="mp4", options={"movflags": "faststart"}) as out,
  ):
    picture = out.add_stream("libx264", rate=rate, options=_PICTURE)
    picture.width, picture.height, picture.pix_fmt = width, height, "yuv420p"
    context = picture.codec_context
    context.colorspace = context.color_primaries = context.color_trc = 1  # BT.709
    context.color_range = 1  # 16 to 235
    if audio is not None:
      sound = out.add_stream("aac", rate=sample_rate, layout="mono")
      sound.bit_rate = _SOUND_BITS
    for k, pixels in enumerate(video):
      pad = [(0, height - pixels.shape[0]), (0, width - pixels.shape[1]), (0, 0)]
      frame = av.VideoFrame.from_ndarray(np.pad(pixels, pad, "edge"), "rgb24")
      frame = frame.reformat(
        format="yuv420p",
        dst_colorspace="ITU709",
        dst_color_range="MPEG",
        interpolation="BICUBIC",
      )
      frame.pts, frame.time_base = k, 1 / rate
      out.mux(picture.encode(frame))
    out.mux(picture.encode(None))
    if audio is not None:
      frame = av.AudioFrame.from_ndarray(
        np.clip(audio, -1, 1)[None].astype(np.float32), "fltp", "mono"
      )
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

  with new_file(path) as partial, av.open(str(partial), "w", format="wav") as out:
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
  with new_file(path) as partial, av.open(str(partial), "w", format="matroska") as out:
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
