"""The one step of the pipeline that works; needs Apache Beam."""

import apache_beam as beam

from ccl_jax.data.preparing.shard import Shard


class DoShard(beam.DoFn):
  """Does shards of a table by their numbers, and gives the numbers on.

  Args:
    folder: OUT.parts, as a text.
  """

  def __init__(self, folder: str):
    self._folder, self._shard = folder, None

  def process(self, number: int):
    """Does the shard of a number, and gives the number on."""
    if self._shard is None:
      self._shard = Shard(self._folder)
    self._shard.do(number)
    yield number

  def teardown(self) -> None:
    """Ends the process of this worker, which decodes."""
    if self._shard is not None:
      self._shard.close()
