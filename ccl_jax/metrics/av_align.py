"""AV-Align: do sounds begin where the picture's motion peaks?

  video peak : a local maximum of the mean length of the optical flow, at least 0.1
  audio peak : an onset
  AV-Align   = matches / (audio peaks + video peaks - matches)

A match is an audio peak and the first video peak within a frame's time of it that is
not yet matched. The flow is Farneback's between a frame and the one before (pyramid of
3 levels, 0.5; window 15; 3 iterations; neighbourhood 5, 1.2), in pixels of a picture
scaled to one size, for flow grows with the picture. The first frame's is the second's.

Yariv et al. (2023), arXiv 2309.16429. 0 is given where neither has a peak: read it
beside the counts.
"""

import concurrent.futures

import numpy as np
from jaxtyping import Float, UInt8

from ccl_jax.metrics.base import Unscorable
from ccl_jax.metrics.onsets import onset_times
from ccl_jax.metrics.packages import need

SHORT_SIDE = 256
LEAST_FLOW = 0.1  # pixels per frame


def flow_curve(
  video: UInt8[np.ndarray, "F H W 3"], short_side: int = SHORT_SIDE
) -> Float[np.ndarray, " F"]:
  """Mean length of each frame's optical flow, in pixels of the scaled picture.

  Args:
    video: RGB.
    short_side: pixels that the picture's shorter side is scaled to.

  Raises:
    Unscorable: fewer than two frames, or no OpenCV.
  """
  cv2 = need("cv2", "opencv-python-headless")
  if len(video) < 2:
    raise Unscorable(f"{len(video)} frames have no motion: two are the least")
  height, width = video.shape[1:3]
  scale = short_side / min(height, width)
  size = (round(width * scale), round(height * scale))

  def grey(frame):
    pixels = cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY)
    return cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)

  def length(before, after):
    flow = cv2.calcOpticalFlowFarneback(
      before,
      after,
      None,
      pyr_scale=0.5,
      levels=3,
      winsize=15,
      iterations=3,
      poly_n=5,
      poly_sigma=1.2,
      flags=0,
    )
    return np.hypot(flow[..., 0], flow[..., 1]).mean()

  # The flow is nearly all of this metric's cost, and OpenCV computes it on one core.
  with concurrent.futures.ThreadPoolExecutor() as pool:
    pictures = list(pool.map(grey, video))
    lengths = list(pool.map(length, pictures, pictures[1:]))
  return np.array([lengths[0], *lengths], np.float64)


def peak_times(
  curve: Float[np.ndarray, " F"], fps: float | int
) -> Float[np.ndarray, " k"]:
  """Local maxima of a flow curve that are high enough, in seconds."""
  inner = curve[1:-1]
  peaks = (inner > curve[:-2]) & (inner > curve[2:]) & (inner >= LEAST_FLOW)
  return (np.flatnonzero(peaks) + 1) / fps


def overlap(
  audio: Float[np.ndarray, " a"], video: Float[np.ndarray, " v"], fps: float | int
) -> float:
  """AV-Align of the times of audio and video peaks, in [0, 1]; 0 where there are none.

  Args:
    audio, video: seconds, ascending.
    fps: frames per second of the picture.
  """
  left, matches = list(video), 0
  for time in audio:
    # The first video peak within a frame's time that is not matched yet.
    close = next((v for v in left if abs(time - v) < 1 / fps), None)
    if close is not None:
      left.remove(close)
      matches += 1
  # Intersection over union of the peaks.
  return matches / max(len(audio) + len(video) - matches, 1)


def score(
  video: UInt8[np.ndarray, "F H W 3"],
  fps: float | int,
  wave: Float[np.ndarray, " n"],
  rate: int,
) -> dict[str, float | int]:
  """AV-Align of a clip, and how many peaks it rests on.

  Args:
    video: RGB.
    fps: frames per second.
    wave: mono; published numbers have it at 22050 Hz.
    rate: of the wave, in Hz.

  Raises:
    Unscorable: no motion or sound to find peaks in, or no OpenCV.
  """
  if not len(wave) or not np.isfinite(wave).all():
    raise Unscorable("the sound is empty, or not all numbers")
  seen, heard = peak_times(flow_curve(video), fps), onset_times(wave, rate)
  return {
    "av_align": overlap(heard, seen, fps),
    "audio_peaks": len(heard),
    "video_peaks": len(seen),
  }
