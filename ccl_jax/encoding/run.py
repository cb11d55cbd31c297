"""Encodes media into a set: its plan, its codecs, this process's shards, its index."""

import contextlib
import dataclasses
import time
from collections.abc import Iterator, Mapping
from concurrent import futures
from typing import Any

import numpy as np

from ccl_jax import files, hub, progress
from ccl_jax.codecs.bundle import Codecs, fingerprints, load_codecs, save_codecs
from ccl_jax.codecs.embedded import fit_codecs
from ccl_jax.codecs.texts import fitting_length, note_cut
from ccl_jax.data.media.decode import MediaError
from ccl_jax.data.sets import plan
from ccl_jax.data.sets.buckets import parse_spec
from ccl_jax.data.sets.writer import finish, is_done
from ccl_jax.data.sources.catalogue import Catalogue
from ccl_jax.data.sources.items import ItemSource, open_items
from ccl_jax.data.sources.option_rules import option_rules
from ccl_jax.encoding.shards import encode_shard, make_encoder
from ccl_jax.errors import THREADS, UsageError, bind, check_settings, number, whole
from ccl_jax.places import LOCK, hold, require_plain
from ccl_jax.processes import no_such_part
from ccl_jax.remote.paths import Place, place

_PATIENCE = 3600.0  # seconds to wait for process 0 to list the media


def encode(config, index: int = 0, count: int = 1) -> dict[str, Any] | None:
  """Encodes this process's shards; returns the set's index once all shards are done.

  Args:
    config: see configs/encode.py.
    index, count: this process encodes every count-th shard, from the index-th on.

  Raises:
    UsageError: a mistake of the user's, or a disk that is full.
  """
  check(config)
  if not 0 <= index < count:
    raise no_such_part(index, count)
  out = place(config.out)
  specs = [parse_spec(text) for text in config.clips]
  media = bind("data", config.data, open_items, specs=specs)
  with _disk(out), hold(out, f"-{index}"):
    set_plan, codecs = prepare(config, media, out, index)
    # Strided, not in runs: the buckets' costs differ, and so all processes share each.
    mine = [s for s in set_plan.shards[index::count] if not is_done(out, s)]
    if mine:
      size = config.batch.size
      run = make_encoder(codecs, size, config.video_std)
      bar = progress.Bar("encoding", sum(len(s.items) for s in mine), "clips")
      pool = futures.ThreadPoolExecutor(max(config.batch.threads, 1))
      try:
        for shard in mine:
          encode_shard(out, shard, set_plan.encoders, media, run, size, pool, bar)
      finally:
        pool.shutdown(cancel_futures=True)
        bar.close()
    return finish(out, set_plan)


SETTINGS = {
  "batch.size": whole(1),
  "batch.threads": whole(0, THREADS),
  "shard_clips": whole(1),
  "codec.fit_clips": whole(1),
  "codec.text_length": whole(1),
  "codec.text_dim": whole(1),
}


def check(config) -> None:
  """Checks the settings before media are listed or anything is written.

  Raises:
    UsageError: one is missing or wrong.
  """
  rules = SETTINGS | option_rules(config.data.options)
  if config.data.get("loudness") is not None:
    rules = rules | {"data.loudness": number(-70, 0)}
  check_settings(config, rules)
  require_plain(config.out)


def prepare(
  config, media: ItemSource, out: Place, index: int
) -> tuple[plan.Plan, Codecs]:
  """The plan and the codecs of the set; process 0 makes what is not there.

  Args:
    config: see configs/encode.py.
    media: that are encoded.
    out: folder of the set.
    index: of this process; all but 0 wait for the plan.

  Raises:
    UsageError: the set was begun with other settings or codecs, or no plan appears.
  """
  root = config.data.root
  settings = {
    **{k: config.data[k] for k in ("source", "split")},
    "loudness": config.data.get("loudness"),
    "video_std": config.video_std or None,  # None: as in plans that lack it
    "root": root if hub.is_address(root) else str(place(root).absolute()),
    "options": config.data.options.to_dict(),
    "clips": list(config.clips),
    "shard_clips": config.shard_clips,
  }
  if index == 0:
    files.sweep(out)
  set_plan, end = plan.read(out), time.time() + _PATIENCE
  # The others poll the disk: encoding needs no network between processes.
  while set_plan is None and index:
    if time.time() > end:
      raise UsageError(
        f"no {plan.FILE} in {out} after an hour: run process_index 0 too"
      )
    time.sleep(0.2)
    set_plan = plan.read(out)
  if set_plan is None:
    return make_plan(config, settings, media, out)
  plan.check_same(set_plan, settings, out)
  if config.codec.path:
    _check_encoders(set_plan, load_codecs(config.codec.path), config.codec.path, out)
  codecs = load_codecs(out / "codecs")
  _check_encoders(set_plan, codecs, out / "codecs", out)
  return set_plan, codecs


def make_plan(
  config, settings: Mapping[str, Any], media: ItemSource, out: Place
) -> tuple[plan.Plan, Codecs]:
  """Lists the media, and loads or fits the codecs; writes plan.json last.

  Raises:
    UsageError: a wrong setting, or a folder that holds something else.
  """
  ours = ("codecs", f".{plan.FILE}", ".codecs", LOCK)
  if out.exists() and not (
    out.is_dir() and all(p.name.startswith(ours) for p in out.iterdir())
  ):
    raise UsageError(f"{out} is there and no set of latents: name a new folder")
  codec = config.codec
  codecs = load_codecs(codec.path) if codec.path else Codecs()
  if config.video_std and not hasattr(codecs.video, "posterior"):
    raise UsageError(
      f"video_std: the video codec of {codec.path or 'the embedded codecs'} has no "
      "posterior, so no deviation: give codecs=DIR that hold Wan2.1's VAE"
    )
  if codecs.video is not None:
    for text in config.clips:  # Wan2.2's VAE takes sides that others do not
      dataclasses.replace(parse_spec(text), stride=codecs.video.stride[1])
  # Everything that can be refused is refused before the folder is made.
  progress.phase("listing the media")
  listed = media.scan()
  out.mkdir(parents=True, exist_ok=True)
  texts = [item.text for items in listed.buckets.values() for item in items]
  if not codec.path:
    progress.phase("fitting the codecs")
    length = codec.text_length or fitting_length(texts)
    sizes = {"text_length": length, "text_dim": codec.text_dim}
    codecs = fit_codecs(_some_clips(media, listed, codec.fit_clips), **sizes)
  save_codecs(codecs, out / "codecs")
  if codecs.text is not None:
    note_cut(codecs.text, texts, "captions")
  # Last: a plan on the disk means that the codecs beside it are whole.
  set_plan = plan.make(settings, fingerprints(codecs), listed, config.shard_clips)
  plan.write(set_plan, out)
  return set_plan, codecs


def _some_clips(
  media: ItemSource, listed: Catalogue, count: int
) -> Iterator[dict[str, Any]]:
  """Readable clips drawn from all buckets, the same at every call."""
  pairs = [(b, item) for b, items in listed.buckets.items() for item in items]
  # A fixed seed: a run that was killed before its plan fits the same codecs again.
  for i in np.random.default_rng(0).permutation(len(pairs)):
    if count == 0:
      return
    with contextlib.suppress(MediaError):  # it is reported when its turn comes
      yield media.read(*pairs[i])
      count -= 1


def _check_encoders(set_plan: plan.Plan, codecs: Codecs, where: Any, out: Any) -> None:
  now = fingerprints(codecs)
  for name, digest in set_plan.encoders.items():
    if now[name] != digest:
      raise UsageError(
        f"the {name} codec in {where} ({now[name][:8]}) is not the one that {out} is "
        f"encoded with ({digest[:8]}): name a new folder, or the codecs it began with"
      )


@contextlib.contextmanager
def _disk(out: Place) -> Iterator[None]:
  try:
    yield
  except OSError as e:
    # What a store says of itself stands.
    if isinstance(e, UsageError) and not isinstance(e, files.WriteError):
      raise
    raise UsageError(
      f"cannot write {e.filename or out}: {e.strerror or e}; the shards that are done "
      "are kept: make room, then run the same command again"
    ) from e
