"""What flags of `generate` do to the latents: a network whose clips are known exactly.

The stand-in's velocity is the place in the alphabet of the first letter of its text,
everywhere and at all times. Straight paths are exact in any number of steps of any
solver, so of noise e, prompt p, negative prompt n and scale s the latent is

  e - sigma (n + s (p - n))

where sigma is the first noise level: 1, or of unipc that of u = 0.999.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import struct

from ccl_jax.codecs.bundle import Codecs
from ccl_jax.data.spec import ClipSpec
from ccl_jax.generation import clips, decoding
from ccl_jax.generation import pipeline as inference
from ccl_jax.models.joint import JointDiT
from ccl_jax.models.presets import build_model
from tests.flags.command import command
from tests.stubs import reading_texts

SPEC = ClipSpec(17, 32, 48, 25.0)


class Bare(struct.PyTreeNode):
  """A codec whose pixels and samples are the latents themselves."""

  channels: int = struct.field(pytree_node=False)

  def decode(self, latents):
    return latents


class Letters(struct.PyTreeNode):
  """A text is the place of its first letter in the alphabet, none is 0."""

  def tokenize(self, texts):
    return np.array([[ord(t[0]) - ord("a") + 1 if t else 0] for t in texts]), np.ones(
      (len(texts), 1)
    )

  def encode(self, ids, mask):
    return ids[..., None].astype(jnp.float32)


@pytest.fixture
def told(monkeypatch):
  """What the network was told, by call: {"time", "text", "batch"}; `made`: latents."""
  out = {"calls": [], "made": []}

  def apply(self, variables, x, sigma, text, route, **_):
    note = lambda time, text: out["calls"].append((float(time), len(text)))
    jax.debug.callback(note, sigma["audio"][0, 0], text["audio"], ordered=True)
    value = lambda s: text[s][:, 0, 0].reshape(-1, *[1] * (x[s].ndim - 1))
    return {s: jnp.broadcast_to(value(s), z.shape) for s, z in x.items()}

  codecs = Codecs(Bare(16), Bare(20), Letters())
  pipeline = inference.LoadedModel(build_model("tiny"), {}, codecs, SPEC, shift=5.0)
  monkeypatch.setattr(JointDiT, "apply", reading_texts(apply))
  monkeypatch.setattr(inference.LoadedModel, "load", lambda *_, **__: pipeline)
  monkeypatch.setattr(inference, "describe", lambda *_: pipeline.about)
  monkeypatch.setattr(decoding, "to_bytes", lambda x: x)

  class Kept(clips.Clip):
    """A clip of numbers that are no pixels, which is not written."""

    def __init__(self, **fields):
      for name, value in fields.items():
        object.__setattr__(self, name, value)

    def save(self, path):
      out["made"].append((self.frames, self.sound and self.sound[0], self.fps))
      return path

  monkeypatch.setattr(clips, "Clip", Kept)
  out["pipeline"] = pipeline
  return out


def latents(told, tmp_path, *argv):
  """[(video, audio)] that one command makes."""
  told["made"].clear()
  told["calls"].clear()
  argv = argv if any(a.startswith("--prompt") for a in argv) else ("--prompt=d", *argv)
  common = ["--ckpt=x", f"--out={tmp_path}", "--guidance=text"]
  if not any(a.startswith("--negative_prompt=") for a in argv):
    common.append("--negative_prompt=a")
  common += ["--scale_video=2", "--scale_audio=7", "--solver=euler"]
  command("generate").run(*common, *argv)
  jax.effects_barrier()
  return [(np.asarray(v, float), np.asarray(a, float)) for v, a, _ in told["made"]]


def test_prompts_pull_and_negative_prompts_push(told, tmp_path):
  """Of prompts d (4) and a (1): 1 + 2 * 3 for the video, 1 + 7 * 3 for the sound."""
  ((video, audio),) = latents(told, tmp_path, "--steps=2")
  assert video.shape == (5, 4, 6, 16) and audio.shape == (SPEC.audio_tokens, 20)
  assert abs(video.mean() + 7) < 0.1 and abs(audio.mean() + 22) < 0.2
  noise = {"video": video + 7, "audio": audio + 22}
  assert all(abs(x.std() - 1) < 0.1 for x in noise.values())
  sigma = 5 * 0.999 / (1 + 4 * 0.999)  # the first of unipc, by the trained shift
  for argv, v, a in (
    (["--prompt=a", "--negative_prompt=d"], 4 - 2 * 3, 4 - 7 * 3),
    (["--scale_video=3", "--scale_audio=0"], 1 + 3 * 3, 1),
    (["--negative_prompt_video=c"], 3 + 2 * 1, 22),
    (["--negative_prompt_audio=e"], 7, 5 - 7 * 1),
    (["--scale_video=1", "--scale_audio=1"], 4, 4),
    (["--solver=unipc", "--steps=3"], sigma * 7, sigma * 22),
    (["--solver=dpmpp", "--steps=4"], 7, 22),
  ):
    ((video, audio),) = latents(told, tmp_path, "--steps=2", *argv)
    np.testing.assert_allclose(video + v, noise["video"], atol=1e-4)
    np.testing.assert_allclose(audio + a, noise["audio"], atol=1e-4)


def test_noise_is_the_seeds_and_every_clips_and_streams_own(told, tmp_path):
  two = ("--prompt=d", "--prompt=d", "--steps=1")
  (v0, a0), (v1, a1) = latents(told, tmp_path, *two, "--seed=3")
  (w0, b0), (w1, b1) = latents(told, tmp_path, *two, "--seed=3")
  np.testing.assert_array_equal([v0, v1], [w0, w1])
  np.testing.assert_array_equal([a0, a1], [b0, b1])
  (x0, y0), _ = latents(told, tmp_path, *two, "--seed=4")
  related = lambda a, b: abs(np.corrcoef(a.ravel(), b.ravel())[0, 1])
  for a, b in ((v0, v1), (a0, a1), (v0, x0), (a0, y0)):
    assert related(a, b) < 0.2
  n = min(v0.size, a0.size)
  assert related(v0.ravel()[:n], a0.ravel()[:n]) < 0.2


@pytest.mark.parametrize(
  ("argv", "shift", "first"),
  [
    (["--solver=euler", "--steps=4", "--shift=2.5"], 2.5, 1.0),
    (["--solver=euler", "--steps=3"], 5.0, 1.0),  # that of training
    (["--solver=dpmpp", "--steps=3", "--shift=1.5"], 1.5, 1.0),
    (["--solver=unipc", "--steps=3", "--shift=3"], 3.0, 0.999),
  ],
)
def test_steps_and_shift_are_the_times_that_the_network_is_told(
  told, tmp_path, argv, shift, first
):
  """1000 s u / (1 + (s - 1) u), for u from the first in equal steps to 0."""
  latents(told, tmp_path, *argv)
  n = int(next(a for a in argv if "steps" in a).split("=")[1])
  u = [first * (1 - i / n) for i in range(n)]
  expected = [1000 * shift * x / (1 + (shift - 1) * x) for x in u]
  times = [time for time, _ in told["calls"]]
  whole = 0 if "--solver=euler" in argv else 1
  assert len(times) == n and np.abs(np.subtract(expected, times)).max() < whole + 1e-3
  if whole:
    assert times == [int(t) for t in times]


def test_schedules_of_few_steps(told, tmp_path):
  """The network is told the timesteps of the file, once each and with the prompt alone.
  Re-noised, x_i = (1 - sigma_i) (x_{i-1} - sigma_{i-1} p) + sigma_i e_i: of noise and
  prompt of step i the factors 1 - sigma of later ones are left.
  """
  for name, times in (
    ("lightx2v", [1000, 937.5, 833.33, 625]),
    ("causvid", [1000, 757, 522]),
    ("rcm", [987.65, 933.78, 852.90, 608.98]),
  ):
    told["calls"].clear(), told["made"].clear()
    given = "--ckpt=x", f"--out={tmp_path}", "--prompt=d", f"--schedule={name}"
    command("generate").run(*given)
    jax.effects_barrier()
    np.testing.assert_allclose([time for time, _ in told["calls"]], times, atol=0.005)
    assert {batch for _, batch in told["calls"]} == {1}
    s = np.array(times) / 1000
    left = s * [np.prod(1 - s[i + 1 :]) for i in range(len(s))]
    noise, mean = np.linalg.norm(left), -4 * left.sum()
    if name == "lightx2v":  # Euler: one noise, and the way from sigma 1 to 0
      noise, mean = 1, -4
    video = np.asarray(told["made"][-1][0], float)
    assert abs(video.mean() - mean) < 0.1 and abs(video.std() / noise - 1) < 0.1


def test_guidance_on_an_interval_and_at_some_steps(told, tmp_path):
  """What is left out is not evaluated; the latent is as by hand. Of prompts d (4) and a
  (1) and scale 2: 7 with guidance, and 4 without. Levels of four steps without a shift
  are 1, 0.75, 0.5 and 0.25.
  """
  four = ("--steps=4", "--shift=1")
  ((video, _),) = latents(told, tmp_path, *four)
  noise = video + 7
  ((got, _),) = latents(told, tmp_path, *four, "--guidance_interval=0.25,0.75")
  assert [batch for _, batch in told["calls"]] == [1, 2, 2, 1]
  np.testing.assert_allclose(got, noise - (7 + 4) / 2, atol=1e-4)
  ((got, _),) = latents(told, tmp_path, *four, "--guidance_every=3")
  assert [batch for _, batch in told["calls"]] == [2, 1, 1, 2]
  np.testing.assert_allclose(got, video, atol=1e-4)  # what it adds is always the same


def test_sequential_evaluations_are_alone_and_of_equal_result(told, tmp_path):
  ((v0, a0),) = latents(told, tmp_path, "--steps=2")
  assert [batch for _, batch in told["calls"]] == [2, 2]
  ((v1, a1),) = latents(told, tmp_path, "--steps=2", "--sequential")
  assert [batch for _, batch in told["calls"]] == [1, 1, 1, 1]
  np.testing.assert_allclose(v0, v1, atol=1e-4)
  np.testing.assert_allclose(a0, a1, atol=1e-4)
