"""Sync-C and Sync-D: how sure SyncNet is that lips and sound are in step.

  faces   S3FD on every frame, followed through the clip (metrics/face_tracks.py)
  v_t     SyncNet of frames t .. t + 4 of a face      t < n - 5
  a_t     SyncNet of MFCC rows 4 t .. 4 t + 19        0.2 s from the same instant
  D_j     mean_t |v_t - a_{t + j - 15} + 1e-6|        j = 0 .. 30, a = 0 past its ends

  Sync-D = min D     Sync-C = median D - min D     offset = 15 - argmin D  (frames)

with n frames at 25 per second that have sound as well. Higher C and lower D are better.
A clip's scores are those of the face with the largest C - D, so that a bystander does
not count; all faces are in the result. The steps and constants are syncnet_python's
(equal to LSE-C and LSE-D of Wav2Lip), which writes and reads each face as compressed
video in between. Here nothing is compressed, so published numbers differ a little.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Float, Float32, Int16, UInt8

from ccl_jax.errors import UsageError
from ccl_jax.metrics.base import Unscorable
from ccl_jax.metrics.face_detection import Boxes, find_faces
from ccl_jax.metrics.face_tracks import Track, crop_track, find_tracks
from ccl_jax.metrics.mfcc import RATE, mfcc
from ccl_jax.models.scorers.s3fd import S3FD
from ccl_jax.models.scorers.syncnet import FRAMES, ROWS, SyncNet

FPS = 25
SAMPLES = RATE // FPS  # per frame
SHORTEST = FRAMES + 1  # one window; the reference leaves the last of n - 4 out
EPS = 1e-6

embed_lips = jax.jit(SyncNet.lips_of)
embed_sound = jax.jit(SyncNet.sound)


@dataclasses.dataclass(frozen=True)
class SyncProtocol:
  """The settings that a score depends on; references differ in `min_track`.

  Attributes:
    scale: of the frames that the detector sees.
    confidence: probability that a face must exceed.
    min_track: frames; a face must be seen in more.
    max_gap: frames from one detection of a face to the next, at most.
    min_face_size: pixels; a face must be larger.
    vshift: frames that sound is shifted by, at most, either way.

  Raises:
    UsageError: a value out of range.
  """

  scale: float | int = 0.25
  confidence: float = 0.9
  min_track: int = 50
  max_gap: int = 25
  min_face_size: float | int = 100
  vshift: int = 15

  def __post_init__(self):
    if not 0 < self.scale <= 1:
      raise UsageError(f"scale is {self.scale}; expected more than 0, 1 at most")
    # Medians of 13 frames with zeros past the ends need 7 that are none.
    if self.min_track < SHORTEST:
      raise UsageError(f"min_track is {self.min_track}; expected {SHORTEST} at least")
    if self.vshift < 1:
      raise UsageError(f"vshift is {self.vshift}; expected 1 at least")


class SyncNets(NamedTuple):
  """The two networks of the score, with their parameters."""

  detector: S3FD
  syncnet: SyncNet


def score(
  frames: UInt8[np.ndarray, "F H W 3"],
  wave: Int16[np.ndarray, " n"],
  nets: SyncNets,
  protocol: SyncProtocol = SyncProtocol(),
) -> dict[str, Any]:
  """The scores of a clip that is one shot; see `score_faces`.

  Args:
    frames: RGB at 25 per second.
    wave: mono at 16 kHz, at the scale of int16.
    nets: detector and SyncNet.
    protocol: settings.

  Raises:
    Unscorable: the clip is too short, or has no face that is large and long enough.
  """
  _check_length(len(frames), len(wave))
  faces = find_faces(
    nets.detector, frames, factor=protocol.scale, confidence=protocol.confidence
  )
  return score_faces(frames, wave, faces, nets.syncnet, protocol)


def score_faces(
  frames: UInt8[np.ndarray, "F H W 3"],
  wave: Int16[np.ndarray, " n"],
  faces: Sequence[Boxes],
  syncnet: SyncNet,
  protocol: SyncProtocol = SyncProtocol(),
) -> dict[str, Any]:
  """The scores of a clip whose faces are known.

  Args:
    frames, wave, protocol: see `score`.
    faces: boxes in pixels by frame.
    syncnet: the network.

  Returns:
    sync_c, sync_d and offset of the best track; tracks, every track's record;
    face_rate, the share of frames with a face; and the protocol.

  Raises:
    Unscorable: as for `score`.
  """
  _check_length(len(frames), len(wave))
  tracks = find_tracks(
    faces,
    min_track=protocol.min_track,
    min_face_size=protocol.min_face_size,
    max_gap=protocol.max_gap,
  )
  heard = [t for t in tracks if len(_sound_of(t, wave)) >= SHORTEST * SAMPLES]
  if not heard:
    raise Unscorable("the sound ends before the first face that counts")
  records = [_score_track(frames, wave, t, syncnet, protocol.vshift) for t in heard]
  # The surest speaker counts, not a bystander.
  best = max(records, key=lambda r: r["sync_c"] - r["sync_d"])
  return {
    **{name: best[name] for name in ("sync_c", "sync_d", "offset")},
    "tracks": records,
    "face_rate": sum(len(boxes) > 0 for boxes in faces) / len(faces),
    "protocol": dataclasses.asdict(protocol),
  }


def _check_length(frames: int, samples: int) -> None:
  if min(frames, samples // SAMPLES) < SHORTEST:
    raise Unscorable(
      f"too short: {frames} frames and {samples // SAMPLES} of sound, expected "
      f"{SHORTEST} at least"
    )


def _sound_of(track: Track, wave: Int16[np.ndarray, " n"]) -> Int16[np.ndarray, " m"]:
  return wave[track.frames[0] * SAMPLES : (track.frames[-1] + 1) * SAMPLES]


def _score_track(frames, wave, track: Track, syncnet, vshift: int) -> dict[str, Any]:
  lips, sounds = embeddings(crop_track(frames, track), _sound_of(track, wave), syncnet)
  return {
    **synchrony(mean_distances(lips, sounds, vshift)),
    "first_frame": int(track.frames[0]),
    "last_frame": int(track.frames[-1]),
    "seen": track.seen,
    "windows": len(lips),
    "face_size": track.size,
  }


def embeddings(
  crops: UInt8[np.ndarray, "F h w 3"],
  wave: Int16[np.ndarray, " m"],
  syncnet: SyncNet,
  batch: int = 16,
) -> tuple[Float32[np.ndarray, "t e"], Float32[np.ndarray, "t e"]]:
  """The v_t and a_t of a face and its sound, which begin together.

  Args:
    crops: pictures of the face.
    wave: its sound.
    syncnet: the network.
    batch: windows at a time; the last are filled up, so that all compile once.
  """
  # The reference leaves out the last of the n - 4 windows.
  count = min(len(crops), len(wave) // SAMPLES) - FRAMES
  lips = lambda frames: embed_lips(syncnet, frames)
  sound = lambda windows: embed_sound(syncnet, windows)
  v = in_batches(lips, crops[: count + FRAMES - 1], batch, FRAMES)
  return v, in_batches(sound, mfcc_windows(wave, count), batch)


def mfcc_windows(
  wave: Int16[np.ndarray, " n"], count: int
) -> Float32[np.ndarray, "t 13 20"]:
  """Cepstra of the first `count` windows of 20 rows, one frame apart."""
  rows = np.lib.stride_tricks.sliding_window_view(mfcc(wave), ROWS, 0)
  # 20 rows of 10 ms span 5 frames: 4 rows a frame.
  return rows[:: ROWS // FRAMES][:count].astype(np.float32)


def in_batches(
  function: Callable, x: np.ndarray, batch: int, window: int = 1
) -> np.ndarray:
  """A function of `window` consecutive items of x, at each place of x.

  Args:
    function: of batch + window - 1 items, to `batch` results.
    x: items on its first axis; the last call is filled up with zeros.
    batch: results of a call.
    window: items of a result.
  """
  count, size = len(x) - window + 1, batch + window - 1
  outputs = []
  for i in range(0, count, batch):
    part = x[i : i + size]
    padding = [(0, size - len(part))] + [(0, 0)] * (x.ndim - 1)
    outputs.append(function(np.pad(part, padding)))
  return np.concatenate([np.asarray(out) for out in outputs])[:count]


def mean_distances(
  lips: Float[np.ndarray, "t e"], sounds: Float[np.ndarray, "t e"], vshift: int
) -> Float[np.ndarray, " shifts"]:
  """D of 2 vshift + 1 shifts: of v_t from a_{t - vshift} to a_{t + vshift}."""
  padded = np.pad(sounds.astype(np.float64), ((vshift, vshift), (0, 0)))
  # a_{t + j - vshift}, 0 past both ends.
  shifted = (padded[j : j + len(lips)] for j in range(2 * vshift + 1))
  return np.array([np.linalg.norm(lips - a + EPS, axis=1).mean() for a in shifted])


def synchrony(curve: Float[np.ndarray, " shifts"]) -> dict[str, Any]:
  """The scores of a curve D; a positive offset is sound that comes too early."""
  # Sync-C = median D - min D, Sync-D = min D.
  best = int(curve.argmin())
  return {
    "sync_c": float(np.median(curve) - curve[best]),
    "sync_d": float(curve[best]),
    "offset": len(curve) // 2 - best,
  }
