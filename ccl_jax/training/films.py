"""Feeds a run from films: clips go through the codecs, on the devices."""

import jax

from ccl_jax.codecs.bundle import null_text, require_fit
from ccl_jax.codecs.images import image_condition, to_unit
from ccl_jax.codecs.texts import note_cut
from ccl_jax.data.pipeline import make_iterator
from ccl_jax.data.sources.open import Cached, open_source
from ccl_jax.data.spec import ClipSpec
from ccl_jax.errors import UsageError, bind
from ccl_jax.processes import first_process_first
from ccl_jax.remote.copies import built_data
from ccl_jax.remote.paths import Place
from ccl_jax.sharding import batch_sharding, global_batch, local_rows
from ccl_jax.training.feed import Feed, open_codecs


def open_films(
  config, model, recipe, mesh, workdir: Place, *, root: str = "", split="train"
) -> Feed:
  """Batches of the clips that `config.data` names.

  Args:
    config, model, recipe, mesh: of the run.
    workdir: of the run, in which data are prepared that have no other root.
    root, split: of the source, in place of those of the config.

  Raises:
    UsageError: a mistake in the source's settings, or a codec is lacking.
  """
  del recipe  # every task can be made of a film with sound
  spec = bind("clip", config.clip, ClipSpec)
  root = root or config.data.root or built_data(workdir)
  clips = first_process_first(
    lambda: open_source(config.data.source, spec, root, split, **config.data.options)
  )
  texts = getattr(clips, "texts", None)
  # Small sets are decoded once and kept.
  clips = Cached(clips, config.data.cache_gb)
  fit = lambda: open_codecs(config, workdir, clips=clips, texts=texts)
  codecs = first_process_first(fit)
  require_fit(codecs, {s: c.out_channels for s, c in model.streams}, spec.stride)
  if jax.process_index() == 0:
    advice = "; config.codec.text_length in a new workdir takes more"
    note_cut(codecs.text, texts or (), "captions", advice)
  rows = local_rows(mesh, config.batch.size)
  batches = make_iterator(
    clips,
    batch_size=config.batch.size,
    threads=config.batch.threads,
    seed=config.seed,
    tokenize=codecs.text.tokenize,
    rows=rows,
  )
  encode = make_encoder(codecs, model, mesh, rows, config.batch.size)
  return Feed(spec, codecs, batches, encode, (config.batch.size,))


def make_encoder(codecs, model, mesh, rows, batch_size):
  """A function from this host's rows of a batch of clips to the batch of a step.

  The batch of a step has latents, text embeddings and, for a model that takes them so,
  image conditions.

  Args:
    codecs, model, mesh: of the run.
    rows: indices of this process's rows in the batch.
    batch_size: rows over all processes.

  Raises:
    UsageError: the model wants CLIP tokens and there is no image codec.
  """
  streams = dict(model.streams)
  channels = "video" in streams and streams["video"].image_tokens
  if channels and codecs.image is None:
    raise UsageError(
      "config.model.image_form: one of channels needs a CLIP codec, and the bundle has "
      "none: give config.codec.path one that has"
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
      last = pixels[:, -1] if streams["video"].images == 2 else None
      out["condition"], out["image"] = image_condition(
        codecs, pixels[:, 0], pixels.shape[1], last
      )
    return jax.lax.with_sharding_constraint(out, sharding)

  def put(batch):
    batch = global_batch(batch, rows, batch_size, mesh)
    # Codecs go in as arguments: as constants they would be part of the program.
    return encode(codecs, batch) | {"null_text": null}

  return put
