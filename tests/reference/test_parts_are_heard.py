"""The networks that are compared hear each of their parts: else nothing is compared."""

import functools

import numpy as np
import pytest

from tests.reference import exchange, model, stream
from tests.reference.conftest import (
  GLOBAL,
  PAPER,
  config_of,
  doubled,
  make_batch,
  make_model,
  make_params,
  rule_of,
)

B = 3
TIMES = np.array([[900.0], [400.0], [150.0]])


def outputs(params, batch, timesteps=TIMES, reads=True, text=None, **rule):
  latents = {s: batch[s] for s in ("video", "audio")}
  if "condition" in batch:
    latents["video"] = np.concatenate([batch["video"], batch["condition"]], -1)
  reads = dict.fromkeys(latents, np.full(B, reads))
  text = batch["text"] if text is None else text
  return model.velocities(
    params, config_of(**rule), latents, dict.fromkeys(latents, timesteps), text,
    reads, image=batch.get("image"),
  )  # fmt: skip


@functools.cache
def world_of(kind):
  """(parameters, batch, outputs) with context tokens, with a gate, with an image."""
  channels, variant = kind == "channels", "gate" if kind == "gate" else "context"
  params = doubled(make_params(make_model(channels, variant=variant), 0))
  batch = doubled(make_batch(B, 1, channels))
  return params, batch, outputs(params, batch)


@pytest.fixture(params=["context", "gate", "channels"])
def world(request):
  return world_of(request.param)


def difference(a, b):
  """Of each stream, in its deviations."""
  return {s: np.sqrt(((a[s] - b[s]) ** 2).mean()) / a[s].std() for s in a}


def assert_heard(world, other, streams=("video", "audio")):
  apart = difference(world[2], other)
  for s in streams:
    assert apart[s] > 0.1, apart


def test_the_other_stream_is_heard(world):
  assert_heard(world, outputs(*world[:2], reads=False))


def test_the_text_is_heard(world):
  assert_heard(world, outputs(*world[:2], text=np.zeros_like(world[1]["text"])))


def test_the_timestep_is_heard(world):
  assert_heard(world, outputs(*world[:2], timesteps=0 * TIMES))


def test_positions_are_heard(world, monkeypatch):
  still = lambda positions, slot: np.zeros((len(positions), slot // 2))
  monkeypatch.setattr(stream, "turns", still)
  monkeypatch.setattr(exchange, "turns", still)
  assert_heard(world, outputs(*world[:2]))


def test_positions_of_the_exchange_are_heard(world, monkeypatch):
  monkeypatch.setattr(exchange, "rotate", lambda x, angle: x)
  assert_heard(world, outputs(*world[:2]))


def test_the_context_tokens_are_heard():
  world = world_of("context")
  params = {**world[0], "blocks": dict(world[0]["blocks"])}
  for name in ("audio_to_video", "video_to_audio"):
    p = params["blocks"][name]
    params["blocks"][name] = {k: v for k, v in p.items() if k != "context"}
  assert_heard(world, outputs(params, world[1]))


@pytest.mark.parametrize(
  "cross",
  [
    GLOBAL,
    PAPER,
    {"cross_rope": "temporal"},
    {"window": 3},
    {"video_window": 3},
    {"rope_unit": "latent"},
  ],
)
def test_rules_of_the_exchange_are_heard(world, cross):
  """At a hundredth: a window that is moved shares most of its tokens."""
  apart = difference(world[2], outputs(*world[:2], **rule_of(cross)))
  assert max(apart.values()) > 0.01, apart


def test_the_image_is_heard():
  world = world_of("channels")
  params, batch, _ = world
  for part in ("image", "condition"):
    other = outputs(params, {**batch, part: np.roll(batch[part], 1, 0)})
    assert_heard(world, other, ["video"])
