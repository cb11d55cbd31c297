"""Films made for the tests: grey, with a white frame and a click at a known time."""

import fractions
import pathlib

import av
import numpy as np

CLOCK = fractions.Fraction(1, 90000)


_made = {}  # the bytes of films by how they were made: many tests want the same


def film(path, **how):
  """Writes a film, see `_write`, or another copy of it."""
  told = lambda x: x.tobytes() if isinstance(x, np.ndarray) else repr(x)
  path_of = pathlib.Path(path)
  key = path_of.suffix, *((name, told(how[name])) for name in sorted(how))
  if key not in _made:
    _write(path, **how)
    _made[key] = path_of.read_bytes()
  else:
    path_of.write_bytes(_made[key])
  return path


def _write(
  path,
  *,
  fps=25,
  seconds=2.0,
  times=None,
  size=(64, 48),
  event=1.0,
  sound="mono",
  rate=48000,
  sound_from=0.0,
  sound_to=None,
  gap=(9.0, 9.0),
  codecs=("libx264", "aac"),
  options=None,
  pixels=None,
  aspect=None,
  tune=None,
):
  """Writes a film. `times` are the frames' timestamps (every 1 / fps by default); the
  frame on screen at `event` is white, and a click of 1 ms begins there. `sound` is a
  channel layout or None; it runs from `sound_from` to `sound_to` without `gap`.
  `pixels` (H, W, 3) replaces the grey; `tune` are options of the picture's encoder.
  """
  times = [k / fps for k in range(round(seconds * fps))] if times is None else times
  flash = max(t for t in times if t <= event + 1e-6)
  fast = {"libvpx-vp9": {"deadline": "realtime", "cpu-used": "8"}, "libx264": {}}
  with av.open(str(path), "w", options=options or {}) as out:
    video = out.add_stream(codecs[0], rate=fps, options=fast[codecs[0]] | (tune or {}))
    video.width, video.height, video.pix_fmt = *size, "yuv420p"
    video.codec_context.time_base, video.codec_context.gop_size = CLOCK, 12
    if aspect:
      video.codec_context.sample_aspect_ratio = aspect
    audio = sound and out.add_stream(codecs[1], rate=rate, layout=sound)
    packets = []
    for time in times:
      grey = np.full((size[1], size[0], 3), 235 if time == flash else 30, np.uint8)
      image = grey if pixels is None else pixels
      frame = av.VideoFrame.from_ndarray(image, "rgb24")
      frame.pts, frame.time_base = round(time / CLOCK), CLOCK
      packets += video.encode(frame)
    packets += video.encode(None)
    if sound:
      packets += _sound(audio, rate, sound, sound_from, sound_to or seconds, event, gap)
    packets = [p for p in packets if p.dts is not None]
    for packet in sorted(packets, key=lambda p: p.dts * p.time_base):
      out.mux(packet)


def _sound(audio, rate, layout, begin, end, event, gap):
  wave = np.zeros(round((end - begin) * rate), np.float32)
  click = round((event - begin) * rate)
  wave[click : click + rate // 1000] = 0.8
  packets, step = [], audio.codec_context.frame_size or 960
  kind = audio.codec_context.format.name
  for first in range(0, len(wave), step):
    piece = wave[first : first + step]
    if gap[0] <= begin + first / rate < gap[1]:
      continue
    planes = np.repeat(piece[None], audio.codec_context.layout.nb_channels, 0)
    frame = av.AudioFrame.from_ndarray(planes, "fltp", layout)
    frame.sample_rate, frame.pts = rate, round(begin * rate) + first
    frame.time_base = fractions.Fraction(1, rate)
    if kind != "fltp":
      (frame,) = av.AudioResampler(kind, layout, rate).resample(frame)
    packets += audio.encode(frame)
  return packets + audio.encode(None)


def trimmed(source, path, offset):
  """The film without its first `offset` seconds, uncut but for an edit list."""
  with av.open(str(source)) as film, av.open(str(path), "w") as out:
    copies = {s: out.add_stream_from_template(s) for s in film.streams}
    for packet in film.demux(*film.streams):
      if packet.dts is not None:
        shift = round(offset / packet.time_base)
        packet.pts, packet.dts = packet.pts - shift, packet.dts - shift
        packet.stream = copies[packet.stream]
        out.mux(packet)
  return path


def truncated(source, path, part=2 / 3):
  data = source.read_bytes()
  path.write_bytes(data[: int(len(data) * part)])
  return path


def onset(audio, rate=16000):
  """The time (s) at which the click begins."""
  loud = np.abs(audio)
  return np.flatnonzero(loud > loud.max() / 2)[0] / rate


def flash(video):
  """The frames that are white."""
  return np.flatnonzero(video.mean((1, 2, 3)) > 130).tolist()
