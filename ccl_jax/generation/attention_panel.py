"""Where the tokens of clips look, as a panel and as numbers (figure 6 of the paper)."""

import jax
import jax.numpy as jnp
import numpy as np

from ccl_jax.codecs.images import to_unit
from ccl_jax.models.joint import JointDiT
from ccl_jax.ops.patchify import in_tokens
from ccl_jax.tasks import Route
from ccl_jax.viz import panels

PANEL_SIGMA = 0.5


def attention(pipeline, clips, path) -> dict:
  """Share of attention on context tokens, foreground against background, at a middle
  noise level with both streams reading each other; draws the panel of the first clip.
  """
  model: JointDiT = pipeline.model
  codecs = pipeline.codecs
  video = np.stack([c["video"] for c in clips])
  audio = np.stack([c["audio"] for c in clips])
  tokens = codecs.text.tokenize([c["text"] for c in clips])

  @jax.jit
  def shares(params, codecs, video, audio, tokens):
    latents = {
      "video": codecs.video.encode(to_unit(video)),
      "audio": codecs.audio.encode(audio),
    }
    keys = jax.random.split(jax.random.key(0))
    noisy = {
      s: (1 - PANEL_SIGMA) * x + PANEL_SIGMA * jax.random.normal(k, x.shape)
      for (s, x), k in zip(latents.items(), keys)
    }
    time = {s: jnp.full((len(video), 1), 1000 * PANEL_SIGMA) for s in latents}
    _, state = model.apply(
      {"params": params},
      noisy,
      time,
      codecs.text.encode(*tokens),
      Route({"video": True, "audio": True}),
      mutable=["intermediates"],
    )
    blocks = state["intermediates"]["blocks"]
    mean = lambda name: blocks[name]["context_share"][0].mean(0)  # over depth
    return mean("audio_to_video"), mean("video_to_audio")[..., 0]

  to_video, to_audio = map(
    np.asarray, shares(pipeline.params, codecs, video, audio, tokens)
  )
  stride = pipeline.codecs.video.stride
  t = (video.shape[1] - 1) // stride[0] + 1
  h, w = (side // stride[1] for side in video.shape[2:4])
  _, ph, pw = dict(model.streams)["video"].patch
  maps = to_video.reshape(len(clips), t, h // ph, w // pw)
  groups = None
  if "video_mask" in clips[0]:
    masks = lambda s: np.stack([c[f"{s}_mask"] for c in clips]).astype(bool)
    seen, heard = in_tokens(masks("video"), (1, ph, pw)), masks("audio")
    groups = {
      s: _contrast(x, mask)
      for s, x, mask in (("video", maps, seen), ("audio", to_audio, heard))
    }
  first = clips[0]["video"][:: pipeline.codecs.video.stride[0]]
  panels.attention_panel(path, first, maps[0], to_audio[0], groups)
  return {
    "video": float(maps.mean()),
    "audio": float(to_audio.mean()),
    "foreground_background": groups,
  }


def _contrast(share, mask) -> tuple[float, float]:
  return float(share[mask].mean()), float(share[~mask].mean())
