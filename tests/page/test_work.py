"""The work behind the page, without a browser: turns, ends, failures and notes."""

import errno
import itertools
import logging
import threading
import time

import numpy as np
import pytest

from ccl_jax.errors import UsageError
from ccl_jax.page.work import Event, Failed, Work, noted, picture_of, said

PICTURES = {"video": np.zeros((3, 4, 8, 3), np.uint8)}


@pytest.fixture(autouse=True)
def short(monkeypatch):
  monkeypatch.setattr("ccl_jax.page.work.HEARTBEAT", 0.05)


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
      time.sleep(0.1)
    return "clip"

  told, clip = all_of(Work().run(make))
  assert clip == "clip" and told[0].phase == "waiting"
  steps = [step for step, _ in itertools.groupby(e.step for e in told)]
  assert steps == [0, 1, 2, 3]
  assert told[-1] == Event("sampling", 3, 3, PICTURES, ("only its beginning is used",))


def test_one_clip_at_a_time_and_one_that_leaves_stops_no_other():
  work, running, most = Work(), [], []
  go = threading.Event()

  def make(heard):
    running.append(1)
    most.append(len(running))
    try:
      for step in range(1, 1000):
        if go.is_set() and step > 3:
          return "made"
        heard(step, 1000, PICTURES)
        time.sleep(0.02)
    finally:
      running.pop()

  first, second, third = (work.run(make) for _ in range(3))
  assert next(first).phase == "waiting"
  while next(first).step < 2:
    pass
  assert [next(x).phase for x in (second, third)] == ["waiting", "waiting"]
  third.close()  # while it waits
  for _ in range(5):
    assert next(second).phase == "waiting"
  first.close()  # in the middle of its work
  go.set()
  _, clip = all_of(second)
  assert clip == "made" and max(most) == 1
  assert len(most) == 2  # the third has not begun


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
  event = Event("sampling", 2, 8, None, ("audio: /tmp/x/a<b>.wav lasts 9 s",))
  text = said(event, ["/tmp/x/a<b>.wav", None])
  assert "step 2 of 8" in text and 'max="8" value="2"' in text
  assert "note: audio: a&lt;b&gt;.wav lasts 9 s" in text
  assert "decoding" in said(Event("sampling", 8, 8))
  assert "another clip" in said(Event("waiting")) and noted([]) == ""


def test_a_preview_is_one_picture():
  video = np.zeros((9, 4, 6, 3), np.uint8)
  video[0], video[-1] = 50, 200
  sound = np.full((20, 40), 128, np.uint8)
  both = picture_of({"video": video, "audio": sound})
  assert both.shape[1:] == (960, 3) and both.dtype == np.uint8
  assert (both[0, :160] == 50).all() and (both[0, -160:] == 200).all()
  assert (both[-1] == 128).all()
  assert len(both) == len(picture_of({"video": video})) + 80
