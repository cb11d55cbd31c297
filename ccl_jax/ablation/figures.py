"""The figures of the ablation: results of runs in, pictures out (`ABOUT`).

Bands and bars are 95 % intervals over seeds (`seeds`), of variants with two or more.
"""

import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from ccl_jax.ablation.by_head import heads_figure
from ccl_jax.ablation.drawing import (
  MARKERS,
  Picture,
  Points,
  band,
  bars,
  dot,
  empty,
  legend,
  lines_of,
  pixels,
  plots,
  remove,
  shade,
  span,
)
from ccl_jax.ablation.readings import (
  Result,
  Runs,
  attention,
  by_variant,
  information,
  losses,
  mean_information,
  reads,
  score,
  stability,
  tasks_of_loss,
)
from ccl_jax.ablation.seeds import estimate
from ccl_jax.ablation.table import REAL
from ccl_jax.ablation.variants import BEST, FULL, MAIN, TASKS, VARIANTS, forms
from ccl_jax.axes import STREAMS
from ccl_jax.viz.labels import literal
from ccl_jax.viz.media import write_png

# By name, what a figure shows, in the order of the page.
ABOUT = {
  "training": "Synchrony of all variants, and what their streams take of each other "
  "(dots: seeds)",
  "loss": "Losses over steps (figure 5 of the paper)",
  "loss_by_task": "The same by task and stream, against the first variant",
  "steady": "How steadily the loss falls, and how well the gradients of tasks agree",
  "information": "What a stream takes of the other one, by noise level",
  "guidance": "Scores of the same checkpoints under every form of guidance",
  "foreground": "Attention on context tokens by noise level (figure 6 in numbers)",
  "blocks": "Attention on the other stream by block, and what it moves",
  "maps": "Attention on context tokens by block, noise level and frame (figure 6)",
  "heads": "Attention on the other stream by block and head, with more tokens a frame "
  "(figure 6)",
  "keys": "Attention of the gate model by query and key (figure 3)",
}
POINTS = 25  # of a curve of the loss
SCORES = {"sync_r0": "correlation of mouths and voices", "ser": "errors in syllables"}
STEADY = {"difference_std": "deviation of the loss's differences"}
GROUPS = {"foreground": "-", "background": "--"}
FRAMES = 6  # of a clip, shown

Curve = Mapping[float, float]  # value by step or noise level


def write_figures(
  results: Sequence[Result],
  folder: str | pathlib.Path,
  ceiling: Mapping[str, Any] | None = None,
  heads: Mapping[str, Any] | None = None,
) -> list[pathlib.Path]:
  """Writes the figures that the results have numbers for; returns their paths.

  The same results give the same bytes, whatever their order.

  Args:
    results: of runs.
    folder: of the pictures.
    ceiling: {set of real clips: {score: {"mean", ...}}}.
    heads: what one run's heads look at, see `by_head`.

  Raises:
    UsageError: see `readings.by_variant`; nothing is written.
  """
  paths = []
  for name, picture in draw(results, ceiling, heads).items():
    paths.append(pathlib.Path(folder) / f"{name}.png")
    write_png(paths[-1], picture)
  return paths


def draw(
  results: Sequence[Result],
  ceiling: Mapping[str, Any] | None = None,
  heads: Mapping[str, Any] | None = None,
) -> dict[str, Picture]:
  """The pictures that `write_figures` writes, by name."""
  figures = made(by_variant(results), ceiling, heads)
  return {name: pixels(figure) for name, figure in figures.items()}


def made(
  runs: Runs,
  ceiling: Mapping[str, Any] | None = None,
  heads: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
  """The figures by name, without those that no run has numbers for."""
  main = {name: runs[name] for name in MAIN if name in runs}
  figures = {
    "training": training_figure(main, ceiling or {}),
    "loss": loss_figure(main),
    "loss_by_task": tasks_figure(main),
    "steady": steady_figure(main),
    "information": information_figure(main),
    "guidance": guidance_figure({name: runs[name] for name in FULL if name in runs}),
    "foreground": foreground_figure(main),
    "blocks": blocks_figure(main),
    "maps": maps_figure(main),
    "heads": heads_figure(heads) if heads else None,
    "keys": keys_figure(main),
  }
  return {name: figure for name, figure in figures.items() if figure is not None}


def thinned(curve: Curve, points: int = POINTS) -> Curve:
  """A curve by the means of equal spans of steps, at the last step of each span.

  Runs of one length have the same spans, wherever they were stopped and resumed: a
  resumed run tells its losses at other steps.
  """
  if len(curve) <= points:
    return dict(curve)
  steps = np.array(list(curve))
  width = steps.max() / points
  span = np.ceil(steps / width)
  values = np.array(list(curve.values()))
  return {
    float(round(n * width)): float(values[span == n].mean()) for n in np.unique(span)
  }


def over_seeds(curves: Mapping[int, Curve]) -> Points:
  """The mean of curves, one a seed, at every place that all of them have."""
  given = [curve for curve in curves.values() if curve]
  places = [x for x in given[0] if all(x in c for c in given)] if given else []
  return {x: estimate([c[x] for c in given]) for x in places}


def beyond(curves: Mapping[int, Curve], first: Mapping[int, Curve]) -> Points:
  """How much curves exceed those of `first`, in % of these, over the seeds of both."""
  return over_seeds(
    {
      seed: {x: 100 * (v / first[seed][x] - 1) for x, v in curve.items()
             if x in first[seed]}
      for seed, curve in curves.items() if seed in first
    }
  )  # fmt: skip


def training_figure(runs: Runs, ceiling: Mapping[str, Any]):
  """Synchrony and information by variant, with the guidance of each exchange."""
  figure, ((left, right),) = plots(1, 2, 1.3 + 0.62 * len(runs), sharey=True)
  form = {name: BEST[VARIANTS[name].exchange][-1] for name in runs}
  sync = lambda task, part="scores": (
    lambda name, r: score(r, form[name], task, "sync_r0", part)
  )
  by_task = {task: sync(task) for task in TASKS}
  pairs = _union(reads(r) for seeds in runs.values() for r in seeds.values())
  by_read = {
    f"{task}, {stream}": lambda name, r, pair=(task, stream): mean_information(r, *pair)
    for task, stream in pairs
  }
  if not any([_scatter(left, runs, by_task), _scatter(right, runs, by_read)]):
    return None
  chance = [
    x for name, seeds in runs.items() for r in seeds.values() for task in TASKS
    if (x := sync(task, "chance")(name, r)) is not None
  ]  # fmt: skip
  if chance:
    left.axvline(np.mean(chance), color="0.4", ls=":", lw=1.3, label="chance")
  if real := ceiling.get(REAL[-1], {}).get("sync_r0"):
    left.axvline(real["mean"], color="0.4", ls="--", lw=1.3, label=REAL[-1])
  left.set(title="sync_r0: correlation of mouths and voices")
  right.set(title="information of the other stream, % of loss")
  for ax in (left, right):
    if ax.get_legend_handles_labels()[0]:
      ax.legend(fontsize=8, ncols=3, loc="upper center", bbox_to_anchor=(0.5, -0.05))
  return figure


def _scatter(ax, runs: Runs, reading: Mapping[str, Callable]) -> bool:
  """By variant, the means of readings with their intervals, and each seed's; whether
  there are any.

  Args:
    ax: of the plot.
    runs: by variant and seed.
    reading: by label, a number of (variant, result), or None.
  """
  lines_of(ax, list(runs))
  every = []
  for i, (label, read) in enumerate(reading.items()):
    style = {"color": f"C{i}", "marker": MARKERS[i], "label": label}
    aside = 0.2 * (i - (len(reading) - 1) / 2)
    for y, (name, seeds) in enumerate(runs.items()):
      values = [x for r in seeds.values() if (x := read(name, r)) is not None]
      if e := estimate(values):
        dot(ax, y + aside, e, **style)
        style.pop("label", None)  # once in the legend
        ax.plot(values, [y + aside] * len(values), "k.", ms=2, zorder=3)
        every += values
  if every:  # the interval of two seeds can be wider than all there is
    margin = 0.1 * (max(every) - min(0, *every))
    ax.set_xlim(min(0, *every) - margin, max(every) + margin)
  return bool(every)


def loss_figure(runs: Runs):
  """Losses of all variants over steps, and against the first one's, by seed."""
  curves = _curves(runs, "loss")
  if not curves:
    return None
  figure, ((left, right),) = plots(1, 2, 4.4)
  for name, of_seeds in curves.items():
    band(left, over_seeds(of_seeds), _color(runs, name), name)
  left.set(title="loss", xlabel="step", ylabel="velocity error")
  # Most of the fall is in the first steps: what comes after is what differs.
  _zoom(left, curves)
  _against_first(right, runs, curves, "loss")
  left.grid(alpha=0.3)
  legend(figure, left)
  return figure


def tasks_figure(runs: Runs):
  """Losses against those of the first variant, by seed: a plot a task and stream."""
  names = _union(tasks_of_loss(r) for seeds in runs.values() for r in seeds.values())
  if not names:
    return None
  rows = -(-len(names) // 2)
  figure, axes = plots(rows, 2, 0.6 + 2.7 * rows)
  for ax, name in zip(axes.flat, names):
    _against_first(ax, runs, _curves(runs, name), name.replace("/", ": "))
  remove(axes, len(names))
  legend(figure, axes[0, 0])
  return figure


def steady_figure(runs: Runs):
  """Deviations of the loss's differences, and cosines of gradients, by variant."""
  found = _of_runs(runs, stability)
  kinds = _union(r for seeds in found.values() for r in seeds.values())
  if not kinds:
    return None
  columns = min(3, len(kinds))
  rows = -(-len(kinds) // columns)
  height = rows * (0.8 + 0.24 * len(runs))
  figure, axes = plots(rows, columns, height, sharey=True)
  for ax, kind in zip(axes.flat, kinds):
    lines_of(ax, list(runs))
    for y, (name, seeds) in enumerate(found.items()):
      if e := estimate([r[kind] for r in seeds.values() if kind in r]):
        dot(ax, y, e, color=_color(runs, name), marker="o")
    ax.set_title(STEADY.get(kind, f"cosine, {kind}"), fontsize=10)
  remove(axes, len(kinds))
  return figure


def information_figure(runs: Runs):
  """Information in % of the loss, by noise level: a plot for each task and stream."""
  pairs = _union(reads(r) for seeds in runs.values() for r in seeds.values())
  if not pairs:
    return None
  rows = -(-len(pairs) // 2)
  figure, axes = plots(rows, 2, 0.6 + 3.0 * rows)
  for ax, (task, stream) in zip(axes.flat, pairs):
    read = lambda r: {s: 100 * v for s, v in information(r, task, stream).items()}
    for i, (name, curves) in enumerate(_of_runs(runs, read).items()):
      style = {"color": _color(runs, name), "label": name}
      bars(ax, over_seeds(curves), (i, len(runs)), **style)
    ax.axhline(0, color="0.5", lw=0.8)
    ax.set(title=f"{task}: {stream}", xlabel="sigma", ylabel="information, % of loss")
    ax.grid(alpha=0.3)
  remove(axes, len(pairs))
  legend(figure, axes[0, 0])
  return figure


def guidance_figure(runs: Runs):
  """Scores of a variant's checkpoints under its forms of guidance, beside chance."""

  def read(variant, form, task, name, part="scores"):
    values = [score(r, form, task, name, part) for r in runs[variant].values()]
    return estimate([x for x in values if x is not None])

  names = [
    n
    for n in SCORES
    if any(read(v, f, t, n) for v in runs for f in forms(v) for t in TASKS)
  ]
  if not names:
    return None
  height = 0.8 + 0.34 * max(len(forms(v)) for v in runs)
  figure, axes = plots(len(names), len(runs), 0.6 + height * len(names), sharex="row")
  for name, line in zip(names, axes):
    for variant, ax in zip(runs, line):
      lines_of(ax, forms(variant))
      chance = [
        read(variant, f, t, name, "chance") for f in forms(variant) for t in TASKS
      ]
      if chance := [e.mean for e in chance if e]:
        ax.axvline(np.mean(chance), color="0.4", ls=":", lw=1.3, label="chance")
      for i, task in enumerate(TASKS):
        style = {"color": f"C{i}", "marker": MARKERS[i], "label": task}
        for y, form in enumerate(forms(variant)):
          if e := read(variant, form, task, name):
            dot(ax, y + 0.22 * (i - 1), e, **style)
            style.pop("label", None)  # once in the legend
      ax.set_title(f"{variant}: {SCORES[name]}", fontsize=10)
  legend(figure, axes[0, 0])
  return figure


def foreground_figure(runs: Runs):
  """Attention on context tokens by noise level, of tokens in front and behind.

  A single seed's difference has the bootstrap interval over clips that is stored.
  """
  shown = _with_attention(runs, "foreground_background")
  if not shown:
    return None
  figure, axes = plots(2, 2, 6.4)
  for stream, (top, bottom) in zip(STREAMS, axes.T):
    for i, (variant, seeds) in enumerate(shown.items()):
      rows = {
        k: attention(r, "foreground_background", stream) for k, r in seeds.items()
      }

      def of(value, rows=rows):
        percent = lambda row: {s: 100 * value(x) for s, x in row.items()}
        return over_seeds({seed: percent(row) for seed, row in rows.items()})

      place, color = (i, len(shown)), _color(runs, variant)
      for group, line in GROUPS.items():
        style = {"color": color, "ls": line, "label": f"{variant}, {group}"}
        bars(top, of(lambda x: x[group]), place, **style)
      clips = of(lambda x: (x["ci"][1] - x["ci"][0]) / 2)
      points = of(lambda x: x["foreground"] - x["background"])
      points = {
        s: e if e.n > 1 else e._replace(half=clips[s].mean) for s, e in points.items()
      }
      bars(bottom, points, place, color=color)
    top.set(title=f"{stream} tokens", ylabel="on context tokens, %")
    bottom.axhline(0, color="0.5", lw=0.8)
    bottom.set(xlabel="sigma", ylabel="foreground - background, %")
    for ax in (top, bottom):
      ax.grid(alpha=0.3)
  legend(figure, axes[0, 0])
  return figure


def blocks_figure(runs: Runs):
  """By block, the share of attention on the other stream and of the norm it moves."""
  shown = _with_attention(runs, "mass_norm")
  every = [(s, r) for seeds in shown.values() for r in seeds.values() for s in STREAMS]
  sigmas = sorted(_union(attention(r, "mass_norm", s) for s, r in every))
  if not sigmas:
    return None
  figure, axes = plots(2, len(sigmas), 6.0, sharex=True, sharey="row")
  for stream, line in zip(STREAMS, axes):
    for ax, sigma in zip(line, sigmas):
      for i, (variant, seeds) in enumerate(shown.items()):
        rows = [attention(r, "mass_norm", stream).get(sigma) for r in seeds.values()]
        for kind, style in (("mass", "-"), ("norm", "--")):
          curves = {
            k: {float(b): 100 * x for b, x in enumerate(row[kind])}
            for k, row in enumerate(rows) if row
          }  # fmt: skip
          label = f"{variant}, {'attention' if kind == 'mass' else 'norm'}"
          look = {"color": _color(runs, variant), "ls": style, "label": label}
          bars(ax, over_seeds(curves), (i, len(shown)), aside=0.05, **look)
      ax.set_title(f"{stream} tokens, sigma {sigma:g}", fontsize=10)
      ax.grid(alpha=0.3)
      ax.xaxis.get_major_locator().set_params(integer=True)
    line[0].set_ylabel("of the other stream, %")
  for ax in axes[1]:
    ax.set_xlabel("block")
  legend(figure, axes[0, 0])
  return figure


def _with_attention(runs: Runs, measure: str) -> Runs:
  has = lambda r: any(attention(r, measure, s) for s in STREAMS)
  return {v: seeds for v, seeds in runs.items() if any(map(has, seeds.values()))}


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
  figure = empty(0.7 + 1.25 * max(len(sigmas), blocks))
  text = f"share of attention on context tokens, video tokens of {title}"
  figure.suptitle(literal(text))
  left, right = figure.subfigures(1, 2, width_ratios=[len(frames), len(sigmas) + 0.5])
  grid = left.subplots(len(sigmas), len(frames), squeeze=False)
  for line, sigma, share in zip(grid, sigmas, shares.mean(1)):
    for ax, i in zip(line, frames):
      shade(ax, share[i], share.min(), share.max())
      ax.set_title(f"latent {i}", fontsize=8)
    line[0].set_ylabel(f"sigma {sigma:g}\n{span(share)}", fontsize=8)
  grid = right.subplots(blocks, len(sigmas), squeeze=False)
  for k, line in enumerate(grid):
    for ax, sigma, share in zip(line, sigmas, shares[:, k].mean(1)):
      shade(ax, share, share.min(), share.max())
      ax.set_title(span(share), fontsize=8)
      ax.set_xlabel(f"sigma {sigma:g}" if k == blocks - 1 else "", fontsize=8)
    line[0].set_ylabel(f"block {k}", fontsize=8)
  return figure


def keys_figure(runs: Runs):
  """Attention by query and key, of the first run that has stored it: a gate model."""
  found = {s: x for s in STREAMS if (x := _first(runs, "keys", s)) is not None}
  if not found:
    return None
  title, by_sigma = next(iter(found.values()))
  figure, axes = plots(len(found), len(by_sigma), 0.5 + 2.6 * len(found))
  for line, (stream, (_, maps)) in zip(axes, found.items()):
    for ax, (sigma, share) in zip(line, maps.items()):
      image = ax.imshow(share, aspect="auto", cmap="magma", vmin=0)
      ax.set_title(f"sigma {sigma:g}", fontsize=9)
      ax.set_xlabel("video latent" if stream == "audio" else "audio token", fontsize=9)
      figure.colorbar(image, ax=ax)
    line[0].set_ylabel("audio token" if stream == "audio" else "video latent")
  figure.suptitle(literal(f"attention of queries (down) on keys (across), {title}"))
  return figure


def _of_runs(runs: Runs, read: Callable[[Result], Any]) -> dict[str, dict[int, Any]]:
  return {v: {k: read(r) for k, r in seeds.items()} for v, seeds in runs.items()}


def _curves(runs: Runs, name: str) -> dict[str, dict[int, Curve]]:
  """Losses by variant and seed, of variants that have any."""
  curves = _of_runs(runs, lambda r: thinned(losses(r, name)))
  return {v: of_seeds for v, of_seeds in curves.items() if any(of_seeds.values())}


def _union(groups) -> list[Any]:
  return list(dict.fromkeys(x for group in groups for x in group))


def _first(runs: Runs, measure: str, stream: str):
  """The (title, {sigma: array}) of the first run that has stored these maps."""
  for variant, seeds in runs.items():
    for seed, result in seeds.items():
      if maps := attention(result, measure, stream):
        return f"{variant}, seed {seed}", {s: np.asarray(x) for s, x in maps.items()}
  return None


def _color(runs: Runs, name: str) -> str:
  """A variant has the same colour in all figures of the same runs."""
  return f"C{list(runs).index(name)}"


def _against_first(ax, runs: Runs, curves, title: str) -> None:
  first = next(iter(runs))
  for name, of_seeds in curves.items():
    points = beyond(of_seeds, curves.get(first, {}))
    band(ax, points, _color(runs, name), name)
  ax.set(title=title, xlabel="step", ylabel=f"against {first}, same seed, %")
  ax.grid(alpha=0.3)


def _zoom(ax, curves) -> None:
  """Shows all of a plot but what is above the losses of the first tenth of steps."""
  every = [c for of_seeds in curves.values() for c in of_seeds.values() if c]
  late = [v for c in every for x, v in c.items() if x > 0.1 * max(c)]
  low, high = min(late), max(late)
  ax.set_ylim(low - 0.05 * (high - low), high + 0.05 * (high - low))
