"""Parts of a small pipeline, the same each time: a random model, codecs, clips."""

import jax
import numpy as np

from ccl_jax.codecs.embedded import fit_codecs
from ccl_jax.data.spec import ClipSpec
from ccl_jax.models.presets import build_model, parameter_shapes

SPEC = ClipSpec(5, 32, 32, 25.0)


def small_parts(spec=SPEC):
  """(model, parameters, codecs, clips), of clips of a spec."""
  rng = np.random.default_rng(0)
  clips = [
    {
      "video": rng.integers(
        0, 255, (spec.frames, spec.height, spec.width, 3), np.uint8
      ),
      "audio": 0.2 * rng.standard_normal(spec.samples).astype(np.float32),
    }
    for _ in range(3)
  ]
  codecs = fit_codecs(clips, text_length=4, text_dim=16)
  model = build_model("tiny", dtype="float32").clone(depth=1)
  shapes = parameter_shapes(model, (4, 16))
  draw = lambda x: 0.1 * rng.standard_normal(x.shape).astype(np.float32)
  return model, jax.tree.map(draw, shapes), codecs, clips
