"""Which steps are saved, by steps and by the minutes of a clock that is made up."""

import itertools

import pytest

from ccl_jax.training.saves import Saves


class Clock:
  """Seconds, moved by hand."""

  now = 1000.0

  def __call__(self):
    return self.now


def run(minutes, seconds_of, steps, first=0, every=500):
  """(steps that were saved, the times, how often the clock was asked)."""
  clock = Clock()
  saving = Saves(every, minutes, first, clock)
  decide, asked, found = saving._decide, [], []
  saving._decide = lambda step: asked.append(step) or decide(step)
  for step in range(first, first + steps):
    if saving.due(step):
      found.append((step, clock.now - 1000))
    clock.now += seconds_of(step)
  return [s for s, _ in found], [t for _, t in found], len(asked)


def test_every_so_many_steps():
  assert run(0, lambda _: 9.0, 13, every=4)[0] == [4, 8, 12]
  assert run(0, lambda _: 9.0, 9, first=4, every=4)[0] == [8, 12]


def test_every_so_many_minutes():
  found, times, asked = run(10, lambda _: 20.0, 1000)
  assert found == [30 * k for k in range(1, 34)]
  assert asked < 12 * len(found)  # and not 30 times
  # Half a step is as near as it comes: 47 s a step, so after 13 steps, 611 s.
  found, times, _ = run(10, lambda _: 47.0, 200, first=7)
  assert found[:3] == [20, 33, 46] and times[0] == 13 * 47


def test_the_first_step_is_compiled():
  """It took half an hour, which is no pace: saved at once, then every ten minutes."""
  found, times, _ = run(10, lambda step: 1800.0 if step == 0 else 2.0, 2000)
  assert found[0] == 1
  gaps = [b - a for a, b in itertools.pairwise(times)]
  assert gaps == pytest.approx([600] * len(gaps), abs=200) and gaps[-1] == 600


def test_paces_that_change():
  _, times, _ = run(5, lambda step: 1.0 if step < 900 else 10.0, 1500)
  gaps = [b - a for a, b in zip([0, *times], times)]
  assert gaps[:2] == pytest.approx([300, 300], abs=2)
  # A question is at most a tenth of a save ahead: 30 steps, which then take 300 s.
  assert max(gaps) <= 600 and gaps[-10:] == pytest.approx([300] * 10, abs=10)


def test_a_clock_that_stands_still_saves_nothing():
  assert run(10, lambda _: 0.0, 100)[0] == []
