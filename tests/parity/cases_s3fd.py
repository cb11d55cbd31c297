"""Golden case of S3FD: scores, moves and priors of a picture, and what is left of them.

Scores are compared as log p(face) / p(other), and map by map. With random weights the
maps' scales are a hundred times apart, and at one place two scores of 45 cancel to a p
of 0.51, of which float32 knows four digits: the reference is 1e-4 of the deviation off
its own value in float64 there, and so is any other. The last map has two values, -9.36
and -8.96, whose deviation, 0.2, is no measure of what float32 knows of them: errors of
a map of a few values are relative to their root mean square.

The boxes that are left are compared twice: of the reference's scores, where only the
selection is ours, and of our own.
"""

import json
import pathlib
from collections.abc import Iterator

import numpy as np
from safetensors.numpy import load_file

from ccl_jax.metrics.face_detection import decode, detected_boxes, priors, run_s3fd
from ccl_jax.models.scorers.s3fd import level_sizes
from tests.parity.recipe_weights import recipe_network

LIMIT, TRANSFORM = 1e-4, 1e-5
FEW = 4  # values of a map whose deviation may be far below their size


def is_s3fd(folder: pathlib.Path) -> bool:
  path = folder / "config.json"
  return path.is_file() and json.loads(path.read_text()).get("kind") == "s3fd"


def log_odds(conf: np.ndarray) -> np.ndarray:
  """Of the face; 0 is taken as the smallest float32."""
  return np.diff(np.log(np.maximum(conf, np.finfo(np.float32).tiny)))


def cases_s3fd(
  folder: pathlib.Path,
) -> Iterator[tuple[str, np.ndarray, np.ndarray, float]]:
  """(name, got, expected, limit) per output."""
  case = load_file(folder / "case.safetensors")
  image = np.moveaxis(case["image"], 1, -1)
  detector = recipe_network("s3fd", folder)
  conf, loc = map(np.asarray, run_s3fd(detector, image))
  prior = priors(*image.shape[1:3])
  stop = 0
  for i, (rows, columns) in enumerate(level_sizes(*image.shape[1:3])):
    start, stop = stop, stop + rows * columns
    here = slice(start, stop)
    odds, expected = (log_odds(x[0, here]) for x in (conf, case["conf"]))
    if expected.size < FEW:  # the deviation of x and -x is the root mean square of x
      odds, expected = (np.concatenate([x, -x]) for x in (odds, expected))
    yield f"conf {i}, log odds", odds, expected, LIMIT
    yield f"loc {i}", loc[0, here], case["loc"][0, here], LIMIT
  yield "prior", prior, case["prior"], TRANSFORM
  detections = case["detections"][0, 1]

  def best(conf, loc):
    scores, boxes = conf[0, :, 1], decode(loc[0], prior)
    chosen = detected_boxes(scores, boxes)[: len(detections)]
    return np.concatenate([scores[chosen, None], boxes[chosen]], 1)

  yield "detections given conf", best(case["conf"], case["loc"]), detections, TRANSFORM
  yield "detections", best(conf, loc), detections, LIMIT
