"""From a Wan2.1 download to a film, and on to a joint model, by the commands."""

import json

import jax
import numpy as np
import pytest
from flax import traverse_util
from ml_collections import ConfigDict

from ccl_jax import convert, train
from ccl_jax.checkpoints.slices import SliceReader
from ccl_jax.codecs.bundle import load_codecs
from ccl_jax.codecs.images import to_bytes, to_unit
from ccl_jax.data.media.decode import read_video
from ccl_jax.data.spec import ClipSpec
from ccl_jax.errors import UsageError
from ccl_jax.generation.pipeline import LoadedModel
from ccl_jax.generation.sampling import Sampling
from ccl_jax.models import presets
from ccl_jax.models.stream import StreamConfig
from ccl_jax.weights.reader import open_weights
from ccl_jax.weights.release import convert_release
from ccl_jax.weights.transfer import export_weights
from configs import joint
from tests.e2e.commands import finish, finish_alone
from tests.weights.release_files import diffusers_release, dit_sizes, native_release

CLIP = ClipSpec(9, 32, 48, 16.0)
FAST = Sampling(guidance="text", scales={"video": {"s": 3.0}}, steps=2, shift=3.0)


@pytest.fixture(scope="module")
def i2v(tmp_path_factory):
  """A converted image-to-video release, and the folder it was downloaded to."""
  folder = tmp_path_factory.mktemp("i2v")
  native_release(folder / "download", image=True)
  convert_release(folder / "download", folder / "wan", verify=True)
  return folder


@pytest.fixture(scope="module")
def pipeline(i2v):
  """The release, loaded once: what one test compiles the others run."""
  return LoadedModel.load(i2v / "wan")


@pytest.fixture(scope="module")
def picture():
  return np.random.default_rng(0).integers(0, 255, (1, 32, 48, 3), np.uint8)


def test_a_download_becomes_a_film(tmp_path):
  """By the two commands that a user types."""
  download = native_release(tmp_path / "Wan2.1-T2V", image=False)
  to = ["--src", str(download), "--dst", str(tmp_path / "wan")]
  code, out = finish_alone("ccl_jax.convert", ["wan", *to])
  assert code == 0, out
  made = [
    f"--ckpt={tmp_path / 'wan'}", f"--out={tmp_path / 'out'}", "--task=t2v",
    "--prompt=a cat yawns", "--steps=2", "--frames=9", "--height=32", "--width=48",
  ]  # fmt: skip
  code, out = finish_alone("ccl_jax.generate", made)
  assert code == 0, out
  video = read_video(tmp_path / "out" / "t2v_0_0.mp4", CLIP)
  assert video.shape == (9, 32, 48, 3) and video.std() > 1
  about = json.loads((tmp_path / "out" / "t2v_0_0.json").read_text())
  assert (about["fps"], about["shift"], about["scales"]) == (
    16.0, 5.0, {"video": {"s": 5.0}},
  )  # fmt: skip
  code, out = finish("ccl_jax.convert", ["wan", *to])
  assert code == 2 and "is there already" in out


def test_both_layouts_are_one_model(pipeline, picture, tmp_path):
  """The same release by diffusers' names makes the same film."""
  convert_release(diffusers_release(tmp_path / "hub", image=True), tmp_path / "wan")
  films = []
  for loaded in (pipeline, LoadedModel.load(tmp_path / "wan")):
    made = loaded.generate(
      "i2v", ["a cat"], sampling=FAST, spec=CLIP, image=picture, negative="red"
    )
    films.append(made["video"])
  assert films[0].std() > 1
  np.testing.assert_array_equal(*films)


def test_an_image_moves_the_film(pipeline, picture):
  assert pipeline.negative["video"].startswith("镜头晃动")
  assert pipeline.shift(CLIP) == 3.0
  make = lambda image, prompt="a cat": pipeline.generate(
    "i2v", [prompt], sampling=FAST, spec=CLIP, image=image
  )["video"].astype(float)
  first = make(picture)
  np.testing.assert_array_equal(first, make(picture))
  assert np.abs(first - make(255 - picture)).mean() > 0.5
  assert np.abs(first - make(picture, "red grass")).mean() > 0.01
  with pytest.raises(UsageError, match="this model was made for image to video"):
    pipeline.generate("t2v", ["a cat"], sampling=FAST, spec=CLIP)


def test_a_clip_of_a_batch_is_that_of_its_seed(pipeline, picture):
  """Made together or alone; the order of float32 sums is all that may differ."""

  def make(prompts, seed):
    image = np.repeat(picture, len(prompts), 0)
    made = pipeline.generate(
      "i2v", prompts, sampling=FAST, spec=CLIP, image=image, seed=seed
    )
    return made["video"].astype(float)

  both = make(["a cat", "red grass"], [3, 4])
  alone = [make(["a cat"], 3), make(["red grass"], [4])]
  for one, other in zip(both, alone):
    assert np.abs(one - other[0]).mean() < 0.05
  assert np.abs(both[0] - make(["a cat"], 4)[0]).mean() > 0.5
  with pytest.raises(UsageError, match="3 seeds for 2 prompts"):
    make(["a cat", "a cat"], [1, 2, 3])


@pytest.fixture(scope="module")
def mini():
  """A preset of the small release's sizes, with an audio stream."""
  own = {k: v for k, v in dit_sizes(False).items() if k not in ("depth", "text_dim")}
  audio = StreamConfig(
    64, 96, 1, in_channels=20, out_channels=20, patch=(1, 1, 1), positions="line"
  )
  with pytest.MonkeyPatch.context() as patch:
    size = presets.Preset(StreamConfig(**own), audio, 2, 4, 3)
    patch.setitem(presets.PRESETS, "mini", size)
    yield


def training(workdir, init, image_form) -> ConfigDict:
  config = joint.get_config(f"runlocal,init={init},image_form={image_form}").unlock()
  config.model.preset = "mini"
  config.model.remat = "none"  # it compiles sooner
  config.clip = {"frames": 9, "height": 32, "width": 32, "fps": 16.0}
  config.steps, config.batch.size, config.checkpoint.every = 2, 8, 1
  config.optim.groups = ((".*", 0.0, 0.0),)
  config.data.options.n_train = 8
  config.mesh = (1, 4, 2, 1)
  workdir.mkdir()
  return config.lock()


def test_a_joint_model_starts_from_the_release_and_trains(i2v, mini, tmp_path):
  """Sharded over eight devices; the learning rate is zero, so what comes out is what
  went in. The codecs are the release's, and a fitted one for the sound it lacks.
  """
  convert.main(
    [
      "join",
      "--video",
      str(i2v / "wan"),
      "--size",
      "mini",
      "--dst",
      str(tmp_path / "j"),
    ]
  )
  config = training(tmp_path / "run", tmp_path / "j", "channels")
  assert train.train(config, tmp_path / "run")
  joined = SliceReader(tmp_path / "j" / "checkpoints")
  trained = SliceReader(tmp_path / "run" / "checkpoints", name="ema")
  assert joined.shapes.keys() == trained.shapes.keys()
  for path in joined.shapes:
    np.testing.assert_array_equal(joined.read(path, ()), trained.read(path, ()))
  codecs = load_codecs(tmp_path / "run" / "codecs")
  kinds = [type(codec).__name__ for codec in codecs]
  assert kinds == ["WanVideoCodec", "LinearAudioCodec", "UMT5Text", "ClipImage"]
  links = json.loads((tmp_path / "run" / "codecs" / "video.json").read_text())["links"]
  assert links[0][1] == str(i2v / "wan" / "vae")
  losses = [
    json.loads(line)["loss"] for line in (tmp_path / "run" / "metrics.jsonl").open()
  ]
  assert len(losses) == 2 and np.isfinite(losses).all()

  # And it generates, image and all.
  made = LoadedModel.load(tmp_path / "run").generate(
    "ti2av",
    ["a cat"],
    sampling=Sampling(guidance="ucg2", steps=2),
    image=np.zeros((1, 32, 32, 3), np.uint8),
  )
  assert made["video"].shape == (1, 9, 32, 32, 3) and np.isfinite(made["audio"]).all()


def test_storing_products_in_the_compute_dtype_changes_no_number(i2v, pipeline):
  """Half the memory: the same velocity, bit for bit, from float32 parameters."""
  flat = traverse_util.flatten_dict(pipeline.params, sep="/")
  half = {k for k, v in flat.items() if v.dtype == jax.numpy.bfloat16}
  assert "blocks/video/ffn/in/kernel" in half and "video/head/kernel" not in half
  reader = SliceReader(i2v / "wan" / "dit" / "checkpoints")
  full = {k: jax.numpy.asarray(reader.read(k, ())) for k in flat}
  rng = np.random.default_rng(2)
  draw = lambda *shape: jax.numpy.asarray(rng.standard_normal(shape), "float32")
  args = {"video": draw(1, 3, 4, 6, 36)}, {"video": draw(1, 1)}, draw(1, 512, 32)
  image = {"video": draw(1, 5, 1280)}
  apply = jax.jit(pipeline.model.apply)
  stored, exact = (
    apply({"params": traverse_util.unflatten_dict(p, sep="/")}, *args, image=image)
    for p in (flat, full)
  )
  np.testing.assert_array_equal(stored["video"], exact["video"])


def test_other_weights_than_the_bundle_was_made_with(i2v, tmp_path):
  """A link holds the hash of what it points to."""
  bundle = tmp_path / "codecs"
  convert.main(
    ["codecs", "--video", str(i2v / "wan" / "vae"), "--text", str(i2v / "wan" / "umt5"),
     "--dst", str(bundle)]
  )  # fmt: skip
  assert load_codecs(bundle).image is None
  path = bundle / "video.json"
  about = json.loads(path.read_text())
  about["links"][0][2] = "0" * 64
  path.write_text(json.dumps(about))
  with pytest.raises(UsageError, match="made with other weights than those"):
    load_codecs(bundle)
  with pytest.raises(SystemExit):
    convert.main(["codecs", "--video", str(tmp_path), "--dst", str(tmp_path / "b")])
  assert not (tmp_path / "b").exists()


def test_the_transformer_of_a_release_goes_out_again(i2v, tmp_path):
  """`export` takes the very folder that `convert wan` writes."""
  export_weights(i2v / "wan", tmp_path / "out", form="native")
  got, source = open_weights(tmp_path / "out"), open_weights(i2v / "download")
  assert sorted(got.names()) == sorted(source.names())
  assert all(got.read(n).tobytes() == source.read(n).tobytes() for n in got.names())


LACKING = [
  (diffusers_release, 16, "vae/diffusion_pytorch_model.safetensors", "vae"),
  (native_release, 48, "Wan2.2_VAE.pth", "expected Wan2.2_VAE.pth"),
  (diffusers_release, 48, "vae/diffusion_pytorch_model.safetensors", "vae"),
  (native_release, 48, "models_t5_umt5-xxl-enc-bf16.pth", "models_t5*"),
  (diffusers_release, 48, "text_encoder/model.safetensors", "text_encoder"),
]


@pytest.mark.parametrize(("make", "channels", "file", "told"), LACKING)
def test_a_download_that_lacks_a_network(tmp_path, capsys, make, channels, file, told):
  """Is refused before anything is written."""
  (tmp_path / "d").mkdir()
  download = make(tmp_path / "d", image=False, channels=channels)
  (download / file).unlink()
  with pytest.raises(SystemExit) as e:
    convert.main(["wan", "--src", str(download), "--dst", str(tmp_path / "wan")])
  lines = capsys.readouterr().err.strip().splitlines()
  assert e.value.code == 2 and len(lines) == 1 and lines[0].startswith("error: ")
  assert told in lines[0]
  assert not (tmp_path / "wan").exists()


def test_ti2v_5b_in_both_layouts_becomes_a_film_of_its_first_frame(i2v, tmp_path):
  """The layouts are one model; its film begins with what the VAE makes of a picture."""
  clip = ClipSpec(5, 32, 64, 24.0, stride=16)
  sources = []
  for make in (native_release, diffusers_release):
    folder = tmp_path / make.__name__
    make(folder, image=False, channels=48)
    convert_release(folder, folder / "wan")
    parts = [folder / "wan" / part / "config.json" for part in ("dit", "vae")]
    sources.append([json.loads(p.read_text())["source"]["sha256"] for p in parts])
  assert sources[0] == sources[1]
  pipeline = LoadedModel.load(folder / "wan")
  assert pipeline.spec == ClipSpec(121, 704, 1280, 24.0, stride=16)
  picture = np.random.default_rng(0).integers(0, 255, (1, 32, 64, 3), np.uint8)
  made = pipeline.generate("i2v", ["a cat"], sampling=FAST, spec=clip, image=picture)
  video = pipeline.codecs.video
  shown = jax.jit(lambda c, x: c.decode(c.encode(x)))(video, to_unit(picture[:, None]))
  assert made["video"].shape == (1, 5, 32, 64, 3) and shown.std() > 0.05
  difference = made["video"][:, :1].astype(int) - to_bytes(shown)
  assert np.abs(difference).max() <= 1
  # Another release's VAE is no codec of it.
  with pytest.raises(UsageError, match="16 channels, the model takes 48"):
    LoadedModel.load(folder / "wan", codecs=i2v / "wan" / "codecs")


def test_an_interrupted_conversion_goes_on(tmp_path, monkeypatch, capsys):
  """With the same command, and no other."""
  from ccl_jax.weights import release

  download = diffusers_release(tmp_path / "d", image=False)
  copy = diffusers_release(tmp_path / "copy", image=False)
  done = []
  real = release.import_weights

  def failing(kind, *args, **kwargs):
    if kind == "umt5" and not done:
      done.append(kind)
      raise KeyboardInterrupt
    return real(kind, *args, **kwargs)

  monkeypatch.setattr(release, "import_weights", failing)
  given = ["wan", "--src", str(download), "--dst", str(tmp_path / "wan")]
  with pytest.raises(SystemExit) as e:
    convert.main(given)
  assert e.value.code == 130
  assert "what is finished stays, the same command goes on" in capsys.readouterr().err
  for other, name in (
    (["--dtype", "float32"], "--dtype None, got float32"),
    (["--src", str(copy)], f"--src {download}, got {copy}"),
  ):
    with pytest.raises(SystemExit) as e:
      convert.main([*given, *other])
    assert e.value.code == 2 and name in capsys.readouterr().err
  before = (tmp_path / "wan" / "vae" / "tensors.json").stat().st_mtime_ns
  with pytest.raises(UsageError, match="holds no model"):
    LoadedModel.load(tmp_path / "wan")
  convert_release(download, tmp_path / "wan")
  assert (tmp_path / "wan" / "vae" / "tensors.json").stat().st_mtime_ns == before
  assert {p.name for p in (tmp_path / "wan").iterdir()} == {
    "config.json", "codecs", "dit", "umt5", "vae",
  }  # fmt: skip
