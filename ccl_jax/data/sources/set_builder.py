"""What every TFDS builder of this package is: records in their order, shard by shard.

TFDS's own generator sorts a whole split by the hashes of its keys, and where that is
over 1000 MB it does so by files that only TensorFlow writes. A shard here is written as
it is made: a set of any size needs the memory of one shard, record i of a split is item
i, and readers shuffle by their seed (`sets.shuffle`, `pipeline`).
"""

import functools
import pathlib
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import tensorflow_datasets as tfds

from ccl_jax import progress
from ccl_jax.errors import UsageError, system_error
from ccl_jax.places import hold, require_plain


class SetBuilder(tfds.core.ShardBasedBuilder, skip_registration=True):
  """A builder that says what the items of each split are, and the record of one."""

  RECORDS = 2**16  # in a shard, all of which are in memory while it is written

  def items(self, dl_manager: Any) -> Mapping[str, Sequence[Any]]:
    """The items of every split in order; at least one item each."""
    raise NotImplementedError

  def record(self, split: str, item: Any) -> tuple[str, dict[str, Any]]:
    """(key, features) of an item, which is made now."""
    raise NotImplementedError

  def _shard_iterators_per_split(self, dl_manager) -> dict[str, list[Callable]]:
    splits = self.items(dl_manager)
    parts = lambda items: range(0, len(items), self.RECORDS)
    shard = lambda split, first: functools.partial(
      self._records,
      split,
      splits[split][first : first + self.RECORDS],
      len(splits[split]),
    )
    return {k: [shard(k, first) for first in parts(splits[k])] for k in splits}

  def _records(
    self, split: str, items: Sequence[Any], total: int
  ) -> Iterator[tuple[str, dict]]:
    """Records of a shard; the count goes on over all shards of the split."""
    what = f"making the set: {split}"
    for item in progress.counted(items, what, total, "records"):
      yield self.record(split, item)


def prepared(make: Callable[[], tfds.core.DatasetBuilder], data_dir: Any, **options):
  """The builder that `make` gives, its set written unless it is there, and nothing left
  of one that fails; options as of `download_and_prepare`. Of several processes that
  want one set the first one writes it, and the others wait.

  Raises:
    UsageError: it cannot be written.
  """
  data_dir = pathlib.Path(data_dir)
  builder = make()
  written = pathlib.Path(builder.data_dir) / "dataset_info.json"
  if written.is_file():
    return builder
  tfds.disable_progress_bar()  # ours says it in one line
  require_plain(data_dir)
  with hold(data_dir, wait=True):
    if written.is_file():  # another process was first
      return make()
    # Where the folder is held, what is incomplete is a dead process's.
    for left in written.parent.parent.glob("incomplete.*"):
      shutil.rmtree(left, ignore_errors=True)
    below = written.relative_to(data_dir).parts
    folders = [pathlib.Path(data_dir, *below[:i]) for i in range(1, len(below))]
    made = [p for p in (*folders, data_dir / "downloads") if not p.exists()]
    try:
      builder.download_and_prepare(**options)
    except BaseException as e:
      if isinstance(e, OSError) and written.is_file():
        return make()  # it was first all the same, on a disk without locks
      for folder in made:  # what TFDS has made on the way to nothing
        shutil.rmtree(folder, ignore_errors=True)
      error = e if isinstance(e, OSError) else system_error(e)
      if error is None:
        raise
      raise UsageError(
        f"cannot write {data_dir}: {error.strerror or error}; make room, or name "
        "another data_dir"
      ) from e
  return builder
