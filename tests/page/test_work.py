"""The work behind the page, without a browser: turns, ends, failures and notes."""

import errno
import itertools
import logging
import threading

import numpy as np
import pytest

from ccl_jax.errors import UsageError
from ccl_jax.generation.scratch import Scratch
from ccl_jax.page.work import (
  Cancelled,
  Event,
  Failed,
  Work,
  in_page_words,
  noted,
  picture_of,
  said,
)
from ccl_jax.tasks import check_inputs

PICTURES = {"video": np.zeros((3, 4, 8, 3), np.uint8)}


def all_of(events):
  told = []
  try:
    while True:
      told.append(next(events))
  except StopIteration as e:
    return told, e.value


def test_every_step_is_told_and_the_result_is_given_back():
  def make(heard):
    logging.getLogger("ccl_jax.generation").warning("only its beginning is used")
    logging.getLogger("other").warning("not ours")
    for step in (1, 2, 3):
      heard(step, 3, PICTURES)
    return "clip"

  told, clip = all_of(Work().run(make))
  assert clip == "clip" and told[0].phase == "waiting"
  steps = [step for step, _ in itertools.groupby(e.step for e in told)]
  # Of steps that come together the newest is told.
  assert steps == sorted(set(steps)) and steps[0] == 0
  assert told[-1] == Event("sampling", 3, 3, PICTURES, ("only its beginning is used",))


def test_what_is_noted_at_the_end_is_told(monkeypatch):
  """As that a sound is encoded anew, when no step comes any more."""
  monkeypatch.setattr("ccl_jax.page.work.HEARTBEAT", 60)
  seen = threading.Event()

  def make(heard):
    heard(1, 1, None)
    seen.wait(60)
    logging.getLogger("ccl_jax").warning("encoded anew")
    return "clip"

  events = Work().run(make)
  while next(events).step < 1:
    pass
  seen.set()
  assert all_of(events)[0][-1].notes == ("encoded anew",)


def test_steps_that_come_faster_than_they_are_told_do_not_queue_up():
  """After 1000 steps an end is told at once, after the newest of them."""
  made, on = threading.Event(), threading.Event()

  def make(heard):
    for step in range(1, 1001):
      heard(step, 1000, None)
    made.set()
    on.wait(60)
    heard(1000, 1000, None)  # is ended here

  work = Work()
  events = work.run(make, "mine")
  next(events)
  assert made.wait(60)
  work.cancel("mine")
  left = []
  with pytest.raises(Cancelled):
    while True:
      left.append(next(events).step)
  on.set()
  assert left == [1000]


class Standing:
  """Clips that do not end before they are let go."""

  def __init__(self):
    self.begun, self.running, self.most = [], 0, 0
    self.go = threading.Event()

  def named(self, name):
    def make(heard):
      self.begun.append(name)
      self.running += 1
      self.most = max(self.most, self.running)
      try:
        heard(1, 2, PICTURES)
        while not self.go.wait(0.01):
          heard(1, 2, PICTURES)
        return name
      finally:
        self.running -= 1

    return make


def until(events, seen):
  """The first event of which `seen` is true, of those of a minute."""
  return next(event for event in itertools.islice(events, 120) if seen(event))


def test_clips_are_made_one_by_one_in_order():
  work, clips = Work(), Standing()
  first, second, third = (work.run(clips.named(name)) for name in "abc")
  until(first, lambda x: x.step == 1)
  assert until(second, lambda x: x.before) == Event("waiting", before=1)
  assert until(third, lambda x: x.before) == Event("waiting", before=2)
  clips.go.set()
  assert [all_of(x)[1] for x in (third, second, first)] == ["c", "b", "a"]
  assert clips.begun == ["a", "b", "c"] and clips.most == 1


@pytest.mark.parametrize("how", ["leaves", "is cancelled"])
def test_who_goes_stops_no_other(how):
  """Whether the clip is being made or waits: nobody hears more of it."""
  work, clips = Work(), Standing()
  first, second, third = (work.run(clips.named(name), name) for name in "abc")
  until(first, lambda x: x.step == 1)
  until(second, lambda x: x.before == 1)
  until(third, lambda x: x.before == 2)
  for name, events in (("b", second), ("a", first)):
    if how == "leaves":
      events.close()
    else:
      work.cancel(name)
      with pytest.raises(Cancelled):
        all_of(events)
    if name == "b":
      until(third, lambda x: x.before == 1)
  until(third, lambda x: x.step == 1)
  clips.go.set()
  assert all_of(third)[1] == "c" and clips.begun == ["a", "c"] and clips.most == 1
  work.cancel("c")  # it is made: nothing happens
  assert all_of(work.run(lambda _: "next", "c"))[1] == "next"


def test_a_line_that_is_full(monkeypatch):
  monkeypatch.setattr("ccl_jax.page.work.WAITING", 1)
  work, clips = Work(), Standing()
  first, second = (work.run(clips.named(name)) for name in "ab")
  until(first, lambda x: x.step == 1)
  until(second, lambda x: x.before == 1)
  with pytest.raises(Failed, match="1 clips wait already: try again"):
    next(work.run(clips.named("c")))
  clips.go.set()
  assert [all_of(x)[1] for x in (first, second)] == ["a", "b"]


@pytest.mark.parametrize(
  ("error", "line"),
  [
    (UsageError("--steps: got 0"), "--steps: got 0"),
    (OSError(errno.ENOSPC, "No space left on device", "/x"), "cannot read or write /x"),
    (MemoryError(), "out of memory: ask for smaller sizes"),
    (ValueError("a defect"), None),
  ],
)
def test_failures(error, line):
  """What is not the program's fault is a line; the next clip is made all the same."""
  work = Work()

  def make(_):
    raise error

  if line is None:
    with pytest.raises(ValueError, match="a defect"):
      all_of(work.run(make))
  else:
    with pytest.raises(Failed, match=line):
      all_of(work.run(make))
  assert all_of(work.run(lambda _: "next"))[1] == "next"


def test_what_is_said():
  """Uploads are called by their own names, and no text of a user's is HTML."""
  scratch = Scratch()
  upload = f"{scratch.path}/0af3/a <b>.wav"
  event = Event("sampling", 2, 8, None, (f"audio: {upload} lasts 9 s",))
  text = said(event)
  assert "step 2 of 8" in text and 'max="8" value="2"' in text
  assert "note: audio: a &lt;b&gt;.wav lasts 9 s" in text
  both = f"{upload}: no\n{scratch.path}/made.mp4: no, /tmp/own.wav: no"
  assert in_page_words(both) == "a <b>.wav: no\nmade.mp4: no, /tmp/own.wav: no"
  with pytest.raises(UsageError) as lacking:
    check_inputs("a2v", [])
  for told, words in (
    (f"{lacking.value}; see", 'task a2v needs audio: give "Sound"; see'),
    ("--scale_video: got 1", '"Guidance scale, picture": got 1'),
    ("--negative_prompt: got 1", '"Negative prompt": got 1'),
    ("--vae_tile=8 or --size_x", "--vae_tile=8 or --size_x"),  # no fields
  ):
    assert in_page_words(told) == words
  assert "decoding" in said(Event("sampling", 8, 8))
  assert "waiting: 1 clip comes first" in said(Event("waiting", before=1))
  assert "waiting: 2 clips come first" in said(Event("waiting", before=2))
  assert "compiling" in said(Event("working")) and noted([]) == ""


def test_a_preview_is_one_picture():
  video = np.zeros((9, 4, 6, 3), np.uint8)
  video[0], video[-1] = 50, 200
  sound = np.full((20, 40), 128, np.uint8)
  both = picture_of({"video": video, "audio": sound})
  assert both.shape[1:] == (960, 3) and both.dtype == np.uint8
  assert (both[0, :160] == 50).all() and (both[0, -160:] == 200).all()
  assert (both[-1] == 128).all()
  assert len(both) == len(picture_of({"video": video})) + 80
