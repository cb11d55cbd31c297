"""The frame of all fuzz tests: bytes in, and only a user's error or a value out.

A door is a function that opens a file (or a folder) as a command does. A fuzz test
names the door, examples that are right, and strategies that spoil them:

  @fuzz()
  @given(data=spoilt(GOOD))
  def test_the_door(data):
    opens_or_refuses(read_manifest, data, "m.jsonl")

In CI every test takes a second or so. CCL_FUZZ_SECONDS=20 gives each test 20 s:

  CCL_FUZZ_SECONDS=20 pytest -q tests/fuzz
"""

import functools
import os
import pathlib
import resource
import tempfile
import time
from collections.abc import Callable, Sequence
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from ccl_jax.errors import UsageError

SECONDS = float(os.environ.get("CCL_FUZZ_SECONDS", 0))
SLOWEST = 5.0  # seconds of a processor that no file may take
LARGEST = 2**30  # bytes by which the process may grow at one file


def fuzz(examples: int = 60) -> Callable:
  """Runs a test of hypothesis on some examples, the same ones at every run; by hand on
  new ones for CCL_FUZZ_SECONDS.
  """

  def decorate(test):
    # No deadline an example: a machine under load is no finding.
    test = settings(
      max_examples=300 if SECONDS else examples,
      derandomize=not SECONDS,
      deadline=None,
      database=None,
      suppress_health_check=list(HealthCheck),
    )(test)

    @functools.wraps(test)
    def timed(*args, **kwargs):
      end = time.monotonic() + SECONDS
      test(*args, **kwargs)
      while time.monotonic() < end:
        test(*args, **kwargs)

    return timed

  return decorate


def opens_or_refuses(
  door: Callable[[pathlib.Path], Any],
  data: bytes,
  name: str,
  allowed: Sequence[type[Exception]] = (),
  files: dict[str, bytes] | None = None,
) -> Any:
  """Opens a file of these bytes; what the door gives, or None where it refuses.

  Fails where the door raises anything but a `UsageError` of one line (or an error in
  `allowed`), takes long, or takes memory that the bytes do not account for.

  Args:
    door: takes the path of the file.
    data: its bytes.
    name: its name.
    allowed: other errors by which a door may refuse, such as `MediaError`.
    files: others in its folder, by name.
  """
  with tempfile.TemporaryDirectory() as folder:
    path = pathlib.Path(folder) / name
    for other, content in (files or {}).items():
      (path.parent / other).write_bytes(content)
    path.write_bytes(data)
    began, peak = time.process_time(), _peak()
    found = None
    try:
      found = door(path)
    except UsageError as e:
      text = str(e)
      assert text and "\n" not in text and len(text) < 2000, text
      text.encode(errors="backslashreplace")
    except tuple(allowed):
      pass
    assert time.process_time() - began < SLOWEST, "it takes too long"
    assert _peak() - peak < LARGEST, "it takes too much memory"
  return found


def _peak() -> int:
  return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


@st.composite
def spoilt(draw: Callable, good: bytes) -> bytes:
  """A file that was right, with bits flipped and parts cut out, doubled or put in."""
  data = bytearray(good)
  for _ in range(draw(st.integers(1, 4))):
    at = draw(st.integers(0, max(len(data) - 1, 0)))
    length = draw(st.integers(0, 16))
    how = draw(st.sampled_from(("flip", "cut", "double", "put", "end")))
    if how == "flip" and data:
      data[at] ^= 1 << draw(st.integers(0, 7))
    elif how == "cut":
      del data[at : at + length]
    elif how == "double":
      data[at:at] = data[at : at + length]
    elif how == "put":
      data[at : at + length] = draw(st.binary(max_size=16))
    elif how == "end":
      del data[at:]
  return bytes(data)


# Values that readers of JSON trip over.
HARD = st.sampled_from(
  [
    None, True, False, 0, -1, 1, 2**31, 2**53, 2**63, 10**9, 10**30, 1e308, -0.5, "",
    float("inf"), float("nan"), "\ud83d", "\udce9", "\0", "a\0b", "..", "../x", "/etc",
    "/etc/passwd", "http://127.0.0.1:1/x", "file:x", "x" * 300, "$_$", "C:\\x", [], {},
    [[]], {"": {}}, [None], "0", "1e5", "NaN",
  ]
)  # fmt: skip
JSON = st.recursive(
  HARD | st.text(max_size=8) | st.integers() | st.floats(),
  lambda inner: (
    st.lists(inner, max_size=4)
    | st.dictionaries(st.text(max_size=6), inner, max_size=4)
  ),
  max_leaves=8,
)


@st.composite
def changed(draw: Callable, good: Any) -> Any:
  """A JSON value that was right, with some of its parts replaced, dropped or added."""
  value = good
  for _ in range(draw(st.integers(1, 3))):
    value = _changed(draw, value)
  return value


def _changed(draw: Callable, value: Any) -> Any:
  if isinstance(value, dict) and value and draw(st.integers(0, 3)):
    key = draw(st.sampled_from(sorted(value)))
    how = draw(st.sampled_from(("inside", "inside", "inside", "drop", "add", "rename")))
    if how == "inside":
      return value | {key: _changed(draw, value[key])}
    if how == "add":
      return value | {draw(st.text(max_size=6)): draw(JSON)}
    rest = {k: v for k, v in value.items() if k != key}
    return rest if how == "drop" else rest | {draw(st.text(max_size=6)): value[key]}
  if isinstance(value, list) and value and draw(st.integers(0, 3)):
    at = draw(st.integers(0, len(value) - 1))
    how = draw(st.sampled_from(("inside", "inside", "inside", "drop", "double")))
    if how == "inside":
      return [*value[:at], _changed(draw, value[at]), *value[at + 1 :]]
    return value[:at] + value[at + 1 :] if how == "drop" else [*value, value[at]]
  if isinstance(value, int) and not isinstance(value, bool) and draw(st.booleans()):
    return value ^ (1 << draw(st.integers(0, 40)))  # a flipped bit
  return draw(JSON)
