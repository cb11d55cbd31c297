"""Two processes: sharded saves, one answer about damage, one step to stop at."""

import json
import pathlib
import socket
import subprocess
import sys

ROOT = pathlib.Path(__file__).parents[2]

PROGRAM = """
import json, os, signal, sys, time
import jax, jax.numpy as jnp, numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec

rank, port, folder = int(sys.argv[1]), sys.argv[2], sys.argv[3]
jax.config.update("jax_num_cpu_devices", 2)
jax.distributed.initialize(f"localhost:{port}", num_processes=2, process_id=rank)

from ccl_jax.training import checkpoint, signals

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

# One process alone fails to read the newest step.
read = checkpoint._read_state
def failing(folder, *args):
  if rank == 1 and folder.parent.name == "2":
    raise OSError("no such disk")
  return read(folder, *args)
checkpoint._read_state = failing
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
from ccl_jax.errors import UsageError
from ccl_jax.training import processes
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
def mistaken():
  assert rank == 0
  raise UsageError("no such folder")
try:
  processes.first_process(mistaken)
except UsageError as e:
  out["heard"] = str(e)
try:
  processes.check_versions(rank, {"jax": f"1.{rank}"})
except UsageError as e:
  assert rank == 1 and "process 1 has jax 1.1, not 1.0" in str(e), e
else:
  assert rank == 0
print("OUT " + json.dumps(out), flush=True)
"""


def test_two_processes_agree(tmp_path):
  with socket.socket() as s:
    s.bind(("localhost", 0))
    port = s.getsockname()[1]
  processes = [
    subprocess.Popen(
      [sys.executable, "-c", PROGRAM, str(rank), str(port), str(tmp_path)],
      stdout=subprocess.PIPE,
      stderr=subprocess.PIPE,
      text=True,
      cwd=ROOT,
    )
    for rank in range(2)
  ]
  try:
    results = [p.communicate(timeout=120) for p in processes]
  finally:
    for p in processes:
      p.kill()
  lines = [line for out, _ in results for line in out.splitlines() if "OUT " in line]
  assert len(lines) == 2, results
  first, second = (json.loads(line.split("OUT ")[1]) for line in lines)
  assert first == second
  assert first["fell back"] == [1, 1, True]
  assert 5 < first["stopped"] < 1999
  assert first["resumed"] == [first["stopped"]] * 2 + [True]
  assert first["first"] == first["stopped"]
  assert first["heard"] == "no such folder"
  assert "another process could not read it" in results[0][1]
  assert "no such disk" in results[1][1]
