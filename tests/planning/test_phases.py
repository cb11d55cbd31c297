"""What the phases of a generation need: of the codecs' known sizes, by hand."""

import io

import jax
import jax.numpy as jnp
import pytest
from flax import struct

from ccl_jax import progress
from ccl_jax.codecs.bundle import Codecs
from ccl_jax.data.spec import ClipSpec
from ccl_jax.errors import UsageError
from ccl_jax.generation.memory import held
from ccl_jax.generation.meshes import parameter_bytes
from ccl_jax.models.presets import build_model
from ccl_jax.planning import compile, phases
from ccl_jax.planning.chips import CHIPS
from ccl_jax.planning.compile import default_mesh, plan, show
from ccl_jax.planning.phases import Phase, codec_shapes, decoding_phase
from ccl_jax.sharding import make_mesh
from configs import joint


def test_phases_of_a_plan():
  """Of one clip on devices that its two evaluations share, with the embedded codecs."""
  config = joint.get_config("runlocal").unlock()
  config.model.update({"attention": "chunked"})
  said = io.StringIO()
  with progress.shown(said):
    report = plan(config, "cpu:8", None, 1, generate=True)
  assert said.getvalue().splitlines() == [
    "compiling the sampling", "compiling the text encoder", "compiling the decoding",
    "reading the program",
  ]  # fmt: skip
  assert report.mesh == (2, 1, 4, 1) and list(report.phases) == [
    "text", "sampling", "decoding"
  ]  # fmt: skip
  text, sampling, decoding = report.phases.values()
  # Ids, a mask, and 16 rows of 32 numbers.
  assert 16 * 5 + 4 * 16 * 32 <= text.bytes < 10_000 and not text.beside
  # Mean, basis and scale of 4 x 8 x 8 pixels in 16 channels and of 160 mels in 20.
  codecs = 4 * (768 + 768 * 16 + 16) + 4 * (160 + 160 * 20 + 20)
  assert sampling.beside == codecs
  model = parameter_bytes(build_model(**config.model))
  assert model / 8 < decoding.beside < model / 2
  picture = 17 * 32 * 32 * 3
  assert decoding.bytes > decoding.beside + codecs + picture and decoding.tile is None
  assert sampling.bytes > decoding.beside + codecs
  lines = show(report).splitlines()
  assert f"  text        {text}" in lines and f"  decoding    {decoding}" in lines


def test_a_phase_in_words():
  said = str(Phase(3 * 2**30, 2**29, 256))
  assert said == (
    "3.00 GiB, of which 0.50 are held beside the program; by tiles of 256 pixels"
  )
  assert str(Phase(2**29)) == "0.50 GiB"


@pytest.mark.parametrize(
  ("size", "chip", "devices", "expected"),
  [
    # 41 GB of parameters: twice only where half a chip's memory has them.
    ("14b", "v5e", 8, (1, 1, 8, 1)),
    ("14b", "v6e", 8, (2, 1, 4, 1)),
    ("14b", "H100", 1, (1, 1, 1, 1)),
  ],
)
def test_a_generation_is_planned_as_it_runs(size, chip, devices, expected):
  config = joint.get_config(f"size={size}").unlock()
  config.clip.update({"frames": 81, "height": 480, "width": 832, "fps": 16.0})
  config.model.attention = "chunked"
  shape = lambda generate: default_mesh(config, CHIPS[chip], devices, 1, generate)
  assert shape(True) == expected and shape(False) == (1, devices, 1, 1)


def test_codecs_of_published_weights():
  """UMT5-XXL's encoder has 5.68e9 parameters, Wan2.1's VAE 127e6, Wan2.2's 705e6."""
  one, eight = make_mesh((1, 1, 1, 1), jax.devices()[:1]), make_mesh((1, 1, 8, 1))
  shapes = lambda mesh, size, **o: codec_shapes(
    build_model(size, attention="chunked", **o), (512, 4096), mesh
  )
  for size, video in (("14b", 127e6), ("5b", 705e6)):
    assert held(shapes(one, size, streams=("video",)).video) == pytest.approx(
      4 * video, rel=0.01
    )
  # In bfloat16, large arrays split over the devices.
  codecs = shapes(eight, "14b", streams=("audio",))
  assert held(codecs.text) == pytest.approx(2 * 5.68e9 / 8, rel=0.01)
  assert codecs.video is None and codecs.audio is not None


class Tiled(struct.PyTreeNode):
  """A codec that needs more memory without tiles."""

  tile: int | None = struct.field(pytree_node=False, default=None)
  overlap: int = struct.field(pytree_node=False, default=64)
  channels, stride = 16, (4, 8, 8)

  def decode(self, latent):
    b, t, h, w, _ = latent.shape
    grey = jnp.zeros((b, 4 * t - 3, 8 * h, 8 * w, 3)) + latent.mean()
    copies = 1 if self.tile else 8
    rows = jnp.sort(jnp.concatenate(copies * [grey.ravel()]))
    return rows[: grey.size].reshape(grey.shape)


def test_a_decoding_without_room_is_by_tiles():
  spec, mesh = ClipSpec(5, 32, 32, 25.0), make_mesh((1, 1, 1, 1), [jax.devices()[0]])

  def phase(limit, *tile):
    return decoding_phase(Codecs(Tiled()), spec, 1, mesh, 1000, limit, *tile)

  whole = phase(2.0**30)
  assert whole.tile is None and whole.beside == 1000
  assert phase(float(whole.bytes)) == whole
  tiled = phase(whole.bytes - 1.0)
  assert tiled.tile == 256 and tiled.bytes < whole.bytes
  # Or as asked for: by tiles though there is room, or none though there is not.
  assert phase(2.0**30, "64") == Phase(tiled.bytes, 1000, 64)
  assert phase(whole.bytes - 1.0, "off") == whole
  with pytest.raises(UsageError, match="--vae_tile 72: expected a multiple of 32"):
    phase(2.0**30, "72")


def test_a_decoding_for_a_tpu_is_compiled_at_a_low_level(monkeypatch):
  """O1 is 19: https://openxla.org/xla/effort_levels counts by tens, from 9."""
  assert phases.options_of("gpu") is None is phases.options_of("cpu")
  options = phases.options_of("tpu")
  assert options == {"optimization_level": 19}
  # This version of JAX takes the number.
  assert jax.jit(jnp.sin).lower(1.0).compile(options)(0.0) == 0.0
  spec, mesh = ClipSpec(5, 32, 32, 25.0), make_mesh((1, 1, 1, 1), [jax.devices()[0]])
  monkeypatch.setattr(phases, "options_of", lambda platform: {f"no_{platform}": 1})
  with pytest.raises(
    jax.errors.JaxRuntimeError, match="No such compile option: 'no_cp"
  ):
    decoding_phase(Codecs(Tiled()), spec, 1, mesh, 0, 2.0**30)


def test_tiles_are_checked_before_anything_is_compiled(monkeypatch):
  monkeypatch.setattr(compile, "compile_generate", None)
  config = joint.get_config("runlocal").unlock()
  config.model.update({"attention": "chunked"})
  with pytest.raises(UsageError, match="--vae_tile 64: the video codec has no tiles"):
    plan(config, "cpu:1", (1, 1, 1, 1), 1, generate=True, tile="64")


def test_the_decoding_is_planned_by_the_tiles_asked_for(monkeypatch):
  config = joint.get_config("runlocal").unlock()
  config.model.update({"attention": "chunked"})
  mesh = make_mesh((1, 1, 1, 1), jax.devices()[:1])
  decoded = lambda *args: Phase(1, tile=args[-1])
  monkeypatch.setattr(compile, "decoding_phase", decoded)
  monkeypatch.setattr(compile, "text_phase", lambda *_: Phase(1))
  sampling = jax.jit(jnp.sin).lower(jnp.zeros(3)).compile()
  codecs = compile.codecs_of(config, mesh)
  needs = compile.compile_phases(config, mesh, 1, codecs, 96, 2.0**30, sampling)
  assert list(needs) == ["text", "sampling", "decoding"]
  assert needs["decoding"].tile == 96


def test_a_plan_hands_its_tiles_on(monkeypatch):
  given = []

  def stop(config, mesh, batch, codecs, tile, limit, sampling):
    given.append((tile, limit))
    raise KeyboardInterrupt

  monkeypatch.setattr(compile, "compile_phases", stop)
  monkeypatch.setattr(compile, "compile_generate", lambda *_: None)
  config = joint.get_config("runlocal").unlock()
  config.model.update({"attention": "chunked"})
  with pytest.raises(KeyboardInterrupt):
    plan(config, "cpu:1", (1, 1, 1, 1), 1, generate=True, tile="off")
  assert given == [("off", CHIPS["cpu"].hbm)]
