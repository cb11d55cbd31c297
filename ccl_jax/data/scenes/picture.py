"""The picture of a talking scene: faces with moving mouths, a ball, a background.

Every shape is a signed distance d to its outline turned into a coverage
clip(1/2 - d, 0, 1), d in pixels, so that edges are smooth and move by fractions of a
pixel. Frame k is the state at time k / fps. Places are in fractions of the frame's
width and height, y downwards; lengths in fractions of its shorter side.
"""

import colorsys
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Float32

from ccl_jax.data.scenes.voice import HUES, Syllable, envelope
from ccl_jax.data.spec import ClipSpec

GRAVITY, FLOOR = 5.0, 0.96  # frame heights per second squared; the ground's y
BALL_RADIUS = 0.11
INK = np.float32([0.12, 0.03, 0.06])  # mouths and pupils

Coverage = Float32[np.ndarray, "f H W"]  # f is F, or 1 for what does not move
Canvas = Float32[np.ndarray, "F H W 3"]


class Face(NamedTuple):
  """A face at (x, y) whose mouth follows the syllables."""

  hue: str
  place: str
  x: float
  y: float
  radius: float
  syllables: list[Syllable]


class Ball(NamedTuple):
  """A ball at x that bounces: arcs (start time, height above the ground, speed
  upwards), of which all but the first start at a contact (time, speed of impact).
  """

  hue: str
  place: str
  x: float
  arcs: list[tuple[float, float, float]]
  contacts: list[tuple[float, float]]


def throw(rng: np.random.Generator, hue: str, place: str, x: float, seconds: float):
  """A ball that falls under gravity and loses speed at each contact."""
  height, speed = rng.uniform(0.2, 0.65), rng.uniform(-0.8, 0.8)
  keep = rng.uniform(0.8, 0.95)
  arcs, contacts = [(0.0, height, speed)], []
  impact = float(np.sqrt(speed**2 + 2 * GRAVITY * height))
  time = (speed + impact) / GRAVITY
  while time < seconds and impact > 0.6:  # slower flights are too short to see
    contacts.append((time, impact))
    impact *= keep
    arcs.append((time, 0.0, impact))
    time += 2 * impact / GRAVITY
  return Ball(hue, place, x, arcs, contacts)


def ball_height(ball: Ball, times: Float[np.ndarray, " F"]) -> Float[np.ndarray, " F"]:
  """Height of the ball's lowest point above the ground, in frame heights."""
  start, height, speed = np.array(ball.arcs).T
  arc = np.searchsorted(start, times, side="right") - 1
  since = times - start[arc]
  return np.maximum(height[arc] + speed[arc] * since - GRAVITY / 2 * since**2, 0)


def colour(hue: str) -> Float32[np.ndarray, "3"]:
  """Red, green and blue of a named hue, in [0, 1]."""
  return np.float32(colorsys.hsv_to_rgb(HUES[hue] / 360, 0.8, 0.95))


class Painter:
  """A canvas of F frames and the shapes that can be painted on it, back to front."""

  def __init__(self, spec: ClipSpec, canvas: Canvas):
    self.canvas = canvas
    self.height, self.width = spec.height, spec.width
    self.short = min(spec.height, spec.width)
    self.x = (np.arange(spec.width, dtype=np.float32) + 0.5)[None, None, :]
    self.y = (np.arange(spec.height, dtype=np.float32) + 0.5)[None, :, None]

  def ellipse(self, x, y, rx, ry) -> Coverage:
    """Coverage of ellipses with centres (x, y) and radii (rx, ry), one per frame."""
    x, y, rx, ry = (
      np.float32(np.reshape(v, (-1, 1, 1)))
      for v in (x * self.width, y * self.height, rx * self.short, ry * self.short)
    )
    u, v = (self.x - x) / rx, (self.y - y) / ry
    q = np.sqrt(u * u + v * v) + 1e-6
    steepness = np.sqrt((u / rx) ** 2 + (v / ry) ** 2) + 1e-6  # q times |grad q|
    return np.clip(0.5 - (q - 1) * q / steepness, 0, 1)

  def box(self, x, y, side) -> Coverage:
    """Coverage of a square with this centre per frame."""
    x, y = (
      np.float32(np.reshape(v, (-1, 1, 1))) for v in (x * self.width, y * self.height)
    )
    d = np.maximum(abs(self.x - x), abs(self.y - y)) - np.float32(side * self.short / 2)
    return np.clip(0.5 - d, 0, 1)

  def paint(self, coverage: Coverage, colour: Float32[np.ndarray, "3"]):
    """Lays a colour over the canvas where the shape covers it."""
    rows = np.flatnonzero(coverage.any((0, 2)))
    columns = np.flatnonzero(coverage.any((0, 1)))
    if len(rows):
      part = np.s_[:, rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
      self.canvas[part] += coverage[part][..., None] * (colour - self.canvas[part])

  def face(self, face: Face, times: Float[np.ndarray, " F"]) -> Coverage:
    """Paints a face whose mouth is open by the voice's envelope; its coverage."""
    x, y, r = face.x, face.y, face.radius
    units = np.array([self.short / self.width, self.short / self.height]) * r
    head = self.ellipse(x, y, r, r)
    self.paint(head, colour(face.hue))
    for side in (-1, 1):
      eye = x + side * 0.4 * units[0], y - 0.42 * units[1]
      self.paint(self.ellipse(*eye, 0.2 * r, 0.2 * r), np.ones(3, np.float32))
      self.paint(self.ellipse(*eye, 0.1 * r, 0.1 * r), INK)
    self.paint(self.mouth(face, envelope(face.syllables, times)), INK)
    return head

  def mouth(self, face: Face, opening: Float[np.ndarray, " f"]) -> Coverage:
    """Coverage of a face's mouth, for openings from 0, shut, to 1."""
    y = face.y + 0.4 * face.radius * self.short / self.height
    rx, ry = 0.5 * face.radius, (0.05 + 0.43 * opening) * face.radius
    return self.ellipse(face.x, y, rx, ry)

  def ball(self, ball: Ball, times: Float[np.ndarray, " F"]) -> Coverage:
    """Paints a ball in flight; its coverage per frame."""
    y = FLOOR - BALL_RADIUS * self.short / self.height - ball_height(ball, times)
    disc = self.ellipse(ball.x, y, BALL_RADIUS, BALL_RADIUS)
    self.paint(disc, colour(ball.hue))
    return disc

  def square(self, rng: np.random.Generator, times: Float[np.ndarray, " F"]):
    """Paints a grey square that drifts on a straight line and turns at the edges."""
    start, velocity = rng.uniform(0, 1, (2, 2)), rng.uniform(-0.5, 0.5, (2, 2))
    x, y = 1 - abs((start[0] + np.outer(times, velocity[0])) % 2 - 1).T
    shade = np.full(3, rng.choice([0.1, 0.95]), np.float32)
    self.paint(self.box(x, y, rng.uniform(0.07, 0.13)), shade)


def texture(
  rng: np.random.Generator,
  spec: ClipSpec,
  times: Float[np.ndarray, " F"],
  contrast: float,
) -> Canvas:
  """A near-grey ground under three drifting waves, the empty canvas."""
  x, y = np.arange(spec.width) / spec.width, np.arange(spec.height) / spec.height
  waves = np.zeros((len(times), spec.height, spec.width), np.float32)
  for kx, ky, rate, phase in rng.uniform(-1, 1, (3, 4)):
    across = np.exp(2j * np.pi * 1.6 * kx * x).astype(np.complex64)
    along = 1.6 * ky * y + 0.8 * rate * times[:, None] + phase
    along = np.exp(2j * np.pi * along).astype(np.complex64)
    waves += (along[:, :, None] * across).imag
  ground = rng.uniform(0.35, 0.65) + rng.uniform(-0.04, 0.04, 3)
  tint = 1 + rng.uniform(-0.3, 0.3, 3)
  return np.float32(ground) + waves[..., None] * np.float32(contrast * tint)
