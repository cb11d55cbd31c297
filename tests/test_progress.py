"""The line that says what a command is doing: on terminals of any width, in files."""

import io

import pytest

from ccl_jax import progress
from ccl_jax.progress import Display


class Clock:
  """Seconds that pass when they are told to."""

  now = 0.0

  def __call__(self):
    return self.now


class Terminal(io.StringIO):
  """A terminal that keeps all that it is sent."""

  def isatty(self):
    return True

  def screen(self) -> list[str]:
    """The lines that one sees in the end: \\r goes back, ESC [K wipes the rest."""
    lines = []
    for line in self.getvalue().split("\n"):
      lines.append(line.split("\r\x1b[K")[-1])
    return lines


def drive(display, clock):
  """A command: 2 s of loading, 60 s of compiling, 16 steps of 3 s."""
  display.phase("loading")
  clock.now += 2
  display.phase("compiling")
  clock.now += 60
  display.phase("sampling", 16)
  for i in range(1, 17):
    display.at(i)
    clock.now += 3
  display.phase("decoding")
  display.end()


def test_a_file_has_lines_and_no_carriage_returns():
  """Every phase at once, a count at its first item, every 30 s and at its end; the time
  that is left is of steps alone, not of the compilation before them.
  """
  file, clock = io.StringIO(), Clock()
  drive(Display(file, clock), clock)
  assert file.getvalue().splitlines() == [
    "loading", "compiling", "sampling 1/16",
    "sampling 11/16  0:00:15 left",  # 10 steps in 30 s, 5 to go
    "sampling 16/16", "decoding",
  ]  # fmt: skip
  assert "\r" not in file.getvalue()


@pytest.mark.parametrize("columns", [40, 80, 100])
def test_a_terminal_has_one_line_that_fits(monkeypatch, columns):
  monkeypatch.setenv("COLUMNS", str(columns))
  stream, clock = Terminal(), Clock()
  display = Display(stream, clock)
  display.phase("step", 1200)
  notes = [f"loss/joint/video {i}.0000" for i in range(9)]
  for step in (50, 100):
    clock.now += 10
    display.at(step, notes)
  (line,) = stream.screen()
  assert line.startswith("step 100/1200  0:03:40 left")  # 10 s for 50 steps
  assert len(line) < columns and not line.endswith(" ")
  assert all(part in ["", *notes] for part in line.split("  ")[2:])  # whole ones
  assert line.count("loss") == {40: 0, 80: 2, 100: 2}[columns]
  display.say("after 100 steps")
  display.phase("saving")
  display.end()
  assert stream.screen() == ["after 100 steps", "saving", ""]


def test_parts_have_phases_and_are_what_the_time_is_told_of():
  """In a file not every clip's phases: a line every half minute."""
  file, clock = io.StringIO(), Clock()
  display = Display(file, clock)
  for clip in range(20):
    display.part("clips", clip, 20)
    for name, seconds in (
      ("compiling" if clip == 0 else "encoding", 1),
      ("sampling", 1),
    ):
      display.phase(name, None if name != "sampling" else 2)
      for i in (1, 2) if name == "sampling" else ():
        clock.now += seconds
        display.at(i)
    clock.now += 4
  display.part("clips", 20, 20)
  display.phase("writing")
  lines = file.getvalue().splitlines()
  assert lines[0] == "clips 0/20: compiling" and lines[-1] == "writing"
  assert lines[1] == "clips 5/20: encoding  0:01:30 left"  # 30 s for 5, 15 to go
  assert len(lines) == 5  # of 121 s


def test_bytes_are_told_in_a_unit_that_fits():
  file = io.StringIO()
  display = Display(file, Clock())
  display.phase("wan-dit", 57_000_000_000, "B")
  display.at(57_000_000_000)
  display.phase("small", 2_500_000, "B")
  display.at(1_000_000)
  assert file.getvalue() == "wan-dit 57.0/57.0 GB\nsmall 1.0/2.5 MB\n"


def test_a_program_that_imports_the_package_hears_nothing(capsys):
  progress.phase("loading")
  assert list(progress.counted("ab", "reading", 2)) == ["a", "b"]
  with progress.Bar("encoding", 2) as bar:
    bar.update(1)
  assert not progress.is_shown() and capsys.readouterr().err == ""
  with progress.shown():
    assert list(progress.counted("ab", "reading", 2, "files")) == ["a", "b"]
  assert capsys.readouterr().err.splitlines()[-1] == "reading 2/2 files"
  progress.say("a note")
  assert capsys.readouterr().err == "a note\n"
