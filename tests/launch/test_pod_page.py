"""docs/pod.md: its commands are run dry, or parsed as the commands themselves do."""

import os
import pathlib
import re
import shlex
import subprocess

import pytest

from ccl_jax import cli, places
from ccl_jax.data.preparing import run as preparing
from tests.flags.command import MODULES, PARSERS, _parser_of, command

ROOT = pathlib.Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "pod.md").read_text("utf-8")
BLOCKS = re.findall(r"```bash\n(.*?)```", TEXT, re.DOTALL)


def lines():
  """The commands of all blocks, and those that ssh runs on the hosts."""
  for block in BLOCKS:
    for line in block.replace("\\\n", " ").strip().splitlines():
      words = shlex.split(line)
      yield words
      inner = [w.partition("=")[2] for w in words if w.startswith("--command=")]
      for text in inner:
        yield from (shlex.split(part) for part in text.split("&&"))


COMMANDS = [words for words in lines() if words[0] != "cd"]
SCRIPTS = [words for words in COMMANDS if words[0].startswith("launch/")]
PROGRAMS = [words[2:] for words in COMMANDS if words[:2] == ["python", "-m"]]
name = lambda words: " ".join(words)[:60]


def test_every_step_has_its_command():
  assert len(re.findall(r"^## \d\. ", TEXT, re.M)) == 9
  used = {words[0].removeprefix("ccl_jax.") for words in PROGRAMS}
  assert used == {"convert", "data", "encode", "plan", "train", "generate", "eval"}
  others = {w[0] for w in COMMANDS} - {"python"} - {w[0] for w in SCRIPTS}
  assert others == {"gcloud", "pip", "tensorboard"}
  for words in COMMANDS:
    if words[0] == "gcloud":
      assert any(w.startswith("--zone=") for w in words), words


@pytest.mark.parametrize("words", SCRIPTS, ids=name)
def test_launchers_run_dry(words, tmp_path):
  """Flags of a launcher and, in what it would run, those of the training."""
  at = words.index("--") if "--" in words else len(words)
  argv = [*words[:at], "--dry-run", *words[at:]]
  out = subprocess.run(
    argv, cwd=ROOT, env={**os.environ, "HOME": str(tmp_path)}, timeout=60,
    capture_output=True, text=True,
  )  # fmt: skip
  assert out.returncode == 0 and not out.stderr, out.stderr
  for flag in words[at + 1 :]:
    # Quoted as often as shells lie between: its letters are there.
    assert flag.split("=")[0] in out.stdout and "ccl_jax.train" in out.stdout
  if words[at + 1 :]:
    parsed(["ccl_jax.train", "--workdir=run", *words[at + 1 :]])


@pytest.mark.parametrize("words", PROGRAMS, ids=name)
def test_commands_take_their_flags(words):
  parsed(words)


def parsed(words):
  """Parses a command line as the command does, with its config; nothing is run."""
  program, *argv = words
  kind = program.removeprefix("ccl_jax.")
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(places, "require_buckets", lambda *_: None)  # no network
    if kind in MODULES:
      made = command(kind)
      seen, refuse = [], cli._refuse_addresses
      taken = getattr(made.module, "BUCKETS", ())  # as the command gives them itself
      patch.setattr(cli, "_refuse_addresses", lambda _: refuse(taken))
      main = lambda: seen.append(1)
      main.__module__ = made.module.__name__
      patch.setattr(made.module, "main", main)
      made.run(*argv)
      assert seen == [1]
    elif argv[0] == "prepare":
      beam = argv[argv.index("--") + 1 :] if "--" in argv else []
      calls = []

      class Seen(Exception):
        pass

      def prepare(*args):
        calls.append(args)
        raise Seen

      patch.setattr(preparing, "prepare", prepare)
      from ccl_jax.data.__main__ import main as data

      with pytest.raises(Seen):
        data(argv)
      assert str(calls[0][0]) in argv and list(calls[0][5]) == beam
    else:
      assert kind in PARSERS
      _parser_of(kind).parse_args(argv)


def test_hours_are_steps_times_the_step():
  """7.1 s a step: 12,000 steps are 24 hours and 64 times as many chip-hours."""
  rows = re.findall(r"\| ([\d,]+) \| ([\d.,]+) \| ([\d,]+) \|\n", TEXT)
  numbers = [[float(x.replace(",", "")) for x in row] for row in rows]
  assert len(numbers) == 3
  for (steps, hours, chip_hours), passes in zip(numbers, (1, 1, 20)):
    assert hours == pytest.approx(passes * steps * 7.1 / 3600, rel=0.02)
    assert chip_hours == pytest.approx(64 * passes * steps * 7.1 / 3600, rel=0.02)
