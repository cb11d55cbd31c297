"""Training from films: the codecs of a run, and clips through them."""

import pathlib

import jax
import numpy as np

from ccl_jax.checkpoints.find import find_parameters
from ccl_jax.codecs.bundle import Codecs, load_codecs, null_text, save_codecs
from ccl_jax.codecs.embedded import fit_codecs
from ccl_jax.codecs.images import image_condition, to_unit
from ccl_jax.errors import UsageError
from ccl_jax.sharding import batch_sharding, global_batch


def open_codecs(config, clips, workdir: pathlib.Path):
  """The run's codecs: those it has, else those that the config names or that belong to
  the parameters it starts from; what these lack is fitted to the clips.
  """
  here = workdir / "codecs"
  if here.is_dir():
    return load_codecs(here)
  path = config.codec.path
  if not path and config.init:
    path = find_parameters(config.init).codecs
  codecs = load_codecs(path) if path else Codecs()
  if None in (codecs.video, codecs.audio, codecs.text):
    order = np.random.default_rng(config.seed).permutation(len(clips))
    chosen = order[: config.codec.fit_clips]
    fitted = fit_codecs(
      (clips[int(i)] for i in chosen),
      text_length=config.codec.text_length,
      text_dim=config.codec.text_dim,
    )
    codecs = Codecs(*(have or fit for have, fit in zip(codecs, fitted)))
  save_codecs(codecs, here)
  return codecs


def make_encoder(codecs, model, mesh, rows, batch_size):
  """This host's rows of a batch of clips to the device batch of latents, text
  embeddings and, for a model that takes them so, image conditions.
  """
  streams = dict(model.streams)
  channels = "video" in streams and streams["video"].image_tokens
  if channels and codecs.image is None:
    raise UsageError(
      "config.model.image_form=channels needs a CLIP codec, and the bundle has none: "
      "give config.codec.path one that has"
    )
  sharding = batch_sharding(mesh)
  null = null_text(codecs)

  @jax.jit
  def encode(codecs, batch):
    pixels = to_unit(batch["video"])
    out = {"text": codecs.text.encode(batch["ids"], batch["mask"])}
    if "video" in streams:
      out["video"] = codecs.video.encode(pixels)
    if "audio" in streams:
      out["audio"] = codecs.audio.encode(batch["audio"])
    if channels:
      out["condition"], out["image"] = image_condition(
        codecs, pixels[:, 0], pixels.shape[1]
      )
    return jax.lax.with_sharding_constraint(out, sharding)

  def put(batch):
    batch = global_batch(batch, rows, batch_size, mesh)
    return encode(codecs, batch) | {"null_text": null}

  return put
