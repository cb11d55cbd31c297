"""Motion against loudness, on films whose synchrony is known."""

import numpy as np

from ccl_jax.metrics.films import film_scores, motion_curve

FPS = 25.0


def film(seed: int, delay: float = 0.0):
  """A noisy picture that changes `delay` seconds after its sound is on."""
  rng = np.random.default_rng(seed)
  time = np.arange(65) / FPS
  on = np.zeros(2600)  # per millisecond
  for onset in rng.uniform(0.1, 2.3, 5):
    on[int(1000 * onset) : int(1000 * onset) + 120] = 1
  at = lambda t: np.interp(t, np.arange(2600) / 1000, on)
  strength = at(time - delay)[:, None, None, None]
  video = 128 + 60 * strength * rng.standard_normal((65, 16, 16, 3))
  audio = at(np.arange(41472) / 16000) * rng.standard_normal(41472) * 0.2
  return {"video": video.clip(0, 255).astype(np.uint8), "audio": audio}


def test_own_sound_beats_others():
  scores = film_scores([film(i) for i in range(12)], FPS)
  assert scores["given"]["sync_r0"]["mean"] > 0.6
  assert abs(scores["chance"]["sync_r0"]["mean"]) < 0.15


def test_a_late_picture_is_an_early_sound():
  scores = film_scores([film(i, 0.16) for i in range(12)], FPS)["given"]
  assert -220 < scores["sync_lag_ms"]["mean"] < -100


def test_still_and_silent_films_score_zero():
  still = {"video": np.full((9, 8, 8, 3), 7, np.uint8), "audio": np.zeros(5632)}
  assert np.isfinite(motion_curve(still["video"])).all()
  scores = film_scores([still, still], FPS)
  assert scores["given"]["sync_r0"]["mean"] == 0
  assert "sync_r0" not in film_scores([still], FPS)["chance"]
