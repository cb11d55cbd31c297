"""Golden case of Ovi: velocities of both towers and of each alone, and two samples."""

import json
import pathlib
import re
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
from safetensors.numpy import load_file

from ccl_jax.generation.sampling import Sampling, sample_latents
from ccl_jax.tasks import GENERATIONS, Route
from ccl_jax.weights import ovi
from ccl_jax.weights.load import load_params
from tests.held import first_frame

LIMIT, STEPS = 1e-4, 8
FUSED = Route({"video": True, "audio": True})


def is_ovi(folder: pathlib.Path) -> bool:
  config = folder / "config.json"
  return config.is_file() and json.loads(config.read_text()).get("kind") == "ovi"


def cases_ovi(
  folder: pathlib.Path,
) -> Iterator[tuple[str, np.ndarray, np.ndarray, float]]:
  """(name, got, expected, limit) per output of every run that the case has."""
  case = load_file(folder / "case.safetensors")
  about = json.loads((folder / "config.json").read_text())
  params, sizes = load_params("ovi-dit", folder)
  model = ovi.model_of(sizes)
  latents = {"video": _last(case["video"]), "audio": case["audio"][None]}
  rows = about["video"]["text_len"]
  text = lambda name: _padded(case[name], rows)
  texts = {s: text(f"{s}_text") for s in latents}
  time = case["timestep"].astype(np.float32).reshape(1, 1)
  skipped = int(re.search(r"slg_layer=(\d+)", about["cases"]["skip_layer"])[1])

  @jax.jit
  def velocity(params, x, times, left_out):
    own = {s: jnp.asarray(texts[s]) for s in x}
    route = FUSED if len(x) == 2 else Route()
    return model.apply({"params": params}, x, times, own, route, left_out=left_out)

  def both(clean=False, skip=False):
    """One program for all three: a time of each latent frame, blocks to leave out."""
    times = np.repeat(time, latents["video"].shape[1], 1)
    times[:, 0] *= not clean  # of the first latent frame
    without = (np.arange(model.depth)[:, None] == skipped) & skip
    return velocity(params, latents, {"video": times, "audio": time}, without)

  alone = lambda s: velocity(params, {s: latents[s]}, {s: time}, None)
  runs = {
    "t2av": both,
    "ti2av": lambda: both(clean=True),
    "skip_layer": lambda: both(skip=True),
    "t2v": lambda: alone("video"),
    "t2a": lambda: alone("audio"),
    "sample_t2av": lambda: sample("joint"),
    "sample_ti2av": lambda: sample("ti2av"),
  }

  def sample(task):
    negative = [text(f"negative_{s}_text") for s in latents]
    conditions = {"text": np.stack([texts["video"], *negative]), "given": {}}
    if task == "ti2av":
      first, frames = _last(case["first_frame"]), latents["video"].shape[1]
      conditions["held"] = first_frame(first, frames)
    sampling = Sampling(
      "text", {"video": {"s": 4.0}, "audio": {"s": 3.0}}, STEPS, 5.0, "unipc",
      skip_block=skipped,
    )  # fmt: skip
    return jax.jit(
      lambda p, x, c: sample_latents(model, p, GENERATIONS[task], x, c, sampling)
    )(params, latents, conditions)

  for name, made in runs.items():
    expected = [key for key in case if key.startswith(f"{name}.")]
    got = made() if expected else {}
    for key in expected:
      x = np.asarray(got[key.partition(".")[2]])[0]
      x = np.moveaxis(x, -1, 0) if x.ndim == 4 else x
      yield key, x, case[key], LIMIT


def _last(x: np.ndarray) -> np.ndarray:
  """(c t h w) to one sample (1 t h w c)."""
  return np.moveaxis(x, 0, -1)[None]


def _padded(text: np.ndarray, rows: int) -> np.ndarray:
  out = np.zeros((1, rows, text.shape[1]), np.float32)
  out[0, : len(text)] = text
  return out
