"""What a training run makes of clips and of latents on their way to a step."""

import pathlib
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import struct

from ccl_jax.codecs.bundle import Codecs
from ccl_jax.data.sets.buckets import Bucket
from ccl_jax.data.sets.mixture import Mixture
from ccl_jax.data.spec import ClipSpec
from ccl_jax.errors import UsageError
from ccl_jax.models.presets import build_model
from ccl_jax.sharding import make_mesh
from ccl_jax.training import feed, films
from ccl_jax.training import latents as train_latents
from ccl_jax.training.latents import DevicePrefetch, find_mixture, open_latents
from ccl_jax.training.step import Recipe
from configs import joint
from tests.flags.command import command
from tests.flags.recording import Recorder


class Pixels(struct.PyTreeNode):
  """A latent is the pixel in the corner of every 8 x 8, of every fourth frame."""

  channels, stride = 16, (4, 8, 8)

  def encode(self, pixels):
    return pixels[:, ::4, ::8, ::8]


class Samples(struct.PyTreeNode):
  """A latent is the first of 512 samples."""

  channels = 20

  def encode(self, wave):
    return wave[:, ::512, None]


class Ids(struct.PyTreeNode):
  """A text's rows are its ids, and zero where not masked."""

  length: int = struct.field(pytree_node=False, default=3)
  dim: int = struct.field(pytree_node=False, default=1)

  def tokenize(self, texts):
    return np.full((len(texts), 3), 9, np.int32), np.array([[1, 1, 0]] * len(texts))

  def encode(self, ids, mask):
    return jnp.where(mask, ids, 0)[..., None].astype(jnp.float32)


class Look(struct.PyTreeNode):
  """An image's token is its mean colour."""

  def encode(self, pixels):
    return pixels.mean((1, 2))[:, None]


CODECS = Codecs(Pixels(), Samples(), Ids(), Look())


@pytest.fixture(scope="module")
def clips():
  """Two clips of 5 frames of 16 x 24, and 3 tokens of sound."""
  rng = np.random.default_rng(0)
  return {
    "video": rng.integers(0, 256, (2, 5, 16, 24, 3)).astype(np.uint8),
    "audio": rng.standard_normal((2, 1536)).astype(np.float32),
    "ids": np.array([[4, 5, 6], [7, 8, 9]], np.int32),
    "mask": np.array([[1, 1, 1], [1, 0, 0]], bool),
  }


def encoded(clips, **model):
  mesh = make_mesh((1, 1, 1, 1), jax.devices()[:1])
  encode = films.make_encoder(CODECS, build_model("tiny", **model), mesh, [0, 1], 2)
  return {k: np.asarray(v) for k, v in encode(clips).items()}


def test_a_batch_of_clips_in_latents(clips):
  """Pixels in -1 to 1, the text that is said, and apart the text of nothing."""
  out = encoded(clips)
  assert set(out) == {"video", "audio", "text", "null_text"}
  pixels = clips["video"][:, ::4, ::8, ::8] / 127.5 - 1
  np.testing.assert_allclose(out["video"], pixels, atol=1e-6)
  np.testing.assert_array_equal(out["audio"][..., 0], clips["audio"][:, ::512])
  np.testing.assert_array_equal(out["text"][..., 0], [[4, 5, 6], [7, 0, 0]])
  np.testing.assert_array_equal(out["null_text"][..., 0], [9, 9, 0])


@pytest.mark.parametrize("stream", ["video", "audio"])
def test_a_stream_that_the_model_lacks_is_left_out(clips, stream):
  out = encoded(clips, streams=(stream,))
  assert set(out) == {stream, "text", "null_text"}


def test_conditions_beside_the_latents(clips, monkeypatch):
  """image_form=channels: the condition is on the first frame, of so many frames; of
  first_last on the last one too.
  """

  def condition(codecs, first, frames, last):
    ends = 0 if last is None else 100 * last
    return first * frames + ends, codecs.image.encode(first)

  monkeypatch.setattr(films, "image_condition", condition)
  out = encoded(clips, image_form="channels")
  first = clips["video"][:, 0] / 127.5 - 1
  np.testing.assert_allclose(out["condition"], 5 * first, atol=1e-5)
  last = clips["video"][:, -1] / 127.5 - 1
  both = encoded(clips, image_form="first_last")["condition"]
  np.testing.assert_allclose(both, 5 * first + 100 * last, atol=1e-4)
  np.testing.assert_allclose(out["image"][:, 0], first.mean((1, 2)), atol=1e-5)
  mesh = make_mesh((1, 1, 1, 1), jax.devices()[:1])
  model = build_model("tiny", image_form="channels")
  with pytest.raises(UsageError, match="needs a CLIP codec"):
    bare = CODECS._replace(image=None)
    films.make_encoder(bare, model, mesh, [0, 1], 2)


FILM = Bucket.of(ClipSpec(17, 32, 48, 25.0))


class Sets(Mixture):
  """Stands for the sets that a run reads."""

  def __init__(self, buckets):
    self.buckets, self.batch_sizes = buckets, {b: 4 for b in buckets}
    self.sets = [
      SimpleNamespace(root=pathlib.Path(n), require_whole=lambda: None)
      for n in ("SET", "OTHER")
    ]
    self.clip = None

  def common_clip(self):
    return self.clip

  def check_encoders(self, hashes):
    self.hashes = hashes


def records(**changes):
  config = joint.get_config("size=tiny,records=A:0.7+B:0.3")
  with config.unlocked():
    config.update_from_flattened_dict(
      {k.replace("__", "."): v for k, v in changes.items()}
    )
  return config


RECIPE = Recipe(names=("single", "joint"), probabilities=(0.4, 0.6))


@pytest.fixture
def sets(monkeypatch, tmp_path):
  """`open(config, mixture)` gives the feed, of which no batch is read."""
  r = Recorder(monkeypatch)
  r.batches, r.finish = object.__new__(DevicePrefetch), lambda batch: batch
  r.mesh = make_mesh((2, 4, 1, 1), jax.devices()[:8])
  r.replace(feed, "load_codecs", CODECS)
  r.replace(feed, "save_codecs")
  r.replace(train_latents, "fingerprints", {"video": "hash"})
  r.replace(train_latents, "LatentBatches", "reader")
  r.replace(train_latents, "DevicePrefetch", r.batches)
  r.replace(train_latents, "make_finisher", lambda *_: r.finish)

  def opened(config, mixture, *, root="", **model):
    r.replace(train_latents, "open_mixture", mixture)
    model = build_model("tiny", **model)
    return open_latents(config, model, RECIPE, r.mesh, tmp_path, root=root)

  r.open = opened
  return r


def test_sets_are_opened_as_the_config_says(sets):
  """data.root, data.options.buckets, .batch_sizes, seed and batch.size."""
  config = records(
    seed=5, batch__size=6, data__options__buckets=("x",),
    data__options__batch_sizes=(("x", 3),),
  )  # fmt: skip
  clip, mixture = ClipSpec(33, 48, 64, 16.0), Sets([FILM])
  mixture.clip = clip
  found = sets.open(config, mixture)
  call = sets.last("open_mixture")
  assert call.args == ("A:0.7+B:0.3",)
  assert call.kwargs == {
    "seed": 5, "batch_size": 6, "buckets": ("x",), "batch_sizes": (("x", 3),),
  }  # fmt: skip
  # What generation makes later are the clips of the sets, by their codecs.
  assert found.clip == clip and found.codecs is CODECS
  assert sets.last("load_codecs").args == ("SET/codecs",)
  assert mixture.hashes == {"video": "hash"}
  sets.open(config, mixture, root="HELD")
  assert sets.last("open_mixture").args == ("HELD",)


@pytest.mark.parametrize(
  ("frames", "tokens", "rate"),
  [
    (121, 157, 31.4),  # by either rule: the config's, which other lengths show
    (241, 314, 31.4),
    (241, 313, None),  # the set was not made by the config's
  ],
)
def test_sets_do_not_say_by_which_rule_their_sound_is_so_long(
  sets, frames, tokens, rate
):
  mixture = Sets([FILM])
  mixture.clip = Bucket(frames, 32, 48, 24.0, tokens).spec()
  found = sets.open(records(clip__audio_rate=31.4), mixture)
  assert (found.clip.audio_tokens, found.clip.audio_rate) == (tokens, rate)


def test_codecs_that_are_given_stay(sets):
  config = records(codec__path="MINE")
  found = sets.open(config, Sets([FILM]))
  assert sets.last("load_codecs").args == ("MINE",)
  assert found.clip == ClipSpec(**config.clip)


def test_sets_that_a_run_cannot_use(sets):
  def find(config, mixture, recipe=RECIPE, **model):
    sets.replace(train_latents, "open_mixture", mixture)
    assert find_mixture(config, build_model("tiny", **model), recipe, "A") is mixture

  for config, model, words in (
    (records(report__tasks=("joint",)), {}, "the report wants films"),
    (records(), {"image_form": "channels"}, "hold no CLIP tokens"),
  ):
    with pytest.raises(UsageError, match=words):
      find(config, Sets([FILM]), **model)
  sound = Bucket.of(ClipSpec(17, 32, 48, 25.0))
  only = {"streams": ("audio",)}
  find(records(), Sets([sound]), **only)  # its pictures are unread
  silent = Bucket.of(ClipSpec(17, 32, 48, 25.0), "silent")
  with pytest.raises(UsageError, match="17x32x48@25 has none of the model's streams"):
    find(records(), Sets([silent]), **only)
  pairs = Recipe(names=("joint",), probabilities=(1.0,))
  with pytest.raises(UsageError, match="clips of video alone serve no task"):
    find(records(), Sets([silent]), pairs)


def test_batches_of_latents(sets):
  """Threads, this process's rows, and the streams of the model alone."""
  mixture = Sets([FILM])
  mixture.batch_sizes = {FILM: 6}
  found = sets.open(records(batch__threads=3), mixture, streams=("audio",))
  assert found.batches is sets.batches and found.encode is sets.finish
  assert found.batch_sizes == (6,)
  call = sets.last("LatentBatches")
  assert call.args == (mixture,) and call.kwargs["threads"] == 3
  assert call.kwargs["streams"] == ("audio",)
  assert call.kwargs["rows"](16) == list(range(16))
  assert sets.last("DevicePrefetch").args == ("reader", sets.mesh)
  np.testing.assert_array_equal(sets.told("make_finisher", 0)[..., 0], [9, 9, 0])


def test_latents_in_place_of_films(sets, tmp_path):
  """data.source=records: batches are of the mixture, and their sizes must divide."""
  train, mixture = command("train").module, Sets([FILM])
  sets.replace(train, "_peak", 1e12)
  sets.replace(train, "make_mesh", make_mesh((2, 2, 2, 1), jax.devices()[:8]))
  sets.replace(train_latents, "open_mixture", mixture)
  sets.spy(train_latents, "open_codecs")
  config = records(batch__size=8, batch__threads=7)
  sets.batches.close = sets.stub(None, "closed")
  mixture.batch_sizes = {FILM: 6}
  with pytest.raises(UsageError, match="got 6; expected a multiple of 4"):
    train.train(config, tmp_path)
  mixture.batch_sizes = {FILM: 4}

  class Reached(Exception):
    pass

  def run(config, mesh, text, clip):
    raise Reached(text)

  sets.replace(train, "build_run", run)
  with pytest.raises(Reached, match=r"\(3, 1\)"):
    train.train(config, tmp_path)
  assert sets.told("LatentBatches", "threads") == 7
  assert len(sets.calls["closed"]) == 2  # however a run ends
  # There are no clips that codecs could be fitted to.
  assert "clips" not in sets.last("open_codecs").kwargs
