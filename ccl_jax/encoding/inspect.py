"""Looks into a set of latents: what it holds, and how its clips look and sound.

  python -m ccl_jax.data inspect SET
  python -m ccl_jax.data inspect SET --clips=12 --out=sheet.png

Prints counts, durations, caption lengths and latent moments, and decodes a few records
of every kind to a contact sheet with waveforms. Of an unfinished set it describes what
is done.
"""

import math
import os
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np

from ccl_jax.codecs.bundle import Codecs, load_codecs
from ccl_jax.codecs.images import to_bytes
from ccl_jax.data.sets import plan
from ccl_jax.data.sets.buckets import Bucket
from ccl_jax.data.sets.record_set import RecordSet
from ccl_jax.data.sets.summary import read_summary, total
from ccl_jax.errors import UsageError
from ccl_jax.files import check_writable, write_text
from ccl_jax.names import safe_names
from ccl_jax.remote.paths import Place, place


def describe(root: Place) -> list[str]:
  """Lines that say what a set holds, from its JSON files alone.

  Raises:
    UsageError: there is no set in the folder `root`.
  """
  set_plan = plan.read(root)
  if set_plan is None:
    raise UsageError(
      f"no set of latents at {root}: give a folder that python -m ccl_jax.encode made"
    )
  paths = [root / f"{shard.name}.json" for shard in set_plan.shards]
  shards = [read_summary(path) for path in paths if path.is_file()]
  whole = total(shards)
  state = "" if (root / "index.json").is_file() else ", not finished"
  lines = [
    f"{root}: {len(shards)} of {len(paths)} shards{state}",
    f"{whole['records']} records, {whole['seconds'] / 3600:.3f} h, "
    f"{whole['bytes'] / 1e6:.1f} MB, sha256 {whole['sha256'][:16]}",
    f"made from {set_plan.settings['source']} {set_plan.settings['root']}",
    "",
    f"{'bucket':24} {'kind':7} {'records':>9} {'hours':>9} {'each':>8}",
  ]
  for bucket in set_plan.buckets:
    n = sum(s["records"] for s in shards if s["bucket"] == bucket.name)
    hours = n * bucket.seconds / 3600
    lines.append(
      f"{bucket.name:24} {bucket.kind:7} {n:9} {hours:9.3f} {bucket.seconds:6.2f} s"
    )
  lines += ["", "caption, words     " + _spread(whole["caption_words"])]
  lines += ["text embedding rows " + _spread(whole["text_rows"])]
  for stored, moments in whole["latents"].items():
    title = "deviation of video" if stored == "video_std" else stored
    lines += ["", f"{title} latents, by channel"]
    lines += [f"{name:>6} " + _numbers(moments[name]) for name in ("mean", "std")]
  lines += ["", "encoders"]
  lines += [f"{name:>6} {digest}" for name, digest in set_plan.encoders.items()]
  skipped = len(set_plan.skipped) + sum(len(s["skipped"]) for s in shards)
  lines += ["", f"skipped {skipped}" + (": see report.jsonl" if skipped else "")]
  return lines


def decode(codecs: Codecs, record: Mapping[str, Any]) -> dict[str, Any]:
  """The clip of a record: `video` uint8 (F, H, W, 3), `audio` (n,), if it has them."""
  latents = {
    s: record[s][None].astype(np.float32) for s in ("video", "audio") if s in record
  }
  clip = jax.device_get(_decoder(codecs, latents))
  return {k: v[0] for k, v in clip.items()} | record["about"]


@jax.jit
def _decoder(codecs, latents):
  out = {s: getattr(codecs, s).decode(x) for s, x in latents.items()}
  return out | {"video": to_bytes(out["video"])} if "video" in out else out


def decode_some(root: str | os.PathLike, count: int) -> Iterator[Place]:
  """Writes `count` records, spread over the set, into ROOT/check; yields the files.

  Raises:
    UsageError: there is no finished set.
  """
  from ccl_jax.viz.media import write_mp4, write_png, write_wav

  root = place(root)
  clips = list(some_clips(root, count))
  # Ids may hold slashes, and more that no file's name can.
  names = safe_names(clip["id"] for _, clip in clips)
  for (bucket, clip), name in zip(clips, names):
    path = (
      root
      / "check"
      / {"image": f"{name}.png", "sound": f"{name}.wav"}.get(bucket.kind, f"{name}.mp4")
    )
    if bucket.kind == "image":
      write_png(path, clip["video"][0])
    elif bucket.kind == "sound":
      write_wav(path, clip["audio"])
    else:
      write_mp4(path, clip["video"], bucket.fps, clip.get("audio"))
    write_text(path.with_name(f"{path.name}.txt"), clip["text"] + "\n")
    yield path


def some_clips(root: Place, count: int) -> Iterator[tuple[Bucket, dict[str, Any]]]:
  """Decodes `count` records: one of every bucket first, the others evenly spread."""
  records, codecs = RecordSet(root), load_codecs(root / "codecs")
  # The index at which each bucket begins.
  firsts = np.cumsum([0, *map(len, records.buckets.values())])[:-1].tolist()
  spread = np.linspace(0, len(records) - 1, count).astype(int).tolist()
  for index in sorted(list(dict.fromkeys([*firsts, *spread]))[:count]):
    bucket, record = records.locate(index)
    yield bucket, decode(codecs, record)


def contact_sheet(root: Place, path: Place, count: int) -> None:
  """Draws `count` decoded records of a set, with their sound, into a PNG at `path`."""
  from ccl_jax.viz.panels import contact_sheet

  buckets, clips = zip(*some_clips(root, count))
  titles = [
    f"{b.name}  {clip['id']}  {clip['text'][:90]}" for b, clip in zip(buckets, clips)
  ]
  path.parent.mkdir(parents=True, exist_ok=True)
  contact_sheet(path, clips, titles, [b.seconds or 1.0 for b in buckets])


def _spread(histogram: Mapping[str, int]) -> str:
  """Mean, middle and extremes of a histogram, and bars of it."""
  rows = sorted((int(k), n) for k, n in histogram.items() if n)
  if not rows:
    return "none"
  values, times = map(np.array, zip(*rows))
  counts, _ = np.histogram(values, 16, weights=times)
  bars = "".join(" ▁▂▃▄▅▆▇█"[math.ceil(8 * c / counts.max())] for c in counts)
  # The middle of all, or the mean of the two in the middle.
  ends = times.cumsum()
  two = np.searchsorted(ends, [(ends[-1] - 1) // 2, ends[-1] // 2], side="right")
  mean, middle = np.average(values, weights=times), values[two].mean()
  return f"mean {mean:.1f}, {values[0]} to {values[-1]}, median {middle:.0f} |{bars}|"


def _numbers(values: list[float]) -> str:
  return " ".join(f"{v:6.2f}" for v in values)


def show(root: Place, clips: int, sheet: Place | None) -> None:
  """Prints what a set holds, and draws `clips` records of a finished one.

  Args:
    root: folder of the set.
    clips: records to draw; 0: no drawing.
    sheet: the PNG; None: ROOT/inspect.png.
  """
  print("\n".join(describe(root)))
  if clips > 0 and (root / "index.json").is_file():
    path = sheet or root / "inspect.png"
    check_writable(path)
    contact_sheet(root, path, clips)
    print(f"contact sheet: {path}")
