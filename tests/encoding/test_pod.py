"""Encoding on the hosts of a pod, where there is none: one line of error."""

from tests.e2e.commands import finish


def test_no_pod(tmp_path):
  config = f"--config=configs/encode.py:data={tmp_path},out={tmp_path / 'out'},runlocal"
  code, out = finish("ccl_jax.encode", [config, "--distributed"])
  line = out.strip().splitlines()[-1]
  assert code == 2 and "Traceback" not in out, out
  assert line.startswith("error: --distributed: ") and "--process_index" in line
  assert not (tmp_path / "out").exists()
