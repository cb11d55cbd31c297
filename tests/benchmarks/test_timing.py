"""Turns, medians and rates, by a clock that is known."""

import itertools
import json

import jax.numpy as jnp
import pytest

from ccl_jax.benchmarks import timing


@pytest.fixture
def clock(monkeypatch):
  """A clock that moves by what `durations` say between two looks."""
  now, ticks = [0.0], itertools.count()

  def look():
    now[0] += clock.durations[next(ticks) % len(clock.durations)]
    return now[0]

  clock.durations = [0.0, 0.5]
  monkeypatch.setattr(timing.time, "perf_counter", look)
  return clock


def test_programs_take_turns_after_one_run_each(clock):
  ran, clock.durations = [], [9.0, 1.0, 9.0, 2.0]
  programs = {name: lambda name=name: ran.append(name) for name in "ab"}
  seconds = timing.in_turn(programs, 3)
  assert "".join(ran) == "ab" + 3 * "ab"
  assert seconds == {"a": [1.0] * 3, "b": [2.0] * 3}


def test_ratios_are_round_by_round():
  assert timing.ratios([4.0, 1.0, 9.0], [2.0, 4.0, 3.0]) == [0.25, 2.0, 3.0]
  assert timing.median([3.0, 1.0, 2.0]) == 2.0


def test_the_rate_of_a_product_is_two_n_cubed_by_the_fastest(clock):
  clock.durations = [9.0, 2.0, 9.0, 0.5]
  assert timing.matmul_rate(8, jnp.float32, rounds=2) == 2 * 8**3 / 0.5


def test_what_is_shown(capsys):
  rows = [{"what": "forward", "seconds": 0.5, "ratio": 2.0}]
  timing.show({"device": "x"}, rows)
  line, text = capsys.readouterr().out.splitlines()
  assert line == "forward, seconds 0.500, ratio 2.000"
  assert json.loads(text) == {"device": "x", "rows": rows}
