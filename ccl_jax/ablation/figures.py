"""The figures of the ablation: results of runs in, pictures out.

  loss.png         figure 5 of the paper: losses over steps, and what is steadier
  information.png  what a stream takes of the other one, by noise level
  guidance.png     scores of the same checkpoints under every row of guidance
  foreground.png   figure 6 in numbers: attention on context tokens by noise level
  maps.png         figure 6: attention on context tokens by block, noise level and frame
  keys.png         figure 3: attention of the gate model by query and key

Bands and bars are 95 % intervals over seeds (`seeds`), where a variant has two.
"""

import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import UInt8

from ccl_jax.ablation.readings import (
  Result,
  Runs,
  by_variant,
  information,
  losses,
  reads,
  score,
  stability,
)
from ccl_jax.ablation.seeds import Estimate, estimate
from ccl_jax.ablation.table import TASKS
from ccl_jax.axes import STREAMS
from ccl_jax.viz.media import write_png

WIDTH = 10.0  # inches: at 110 dots each wide enough for a README, and not shrunk much
SCORES = {"sync_r0": "correlation of mouths and voices", "ser": "errors in syllables"}
GROUPS = {"foreground": "-", "background": "--"}
MARKERS = "osD^vP*X"
FRAMES = 6  # of a clip, shown

Points = Mapping[float, Estimate]


def write_figures(
  results: Sequence[Result],
  folder: str | pathlib.Path,
  variants: Sequence[str],
  guidance: Mapping[str, Sequence[str]],
) -> list[pathlib.Path]:
  """Writes the figures that the results have numbers for; returns their paths.

  The same results give the same bytes, whatever their order.

  Args:
    results: of runs.
    folder: of the pictures.
    variants: drawn, in order; losses are compared to those of the first.
    guidance: rows of guidance by the variant whose checkpoints they sample from.

  Raises:
    UsageError: see `readings.by_variant`; nothing is written.
  """
  pictures = draw(results, variants, guidance)
  paths = []
  for name, picture in pictures.items():
    paths.append(pathlib.Path(folder) / f"{name}.png")
    write_png(paths[-1], picture)
  return paths


def draw(
  results: Sequence[Result],
  variants: Sequence[str],
  guidance: Mapping[str, Sequence[str]],
) -> dict[str, UInt8[np.ndarray, "H W 3"]]:
  """The pictures that `write_figures` writes, by name."""
  runs = by_variant(results)
  shown = {name: runs[name] for name in variants if name in runs}
  forms = {name: rows for name, rows in guidance.items() if name in runs}
  made = {
    "loss": loss_figure(shown),
    "information": information_figure(shown),
    "guidance": guidance_figure(runs, forms),
    "foreground": foreground_figure(shown),
    "maps": maps_figure(shown),
    "keys": keys_figure(shown),
  }
  return {name: _pixels(figure) for name, figure in made.items() if figure is not None}


def _figure(rows: int, columns: int, height: float, **options):
  from matplotlib.figure import Figure

  figure = Figure(figsize=(WIDTH, height), dpi=110, layout="constrained")
  return figure, figure.subplots(rows, columns, squeeze=False, **options)


def _pixels(figure) -> UInt8[np.ndarray, "H W 3"]:
  from matplotlib.backends.backend_agg import FigureCanvasAgg

  canvas = FigureCanvasAgg(figure)
  canvas.draw()
  return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def over_seeds(curves: Mapping[int, Mapping[float, float]]) -> Points:
  """The mean over seeds at every place that all of them have.

  Args:
    curves: {place: value} by seed, the places being steps or noise levels.
  """
  curves = [curve for curve in curves.values() if curve]
  places = [x for x in curves[0] if all(x in c for c in curves)] if curves else []
  return {x: estimate([c[x] for c in curves]) for x in places}


def beyond(
  curves: Mapping[int, Mapping[float, float]],
  first: Mapping[int, Mapping[float, float]],
) -> Points:
  """How much curves exceed those of `first`, in % of these, over the seeds of both."""
  return over_seeds(
    {
      seed: {x: 100 * (v / first[seed][x] - 1) for x, v in curve.items()
             if x in first[seed]}
      for seed, curve in curves.items() if seed in first
    }
  )  # fmt: skip


def _of_runs(runs: Runs, read: Callable[[Result], Any]) -> dict[str, dict[int, Any]]:
  return {v: {k: read(r) for k, r in seeds.items()} for v, seeds in runs.items()}


def _band(ax, points: Points, color: str, label: str) -> None:
  if not points:
    return
  x = list(points)
  mean = np.array([e.mean for e in points.values()])
  ax.plot(x, mean, color=color, label=label, lw=1.3)
  if all(e.half is not None for e in points.values()):
    half = np.array([e.half for e in points.values()])
    ax.fill_between(x, mean - half, mean + half, color=color, alpha=0.15, lw=0)


def _bars(ax, points: Points, place: tuple[int, int], **style) -> None:
  """A line of means with the interval of each.

  Args:
    ax: of the plot.
    points: by noise level.
    place: (i, n): the lines of n variants lie a little aside of each other, or the bars
      of a noise level would hide each other.
    style: of the line.
  """
  i, n = place
  ax.errorbar(
    [x + 0.008 * (i - (n - 1) / 2) for x in points],
    [e.mean for e in points.values()],
    [e.half or 0 for e in points.values()],
    marker=MARKERS[i % len(MARKERS)], ms=4, lw=1, capsize=2, **style,
  )  # fmt: skip


def _dots(ax, names: Sequence[str], values: Sequence[Estimate | None], colors) -> None:
  """A row for each name, from the top: its mean and interval."""
  for y, (e, color) in enumerate(zip(values, colors)):
    if e is not None:
      ax.errorbar(e.mean, y, xerr=e.half, fmt="o", color=color, capsize=3)
  ax.set_yticks(range(len(names)), names)
  ax.set_ylim(len(names) - 0.5, -0.5)
  ax.grid(alpha=0.3)


def _colors(names: Sequence[str]) -> dict[str, str]:
  return {name: f"C{i}" for i, name in enumerate(names)}


def _legend(figure, ax) -> None:
  """One for all plots, above them."""
  figure.legend(
    *ax.get_legend_handles_labels(), loc="outside upper center", ncols=4, fontsize=9
  )


def loss_figure(runs: Runs):
  """Losses of all variants, what they exceed the first one's by, and stability."""
  every = {
    v: curves for v, curves in _of_runs(runs, losses).items() if any(curves.values())
  }
  if not every:
    return None
  steady = _of_runs(runs, stability)
  kinds = list(dict.fromkeys(k for v in steady.values() for r in v.values() for k in r))
  names, colors = list(runs), _colors(list(runs))
  per_row = 2
  rows = 1 + -(-len(kinds) // per_row)
  figure, axes = _figure(
    rows,
    per_row,
    4.2 + 0.6 + (rows - 1) * (0.9 + 0.24 * len(names)),
    gridspec_kw={"height_ratios": [4.2] + [0.9 + 0.24 * len(names)] * (rows - 1)},
  )
  first = next(iter(every))
  for name, curves in every.items():
    _band(axes[0, 0], over_seeds(curves), colors[name], name)
    _band(axes[0, 1], beyond(curves, every[first]), colors[name], name)
  axes[0, 0].set(title="loss", xlabel="step", yscale="log")
  axes[0, 1].set(title=f"loss beyond {first}'s, same seed, in %", xlabel="step")
  for ax in axes[0]:
    ax.grid(alpha=0.3, which="both")
  for ax, kind in zip(axes[1:].flat, kinds):
    values = [
      estimate([r[kind] for r in steady[v].values() if kind in r]) for v in names
    ]
    _dots(ax, names, values, colors.values())
    ax.set_title(
      "deviation of the loss's differences" if kind == "difference_std" else kind
    )
  for ax in list(axes[1:].flat)[len(kinds) :]:
    ax.remove()
  _legend(figure, axes[0, 0])
  return figure


def information_figure(runs: Runs):
  """Information in % of the loss, by noise level: a plot for each task and stream."""
  pairs = list(
    dict.fromkeys(
      p for seeds in runs.values() for r in seeds.values() for p in reads(r)
    )
  )
  if not pairs:
    return None
  colors = _colors(list(runs))
  rows = -(-len(pairs) // 2)
  figure, axes = _figure(rows, 2, 0.6 + 3.0 * rows)
  for ax, (task, stream) in zip(axes.flat, pairs):
    read = lambda r: {s: 100 * v for s, v in information(r, task, stream).items()}
    for i, (name, curves) in enumerate(_of_runs(runs, read).items()):
      _bars(ax, over_seeds(curves), (i, len(runs)), label=name, color=colors[name])
    ax.axhline(0, color="0.5", lw=0.8)
    ax.set(title=f"{task}: {stream}", xlabel="sigma", ylabel="information, % of loss")
    ax.grid(alpha=0.3)
  for ax in list(axes.flat)[len(pairs) :]:
    ax.remove()
  _legend(figure, axes[0, 0])
  return figure


def guidance_figure(runs: Runs, forms: Mapping[str, Sequence[str]]):
  """Scores of a variant's checkpoints under its rows of guidance, beside chance."""
  read = lambda v, form, task, name, part="scores": estimate(
    [x for r in runs[v].values() if (x := score(r, form, task, name, part)) is not None]
  )
  has = lambda v, task, name: any(read(v, f, task, name) for f in forms[v])
  tasks = [t for t in TASKS if any(has(v, t, n) for v in forms for n in SCORES)]
  rows = [(v, n) for v in forms for n in SCORES if any(has(v, t, n) for t in tasks)]
  if not rows:
    return None
  heights = [0.8 + 0.22 * len(forms[v]) for v, _ in rows]
  figure, axes = _figure(
    len(rows), len(tasks), sum(heights), sharey="row", sharex=False,
    gridspec_kw={"height_ratios": heights},
  )  # fmt: skip
  for (variant, name), line in zip(rows, axes):
    for task, ax in zip(tasks, line):
      values = [read(variant, form, task, name) for form in forms[variant]]
      _dots(ax, forms[variant], values, [f"C{list(SCORES).index(name)}"] * len(values))
      chance = [read(variant, form, task, name, "chance") for form in forms[variant]]
      if any(chance):
        mean = np.mean([e.mean for e in chance if e is not None])
        ax.axvline(mean, color="0.4", ls=":", lw=1.2)
      ax.set_title(
        f"{task}: {name}" if any(values) else f"{task}: not scored", fontsize=10
      )
    line[0].set_ylabel(variant)
  figure.suptitle(
    "; ".join(f"{name}: {about}" for name, about in SCORES.items())
    + "; dotted: chance",
    fontsize=9,
  )
  return figure


def foreground_figure(runs: Runs):
  """Attention on context tokens by noise level, of tokens in front and behind.

  A single seed's difference has the bootstrap interval over clips that is stored.
  """

  def read(result, stream):
    attention = result.get("attention") or {}
    by_sigma = (attention.get("foreground_background") or {}).get(stream) or {}
    return {float(s): by_sigma[s] for s in sorted(by_sigma, key=float)}

  shown = {
    v: seeds
    for v, seeds in runs.items()
    if any(read(r, s) for r in seeds.values() for s in STREAMS)
  }
  if not shown:
    return None
  colors = _colors(list(runs))
  figure, axes = _figure(2, 2, 6.4)
  for stream, (top, bottom) in zip(STREAMS, axes.T):
    for i, (variant, seeds) in enumerate(shown.items()):
      rows = {seed: read(r, stream) for seed, r in seeds.items()}
      of = lambda value: over_seeds(
        {k: {s: 100 * value(x) for s, x in row.items()} for k, row in rows.items()}
      )
      place, color = (i, len(shown)), colors[variant]
      for group, line in GROUPS.items():
        points, label = of(lambda x: x[group]), f"{variant}, {group}"
        _bars(top, points, place, color=color, ls=line, label=label)
      points = of(lambda x: x["foreground"] - x["background"])
      clips = of(lambda x: (x["ci"][1] - x["ci"][0]) / 2)
      points = {
        s: e if e.n > 1 else e._replace(half=clips[s].mean) for s, e in points.items()
      }
      _bars(bottom, points, place, color=color)
    top.set(title=f"{stream} tokens", ylabel="on context tokens, %")
    bottom.axhline(0, color="0.5", lw=0.8)
    bottom.set(xlabel="sigma", ylabel="foreground - background, %")
    for ax in (top, bottom):
      ax.grid(alpha=0.3)
  _legend(figure, axes[0, 0])
  return figure


def maps_figure(runs: Runs):
  """Where attention falls on context tokens, of the first run that has stored it.

  On the left the mean over blocks, by frame; on the right each block, over frames. The
  frames of a noise level share a scale, a block has its own, which is written over it.
  """
  found = _first(runs, "context_share", "video")
  if found is None:
    return None
  title, by_sigma = found
  sigmas, shares = list(by_sigma), np.stack(list(by_sigma.values()))
  _, blocks, t, _, _ = shares.shape
  frames = np.linspace(0, t - 1, min(FRAMES, t)).astype(int)
  rows = max(len(sigmas), blocks)
  from matplotlib.figure import Figure

  figure = Figure(figsize=(WIDTH, 0.7 + 1.25 * rows), dpi=110, layout="constrained")
  figure.suptitle(f"share of attention on context tokens, video tokens of {title}")
  left, right = figure.subfigures(1, 2, width_ratios=[len(frames), len(sigmas) + 0.5])
  for line, sigma, share in zip(
    left.subplots(len(sigmas), len(frames), squeeze=False), sigmas, shares.mean(1)
  ):
    for ax, i in zip(line, frames):
      _map(ax, share[i], share.min(), share.max())
      ax.set_title(f"latent {i}", fontsize=8)
    line[0].set_ylabel(f"sigma {sigma:g}\n{_range(share)}", fontsize=8)
  grid = right.subplots(blocks, len(sigmas), squeeze=False)
  for k, line in enumerate(grid):
    for ax, sigma, share in zip(line, sigmas, shares[:, k].mean(1)):
      _map(ax, share, share.min(), share.max())
      ax.set_title(_range(share), fontsize=8)
      ax.set_xlabel(f"sigma {sigma:g}" if k == blocks - 1 else "", fontsize=8)
    line[0].set_ylabel(f"block {k}", fontsize=8)
  return figure


def keys_figure(runs: Runs):
  """Attention by query and key, of the first run that has stored it: a gate model."""
  found = {s: x for s in STREAMS if (x := _first(runs, "keys", s)) is not None}
  if not found:
    return None
  title, by_sigma = next(iter(found.values()))
  figure, axes = _figure(len(found), len(by_sigma), 0.5 + 2.6 * len(found))
  for line, (stream, (_, maps)) in zip(axes, found.items()):
    for ax, (sigma, share) in zip(line, maps.items()):
      image = ax.imshow(share, aspect="auto", cmap="magma", vmin=0)
      ax.set_title(f"sigma {sigma:g}", fontsize=9)
      ax.set_xlabel("video latent" if stream == "audio" else "audio token", fontsize=9)
      figure.colorbar(image, ax=ax)
    line[0].set_ylabel(f"{stream} query, in time", fontsize=9)
  figure.suptitle(f"attention on the other stream's keys, {title}")
  return figure


def _first(runs: Runs, name: str, stream: str):
  """The (title, {sigma: array}) of the first run that has stored attention `name`."""
  for variant, seeds in runs.items():
    for seed, result in seeds.items():
      by_sigma = ((result.get("attention") or {}).get(name) or {}).get(stream)
      if by_sigma:
        order = sorted(by_sigma, key=float)
        arrays = {float(s): np.asarray(by_sigma[s], np.float64) for s in order}
        return f"{variant}, seed {seed}", arrays
  return None


def _map(ax, share: np.ndarray, low: float, high: float) -> None:
  ax.imshow(share, vmin=low, vmax=high, cmap="magma")
  ax.set(xticks=[], yticks=[])


def _range(share: np.ndarray) -> str:
  return f"{share.min():.2f} to {share.max():.2f}"
