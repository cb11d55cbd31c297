"""Files and folders in buckets, against stores that speak as the real ones do."""

import logging
import pathlib
import socket
import time

import pytest

from ccl_jax import files
from ccl_jax.errors import UsageError
from ccl_jax.files import UNFINISHED, WriteError
from ccl_jax.places import hold_new, refuse_schemes
from ccl_jax.remote import stores as own
from ccl_jax.remote.paths import place
from ccl_jax.remote.stores import Unreachable


def names(folder):
  return [str(p.relative_to(folder)) for p in folder.walk()]


def test_what_is_written_is_there(folder):
  run = folder / "runs" / "a"
  assert not run.exists() and not run.is_dir() and run.status() is None
  (run / "config.json").write_bytes(b"{}\r\n")
  (run / "codecs" / "video.json").write_bytes(b"")
  assert run.is_dir() and not run.is_file() and (run / "config.json").is_file()
  assert (run / "config.json").read_bytes() == b"{}\r\n"
  assert (run / "config.json").read_text() == "{}\n"
  assert (run / "config.json").stat().st_size == 4
  assert [p.name for p in run.iterdir()] == ["codecs", "config.json"]
  assert [p.name for p in folder.iterdir()] == ["runs"]
  assert names(folder) == ["runs/a/codecs/video.json", "runs/a/config.json"]
  assert [p.name for p in run.glob("c*.json")] == ["config.json"]
  assert [p.name for p in run.rglob("*.json")] == ["video.json", "config.json"]
  assert {n: s.st_size for n, s in run.listing().items()} == {"config.json": 4}
  with (run / "config.json").open() as f:
    assert (f.seek(1), f.read(1)) == (1, b"}")


def test_what_a_store_s_package_logs_is_not_shown(folder, caplog):
  """It logs the traceback of each error that it raises, and ours is a line."""
  assert not (folder / "none").exists()
  for name in ("gcsfs", "s3fs", "botocore.endpoint"):
    logging.getLogger(name).error("out of retries")
  assert "out of retries" not in caplog.messages


def test_what_is_not_there(folder):
  for use in ("stat", "read_bytes"):
    with pytest.raises(FileNotFoundError, match="No such file.*none"):
      getattr(folder / "none", use)()
  (folder / "none").unlink()
  (folder / "none").remove_all()
  assert not list((folder / "none").glob("*"))


def test_nothing_is_remembered_of_what_others_write(folder):
  """Another client, as another machine has it, makes and removes files."""
  import tensorstore as ts

  from ccl_jax.remote.paths import kvstore

  other = ts.KvStore.open(kvstore(folder / "run")).result()
  assert not (folder / "run").exists()
  other.write(b"a", b"1").result()
  assert (folder / "run").is_dir() and (folder / "run" / "a").read_bytes() == b"1"
  mark = (folder / "run" / "a").stat().mark
  other.write(b"b", b"2").result()
  assert [p.name for p in (folder / "run").iterdir()] == ["a", "b"]
  other.write(b"a", b"3").result()
  assert (folder / "run" / "a").stat().mark != mark
  other.delete_range(ts.KvStore.KeyRange()).result()
  assert not (folder / "run" / "a").exists() and not (folder / "run").exists()


def test_a_folder_is_renamed_and_removed(folder):
  for name in ("20/meta/metadata", "20/state/d", "30/x"):
    (folder / "run" / name).write_bytes(name.encode())
  (folder / "run" / "20").rename(folder / "run" / "20.damaged")
  assert names(folder / "run") == ["20.damaged/meta/metadata", "20.damaged/state/d",
                                   "30/x"]  # fmt: skip
  (folder / "run" / "20.damaged").remove_all()
  assert names(folder) == ["run/30/x"]


def test_no_answer_is_no_absence(bucket):
  """Who believes that a run is not there begins it anew on top of itself."""
  from tests.remote.stores import answering

  (bucket / "run" / "x").write_bytes(b"x")
  words = {401: "no credentials.*gcloud auth", 403: "no rights", 400: "gave no answer"}
  for status, text in words.items():
    with answering(status):
      for use in ("exists", "is_dir", "is_file", "read_bytes", "unlink", "remove_all"):
        with pytest.raises(Unreachable, match=text) as e:
          getattr(bucket / "run", use)()
        # Without an answer the same command may succeed later.
        assert e.value.exit_code == (1 if status == 400 else 2)
      for use in ("iterdir", "walk", "listing"):
        with pytest.raises(Unreachable, match=text):
          list(getattr(bucket / "run", use)())
      words = f"cannot write gs://bucket/run/y.*{text}"
      with pytest.raises(WriteError, match=words) as e:
        files.write_text(bucket / "run" / "y", "y")
      assert e.value.exit_code == (1 if status == 400 else 2)
  assert names(bucket) == ["run/x"]


def test_a_file_appears_whole_or_not_at_all(folder):
  path = folder / "run" / "a.json"
  files.write_json(path, {"a": "é"})
  assert path.read_bytes() == b'{"a": "\\u00e9"}\n'
  with pytest.raises(ZeroDivisionError), files.new_file(path) as part:
    part.write_bytes(b"half of")
    raise ZeroDivisionError
  assert path.read_bytes() == b'{"a": "\\u00e9"}\n'
  with files.new_file(path) as part:
    assert part.name == path.name and part.is_relative_to("/")
    part.write_bytes(b"new")
    assert path.read_bytes() == b'{"a": "\\u00e9"}\n'
  assert path.read_bytes() == b"new" and names(folder) == ["run/a.json"]
  assert not part.parent.exists()


def test_a_place_is_tried_before_the_work(folder):
  files.check_writable(folder / "out" / "clip")
  assert not names(folder)
  (folder / "out" / "clip" / "x").write_bytes(b"")
  with pytest.raises(WriteError, match="Is a directory"):
    files.check_writable(folder / "out" / "clip")


def put(path, **content):
  with files.scratch_folder(path) as fresh:
    for name, text in content.items():
      (fresh / name).mkdir()
      (fresh / name / "x").write_text(text)
    files.put(fresh, path)


def test_a_folder_takes_the_place_of_another(folder):
  put(folder / "codecs", a="1", b="2")
  put(folder / "codecs", b="3")
  assert names(folder) == ["codecs/b/x"]
  assert (folder / "codecs" / "b" / "x").read_bytes() == b"3"
  files.require_whole(folder / "codecs")
  assert files.is_whole_folder(folder / "codecs")
  assert not files.is_whole_folder(folder / "none")


def test_a_half_uploaded_folder_is_known(folder, monkeypatch):
  """A kill leaves what says so; an error leaves nothing."""
  put(folder / "codecs", a="1")
  upload, seen = type(folder).upload, []

  def dies(self, path):
    seen.append(names(folder))
    raise seen[0:2][-1] and KeyboardInterrupt

  monkeypatch.setattr(type(folder), "upload", dies)
  with pytest.raises(KeyboardInterrupt):
    put(folder / "codecs", b="2", c="3")
  assert seen == [[f"codecs/{UNFINISHED}"]] and not names(folder)
  monkeypatch.setattr(type(folder), "upload", upload)
  put(folder / "codecs", a="1")
  (folder / "codecs" / UNFINISHED).write_bytes(b"")
  assert not files.is_whole_folder(folder / "codecs")
  with pytest.raises(UsageError, match="codecs is half uploaded.*writes it again"):
    files.require_whole(folder / "codecs")


def test_a_bucket_must_be_there(folder):
  from tests.remote.stores import answering

  gone = f"{folder.scheme}://no-such-bucket"
  refuse_schemes({"--out": f"{folder}/x:0.5+{folder}/y:1"}, ["--out"])
  with pytest.raises(
    UsageError, match=f"--out: got {gone}/x; there is no bucket {gone}"
  ):
    refuse_schemes({"--out": f"{gone}/x"}, ["--out"])
  with pytest.raises(UsageError, match="is not supported"):
    refuse_schemes({"--other": f"{folder}/x"}, ["--out"])
  if folder.scheme == "gs":
    with answering(401), pytest.raises(UsageError, match="--out: .*no credentials"):
      refuse_schemes({"--out": f"{folder}/x"}, ["--out"])


def nobody(scheme, listens):
  """A store at a port where nobody listens, or somebody who never says anything."""
  fsspec = pytest.importorskip("fsspec")
  server = socket.socket()
  server.bind(("127.0.0.1", 0))
  url = f"http://127.0.0.1:{server.getsockname()[1]}"
  if listens:
    server.listen(16)
  else:
    server.close()
  options = {"gs": {"token": "anon"}, "s3": {"key": "x", "secret": "y"}}[scheme]
  return server, fsspec.filesystem(
    own.SCHEMES[scheme][1], endpoint_url=url, skip_instance_cache=True, **options
  )


@pytest.mark.parametrize("listens", [False, True])
def test_a_store_that_nobody_reaches_is_a_line_in_seconds(folder, monkeypatch, listens):
  """Its package alone tries for 98 s where nobody listens, and longer for an answer."""
  server, store = nobody(folder.scheme, listens)
  monkeypatch.setattr(own, "filesystem", lambda scheme: store)
  monkeypatch.setattr(own, "_answered", set())
  monkeypatch.setattr(own, "PATIENCE", 0.2)
  text, begin = "gave no answer within 0.2 s: look at the network", time.monotonic()
  for use in (folder.exists, (folder / "x").read_bytes, lambda: list(folder.walk())):
    with pytest.raises(Unreachable, match=text) as e:
      use()
    assert e.value.exit_code == 1  # the same command may succeed later
  with pytest.raises(UsageError, match=f"--out: got {folder}/x; {folder}: .*{text}"):
    refuse_schemes({"--out": f"{folder}/x"}, ["--out"])
  with pytest.raises(WriteError, match=text), hold_new(folder / "t.jsonl"):
    pass
  assert time.monotonic() - begin < 30
  server.close()


def test_amazon_without_credentials_is_told_how_to_log_in(
  amazon_store, monkeypatch, tmp_path
):
  fsspec = pytest.importorskip("fsspec")
  for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
    monkeypatch.delenv(name)
  for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
    monkeypatch.setenv(name, str(tmp_path / "none"))
  monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
  store = fsspec.filesystem("s3", skip_instance_cache=True)
  monkeypatch.setattr(own, "filesystem", lambda scheme: store)
  address = amazon_store.address
  with pytest.raises(UsageError, match="--out: .*no credentials.*'aws configure'") as e:
    refuse_schemes({"--out": f"{address}/x"}, ["--out"])
  assert e.value.exit_code == 2
  with pytest.raises(WriteError, match="cannot write .*no credentials"):
    files.write_text(place(address) / "x", "x")


def test_an_outage_after_an_answer_is_left_to_the_packages(folder, monkeypatch):
  """A run of days does not end by a store that is away for a minute."""
  assert not (folder / "x").exists()
  monkeypatch.setattr(own, "PATIENCE", 0.0)
  assert not (folder / "x").exists()
  (folder / "x").write_bytes(b"1")
  assert (folder / "x").read_bytes() == b"1"


def test_no_file_of_this_machine_was_made(folder):
  assert not pathlib.Path(f"{folder.scheme}:").exists()
  assert place(f"{folder}/x") == folder / "x"
