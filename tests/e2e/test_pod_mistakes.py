"""Processes that cannot meet: one line of error."""

from tests.e2e.commands import finish
from tests.e2e.conftest import train_flags

SEVERAL = ["--distributed", "--coordinator=localhost:1", "--num_processes=2"]
CASES = [
  (["--coordinator=localhost:1"], 2, ["--distributed"]),
  (SEVERAL[:2], 2, ["num_processes=None", "all three"]),
  ([*SEVERAL, "--coordinator=here", "--process_id=0"], 2, ["here", "HOST:PORT"]),
  ([*SEVERAL, "--process_id=2"], 2, ["got 2", "0 to 1"]),
  (["--distributed"], 2, ["--coordinator"]),
  ([*SEVERAL, "--process_id=1", "--meet_seconds=1"], 1, ["not there within 1 s"]),
]


def test_mistakes_are_one_line(tmp_path):
  for flags, expected, words in CASES:
    code, out = finish("ccl_jax.train", train_flags(tmp_path / "none", *flags))
    assert code == expected, (flags, out)
    line = out.strip().splitlines()[-1]
    assert line.startswith("error: ") and all(w in line for w in words), (flags, out)
    assert "Traceback" not in out, flags
