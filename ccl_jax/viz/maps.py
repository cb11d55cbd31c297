"""Draws attention of the exchange: over frames and mel, and by block and head."""

import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ccl_jax.files import new_file

FRAMES = 6  # of a clip, shown
MOST = 8  # blocks or heads of a grid, evenly chosen
NAMES = {"video": "picture reads sound", "audio": "sound reads picture"}
HEAT = "inferno"


def over_clip(
  path: str | os.PathLike,
  frames: np.ndarray,
  mel: np.ndarray,
  seconds: float,
  rows: Sequence[tuple[str, Mapping[str, tuple[np.ndarray, np.ndarray]]]],
  title: str,
) -> None:
  """Draws attention over the frames and the mel of a clip, a pair of rows a step.

  Args:
    path: of the picture.
    frames: uint8 (t, H, W, 3), the picture behind each latent frame.
    mel: (m, bands) of the sound, amplitudes.
    seconds: duration of the clip.
    rows: of each step (its label, by the stream that reads: shares (t, h, w) over the
      frames and (a,) over audio tokens).
    title: above all.
  """
  from matplotlib.cm import ScalarMappable
  from matplotlib.colors import Normalize
  from matplotlib.figure import Figure

  shown = np.linspace(0, len(frames) - 1, min(FRAMES, len(frames))).astype(int)
  figure = Figure(
    figsize=(13.0, 0.9 + 1.45 * 2 * len(rows)), dpi=110, layout="constrained"
  )
  figure.suptitle(title, fontsize=11)
  widths = [1.0] * len(shown) + [0.12, 4.2]
  grid = figure.add_gridspec(2 * len(rows), len(widths), width_ratios=widths)
  for i, (label, directions) in enumerate(rows):
    for k, (stream, (over_frames, over_sound)) in enumerate(directions.items()):
      line = 2 * i + k
      low, high = float(over_frames.min()), float(over_frames.max())
      for j, frame in enumerate(shown):
        ax = figure.add_subplot(grid[line, j])
        _blend(ax, frames[frame], over_frames[frame], low, high)
        if j == 0:
          ax.set_ylabel(f"{label}\n{NAMES[stream]}", fontsize=8)
        if line == 0:
          ax.set_title(f"latent {frame}", fontsize=8)
      bar = figure.add_subplot(grid[line, len(shown)])
      image = ScalarMappable(Normalize(low, high), HEAT)  # as the maps, none the denser
      figure.colorbar(image, cax=bar).ax.tick_params(labelsize=7)
      ax = figure.add_subplot(grid[line, len(shown) + 1])
      mel_picture(ax, mel, seconds)
      curve = ax.twinx()
      times = (np.arange(len(over_sound)) + 0.5) * seconds / len(over_sound)
      curve.plot(times, over_sound, color="white", lw=2.6)
      curve.plot(times, over_sound, color="#d62728", lw=1.4)
      curve.tick_params(labelsize=7, colors="#d62728")
      curve.set_ylim(0, None)
      what = "share it gets" if stream == "video" else "share it gives"
      curve.set_ylabel(what, fontsize=7, color="#d62728")
      if line == 2 * len(rows) - 1:
        ax.set_xlabel("seconds", fontsize=8)
  with new_file(path) as part:
    figure.savefig(part, format="png")


def _blend(ax, frame: np.ndarray, share: np.ndarray, low: float, high: float) -> None:
  """A frame, and over it the shares of its places, the denser the larger they are."""
  h, w = frame.shape[:2]
  ax.imshow(frame, extent=(0, w, h, 0))
  dense = 0.25 + 0.55 * (share - low) / max(high - low, 1e-12)
  ax.imshow(
    share, cmap=HEAT, vmin=low, vmax=high, alpha=dense.clip(0, 1),
    extent=(0, w, h, 0), interpolation="nearest",
  )  # fmt: skip
  ax.set(xticks=[], yticks=[])


def mel_picture(ax, mel: np.ndarray, seconds: float) -> None:
  """A mel spectrogram in decibels, low bands below."""
  level = 20 * np.log10(np.maximum(mel, 1e-4))
  ax.imshow(
    level.T, origin="lower", aspect="auto", cmap="Greys_r", extent=(0, seconds, 0, 1),
    vmin=level.max() - 60, vmax=level.max(),
  )  # fmt: skip
  ax.set(yticks=[], xlim=(0, seconds))
  ax.tick_params(labelsize=7)


def by_head(path: str | os.PathLike, stream: str, time: np.ndarray, title: str) -> None:
  """Draws who looks when, by block (down) and head (across).

  Args:
    path: of the picture.
    stream: that reads.
    time: (blocks, heads, i, j), the shares that queries of frame i give keys of j.
    title: above all.
  """
  from matplotlib.colors import PowerNorm
  from matplotlib.figure import Figure

  blocks, heads = (_some(n) for n in time.shape[:2])
  # An audio token is no wider than needed; time of queries goes down.
  figure = Figure(
    figsize=(1.6 + 2.1 * len(heads), 1.0 + 1.5 * len(blocks)), dpi=110,
    layout="constrained",
  )  # fmt: skip
  figure.suptitle(f"{NAMES[stream]}: {title}", fontsize=11)
  axes = figure.subplots(len(blocks), len(heads), squeeze=False)
  high = float(time[np.ix_(blocks, heads)].max())
  across = {"video": "audio token", "audio": "latent frame"}[stream]
  down = {"video": "latent frame", "audio": "audio token"}[stream]
  for line, block in zip(axes, blocks):
    for ax, head in zip(line, heads):
      image: Any = ax.imshow(
        time[block, head], aspect="auto", cmap=HEAT, interpolation="nearest",
        norm=PowerNorm(0.5, 0, high),  # a little is seen beside much
      )  # fmt: skip
      ax.tick_params(labelsize=7)
      mean = time[block, head].sum(-1).mean()
      ax.set_title(f"head {head}: {100 * mean:.0f} %", fontsize=8)
    line[0].set_ylabel(f"block {block}\n{down}", fontsize=8)
  for ax in axes[-1]:
    ax.set_xlabel(across, fontsize=8)
  figure.colorbar(image, ax=axes, shrink=0.6, label="share of a query's attention")
  with new_file(path) as part:
    figure.savefig(part, format="png")


def _some(n: int) -> list[int]:
  """All of n, or `MOST` of them evenly, the first and the last among them."""
  return sorted(set(np.linspace(0, n - 1, min(n, MOST)).astype(int).tolist()))
