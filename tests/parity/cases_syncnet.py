"""Golden case of SyncNet: both towers, cepstra, distances and the scores of them."""

import json
import pathlib
from collections.abc import Iterator

import jax
import numpy as np
from safetensors.numpy import load_file

from ccl_jax.metrics.lipsync import embed_sound, mean_distances, synchrony
from ccl_jax.metrics.mfcc import mfcc
from ccl_jax.models.scorers.syncnet import SyncNet
from tests.parity.recipe_weights import recipe_network

LIMIT, TRANSFORM = 1e-4, 1e-5


def is_syncnet(folder: pathlib.Path) -> bool:
  path = folder / "config.json"
  return path.is_file() and json.loads(path.read_text()).get("kind") == "syncnet"


def cases_syncnet(
  folder: pathlib.Path,
) -> Iterator[tuple[str, np.ndarray, np.ndarray, float]]:
  """(name, got, expected, limit) per output."""
  case = load_file(folder / "case.safetensors")
  expected = json.loads((folder / "config.json").read_text())["distance"]
  syncnet = recipe_network("syncnet", folder)
  sound = np.asarray(embed_sound(syncnet, case["audio_mfcc_windows"][:, 0]))
  yield "audio_embedding", sound, case["audio_embedding"], LIMIT
  windows = np.moveaxis(case["lip_windows"], 1, -1).astype(np.float32)
  lips = np.asarray(jax.jit(SyncNet.lips)(syncnet, windows))
  yield "lip_embedding", lips, case["lip_embedding"], LIMIT
  yield "mfcc", mfcc(case["wave_int16"]), case["mfcc"], TRANSFORM
  vshift = expected["vshift"]
  curve = mean_distances(case["dist_video"], case["dist_audio"], vshift)
  yield "dist_curve", curve, case["dist_curve"], LIMIT
  got = synchrony(curve)
  values = lambda x: np.array([x["sync_c"], x["sync_d"]])
  yield "sync_c, sync_d", values(got), values(expected), LIMIT
  one_hot = lambda x: 1.0 * (np.arange(-vshift, vshift + 1) == x["offset"])
  yield "offset", one_hot(got), one_hot(expected), LIMIT
