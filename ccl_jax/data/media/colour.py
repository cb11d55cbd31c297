"""The colours of a decoded frame as 8-bit RGB for a screen of BT.709.

matrix     as the file says; untagged, BT.709 from 1280 x 720 on and BT.601 below
range      as the file says; untagged, 16 to 235
PQ, HLG    tone-mapped: diffuse white (203 cd/m2) comes to 239 of 255, what is brighter
           is compressed into the rest; HLG is shown at 1000 cd/m2 (BT.2100)
BT.2020,   their colours are brought to BT.709's and clipped; PQ and HLG without a word
Display P3 of their primaries have those of BT.2020
alpha      on white
"""

import functools

import av
import numpy as np
from av.video.reformatter import VideoReformatter
from jaxtyping import Float32, UInt8, UInt16

from ccl_jax.data.media.door import MediaError

_MATRICES = {0, 1, 2, 4, 5, 6, 7, 9}  # of ITU-T H.273, those that swscale has
_UNTAGGED, _BT2020, _P3, _PQ, _HLG = 2, 9, 12, 16, 18
# Transfers of light that no screen's gamma is near: their greys would be others.
_NO_GAMMA = {8: "linear", 9: "logarithmic", 10: "logarithmic", 17: "SMPTE ST 428-1"}
_WHITE = 203.0  # cd/m2 of diffuse white, BT.2408
_PEAK = 1000.0  # cd/m2 of a screen that shows HLG
_GAMMA = 2.4  # of a screen, BT.1886
_KNEE = 0.6  # of diffuse white: what is brighter is compressed
# Linear light to BT.709, by primaries: from BT.2020 (BT.2087), and from Display P3, by
# the same rule from the primaries of SMPTE EG 432-1; white stays white.
_TO_BT709 = {
  _BT2020: np.float32(
    [
      [1.66049, -0.58764, -0.07285],
      [-0.12455, 1.1329, -0.00835],
      [-0.01815, -0.10058, 1.11873],
    ]
  ),
  _P3: np.float32(
    [
      [1.22494, -0.22494, 0],
      [-0.04206, 1.04206, 0],
      [-0.01964, -0.07864, 1.09827],
    ]
  ),
}
_LUMA = np.float32([0.2627, 0.678, 0.0593])  # of BT.2020


def check_colours(frame, name: str) -> None:
  """Checks that the colours of a frame can be read.

  Raises:
    MediaError: they are of a system that swscale does not have, such as ICtCp, or of
      linear or logarithmic light.
  """
  if frame.color_trc in _NO_GAMMA:
    raise MediaError(
      f"{name}: its light is {_NO_GAMMA[frame.color_trc]} (transfer {frame.color_trc} "
      "of ITU-T H.273), which cannot be read: make a film of BT.709, PQ or HLG of it"
    )
  if frame.colorspace not in _MATRICES:
    raise MediaError(
      f"{name}: its colours are of matrix {frame.colorspace} (ITU-T H.273), which "
      "cannot be read"
    )


def rgb_of(
  frame, width: int, height: int, scaler, interpolation: str | None = None
) -> UInt8[np.ndarray, "height width 3"]:
  """A frame's pixels, scaled to a size.

  Args:
    frame, scaler: of PyAV.
    width, height: in pixels.
    interpolation: of `av.video.reformatter`; None: bilinear.
  """
  hd = frame.width >= 1280 or frame.height >= 720
  matrix = "ITU709" if hd and frame.colorspace == _UNTAGGED else None
  transfer, primaries = frame.color_trc, frame.color_primaries
  if transfer in (_PQ, _HLG) and primaries == _UNTAGGED:
    primaries = _BT2020
  wide = transfer in (_PQ, _HLG) or primaries in _TO_BT709
  if any(part.is_alpha for part in frame.format.components) or frame.format.has_palette:
    frame, matrix = _on_white(frame, matrix), None
  pixels = scaler.reformat(
    frame,
    width,
    height,
    "rgb48le" if wide else "rgb24",
    interpolation=interpolation,
    src_colorspace=matrix,
  ).to_ndarray()
  return to_screen(pixels, transfer, primaries) if wide else pixels


def _on_white(frame, matrix: str | None) -> av.VideoFrame:
  """A frame with transparency, before it is scaled: what is hidden never shows."""
  from_yuv = VideoReformatter().reformat(
    frame, format="rgba64le", src_colorspace=matrix
  )
  rgba = from_yuv.to_ndarray().astype(np.float32)
  shown = 65535 + (rgba[..., :3] - 65535) * (rgba[..., 3:] / 65535)
  return av.VideoFrame.from_ndarray(np.uint16(np.round(shown)), "rgb48le")


def to_screen(
  pixels: UInt16[np.ndarray, "h w 3"], transfer: int, primaries: int = _BT2020
) -> UInt8[np.ndarray, "h w 3"]:
  """R'G'B' as it looks on a screen of BT.709.

  Args:
    pixels: of 16 bits.
    transfer: characteristics by ITU-T H.273; 16 is PQ, 18 HLG, and any other the
      gamma of a screen.
    primaries: by the same; 9 are BT.2020's, 12 Display P3's, and any other are taken
      for BT.709's.
  """
  light = _light(transfer)[pixels]  # 1: diffuse white
  if transfer == _HLG:
    # The system's gamma of 1.2: what the scene had becomes what a screen shows.
    scene = np.maximum(light @ _LUMA, 1e-6)
    light = light * (_PEAK / _WHITE * scene**0.2)[..., None]
  if primaries in _TO_BT709:
    light = np.maximum(light @ _TO_BT709[primaries].T, 0)
  if transfer in (_PQ, _HLG):
    # The brightest of three is compressed and the others with it: hues stay.
    top = light.max(-1, keepdims=True)
    over = np.maximum(top - _KNEE, 0) / (1 - _KNEE)
    mapped = np.where(top > _KNEE, 1 - (1 - _KNEE) * np.exp(-over), top)
    light = light * (mapped / np.maximum(top, 1e-6))
  code = np.minimum(light, 1) ** np.float32(1 / _GAMMA)
  return np.floor(255 * code + 0.5).astype(np.uint8)


@functools.cache
def _light(transfer: int) -> Float32[np.ndarray, "65536"]:
  """The light of every 16-bit code: of a screen, 1 for diffuse white; HLG: of the
  scene, from 0 to 1.
  """
  code = np.arange(65536) / 65535
  if transfer == _PQ:  # BT.2100, table 4
    p = code ** (32 / 2523)
    top = np.maximum(p - 3424 / 4096, 0)
    light = (top / (2413 / 128 - 2392 / 128 * p)) ** (16384 / 2610)
    return (10000 / _WHITE * light).astype(np.float32)
  if transfer == _HLG:  # BT.2100, table 5
    a = 0.17883277
    b, c = 1 - 4 * a, 0.5 - a * np.log(4 * a)
    return np.where(code <= 0.5, code**2 / 3, (np.exp((code - c) / a) + b) / 12).astype(
      np.float32
    )
  return (code**_GAMMA).astype(np.float32)
