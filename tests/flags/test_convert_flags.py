"""What `convert` hands on of its flags, and what a release's parts are made with."""

import json

import pytest

from ccl_jax.errors import UsageError
from ccl_jax.weights import join as join_module
from ccl_jax.weights import lora_write, release
from tests.flags.command import module_of
from tests.flags.recording import Recorder

KINDS = (
  "wan-dit", "ovi-dit", "wan-vae", "wan22-vae", "umt5", "clip", "aesthetics", "i3d",
  "vggish", "syncnet", "s3fd", "synchformer", "imagebind", "audio-vae", "vocoder",
)  # fmt: skip


@pytest.fixture
def told(monkeypatch):
  r, convert = Recorder(monkeypatch), module_of("convert")
  monkeypatch.setattr(convert.signal, "signal", lambda *_: None)
  for name in ("import_weights", "export_weights"):
    r.replace(convert, name, {"kind": "x"})
  r.replace(release, "convert_release", {})
  r.replace(release, "link_codecs")
  r.replace(join_module, "join", {"random": ["audio", "exchange"]})
  r.main = lambda *argv: convert.main(list(argv))
  return r


@pytest.mark.parametrize("kind", KINDS)
def test_a_network(told, capsys, kind):
  """--src, --dst, --dtype and --verify of every network."""
  told.main(kind, "--src", "S", "--dst", "D")
  call = told.last("import_weights")
  assert call == ((kind, "S", "D"), {"dtype": None, "verify": False})
  out = capsys.readouterr()
  assert out.out == "D\n"
  assert ("licence: " in out.err) == (kind in ("audio-vae", "vocoder", "imagebind"))
  told.main(kind, "--src", "S", "--dst", "D", "--dtype", "bfloat16", "--verify")
  call = told.last("import_weights")
  assert call == ((kind, "S", "D"), {"dtype": "bfloat16", "verify": True})


@pytest.mark.parametrize("kind", ["wan", "ovi"])
def test_a_whole_release(told, capsys, kind):
  told.main(kind, "--src", "S", "--dst", "D")
  call = told.last("convert_release")
  assert call == (("S", "D"), {"kind": kind, "dtype": None, "verify": False})
  # Of what in it has narrower terms than ours.
  assert capsys.readouterr().err.count("non-commercial") == 2 * (kind == "ovi")
  told.main(kind, "--src", "S", "--dst", "D", "--dtype", "float16", "--verify")
  call = told.last("convert_release")
  assert call == (("S", "D"), {"kind": kind, "dtype": "float16", "verify": True})
  assert not told.calls["import_weights"]


def test_lora(told, monkeypatch, capsys):
  monkeypatch.setattr(
    lora_write, "convert_lora", told.stub("x is left out", "convert_lora")
  )
  given = ("--src", "S", "--dst", "D.safetensors", "--model", "M")
  told.main("lora", *given, "--format", "comfyui")
  call = told.last("convert_lora")
  assert call == (("S", "D.safetensors"), {"model": "M", "form": "comfyui"})
  assert capsys.readouterr().err == "note: x is left out\n"


def test_export(told):
  told.main("export", "--src", "S", "--dst", "D", "--format", "native")
  call = told.last("export_weights")
  assert call == (("S", "D"), {"form": "native", "dtype": None, "verify": False})
  told.main(
    "export", "--src", "S", "--dst", "D", "--format", "diffusers", "--verify",
    "--dtype", "bfloat16",
  )  # fmt: skip
  call = told.last("export_weights")
  expected = {"form": "diffusers", "dtype": "bfloat16", "verify": True}
  assert call == (("S", "D"), expected)


def test_join(told, capsys):
  told.main("join", "--video", "V", "--size", "14b", "--dst", "D")
  call = told.last("join")
  assert call.args == ("V", None, "D")
  none = {"video_tokens": None, "audio_tokens": None}
  assert call.kwargs == {"size": "14b", "variant": "context", "seed": 0, **none}
  told.main(
    "join", "--video", "V", "--audio", "A", "--size", "1.3b", "--dst", "D",
    "--variant", "gate", "--seed", "7", "--video_tokens", "3", "--audio_tokens", "2",
  )  # fmt: skip
  call = told.last("join")
  assert call.args == ("V", "A", "D")
  tokens = {"video_tokens": 3, "audio_tokens": 2}
  assert call.kwargs == {"size": "1.3b", "variant": "gate", "seed": 7, **tokens}
  assert "random, from seed 7: audio, exchange" in capsys.readouterr().out


def test_codecs(told):
  told.main("codecs", "--dst", "D", "--text", "T")
  expected = {"video": None, "audio": None, "text": ["T"], "image": None}
  assert told.last("link_codecs") == (("D",), expected)
  told.main(
    "codecs", "--dst", "D", "--video", "V", "--audio", "A", "B", "--image", "I"
  )  # fmt: skip
  expected = {"video": ["V"], "audio": ["A", "B"], "text": None, "image": ["I"]}
  assert told.last("link_codecs") == (("D",), expected)


@pytest.mark.parametrize(
  ("argv", "words"),
  [
    (["wan-dit", "--src", "S"], "--dst"),
    (["wan-dit", "--dst", "D"], "--src"),
    (["vocoder", "--src", "S", "--dst", "D", "--dtype", "int8"], "int8"),
    (["export", "--src", "S", "--dst", "D"], "--format"),
    (["join", "--video", "V", "--dst", "D"], "--size"),
    (["join", "--size", "14b", "--dst", "D"], "--video"),
    (["wan-dit", "--sr", "S", "--dst", "D"], "--src"),
  ],
)
def test_what_is_needed(told, capsys, argv, words):
  with pytest.raises(SystemExit) as e:
    told.main(*argv)
  assert e.value.code == 2 and words in capsys.readouterr().err
  assert not told.calls["import_weights"]


def test_an_interruption_is_told(told, monkeypatch, capsys, tmp_path):
  def stopped(*_, **__):
    raise KeyboardInterrupt

  monkeypatch.setattr(module_of("convert"), "import_weights", stopped)
  with pytest.raises(SystemExit) as e:
    told.main("clip", "--src", "S", "--dst", "D")
  assert e.value.code == 130
  assert "interrupted: D: nothing was left in it" in capsys.readouterr().err
  with pytest.raises(SystemExit):
    told.main("clip", "--src", "S", "--dst", str(tmp_path))
  assert f"{tmp_path}: what is finished stays" in capsys.readouterr().err


@pytest.fixture
def parts(monkeypatch):
  """Stand-ins for what a release is made of; `image` tokens or none."""
  r = Recorder(monkeypatch)
  r.image, r.channels = 257, 16
  source = lambda kind, src: type(
    "S", (), {"sizes": {"image_tokens": r.image, "out_channels": r.channels}}
  )
  r.replace(release, "open_source", source)

  def imported(kind, src, dst, **_):
    dst.mkdir(parents=True)
    (dst / "config.json").write_text("{}")
    return {}

  r.replace(release, "import_weights", imported)
  r.replace(release, "link_codec", lambda *folders: [f.name for f in folders])
  r.replace(release, "save_codecs")
  return r


def test_the_dtype_of_a_release_is_the_transformers(parts, tmp_path):
  """Of the codecs only the text encoder has one, bfloat16; --verify is for all."""
  src, dst = tmp_path / "Wan2.1-I2V", tmp_path / "wan"
  about = release.convert_release(src, dst, dtype="float16", verify=True)
  made = {c.args[0]: (c.args[2], c.kwargs) for c in parts.calls["import_weights"]}
  options = lambda dtype: {"dtype": dtype, "verify": True}
  assert made == {
    "wan-vae": (dst / "vae", options(None)),
    "umt5": (dst / "umt5", options("bfloat16")),
    "clip": (dst / "clip", options(None)),
    "wan-dit": (dst / "dit", options("float16")),
  }
  codecs, folder = parts.last("save_codecs").args
  assert folder == dst / "codecs"
  assert codecs._asdict() == {
    "video": ["vae"], "audio": None, "text": ["umt5"], "image": ["clip"],
  }  # fmt: skip
  assert about == {"kind": "wan", "name": "Wan2.1-I2V"}
  assert json.loads((dst / "config.json").read_text()) == about
  with pytest.raises(UsageError, match="is there already"):
    release.convert_release(src, dst)


def test_text_to_video_has_no_image_encoder_and_goes_on(parts, tmp_path):
  parts.image = 0
  (tmp_path / "wan/vae").mkdir(parents=True)
  (tmp_path / "wan/vae/config.json").write_text("{}")  # an earlier try came so far
  release.convert_release(tmp_path, tmp_path / "wan")
  made = [(c.args[0], c.kwargs["verify"]) for c in parts.calls["import_weights"]]
  assert made == [("umt5", False), ("wan-dit", False)]
  assert [c.args[0] for c in parts.calls["open_source"]] == [
    "wan-dit",
    "wan-vae",
    "umt5",
  ]
  assert parts.told("save_codecs", 0).image is None


def test_a_release_of_wan22_has_its_own_vae(parts, tmp_path):
  parts.image, parts.channels = 0, 48
  release.convert_release(tmp_path, tmp_path / "wan")
  made = [(c.args[0], c.args[2].name) for c in parts.calls["import_weights"]]
  assert made == [("wan22-vae", "vae"), ("umt5", "umt5"), ("wan-dit", "dit")]
  assert parts.told("save_codecs", 0).video == ["vae"]


def test_a_bundle_of_nothing(tmp_path):
  with pytest.raises(UsageError, match="got no codec"):
    release.link_codecs(tmp_path, video=None, audio=None)
