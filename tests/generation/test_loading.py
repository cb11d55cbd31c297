"""Which parameters, codecs and settings a pipeline has from a folder."""

import hashlib
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import save_file

from ccl_jax.checkpoints.find import Parameters
from ccl_jax.codecs.bundle import Codecs
from ccl_jax.data.spec import ClipSpec
from ccl_jax.errors import UsageError
from ccl_jax.generation import description, parameters
from ccl_jax.generation import pipeline as inference
from ccl_jax.generation.pipeline import LoadedModel
from ccl_jax.weights import wan
from tests.generation.standins import (
  CODECS,
)

TINY = {"preset": "tiny", "dtype": "float32"}


@pytest.fixture
def folder(monkeypatch):
  """A folder of a stated kind, and what was read of it."""
  read = {"checked": [], "fits": []}
  checked, fits = read["checked"], read["fits"]

  def of(about, name, metadata=None, codecs=CODECS, bundle=pathlib.Path("own")):
    def restore(place, part, abstract, *, step=None):
      read.update(place=place, part=part, abstract=abstract, step=step)
      return 0, "parameters", metadata or {}

    def load(place, only):
      read["codecs"] = place
      return Codecs(**{name: getattr(codecs, name) for name in only})

    found = Parameters(pathlib.Path("there"), name, about, bundle)
    for module in (description, parameters):
      monkeypatch.setattr(module, "find_parameters", lambda *_: found)
    monkeypatch.setattr(parameters, "identity", lambda *_: "fingerprint")
    prints = lambda codecs: {n: n for n, x in codecs._asdict().items() if x}
    monkeypatch.setattr(inference, "fingerprints", prints)
    monkeypatch.setattr(inference, "require_same", lambda *given: checked.append(given))
    monkeypatch.setattr(inference, "require_fit", lambda *given: fits.append(given))
    monkeypatch.setattr(parameters, "restore_params", restore)
    monkeypatch.setattr(inference, "load_codecs", load)
    return read

  return of


NO_NEGATIVE = {"video": "", "audio": ""}
CLIP_OF_RUN = {"frames": 17, "height": 32, "width": 64, "fps": 24.0}


def test_a_run_is_read_as_it_was_trained(folder):
  about = {"model": TINY, "clip": CLIP_OF_RUN, "codecs": {"video": "a"}}
  read = folder(about, "ema", {"objective": {"shift": 2.0}})
  made = LoadedModel.load("run")
  assert read["place"] == pathlib.Path("there/checkpoints")
  assert (read["part"], read["step"]) == ("ema", None)
  assert read["codecs"] == pathlib.Path("own") and made.codecs == CODECS
  prints = {name: name for name in Codecs._fields}
  assert read["checked"][0][:2] == (prints, {"video": "a"})  # the same as in training
  assert made.params == "parameters" and made.negative == NO_NEGATIVE
  assert made.spec == ClipSpec(17, 32, 64, 24.0)
  assert made.shift(made.spec) == 2.0
  # Text of the codec's width, 3.
  text = read["abstract"]["video"]["text_embedding"]["in"]["kernel"]
  assert text.shape == (3, 128)
  LoadedModel.load("run", weights="params", step=40, codecs="mine")
  assert (read["part"], read["step"], read["codecs"]) == ("params", 40, "mine")


def test_loras_are_added_to_what_is_read(folder, monkeypatch, tmp_path):
  """To the stacks that the pipeline holds, in their dtypes; the origin says so."""
  folder(
    {"model": TINY | {"dtype": "bfloat16"}, "clip": CLIP_OF_RUN, "codecs": {}}, "ema"
  )
  half = lambda tree: jax.tree.map(lambda x: jnp.full(x.shape, 0.5, x.dtype), tree)
  monkeypatch.setattr(
    parameters, "restore_params", lambda _, __, abstract, step: (0, half(abstract), {})
  )
  rng = np.random.default_rng(0)
  draw = lambda *shape: rng.standard_normal(shape).astype(np.float32)
  files = [tmp_path / "1.safetensors", tmp_path / "2.safetensors"]
  # Wan's names of the video stream, and our own of the exchange.
  a, b, c, d = draw(4, 128), draw(384, 4), draw(2, 128), draw(128, 2)
  layer = "diffusion_model.blocks.3.ffn.0"
  save_file({f"{layer}.lora_A.weight": a, f"{layer}.lora_B.weight": b}, files[0])
  layer = "blocks.1.audio_to_video.q"
  save_file({f"{layer}.lora_A.weight": c, f"{layer}.lora_B.weight": d}, files[1])
  made = LoadedModel.load("run", loras=[(files[0], 0.5), f"{files[1]}:-2"])
  video = made.params["blocks"]["video"]["ffn"]["in"]["kernel"]
  q = made.params["blocks"]["audio_to_video"]["q"]["kernel"]
  assert video.dtype == q.dtype == jnp.bfloat16
  for got, changed, dw in ((video, 3, 0.5 * (b @ a).T), (q, 1, -2 * (d @ c).T)):
    want = np.full(got.shape, 0.5)
    want[changed] += dw
    np.testing.assert_allclose(got.astype(np.float32), want, rtol=2**-8, atol=1e-4)
    assert (np.asarray(got[0]) == 0.5).all()
  assert made.origin["lora"] == [f"{files[0]}:0.5", f"{files[1]}:-2.0"]
  for path in files:
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    assert made.origin["fingerprints"][str(path)] == digest
  folder({"kind": "joint", "model": TINY | {"preset": "small"}}, "params")
  with pytest.raises(UsageError, match="2.safetensors does not fit this model"):
    LoadedModel.load("joined", loras=[(files[1], 1.0)])
  # One that may be chosen later is no part of the model, but fits it too.
  read = folder({"kind": "joint", "model": TINY}, "params")
  made = LoadedModel.load("joined", choices=[str(files[0])])
  assert made.params == "parameters" and "lora" not in made.origin
  read = folder({"kind": "joint", "model": TINY | {"preset": "small"}}, "params")
  read.clear()
  with pytest.raises(UsageError, match="2.safetensors does not fit this model"):
    LoadedModel.load("joined", choices=[str(files[1])])
  assert "abstract" not in read


def test_a_trained_part_is_put_into_its_model(folder, monkeypatch):
  about = {
    "model": TINY, "clip": CLIP_OF_RUN, "codecs": {},
    "base": {"folder": "B", "step": 5, "identity": "fingerprint"},
    "lora": {"rank": 2, "alpha": 3.0, "layers": "exchange", "whole": ""},
  }  # fmt: skip
  folder(about, "ema")
  rng, read, asked = np.random.default_rng(0), [], []
  draw = lambda x: jnp.asarray(rng.standard_normal(x.shape), x.dtype)
  find = parameters.find_parameters

  def restore(place, name, abstract, *, step):
    read.append((name, step, jax.tree.map(draw, abstract)))
    return step or 7, read[-1][2], {"objective": {"shift": 2.0}}

  def found(*given):
    asked.append(given)
    return find(*given)

  monkeypatch.setattr(parameters, "restore_params", restore)
  monkeypatch.setattr(parameters, "find_parameters", found)
  kept = jax.device_get
  monkeypatch.setattr(inference.jax, "jit", lambda f, **_: f)  # nothing is donated
  made = LoadedModel.load("run", weights="params")
  (_, step, base), (name, newest, part) = read
  assert asked[-1] == (pathlib.Path("there", "B"), 5) and step == 5
  assert (name, newest, made.origin["step"]) == ("params", None, 7)
  q = lambda tree: kept(tree["blocks"]["audio_to_video"]["q"]["kernel"])
  ab = q(part["adapted"])["a"].astype(np.float64) @ q(part["adapted"])["b"]
  np.testing.assert_allclose(q(made.params), q(base) + 1.5 * ab, rtol=1e-5, atol=1e-5)
  kernel = lambda tree: kept(tree["video"]["head"]["kernel"])
  np.testing.assert_array_equal(kernel(made.params), kernel(base))
  monkeypatch.setattr(parameters, "identity", lambda *_: "another")
  with pytest.raises(UsageError, match="B has other parameters than those that"):
    LoadedModel.load("run")


def test_a_joined_model_starts_from_wans_settings(folder):
  read = folder({"kind": "joint", "model": TINY}, "params")
  made = LoadedModel.load("joined", weights="ema")
  assert read["part"] == "params"  # it has no average
  assert made.spec == ClipSpec(81, 480, 832, 16.0)
  assert made.shift(made.spec) == 5.0 and made.negative == NO_NEGATIVE


@pytest.mark.parametrize(
  ("about", "name"),
  [
    ({"kind": "joint", "model": TINY}, "params"),
    ({"model": TINY, "clip": CLIP_OF_RUN, "codecs": {}}, "ema"),
  ],
)
def test_what_started_from_a_model_has_its_negative_prompt(folder, about, name):
  """A joined model's config.json and a run's metadata say so, by stream."""
  folder(about | {"negative": {"video": "grey"}}, name)
  assert LoadedModel.load("there").negative == {"video": "grey", "audio": ""}


def wan_sizes(in_channels, out_channels, image_tokens):
  """Sizes of a small transformer of Wan's, as a converted one tells them."""
  return {
    "width": 24, "ffn": 32, "heads": 2, "depth": 1, "text_dim": 3,
    "in_channels": in_channels, "out_channels": out_channels,
    "image_tokens": image_tokens,
  }  # fmt: skip


def test_a_converted_model_has_its_negative_prompt(folder):
  sizes = wan_sizes(36, 16, image_tokens=True)
  read = folder({"kind": "wan-dit", "sizes": sizes}, "params")
  made = LoadedModel.load("wan")
  own = wan.negative_prompt(sizes)
  assert made.negative == {"video": own, "audio": ""} and own
  assert made.model.dtype == jnp.bfloat16 and made.takes_channels
  assert made.spec == ClipSpec(81, 480, 832, 16.0) and made.shift(made.spec) == 3.0
  kernel = read["abstract"]["blocks"]["video"]["ffn"]["in"]["kernel"]
  assert kernel.dtype == jnp.bfloat16


def test_a_converted_ti2v_has_its_own_clip(folder):
  """121 frames of 704 x 1280 at 24 a second, whose aspect ratio a first frame sets."""
  sizes = wan_sizes(48, 48, image_tokens=False)
  read = folder({"kind": "wan-dit", "sizes": sizes}, "params")
  made = LoadedModel.load("ti2v")
  assert made.spec == ClipSpec(121, 704, 1280, 24.0, stride=16)
  assert (made.shift(made.spec), made.about.area) == (5.0, 704 * 1280)
  assert made.shift(ClipSpec(121, 448, 800, 24.0, stride=16)) == 5.0
  assert made.negative["video"].startswith("色调艳丽") and not made.takes_channels
  assert read["fits"] == [(CODECS._replace(text=None), {"video": 48}, 16)]
  folder({"kind": "joint", "model": TINY, "clip": CLIP_OF_RUN}, "params")
  made = LoadedModel.load("joined")
  assert made.spec == ClipSpec(17, 32, 64, 24.0) and made.about.area is None


def test_codecs_must_be_there_and_read_text(folder):
  about = {"model": TINY, "codecs": {}}
  folder(about, "ema", bundle=None)
  with pytest.raises(UsageError, match="run has no codecs"):
    LoadedModel.load("run")
  folder(about, "ema", codecs=CODECS._replace(text=None))
  with pytest.raises(UsageError, match="have no text codec"):
    LoadedModel.load("run")
