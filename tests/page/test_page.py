"""The page in a browser: every task to its end, mistakes, cancel, and two users."""

import errno
import gc
import importlib.util
import json
import os
import pathlib
import shutil
import socket
import tempfile
import wave as wave_module

import numpy as np
import pytest

from ccl_jax.data.media.decode import probe, read_audio, read_image, read_video
from ccl_jax.data.spec import ClipSpec
from ccl_jax.generation import pipeline
from ccl_jax.generation.api import Pipeline
from ccl_jax.generation.meshes import alone
from ccl_jax.tasks import GENERATIONS, INPUTS
from ccl_jax.viz.media import write_mp4, write_png, write_wav
from tests.flags.command import command
from tests.page.browser import FIELD, LONG, PROMPT, WIDE, Held, Sender, User

SPEC = ClipSpec(5, 32, 32, 25.0)
FLAGS = (
  *("--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"),
  *("--disable-background-networking", "--disable-component-update"),
)


@pytest.fixture(scope="module")
def chromium():
  """The browser of this machine; a test's playwright downloads none."""
  for name in ("gradio", "playwright"):
    if importlib.util.find_spec(name) is None:
      pytest.skip(f"no {name}: pip install 'ccl_jax[test]'")
  if (path := shutil.which("chromium")) is None:
    pytest.skip("no browser: install chromium")
  from playwright.sync_api import sync_playwright

  with sync_playwright() as play:
    browser = play.chromium.launch(executable_path=path, args=FLAGS)
    yield browser
    browser.close()


@pytest.fixture(scope="module")
def pipe():
  """The shipped checkpoint on one device."""
  return Held(Pipeline.load("quickstart", mesh=alone()))


@pytest.fixture(scope="module")
def served(chromium, pipe, tmp_path_factory):
  """(address, folder of temporary files) of one server for all tests."""
  from ccl_jax.page import layout

  folder = tmp_path_factory.mktemp("temporary")
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(tempfile, "tempdir", str(folder))
    patch.setattr(layout, "UPLOAD", "6mb")
    with socket.socket() as probe:
      probe.bind(("127.0.0.1", 0))
      port = probe.getsockname()[1]
    server, address = layout.launched(layout.page_of(pipe), "127.0.0.1", port)
    yield address, folder
    server.close(verbose=False)


@pytest.fixture(scope="module")
def address(served):
  return served[0]


@pytest.fixture(scope="module")
def sender(address):
  return Sender(address)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
  root = tmp_path_factory.mktemp("files")
  rng = np.random.default_rng(0)
  film = np.repeat(rng.integers(0, 255, (1, 48, 64, 3), np.uint8), 50, 0)
  wave = np.sin(np.arange(32000) / 5).astype(np.float32) / 3
  write_png(root / "first.png", film[0])
  write_wav(root / "voice.wav", wave)
  write_mp4(root / "film.mp4", film, 25.0, wave)
  from PIL import Image

  deep = rng.integers(0, 65535, (40, 40), np.uint16)
  Image.fromarray(deep).save(root / "deep.png")
  Image.new("1", (9000, 9000)).save(root / "huge.png")
  (root / "half.png").write_bytes((root / "first.png").read_bytes()[:3000])
  for name in ("text.mp4", "text.png", "notes.txt"):
    (root / name).write_text("no film at all")
  write_wav(root / "silent.wav", np.zeros(32000, np.float32))
  write_wav(root / "short.wav", wave[:800])
  with wave_module.open(str(root / "minutes.wav"), "wb") as out:
    out.setparams((1, 1, 8000, 0, "NONE", ""))
    out.writeframes(rng.integers(100, 150, 120 * 8000, np.uint8).tobytes())
  return root


@pytest.fixture(scope="module")
def user(chromium, address):
  return User(chromium, address)


GIVEN = {"ti2av": "image", "i2v": "image", "a2v": "audio", "v2a": "video"}
FILES = {"image": "first.png", "audio": "voice.wav", "video": "film.mp4"}


@pytest.mark.parametrize("task", GENERATIONS)
def test_every_task_makes_a_clip(user, pipe, files, tmp_path, task):
  """Progress by step, a player, and the files, which are those of a call from Python
  and of the command.
  """
  user.task(task)
  given = {}
  for name in FILES:
    if GIVEN.get(task) == name:
      user.give(name, files / FILES[name])
      given = {name: files / FILES[name]}
    elif name in GENERATIONS[task].takes:
      user.clear(name)  # of an earlier task
  user.start()
  user.wait("done in")
  clip, settings = user.made(tmp_path)
  assert settings["task"] == task and settings["prompt"] == PROMPT
  streams = GENERATIONS[task].generated + GENERATIONS[task].given
  if "video" in streams:
    assert read_video(clip, SPEC).shape == (5, 32, 32, 3)
    assert probe(clip).has_audio == ("audio" in streams)
    playing = "() => document.querySelector('#player video').readyState > 1"
    user.page.wait_for_function(playing, timeout=LONG)
  else:
    assert len(read_audio(clip)) == SPEC.samples
    user.page.wait_for_selector("#sound audio", state="attached")
  if task == "v2a":
    assert (probe(clip).height, probe(clip).width) == (48, 64)
    assert "only its beginning is used" in user.status()

  made = pipe.pipe(PROMPT, task=task, guidance="none", steps=2, seconds=0.2, **given)
  made.save(tmp_path / f"python{clip.suffix}")
  same_clip(clip, tmp_path / f"python{clip.suffix}")
  flags = [f"--{name}={path}" for name, path in given.items()]
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(pipeline.LoadedModel, "load", lambda *_, **__: pipe.pipe._loaded)
    command("generate").run(
      "--ckpt=quickstart", f"--out={tmp_path}", f"--prompt={PROMPT}", f"--task={task}",
      "--guidance=none", "--steps=2", "--seconds=0.2", *flags,
    )  # fmt: skip
  same_clip(clip, tmp_path / f"{task}_0_0{clip.suffix}")


def same_clip(one, other):
  """The same bytes, and the same settings but for where given files lie."""
  told = [json.loads(x.with_suffix(".json").read_text()) for x in (one, other)]
  for settings in told:
    for name in INPUTS:
      if settings.get(name):
        path = settings[name]
        settings[name] = pathlib.Path(path).name
        prints = settings["fingerprints"]
        prints[settings[name]] = prints.pop(path)
  assert told[0] == told[1]
  assert one.read_bytes() == other.read_bytes()


def test_a_clip_is_cancelled_at_its_next_step(user, pipe):
  user.task("t2a")
  pipe.standing.add("a dog barks")
  user.start("a dog barks")
  user.wait("step 1 of 2")
  user.page.wait_for_selector("#preview img")
  user.page.click("#cancel")
  user.wait("cancelled")
  user.wait_until_ready()
  assert not user.links()
  assert not user.page.is_visible("#preview")
  user.start(PROMPT)
  user.wait("done in")
  user.wait_until_ready()


@pytest.fixture(scope="module")
def three(user, chromium, address):
  users = [user, User(chromium, address), User(chromium, address)]
  for one in users:
    one.task("t2a")
  return users


def test_users_wait_for_each_other_and_get_their_own(three, pipe, tmp_path):
  """Nobody's clip is another's; whoever ends the waiting lets the others pass."""
  pipe.begun.clear()
  pipe.standing.add("first")
  for i, one in enumerate(three):
    one.start(("first", "second", "third")[i])
    one.wait(("step 1 of 2", "1 clip comes first", "2 clips come first")[i])
  three[1].page.click("#cancel")
  three[1].wait("cancelled")
  three[1].wait_until_ready()
  three[2].wait("1 clip comes first")
  pipe.go("first")
  sounds = []
  for i in (0, 2):
    three[i].wait("done in")
    clip, settings = three[i].made(tmp_path)
    assert settings["prompt"] == ("first", "second", "third")[i]
    sounds.append(clip.read_bytes())
    expected = pipe.pipe(
      settings["prompt"], task="t2a", guidance="none", steps=2, seconds=0.2
    )
    expected.save(tmp_path / f"python{i}.wav")
    assert sounds[-1] == (tmp_path / f"python{i}.wav").read_bytes()
  assert sounds[0] != sounds[1] and pipe.begun == ["first", "third"]
  assert not three[1].links()
  # A place of one clip tells nobody the other's.
  mine, others = three[0].links()[0], three[2].links()[0]
  assert mine.split("/")[-1] == others.split("/")[-1]
  folders = [x.rsplit("/", 2)[0] for x in (mine, others)]
  for guess in (folders[1], others.rsplit("/", 1)[0], f"{folders[1]}/t2a_0.wav"):
    assert three[0].page.request.get(guess).status == 403, guess
  assert three[0].page.request.get(mine).ok


def test_a_user_who_leaves_stops_no_other(three, pipe):
  """Neither one whose clip is being made nor one who waits holds up the third."""
  pipe.begun.clear()
  user, *leaving = three[0], three[1], three[2]
  pipe.standing |= {"never ends"}
  leaving[0].start("never ends")
  leaving[0].wait("step 1 of 2")
  leaving[1].start("waits")
  leaving[1].wait("1 clip comes first")
  user.start("stays")
  user.wait("2 clips come first")
  leaving[1].context.close()
  user.wait("1 clip comes first")
  leaving[0].context.close()
  user.wait("done in")
  assert pipe.begun == ["never ends", "stays"]


def test_a_full_queue_says_so(sender, pipe, monkeypatch):
  monkeypatch.setattr("ccl_jax.page.work.WAITING", -1)
  assert sender.send() == "-1 clips wait already: try again in a minute"


MISTAKES = [
  ({"prompt": " "}, '"Prompt" is empty'),
  ({"size": "33x32"}, "width must be a multiple of 16, got 33: use 32 or 48"),
  ({"seconds": "-1"}, '"Seconds": got -1'),
  ({"steps": "2.5"}, '"Steps": got 2.5; expected a whole number'),
  ({"scale_video": "3"}, '"Guidance scale, picture" does nothing: guidance none'),
]


def test_mistakes_are_told_by_field_and_the_server_stays(user, files, tmp_path):
  user.task("joint")
  usual = {"prompt": PROMPT, "size": "", "seconds": "0.2", "steps": "2",
           "scale_video": ""}  # fmt: skip

  def fill(values):
    for name, text in values.items():
      user.fill(name, text, FIELD)

  for wrong, words in MISTAKES:
    fill(usual | wrong)
    user.start()
    user.wait(words)
    user.wait_until_ready()
  fill(usual)
  user.task("a2v")
  user.clear("audio")
  user.start()
  user.wait("task a2v needs audio")
  user.give("audio", files / "silent.wav")
  user.start()
  user.wait("done in")
  assert np.abs(read_audio(user.made(tmp_path)[0], 2000)).max() < 1e-3
  user.task("i2v")
  user.give("image", files / "deep.png")  # 16 bits, grey
  user.start()
  user.wait("done in")
  first = read_video(user.made(tmp_path)[0], SPEC)[0]
  wanted = read_image(files / "deep.png", 32, 32)
  assert abs(first.mean() - wanted.mean()) < 12


def test_a_file_of_another_kind_is_not_taken(user, files):
  """The page says so before it is sent, the server where it is called as another is."""
  user.task("v2a")
  user.clear("video")
  user.page.set_input_files("#video input[type=file]", files / "notes.txt")
  user.page.get_by_text("Invalid file type").first.wait_for()
  user.page.set_input_files("#video input[type=file]", files / "text.mp4")
  user.page.wait_for_selector("#video video", state="attached")
  user.start()
  user.wait("video: text.mp4: damaged, or of no format")
  user.wait_until_ready()


FILM = {"task": "v2a", "seconds": "0.2"}
SOUND = {"task": "a2v", "seconds": "0.2"}
PICTURE = {"task": "i2v", "seconds": "0.2"}
REFUSED = [
  # No pictures, sounds or films, or other ones than were meant.
  (PICTURE | {"image": "text.png"}, "image: text.png: not a readable image"),
  (PICTURE | {"image": "half.png"}, "image: half.png: not a readable image"),
  (PICTURE | {"image": "huge.png"}, "image: huge.png: 9000 x 9000 pixels, expected"),
  (PICTURE | {"image": "voice.wav"}, "image: voice.wav: not a readable image"),
  (SOUND | {"audio": "first.png"}, "audio: first.png: "),
  (SOUND | {"audio": "short.wav"}, "audio: short.wav lasts 0.05 s"),
  (FILM | {"video": "voice.wav"}, "video: voice.wav: "),
  # Two minutes are no mistake where it is said how much of them is wanted.
  ({"task": "a2v", "seconds": None, "audio": "minutes.wav"}, "lasts 120 s"),
  ({"task": "v2a", "video": None}, 'task v2a needs video: give "Film"'),
  # Sizes and values that no clip has.
  ({"task": "t2v", "size": "999999x32"}, "width must be"),
  ({"seconds": "1e9"}, '"Seconds": got 1e+09; expected at most 41943'),
  ({"steps": "0"}, '"Steps": got 0; expected a whole number from 1 to 1000'),
  ({"scale_audio": "loud"}, '"Guidance scale, sound": got loud; expected numbers'),
  ({"seconds": "long"}, "\"Seconds\": got 'long'; expected a number"),
  ({"steps": ["1"]}, "\"Steps\": got ['1']; expected a whole number"),
  ({"seed": "x"}, "seed 'x': expected a whole number from 0"),
  ({"seed": "-1"}, "seed -1: expected a whole number from 0"),
  ({"prompt": None}, '"Prompt" is empty'),
  # What no browser sends by itself.
  ({"prompt": ["a", "b"]}, "\"Prompt\": got ['a', 'b']; expected a text"),
  ({"prompt": "a" * 4001}, '"Prompt": got 4001 characters; expected at most 4000'),
  ({"task": "dance"}, "unknown task 'dance'"),
  ({"task": None}, '"Task": got None; expected a text'),
  ({"solver": "magic"}, "magic"),
  (
    {"lora": ["/etc/passwd:1"]},
    "\"LoRAs\": got ['/etc/passwd:1']; expected one of the",
  ),
  ({"lora": 3}, '"LoRAs": got 3; expected one of the page\'s'),
  (
    PICTURE | {"image": {"path": "/etc/passwd"}},
    '"First frame": no file that was uploaded',
  ),
]


def test_guidance_that_the_model_serves_is_offered(sender):
  config = sender.client.get(sender.address.replace("/gradio_api", "/config")).json()
  (offered,) = (
    [value for _, value in x["props"]["choices"]]
    for x in config["components"]
    if x["props"].get("elem_id") == "guidance"
  )
  assert offered == [
    "", "none", "text", "modality", "ucg2", "ucg2_null", "ucg2_shuffled", "ucg3",
    "ucg3_text", "sync",
  ]  # fmt: skip


def test_what_cannot_be_made_is_one_line(sender, pipe, files, served):
  """No part of a clip is left, no place of the server's is told, and it goes on."""
  before, there = len(pipe.begun), [path.name for path in files.iterdir()]
  for form, words in REFUSED:
    form = {
      name: sender.given(files / x) if x in there else x for name, x in form.items()
    }
    line = sender.send(**form)
    assert line and words in line, (form, line)
    assert "\n" not in line and str(served[1]) not in line
  assert len(pipe.begun) > before
  assert sender.send(**SOUND, audio=sender.given(files / "minutes.wav")) == ""
  assert sender.send(**PICTURE, image=sender.given(files / "deep.png")) == ""
  assert not list(served[1].rglob("*.part"))


def test_a_full_disk_and_a_defect_are_one_line(sender, pipe, served, monkeypatch):
  def full(path):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

  def clips():
    gc.collect()
    return {p for p in served[1].rglob("t2a_0.*") if p.is_file()}

  before = clips()
  with monkeypatch.context() as patch:
    patch.setattr("ccl_jax.files._sync", full)  # what was written is there by then
    assert sender.send() == "cannot write t2a_0.json: No space left on device"
  patched = {"_sync": lambda path: full(path) if ".wav" in str(path) else None}
  with monkeypatch.context() as patch:
    patch.setattr("ccl_jax.files._sync", patched["_sync"])
    assert sender.send() == "cannot write t2a_0.wav: No space left on device"
  monkeypatch.setattr(pipe, "fault", ZeroDivisionError("by nought"))
  line = "the program has failed (ZeroDivisionError): its log has more"
  assert sender.send() == line
  monkeypatch.setattr(pipe, "fault", None)
  assert clips() <= before and not list(served[1].rglob(".*.part"))
  assert sender.send() == ""


def test_a_disk_that_is_full_at_the_upload(user, files, monkeypatch):
  """The page says so, and takes the file when there is room."""
  user.task("a2v")
  user.clear("audio")

  def full(*_, **__):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

  with monkeypatch.context() as patch:
    patch.setattr("gradio.route_utils.NamedTemporaryFile", full, raising=False)
    patch.setattr("tempfile.NamedTemporaryFile", full)
    user.page.set_input_files("#audio input[type=file]", files / "voice.wav")
    user.page.locator(".toast-body").first.wait_for()
  user.page.set_input_files("#audio input[type=file]", files / "voice.wav")
  user.page.wait_for_selector("#audio audio", state="attached")
  user.start()
  user.wait("done in")


def test_uploads_have_a_size(sender):
  assert sender.upload("x.wav", bytes(1000)).status_code == 200
  assert sender.upload("x.wav", bytes(7_000_000)).status_code == 413
  assert sender.join(prompt="a" * 2**20)[0].status_code == 413


def test_files_of_the_machine_and_addresses_stay_closed(sender, files):
  """No list, no file of the machine, none of the folder of temporary files, and nothing
  of another server.
  """
  for place in (
    "/etc/passwd", "../../etc/passwd", "/tmp", str(files / "voice.wav"),
    "file:///etc/passwd", "http://127.0.0.1:1/x", "HTTPS://example.com/x",
    "//example.com/x",
  ):  # fmt: skip
    answer = sender.client.get(f"{sender.address}/file={place}")
    assert answer.status_code in (403, 404), place
  proxied = sender.client.get(f"{sender.address}/proxy=https://example.com/x")
  assert proxied.status_code == 403
  meta = {"meta": {"_type": "gradio.FileData"}}
  for place in ("/etc/passwd", str(files / "first.png"), "../first.png"):
    assert sender.send(**PICTURE, image={"path": place} | meta) is None, place
  for place in ("http://127.0.0.1:1/x.png", " https://example.com/x.png"):
    answer, _ = sender.join(**PICTURE, image={"path": place} | meta)
    assert answer.status_code == 403, place
  assert sender.send(**PICTURE, image=sender.given(files / "first.png")) == ""


def test_a_narrow_page_fits(user):
  """With whatever is on it by now."""
  user.page.set_viewport_size({"width": 390, "height": 800})
  user.page.wait_for_selector("#prompt textarea")
  width = user.page.evaluate("() => document.documentElement.scrollWidth")
  user.page.set_viewport_size(WIDE)
  assert width <= 390
