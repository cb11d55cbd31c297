"""The comparison runs, and compares the same network."""

import pytest

from ccl_jax.benchmarks import vocoder

SMALL = {"channels": 8, "rates": (2, 2), "kernels": (4, 4), "blocks": ((3, (1,)),)}


def test_ways_of_running_give_the_same_wave(capsys):
  pytest.importorskip("torch")
  pytest.importorskip("bigvgan")
  rows = vocoder.run(seconds=0.05, chunk=60, rounds=2, **SMALL)
  assert [row.name for row in rows] == ["torch", "whole", "chunks of 60"]
  assert rows[0].ratio == 1 and rows[0].difference == 0
  for row in rows:
    assert row.real_time_factor > 0 and row.difference < 1e-4
