"""Every command that writes a place is refused one that another process writes."""

import fcntl
import pathlib
from types import SimpleNamespace

import pytest

from ccl_jax import eval as evaluation
from ccl_jax.audio_codec import run as audio_training
from ccl_jax.checkpoints.folders import new_folder
from ccl_jax.data import __main__ as data
from ccl_jax.data.preparing.rows import Options
from ccl_jax.data.preparing.run import prepare
from ccl_jax.encoding import run as encoding
from ccl_jax.errors import UsageError
from ccl_jax.generation import report as reporting
from configs import common
from tests.flags.command import command
from tests.flags.config_keys import get

HOLDER = "process 7 on another (python -m ccl_jax.train)"


@pytest.fixture
def taken(tmp_path):
  """A function that holds a lock file below `tmp_path`, as another process would."""
  files = []

  def take(name):
    path = tmp_path / name
    path.parent.mkdir(parents=True, exist_ok=True)
    files.append(path.open("w"))
    fcntl.flock(files[-1], fcntl.LOCK_EX)
    files[-1].write(HOLDER + "\n")
    files[-1].flush()
    return path.parent

  yield take
  for file in files:
    file.close()


def refused(call, *args, **kwargs):
  with pytest.raises(UsageError) as e:
    call(*args, **kwargs)
  assert HOLDER in str(e.value) and "is being written by" in str(e.value)


def left(folder):
  return sorted(str(p.relative_to(folder)) for p in folder.rglob("*"))


def test_train(taken, tmp_path, monkeypatch):
  train = command("train").module
  monkeypatch.setattr(train, "check", lambda config: None)
  refused(train.train, common.base(), taken("run/.lock"))
  assert left(tmp_path / "run") == [".lock"]


def test_train_audio(taken, tmp_path, monkeypatch):
  monkeypatch.setattr(audio_training, "check", lambda config: None)
  refused(audio_training.train, get("audio_vae"), taken("run/.lock"))
  assert left(tmp_path / "run") == [".lock"]


def test_encode(taken, tmp_path):
  """Each process has its own part of the set."""
  config = get("encode", f"data={tmp_path},out={tmp_path / 'set'},runlocal")
  taken("set/.lock-1")
  refused(encoding.encode, config, 1, 2)
  with pytest.raises(UsageError, match="no media|no usable|no film"):
    encoding.encode(config, 0, 2)


def test_prepare_and_a_new_folder(taken, tmp_path):
  taken(".table.jsonl.lock")
  refused(prepare, tmp_path, tmp_path / "table.jsonl", Options())
  taken(".dst.lock")
  refused(lambda: new_folder(tmp_path / "dst", 0).__enter__())
  assert left(tmp_path) == [".dst.lock", ".table.jsonl.lock"]


def test_convert(taken, tmp_path, capsys):
  from ccl_jax import convert

  taken(".dst.lock")
  for flags in (
    ["wan", "--src", "S"],
    ["codecs", "--video", "V"],
    ["umt5", "--src", "S"],
  ):
    with pytest.raises(SystemExit) as e:
      convert.main([*flags, "--dst", str(tmp_path / "dst")])
    assert e.value.code == 2 and HOLDER in capsys.readouterr().err


def test_build(taken, tmp_path, capsys):
  taken("films/tfds/.lock")
  with pytest.raises(SystemExit) as e:
    data.main(["build", "folder", str(tmp_path / "films")])
  assert e.value.code == 2 and HOLDER in capsys.readouterr().err


def test_eval(taken, tmp_path):
  (tmp_path / "films").mkdir()
  (tmp_path / "films" / "a.mp4").touch()
  taken("out/.lock")
  flags = ["--videos", str(tmp_path / "films"), "--out", str(tmp_path / "out")]
  refused(evaluation.main, [*flags, "--metrics", "av_align"])


def test_report(taken, tmp_path, monkeypatch):
  monkeypatch.setattr(reporting, "load_model", lambda _: SimpleNamespace(spec=None))
  monkeypatch.setattr(reporting, "settings_of", lambda *_: {"guidance": "ucg2"})
  monkeypatch.setattr(reporting, "held_out", lambda *_: [])
  taken("report/.lock")
  refused(reporting.report, common.base(), tmp_path)
  assert left(tmp_path / "report") == [".lock"]


def test_a_manifests_part(taken, tmp_path, monkeypatch):
  """Another manifest, or another part of it, may be made into the folder meanwhile."""
  generate = command("generate").module
  manifest = pathlib.Path("/m.jsonl")
  name = generate.hashlib.blake2s(str(manifest).encode()).hexdigest()[:8]
  taken(f"out/.lock-{name}-0")
  maker = SimpleNamespace(
    out=tmp_path / "out",
    about=SimpleNamespace(takes_channels=False),
    differs=None,
    sampling=SimpleNamespace(guidance="ucg2"),
  )
  made = []
  monkeypatch.setattr(
    "ccl_jax.generation.manifests.make_set", lambda *a, **_: made.append(a[4])
  )
  flags = {"MANIFEST": str(manifest), "COUNT": 2, "BATCH": 1, "TASK": "joint"}
  flags |= {"SEED": [0], "DISTRIBUTED": False}
  for flag, value in (flags | {"INDEX": 0}).items():
    monkeypatch.setattr(generate, flag, SimpleNamespace(value=value))
  refused(generate.make_manifest, maker)
  monkeypatch.setattr(generate, "INDEX", SimpleNamespace(value=1))
  generate.make_manifest(maker)
  assert made == [1]
