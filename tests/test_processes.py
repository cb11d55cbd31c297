"""Two processes: sharded saves, one answer about damage, one step to stop at."""

import json
import pathlib
import signal
import time
import types

import jax
import pytest

from ccl_jax import processes
from ccl_jax.errors import UsageError
from tests.pair import started

ROOT = pathlib.Path(__file__).parents[1]

PROGRAM = """
import json, os, signal, sys, time
import jax, jax.numpy as jnp, numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec

rank, port, folder = int(sys.argv[1]), sys.argv[2], sys.argv[3]
jax.config.update("jax_num_cpu_devices", 2)
jax.distributed.initialize(f"localhost:{port}", num_processes=2, process_id=rank)

from ccl_jax.checkpoints import checkpointer as checkpoint
from ccl_jax.errors import UsageError
from ccl_jax import processes
from ccl_jax.training import saves, signals

mesh = jax.make_mesh((4,), ("fsdp",), axis_types=(AxisType.Auto,))
fsdp = NamedSharding(mesh, PartitionSpec("fsdp"))
out = {}

@jax.jit
def draw(step):
  x = jax.random.normal(jax.random.key(step), (8, 512))
  return {"w": jax.lax.with_sharding_constraint(x, fsdp)}

def same(a, b):
  pairs = zip(a["w"].addressable_shards, b["w"].addressable_shards)
  return all(np.array_equal(x.data, y.data) for x, y in pairs)

abstract = {"w": jax.ShapeDtypeStruct((8, 512), jnp.float32, sharding=fsdp)}
c = checkpoint.Checkpointer(folder, keep=3)
for step in (1, 2):
  c.save(step, draw(step), {"i": step}, {})

# One process alone fails to read the newest step: a disk that is silent stops both, a
# file that is not there proves damage to both.
read = checkpoint._read_state
def failing(folder, *args):
  if rank == 1 and folder.parent.name == "2":
    raise error("no such disk")
  return read(folder, *args)
checkpoint._read_state = failing
error = OSError
try:
  c.restore(abstract)
except UsageError as e:
  text = str(e)
  assert ("another process stopped" if rank == 0 else "no such disk") in text, text
  out["left alone"] = sorted(x for x in os.listdir(folder) if x[0].isdigit())
error = FileNotFoundError
step, state, data, _ = c.restore(abstract)
checkpoint._read_state = read
out["fell back"] = [step, data["i"], same(state, draw(1))]

# One process alone is told to go.
with signals.ShutdownGuard() as guard:
  for step in range(2, 2000):
    if guard.agreed(step):
      break
    if step == 5 and rank == 1:
      os.kill(os.getpid(), signal.SIGTERM)
    jnp.sum(draw(step)["w"]).block_until_ready()
    time.sleep(0.01)
out["stopped"] = step
c.save(step, draw(step), {"i": step}, {})
got, state, data, _ = c.restore(abstract)
out["resumed"] = [got, data["i"], same(state, draw(step))]
c.close()

# Arrays of one process are read by that one alone, while the others wait.
here = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
alone = {"w": jax.ShapeDtypeStruct((8, 512), jnp.float32, sharding=here)}
expected = np.asarray(jax.random.normal(jax.random.key(step), (8, 512)))
def read_alone():
  time.sleep(0.5)
  tree = checkpoint._newest_good(c._directory, [step], alone)[1]
  open(folder + "/read", "x").close()
  return bool(np.array_equal(tree["w"], expected))
got = processes.first_process(read_alone)
assert got == (True if rank == 0 else None), got
assert os.path.exists(folder + "/read")
out["first"] = processes.first_process_first(lambda: step)
# Process 0 takes 10 s a step by its clock, the other one a year: a save every minute.
clock = lambda: (10 if rank == 0 else 3e7) * turn
turn = 0
saving = saves.Saves(1, 1.0, 0, lambda: clock())
due = []
for turn in range(1, 31):
  if saving.due(turn):
    due.append(turn)
out["saves"] = due
out["agreed"] = processes.agreed(lambda: {"by": rank})
def mistaken():
  assert rank == 0
  raise UsageError("no such folder")
out["heard"] = []
for meet in (processes.first_process, processes.agreed):
  try:
    meet(mistaken)
  except UsageError as e:
    out["heard"].append(str(e))
try:
  processes.check_versions(rank, {"jax": f"1.{rank}"})
except UsageError as e:
  assert rank == 1 and "process 1 has jax 1.1, not 1.0" in str(e), e
else:
  assert rank == 0
print("OUT " + json.dumps(out), flush=True)
"""


def test_two_processes_agree(tmp_path):
  with started(PROGRAM, str(tmp_path)) as pair:
    results = [p.communicate(timeout=120) for p in pair]
  lines = [line for out, _ in results for line in out.splitlines() if "OUT " in line]
  assert len(lines) == 2, results
  first, second = (json.loads(line.split("OUT ")[1]) for line in lines)
  assert first == second
  assert first["left alone"] == ["1", "2"]
  assert first["fell back"] == [1, 1, True]
  assert 5 < first["stopped"] < 1999
  assert first["resumed"] == [first["stopped"]] * 2 + [True]
  assert first["first"] == first["stopped"]
  assert first["agreed"] == {"by": 0}
  assert first["saves"] == [6, 12, 18, 24, 30]
  assert first["heard"] == ["no such folder"] * 2
  assert "another process could not read it" in results[0][1]
  assert "no such disk" in results[1][1]


LOSS = """
import os, signal, sys, time
import jax
from ccl_jax import processes

rank, port = int(sys.argv[1]), sys.argv[2]
processes.join_processes(f"localhost:{port}", 2, rank, heartbeat=5)
print("met", flush=True)
if rank == 1:
  os.kill(os.getpid(), signal.SIGKILL)
while True:
  time.sleep(1)  # as in a collective
"""


def test_the_survivor_of_a_lost_process_ends():
  """With an error, whatever it waits for, once the other one counts as lost."""
  with started(LOSS) as pair:
    assert [p.stdout.readline() for p in pair] == ["met\n"] * 2
    assert pair[1].wait(60) == -signal.SIGKILL
    lost = time.monotonic()
    assert pair[0].wait(60) != 0
    assert time.monotonic() - lost < 25  # a heartbeat, and not the default of 30 s


@pytest.fixture
def meeting(monkeypatch):
  """What JAX and the watch are asked; the versions are everybody's."""
  asked = {}

  class Watch:
    def __init__(self, seconds, call, args):
      asked["watch"] = (seconds, call, args)

    def start(self):
      asked["started"] = True

    def cancel(self):
      asked["cancelled"] = True

  def initialize(*given, **options):
    asked["given"], asked["options"] = given, options
    if given[0] == "deaf:1":
      raise ValueError("Number of processes must be defined.\nMore.")

  monkeypatch.setattr(processes.threading, "Timer", Watch)
  monkeypatch.setattr(jax.distributed, "initialize", initialize)
  monkeypatch.setattr(processes, "check_versions", lambda *x: asked.update(own=x))
  return asked


def test_how_processes_meet(meeting):
  """JAX's own patience ends a minute after the watch has told the user."""
  processes.join_processes("host:123", 4, 3, seconds=50)
  assert meeting["given"] == ("host:123", 4, 3)
  assert meeting["options"] == {
    "initialization_timeout": 110,
    "heartbeat_timeout_seconds": 30,
    "shutdown_timeout_seconds": 30,
  }
  assert meeting["watch"] == (50, processes._nobody_came, (50,))
  assert meeting["started"] and meeting["cancelled"]
  index, versions = meeting["own"]
  assert index == 0 and versions["jax"] == jax.__version__
  processes.join_processes(heartbeat=5)
  assert meeting["options"]["heartbeat_timeout_seconds"] == 5
  assert meeting["options"]["shutdown_timeout_seconds"] == 5
  assert meeting["given"] == (None, None, None) and meeting["watch"][0] == 300


@pytest.mark.parametrize(
  ("given", "reason"),
  [
    (("host:1", 2, None), "give all three, or none"),
    ((None, None, 0), "give all three, or none"),
    (("host", 2, 0), "expected HOST:PORT"),
    ((":80", 2, 0), "expected HOST:PORT"),
    (("host:port", 2, 0), "expected HOST:PORT"),
    (("host:1", 2, 2), "got 2; expected 0 to 1 for 2 processes"),
    (("host:1", 2, -1), "got -1; expected 0 to 1"),
    (("deaf:1", 1, 0), "--distributed: Number of processes must be defined. Give"),
  ],
)
def test_mistakes_about_who_is_who(meeting, given, reason):
  with pytest.raises(UsageError, match=reason) as e:
    processes.join_processes(*given)
  assert "\n" not in str(e.value)
  assert meeting.get("cancelled") == meeting.get("started")


def test_nobody_came(monkeypatch, capfd):
  """1 and not 2: no mistake, and another attempt may do better."""
  monkeypatch.setattr(processes.os, "_exit", lambda code: print(code, flush=True))
  processes._nobody_came(50)
  out, err = capfd.readouterr()
  assert out == "1\n" and "were not there within 50 s" in err


@pytest.fixture
def store(monkeypatch):
  """Values that process 0 has set, with a switch for who we are."""
  held = {}

  class Store:
    def key_value_set(self, key, value):
      assert key not in held
      held[key] = value

    def blocking_key_value_get(self, key, milliseconds):
      held["waited"] = milliseconds
      return held[key]

  client = types.SimpleNamespace(client=Store())
  monkeypatch.setattr(processes.distributed, "global_state", client)
  monkeypatch.setattr(jax, "process_count", lambda: 2)

  def be(index, turn):
    monkeypatch.setattr(jax, "process_index", lambda: index)
    monkeypatch.setattr(processes, "_turns", iter(range(turn, 100)))

  held["be"] = be
  return held


def test_the_first_process_goes_first(store):
  made = []

  def make():
    made.append(jax.process_index())
    return "made"

  def wrong():
    raise UsageError("no such folder")

  be = store["be"]
  be(0, 0)
  assert processes.first_process(make) == "made"
  assert processes.first_process_first(make) == "made"
  with pytest.raises(UsageError, match="no such folder"):
    processes.first_process(wrong)
  be(1, 0)
  assert processes.first_process(make) is None and made == [0, 0]
  assert processes.first_process_first(make) == "made" and made == [0, 0, 1]
  with pytest.raises(UsageError, match="^no such folder$") as e:
    processes.first_process(make)
  assert e.value.exit_code == 2
  assert store["waited"] == 10 * 24 * 3600 * 1000  # as long as building data may take


def test_all_end_with_the_exit_code_of_the_first(store):
  """1 where a launcher is to start the command again, on every host or on none."""

  def silent():
    error = UsageError("no answer")
    error.exit_code = 1
    raise error

  for rank in (0, 1):
    store["be"](rank, 0)
    with pytest.raises(UsageError, match="^no answer$") as e:
      processes.first_process(silent)
    assert e.value.exit_code == 1


def test_versions_are_those_of_process_0(store):
  processes.check_versions(0, {"jax": "1", "flax": "2"})
  processes.check_versions(1, {"jax": "1", "flax": "2"})
  with pytest.raises(UsageError, match="process 3 has flax 4, not 2 as process 0"):
    processes.check_versions(3, {"jax": "1", "flax": "4"})
