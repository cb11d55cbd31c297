"""Two streams of equal depth that exchange in every block (figure 2)."""

import numpy as np

from tests.reference import stream
from tests.reference.exchange import exchange

STREAMS = ("video", "audio")


def tree(f, params):
  if isinstance(params, dict):
    return {k: tree(f, v) for k, v in params.items()}
  return f(params)


def velocities(
  params, config, latents, timesteps, text, reads, *, image=None, detached=None,
  frozen=None, collect=None, clip=None,
):  # fmt: skip
  """The velocity of every stream in `latents`.

  Args:
    config: by stream `heads`, `patch`, `positions` ("grid" or "line"), `frequencies`,
      `text_tokens`; and "exchange": the rules of `exchange.py`.
    latents: video (b, t, h, w, c), its condition channels among c; audio (b, a, c).
    text: (b, l, e), for all streams, or by stream.
    timesteps: (b, frames) or (b, 1), in thousandths.
    reads: by stream, (b,): its queries see the other stream.
    detached: by stream, (b,): the other stream sees these states as they are in
      `frozen`, a list by block, whatever the parameters are now.
    collect: a list that takes the states which the streams see, block by block.
    clip: (grid, audio tokens) of the whole clip, where a stream is absent.
  """
  x, e, e0, turn, context, grids = {}, {}, {}, {}, {}, {}
  for s in STREAMS:
    if s not in latents:
      continue
    p, c, latent = params[s], config[s], latents[s]
    if s == "audio":
      latent = latent[:, :, None, None]
    tokens, grid = stream.patches(latent, c["patch"])
    x[s], grids[s] = stream.linear(p["patch_embedding"], tokens), grid
    d = x[s].shape[-1] // c["heads"]
    turn[s] = (
      stream.grid_turns(*grid, d)
      if c["positions"] == "grid"
      else stream.turns(np.arange(grid[0]), d)
    )
    own = text[s] if isinstance(text, dict) else text
    context[s] = stream.contexts(p, c, own, image)
    by_token = lambda m, grid=grid: np.repeat(
      np.broadcast_to(m, (len(m), grid[0], *m.shape[2:])), grid[1] * grid[2], 1
    )
    e[s], e0[s] = map(
      by_token, stream.time_embedding(p, timesteps[s], c["frequencies"])
    )
  grid, a = clip or (grids["video"], grids["audio"][0])

  depth = len(params["blocks"][next(iter(x))]["modulation"])
  for i in range(depth):
    block = tree(lambda leaf, i=i: leaf[i], params["blocks"])
    m = {s: block[s]["modulation"] + e0[s] for s in x}
    for s in x:
      picture, words = context[s]
      n = config[s]["heads"]
      x[s] = stream.first_half(block[s], x[s], m[s], n, turn[s], words, picture)
    seen = dict(x)  # both directions read one snapshot
    if collect is not None:
      collect.append(seen)
    for s in detached or {}:
      if s in x:
        seen[s] = np.where(detached[s][:, None, None], frozen[i][s], x[s])
    for s in x:
      other = "audio" if s == "video" else "video"
      if (p := block.get(f"{other}_to_{s}")) is not None:
        states = seen.get(other)
        n, rule = config[s]["heads"], config["exchange"]
        x[s] = x[s] + exchange(p, s, x[s], states, reads[s], grid, a, n, rule)
    x = {s: stream.second_half(block[s], x[s], m[s]) for s in x}

  out = {}
  for s in x:
    v = stream.head(params[s], x[s], e[s])
    v = stream.unpatches(v, config[s]["patch"], grids[s])
    out[s] = v if s == "video" else v[:, :, 0, 0]
  return out
