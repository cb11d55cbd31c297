"""Decoding on all devices of a mesh, by tiles where that is asked for or must be."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import struct
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from ccl_jax.codecs.bundle import Codecs
from ccl_jax.errors import UsageError
from ccl_jax.generation import memory
from ccl_jax.generation.decoding import (
  checked_tile,
  chosen_tile,
  shared,
  with_tile,
)
from ccl_jax.generation.pipeline import LoadedModel
from ccl_jax.generation.sampling import Sampling
from ccl_jax.models.linear_codec import LinearVideoCodec
from ccl_jax.models.wan_vae import Wan22VideoCodec, WanVideoCodec, init_params
from ccl_jax.sharding import finest, make_mesh, spread
from tests.generation.parts import SPEC, small_parts
from tests.params import codec_params

VAE = WanVideoCodec(())


@pytest.mark.parametrize(
  "shape, x, units, expected",
  [
    # Clips first; then columns, as far as they divide, and rows for the rest.
    ((2, 1, 4, 1), (2, 3, 4, 8, 1), {0: 1, 3: 1, 2: 1}, (1, 3, 4, 2, 1)),
    ((1, 1, 8, 1), (1, 3, 60, 60, 1), {0: 1, 3: 1, 2: 1}, (1, 3, 30, 15, 1)),
    ((1, 1, 8, 1), (1, 3, 60, 104, 1), {0: 1, 3: 1, 2: 1}, (1, 3, 60, 13, 1)),
    # Squares of 8 pixels stay whole.
    ((1, 1, 8, 1), (1, 3, 64, 32, 1), {0: 1, 3: 8, 2: 8}, (1, 3, 32, 8, 1)),
    ((1, 1, 6, 1), (1, 3, 9, 5, 1), {0: 1, 3: 1, 2: 1}, (1, 3, 3, 5, 1)),
  ],
)
def test_an_array_is_spread_over_all_devices(shape, x, units, expected):
  mesh = finest(make_mesh(shape, jax.devices()[: int(np.prod(shape))]))
  with jax.set_mesh(mesh):
    got = jax.jit(lambda: spread(jnp.zeros(x), units))()
  assert got.sharding.shard_shape(x) == expected


@pytest.fixture(scope="module")
def by_one_device():
  """(codecs, latent, the decoder's program for one device)."""
  shapes = jax.eval_shape(lambda key: init_params(key, 8), jax.random.key(0))
  params = codec_params(shapes)
  codecs = Codecs(WanVideoCodec(params))
  z = np.random.default_rng(0).standard_normal((1, 1, 6, 8, 16), np.float32)
  return codecs, z, jax.jit(lambda c, z: c.decode(z)).lower(codecs.video, z).compile()


@pytest.mark.parametrize("shape", [(1, 1, 8, 1), (2, 2, 1, 2)])
def test_the_devices_share_the_rows_and_columns_of_a_clip(shape, by_one_device):
  """8 devices give the pixels of one, each with an eighth of the work."""
  codecs, z, alone = by_one_device
  expected = np.asarray(alone(codecs.video, z))
  mesh = make_mesh(shape)
  whole = NamedSharding(mesh, P())
  there = jax.device_put((codecs, {"video": z}), whole)
  run = lambda codecs, z: shared(codecs).video.decode(z["video"])
  with jax.set_mesh(finest(mesh)):
    compiled = jax.jit(run, out_shardings=whole).lower(*there).compile()
  got = np.asarray(compiled(*there))
  np.testing.assert_allclose(got, expected, atol=1e-5 * np.abs(expected).max())
  temporary = lambda program: program.memory_analysis().temp_size_in_bytes
  assert temporary(compiled) < temporary(alone) / 3


def test_the_tiles_that_a_codec_can_have():
  codecs = Codecs(VAE)
  assert [checked_tile(codecs, x) for x in ("auto", "off", None)] == [
    "auto",
    None,
    None,
  ]
  assert checked_tile(codecs, "256") == checked_tile(codecs, 256) == 256
  assert with_tile(codecs, 256).video == dataclasses.replace(VAE, tile=256, overlap=64)
  assert with_tile(with_tile(codecs, 128), None).video.tile is None
  linear = Codecs(LinearVideoCodec((), (), ()))
  assert checked_tile(linear, "off") is None and with_tile(linear, None) == linear
  for bundle, tile, words in (
    (codecs, "250", "expected a multiple of 32 pixels, 4 latents .*: 256"),
    (codecs, "8", "multiple of 32 pixels, .*: 32"),
    (Codecs(Wan22VideoCodec(())), "96", "multiple of 64 pixels, .*: 128"),
    (codecs, "wide", "--vae_tile: got wide; expected auto, off, or pixels such as 256"),
    (linear, "256", "the video codec has no tiles"),
  ):
    with pytest.raises(UsageError, match=words):
      checked_tile(bundle, tile)


@pytest.mark.parametrize(
  ("own", "asked", "room", "tile"),
  [
    (None, "auto", True, None),
    (None, "auto", False, 256),
    (None, None, False, None),
    (None, 128, True, 128),
    (192, "auto", False, 192),  # of the bundle
    (192, None, False, None),
    (192, 128, True, 128),
  ],
)
def test_tiles_where_they_are_asked_for_or_must_be(own, asked, room, tile):
  codecs = Codecs(dataclasses.replace(VAE, tile=own))
  assert chosen_tile(asked, codecs, lambda: room) == tile
  linear = Codecs(LinearVideoCodec((), (), ()))
  assert chosen_tile("auto", linear, lambda: False) is None


class Tiled(struct.PyTreeNode):
  """A codec whose pixels tell the tile that they were decoded by."""

  tile: int | None = struct.field(pytree_node=False, default=None)
  overlap: int = struct.field(pytree_node=False, default=64)
  channels, stride = 16, (4, 8, 8)

  def decode(self, latent):
    b, t, h, w, _ = latent.shape
    grey = (self.tile or 0) / 255 - 1
    return jnp.full((b, 4 * t - 3, 8 * h, 8 * w, 3), grey)


def test_a_clip_for_which_there_is_no_room_is_decoded_by_tiles(monkeypatch):
  """And says so; another clip is asked about anew, and one of its sizes is not."""
  model, params, codecs, _ = small_parts()
  codecs, free = codecs._replace(video=Tiled()), []

  def free_memory():
    free.append(10 if not free else 10**9)
    return free[-1]

  monkeypatch.setattr(memory, "free_memory", free_memory)
  pipeline = LoadedModel(model, params, codecs, SPEC, shift=5.0)
  make = lambda *prompts: pipeline.generate(
    "t2v", prompts, sampling=Sampling("none", steps=1, solver="euler")
  )["video"]
  for _ in range(2):
    np.testing.assert_array_equal(make("a"), 128)
    assert pipeline.made == {"vae_tile": "256"} and free == [10]
  np.testing.assert_array_equal(make("a", "b"), 0)
  assert pipeline.made == {"vae_tile": "off"} and free == [10, 10**9]


def test_bytes_of_a_device():
  """Of arrays by their shardings, and of a program by what it reads and writes."""
  mesh = make_mesh((1, 8, 1, 1))
  split = jax.device_put(jnp.zeros((16, 3)), NamedSharding(mesh, P("fsdp")))
  whole = jax.device_put(jnp.zeros(5, jnp.int8), NamedSharding(mesh, P()))
  there = {"a": split, "b": None, "c": np.zeros((2, 7), np.int16)}
  assert memory.held(there, whole, "text") == 2 * 3 * 4 + 5 + 28
  product = jax.jit(lambda x: x @ x.T).lower(jnp.zeros((64, 32))).compile()
  result = 4 * 64 * 64
  assert result <= memory.worked_in(product) <= 2 * result
  said = memory.summary({"text": 2**30, "sampling": 5 * 2**29}, 2**34)
  expected = "memory of a device: text 1 GiB, sampling 2.5 GiB"
  assert said == f"{expected}; it has 16 GiB"
  assert memory.summary({"text": 2**23}, None) == "memory of a device: text 8 MiB"


class Program:
  """One that is never compiled: there is `error`."""

  def __init__(self, error):
    self._error = error

  def lower(self, *_):
    raise jax.errors.JaxRuntimeError(self._error)


def test_what_there_is_no_room_for(monkeypatch):
  """A compiler that says so, as a TPU's, or results beyond what is free."""
  grow = jax.jit(lambda x: jnp.repeat(x, 1000))
  for free, expected in ((None, True), (5000, True), (4100, False), (0, False)):
    monkeypatch.setattr(memory, "free_memory", lambda free=free: free)
    assert memory.fits(grow, jnp.zeros(1), together=False) == expected
  full = Program("RESOURCE_EXHAUSTED: Ran out of memory in memory space hbm.")
  assert not memory.fits(full, together=False)
  with pytest.raises(jax.errors.JaxRuntimeError, match="other"):
    memory.fits(Program("INTERNAL: other"), together=False)
  agreed = []
  monkeypatch.setattr(memory, "agreed", lambda make: agreed.append(make()) or False)
  monkeypatch.setattr(memory, "free_memory", lambda: None)
  assert not memory.fits(grow, jnp.zeros(1), together=True) and agreed == [True]
