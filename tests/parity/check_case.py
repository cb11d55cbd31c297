"""Compares this project with numbers of the reference networks.

  python tests/parity/check_case.py CASE_DIR...

A case is a folder with weights as the reference publishes them, and inputs and outputs
of the reference in float32. Its kind shows in config.json and in the files' names; its
sizes are whatever they are. The weights go through the converter's tables, the inputs
through the network, and every output tensor becomes a line: name, shape, largest error
relative to the standard deviation of what was expected, and the limit. The exit code is
0 if all are within it, 1 if one is not, 2 for a folder that is no case.

A kind is a row (recognise, run) of CASES, here or by a module `cases_NAME.py` beside
this file, which has the functions

  is_NAME(folder: Path) -> bool
  cases_NAME(folder: Path) -> iterable of (name, got, expected, limit)

A folder of several networks is of several kinds, and all of them run.
"""

import argparse
import importlib.util
import json
import pathlib
import sys
import tempfile
from collections.abc import Iterator

sys.path.insert(0, str(pathlib.Path(__file__).parents[2]))

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util
from safetensors.numpy import load_file

from ccl_jax.checkpoints.checkpointer import restore_params
from ccl_jax.diffusion.schedules import make_schedule
from ccl_jax.errors import UsageError, one_line_errors
from ccl_jax.weights import wan
from ccl_jax.weights.transfer import import_weights
from ccl_jax.weights.upstream import get_upstream
from tests.trajectory import trajectory

HERE = pathlib.Path(__file__).parent
NETWORK, TRANSFORM = 1e-4, 1e-5  # limits of whole networks, and of single transforms
SOLVERS = {"unipc": "unipc", "dpm": "dpmpp"}
Result = tuple[str, np.ndarray, np.ndarray, float]


def is_wan_dit(folder: pathlib.Path) -> bool:
  return _config(folder).get("_class_name") == "WanModel" and _has(
    folder, "case.safetensors"
  )


def cases_wan_dit(folder: pathlib.Path) -> Iterator[Result]:
  """The velocity of one forward pass."""
  case, config = load_file(folder / "case.safetensors"), _config(folder)
  with tempfile.TemporaryDirectory() as tmp:
    sizes, params = converted("wan-dit", folder, pathlib.Path(tmp) / "converted")
  latent = [case["x"]] + ([case["y"]] if "y" in case else [])
  context = case["context"]
  text = np.zeros((len(context), config["text_len"], config["text_dim"]), np.float32)
  text[:, : context.shape[1]] = context
  image = {"video": case["clip_fea"]} if sizes["image_tokens"] else None
  got = jax.jit(wan.model_of(sizes).apply)(
    {"params": params},
    {"video": np.moveaxis(np.concatenate(latent, 1), 1, -1)},
    {"video": case["t"].astype(np.float32)[:, None]},
    text,
    image=image,
  )["video"]
  yield "out", np.moveaxis(np.asarray(got), -1, 1), case["out"], NETWORK


def is_wan_schedules(folder: pathlib.Path) -> bool:
  return "cases" in _config(folder) and _has(folder, "schedules.safetensors")


def cases_wan_schedules(folder: pathlib.Path) -> Iterator[Result]:
  """Timesteps, sigmas, and the states of a run with a known velocity."""
  golden = load_file(folder / "schedules.safetensors")
  for case in _config(folder)["cases"]:
    name, solver = case["name"], SOLVERS[case["kind"]]
    schedule = make_schedule(solver, case["steps"], case["shift"])
    velocity = lambda x, t: x @ golden["A"].T + 0.5 * jnp.sin(3 * t / 1000)
    states = trajectory(velocity, jnp.asarray(golden["x_init"]), schedule, solver)
    got = {"timesteps": schedule.timesteps, "sigmas": schedule.sigmas, "traj": states}
    for key, value in got.items():
      yield f"{name}.{key}", np.asarray(value), golden[f"{name}.{key}"], TRANSFORM


CASES = {
  "wan_dit": (is_wan_dit, cases_wan_dit),
  "wan_schedules": (is_wan_schedules, cases_wan_schedules),
}


def other_cases() -> dict:
  """The kinds of the modules beside this file."""
  found = {}
  for path in sorted(HERE.glob("cases_*.py")):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    name = path.stem.removeprefix("cases_")
    found[name] = getattr(module, f"is_{name}"), getattr(module, f"cases_{name}")
  return found


def check(folder: pathlib.Path) -> bool:
  """Prints the lines of one case; whether all are within their limits."""
  kinds = CASES | other_cases()
  mine = [kind for kind, (known, _) in kinds.items() if known(folder)]
  if not mine:
    raise UsageError(f"{folder} is no case of {', '.join(kinds)}; see its README")
  good = True
  for kind in mine:
    print(f"{folder} ({kind})")
    for name, got, expected, limit in kinds[kind][1](folder):
      error = relative_error(got, expected)
      good &= bool(error <= limit)  # not so for nan
      shape = "x".join(map(str, expected.shape))
      verdict = "ok" if error <= limit else "MISS"
      print(f"  {name:32} {shape:20} error {error:.2e}  limit {limit:.0e}  {verdict}")
  return good


def relative_error(got, expected) -> float:
  if got.shape != expected.shape:
    return float("inf")
  return float(np.abs(got.astype(np.float64) - expected).max() / expected.std())


def converted(kind: str, src: pathlib.Path, dst: pathlib.Path):
  """(sizes, parameters), converted into `dst` and restored as training does."""
  sizes = import_weights(kind, src, dst, verify=True)["sizes"]
  here = jax.sharding.SingleDeviceSharding(jax.devices()[0])
  shapes = {
    path: jax.ShapeDtypeStruct(x.shape, jnp.float32, sharding=here)
    for path, x in get_upstream(kind).shapes(sizes).items()
  }
  tree = traverse_util.unflatten_dict(shapes, sep="/")
  return sizes, restore_params(dst / "checkpoints", "params", tree)[1]


def _has(folder: pathlib.Path, *names: str) -> bool:
  return all((folder / name).is_file() for name in names)


def _config(folder: pathlib.Path) -> dict:
  path = folder / "config.json"
  return json.loads(path.read_text()) if path.is_file() else {}


def main() -> None:
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument("cases", nargs="+", type=pathlib.Path, metavar="CASE_DIR")
  folders = parser.parse_args().cases
  jax.config.update("jax_platforms", "cpu")
  with one_line_errors():
    results = [check(folder) for folder in folders]
  sys.exit(0 if all(results) else 1)


if __name__ == "__main__":
  main()
