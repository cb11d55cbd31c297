"""Training that starts from Ovi: as it is, a part of it, and CCL from its towers.

Small weights in the release's file, a set of latents, some steps of the real command.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util
from safetensors.numpy import save_file

from ccl_jax import train
from ccl_jax.checkpoints.find import find_parameters
from ccl_jax.checkpoints.slices import SliceReader
from ccl_jax.codecs.bundle import Codecs, fingerprints, load_codecs, save_codecs
from ccl_jax.data.sets import plan
from ccl_jax.data.sets.buckets import Bucket, parse_spec
from ccl_jax.data.sets.writer import finish, new_shard
from ccl_jax.data.sources.catalogue import Catalogue, Item
from ccl_jax.errors import UsageError
from ccl_jax.generation.pipeline import describe
from ccl_jax.models import presets
from ccl_jax.models.byte_text import ByteText
from ccl_jax.models.stream import StreamConfig
from ccl_jax.sharding import make_mesh
from ccl_jax.tasks import Route
from ccl_jax.weights.join import join
from ccl_jax.weights.transfer import export_weights, import_weights
from ccl_jax.weights.transformers import model_of
from configs import joint
from tests.weights.ovi_files import FFN, LAYERS, TEXT, WIDTH, ovi_tensors
from tests.weights.wan_files import wan_tensors

NAME = "model_960x960_10s.safetensors"  # not the first release
VIDEO = StreamConfig(WIDTH, FFN, 1, in_channels=48, out_channels=48, frequencies=64)
AUDIO = StreamConfig(
  WIDTH, FFN, 1, in_channels=20, out_channels=20, patch=(1, 1, 1), positions="time",
  rate=0.19676, taps=7, frequencies=64,
)  # fmt: skip
WAN = StreamConfig(256, FFN, 2, frequencies=64)
STEPS = 2


@pytest.fixture(scope="module", autouse=True)
def sizes():
  """The presets of Ovi, as small as the weights."""
  with pytest.MonkeyPatch.context() as patch:
    small = presets.Preset(VIDEO, AUDIO, LAYERS, 5, 3)
    patch.setitem(presets.PRESETS, "5b", small)
    wan = dataclasses.replace(small, video=WAN)
    patch.setitem(presets.PRESETS, "1.3b_ovi", wan)
    yield


@pytest.fixture(scope="module")
def ovi(tmp_path_factory):
  """A converted Ovi; of the codecs, records of latents need the text's alone."""
  folder = tmp_path_factory.mktemp("ovi")
  save_file(ovi_tensors(), folder / NAME)
  import_weights("ovi-dit", folder / NAME, folder / "ovi")
  save_codecs(Codecs(text=ByteText(4, TEXT)), folder / "ovi" / "codecs")
  return folder / "ovi"


def latents(root, encoders, channels=48, stride=16):
  """A set of four clips with sound, of random latents."""
  rng, bucket = np.random.default_rng(0), Bucket.of(parse_spec("5x32x64@24"))
  items = {bucket: [Item(str(j), "", 0.0, None, "a cat yawns") for j in range(4)]}
  made = plan.make({}, encoders, Catalogue(items, []), 4)
  root.mkdir()
  plan.write(made, root)
  shapes = {
    "video": (2, 32 // stride, 64 // stride, channels), "audio": (bucket.tokens, 20),
    "text": (4, TEXT),
  }  # fmt: skip
  for shard in made.shards:
    with new_shard(root, shard, encoders) as records:
      for item in shard.items:
        drawn = {s: rng.standard_normal(x, np.float32) for s, x in shapes.items()}
        records.add(item.id, item.text, drawn)
  finish(root, made)
  return root


@pytest.fixture(scope="module")
def clips(ovi, tmp_path_factory):
  codecs = load_codecs(find_parameters(ovi).codecs)
  encoders = {"video": "v" * 64, "audio": "a" * 64} | fingerprints(codecs)
  return latents(tmp_path_factory.mktemp("set") / "a", encoders)


def trained(workdir, argument, codecs):
  """(parameters before, parameters after) of some steps of a config line."""
  config = joint.get_config(argument)
  small = {
    "steps": STEPS, "batch.size": 4, "mesh": (1, 1, 1, 1), "log_every": 1,
    "optim.warmup_steps": 0, "model.remat": "none", "model.dtype": "float32",
    "codec.path": str(codecs),
  }  # fmt: skip
  config.update_from_flattened_dict(small)
  one = make_mesh((1, 1, 1, 1), jax.devices()[:1])
  with pytest.MonkeyPatch.context() as patch:  # of the test's eight devices
    patch.setattr(train, "make_mesh", lambda *_, **__: one)
    assert train.train(config, workdir)
  rows = (workdir / "metrics.jsonl").read_text().splitlines()
  assert len(rows) >= STEPS and not any("NaN" in row or "nan" in row for row in rows)
  return flat(config.init), flat(workdir, "params")


def flat(folder, name="params"):
  """The parameters of a folder, by path, as they are stored."""
  reader = SliceReader(find_parameters(folder).folder / "checkpoints", name=name)
  out = {}
  for path, x in reader.shapes.items():
    layers = range(x.shape[0]) if path.startswith("blocks/") else ()
    out[path] = (
      np.stack([reader.read(path, (i,)) for i in layers])
      if layers
      else np.asarray(reader.read(path, ()))
    )
  return out


def moved(before, after):
  """The parameters that are not the same bits; those that are have every bit."""
  assert before.keys() == after.keys()
  return {p for p, x in before.items() if x.tobytes() != after[p].tobytes()}


def test_ovi_as_it_is(ovi, clips, tmp_path):
  """All of it learns; the run is sampled as Ovi is, and so is what it exports."""
  line = f"size=5b,variant=fusion,init={ovi},records={clips}"
  before, after = trained(tmp_path / "run", line, ovi / "codecs")
  assert moved(before, after) == before.keys()
  start, run = describe(ovi), describe(tmp_path / "run")
  told = find_parameters(tmp_path / "run").description
  assert told["guidance"] == start.guidance
  assert told["negative"]["audio"] == "robotic, muffled, echo, distorted"
  assert (run.spec.frames, run.spec.height, run.spec.width) == (5, 32, 64)
  assert (run.spec.fps, run.spec.stride, run.trained_shift) == (24, 16, 5.0)
  # Clips of another size than Ovi's: so are those that follow an image.
  assert run.release == dataclasses.replace(
    start.release, area=32 * 64, tasks=(*start.release.tasks, "a2v", "v2a")
  )
  assert run.release.sound == "sentence" and run.fit == "squeeze"
  out, back = tmp_path / "out", tmp_path / "back"
  export_weights(tmp_path / "run", out, form="native")
  assert (out / NAME).is_file()
  import_weights("ovi-dit", out, back)
  again = describe(back)
  for name in ("spec", "guidance", "trained_shift", "release"):
    assert getattr(again, name) == getattr(run, name), name
  assert find_parameters(back).description["negative"] == told["negative"]
  ema = flat(tmp_path / "run", "ema")
  assert not moved(flat(back), ema)


@pytest.mark.parametrize("part", ["exchange", "towers"])
def test_a_part_of_it(ovi, clips, tmp_path, part):
  """What the config line freezes keeps its bits, its average too; all else moves."""
  line = f"size=5b,variant=fusion,train={part},init={ovi},records={clips}"
  before, after = trained(tmp_path / "run", line, ovi / "codecs")
  exchange = {p for p in before if "_to_" in p}
  assert len(exchange) == 14  # k, v, norm, ln, of both directions
  wanted = exchange if part == "exchange" else before.keys() - exchange
  assert moved(before, after) == wanted
  assert moved(before, flat(tmp_path / "run", "ema")) == wanted


def test_another_network_than_the_start_is_one_line(ovi, clips, tmp_path):
  line = f"size=5b,init={ovi},records={clips}"
  with pytest.raises(UsageError, match="model.variant: got context; .* has fusion"):
    trained(tmp_path / "run", line, ovi / "codecs")
  # No shape tells the rate of positions.
  unscaled = dataclasses.replace(AUDIO, rate=1.0)
  other = dataclasses.replace(presets.PRESETS["5b"], audio=unscaled)
  with pytest.MonkeyPatch.context() as patch:
    patch.setitem(presets.PRESETS, "5b", other)
    with pytest.raises(UsageError, match="rate of the audio stream: got 1.0; .*0.1967"):
      trained(tmp_path / "run", f"{line},variant=fusion", ovi / "codecs")
  assert not (tmp_path / "run" / "config.json").exists()


def velocities(model, params, latents, text, route):
  times = {s: jnp.full((1, 1), 700.0) for s in latents}
  return jax.jit(lambda p: model.apply({"params": p}, latents, times, text, route))(
    params
  )


def test_ccl_from_its_towers(ovi, clips, tmp_path):
  """The joint model is both towers alone, bit for bit; then it learns."""
  about = join(ovi, ovi, tmp_path / "joint", size="5b")
  rng = np.random.default_rng(1)
  given = {
    "video": jnp.asarray(rng.standard_normal((1, 2, 2, 4, 48), np.float32)),
    "audio": jnp.asarray(rng.standard_normal((1, 7, 20), np.float32)),
  }
  text = jnp.asarray(rng.standard_normal((1, 4, TEXT), np.float32))
  device = lambda flat: {p: jnp.asarray(x) for p, x in flat.items()}
  tree = lambda flat: traverse_util.unflatten_dict(device(flat), sep="/")
  towers, start = flat(ovi), flat(tmp_path / "joint")
  both = Route({"video": True, "audio": True})
  model = presets.build_model(**about["model"], dtype="float32")
  got = velocities(model, tree(start), given, text, both)
  alone = model_of(find_parameters(ovi)).clone(dtype="float32")
  for s in given:
    expected = velocities(alone, tree(towers), {s: given[s]}, text, Route())[s]
    assert expected.std() > 0.1
    np.testing.assert_array_equal(got[s], expected)
  line = f"size=5b,init={tmp_path / 'joint'},records={clips}"
  before, after = trained(tmp_path / "run", line, ovi / "codecs")
  assert not moved(before, start)
  # The second step reaches what stands behind a zero output.
  assert moved(before, after) == before.keys()
  told = describe(tmp_path / "run")
  assert told.release.sound == "sentence" and told.release.tasks is None
  assert find_parameters(tmp_path / "run").description["negative"] == about["negative"]


def test_wans_picture_with_ovis_sound(ovi, tmp_path):
  """Towers of other widths, of latents of another VAE."""
  save_file(wan_tensors(text=TEXT), tmp_path / "model.safetensors")
  import_weights("wan-dit", tmp_path / "model.safetensors", tmp_path / "wan")
  about = join(tmp_path / "wan", ovi, tmp_path / "joint", size="1.3b_ovi")
  assert about["clip"] == {"frames": 81, "height": 480, "width": 832, "fps": 16.0}
  assert about["sound"] == "sentence" and "area" not in about
  assert about["negative"]["audio"] == "robotic, muffled, echo, distorted"
  start, towers = flat(tmp_path / "joint"), flat(ovi)
  audio = {p for p in start if p.startswith(("audio/", "blocks/audio/"))}
  assert not moved({p: start[p] for p in audio}, {p: towers[p] for p in audio})
