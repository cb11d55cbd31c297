"""The command of audio training: what is wrong is said in one line."""

import pytest

from tests.data.sound_files import write
from tests.e2e.commands import finish

MODULE = "ccl_jax.train_audio"


@pytest.fixture(scope="module")
def folders(home):
  """By name: without files, without sound, of files too short, and one that is good."""
  root = home / "sounds"
  (root / "empty").mkdir(parents=True)
  (root / "textual").mkdir()
  (root / "textual/thesis.tex").write_text("precious")
  (root / "broken").mkdir()
  (root / "broken/a.wav").write_bytes(b"no sound")
  write(root / "short/a.wav", 2000)
  write(root / "single/a.wav", 9000)
  write(root / "good/a.wav", 60_000)
  return root


CASES = [
  (["audio_vae.py:data=ROOT/none,runlocal"], ["no folder at", "none"]),
  (["audio_vae.py:data=ROOT/empty,runlocal"], ["no media in", "empty", ".wav"]),
  (["audio_vae.py:data=ROOT/textual,runlocal"], ["no media in", "textual"]),
  (["vocoder.py:data=ROOT/broken,runlocal"], ["no usable sound", "a.wav"]),
  (["audio_vae.py:data=ROOT/short,runlocal"], ["too short", "0.12 s", "0.51 s"]),
  (["audio_vae.py:data=ROOT/single,runlocal"], ["too little sound", "test=FOLDER"]),
  (["audio_vae.py:runlocal"], ["data=FOLDER"]),
  (["vocoder.py:data=ROOT/good,vae=ROOT/none,runlocal"], ["none", "config.json"]),
  (["vocoder.py:data=ROOT/good,size=huge"], ["huge", "tiny"]),
  (["audio_vae.py:data=ROOT/good,runlocal", "--config.model.depth=3"], ["depth"]),
  (["audio_vae.py:data=ROOT/good,runlocal", "--config.batch.size=0"], ["batch.size"]),
]


def test_mistakes_are_one_line(home, folders):
  for i, (given, words) in enumerate(CASES):
    config = given[0].replace("ROOT", str(folders))
    workdir = f"--workdir={home / f'audio_mistake_{i}'}"
    code, out = finish(MODULE, [f"--config=configs/{config}", workdir, *given[1:]])
    assert code == 2, (given, out)
    line = out.strip().splitlines()[-1]
    assert line.startswith("error: ") and all(w in line for w in words), (given, line)
    assert "Traceback" not in out, given
