"""What `plan` compiles, by its flags; nothing is compiled here."""

import dataclasses
import json
from types import SimpleNamespace

import pytest

from ccl_jax.planning.phases import Phase
from ccl_jax.planning.predict import Prediction
from ccl_jax.planning.report import Report
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
  # Its floors say more than those of all others, its prediction less.
  foreseen = dataclasses.replace(
    slow, remat="foreseen", prediction=Prediction(2.5, 2.0, [], [], [])
  )
  vague = dataclasses.replace(
    slow, remat="vague", prediction=Prediction(0.5, 0.5, [], [], ["kernel x"])
  )
  r.replace(plan, "sweep", [slow, vague, large, REPORT, foreseen])
  return r


def test_defaults(told):
  """All chips share parameters; a clip a chip; a train step by the TPU's kernel."""
  command("plan").run(CONFIG)
  assert told.last("parse_topology").args == ("v5p:4x4x4", 1)
  config, *rest = told.last("plan").args
  assert rest == ["v5p:4x4x4", None, 6, False, 1, "auto"]
  assert config.model.preset == "tiny" and config.model.attention == "splash"
  assert not told.calls["sweep"]
  command("plan").run(CONFIG, "--generate")  # of one clip
  assert told.last("plan").args[2:] == (None, 1, True, 1, "auto")


def test_each_flag(told):
  """--topology, --mesh (data, fsdp, context, tensor), --batch, --generate, --slices,
  --vae_tile.
  """
  command("plan").run(
    CONFIG, "--topology=cpu:6", "--mesh=2,3,5,7", "--batch=12", "--generate",
    "--config.clip.frames=33", "--vae_tile=96",
  )  # fmt: skip
  assert told.last("parse_topology").args == ("cpu:6", 1)
  config, *rest = told.last("plan").args
  assert rest == ["cpu:6", (2, 3, 5, 7), 12, True, 1, "96"]
  assert config.model.attention == "chunked" and config.clip.frames == 33
  command("plan").run(CONFIG, "--topology=cpu:6", "--config.model.attention=dense")
  assert told.told("plan", 0).model.attention == "dense"
  command("plan").run(CONFIG, "--topology=v6e:2x2", "--slices=2")
  assert told.last("parse_topology").args == ("v6e:2x2", 2)
  assert told.last("plan").args[1:] == ("v6e:2x2", None, 6, False, 2, "auto")


def test_sweep_shows_what_fits_and_the_fastest_first(told, capsys, tmp_path):
  out = tmp_path / "new" / "sweep.json"
  command("plan").run(
    CONFIG, "--sweep", "--batch=9", "--generate", "--slices=3", f"--out={out}",
    "--vae_tile=off",
  )  # fmt: skip
  assert told.last("sweep").args[1:] == ("v5p:4x4x4", 9, True, 3, "off")
  assert not told.calls["plan"]
  head, *rows = capsys.readouterr().out.splitlines()
  assert head.startswith("4 of 5 fit")
  assert [row.split("remat ")[1].split(": 0.0 GiB, ") for row in rows] == [
    ["foreseen", "2.50 s (predicted)"],
    ["full", "4.00 s (sum of floors)"],
    ["slow", "9.00 s (sum of floors)"],
    ["vague", "0.50 s (predicted, lacks a price)"],
  ]
  assert [r["remat"] for r in json.loads(out.read_text())] == [
    "slow", "vague", "large", "full", "foreseen"
  ]  # fmt: skip


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


def test_compare_reads_the_prediction(told, capsys, tmp_path):
  path, plan = tmp_path / "plan.json", command("plan").module
  predicted = dataclasses.replace(
    REPORT, prediction=Prediction(2.0, 1.0, [], [], []), predicted_mfu=(0.1, 0.2)
  )
  told.replace(plan, "plan", predicted)
  command("plan").run(CONFIG, f"--out={path}")
  old = json.loads(path.read_text())
  for est, code in ((2.0, 0), (2.0 / 1.04, 0), (2.0 / 1.06, 1)):
    path.write_text(json.dumps(old | {"prediction": old["prediction"] | {"est": est}}))
    with pytest.raises(SystemExit) as e:
      command("plan").run(CONFIG, f"--compare={path}")
    assert e.value.code == code
    said = capsys.readouterr().out.splitlines()[-1]
    assert said.startswith("predicted seconds: " if code else "no worse than")


def test_mistakes(told, capsys):
  for flags, words in (
    (["--mesh=1,two,1,1"], "expected four numbers"),
    (["--batch=many"], "batch"),
    (["--batch=0"], "--batch: got 0; expected a whole number from 1 on"),
    (["--batch=-1"], "--batch: got -1"),
    (["--batch=1000000000000000000"], "below 2^31"),
    (["--slices=two"], "slices"),
    (["--compare=no-such.json"], "no-such.json"),
  ):
    with pytest.raises(SystemExit) as e:
      command("plan").run(CONFIG, *flags)
    assert e.value.code == 2 and words in capsys.readouterr().err


def test_tiles_are_of_a_generation(told, capsys):
  with pytest.raises(SystemExit) as e:
    command("plan").run(CONFIG, "--vae_tile=256")
  assert e.value.code == 2 and not told.calls["plan"]
  assert "--vae_tile does nothing without --generate" in capsys.readouterr().err
