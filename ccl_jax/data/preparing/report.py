"""Reports the results of `prepare` in a few lines for the terminal."""

import collections
import re

import numpy as np

from ccl_jax.data.preparing.rows import Options
from ccl_jax.data.preparing.run import Prepared
from ccl_jax.data.sources import templates

_SHOWN = 20


def summary(
  prepared: Prepared, options: Options, max_offset_ms: float | int
) -> list[str]:
  """The lines of the report on prepared media.

  A table of counts, the files whose picture and sound start apart, and the reasons of
  those that were skipped.

  Args:
    prepared: the result of `prepare`.
    options: it was made with.
    max_offset_ms: offset beyond which a file is listed.
  """
  rows = prepared.rows
  has = lambda key: [row[key] for row in rows if key in row]
  files, levels = len({row["file"] for row in rows}), has("loudness")
  above = lambda key, least: sum(share > least for share in has(key))
  lines = {
    "files": f"{files}, and {len(prepared.skipped)} skipped",
    "rows": f"{len(rows)}, {sum(has('seconds')) / 3600:.3f} h",
    "parts of a file": len(has("start")),
    "with black bars": len(has("crop")),
    "loudness": _spread(levels, "LUFS"),
    "gain": _spread(has("loudness_gain"), "dB"),
    "silent": f"{above('silence', 0.99)} of {len(has('silence'))}",
    "clipped": f"{above('clipped', 0.001)} (over 0.1 % of samples)",
    "without caption": sum(not row["caption"] for row in rows),
  }
  if options.speech:
    lines["speech"] = _spread(has("speech_share"), "of a row")
  if options.template:
    lacking = sum(templates.fill(options.template, row) is None for row in rows)
    lines["without template"] = f"{lacking}, they lack a field of it"
  apart = {row["file"]: row["av_offset_ms"] for row in rows if "av_offset_ms" in row}
  apart = {n: ms for n, ms in apart.items() if abs(ms) > max_offset_ms}
  lines["sound apart"] = f"{len(apart)} (over {max_offset_ms:g} ms)"
  out = [f"{name:18}{value}" for name, value in lines.items()]
  out += _first(f"  {name}: {ms:+g} ms" for name, ms in apart.items())
  kinds = collections.Counter(
    re.sub(r"\d[\d.]*", "N", why) for _, why in prepared.skipped
  )
  out += _first(f"  skipped {n}: {why}" for why, n in kinds.most_common())
  return out


def _spread(values: list[float], unit: str) -> str:
  if not values:
    return "none"
  low, middle, high = np.percentile(values, (0, 50, 100))
  return f"median {middle:.1f}, {low:.1f} to {high:.1f} {unit}"


def _first(lines) -> list[str]:
  lines = list(lines)
  more = [f"  and {len(lines) - _SHOWN} more"] if len(lines) > _SHOWN else []
  return lines[:_SHOWN] + more
