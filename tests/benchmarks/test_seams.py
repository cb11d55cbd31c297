"""What is measured where parts of a clip meet, of clips made by hand."""

import numpy as np
import pytest

from ccl_jax.benchmarks.seams import Clip, insides, seams, span_at, steps_at


def clip(video, audio, joins):
  return Clip(video.astype(np.uint8), audio.astype(np.float32), "red", joins)


def test_steps_by_hand():
  """Four frames of 100 before, four of 130, and a fifth of 0 that does not count; a
  tone of 0.1, then one twice as loud: 6.02 dB.
  """
  levels = np.array([0, 100, 100, 100, 100, 130, 130, 130, 130, 0])
  video = levels[:, None, None, None] * np.ones((4, 4, 3))
  audio = np.concatenate([np.full(5 * 640, 0.1), np.full(5 * 640, 0.2)])
  got = steps_at(clip(video, audio, [5]), 5, 25.0)
  assert got["colour"] == got["picture"] == 30
  assert got["level dB"] == pytest.approx(20 * np.log10(2), abs=1e-4)
  silent = steps_at(clip(video, 0 * audio, [5]), 5, 25.0)
  assert silent["level dB"] == 0
  one = steps_at(clip(video, np.concatenate([0 * audio[:3200], audio[3200:]]), [5]), 5,
                 25.0)  # fmt: skip
  assert one["level dB"] == pytest.approx(20 * np.log10(0.2 / 1e-3), abs=1e-3)


def test_insides_are_half_way_and_as_far_from_a_latents_beginning():
  assert insides([32, 64], 97) == [16, 48, 80]
  assert insides([25, 41], 65) == [13, 33, 53]
  assert all((x - 25) % 4 == 0 for x in insides([25, 41], 65))


def talking(late, frames=66, fps=25.0):
  """A red face whose mouth opens with a red voice that comes `late` s after."""
  t = np.arange(frames) / fps
  opening = np.maximum(np.sin(2 * np.pi * 2.3 * t + np.sin(5 * t)), 0)
  y, x = np.mgrid[:32, :32]
  face = (x - 16) ** 2 + (y - 16) ** 2 < 100
  video = np.where(face[..., None], [220, 20, 20], 90) * np.ones((frames, 1, 1, 1))
  mouth = (abs(x - 16) < 5) & (abs(y - 20) < 3)
  video[:, mouth] *= (1 - opening)[:, None, None]
  n = int(frames / fps * 16000)
  at = np.arange(n) / 16000
  level = np.interp(at - late, t, opening)
  voice = sum(np.sin(2 * np.pi * 130 * k * at) for k in range(2, 12)) / 10
  return clip(video, 0.5 * level * voice, [33])


@pytest.mark.parametrize("late", [0.0, 0.08, -0.12])
def test_a_lag_of_all_spans(late):
  clips = [talking(late)]
  got = seams(clips, 33, 25.0)
  for where in ("join", "inside"):
    assert got[f"lag ms {where}"] == pytest.approx(1000 * late, abs=25)
  assert got["r0 join"] == pytest.approx(got["r0 inside"], abs=0.3)
  assert span_at(clips[0], 10, 33, 25.0) is None  # the clip does not reach
  assert span_at(clips[0], 16, 33, 25.0) is not None


def test_a_join_beside_insides():
  """The second half is brighter by 40 and drifts nowhere else."""
  video = np.full((97, 8, 8, 3), 80.0)
  video[48:] += 40
  got = seams([clip(video, np.zeros(97 * 640), [48])], 33, 25.0)
  assert got["colour join"] == 40 and got["colour inside"] == 0
  assert got["picture join"] == 40 and got["drift"] == 40
  assert "lag ms join" not in got  # there is no face
