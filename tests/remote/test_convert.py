"""Published weights from a bucket into a bucket: the bytes that a disk would have."""

import json

import numpy as np
import pytest

from ccl_jax import convert
from ccl_jax.checkpoints.converted import restore_converted
from ccl_jax.checkpoints.find import find_parameters
from ccl_jax.codecs.bundle import load_codecs
from ccl_jax.errors import UsageError
from ccl_jax.files import UNFINISHED
from ccl_jax.remote import copies
from ccl_jax.weights import release
from ccl_jax.weights.reader import open_weights
from ccl_jax.weights.release import convert_release
from ccl_jax.weights.transfer import export_weights, import_weights
from tests.remote.test_data import upload
from tests.weights.release_files import native_release
from tests.weights.wan_files import config, save_shards, wan_tensors


@pytest.fixture(scope="module")
def source(tmp_path_factory):
  """A download: shards, index, config.json."""
  folder = tmp_path_factory.mktemp("source") / "Wan2.1-I2V"
  save_shards(folder, wan_tensors(image=True))
  (folder / "config.json").write_text(json.dumps(config(image=True)))
  return folder


@pytest.fixture(scope="module")
def imported(tmp_path_factory, source):
  folder = tmp_path_factory.mktemp("imported") / "i2v"
  import_weights("wan-dit", source, folder)
  return folder


def test_in_and_out_again_is_the_same_bytes(bucket, source, imported, tmp_path):
  there = upload(source, bucket / "downloads" / source.name)
  import_weights("wan-dit", str(there), str(bucket / "w"), verify=True)
  for name in ("config.json", "tensors.json"):
    assert (bucket / "w" / name).read_bytes() == (imported / name).read_bytes()
  got, expected = restore_converted(bucket / "w"), restore_converted(imported)
  kernel = lambda tree: np.asarray(tree["video"]["patch_embedding"]["kernel"])
  assert kernel(got).tobytes() == kernel(expected).tobytes()
  assert find_parameters(str(bucket / "w")).name == "params"
  export_weights(str(bucket / "w"), str(bucket / "out"), form="native", verify=True)
  with copies.local_tree(bucket / "out") as folder:
    written = open_weights(folder)
    for name, x in wan_tensors(image=True).items():
      assert written.read(name).tobytes() == x.tobytes(), name


def test_what_is_wrong_is_one_line_and_leaves_nothing(
  bucket, source, monkeypatch, capsys
):
  there = upload(source, bucket / "downloads" / source.name)
  shard = next(p for p in there.iterdir() if p.suffix == ".safetensors")
  before = [str(p) for p in bucket.walk()]
  command = ["wan-dit", f"--src={there}", f"--dst={bucket / 'w'}"]

  def refused(words):
    with pytest.raises(SystemExit) as e:
      convert.main(command)
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert e.value.code == 2 and words in line, line

  monkeypatch.setenv(copies.LIMIT, "1e-6")
  refused(f"{there} has 0.0 GB, which are copied to this machine")
  monkeypatch.delenv(copies.LIMIT)
  data = shard.read_bytes()
  shard.write_bytes(data[:-1])
  refused(f"{there}/{shard.name}")  # by the name that the user knows
  shard.write_bytes(data)
  assert [str(p) for p in bucket.walk()] == before


def test_a_release_goes_on_where_it_was(bucket, tmp_path, monkeypatch):
  there = upload(native_release(tmp_path / "Wan2.1-T2V", image=False), bucket / "Wan")
  import_once, done = release._import_once, []

  def twice(kind, *args):
    if len(done) == 2:
      raise KeyboardInterrupt
    done.append(kind)
    import_once(kind, *args)

  monkeypatch.setattr(release, "_import_once", twice)
  with pytest.raises(KeyboardInterrupt):
    convert_release(str(there), str(bucket / "wan"))
  assert not (bucket / "wan" / "config.json").exists()
  with pytest.raises(UsageError, match="begun with --src gs://bucket/Wan, got /tmp"):
    convert_release(tmp_path / "Wan2.1-T2V", str(bucket / "wan"))
  monkeypatch.setattr(release, "_import_once", import_once)
  marks = {k: (bucket / "wan" / k / "config.json").stat().mark for k in ("vae", "umt5")}
  convert_release(str(there), str(bucket / "wan"))
  for name, mark in marks.items():  # what was there was not made again
    assert (bucket / "wan" / name / "config.json").stat().mark == mark
  links = json.loads((bucket / "wan" / "codecs" / "video.json").read_text())["links"]
  assert links[0][1] == "gs://bucket/wan/vae"
  names = {"dit", "vae", "umt5", "codecs", "config.json"}
  assert {p.name for p in (bucket / "wan").iterdir()} == names
  assert not [p for p in bucket.walk() if p.name == UNFINISHED]
  # What a bundle links to is looked at too.
  (bucket / "wan" / "vae" / UNFINISHED).write_bytes(b"")
  with pytest.raises(UsageError, match="gs://bucket/wan/vae is half uploaded"):
    load_codecs(bucket / "wan" / "codecs")
