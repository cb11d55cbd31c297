"""What clips are sampled from beside noise: texts, and what is given as latents."""

import jax
import jax.numpy as jnp

from ccl_jax.codecs.images import image_condition, last_latent, to_unit
from ccl_jax.generation.decoding import shared


def conditions_of(
  kind, spec, takes_channels, join, nulls, codecs, noise, texts, inputs
):
  """The conditions of `sample_latents`, of texts and of what is given; to be jitted.

  Args:
    kind: the task.
    spec: of the clip.
    takes_channels: images are given as channels, see `codecs.images.image_condition`.
    join: of the parts that clips are made in, see `lengths.Join`; None: they are whole.
    nulls: streams that guidance wants nulls of, where they are there.
    codecs: the bundle.
    noise: of the generated streams.
    texts: rows (2 or 3, b, l, e), the prompts' first.
    inputs: by name what is given, or None. Of what is given as a whole stream it is
      that of every part, of all else that of every clip.
  """
  inputs = jax.tree.map(jnp.asarray, inputs)
  codecs = shared(codecs)
  conditions = {"text": texts, "given": {}}
  if "video" in kind.given:
    conditions["given"]["video"] = codecs.video.encode(to_unit(inputs["video"]))
  if "audio" in kind.given:
    conditions["given"]["audio"] = codecs.audio.encode(inputs["audio"])
  if takes_channels and inputs["image"] is not None:
    pictures = [inputs[name] for name in ("image", "last_image")]
    first, last = (x if x is None else to_unit(x) for x in pictures)
    conditions["condition"], conditions["clip"] = image_condition(
      codecs, first, spec.frames, last
    )
  else:
    held = _held_latents(codecs, spec, inputs)
    if held:
      conditions["held"] = held if join is None else join.parts_held(held)
  streams = {**noise, **conditions["given"]}
  shapes = {s: x.shape for s, x in streams.items() if s in nulls}
  if shapes:
    conditions["null"] = _null_latents(codecs, shapes, inputs)
  return conditions


def _held_latents(codecs, spec, inputs):
  """What is given of sampled streams, by stream {"latent", "mask"}: see
  `sampling.sample_latents`.
  """
  found = {}
  at = lambda s, latent, first: found.setdefault(s, []).append((first, latent))
  t = spec.latent_frames
  if inputs["image"] is not None:
    at("video", codecs.video.encode(to_unit(inputs["image"])[:, None]), 0)
  if inputs["last_image"] is not None:
    at("video", last_latent(codecs, to_unit(inputs["last_image"]), t), t - 1)
  before = inputs["extend"] or {}
  if "video" in before:
    at("video", codecs.video.encode(to_unit(before["video"])), 0)
  if "audio" in before:
    at("audio", codecs.audio.encode(before["audio"]), 0)
  held = {}
  for s, latents in found.items():
    b, n = latents[0][1].shape[0], {"video": t, "audio": spec.audio_tokens}[s]
    latent = jnp.zeros((b, n, *latents[0][1].shape[2:]))
    mask = jnp.zeros((b, n), bool)
    for first, x in latents:
      part = slice(first, first + x.shape[1])
      latent, mask = latent.at[:, part].set(x), mask.at[:, part].set(True)
    held[s] = {"latent": latent, "mask": mask}
  return held


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
      still = jnp.repeat(still, b // len(still), 0)  # of a clip, for all its parts
    null["video"] = codecs.video.encode(jnp.repeat(still, 4 * (t - 1) + 1, 1))
  return null
