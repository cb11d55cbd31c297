"""The comparison runs, and compares the same network."""

import pytest

from tests.audio_codec import one_draw
from tests.flags.command import command

vocoder = command("bench vocoder").module


SMALL = {"channels": 8, "rates": (2, 2), "kernels": (4, 4), "blocks": ((3, (1,)),)}


def test_ways_of_running_give_the_same_wave(capsys, monkeypatch):
  monkeypatch.setattr(vocoder.audio_vae, "init_params", one_draw.init_params)
  pytest.importorskip("torch")
  pytest.importorskip("bigvgan")
  rows = vocoder.run(seconds=0.05, chunk=60, rounds=2, hidden=4, **SMALL)
  ours = ["whole", "chunks of 60"]
  assert [row.name for row in rows] == ["torch", *ours, "VAE encode", "VAE decode"]
  assert rows[0].ratio == 1 and rows[0].difference == 0
  assert all(row.real_time_factor > 0 and row.ratio > 0 for row in rows)
  assert all(row.difference < 1e-4 for row in rows[:3])
  assert all(row.difference is None for row in rows[3:])  # torch has no VAE here
