"""Draws pictures of a run: loss curves, clips with sound, attention on context."""

import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ccl_jax.files import new_file
from ccl_jax.viz.labels import literal

SHARE = "on context tokens"


def _figure(rows: int, columns: int, width: float, height: float):
  from matplotlib.figure import Figure

  figure = Figure(figsize=(width, height), dpi=110, layout="constrained")
  return figure, figure.subplots(rows, columns, squeeze=False)


def loss_curves(
  path: str | os.PathLike, rows: Sequence[Mapping[str, float | int | None]]
) -> None:
  """Draws loss against step, one line for each task and stream.

  Held-out losses are dashed, in the colour of their task.

  Args:
    path: of the picture.
    rows: of metrics.jsonl: {"step": ..., "loss/TASK/STREAM": ...}, and
      "held_out/TASK/STREAM"; None is left out.
  """
  figure, axes = _figure(1, 2, 10.0, 4.0)
  parts = {tuple(k.split("/")) for r in rows for k in r}
  parts = sorted(p for p in parts if len(p) == 3 and p[0] in ("loss", "held_out"))
  tasks = sorted({task for _, task, _ in parts})
  for kind, task, stream in parts:
    name = f"{kind}/{task}/{stream}"
    points = [(r["step"], r[name]) for r in rows if r.get(name) is not None]
    # Video on the left, sound on the right.
    ax = axes[0, 0 if stream == "video" else 1]
    held_out = kind == "held_out"
    ax.plot(
      *zip(*points),
      label=literal(f"{task}, held out" if held_out else task),
      color=f"C{tasks.index(task)}",
      linestyle="--" if held_out else "-",
    )
  for ax, stream in zip(axes[0], ("video", "audio")):
    ax.set(title=f"{stream}: velocity error", xlabel="step", yscale="log")
    ax.grid(alpha=0.3)
    if ax.lines:
      ax.legend()
  with new_file(path) as part:
    figure.savefig(part, format="png")


def contact_sheet(
  path: str | os.PathLike,
  clips: Sequence[Mapping[str, Any]],
  titles: Sequence[str],
  seconds: Sequence[float],
  frames: int = 12,
) -> None:
  """Draws a row for each clip: frames evenly in time, and the sound below them.

  Args:
    path: of the picture.
    clips: with `video` uint8 (F, H, W, 3), `audio` (n,) or both; a still takes the
      place of one frame.
    titles: by clip.
    seconds: duration of each clip.
    frames: of a row.
  """
  figure, axes = _figure(2 * len(clips), 1, 11.0, 2.3 * len(clips))
  for i, (clip, title, end) in enumerate(zip(clips, titles, seconds)):
    picture, sound = axes[2 * i, 0], axes[2 * i + 1, 0]
    if "video" in clip:
      video = clip["video"]
      shown = np.linspace(0, len(video) - 1, min(frames, len(video))).astype(int)
      # A still is one frame wide; a film fills the time axis.
      width = end if len(video) > 1 else end / frames
      strip = np.concatenate(list(video[shown]), 1)
      picture.imshow(strip, extent=(0, width, 0, 1))
    picture.set(aspect="auto", xlim=(0, end), xticks=[], yticks=[])
    picture.set_title(literal(title), fontsize=8)
    if "audio" in clip:
      audio = clip["audio"]
      sound.plot(np.arange(len(audio)) * end / len(audio), audio, lw=0.4)
    sound.set(xlim=(0, end), ylim=(-1, 1), yticks=[])
  sound.set_xlabel("seconds")
  with new_file(path) as part:
    figure.savefig(part, format="png")


def attention_panel(
  path: str | os.PathLike,
  frames: np.ndarray,
  video_share: np.ndarray,
  audio_share: np.ndarray,
  groups: Mapping[str, tuple[float, float]] | None,
) -> None:
  """Draws where attention falls on the context tokens (figure 6 of the paper).

  Args:
    path: of the picture.
    frames: uint8 (t, H, W, 3), the picture behind each latent frame.
    video_share: (t, h, w), share of a video token's attention on context tokens.
    audio_share: (a,), the same of audio tokens.
    groups: mean share of (foreground, background) tokens by stream, if masks are known.
  """
  from matplotlib.figure import Figure

  shown = np.linspace(0, len(frames) - 1, min(6, len(frames))).astype(int)
  columns = max(3, len(shown))  # the plots below need room, however short the clip
  figure = Figure(figsize=(2.0 * columns, 6.5), dpi=110, layout="constrained")
  above, below = figure.subfigures(2, 1, height_ratios=(2, 1))
  axes = above.subplots(2, columns, squeeze=False)
  low, high = float(video_share.min()), float(video_share.max())
  for ax_picture, ax_map, i in zip(axes[0], axes[1], shown):
    ax_picture.imshow(frames[i])
    image = ax_map.imshow(video_share[i], vmin=low, vmax=high, cmap="magma")
    for ax in (ax_picture, ax_map):
      ax.set(xticks=[], yticks=[])
  above.colorbar(image, ax=axes[1], label=SHARE)
  for ax in axes[:, len(shown) :].flat:
    ax.remove()
  line, *rest = below.subplots(1, 2 if groups else 1, squeeze=False)[0]
  line.plot(audio_share)
  line.set(xlabel="audio token", ylabel=SHARE)
  if groups:
    (bars,) = rest
    x = np.arange(len(groups))
    for k, label in enumerate(("foreground", "background")):
      bars.bar(x + 0.4 * k - 0.2, [g[k] for g in groups.values()], 0.38, label=label)
    bars.set_xticks(x, list(groups))
    values = [v for g in groups.values() for v in g]
    # Shares differ by little: the axis starts below the least, not at 0.
    bars.set_ylim(max(0.0, 2 * min(values) - max(values) - 0.01), None)
    bars.legend(fontsize=8, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2)
  with new_file(path) as part:
    figure.savefig(part, format="png")
