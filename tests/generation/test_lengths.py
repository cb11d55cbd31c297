"""Long clips in parts: where parts lie, what they share, and how they are joined."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ccl_jax.data.spec import ClipSpec
from ccl_jax.diffusion.samplers import RENOISE
from ccl_jax.errors import UsageError
from ccl_jax.generation.lengths import join_of, repeated, spread_noise
from ccl_jax.generation.noise import fresh_noise
from ccl_jax.generation.sampling import Sampling, sample_latents
from ccl_jax.generation.windows import sample_windows
from ccl_jax.models.joint import JointDiT
from ccl_jax.models.presets import build_model
from ccl_jax.seeds import seed_bits
from ccl_jax.tasks import GENERATIONS
from tests.stubs import reading_texts

SPEC = ClipSpec(65, 16, 16, 25.0)  # 17 latent frames, 81 tokens


@pytest.fixture
def join():
  """Parts of 33 frames, 9 latents and 41 tokens, which share 16 frames, 4 latents."""
  part, join = join_of(SPEC, 33, 16)
  assert part == dataclasses.replace(SPEC, frames=33)
  return join


def test_where_parts_lie(join):
  """A latent frame is 4 pictures, 0.16 s, 5 tokens of 32 ms. Every part but the first
  has a first latent of its own, here numbers 17 and 18.
  """
  assert (join.frames, join.tokens, join.parts) == (9, 41, 3)
  assert join.starts == (0, 4, 8) and join.token_starts == (0, 20, 40)
  assert join.sizes == {"video": 19, "audio": 81}
  np.testing.assert_array_equal(
    join.index("video"),
    [[*range(9)], [17, *range(5, 13)], [18, *range(9, 17)]],
  )
  np.testing.assert_array_equal(join.index("audio")[1], range(20, 61))


def test_shares_rise_and_fall(join):
  """Over the 4 latents that two parts have in common: 1/8, 3/8, 5/8, 7/8."""
  rise = [0.125, 0.375, 0.625, 0.875]
  np.testing.assert_allclose(
    join.weights("video"),
    [[1] * 5 + rise[::-1], [1, *rise, *rise[::-1]], [1, *rise] + [1] * 4],
    atol=1e-6,
  )
  for stream, n in join.sizes.items():
    total = np.zeros(n)
    np.add.at(total, join.index(stream), join.weights(stream))
    np.testing.assert_allclose(total, 1, atol=1e-6)
  sound = join.weights("audio")
  # Tokens of a part's very end count least, and the more the nearer its middle.
  assert (np.diff(sound[1][:20]) >= 0).all() and (np.diff(sound[1][21:]) <= 0).all()
  assert sound[1][0] < 0.01 and sound[1][-1] < 0.05 and sound[1][20] > 0.9


@pytest.mark.parametrize("stream", ["video", "audio"])
def test_there_and_back_and_the_mean_of_what_differs(join, stream):
  n = join.sizes[stream]
  x = np.random.default_rng(0).normal(size=(2, n, 3)).astype(np.float32)
  rows = join.split(stream, jnp.asarray(x))
  assert rows.shape == (6, len(join.index(stream)[0]), 3)
  np.testing.assert_array_equal(rows[4], x[1, join.index(stream)[1]])  # side by side
  np.testing.assert_allclose(join.merged(stream, rows), x, atol=1e-6)
  # Part k is k everywhere: what 0 and 1 share is between.
  levels = np.repeat(np.arange(3.0), 1)[:, None] * np.ones(rows.shape[1])
  merged = join.merged(stream, jnp.asarray(levels, jnp.float32)[..., None])[0, :, 0]
  if stream == "video":
    np.testing.assert_allclose(
      merged,
      [0] * 5 + [0.125, 0.375, 0.625, 0.875, 1.125, 1.375, 1.625, 1.875, 2, 2, 2, 2,
                 1, 2],
      atol=1e-6,
    )  # fmt: skip
  else:
    assert merged[0] == 0 and merged[80] == 2 and (np.diff(merged) >= -1e-6).all()


def network(monkeypatch, answer):
  """The network answers {stream: answer(stream, latents)}."""
  apply = lambda self, v, x, *_, **__: {s: answer(s, z) for s, z in x.items()}
  monkeypatch.setattr(JointDiT, "apply", reading_texts(apply))
  return build_model("tiny")


def sampled(model, join, noise, rows, sampling, **extra):
  conditions = {"text": jnp.zeros((2, rows, 4, 8)), "given": {}} | extra
  return sample_windows(
    {}, model, {}, GENERATIONS["joint"], noise, conditions, sampling, join=join
  )


def noise_of(join, b=1):
  rng = np.random.default_rng(1)
  shapes = {"video": (19, 2, 2, 16), "audio": (81, 20)}
  return {s: jnp.asarray(rng.normal(size=(b, *x)), jnp.float32)
          for s, x in shapes.items()}  # fmt: skip


SAMPLING = Sampling(guidance="none", steps=4, shift=3.0, solver="unipc", skip_block=-1)


def test_a_network_that_sees_no_further_makes_of_parts_what_it_makes_of_the_whole(
  monkeypatch, join
):
  """Its velocity is of each latent by itself."""
  model = network(monkeypatch, lambda s, x: jnp.sin(x))
  noise = noise_of(join)
  rows = sampled(model, join, join.split_all(noise), 3, SAMPLING)
  whole = sample_latents(
    model, {}, GENERATIONS["joint"], noise,
    {"text": jnp.zeros((2, 1, 4, 8)), "given": {}}, SAMPLING,
  )  # fmt: skip
  for s, x in join.joined(rows).items():
    np.testing.assert_allclose(x, whole[s][:, : x.shape[1]], atol=1e-5)
  assert join.joined(rows)["video"].shape == (1, 17, 2, 2, 16)


def test_parts_agree_at_every_step_in_what_they_share(monkeypatch, join):
  """Part k has the velocity k: a latent is e - sigma (the mean of its parts)."""

  def answer(s, x):
    return jnp.arange(3.0).reshape(-1, *[1] * (x.ndim - 1)) * jnp.ones_like(x)

  model, noise = network(monkeypatch, answer), noise_of(join)
  rows = sampled(model, join, join.split_all(noise), 3, SAMPLING)
  first = 3 * 0.999 / (1 + 2 * 0.999)  # the first level, shifted by 3
  for s, x in rows.items():
    k = np.repeat(np.arange(3.0)[:, None], x.shape[1], 1)
    mean = join.split(s, join.merged(s, jnp.asarray(k, jnp.float32)[..., None]))
    mean = np.asarray(mean).reshape(*x.shape[:2], *[1] * (x.ndim - 2))
    start = join.split(s, noise[s])
    np.testing.assert_allclose(x, start - first * mean, atol=1e-4)
    np.testing.assert_allclose(join.split(s, join.merged(s, x)), x, atol=1e-5)


def test_fresh_noise_of_steps_is_shared_too(join):
  rows = join.split_all(noise_of(join, 2))
  bits = np.stack([seed_bits(3), seed_bits(4)])
  fresh = spread_noise(fresh_noise, rows, join, bits, jnp.int32(5))
  whole = fresh_noise(noise_of(join, 2), bits, jnp.int32(5))
  for s, x in fresh.items():
    np.testing.assert_array_equal(x, join.split(s, whole[s]))
  plain = spread_noise(fresh_noise, rows, None, bits, jnp.int32(5))
  assert plain["video"].shape == rows["video"].shape


def test_a_distilled_schedule_renoises_parts_alike(monkeypatch, join):
  model = network(monkeypatch, lambda s, x: jnp.zeros_like(x))
  sampling = dataclasses.replace(
    SAMPLING, schedule="causvid", solver=RENOISE, steps=3, shift=1.0
  )
  bits = np.stack([seed_bits(3)])
  rows = sampled(model, join, join.split_all(noise_of(join)), 3, sampling, seeds=bits)
  for s, x in rows.items():
    np.testing.assert_allclose(join.split(s, join.merged(s, x)), x, atol=1e-5)


def test_what_is_given_is_given_to_the_parts_that_have_it(join):
  """Latents 0 to 5 of the clip: part 1 begins after latent 4, with one of its own."""
  mask = (np.arange(17) < 6)[None]
  latent = np.arange(17.0)[None, :, None, None, None] * np.ones((1, 17, 1, 1, 2))
  held = join.parts_held({"video": {"latent": jnp.asarray(latent), "mask": mask}})
  np.testing.assert_array_equal(
    held["video"]["mask"],
    [[True] * 6 + [False] * 3, [False, True] + [False] * 7, [False] * 9],
  )
  assert held["video"]["latent"][1, 1, 0, 0, 0] == 5


def test_films_and_sounds_are_cut_where_parts_lie(join):
  film = np.arange(65)[None, :, None, None, None] * np.ones((2, 1, 1, 1, 3))
  parts = join.cut("video", film)
  assert parts.shape[:2] == (6, 33)
  assert [int(p[0, 0, 0, 0]) for p in parts] == [0, 16, 32] * 2
  sound = np.arange(81 * 512)[None]
  assert [int(p[0]) for p in join.cut("audio", sound)] == [0, 20 * 512, 40 * 512]
  assert join.cut("audio", sound).shape == (3, 41 * 512)
  texts = repeated(np.arange(2)[None], join, 1)
  np.testing.assert_array_equal(texts, [[0, 0, 0, 1, 1, 1]])


@pytest.mark.parametrize("fps", [16.0, 24.0, 29.97002997002997])
@pytest.mark.parametrize("frames", [37, 101, 257])
def test_parts_cover_all_and_are_in_step(frames, fps):
  """No token begins more than half of one from the picture that its part begins with,
  and no latent is without a part.
  """
  spec = ClipSpec(frames, 16, 16, fps)
  part, join = join_of(spec, 33, 8)
  assert join.starts[0] == 0 and join.starts[-1] == spec.latent_frames - 9
  for s, n in join.sizes.items():
    assert set(join.index(s).reshape(-1).tolist()) == set(range(n))
  shared = np.diff(join.starts)
  assert (8 - shared >= 2).all()  # two latents, eight frames, at least
  at = np.array(join.token_starts) * 512 / 16000 - 4 * np.array(join.starts) / fps
  assert np.abs(at[:-1]).max() <= 0.016 + 1e-9 and abs(at[-1]) <= 0.033
  assert part.audio_tokens == join.tokens


def test_a_rate_of_tokens_of_its_own():
  """Ovi's 31.4 a second between the first and the last frame."""
  spec = ClipSpec(241, 32, 32, 24.0, stride=16, audio_rate=31.4)
  part, join = join_of(spec, 121, 40)
  assert (part.audio_tokens, spec.audio_tokens) == (157, 314)
  assert join.starts == (0, 15, 30)
  assert join.token_starts == (0, 79, 157)  # 60 frames: 78.5 tokens


def test_when_a_clip_is_made_in_parts():
  of = lambda frames, **o: join_of(ClipSpec(frames, 16, 16, 25.0), **o)[1]
  assert of(257) is None and of(33, window=33) is None and of(17, window=33) is None
  assert of(65, window=33).parts == 3
  assert of(65, window=33, overlap=8).starts == (0, 4, 8)
  assert of(65, window=33, overlap=4).starts == (0, 4, 8)


@pytest.mark.parametrize(
  ("options", "words"),
  [
    ({"window": 32}, "--window: got 32; expected 4 k"),
    ({"window": -1}, "--window: got -1"),
    ({"window": 0}, "--window: got 0"),
    ({"window": 5}, "--window: got 5; expected 4 k . 1 frames, 9 at least"),
    ({"window": 33, "overlap": 6}, "--overlap: got 6; expected a multiple of 4"),
    ({"window": 33, "overlap": 32}, "--overlap: got 32; expected at most 28"),
    ({"overlap": 0}, "--overlap: got 0"),
  ],
)
def test_parts_that_cannot_be(options, words):
  with pytest.raises(UsageError, match=words) as e:
    join_of(SPEC, **options)
  assert "\n" not in str(e.value)


def test_jitted_as_it_is(join):
  """It is part of a program's name."""
  assert hash(join) == hash(join_of(SPEC, 33, 16)[1])
  x = noise_of(join)
  rows = jax.jit(type(join).split_all, static_argnums=0)(join, x)
  np.testing.assert_array_equal(rows["audio"][1], x["audio"][0, 20:61])
