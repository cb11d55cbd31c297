"""The work on one shard of a table, which every engine does alike."""

import threading
from typing import Any

from ccl_jax.data.preparing.child import Child
from ccl_jax.data.preparing.parts import Parts
from ccl_jax.data.preparing.rows import Options
from ccl_jax.data.sources.captions import Row, parse_row
from ccl_jax.errors import UsageError
from ccl_jax.remote.paths import place

stopping = threading.Event()  # whether the workers of this process are to end


class Shard:
  """Does shards, with a process of its own that decodes.

  Args:
    folder: OUT.parts, as a text.
  """

  def __init__(self, folder: str):
    self._parts, self._child = Parts(folder), Child()

  def do(self, number: int) -> None:
    """Does a shard, unless it is done.

    Raises:
      UsageError: see `Child.rows`; or the run was stopped.
      WriteError: its file cannot be written.
    """
    if self._parts.is_done(number):  # a runner may give it twice
      return
    work = self._parts.plan.get("work", "rows")
    self._parts.write(
      number, {"rows": self._rows, "headers": self._headers}[work](number)
    )

  def _rows(self, number: int) -> list[tuple[str, Any]]:
    """Rows of a table of captions, or the reason why a file has none."""
    plan, results = self._parts.plan, []
    for name, captions in self._parts.files(number):
      if stopping.is_set():
        raise UsageError("stopped")
      # As the settings came from JSON: a template's row is one of these again.
      rows = [Row(parse_row(fields, name)[1], fields, name) for fields in captions]
      results.append(
        (name, self._child.rows(plan["root"], name, rows, Options(*plan["options"])))
      )
    return results

  def _headers(self, number: int) -> list[tuple[str, Any]]:
    """Clips of a published set whose files are there, or the reason why one is not."""
    # It brings TFDS, which `prepare` does without.
    from ccl_jax.data.sources import media_set

    plan = self._parts.plan
    builder = media_set.builder_of(*plan["options"])
    return builder.examined(place(plan["root"]), self._parts.files(number))

  def close(self) -> None:
    """Ends its process, when it is through with its file."""
    self._child.close()
