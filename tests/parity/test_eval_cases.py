"""Networks of the metrics are their references, at full size where those are."""

import numpy as np
import pytest

from tests.parity.cases_imagebind import cases_imagebind
from tests.parity.cases_synchformer import cases_synchformer


@pytest.mark.shared
@pytest.mark.parametrize(
  "run, name", [(cases_synchformer, "synchformer"), (cases_imagebind, "imagebind")]
)
def test_golden(shared, run, name):
  for output, got, expected, _ in run(shared / "parity/eval" / name):
    assert got.shape == expected.shape, output
    assert np.abs(got - expected).max() < 2e-5 * expected.std(), output


@pytest.mark.shared
def test_golden_in_bfloat16(shared):
  """Eight bits of mantissa through two blocks: about one per cent, rms."""
  for output, got, expected, _ in cases_imagebind(
    shared / "parity/eval/imagebind", dtype="bfloat16"
  ):
    error = np.sqrt(np.mean((got - expected) ** 2)) / expected.std()
    assert got.dtype == np.float32 and 1e-4 < error < 0.05, output
