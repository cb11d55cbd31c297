"""The benchmark of the metrics: it draws what is released, and measures what is run."""

import math
import pathlib

import numpy as np
import pytest

from ccl_jax import bench
from ccl_jax.benchmarks import eval_rates, eval_weights
from ccl_jax.metrics.face_detection import find_faces
from ccl_jax.weights.load import load_network
from ccl_jax.weights.rules import expected_tensors
from ccl_jax.weights.upstream import get_upstream
from tests.metrics.tiny_weights import VGGISH

PARAMETERS = {
  "syncnet": 13_631_616, "s3fd": 22_459_110, "synchformer": 236_869_653,
  "imagebind": 719_065_089, "aesthetics": 94_384_296, "i3d": 12_697_264,
  "vggish": 72_141_184,
}  # fmt: skip
S3FD = {"widths": [2, 2, 3, 4, 5], "fc": 6, "extras": [2, 4, 3, 5]}


@pytest.mark.parametrize("kind", PARAMETERS)
def test_networks_are_as_large_as_their_releases(kind):
  upstream = get_upstream(kind)
  matches = expected_tensors(
    upstream.tables["native"], upstream.shapes(eval_weights.SIZES[kind])
  )
  trained = (math.prod(m.shape) for m in matches if ".running_" not in m.name)
  assert sum(trained) == PARAMETERS[kind]


def test_the_drawn_detector_finds_the_same_faces_in_any_picture(tmp_path):
  eval_weights.draw("s3fd", tmp_path, S3FD)
  frames = np.random.default_rng(0).integers(0, 256, (2, 480, 832, 3), np.uint8)
  one, two = find_faces(load_network("s3fd", tmp_path / "s3fd"), frames)
  np.testing.assert_array_equal(one, two)
  sides = one[:, 2:] - one[:, :2]
  assert len(one) in (2, 3) and np.allclose(sides, 512)  # 128 at a quarter of the size


def test_a_rate_and_what_it_cost(tmp_path):
  eval_weights.draw("vggish", tmp_path, VGGISH)
  videos = eval_rates.write_clips(tmp_path, 3, 32, 48, 16, 16.0)
  got = eval_rates.measure(["fad", "film"], videos, tmp_path)
  assert not got.reason and got.first > got.seconds > 0
  assert got.clips_per_minute == 60 / got.seconds
  assert got.processor > 0 and 0.1 < got.gigabytes < 8
  assert "missing weights of i3d" in eval_rates._score(["fvd"], videos, tmp_path).reason
  short = eval_rates._score(["ib"], videos, tmp_path)
  assert short.clips_per_minute is None and "imagebind" in short.reason


def test_the_command_knows_its_benchmarks():
  folder = pathlib.Path(bench.__file__).parent / "benchmarks"
  runnable = [p.stem for p in folder.glob("*.py") if "\ndef main(" in p.read_text()]
  assert sorted(runnable) == list(bench.NAMES)
