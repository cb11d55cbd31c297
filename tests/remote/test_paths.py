"""Paths in buckets: their names, and which of them may be opened."""

import os
import pathlib
import sys

import pytest

from ccl_jax.errors import UsageError
from ccl_jax.remote import paths
from ccl_jax.remote.paths import BucketPath, is_remote, kvstore, place, told

RUN = BucketPath("gs://b/runs//a/./x/../run.v1")


def test_names_are_those_of_pathlib():
  own = pathlib.PurePosixPath("/runs/a/run.v1")
  assert str(RUN) == f"gs://b{own}" and (RUN.scheme, RUN.bucket) == ("gs", "b")
  assert RUN.key == "runs/a/run.v1"
  for name in ("name", "stem", "suffix"):
    assert getattr(RUN, name) == getattr(own, name)
  assert str(RUN.parent) == "gs://b/runs/a"
  assert list(map(str, RUN.parents)) == ["gs://b/runs/a", "gs://b/runs", "gs://b"]
  assert str(RUN.with_name("y")) == "gs://b/runs/a/y"
  assert str(RUN.with_suffix(".txt")) == "gs://b/runs/a/run.txt"
  assert RUN.relative_to(RUN.parents[1]) == pathlib.PurePosixPath("a/run.v1")
  assert RUN.absolute() == RUN.resolve() == RUN == BucketPath(str(RUN))
  assert len({RUN, BucketPath(str(RUN))}) == 1


def test_what_is_joined():
  assert str(RUN / "codecs" / "video.json") == f"{RUN}/codecs/video.json"
  assert str(RUN / pathlib.PurePosixPath("c/d")) == f"{RUN}/c/d"
  assert str(RUN / "../other") == "gs://b/runs/a/other"
  assert RUN / "/data/x" == pathlib.Path("/data/x")
  assert str(RUN / "s3://other/x") == "s3://other/x"


def test_a_folder_has_one_order_everywhere():
  names = ["a/b", "a-b", "a", "a/b-c", "a.b", "a/b/c"]
  local = [str(p) for p in sorted(map(pathlib.PurePosixPath, names))]
  assert [p.key for p in sorted(BucketPath(f"gs://b/{n}") for n in names)] == local


@pytest.mark.parametrize(
  "text", ["gs://", "gs:///x", "gs://b/../c", "gs://b/x*", "s3://b/[0]", "s3://b/a?b"]
)
def test_no_such_path(text):
  with pytest.raises(UsageError):
    BucketPath(text)


def test_nothing_opens_it_as_a_file_of_this_machine(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  for use in (open, pathlib.Path, os.path.abspath, os.stat, os.makedirs):
    with pytest.raises(UsageError, match="is in a bucket; expected a path"):
      use(RUN)
  assert not list(tmp_path.iterdir())


def test_which_paths_are_in_buckets():
  assert is_remote("gs://b/x") and is_remote("s3://b") and is_remote(RUN)
  for path in ("/gs://b", "gs:/b", "hdfs://b/x", "gs", pathlib.Path("gs://b")):
    assert not is_remote(path)
    assert place(path) == pathlib.Path(path)


def test_a_package_that_is_missing_is_one_line(monkeypatch):
  monkeypatch.setitem(sys.modules, "gcsfs", None)
  monkeypatch.setitem(sys.modules, "s3fs", None)
  for address, extra in (("gs://b/x", "gcs"), ("s3://b/x", "s3")):
    with pytest.raises(UsageError, match=rf"pip install 'ccl_jax\[{extra}\]'"):
      place(address)


def test_what_tensorstore_is_told(monkeypatch):
  names = (
    "AWS_ENDPOINT_URL",
    "AWS_ENDPOINT_URL_S3",
    "AWS_REGION",
    "AWS_DEFAULT_REGION",
  )
  for name in names:
    monkeypatch.delenv(name, raising=False)
  assert kvstore(RUN) == {"driver": "gcs", "bucket": "b", "path": "runs/a/run.v1/"}
  assert kvstore(BucketPath("gs://b")) == {"driver": "gcs", "bucket": "b", "path": ""}
  s3 = {"driver": "s3", "bucket": "b", "path": "x/"}
  assert kvstore(BucketPath("s3://b/x")) == s3
  monkeypatch.setenv("AWS_ENDPOINT_URL", "http://here")
  monkeypatch.setenv("AWS_DEFAULT_REGION", "moon")
  assert kvstore(BucketPath("s3://b/x")) == s3 | {
    "endpoint": "http://here", "aws_region": "moon"
  }  # fmt: skip
  assert kvstore("/x") == {"driver": "file", "path": "/x/"}


@pytest.fixture
def nothing_named(monkeypatch):
  monkeypatch.setattr(paths, "_named", set())
  monkeypatch.setattr(paths, "require_package", lambda scheme: None)
  monkeypatch.delenv(paths.TRUSTED, raising=False)


def test_a_file_names_its_own_bucket_and_paths_of_this_machine(nothing_named):
  where = BucketPath("gs://b/codecs/video.json")
  assert str(told("gs://b/vae", where)) == "gs://b/vae"
  assert str(told("vae", where)) == "gs://b/codecs/vae"
  assert told("/data/vae", where) == pathlib.Path("/data/vae")
  assert told("vae", "/x/video.json") == pathlib.Path("/x/vae")


@pytest.mark.parametrize("where", ["/x/video.json", BucketPath("gs://b/video.json")])
@pytest.mark.parametrize("text", ["gs://evil/x", "s3://b/x", "gs://b2/x"])
def test_a_file_names_no_bucket_that_nobody_has_named(
  nothing_named, monkeypatch, where, text
):
  with pytest.raises(UsageError, match="bucket that you have not named.*CCL_BUCKETS"):
    told(text, where)
  bucket = "/".join(text.split("/")[:3])
  monkeypatch.setenv(paths.TRUSTED, f"gs://other {bucket}")
  assert str(told(text, where)) == text
  monkeypatch.delenv(paths.TRUSTED)
  place(bucket + "/mine")  # as a flag does
  assert str(told(text, where)) == text
