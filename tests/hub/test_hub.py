"""Repositories of the hub, downloaded from a small one on this machine."""

import hashlib
import os
import pathlib
import signal
import subprocess
import sys
import time

import huggingface_hub
import numpy as np
import pytest
from huggingface_hub import constants, file_download

from ccl_jax import hub, progress
from ccl_jax.errors import UsageError
from ccl_jax.hub.address import Address, parse
from tests.hub.server import COMMIT, TOKEN

ROOT = pathlib.Path(__file__).parents[2]
NAME, ADDRESS = "models/lab/net", "hf:lab/net"
BODY = np.random.default_rng(0).bytes(100_000)
FILES = {
  "model.bin": BODY,
  "config.json": b"{}",
  "deep/er/part.bin": BODY[:999],
  "README.md": b"read me",
}


@pytest.fixture
def lab(tmp_path, serve):
  """A hub with one repository, and a cache without anything."""
  for name, body in FILES.items():
    path = tmp_path / "lab" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(body)
  return serve({NAME: tmp_path / "lab"})


@pytest.fixture
def hasty(monkeypatch):
  """No waiting between two tries of a connection."""
  monkeypatch.setattr(time, "sleep", lambda seconds: None)


def again(text=ADDRESS, patterns=("*",)):
  """As another process would ask."""
  hub.open_repository.cache_clear()
  return hub.local(text, patterns)


def offline(monkeypatch) -> None:
  monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)


@pytest.mark.parametrize(
  ("text", "parts"),
  [
    ("hf:a/b", ("model", "a/b", "main", "")),
    ("hf:a/b/", ("model", "a/b", "main", "")),
    ("hf:a/b@v1.0", ("model", "a/b", "v1.0", "")),
    ("hf:a/b@v1/c/d.pth", ("model", "a/b", "v1", "c/d.pth")),
    ("hf:a/b@refs/pr/7/c", ("model", "a/b", "refs/pr/7", "c")),
    ("hf:datasets/a/b/c", ("dataset", "a/b", "main", "c")),
    ("hf:A-1/b_2.3/x y+z:1", ("model", "A-1/b_2.3", "main", "x y+z:1")),
  ],
)
def test_addresses(text, parts):
  assert parse(text) == Address(*parts)
  assert parse(str(parse(text))) == parse(text)


@pytest.mark.parametrize("text", ["hf:", "hf:a", "hf:/a/b", "hf:a/b@", "hf:a/b@/c"])
def test_what_is_no_address(text):
  with pytest.raises(UsageError, match="expected hf:OWNER/NAME, hf:OWNER/NAME@REV"):
    parse(text)


@pytest.mark.parametrize("text", ["hf:a/b/../../c", "hf:../b", "hf:a/..", "hf:a/b@.."])
def test_an_address_stays_in_its_place(text):
  with pytest.raises(UsageError, match="stays below its folder"):
    parse(text)


def test_what_a_hub_says_of_its_files_is_not_trusted(lab):
  lab.more = ["../../out.bin"]
  with pytest.raises(UsageError, match=r"got the path '../../out.bin'; .* below its"):
    hub.local(ADDRESS)
  lab.more, lab.commit = [], "../../../out"
  hub.open_repository.cache_clear()
  with pytest.raises(UsageError, match=r"the hub gives the commit '../../../out'"):
    hub.local(ADDRESS)


def test_a_folder_comes_once(lab, capsys):
  lab.licence[NAME] = "apache-2.0"
  with progress.shown():
    place = hub.local(ADDRESS)
  assert {n: (place / n).read_bytes() for n in FILES} == FILES
  assert lab.bodies() == sorted(FILES)
  said = capsys.readouterr().err.splitlines()
  assert said[0] == (
    "hf:lab/net (abababa): 4 files, 0.1 MB, licence apache-2.0"
  )  # 101 008 bytes
  assert said[1:] == ["downloading 0.0/0.1 MB", "downloading 0.1/0.1 MB"]
  lab.asked.clear()
  assert again() == place and not lab.asked
  assert again(f"{ADDRESS}@{COMMIT}") == place and not lab.asked
  assert hub.origin(place / "deep") == f"hf:lab/net@{COMMIT}/deep"
  assert hub.origin(pathlib.Path("deep")) is None
  digest = hashlib.sha256(BODY).hexdigest()
  assert hub.digest_of(place / "model.bin") == digest
  assert hub.digest_of(place / "config.json") is None  # small: git has another hash


def test_other_programs_find_it_and_it_finds_theirs(lab):
  """The cache is that of huggingface_hub, which was there first or comes later."""
  find = huggingface_hub.try_to_load_from_cache
  ours = hub.local(f"{ADDRESS}/model.bin")
  assert find("lab/net", "model.bin") == str(ours)
  theirs = huggingface_hub.hf_hub_download("lab/net", "deep/er/part.bin")
  lab.asked.clear()
  assert again(f"{ADDRESS}/deep") == pathlib.Path(theirs).parents[1] and not lab.asked


def test_a_part_of_a_folder(lab):
  place = hub.local(f"{ADDRESS}/deep", ("er/*.bin",))
  assert place.name == "deep" and lab.bodies() == ["deep/er/part.bin"]
  assert hub.local(tmp := pathlib.Path("some/where")) == tmp  # a path of this disk


def test_a_download_that_is_cut_goes_on(lab, hasty):
  lab.cuts = [30_000, 20_000]
  assert (hub.local(f"{ADDRESS}/model.bin")).read_bytes() == BODY
  got = [first for method, _, first in lab.asked if method == "GET"]
  assert got == [0, 30_000, 50_000]


def test_a_connection_that_is_reset(lab, hasty, monkeypatch):
  """What huggingface_hub does not go on with by itself: an error in mid-stream."""
  whole, ends = file_download.http_get, [25_000, 60_000]

  def http_get(url, file, **given):
    if ends:
      file.write(BODY[given["resume_size"] : ends.pop(0)])
      raise ConnectionResetError(104, "Connection reset by peer")
    assert given["resume_size"] == 60_000
    whole(url, file, **given)

  monkeypatch.setattr(file_download, "http_get", http_get)
  assert hub.local(f"{ADDRESS}/model.bin").read_bytes() == BODY


def test_another_process_goes_on_where_one_was_stopped(lab, hasty, tmp_path):
  lab.cuts = [40_000] + [0] * 20
  with pytest.raises(UsageError, match=r"model.bin stopped, .*goes on where it was"):
    hub.local(f"{ADDRESS}/model.bin")
  lab.cuts, lab.asked = [], []
  assert again(f"{ADDRESS}/model.bin").read_bytes() == BODY
  got = [first for method, _, first in lab.asked if method == "GET"]
  assert got == [40_000]
  left = [p.name for p in (tmp_path / "cache").rglob(".*") if p.is_file()]
  assert not [name for name in left if "unfinished" in name or name.startswith(".lock")]


def test_a_killed_download_goes_on(lab, tmp_path):
  """By a process of its own, which has no time to say or to put away anything."""
  lab.cuts = [70_000]
  lab.stalled.clear()
  environment = os.environ | {
    "HF_ENDPOINT": lab.url,
    "HF_HUB_CACHE": str(tmp_path / "cache"),
    "PYTHONPATH": str(ROOT),
  }
  code = (
    "from huggingface_hub import constants; constants.DOWNLOAD_CHUNK_SIZE = 5_000\n"
    f"from ccl_jax import hub; hub.local('{ADDRESS}/model.bin')"
  )
  killed = subprocess.Popen([sys.executable, "-c", code], env=environment)
  part = f".{hashlib.sha256(BODY).hexdigest()}.unfinished"
  path = tmp_path / "cache/models--lab--net/blobs" / part
  deadline = time.monotonic() + 60
  while not (path.exists() and path.stat().st_size == 70_000):
    assert time.monotonic() < deadline and killed.poll() is None
    time.sleep(0.02)
  killed.send_signal(signal.SIGKILL)
  killed.wait()
  lab.stalled.set()
  lab.asked.clear()
  assert hub.local(f"{ADDRESS}/model.bin").read_bytes() == BODY
  assert [x[2] for x in lab.asked if x[0] == "GET"] == [70_000]


def test_bytes_that_are_not_the_hubs_are_refused(lab, hasty):
  lab.cuts = [50_000] + [0] * 20
  with pytest.raises(UsageError, match="stopped"):
    hub.local(f"{ADDRESS}/model.bin")
  (part,) = pathlib.Path(constants.HF_HUB_CACHE).rglob("*.unfinished")
  part.write_bytes(bytes(50_000))
  lab.cuts = []
  with pytest.raises(UsageError, match=r"other bytes .*SHA-256.*again"):
    again(f"{ADDRESS}/model.bin")
  assert not part.exists()
  assert again(f"{ADDRESS}/model.bin").read_bytes() == BODY


def test_without_a_network_the_cache_is_all(lab, monkeypatch, capsys):
  place = hub.local(ADDRESS, ("*.bin",))
  offline(monkeypatch)
  assert again(ADDRESS, ("*.bin",)) == place
  assert "no network (HF_HUB_OFFLINE is set); abababa is in" in capsys.readouterr().err
  with pytest.raises(UsageError, match=r"hf:lab/net/config.json is not in the cache"):
    again(f"{ADDRESS}/config.json")
  with pytest.raises(UsageError, match="there is no network .*HF_HUB_OFFLINE is set"):
    again("hf:lab/other")


def test_a_hub_that_does_not_answer(lab, reach, capsys):
  place = hub.local(ADDRESS)
  lab.down = True
  assert again() == place
  assert "answers 503" in capsys.readouterr().err
  reach("http://127.0.0.1:9")
  assert again() == place
  assert "cannot reach http://127.0.0.1:9" in capsys.readouterr().err


MISTAKES = {
  "hf:lab/a--b": "lab/a--b is no name of a repository",
  "hf:lab/none": "shows no repository lab/none: check the name; if it is private, log",
  "hf:lab/net@v9": "has no revision v9; expected a branch, a tag or a commit",
  "hf:lab/net/dep": "has no such file or folder; it has README.md, config.json, deep,",
}


@pytest.mark.parametrize("text", MISTAKES)
def test_mistakes(lab, text):
  with pytest.raises(UsageError, match=MISTAKES[text]) as told:
    hub.local(text)
  assert text in str(told.value) and not lab.asked


def test_a_gate_opens_with_a_token(lab, monkeypatch):
  lab.gated.add(NAME)
  advice = f"is gated: accept its terms on {lab.url}/lab/net, and log in with 'hf auth"
  with pytest.raises(UsageError, match=advice):
    hub.local(ADDRESS)
  assert not lab.asked
  monkeypatch.setenv("HF_TOKEN", TOKEN)
  assert (again() / "model.bin").read_bytes() == BODY


def test_a_disk_that_is_too_small_is_told_before(lab, monkeypatch):
  lab.sizes["model.bin"] = 1_900_000_000_000
  free = lambda path: type("Usage", (), {"free": 5_000_000_000})
  monkeypatch.setattr("shutil.disk_usage", free)
  with pytest.raises(UsageError, match=r"needs 1900.0 GB .* 5.0 GB free: .* HF_HOME"):
    hub.local(ADDRESS)
  assert not lab.asked


def test_what_a_cut_download_has_counts_for_the_disk(lab, monkeypatch, hasty):
  lab.cuts = [60_000] + [0] * 20
  with pytest.raises(UsageError, match="stopped"):
    hub.local(f"{ADDRESS}/model.bin")
  lab.cuts = []
  for free in (39_999, 40_000):
    usage = type("Usage", (), {"free": free})
    monkeypatch.setattr("shutil.disk_usage", lambda path, usage=usage: usage)
    if free < 40_000:
      with pytest.raises(UsageError, match="make room"):
        again(f"{ADDRESS}/model.bin")
  assert again(f"{ADDRESS}/model.bin").read_bytes() == BODY
