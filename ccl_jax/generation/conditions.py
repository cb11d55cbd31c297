"""What clips are sampled from beside noise: texts, and what is given as latents."""

import jax
import jax.numpy as jnp

from ccl_jax.codecs.images import image_condition, to_unit
from ccl_jax.generation.decoding import shared


def conditions_of(kind, frames, takes_channels, nulls, codecs, noise, texts, inputs):
  """The conditions of `sample_latents`, of texts and of what is given; to be jitted.

  Args:
    kind: the task.
    frames: of the clip.
    takes_channels: an image is given as channels, see `codecs.images.image_condition`.
    nulls: streams that guidance wants nulls of, where they are there.
    codecs: the bundle.
    noise: of the generated streams.
    texts: rows (2 or 3, b, l, e), the prompts' first.
    inputs: by name what is given, or None.
  """
  inputs = jax.tree.map(jnp.asarray, inputs)
  codecs = shared(codecs)
  conditions = {"text": texts, "given": {}}
  if "video" in kind.given:
    conditions["given"]["video"] = codecs.video.encode(to_unit(inputs["video"]))
  if "audio" in kind.given:
    conditions["given"]["audio"] = codecs.audio.encode(inputs["audio"])
  if inputs["image"] is not None:
    first = to_unit(inputs["image"])
    if takes_channels:
      conditions["condition"], conditions["clip"] = image_condition(
        codecs, first, frames
      )
    else:
      conditions["image"] = codecs.video.encode(first[:, None])
  streams = {**noise, **conditions["given"]}
  shapes = {s: x.shape for s, x in streams.items() if s in nulls}
  if shapes:
    conditions["null"] = _null_latents(codecs, shapes, inputs)
  return conditions


def _null_latents(codecs, shapes, inputs):
  """Latents of silence and of a still, for the streams of `shapes`.

  What stands still is a picture of the clip, as far as one is known: the given first
  frame, or that of the given film. A picture that is yet to be sampled is not known,
  and to decode and encode an estimate at every step would cost more than the network.
  It is then the caller's `still`, or else the mean of what the codec was fitted to, the
  zero latent's picture. All go through the codec as films, as a causal one has other
  latents for a picture that stays than for one that begins.
  """
  null = {}
  if "audio" in shapes:
    b, a, _ = shapes["audio"]
    null["audio"] = codecs.audio.encode(jnp.zeros((b, a * codecs.audio.hop)))
  if "video" in shapes:
    b, t, *latent = shapes["video"]
    given = [inputs["image"], inputs["video"], inputs["still"]]
    picture = next((x for x in given if x is not None), None)
    if picture is None:
      still = codecs.video.decode(jnp.zeros((b, 1, *latent)))
    else:
      still = to_unit(picture[:, :1] if picture.ndim == 5 else picture[:, None])
    null["video"] = codecs.video.encode(jnp.repeat(still, 4 * (t - 1) + 1, 1))
  return null
