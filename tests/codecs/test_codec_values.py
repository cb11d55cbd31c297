"""Bytes and [-1, 1], the image condition and the hash of codecs, each by value."""

import flax
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ccl_jax.codecs.bundle import Codecs, fingerprint, fingerprints, null_text
from ccl_jax.codecs.images import image_condition, to_bytes, to_unit
from ccl_jax.codecs.links import link_codec
from ccl_jax.errors import UsageError
from ccl_jax.models.byte_text import ByteText
from ccl_jax.models.linear_codec import LinearAudioCodec


def test_all_bytes_there_and_back():
  every = np.arange(256, dtype=np.uint8)
  unit = np.asarray(to_unit(every))
  assert unit.dtype == np.float32
  np.testing.assert_allclose(unit, np.linspace(-1, 1, 256), atol=1e-7)
  np.testing.assert_array_equal(to_bytes(unit), every)


def test_pixels_go_to_the_nearest_byte():
  """Two fifths of a step off are still that byte, three fifths the next one."""
  steps = np.arange(1, 255)
  unit = lambda x: np.float32(x / 127.5 - 1)
  for off in (-0.4, 0.4):
    np.testing.assert_array_equal(to_bytes(unit(steps + off)), steps)
  np.testing.assert_array_equal(to_bytes(unit(steps + 0.6)), steps + 1)
  np.testing.assert_array_equal(to_bytes(unit(steps - 0.6)), steps - 1)
  assert to_bytes(np.float32([-9, -1.01, 1.01, 9])).tolist() == [0, 0, 255, 255]
  assert to_bytes(np.float32([0.3])).dtype == np.uint8


class Video(flax.struct.PyTreeNode):
  """Means of 8 x 8 pixels and four frames, repeated: a latent that can be read."""

  def encode(self, x):
    b, f, h, w, c = x.shape
    x = x.reshape(b, f, h // 8, 8, w // 8, 8, c).mean((3, 5))
    later = x[:, 1:].reshape(b, -1, 4, *x.shape[2:]).mean(2)
    x = jnp.concatenate([x[:, :1], later], 1)
    return jnp.tile(x, 6)[..., :16]


class Image(flax.struct.PyTreeNode):
  def encode(self, x):
    return jnp.tile(2 * x.mean((1, 2))[:, None], 427)[..., :1280]


def test_the_condition_on_a_first_frame():
  """A mask of ones for the first latent frame; then the latent of the frame followed
  by mid-grey, which is 0: not black.
  """
  rng = np.random.default_rng(0)
  first = rng.uniform(-1, 1, (2, 16, 24, 3)).astype(np.float32)
  codecs = Codecs(video=Video(), image=Image())
  condition, tokens = image_condition(codecs, jnp.asarray(first), 9)
  assert condition.shape == (2, 3, 2, 3, 4 + 16)
  np.testing.assert_array_equal(condition[:, 0, ..., :4], 1)
  np.testing.assert_array_equal(condition[:, 1:, ..., :4], 0)
  means = first.reshape(2, 2, 8, 3, 8, 3).mean((2, 4))
  np.testing.assert_allclose(condition[:, 0, ..., 4:7], means, atol=1e-6)
  np.testing.assert_array_equal(condition[:, 1:, ..., 4:], 0)
  np.testing.assert_allclose(tokens[:, 0, :3], 2 * first.mean((1, 2)), atol=1e-6)


def text_codecs(length=6):
  return Codecs(text=ByteText(length, 16))


def test_no_text_is_an_empty_prompt():
  codecs = text_codecs()
  expected = codecs.text.encode(*map(jnp.asarray, codecs.text.tokenize([""])))[0]
  np.testing.assert_array_equal(null_text(codecs), expected)


def audio(scale):
  fields = [f.name for f in LinearAudioCodec.__dataclass_fields__.values()]
  arrays = {name: jnp.zeros(3) for name in fields}
  return Codecs(audio=LinearAudioCodec(**arrays | {"scale": scale}))


def test_a_hash_is_of_type_and_shape_too():
  """The same bytes: four zeros of 16 bits, two of 32, one row of two, another name."""
  zeros = [
    jnp.zeros(4, jnp.float16),
    jnp.zeros(4, jnp.bfloat16),
    jnp.zeros((2, 2), jnp.float16),
    jnp.zeros((1, 4), jnp.float16),
    jnp.zeros(2, jnp.float32),
    jnp.zeros(2, jnp.int32),
  ]
  prints = [fingerprint(audio(x)) for x in zeros]
  assert len(set(prints)) == len(zeros)
  assert fingerprint(audio(jnp.zeros(4, jnp.float16))) == prints[0]


def test_a_hash_of_the_bundle_is_of_its_codecs_in_order():
  import hashlib

  both = text_codecs()._replace(audio=audio(jnp.ones(2)).audio)
  each = fingerprints(both)
  assert list(each) == ["audio", "text"]
  assert each["text"] == fingerprints(text_codecs())["text"]
  joined = (each["audio"] + each["text"]).encode()
  assert fingerprint(both) == hashlib.sha256(joined).hexdigest()
  assert fingerprints(text_codecs(7))["text"] != each["text"]


def converted(folder, kind, sizes):
  import json

  folder.mkdir()
  about = {"kind": kind, "sizes": sizes, "source": {"sha256": "f" * 64}}
  (folder / "config.json").write_text(json.dumps(about | {"dtype": "float32"}))
  return folder


def test_links_are_to_weights_that_fit(tmp_path):
  sound = converted(tmp_path / "a", "audio-vae", {"bands": 80, "channels": 20})
  made = link_codec(sound)
  assert made.links == (("vae", str(sound), f"{'f' * 64}-float32"),)
  for name, sizes in (("b", {"bands": 128, "channels": 20}),
                      ("c", {"bands": 80, "channels": 40})):  # fmt: skip
    folder = converted(tmp_path / name, "audio-vae", sizes)
    with pytest.raises(UsageError, match="expected 80 and 20, the 16 kHz mode"):
      link_codec(folder)
  for name, bands, rates, good in (
    ("d", 80, [4, 4, 16], True), ("e", 80, [8, 8, 8], False), ("f", 100, [256], False),
  ):  # fmt: skip
    sizes = {"bands": bands, "rates": rates}
    folder = converted(tmp_path / name, "vocoder", sizes)
    if good:
      assert [link[0] for link in link_codec(sound, folder).links] == ["vae", "vocoder"]
      continue
    with pytest.raises(UsageError, match="expected 80 and 256, the 16 kHz mode"):
      link_codec(sound, folder)
  with pytest.raises(
    UsageError, match="expected weights of wan-vae or wan22-vae or umt5"
  ):
    link_codec(tmp_path / "d")
  umt5 = converted(tmp_path / "g", "umt5", {})
  with pytest.raises(UsageError, match="has no tokenizer.json"):
    link_codec(umt5)
  clip = converted(tmp_path / "h", "clip", {"heads": 3})
  assert link_codec(clip).heads == 3 and link_codec(clip, heads=4).heads == 4
  assert jax.tree.leaves(link_codec(clip)) == []
