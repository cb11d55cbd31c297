"""The scripts that start training on many hosts: dry runs, mistakes, restarts."""

import os
import pathlib
import re
import shlex
import signal
import subprocess
import sys
import time

import pytest

ROOT = pathlib.Path(__file__).parents[2]
SCRIPTS = sorted((ROOT / "launch").glob("*.sh"))
TRAIN = "python -m ccl_jax.train --distributed"
POD = ["tpu_vm.sh", "--tpu=pod", "--zone=here", "--dir=/code", "--workdir=/run"]
CLUSTER = ["gke.sh", "--cluster=c", "--workload=w"]
SLICES = ["--tpu-type=v5p-128", "--slices=2", "--image=img", "--workdir=/run"]
JOB = ["slurm.sh", "--nodes=2", "--gpus=8", "--workdir=/my run", "--time=4:00:00"]
NODES = ["nodes.sh", "--hosts=a,b", "--dir=/code", "--workdir=/run", "--devices=8"]
FLAGS = ["--", "--config=configs/joint.py:size=14b", "--config.mesh=(1,64,1,1)"]
SHOWN = "--config=configs/joint.py:size=14b '--config.mesh=(1,64,1,1)'"


def launch(*argv, **options):
  return subprocess.run(
    [ROOT / "launch" / argv[0], *argv[1:]],
    cwd=ROOT,
    capture_output=True,
    text=True,
    timeout=60,
    **options,
  )


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda p: p.name)
def test_syntax(script):
  subprocess.run(["bash", "-n", script], check=True)
  done = subprocess.run(
    ["shellcheck", "-x", script], cwd=ROOT, capture_output=True, text=True
  )
  assert done.returncode == 0, done.stdout


def host(options, flags=""):
  return f"launch/host.sh --workdir /run {options} -- {TRAIN} {flags}--workdir=/run"


GCLOUD = ["gcloud", "compute", "tpus", "tpu-vm", "ssh", "pod", "--zone=here"]
DRY = {
  "pod": (
    [*POD, "--project=p", "--flags=--a=1 --b=2", *FLAGS],
    [
      [
        *[*GCLOUD, "--project=p", "--worker=all"],
        "--command=cd /code && LIBTPU_INIT_ARGS='--a=1 --b=2' "
        f"{host('--failures 3')} {SHOWN}",
      ]
    ],
  ),
  "stop a pod": (
    [*POD, "--action=stop"],
    [
      [*GCLOUD, "--worker=all", "--command=kill -TERM $(cat /run/logs/$(hostname).pid)"]
    ],
  ),
  "logs of a pod": (
    [*POD, "--action", "logs"],
    [[*GCLOUD, "--worker=all", "--command=tail -n 20 /run/logs/$(hostname).log"]],
  ),
  "logs of a pod whose run is in a bucket": (
    [*POD[:-1], "--workdir=gs://bucket/my runs/a/", "--action", "logs"],
    [
      [
        *[
          *GCLOUD,
          "--worker=all",
          "--command=tail -n 20 "
          "$HOME/.cache/ccl_jax/runs/'bucket_my runs_a'/logs/$(hostname).log",
        ],
      ]
    ],
  ),
  "cluster": (
    [*CLUSTER, *SLICES, *FLAGS],
    [
      [
        *["xpk", "workload", "create", "--cluster=c", "--workload=w"],
        *["--tpu-type=v5p-128", "--num-slices=2", "--docker-image=img"],
        "--max-restarts=100",
        f"--command=cd /ccl_jax && {host('--failures 1 --quick 1000000000')} {SHOWN}",
      ]
    ],
  ),
  "stop on a cluster": (
    [*CLUSTER, "--action=stop"],
    [["xpk", "workload", "delete", "--cluster=c", "--workload=w"]],
  ),
  "logs of a cluster": (
    [*CLUSTER, "--action=logs", "--zone=z"],
    [["xpk", "workload", "list", "--cluster=c", "--zone=z", "--filter-by-job=w"]],
  ),
  "slurm": (
    [*JOB, "--flags=--a=1", *FLAGS],
    [
      ["mkdir", "-p", "/my run/logs"],
      [
        *["sbatch", "--job-name=ccl_jax", "--nodes=2", "--ntasks-per-node=8"],
        *["--gpus-per-node=8", "--cpus-per-task=8", "--time=4:00:00", "--requeue"],
        *["--open-mode=append", "--signal=TERM@300"],
        "--output=/my run/logs/slurm-%j.log",
        "--wrap=XLA_FLAGS=--a=1 srun --kill-on-bad-exit=0 launch/host.sh --workdir "
        f"'/my run' --failures 3 -- {TRAIN} '--workdir=/my run' {SHOWN}",
      ],
    ],
  ),
  "nodes": (
    [*NODES, *FLAGS],
    [
      [
        *["ssh", name],
        "cd /code && "
        + host(
          f"--name process{i} --devices 8 --failures 3",
          f"--coordinator=a:12355 --num_processes=2 --process_id={i} ",
        )
        + f" {SHOWN}",
      ]
      for i, name in enumerate("ab")
    ],
  ),
  "stop nodes": (
    [*NODES, "--action=stop"],
    [
      ["ssh", name, f"kill -TERM $(cat /run/logs/process{i}.pid)"]
      for i, name in enumerate("ab")
    ],
  ),
  "logs of nodes": (
    [*NODES, "--action=logs"],
    [
      ["ssh", name, f"tail -n 20 /run/logs/process{i}.log"]
      for i, name in enumerate("ab")
    ],
  ),
}


@pytest.mark.parametrize("name", DRY)
def test_dry_runs(name):
  argv, expected = DRY[name]
  done = launch(argv[0], "--dry-run", *argv[1:], env={"PATH": "/usr/bin:/bin"})
  assert done.returncode == 0, done.stderr
  assert [shlex.split(line) for line in done.stdout.splitlines()] == expected


def test_a_dry_run_of_a_host_touches_nothing(tmp_path):
  argv = ["--dry-run", f"--workdir={tmp_path}/run", "--name=n", "--", "false", "a b"]
  done = launch("host.sh", *argv)
  assert shlex.split(done.stdout) == [
    f"JAX_COMPILATION_CACHE_DIR={tmp_path}/run/xla_cache",
    *["false", "a b", f">>{tmp_path}/run/logs/n.log", "2>&1"],
  ]
  assert not list(tmp_path.iterdir())


def test_a_host_keeps_what_is_its_own_of_a_run_in_a_bucket(tmp_path):
  program = "import os; print(os.environ['JAX_COMPILATION_CACHE_DIR'])"
  done = launch(
    *["host.sh", "--workdir=gs://bucket/runs/a b", "--name=h", "--free_gb=0", "--"],
    *[sys.executable, "-c", program],
    env=os.environ | {"HOME": str(tmp_path)},
  )
  assert done.returncode == 0, done.stderr
  folder = tmp_path / ".cache/ccl_jax/runs/bucket_runs_a b"
  assert str(folder / "xla_cache") in (folder / "logs/h.log").read_text()
  assert not (ROOT / "gs:").exists()


MISTAKES = [
  (["tpu_vm.sh"], "--tpu is missing"),
  ([*POD], "no flags of the training"),
  ([*POD, "--action=fly"], "'fly'; expected run, stop or logs"),
  ([*POD, "--colour=red", *FLAGS], "unknown option --colour"),
  ([*POD, "--flags"], "--flags has no value"),
  ([*POD, "fast"], "unexpected argument 'fast'"),
  ([*CLUSTER, *FLAGS], "--tpu_type is missing"),
  ([*CLUSTER, *SLICES, "--slices=two", *FLAGS], "--slices: got 'two'"),
  (["slurm.sh", "--nodes=2", "--gpus=8", *FLAGS], "--workdir is missing"),
  ([*NODES, "--port=http", *FLAGS], "--port: got 'http'"),
  (["host.sh", "--workdir=/nowhere/at/all"], "no command"),
  (["host.sh", "--workdir=/proc/run", "--", "true"], "cannot make /proc/run/logs"),
]


@pytest.mark.parametrize(("argv", "words"), MISTAKES)
def test_mistakes_are_one_line(argv, words):
  done = launch(*argv)
  assert (done.returncode, done.stdout) == (2, "")
  (line,) = done.stderr.splitlines()
  assert line.startswith("error: ") and words in line


@pytest.mark.parametrize("script", [s for s in SCRIPTS if s.name != "lib.sh"])
def test_help(script):
  done = launch(script.name, "--help")
  assert done.returncode == 0
  assert f"launch/{script.name} --" in done.stdout
  assert "#" not in done.stdout and "source-path" not in done.stdout


def run_host(workdir, program, *options):
  """host.sh with a Python program that finds the number of its attempt in `n`."""
  count = f"""
import pathlib, sys
p = pathlib.Path({str(workdir / "count")!r})
n = int(p.read_text()) + 1 if p.exists() else 1
p.write_text(str(n))
"""
  return [
    *[ROOT / "launch/host.sh", f"--workdir={workdir}", "--name=h", "--pause=0"],
    *["--free_gb=0", *options, "--", sys.executable, "-c", count + program],
  ]


def attempts(workdir):
  return int((workdir / "count").read_text())


def test_a_host_goes_on_until_the_command_ends_well(tmp_path):
  program = "import os; print(os.environ['JAX_COMPILATION_CACHE_DIR'])\n"
  command = run_host(tmp_path, program + "sys.exit(0 if n == 3 else 1)", "--failures=5")
  assert subprocess.run(command, timeout=60).returncode == 0
  assert attempts(tmp_path) == 3
  log = (tmp_path / "logs/h.log").read_text()
  assert log.count(str(tmp_path / "xla_cache")) == 3
  assert re.findall(r"exit (\d+) after", log) == ["1", "1", "0"]


@pytest.mark.parametrize(
  ("code", "times", "options"),
  [(9, 3, []), (9, 1, ["--failures=1"]), (2, 1, []), (0, 1, [])],
)
def test_a_host_gives_up(tmp_path, code, times, options):
  program = f"print('error: no such thing'); sys.exit({code})"
  done = subprocess.run(
    run_host(tmp_path, program, *options), capture_output=True, text=True, timeout=60
  )
  assert done.returncode == code
  assert attempts(tmp_path) == times
  if code == 2:
    assert done.stderr.startswith("error: no such thing (see ")
  elif code:
    assert "failures in a row" in done.stderr


def test_slow_failures_do_not_count(tmp_path):
  program = "sys.exit(0 if n == 4 else 1)"
  command = run_host(tmp_path, program, "--failures=2", "--quick=0")
  assert subprocess.run(command, timeout=60).returncode == 0
  assert attempts(tmp_path) == 4


# The trap's kill returns long after the command has ended.
SLOW = {"BASH_FUNC_kill%%": '() { builtin kill "$@"; local x=$?; sleep 1; return $x; }'}


@pytest.mark.parametrize("variables", [{}, SLOW], ids=["at_once", "slow"])
@pytest.mark.parametrize(
  ("tells", "code", "expected"),
  [(True, 0, 75), (False, 0, 0), (True, 9, 9)],
  ids=["saved", "done", "failed"],
)
def test_a_host_passes_on_the_wish_to_stop(tmp_path, tells, code, expected, variables):
  """The exit code is that of the command, whenever it ends after the signal."""
  program = f"""
import signal, time
def leave(*_):
  if {tells}:
    print('{{"stopped": true}}')
  sys.exit({code})
signal.signal(signal.SIGTERM, leave)
pathlib.Path(p.parent / "ready").touch()
time.sleep(60)
"""
  process = subprocess.Popen(run_host(tmp_path, program), env=os.environ | variables)
  while not (tmp_path / "ready").exists():
    time.sleep(0.02)
  assert int((tmp_path / "logs/h.pid").read_text()) == process.pid
  process.send_signal(signal.SIGTERM)
  assert process.wait(timeout=30) == expected
  assert attempts(tmp_path) == 1


SSH = """#!/usr/bin/env bash
# Stands for ssh and host.sh: a host of this name that ends with 75 when it is asked to.
cd "$(dirname "$0")"
if [[ $2 == kill* ]]; then bash -c "$2"; sleep 0.5; exit; fi
trap 'exit 75' TERM
mkdir -p logs
[[ $2 =~ process[0-9] ]]
echo $$ >"logs/$BASH_REMATCH.pid"
while true; do sleep 0.05; done
"""


def test_all_hosts_are_asked_to_stop_and_say_how_they_ended(tmp_path):
  (tmp_path / "ssh").write_text(SSH)
  (tmp_path / "ssh").chmod(0o755)
  command = [
    ROOT / "launch/nodes.sh",
    "--hosts=a,b",
    "--dir=/",
    f"--workdir={tmp_path}",
  ]
  process = subprocess.Popen(
    [*command, "--", "--config=c"],
    env=os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}"},
  )
  hosts = [tmp_path / f"logs/process{i}.pid" for i in range(2)]
  while not all(host.exists() and host.read_text() for host in hosts):
    time.sleep(0.02)
  process.send_signal(signal.SIGTERM)
  assert process.wait(timeout=30) == 75


def test_a_host_that_lacks_something_does_not_start(tmp_path):
  cases = {
    "--free_gb=100000000": "GB free, expected 100000000",
    "--devices=77": "expected 77",
  }
  for option, words in cases.items():
    done = subprocess.run(
      [*run_host(tmp_path, "")[:5], option, "--", sys.executable, "-c", "1"],
      capture_output=True,
      text=True,
      timeout=60,
    )
    assert done.returncode == 2 and words in done.stderr
  assert not (tmp_path / "count").exists()
