"""The data benchmark on a set that is over in a second."""

from ccl_jax.data.spec import ClipSpec
from tests.flags.command import command

data = command("bench data").module


def test_every_figure_is_measured(tmp_path, monkeypatch):
  monkeypatch.setattr(data, "SPEC", ClipSpec(5, 16, 16, 16))
  monkeypatch.setattr(data, "TEXT", (4, 16))
  monkeypatch.setattr(data, "STEP", 0.001)
  out = data.measure(tmp_path, count=24, batch=8, most_threads=2)
  assert out["records"] == 24
  rates = {k: v for k, v in out.items() if "sequential" in k or "batches" in k}
  assert len(rates) == 6
  assert all(v["MB/s"] >= 0 and v["records/s"] > 0 for v in rates.values())
  assert out["sequential, warm"]["of sequential"] == 1.0
  assert out["a step waits, ms"]["most"] >= out["a step waits, ms"]["median"] > 0
  assert out["pixels, clips/s per core"] > 0
