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
from ccl_jax.training import latents as train_latents
from ccl_jax.training.latents import DevicePrefetch
from ccl_jax.training.step import Recipe
from configs import common, joint
from tests.flags.command import command
from tests.flags.recording import Recorder


class Pixels(struct.PyTreeNode):
  """A latent is the pixel in the corner of every 8 x 8, of every fourth frame."""

  def encode(self, pixels):
    return pixels[:, ::4, ::8, ::8]


class Samples(struct.PyTreeNode):
  """A latent is the first of 512 samples."""

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
  make = command("train").module.make_encoder
  encode = make(CODECS, build_model("tiny", **model), mesh, [0, 1], 2)
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
  """image_form=channels: the condition is on the first frame, of so many frames."""
  condition = lambda codecs, first, frames: (first * frames, codecs.image.encode(first))
  monkeypatch.setattr(command("train").module, "image_condition", condition)
  out = encoded(clips, image_form="channels")
  first = clips["video"][:, 0] / 127.5 - 1
  np.testing.assert_allclose(out["condition"], 5 * first, atol=1e-5)
  np.testing.assert_allclose(out["image"][:, 0], first.mean((1, 2)), atol=1e-5)
  mesh = make_mesh((1, 1, 1, 1), jax.devices()[:1])
  model = build_model("tiny", image_form="channels")
  with pytest.raises(UsageError, match="needs a CLIP codec"):
    bare = CODECS._replace(image=None)
    command("train").module.make_encoder(bare, model, mesh, [0, 1], 2)


FILM = Bucket.of(ClipSpec(17, 32, 48, 25.0))


class Sets(Mixture):
  """Stands for the sets that a run reads."""

  def __init__(self, buckets, clip=None):
    self.buckets, self.batch_sizes = buckets, {b: 4 for b in buckets}
    self.sets = [SimpleNamespace(root=pathlib.Path(n)) for n in ("SET", "OTHER")]
    self._clip = clip

  def common_clip(self):
    return self._clip

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


def opened(monkeypatch, config, mixture, recipe=RECIPE, **model):
  r = Recorder(monkeypatch)
  r.replace(train_latents, "open_mixture", mixture)
  found = train_latents.open_latents(config, build_model("tiny", **model), recipe)
  assert found is mixture
  return r.last("open_mixture")


def test_sets_are_opened_as_the_config_says(monkeypatch):
  """data.root, data.options.buckets, .batch_sizes, seed and batch.size."""
  config = records(
    seed=5, batch__size=6, data__options__buckets=("x",),
    data__options__batch_sizes=(("x", 3),),
  )  # fmt: skip
  clip = ClipSpec(33, 48, 64, 16.0)
  call = opened(monkeypatch, config, Sets([FILM], clip))
  assert call.args == ("A:0.7+B:0.3",)
  assert call.kwargs == {
    "seed": 5, "batch_size": 6, "buckets": ("x",), "batch_sizes": (("x", 3),),
  }  # fmt: skip
  # What generation makes later are the clips of the sets, by their codecs.
  assert config.clip.to_dict() == {"frames": 33, "height": 48, "width": 64, "fps": 16.0}
  assert config.codec.path == "SET/codecs"


def test_codecs_that_are_given_stay(monkeypatch):
  config = records(codec__path="MINE")
  before = config.clip.to_dict()
  opened(monkeypatch, config, Sets([FILM]))
  assert config.codec.path == "MINE" and config.clip.to_dict() == before


def test_sets_that_a_run_cannot_use(monkeypatch):
  for config, model, words in (
    (records(report__tasks=("joint",)), {}, "the report wants films"),
    (records(), {"image_form": "channels"}, "hold no CLIP tokens"),
  ):
    with pytest.raises(UsageError, match=words):
      opened(monkeypatch, config, Sets([FILM]), **model)
  sound = Bucket.of(ClipSpec(17, 32, 48, 25.0))
  only = {"streams": ("audio",)}
  opened(monkeypatch, records(), Sets([sound]), **only)  # its pictures are unread
  silent = Bucket.of(ClipSpec(17, 32, 48, 25.0), "silent")
  with pytest.raises(UsageError, match="17x32x48@25 has none of the model's streams"):
    opened(monkeypatch, records(), Sets([silent]), **only)
  pairs = Recipe(names=("joint",), probabilities=(1.0,))
  with pytest.raises(UsageError, match="clips of video alone serve no task"):
    opened(monkeypatch, records(), Sets([silent]), pairs)


def test_batches_of_latents(monkeypatch):
  """Threads, this process's rows, and the streams of the model alone."""
  r = Recorder(monkeypatch)
  r.replace(train_latents, "LatentBatches", "reader")
  batches, finish = object.__new__(DevicePrefetch), lambda batch: batch
  r.replace(train_latents, "DevicePrefetch", batches)
  r.replace(train_latents, "make_finisher", lambda *_: finish)
  r.replace(train_latents, "fingerprints", {"video": "hash"})
  mesh, mixture = make_mesh((2, 4, 1, 1), jax.devices()[:8]), Sets([FILM])
  model = build_model("tiny", streams=("audio",))
  found = train_latents.latent_batches(mixture, model, CODECS, mesh, 3)
  assert found == (batches, finish) and mixture.hashes == {"video": "hash"}
  call = r.last("LatentBatches")
  assert call.args == (mixture,) and call.kwargs["threads"] == 3
  assert call.kwargs["streams"] == ("audio",)
  assert call.kwargs["rows"](16) == list(range(16))
  assert r.last("DevicePrefetch").args == ("reader", mesh)
  np.testing.assert_array_equal(r.told("make_finisher", 0)[..., 0], [9, 9, 0])


def test_latents_in_place_of_films(monkeypatch, tmp_path):
  """data.source=records: batches are of the mixture, and their sizes must divide."""
  r, train = Recorder(monkeypatch), command("train").module
  mixture = Sets([FILM])
  r.replace(train, "_peak", 1e12)
  r.replace(train, "open_latents", mixture)
  r.replace(train, "make_mesh", make_mesh((2, 2, 2, 1), jax.devices()[:8]))
  config = records(batch__size=8)
  mixture.batch_sizes = {FILM: 6}
  with pytest.raises(UsageError, match="got 6; expected a multiple of 4"):
    train.train(config, tmp_path)
  mixture.batch_sizes = {FILM: 4}

  class Reached(Exception):
    pass

  def batches(mixture, model, codecs, mesh, threads):
    raise Reached(threads)

  r.replace(train, "open_codecs", CODECS)
  r.replace(train, "init_params", {"video": {"head": {"kernel": jnp.zeros((4, 4))}}})
  r.replace(train, "latent_batches", batches)
  config = records(batch__size=8, batch__threads=7, optim__groups=((".*", 1e-3, 0.0),))
  with pytest.raises(Reached, match="7"):
    train.train(config, tmp_path)
  assert r.told("open_codecs", 1) is None
  assert common.base().data.source == "folder"
