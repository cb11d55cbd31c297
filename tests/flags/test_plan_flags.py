"""What `plan` compiles, by its flags; nothing is compiled here."""

import dataclasses
import json
from types import SimpleNamespace

import pytest

from ccl_jax.planning.compile import Report
from ccl_jax.planning.phases import Phase
from tests.flags.command import command
from tests.flags.recording import Recorder

CONFIG = "--config=configs/joint.py:size=tiny"
REPORT = Report(
  topology="v6e:2x2", mesh=(1, 4, 1, 1), batch=4, program="train step", remat="full",
  hbm_bytes=1000, hbm_limit=2000.0, model_flops=3e12, hardware_flops=4e12,
  traffic_bytes=500, collectives=[], largest="none",
  seconds={"arithmetic": 3.0, "memory": 1.0}, mfu=(0.1, 0.2), compile_seconds=1.0,
  phases={"text": Phase(1000), "decoding": Phase(1500, 500, 256)},
)  # fmt: skip


@pytest.fixture
def told(monkeypatch):
  r, plan = Recorder(monkeypatch), command("plan").module
  chip = SimpleNamespace(hbm=2000.0)
  r.replace(plan, "parse_topology", (chip, ["chip"] * 6))
  r.replace(plan, "plan", REPORT)
  slow = dataclasses.replace(REPORT, seconds={"arithmetic": 9.0}, remat="slow")
  large = dataclasses.replace(REPORT, hbm_bytes=2001, remat="large")
  r.replace(plan, "sweep", [slow, large, REPORT])
  return r


def test_defaults(told):
  """All chips share parameters; a clip a chip; a train step by the TPU's kernel."""
  command("plan").run(CONFIG)
  assert told.last("parse_topology").args == ("v5p:4x4x4",)
  config, topology, mesh, batch, generate = told.last("plan").args
  assert (topology, mesh, batch, generate) == ("v5p:4x4x4", None, 6, False)
  assert config.model.preset == "tiny" and config.model.attention == "splash"
  assert not told.calls["sweep"]
  command("plan").run(CONFIG, "--generate")  # of one clip
  assert told.last("plan").args[2:] == (None, 1, True)


def test_each_flag(told):
  """--topology, --mesh (data, fsdp, context, tensor), --batch and --generate."""
  command("plan").run(
    CONFIG, "--topology=cpu:6", "--mesh=2,3,5,7", "--batch=12", "--generate",
    "--config.clip.frames=33",
  )  # fmt: skip
  assert told.last("parse_topology").args == ("cpu:6",)
  config, *rest = told.last("plan").args
  assert rest == ["cpu:6", (2, 3, 5, 7), 12, True]
  assert config.model.attention == "chunked" and config.clip.frames == 33
  command("plan").run(CONFIG, "--topology=cpu:6", "--config.model.attention=dense")
  assert told.told("plan", 0).model.attention == "dense"


def test_sweep_shows_what_fits_and_the_fastest_first(told, capsys, tmp_path):
  out = tmp_path / "new" / "sweep.json"
  command("plan").run(CONFIG, "--sweep", "--batch=9", "--generate", f"--out={out}")
  assert told.last("sweep").args[1:] == ("v5p:4x4x4", 9, True)
  assert not told.calls["plan"]
  head, *rows = capsys.readouterr().out.splitlines()
  assert head.startswith("2 of 3 fit")
  assert [row.split("remat ")[1].split(":")[0] for row in rows] == ["full", "slow"]
  assert [r["remat"] for r in json.loads(out.read_text())] == ["slow", "large", "full"]


def test_out_and_compare(told, capsys, tmp_path):
  """The report as JSON; against an earlier one exit 1 only if this is worse."""
  path = tmp_path / "plan.json"
  command("plan").run(CONFIG, f"--out={path}")
  old = json.loads(path.read_text())
  assert old == json.loads(json.dumps(dataclasses.asdict(REPORT)))
  for key, factor, code in (
    ("traffic_bytes", 1, 0),
    ("traffic_bytes", 0.5, 1),  # it was half of what it is now
    ("traffic_bytes", 2, 0),
    ("hbm_bytes", 1 / 1.03, 1),
    ("hbm_bytes", 1 / 1.01, 0),  # two hundredths are let pass
    ("hardware_flops", 0.9, 1),
  ):
    path.write_text(json.dumps(old | {key: old[key] * factor}))
    with pytest.raises(SystemExit) as e:
      command("plan").run(CONFIG, f"--compare={path}")
    assert e.value.code == code, (key, factor)
    said = capsys.readouterr().out.splitlines()[-1]
    assert said.startswith(key if code else "no worse than")
  for before, code in ((990, 0), (970, 1)):
    then = old["phases"] | {"text": {"bytes": before}}
    path.write_text(json.dumps(old | {"phases": then}))
    with pytest.raises(SystemExit) as e:
      command("plan").run(CONFIG, f"--compare={path}")
    said = capsys.readouterr().out.splitlines()[-1]
    assert e.value.code == code and ("bytes of text: 970 -> 1000" in said) == bool(code)


def test_mistakes(told, capsys):
  for flags, words in (
    (["--mesh=1,two,1,1"], "expected four numbers"),
    (["--batch=many"], "batch"),
  ):
    with pytest.raises(SystemExit) as e:
      command("plan").run(CONFIG, *flags)
    assert e.value.code == 2 and words in capsys.readouterr().err
