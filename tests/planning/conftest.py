"""The compiler of TPUs, where it is installed."""

import jax
import pytest


@pytest.fixture
def libtpu(monkeypatch):
  """Programs for TPUs can be compiled: without the flags of the suite, which are the
  CPU compiler's, read by now, and of which libtpu makes a fatal error.
  """
  pytest.importorskip("libtpu", reason="needs the extra [tpu]")
  jax.devices()
  monkeypatch.delenv("XLA_FLAGS")
  # No TPU is asked where it is, and several processes may compile.
  monkeypatch.setenv("TPU_SKIP_MDS_QUERY", "1")
  monkeypatch.setenv("ALLOW_MULTIPLE_LIBTPU_LOAD", "true")
