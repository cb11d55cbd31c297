"""The page in a browser: every task to its end, mistakes, cancel, and two users."""

import importlib.util
import json
import shutil
import socket

import numpy as np
import pytest

from ccl_jax.data.media.decode import probe, read_audio, read_image, read_video
from ccl_jax.data.spec import ClipSpec
from ccl_jax.generation.api import Pipeline
from ccl_jax.generation.meshes import alone
from ccl_jax.tasks import GENERATIONS
from ccl_jax.viz.media import write_mp4, write_png, write_wav

SPEC = ClipSpec(5, 32, 32, 25.0)
PROMPT = 'a red face on the right says "ba <b>do</b>"'
FLAGS = (
  *("--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"),
  *("--disable-background-networking", "--disable-component-update"),
)
LONG = 240_000  # milliseconds that a clip may take


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
def address(chromium):
  """One server for all tests, with the shipped checkpoint on one device."""
  from ccl_jax.page import layout

  layout.UPLOAD = "1mb"
  pipe = Pipeline.load("quickstart", mesh=alone())
  with socket.socket() as probe:
    probe.bind(("127.0.0.1", 0))
    port = probe.getsockname()[1]
  server, address = layout.launched(layout.page_of(pipe), "127.0.0.1", port)
  yield address
  server.close(verbose=False)


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
  (root / "text.mp4").write_text("no film at all")
  write_wav(root / "silent.wav", np.zeros(32000, np.float32))
  return root


class User:
  """Somebody before the page."""

  def __init__(self, browser, address):
    self.page = browser.new_context(viewport={"width": 1280, "height": 900}).new_page()
    self.page.set_default_timeout(LONG)
    self.page.goto(address)
    self.fill("prompt", PROMPT, "textarea")
    self.fill("steps", "2")
    self.page.click("#settings button")
    self.fill("seconds", "0.2")
    self.choose("guidance", "none")

  def fill(self, name, text, field="input"):
    self.page.fill(f"#{name} {field}", text)

  def choose(self, name, value):
    self.page.click(f"#{name} input")
    self.page.get_by_role("option", name=value, exact=True).click()

  def task(self, name):
    self.page.check(f'#task input[value="{name}"]')

  def clear(self, name):
    """Takes away what is given, if anything is."""
    self.page.wait_for_selector(f"#{name}")
    remove = self.page.locator(f'#{name} button[aria-label="Clear"]')
    if remove.count():
      remove.first.click()

  def give(self, name, file):
    self.clear(name)
    self.page.set_input_files(f"#{name} input[type=file]", file)
    self.page.wait_for_selector(f"#{name} :is(img, video, audio)", state="attached")

  def status(self):
    return self.page.inner_text("#status")

  def wait(self, words):
    shown = "w => document.querySelector('#status').innerText.includes(w)"
    self.page.wait_for_function(shown, arg=words, timeout=LONG)

  def start(self):
    """Presses the button; what was said before is gone when this returns."""
    mark = "document.querySelector('#status [role]').textContent = 'pressed'"
    self.page.evaluate(f"() => {{ {mark} }}")
    self.page.click("#start")
    said = "document.querySelector('#status').innerText"
    self.page.wait_for_function(f"() => !{said}.includes('pressed')", timeout=LONG)

  def made(self, folder):
    """The clip and its settings, as they are downloaded."""
    links = self.page.locator("#files a")
    both = "() => document.querySelectorAll('#files a').length == 2"
    self.page.wait_for_function(both, timeout=LONG)
    out = {}
    for i in range(links.count()):
      href = links.nth(i).get_attribute("href")
      data = self.page.request.get(href)
      assert data.ok
      path = folder / href.rsplit("/", 1)[1]
      path.write_bytes(data.body())
      out[path.suffix] = path
    settings = json.loads(out.pop(".json").read_text())
    (clip,) = out.values()
    return clip, settings


@pytest.fixture(scope="module")
def user(chromium, address):
  return User(chromium, address)


GIVEN = {"ti2av": "image", "i2v": "image", "a2v": "audio", "v2a": "video"}
FILES = {"image": "first.png", "audio": "voice.wav", "video": "film.mp4"}


@pytest.mark.parametrize("task", GENERATIONS)
def test_every_task_makes_a_clip(user, files, tmp_path, task):
  """Progress by step, a player, and the files; what was given is in them."""
  user.task(task)
  if task in GIVEN:
    name = GIVEN[task]
    user.give(name, files / FILES[name])
  user.start()
  user.wait("done in")
  clip, settings = user.made(tmp_path)
  assert settings["task"] == task and settings["prompt"] == PROMPT
  assert settings["steps"] == 2 and settings["frames"] == 5
  assert settings["guidance"] == "none"
  kind = GENERATIONS[task]
  streams = kind.generated + kind.given
  if "video" not in streams:
    assert len(read_audio(clip)) == SPEC.samples
    user.page.wait_for_selector("#sound audio", state="attached")
    return
  assert read_video(clip, SPEC).shape == (5, 32, 32, 3)
  assert probe(clip).has_audio == ("audio" in streams)
  playing = "() => document.querySelector('#player video').readyState > 1"
  user.page.wait_for_function(playing, timeout=LONG)
  if task in GIVEN:
    given = settings[GIVEN[task]]
    assert given.endswith(FILES[GIVEN[task]])
  if task == "v2a":
    assert (probe(clip).height, probe(clip).width) == (48, 64)
    assert "only its beginning is used" in user.status()


MISTAKES = [
  ({"prompt": " "}, "--prompt is empty"),
  ({"size": "33x32"}, "width must be a multiple of 16, got 33: use 32 or 48"),
  ({"size": "999999x32"}, "width must be"),
  ({"seconds": "-1"}, "--seconds: got -1"),
  ({"steps": "0"}, "--steps: got 0; expected at least 1"),
  ({"scale_video": "loud"}, "--scale_video: got loud; expected numbers"),
  ({"scale_video": "3"}, "--scale_video does nothing: guidance none has no scales"),
]


def test_mistakes_are_the_commands_words_and_the_server_stays(user, files, tmp_path):
  user.task("joint")
  usual = {"prompt": PROMPT, "size": "", "seconds": "0.2", "steps": "2",
           "scale_video": ""}  # fmt: skip
  for wrong, words in MISTAKES:
    for name, text in (usual | wrong).items():
      user.fill(name, text, "textarea" if name == "prompt" else ":is(input, textarea)")
    user.start()
    user.wait(words)
  for name, text in usual.items():
    user.fill(name, text, "textarea" if name == "prompt" else ":is(input, textarea)")
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


def test_uploads_are_checked(user, address, files):
  user.task("v2a")
  user.clear("video")
  user.page.set_input_files("#video input[type=file]", files / "text.mp4")
  user.page.wait_for_selector("#video video", state="attached")
  user.start()
  user.wait("video: text.mp4: damaged, or of no format")
  upload = f"{address.rstrip('/')}/gradio_api/upload"
  for size, status in ((1000, 200), (2_000_000, 413)):
    file = {"name": "x.wav", "mimeType": "audio/wav", "buffer": bytes(size)}
    answer = user.page.request.post(upload, multipart={"files": file})
    assert answer.status == status


def test_files_of_others_stay_closed(chromium, address):
  """No list, no file of the machine, and no file of the temporary folder."""
  request = chromium.new_context().request
  for path in ("/etc/passwd", "../../etc/passwd", "/tmp"):
    answer = request.get(f"{address.rstrip('/')}/gradio_api/file={path}")
    assert answer.status in (403, 404), path


def test_a_narrow_page_fits(chromium, address):
  page = chromium.new_context(viewport={"width": 390, "height": 800}).new_page()
  page.set_default_timeout(LONG)
  page.goto(address)
  page.wait_for_selector("#prompt textarea")
  width = page.evaluate("() => document.documentElement.scrollWidth")
  assert width <= 390
