"""Draws what lies side by side: losses of runs, clips of models, motion and mel."""

import math
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ccl_jax.files import new_file
from ccl_jax.viz.labels import literal
from ccl_jax.viz.maps import mel_picture

Path = str | os.PathLike
Rows = Sequence[Mapping[str, float | int | None]]
KINDS = {"loss": "-", "held_out": "--"}


def runs_curves(path: Path, runs: Mapping[str, Rows], smooth: int = 1) -> None:
  """Draws the losses of several runs, a plot for each task and stream and one for all,
  a colour for each run; held-out losses are dashed.

  Args:
    path: of the picture.
    runs: by name, rows of metrics.jsonl.
    smooth: rows over which a training loss is a running mean.
  """
  from matplotlib.figure import Figure

  names = {k for rows in runs.values() for row in rows for k in row}
  parts = sorted(
    {tuple(k.split("/")[1:]) for k in names
     if k.split("/")[0] in KINDS and len(k.split("/")) == 3}
  )  # fmt: skip
  plots = [("loss", None)] * ("loss" in names) + [("/".join(p), p) for p in parts]
  columns = min(3, len(plots))
  lines = math.ceil(len(plots) / columns)
  figure = Figure(
    figsize=(4.4 * columns, 0.8 + 3.0 * lines), dpi=110, layout="constrained"
  )
  axes = figure.subplots(lines, columns, squeeze=False)
  for ax, (title, part) in zip(axes.flat, plots):
    for i, rows in enumerate(runs.values()):
      for kind, style in KINDS.items():
        key = "loss" if part is None else "/".join((kind, *part))
        points = [(r["step"], r[key]) for r in rows if r.get(key) is not None]
        if not points or (part is None and kind != "loss"):
          continue
        x, y = np.array(points, float).T
        if kind == "loss":
          y = _running(y, smooth)
        ax.plot(x, y, style, color=f"C{i % 10}", lw=1.4)
    ax.set(yscale="log")
    for axis in (ax.yaxis.set_major_formatter, ax.yaxis.set_minor_formatter):
      axis("{x:.3g}")  # 0.47, and not 4.7 x 10^-1
    ax.set_title(literal(title), fontsize=10)
    ax.grid(alpha=0.3, which="both")
    ax.tick_params(labelsize=8, which="both")
  for ax in list(axes.flat)[len(plots) :]:
    ax.remove()
  for ax in list(axes.flat)[max(len(plots) - columns, 0) : len(plots)]:
    ax.set_xlabel("step", fontsize=9)
  handles = [
    figure.axes[0].plot([], [], color=f"C{i % 10}", label=literal(name))[0]
    for i, name in enumerate(runs)
  ]
  if any(k.startswith("held_out/") for k in names):
    handles += figure.axes[0].plot([], [], "--", color="grey", label="held out")
  figure.legend(handles=handles, loc="outside upper center", ncols=4, fontsize=9)
  with new_file(path) as out:
    figure.savefig(out, format="png")


def _running(y: np.ndarray, n: int) -> np.ndarray:
  """The mean of each value and the n - 1 before it, of the first ones of fewer."""
  total = np.concatenate([[0.0], np.cumsum(y)])
  last = np.arange(1, len(y) + 1)
  first = np.maximum(last - n, 0)
  return (total[last] - total[first]) / (last - first)


def side_by_side(
  path: Path,
  models: Sequence[str],
  prompts: Sequence[str],
  clips: Mapping[tuple[int, int], Mapping[str, Any]],
  frames: int = 6,
) -> None:
  """Draws clips by prompt (down) and model (across): frames, and the sound below them.

  Args:
    path: of the picture.
    models: their names.
    prompts: texts.
    clips: by number of prompt and model, `video` uint8 (F, H, W, 3), `audio` (n,) or
      both, and `seconds`.
    frames: of each clip.
  """
  from matplotlib.figure import Figure

  width = 6.0 if len(models) == 1 else 4.6
  figure = Figure(
    figsize=(width * len(models), 0.5 + 1.9 * len(prompts)), dpi=110,
    layout="constrained",
  )  # fmt: skip
  lines = figure.subfigures(len(prompts), 1, squeeze=False)[:, 0]
  for i, (prompt, line) in enumerate(zip(prompts, lines)):
    line.suptitle(literal(prompt), fontsize=9, x=0.01, ha="left")
    axes = line.subplots(2, len(models), squeeze=False, height_ratios=[2.2, 1])
    for j, model in enumerate(models):
      picture, sound = axes[:, j]
      _strip(picture, sound, clips.get((i, j)), frames)
      if i == 0:
        picture.set_title(literal(model), fontsize=10, weight="bold")
  with new_file(path) as out:
    figure.savefig(out, format="png")


def _strip(picture, sound, clip: Mapping[str, Any] | None, frames: int) -> None:
  for ax in (picture, sound):
    ax.set(xticks=[], yticks=[])
  if clip is None:
    picture.text(0.5, 0.5, "no clip", ha="center", va="center", fontsize=8)
    picture.set(xlim=(0, 1), ylim=(0, 1))
    sound.axis("off")
    return
  if "video" in clip:
    video = clip["video"]
    shown = np.linspace(0, len(video) - 1, min(frames, len(video))).astype(int)
    picture.imshow(np.concatenate(list(video[shown]), 1))
  else:
    picture.axis("off")
  if clip.get("audio") is not None:
    audio = clip["audio"]
    sound.plot(np.arange(len(audio)), audio, lw=0.4)
    sound.set(xlim=(0, max(len(audio) - 1, 1)), ylim=(-1, 1))
    sound.set_xlabel(f"{clip['seconds']:.2f} s", fontsize=7, labelpad=1)
  else:
    sound.axis("off")


def motion_and_mel(path: Path, films: Sequence[Mapping[str, Any]]) -> None:
  """Draws the mel of each film, and over it how much its picture moves and how loud its
  sound is, on one axis of time.

  Args:
    path: of the picture.
    films: of each `title`, `seconds`, `mel` (m, bands), and `motion` (F,) and
      `loudness` (i,), curves over the whole film.
  """
  from matplotlib.figure import Figure

  figure = Figure(figsize=(11.0, 0.6 + 2.5 * len(films)), dpi=110, layout="constrained")
  axes = figure.subplots(len(films), 1, squeeze=False)[:, 0]
  for ax, film in zip(axes, films):
    seconds = film["seconds"]
    mel_picture(ax, film["mel"], seconds)
    curve = ax.twinx()
    for name, color in (("loudness", "C0"), ("motion", "C1")):
      y = np.asarray(film[name], float)
      x = np.arange(len(y)) * seconds / len(y)
      y = y / max(np.quantile(y, 0.99), 1e-9)
      curve.plot(x, y, color="black", lw=3.0, alpha=0.6)
      curve.plot(x, y, color=color, lw=1.6, label=name)
    curve.set(ylim=(0, 1.6), yticks=[])
    ax.set_title(literal(film["title"]), fontsize=10, loc="left")
  figure.axes[len(films)].legend(loc="upper right", ncols=2, fontsize=9)
  axes[-1].set_xlabel("seconds", fontsize=9)
  with new_file(path) as out:
    figure.savefig(out, format="png")
