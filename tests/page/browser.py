"""Somebody before the page, with a browser and without one, and a model that stands
still where a test wants it to.
"""

import contextlib
import html
import json
import re
import secrets
import threading

import httpx

from ccl_jax.generation.api import Pipeline
from ccl_jax.page.asked import FORM

PROMPT = 'a red face on the right says "ba <b>do</b>"'
FIELD = ":is(input, textarea)"
WIDE = {"width": 1280, "height": 900}
LONG = 240_000  # milliseconds that a clip may take


class Held(Pipeline):
  """A pipeline whose clips stand still after their first step as long as their prompt
  is among `standing`.

  Attributes:
    standing: prompts.
    begun: prompts of the clips that were begun, in order.
    fault: raised by every clip in place of being made; None: none.
  """

  def __init__(self, pipe):
    self.pipe, self.about = pipe, pipe.about
    self.standing, self.begun, self.fault = set(), [], None
    self._changed = threading.Condition()

  def __call__(self, prompt, *, callback, **call):
    self.begun.append(prompt)
    if self.fault is not None:
      raise self.fault

    def heard(step, steps, preview):
      callback(step, steps, preview)
      with self._changed:
        while prompt in self.standing:
          callback(step, steps, preview)  # raises where the clip is to end
          self._changed.wait(0.1)

    return self.pipe(prompt, callback=heard, **call)

  def go(self, prompt):
    with self._changed:
      self.standing.discard(prompt)
      self._changed.notify_all()

  def attention(self, clip, path):
    self.pipe.attention(clip, path)


class User:
  """Somebody before the page."""

  def __init__(self, browser, address):
    self.context = browser.new_context(viewport=WIDE)
    self.page = self.context.new_page()
    self.page.set_default_timeout(LONG)
    self.page.goto(address)
    self.fill("prompt", PROMPT, "textarea")
    self.fill("steps", "2", FIELD)
    self.page.click("#settings button")
    self.fill("seconds", "0.2", FIELD)
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
    media = f"#{name} :is(img, video, audio)"
    if self.page.locator(media).count():
      self.page.click(
        f'#{name} button:is([aria-label="Clear"], [aria-label^="Remove"])'
      )
      self.page.wait_for_selector(media, state="detached")

  def give(self, name, file):
    self.clear(name)
    self.page.set_input_files(f"#{name} input[type=file]", file)
    self.page.wait_for_selector(f"#{name} :is(img, video, audio)", state="attached")

  def status(self):
    return self.page.inner_text("#status")

  def wait(self, words):
    shown = "w => document.querySelector('#status').innerText.includes(w)"
    self.page.wait_for_function(shown, arg=words, timeout=LONG)

  def start(self, prompt=None):
    """Presses the button; what was said before is gone when this returns."""
    if prompt is not None:
      self.fill("prompt", prompt, "textarea")
    mark = "document.querySelector('#status [role]').textContent = 'pressed'"
    self.page.evaluate(f"() => {{ {mark} }}")
    self.page.click("#start")
    said = "document.querySelector('#status').innerText"
    self.page.wait_for_function(f"() => !{said}.includes('pressed')", timeout=LONG)

  def wait_until_ready(self):
    """For the button that starts a clip, and no other, to be there to press."""
    self.page.wait_for_selector("#start:not([disabled])")
    self.page.wait_for_selector("#cancel[disabled]")

  def links(self):
    return [x.get_attribute("href") for x in self.page.locator("#files a").all()]

  def made(self, folder):
    """The clip and its settings, as they are downloaded."""
    both = "() => document.querySelectorAll('#files a').length == 2"
    self.page.wait_for_function(both, timeout=LONG)
    out = {}
    for href in self.links():
      data = self.page.request.get(href)
      assert data.ok
      path = folder / href.rsplit("/", 1)[1]
      path.write_bytes(data.body())
      out[path.suffix] = path
    settings = json.loads(out.pop(".json").read_text())
    (clip,) = out.values()
    return clip, settings


class Sender:
  """Somebody who sends forms without a browser, right ones and forged ones."""

  def __init__(self, address):
    self.address = f"{address.rstrip('/')}/gradio_api"
    self.client = httpx.Client(timeout=LONG / 1000)
    config = self.client.get(f"{address.rstrip('/')}/config").json()
    names = {x["id"]: x["props"].get("elem_id") for x in config["components"]}
    (self.number,) = (
      x["id"]
      for x in config["dependencies"]
      if any(names.get(i) == "start" and what == "click" for i, what in x["targets"])
    )
    (shown,) = (x["outputs"] for x in config["dependencies"] if x["id"] == self.number)
    self.place = [names[i] for i in shown].index("status")

  def upload(self, name, data, kind="application/octet-stream"):
    """Uploads a file; returns the answer."""
    files = {"files": (name, data, kind)}
    return self.client.post(f"{self.address}/upload", files=files)

  def given(self, path):
    """A file as a form has it."""
    file = self.upload(path.name, path.read_bytes()).json()[0]
    return {"path": file, "orig_name": path.name, "meta": {"_type": "gradio.FileData"}}

  def join(self, **form):
    usual = dict.fromkeys(FORM) | {
      "prompt": "a", "task": "t2a", "seed": "0", "steps": "1", "guidance": "none",
      "seconds": "0.2", "lora": [],
    }  # fmt: skip
    values = usual | form
    session = secrets.token_hex(5)
    body = {
      "data": [values[name] for name in FORM],
      "fn_index": self.number,
      "session_hash": session,
    }
    return self.client.post(f"{self.address}/queue/join", json=body), session

  def send(self, **form):
    """Sends a form; returns the line of error that the page shows, "" for a clip, and
    None where the page itself refuses the form.
    """
    answer, session = self.join(**form)
    assert answer.status_code == 200, answer.text
    told, shown = {"session_hash": session}, ""
    with self.client.stream("GET", f"{self.address}/queue/data", params=told) as events:
      for line in events.iter_lines():
        message = json.loads(line.removeprefix("data:") or "{}")
        if message.get("msg") == "process_completed":
          if not message["success"]:
            return None
          break
        if message.get("msg") == "process_generating":
          shown = _last_text(message["output"]["data"][self.place], shown)
    found = re.fullmatch(r'<div class="ccl-error" role="alert">(.*?)</div>.*', shown)
    return html.unescape(found[1]) if found else ""


def _last_text(told, shown):
  """The status after a message, which has it whole or as what has changed."""
  if isinstance(told, str):
    return told
  if isinstance(told, dict):
    return told.get("value", shown)
  for action, _, value in told if isinstance(told, list) else ():
    with contextlib.suppress(TypeError):
      shown = value if action == "replace" else shown + value
  return shown
