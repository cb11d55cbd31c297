"""Parts of the ablation's figures: pages of plots, and means with their intervals."""

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import UInt8

from ccl_jax.ablation.seeds import Estimate

WIDTH = 10.0  # inches, of 110 dots: as wide as a README's column, or a little wider
MARKERS = "osD^vP*X"

Points = Mapping[float, Estimate]
Picture = UInt8[np.ndarray, "H W 3"]


def empty(height: float):
  """A page without plots, so many inches high."""
  from matplotlib.figure import Figure

  return Figure(figsize=(WIDTH, height), dpi=110, layout="constrained")


def plots(rows: int, columns: int, height: float, **options):
  """A page and its plots (rows, columns); options are those of `Figure.subplots`."""
  figure = empty(height)
  return figure, figure.subplots(rows, columns, squeeze=False, **options)


def pixels(figure) -> Picture:
  """Draws a page, and returns its picture."""
  from matplotlib.backends.backend_agg import FigureCanvasAgg

  canvas = FigureCanvasAgg(figure)
  canvas.draw()
  return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def band(ax, points: Points, color: str, label: str) -> None:
  """A line of means, and a band of their intervals where there are any."""
  x = list(points)
  mean = np.array([e.mean for e in points.values()])
  ax.plot(x, mean, color=color, label=label, lw=1.3)
  if points and all(e.half is not None for e in points.values()):
    half = np.array([e.half for e in points.values()])
    ax.fill_between(x, mean - half, mean + half, color=color, alpha=0.15, lw=0)


def bars(
  ax, points: Points, place: tuple[int, int], aside: float = 0.006, **style
) -> None:
  """A line of means with the interval of each.

  Args:
    ax: of the plot.
    points: by noise level or block.
    place: (i, n): the lines of n variants lie a little aside of each other, or the bars
      of a noise level would hide each other.
    aside: by how much.
    style: of the line.
  """
  i, n = place
  ax.errorbar(
    [x + aside * (i - (n - 1) / 2) for x in points],
    [e.mean for e in points.values()],
    [e.half or 0 for e in points.values()],
    marker=MARKERS[i % len(MARKERS)], ms=4, lw=1, capsize=2, **style,
  )  # fmt: skip


def dot(ax, y: float | int, e: Estimate, **style) -> None:
  """A mean with its interval, on a line of `lines_of`."""
  ax.errorbar(e.mean, y, xerr=e.half, ms=5, lw=1.3, ls="", capsize=2, **style)


def lines_of(ax, names: Sequence[str]) -> None:
  """A line for each name, from the top."""
  ax.set_yticks(range(len(names)), names, fontsize=9)
  ax.set_ylim(len(names) - 0.5, -0.5)
  ax.grid(alpha=0.3)


def remove(axes, used: int) -> None:
  """Takes away all plots but the first ones."""
  for ax in list(axes.flat)[used:]:
    ax.remove()


def legend(figure, ax) -> None:
  """One for all plots, above them."""
  shown = ax.get_legend_handles_labels()
  figure.legend(*shown, loc="outside upper center", ncols=4, fontsize=9)


def shade(ax, share: np.ndarray, low: float, high: float) -> None:
  """A map of shares, dark at `low`."""
  ax.imshow(share, vmin=low, vmax=high, cmap="magma")
  ax.set(xticks=[], yticks=[])


def span(share: np.ndarray) -> str:
  """The least and the greatest share, in words."""
  return f"{share.min():.2f} to {share.max():.2f}"
