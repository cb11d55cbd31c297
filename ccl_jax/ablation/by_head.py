"""Where each head of the exchange looks, of one run: figure 6 of the paper, finer.

The runs of the ablation have few tokens a frame; this is of a run with more, as
the quickstart's with 4 x 4, and stored as RESULTS/heads.json:

  {"run", "steps", "clips", "attention": {stream that reads: {sigma: {"maps",
  "contrast"}}}}
"""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ccl_jax.ablation.drawing import empty, lines_of, shade, span
from ccl_jax.ablation.measures import Latents, contrast, noised
from ccl_jax.axes import STREAMS
from ccl_jax.generation.attention_maps import maps_of
from ccl_jax.models.joint import JointDiT


def by_head(
  model: JointDiT,
  params: Any,
  latents: Latents,
  text: np.ndarray,
  masks: Mapping[str, np.ndarray],
  sigmas: Sequence[float],
  seed: int = 0,
) -> dict[str, dict[str, Any]]:
  """The share of attention on the other stream, the rest being the context tokens', by
  block and head in the task `joint`.

  Args:
    model, params, latents, text, masks, sigmas, seed: as of `measures.attention`.

  Returns, by the stream that reads and by sigma,
    maps: of the first clip, (blocks, heads, t, h, w) or (blocks, heads, a).
    contrast: by block and head, see `measures.contrast`.
  """

  @jax.jit
  def looks(params, latents, text, sigma):
    def of_clip(clip):
      latents, text = jax.tree.map(lambda x: x[None], clip)
      maps = maps_of(model, params, latents, 1000 * sigma, text)
      return {s: m.queries for s, m in maps.items()}

    return jax.lax.map(of_clip, (noised(latents, sigma, seed), text))

  table: dict = {s: {} for s in STREAMS}
  for sigma in sigmas:
    at = jax.device_get(looks(params, dict(latents), text, jnp.float32(sigma)))
    for s, share in at.items():  # clips, blocks, heads, frames, tokens
      mask = masks[s].reshape(len(text), -1)
      flat = share.reshape(*share.shape[:3], -1)
      table[s][f"{sigma:g}"] = {
        "maps": share[0].reshape(*share.shape[1:3], *masks[s].shape[1:]).tolist(),
        "contrast": [
          [contrast(flat[:, block, head], mask, seed) for head in range(flat.shape[2])]
          for block in range(flat.shape[1])
        ],
      }
  return table


def heads_figure(found: Mapping[str, Any]):
  """On the left the first clip's maps by block and head at the middle noise level, the
  mean of its frames; on the right how much more the foreground looks, with intervals.

  Args:
    found: what is stored.
  """
  looks = {s: _by_sigma(rows) for s, rows in found["attention"].items()}
  sigmas = list(looks["video"])
  middle = sigmas[len(sigmas) // 2]
  maps = np.array(looks["video"][middle]["maps"]).mean(2)
  blocks, heads = maps.shape[:2]
  figure = empty(1.0 + max(1.35 * blocks, 0.27 * blocks * heads))
  figure.suptitle(
    f"share of attention on the other stream, {found['run']}, {found['clips']} clips"
  )
  left, right = figure.subfigures(1, 2, width_ratios=[1.1 * heads, 6])
  grid = left.subplots(blocks, heads, squeeze=False)
  for block, line in enumerate(grid):
    for head, ax in enumerate(line):
      share = maps[block, head]
      shade(ax, share, 0.0, max(float(share.max()), 1e-9))
      ax.set_title(span(share), fontsize=7)
      if block == blocks - 1:
        ax.set_xlabel(f"head {head}", fontsize=8)
    line[0].set_ylabel(f"block {block}", fontsize=8)
  left.suptitle(f"picture reads sound, sigma {middle:g}, first clip", fontsize=9)
  for ax, (stream, by_sigma) in zip(right.subplots(1, 2, sharey=True), looks.items()):
    _contrasts(ax, by_sigma)
    ax.set_title(f"{stream} tokens", fontsize=9)
  right.axes[0].set_ylabel("block.head", fontsize=8)
  handles = right.axes[0].get_legend_handles_labels()
  right.legend(*handles, loc="outside lower center", ncols=3, fontsize=8)
  return figure


def _by_sigma(rows: Mapping[str, Any]) -> dict[float, Any]:
  return {float(sigma): rows[sigma] for sigma in sorted(rows, key=float)}


def _contrasts(ax, by_sigma: Mapping[float, Any]) -> None:
  """A line for each block and head, and on it the difference at each noise level."""
  first = next(iter(by_sigma.values()))["contrast"]
  lines_of(ax, [f"{b}.{h}" for b, line in enumerate(first) for h in range(len(line))])
  for i, (sigma, row) in enumerate(by_sigma.items()):
    cells = [cell for line in row["contrast"] for cell in line]
    rows = [(y, c) for y, c in enumerate(cells) if c is not None]
    mean = np.array([100 * (c["foreground"] - c["background"]) for _, c in rows])
    low, high = 100 * np.array([c["ci"] for _, c in rows]).reshape(-1, 2).T
    ax.errorbar(
      mean, [y + 0.22 * (i - (len(by_sigma) - 1) / 2) for y, _ in rows],
      xerr=[mean - low, high - mean], fmt="o", ms=3, lw=1, capsize=1.5,
      label=f"sigma {sigma:g}",
    )  # fmt: skip
  ax.axvline(0, color="0.5", lw=0.8)
  ax.set_xlabel("foreground - background, %", fontsize=8)
