"""How long the checkpointer takes to save a state and to restore it, in some folder."""

import time

import jax
import jax.numpy as jnp
import numpy as np

from ccl_jax.checkpoints.checkpointer import Checkpointer
from ccl_jax.errors import UsageError
from ccl_jax.files import remove_folder
from ccl_jax.places import hold
from ccl_jax.remote.paths import place

_ARRAYS, _WORD = 16, 4  # arrays of a state, and bytes of a float32


def measured(folder: str, size: int, rounds: int = 3) -> dict[str, float]:
  """Seconds of saves and restores of float32 arrays, which change every time.

  Args:
    folder: where they are written, on a disk or in gs://; what is written goes again.
    size: bytes of all arrays together.
    rounds: the middle of so many counts.

  Returns:
    `save`, by which the steps are held up; `write`, until it is whole and was read
    again; `restore`.

  Raises:
    UsageError: the folder cannot be written, or has something in it.
  """
  own, took = place(folder), []
  if own.exists() and any(p.name != ".lock" for p in own.iterdir()):
    raise UsageError(f"--folder: {own} is not empty: name a new one")
  names = [f"array_{k:02}" for k in range(_ARRAYS)]
  draw = jax.jit(
    lambda key: {n: jax.random.normal(key, (size // _ARRAYS // _WORD,)) for n in names}
  )
  with hold(own):
    checkpointer = Checkpointer(own, keep=1)
    try:
      for k in range(rounds):
        state = jax.block_until_ready(draw(jax.random.key(k)))
        abstract = jax.tree.map(
          lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state
        )
        begin = time.perf_counter()
        checkpointer.save(k + 1, state, {}, {})
        held = time.perf_counter()
        checkpointer.wait()
        whole = time.perf_counter()
        _, restored, _, _ = checkpointer.restore(abstract)
        jax.block_until_ready(restored)
        took.append((held - begin, whole - begin, time.perf_counter() - whole))
        assert jnp.array_equal(restored[names[-1]], state[names[-1]])
    finally:
      checkpointer.close()
      for step in range(rounds + 1):
        remove_folder(own / str(step))
  return dict(zip(("save", "write", "restore"), np.median(took, 0).tolist()))
