"""Texts are encoded once, and the encoder's memory is free before the model is read."""

import gc
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import struct

from ccl_jax.checkpoints.find import Parameters
from ccl_jax.codecs.bundle import Codecs
from ccl_jax.generation import pipeline as module
from ccl_jax.generation.description import Description
from ccl_jax.generation.meshes import alone
from ccl_jax.generation.pipeline import LoadedModel
from ccl_jax.generation.prompts import texts_of
from ccl_jax.generation.sampling import Sampling
from ccl_jax.generation.texts import Texts
from ccl_jax.models.byte_text import ByteText
from ccl_jax.sharding import make_mesh
from ccl_jax.tasks import GENERATIONS
from tests.generation.parts import SPEC, small_parts

SIZE = 7919  # of the parameters: no other array has it
FAST = Sampling("none", steps=1, solver="euler")


class Counted(struct.PyTreeNode):
  """A text codec with parameters, which notes what it is asked."""

  params: jax.Array
  length: int = struct.field(pytree_node=False, default=5)
  dim: int = struct.field(pytree_node=False, default=16)

  def tokenize(self, texts):
    NOTED.extend(texts)
    ids = np.array([[ord(c) for c in t.ljust(5)] for t in texts])
    return ids, ids != ord(" ")

  def rows_of(self, text):
    return len(text)

  def encode(self, ids, mask):
    rows = ids[..., None] * self.params[None, None, :16]
    return jnp.where(mask[..., None], rows, 0)


NOTED: list[str] = []


@pytest.fixture(autouse=True)
def _nothing_noted():
  NOTED.clear()


def codec():
  return Counted(jnp.arange(1, SIZE + 1, dtype=jnp.float32))


def held() -> int:
  """Arrays in memory that are a codec's parameters."""
  gc.collect()
  return sum(x.shape == (SIZE,) for x in jax.live_arrays())


def test_rows_of_texts_that_are_encoded_once():
  """As of the codec, with zeros where a text has ended; each in a call of its own."""
  texts = Texts(codec(), alone())
  got = texts.rows(["ab", "c", "ab", ""])
  a, b, c = (ord(x) * np.arange(1, 17) for x in "abc")
  expected = np.zeros((4, 5, 16))
  expected[0, :2] = expected[2, :2] = a, b
  expected[1, 0] = c
  np.testing.assert_array_equal(got, expected)
  np.testing.assert_array_equal(texts.rows(["d", "ab"])[1], expected[0])
  assert NOTED == ["ab", "c", "", "d"]
  # The parameters in float32, and ids, mask and rows.
  assert texts.memory >= 4 * SIZE + 5 * 16 * 4


def test_rows_do_not_depend_on_the_mesh():
  codec = ByteText(8, 16)
  words = ["a b", "ccc", "a much longer text"]
  expected = codec.encode(*map(jnp.asarray, codec.tokenize(words)))
  for mesh in (alone(), make_mesh((2, 1, 4, 1))):
    got = Texts(codec, mesh).rows(words)
    np.testing.assert_allclose(got, expected, atol=1e-6)


def test_an_encoder_that_can_be_read_again_is_not_kept():
  reads = []

  def again():
    reads.append(held())
    return codec()

  texts = Texts(codec(), alone(), again)
  assert held() == 1
  first = texts.rows(["ab", "c"])
  assert held() == 0 and texts.codec.rows_of("abc") == 3  # lengths are still told
  texts.rows(["c", "ab"])
  assert not reads
  np.testing.assert_array_equal(texts.rows(["c", "e", "ab"])[[2, 0]], first)
  assert reads == [0] and held() == 0
  assert NOTED == ["ab", "c", "e"]


@pytest.fixture
def opened(monkeypatch):
  """A function that loads a model with `Counted`; in `seen` how many of its parameters
  were in memory when the model's were read.
  """
  model, params, codecs, _ = small_parts()
  place = pathlib.Path("run")
  found = Parameters(place, "params", {}, place)
  about = Description(model, SPEC, {}, place, found, 5.0)
  seen = []

  def load(_, only):
    bundle = codecs._replace(text=codec() if "text" in only else None)
    return Codecs(**{name: getattr(bundle, name) for name in only})

  def read(*_):
    seen.append(held())
    return 3, params, {}, "identity"

  monkeypatch.setattr(module, "describe", lambda *_: about)
  monkeypatch.setattr(module, "load_codecs", load)
  monkeypatch.setattr(module, "read_parameters", read)
  monkeypatch.setattr(module, "fingerprints", lambda _: {})
  return lambda **options: (LoadedModel.load("run", **options), seen[-1])


def test_texts_that_are_known_need_no_encoder_beside_the_model(opened):
  """A set's negative prompt is encoded once, and not for every clip."""
  kind = GENERATIONS["t2a"]
  asked = texts_of(["a", "b", "c"], {"audio": "no"}, kind, None)
  assert asked == ["a", "b", "c", "no", "no", "no"]
  pipeline, there = opened(texts=asked)
  assert there == 0 and NOTED == ["a", "b", "c", "no"]
  assert pipeline.codecs.text is None and held() == 0
  for prompt in "abc":
    pipeline.generate("t2a", prompt, negative={"audio": "no"}, sampling=FAST)
  assert NOTED == ["a", "b", "c", "no"] and held() == 0
  # The encoder is alone; the model has the codecs beside it, and decodes them.
  memory = {"text": pipeline.texts.memory} | pipeline.memory
  assert list(memory) == ["text", "sampling", "decoding"]
  size = lambda tree: sum(x.nbytes for x in jax.tree.leaves(tree))
  beside = size(pipeline.params) + size(pipeline.codecs)
  assert memory["text"] < 4 * SIZE + 10_000
  assert all(beside < memory[name] for name in ("sampling", "decoding"))
  pipeline.generate("t2a", "d", negative={"audio": "no"}, sampling=FAST)
  assert NOTED[4:] == ["d"] and held() == 0


def test_an_encoder_stays_where_no_texts_are_known(opened):
  pipeline, there = opened()
  assert there == 1 and not NOTED
  pipeline.generate("t2a", "a", sampling=FAST)
  assert held() == 1 and NOTED == ["a", ""]
  assert pipeline.codecs.text is not None
