"""Step caching: the rule, on published ratios and by hand; files and mistakes."""

import json

import jax.numpy as jnp
import numpy as np
import pytest

from ccl_jax.errors import UsageError
from ccl_jax.generation.step_cache import (
  Recorder,
  cached_steps,
  check_cache,
  nearest,
  parse_cache,
  skipped,
)

# Measured by MagCache's authors: Wan2.1-T2V-14B, 50 steps, with the prompt.
T2V = """
1 1.02504 1.00025 .9985 .99779 .9966 .99482 .99467 .99664 .99434 .99533 .99468 .99438
.99516 .99384 .99404 .99517 .99409 .99428 .99347 .99418 .99271 .99313 .99215 .99218
.99216 .99163 .99138 .98982 .98996 .9887 .98772 .98767 .98573 .98501 .9838 .98177 .98037
.97678 .97546 .97184 .96711 .96349 .95629 .94926 .93964 .92511 .90693 .8796 .86111
"""
PUBLISHED = np.array([list(map(float, T2V.split()))])


@pytest.mark.parametrize(
  "threshold, most, count", [(0.12, 2, 25), (0.12, 4, 29), (0.24, 6, 32)]
)
def test_steps_that_published_ratios_skip(threshold, most, count):
  got = skipped([("cond",)] * 50, {"cond": PUBLISHED}, threshold, most)
  assert sum(got) == count
  if (threshold, most) == (0.12, 2):
    computed = [i for i, skip in enumerate(got) if not skip]
    assert computed == [*range(10), *range(12, 43, 3), 44, 46, 48, 49]


@pytest.mark.parametrize(
  "ratios, threshold, expected",
  [
    # A fifth of ten steps, then two of three, whatever the threshold.
    ([1.0] * 10, 0.1, "..ss.ss.ss"),
    # 0.05, then 0.05 + 0.0975 = 0.1475: one of two.
    ([0.95] * 10, 0.1, "..s.s.s.s."),
    ([0.95] * 10, 0.15, "..ss.ss.ss"),
    ([0.95] * 10, 0.05, ".........."),  # an error that is no less is too large
    ([0.5] * 10, 0.1, ".........."),
    # What grows and shrinks again adds no error; what grows and stays adds it twice.
    ([1.0, 1.0, 1.05, 1 / 1.05] * 3, 0.06, "..ss.ss.ss.s"),
    ([1.0, 1.05] * 5, 0.08, "..ss.s.s.s"),
  ],
)
def test_the_rule_by_hand(ratios, threshold, expected):
  steps = [("cond",)] * len(ratios)
  got = skipped(steps, {"cond": np.array([ratios])}, threshold)
  assert "".join(".s"[skip] for skip in got) == expected


def test_every_evaluation_and_stream_must_fit():
  """Of two curves the worse one decides, and of runs that are not one batch each."""
  good, bad = [1.0] * 10, [0.95] * 10
  together = skipped([("a+b",)] * 10, {"a+b": np.array([good, bad])}, 0.1)
  apart = skipped([("a", "b")] * 10, {"a": np.array([good]), "b": np.array([bad])}, 0.1)
  assert "".join(".s"[x] for x in together) == "..s.s.s.s."
  assert together == apart


def test_a_step_that_needs_what_was_not_kept_is_computed():
  """The first of another kind; after its own last one is too long ago, again."""
  wanted = [("b",)] * 4 + [("a",)] * 3 + [("b",)] * 3
  curves = {name: np.ones((1, 10)) for name in "ab"}
  got = skipped(wanted, curves, 0.1)
  assert "".join(".s"[x] for x in got) == "..ss.ss.ss"
  wanted = [("b",)] * 3 + [("a",)] + [("b",)] * 2 + [("a",)] * 4
  got = skipped(wanted, curves, 0.1)
  assert "".join(".s"[x] for x in got) == "..s..s.ss."


def test_ratios_of_another_number_of_steps():
  ratios = [1.0, 2.0, 3.0, 4.0, 5.0]
  assert nearest(ratios, 5).tolist() == ratios
  assert nearest(ratios, 3).tolist() == [1, 3, 5]
  assert nearest(ratios, 9).tolist() == [1, 1, 2, 3, 3, 3, 4, 5, 5]  # halves to even
  assert nearest(ratios, 1).tolist() == [5]


def test_the_recorder_takes_means_of_ratios_of_norms():
  """Over tokens and clips, for each evaluation and stream on its own."""
  recorder = Recorder()
  first = np.ones((4, 1, 2, 4))  # two evaluations of two clips, two tokens
  second = first * np.array([1, 2, 3, 4]).reshape(4, 1, 1, 1)
  second[0, 0, 1] *= -5
  for i, x in enumerate((first, second, second)):
    recorder(i, {"neg+cond/video": jnp.asarray(x)})
  assert recorder.ratios == {
    "neg": {"video": [1.0, (1 + 5 + 2 + 2) / 4, 1.0]},
    "cond": {"video": [1.0, (3 + 3 + 4 + 4) / 4, 1.0]},
  }


# Files --------------------------------------------------------------------------------

ABOUT = {
  "task": "t2v",
  "guidance": "text",
  "params": "abc",
  "ratios": {"cond": {"video": [1.0] * 10}, "neg": {"video": [1.0] * 9 + [0.5]}},
}


@pytest.fixture
def file(tmp_path):
  path = tmp_path / "c.json"
  path.write_text(json.dumps(ABOUT))
  return path


def test_a_file_and_its_threshold(file):
  assert parse_cache("x.json") == ("x.json", 0.12)
  assert parse_cache("a:b/x.json:0.3") == ("a:b/x.json", 0.3)
  got = cached_steps(f"{file}:0.12", [("neg+cond",)] * 10)
  assert "".join(".s"[x] for x in got) == "..ss.ss.s."
  got = cached_steps(f"{file}:0.6", [("neg+cond",)] * 10)
  assert "".join(".s"[x] for x in got) == "..ss.ss.ss"
  check_cache(str(file), "t2v", "text")
  check_cache(f"{file}:1", "t2v", "text", "abc")


def test_mistakes(file, tmp_path):
  for text in (f"{file}:much", f"{file}:0", f"{file}:-1", f"{file}:inf", ":0.1"):
    with pytest.raises(UsageError, match="expected FILE:THRESHOLD"):
      parse_cache(text)
  for args, words in (
    (("t2a", "text"), "task t2v, and this is t2a"),
    (("t2v", "none"), "guidance text, and this is none"),
    (("t2v", "text", "xyz"), "params abc, and this is xyz"),
  ):
    with pytest.raises(UsageError, match=f"{words}: measure anew with --calibrate"):
      check_cache(str(file), *args)
  with pytest.raises(UsageError, match="has no evaluation context"):
    cached_steps(str(file), [("context+cond",)])
  with pytest.raises(UsageError, match="cannot be read"):
    check_cache(str(tmp_path / "none.json"), "t2v", "text")
  for wrong in (
    ABOUT | {"ratios": {"cond": {"video": []}}},
    ABOUT | {"ratios": {"cond": {"video": [1.0, 0.0]}}},
    ABOUT | {"ratios": {"cond": {"video": [1.0, float("nan")]}}},
    {"task": "t2v"},
    [],
  ):
    file.write_text(json.dumps(wrong))
    with pytest.raises(UsageError, match="the file that generate --calibrate wrote"):
      check_cache(str(file), "t2v", "text")


def test_a_network_whose_blocks_add_nothing(tmp_path):
  recorder = Recorder()
  for i in range(2):
    recorder(i, {"cond/video": jnp.zeros((1, 1, 2, 4))})
  with pytest.raises(UsageError, match="network without blocks"):
    recorder.write(tmp_path / "c.json", "t2v", "none", None)
  assert not list(tmp_path.iterdir())
