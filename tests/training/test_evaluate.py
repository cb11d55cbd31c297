"""The held-out loss: what the network is told, and the loss of a known velocity."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ccl_jax.data.spec import ClipSpec
from ccl_jax.models.joint import JointDiT
from ccl_jax.models.stream import StreamConfig
from ccl_jax.training.evaluate import Evaluation
from ccl_jax.training.feed import Feed
from ccl_jax.training.step import Recipe

SIGMAS = (0.25, 0.5)
OFF = {"video": 2.0, "audio": 3.0}  # what the network adds to the true velocity


@pytest.fixture
def calls(monkeypatch):
  """The inputs of every run of the network, which knows the clean latents, all zero, so
  that x = sigma eps and v = x / sigma; it answers v + OFF.
  """
  seen = []

  def apply(self, variables, x, timesteps, text, route, *, image, geometry):
    counts = geometry.t, geometry.a
    seen.append(
      types.SimpleNamespace(x=x, t=timesteps, text=text, route=route, counts=counts)
    )
    out = {}
    for s, latent in x.items():
      sigma = timesteps[s].reshape(*timesteps[s].shape, *[1] * (latent.ndim - 2)) / 1000
      out[s] = latent / jnp.where(sigma > 0, sigma, 1.0) + OFF[s]
    return out

  monkeypatch.setattr(JointDiT, "apply", apply)
  return seen


class Batches:
  """Batches 0, 1, 2, ... whose text tells their number."""

  def __init__(self):
    self.number, self.closed = 0, False

  def __next__(self):
    self.number += 1
    return {"text": np.full((3, 4, 5), self.number - 1, np.float32)}

  def get_state(self):
    return {"number": self.number}

  def set_state(self, state):
    self.number = state["number"]

  def close(self):
    self.closed = True


STREAMS = (("video", StreamConfig(8, 8, 2)), ("audio", StreamConfig(8, 8, 2)))


def evaluation(streams=("video", "audio"), frames=2, **recipe):
  shapes = {"video": (3, frames, 3, 4, 6), "audio": (3, 5, 7)}
  encode = lambda batch: {
    "text": jnp.asarray(batch["text"]),
    "null_text": jnp.full((4, 5), -1.0),
    **{s: jnp.zeros(shapes[s]) for s in streams},
  }
  names = ("single", "a2v", "v2a", "joint")
  recipe = Recipe(names=names, probabilities=(0.25,) * 4, **recipe)
  batches = Batches()
  feed = Feed(ClipSpec(9, 32, 48, 25), None, batches, encode, (3,))
  return Evaluation(JointDiT(STREAMS, 1), recipe, feed, 2, SIGMAS), batches


def test_the_loss_of_a_velocity_that_is_off_by_a_constant(calls):
  """(v + c - v)^2 = c^2, at every noise level and with every noise."""
  measure, _ = evaluation(text_dropout=1.0, image_probability=1.0)
  got = measure({})
  generated = {
    "single": ("video", "audio"),
    "a2v": ("video",),
    "v2a": ("audio",),
    "joint": ("video", "audio"),
  }
  want = {}
  for task, streams in generated.items():
    for s in streams:
      names = [f"held_out/{task}/{s}", *(f"held_out/{task}/{s}/{x}" for x in SIGMAS)]
      want |= dict.fromkeys(names, OFF[s] ** 2)
  assert got.keys() == want.keys()
  for name, value in want.items():
    assert got[name] == pytest.approx(value, rel=1e-5), name


def test_between_a_first_and_a_last_frame(calls):
  """Where training gives last frames: of the video, whose ends are clean then."""
  measure, _ = evaluation(frames=4, last_image_probability=0.5)
  got = measure({})
  between = {k: v for k, v in got.items() if k.startswith("held_out_last/")}
  tasks = {k.split("/")[1] for k in between}
  assert tasks == {"single", "a2v", "joint"}  # which make a video
  assert all(k.split("/")[2] == "video" for k in between)
  assert all(v == pytest.approx(OFF["video"] ** 2, rel=1e-5) for v in between.values())
  assert {k.replace("_last", "") for k in between} < set(got)
  ends = [c.t["video"].shape for c in calls if c.t["video"].shape[1] == 4]
  assert ends  # times of every frame were told


def test_clips_of_one_stream_are_measured_where_they_serve(calls):
  measure, _ = evaluation(streams=("audio",))
  names = {k for k in measure({}) if k.count("/") == 2}
  assert names == {"held_out/single/audio"}  # of the tasks where audio reads nothing
  # The clips have 9 pictures and 11 tokens; 5 tokens are 4.1 pictures, of 2 latents.
  assert {call.counts for call in calls} == {(2, 5)}


def test_every_evaluation_sees_the_same_clips_and_noise(calls):
  measure, batches = evaluation()
  next(batches)  # what else was read since does not matter
  first = measure({})
  for _ in range(3):
    next(batches)
  assert measure({}) == first
  assert batches.number == 2
  measure.close()
  assert batches.closed


def test_what_the_network_is_told(calls):
  """Per task: 1000 sigma of what is generated, 0 of what is given, the clip's own text,
  and who reads whom (section 4.2.2).
  """
  with jax.disable_jit():
    measure, _ = evaluation(text_dropout=1.0, image_probability=1.0)
    measure({})
  reads = {"single": (), "a2v": ("video",), "v2a": ("audio",), "joint": OFF}
  noised = {"single": OFF, "a2v": ("video",), "v2a": ("audio",), "joint": OFF}
  told = iter(calls)
  for number in range(2):
    for task in reads:
      for sigma in SIGMAS:
        call = next(told)
        for s in OFF:
          assert (call.t[s] == (1000 * sigma if s in noised[task] else 0)).all()
          assert bool(np.abs(call.x[s]).max() > 0) is (s in noised[task])
          assert (call.route.reads[s] == (s in reads[task])).all()
        assert (call.text == number).all()
  assert next(told, None) is None
  deviations = [float(c.x["video"].std()) for c in calls[:2]]
  np.testing.assert_allclose(deviations, SIGMAS, rtol=0.1)
