"""Rows of a table of captions: what is measured of one file before it is encoded.

Every file gives a row for each of its shots (or each of the parts its captions name),
with a crop without black bars, loudness and the gain to a target, shares of silence and
of clipped samples, and how far apart picture and sound start.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from ccl_jax.data.media import decode as media
from ccl_jax.data.media.loudness import gain_of
from ccl_jax.data.media.tracks import first_time, main_track, opened
from ccl_jax.data.preparing import shots, sound_checks
from ccl_jax.data.sources import templates
from ccl_jax.data.sources.captions import Caption, Row, sidecar
from ccl_jax.data.sources.folder import IMAGES
from ccl_jax.data.sources.windows import cached_probe, part_of
from ccl_jax.errors import UsageError
from ccl_jax.remote.paths import Place

_LEAST = 0.2  # seconds: shorter parts of a film are left out


class Options(NamedTuple):
  """Settings of `prepare`.

  Attributes:
    shots: whether films are cut into shots.
    crop: whether black bars are looked for.
    loudness: LUFS that a gain is computed to; None: no gain.
    speech: "silero", or "module:function" that measures speech (`speech_hook`).
    template: of captions (`sources/templates.py`).
    captions: the one table to read; "": all in the folder.
  """

  shots: bool = True
  crop: bool = True
  loudness: float | None = None
  speech: str = ""
  template: str = ""
  captions: str = ""


# The fields that are measured, for templates.
MEASURES = (
  "file", "caption", "seconds", "start", "end", "crop", "loudness", "loudness_gain",
  "peak", "silence", "clipped", "av_offset_ms", "speech_share",
)  # fmt: skip


def rows_of(
  root: Place, name: str, rows: Sequence[Row], options: Options
) -> list[dict[str, Any]]:
  """The rows of one file: one for each shot of each part that its captions name.

  Raises:
    MediaError: it cannot be read.
  """
  path, out = root / name, []
  if path.suffix.lower() in IMAGES:
    media.image_size(path)
    return [_row(name, row, {}, options, path) for row in rows]
  scanned, probe = None, cached_probe()
  for row in rows:
    caption = row.caption
    sound = caption.sound(root)
    whole = probe(path, sound)
    info = part_of(whole, caption)
    parts = [(info.start, info.end)]
    if info.has_video and (options.shots or options.crop):
      # One pass over the film serves its shots and its crops, for all its captions.
      scanned = scanned or shots.scan_film(path, cuts=options.shots)
      if options.shots:
        parts = scanned.shots(*parts[0])
    offset = _offset_ms(path, sound) if info.has_video and info.has_audio else None
    for start, end in parts:
      # Shorter shots are flashes; a file that is one short part is still kept.
      if end - start < _LEAST and len(parts) > 1:
        continue
      new = {"seconds": round(end - start, 3)}
      # A whole file needs no bounds: the row stays as short as the one it came from.
      if len(parts) > 1 or (caption.start, caption.end) != Caption()[2:4]:
        new |= {"start": round(start, 6), "end": round(end, 6)}
      if info.has_video and options.crop and not caption.crop:
        crop = scanned.crop(start, end)
        new |= {"crop": list(crop)} if crop else {}
      if info.has_audio:
        rest = end == whole.end  # all there is: headers may promise a little more
        new |= _sound(sound or path, start, None if rest else end, options)
      if offset is not None:
        new["av_offset_ms"] = offset
      out.append(_row(name, row, new, options, path))
  return out


def _sound(
  path: Place, start: float, end: float | None, options: Options
) -> dict[str, Any]:
  samples = None if end is None else round((end - start) * 16000)

  def share(wave, rate):
    got = sound_checks.speech_hook(options.speech)(wave, rate)
    try:
      return float(got)
    except (TypeError, ValueError) as e:
      raise UsageError(f"{options.speech} gave {got!r}, expected a share") from e

  waves = media.read_blocks(path, samples, start=start)
  out = sound_checks.measure(waves, speech=share if options.speech else None)
  out["clipped"] = sound_checks.clipped(path, start, end or math.inf)
  if options.loudness is not None and "loudness" in out:
    gain = gain_of(out["loudness"], out["peak"], options.loudness)
    out["loudness_gain"] = round(gain, 2)
  return out


def _row(
  name: str, row: Row, new: Mapping[str, Any], options: Options, path: Place
) -> dict[str, Any]:
  """The file's row as it was, with what is new."""
  text = row.caption.text or sidecar(path)
  # The caption is written as `caption`, whichever key it was read from.
  old = {k: v for k, v in row.fields.items() if k not in ("id", "prompt", "text")}
  fields = old | {"file": name, "caption": text} | new
  if options.template:
    fields["caption"] = templates.fill(options.template, fields) or text
  return fields


def _offset_ms(path: Place, sound: Place | None) -> float:
  """Milliseconds by which the sound starts later than the picture."""
  with opened(path) as picture, opened(sound or path) as other:
    begin = first_time(main_track(picture, "video"))
    return round(1000 * (first_time(main_track(other, "audio")) - begin), 1)
