"""Feeds a run from records: sets of latents, on the devices."""

import dataclasses

from jax.sharding import Mesh

from ccl_jax.codecs.bundle import fingerprints, null_text, require_fit
from ccl_jax.data.sets.batches import LatentBatches
from ccl_jax.data.sets.mixture import Mixture, open_mixture
from ccl_jax.data.spec import ClipSpec
from ccl_jax.errors import UsageError, bind
from ccl_jax.models.joint import JointDiT
from ccl_jax.processes import first_process, first_process_first
from ccl_jax.remote.paths import Place
from ccl_jax.sharding import local_rows
from ccl_jax.tasks import servable
from ccl_jax.training.feed import Feed, open_codecs
from ccl_jax.training.prefetch import DevicePrefetch, make_finisher
from ccl_jax.training.step import Recipe


def open_latents(
  config,
  model: JointDiT,
  recipe: Recipe,
  mesh: Mesh,
  workdir: Place,
  *,
  root: str = "",
) -> Feed:
  """Batches of the sets that `config.data` names.

  The clips that are most common in the sets are what generation makes; the codecs are
  those of the first set, unless the config names others.

  Args:
    config, model, recipe, mesh, workdir: of the run.
    root: of the sets, in place of that of the config.

  Raises:
    UsageError: a mistake in the sets, a shard that is not the one it was, or clips that
      no task of the run can use.
  """
  mixture = find_mixture(config, model, recipe, root or config.data.root)
  first_process(lambda: [s.require_whole() for s in mixture.sets])
  path = str(mixture.sets[0].root / "codecs")
  # Every process loads them; only the first may write the run's copy.
  codecs = first_process_first(lambda: open_codecs(config, workdir, path=path))
  # Latents of another codec would be noise to generation.
  mixture.check_encoders(fingerprints(codecs))
  # Generation and the plan need one shape: the commonest.
  clip = mixture.common_clip() or bind("clip", config.clip, ClipSpec)
  # Records do not say how many pixels a latent stands for: their codec does.
  stride = codecs.video.stride[1] if codecs.video else config.clip.stride
  clip = dataclasses.replace(clip, stride=stride)
  # Nor by which rule they have so many tokens: the config's, if it gives as many.
  ruled = dataclasses.replace(clip, audio_rate=config.clip.audio_rate)
  clip = ruled if ruled.audio_tokens == clip.audio_tokens else clip
  require_fit(codecs, {s: c.out_channels for s, c in model.streams}, clip.stride)
  batches = LatentBatches(
    mixture,
    rows=lambda size: local_rows(mesh, size),
    threads=config.batch.threads,
    streams=tuple(dict(model.streams)),
  )
  return Feed(
    clip=clip,
    codecs=codecs,
    batches=DevicePrefetch(batches, mesh),
    encode=make_finisher(null_text(codecs), mesh),
    batch_sizes=tuple(mixture.batch_sizes.values()),
  )


def find_mixture(config, model: JointDiT, recipe: Recipe, root: str) -> Mixture:
  """The sets at `root`, each of whose buckets must serve a task of the run.

  Raises:
    UsageError: a mistake in the sets, a bucket that no task can use, or a setting that
      needs films.
  """
  if config.report.tasks:
    raise UsageError(
      "config.report.tasks: the report wants films and these are latents: give (), and "
      "use ccl_jax.generate"
    )
  video = dict(model.streams).get("video")
  if video is not None and video.image_tokens:
    raise UsageError(
      "config.data.source=records: sets of latents hold no CLIP tokens, which "
      "image_form of channels needs: train from films"
    )
  mixture = bind(
    "data.options",
    config.data.options,
    open_mixture,
    root,
    seed=config.seed,
    batch_size=config.batch.size,
  )
  for bucket in mixture.buckets:
    streams = [s for s in bucket.streams if s in dict(model.streams)]
    if not streams:
      raise UsageError(
        f"the bucket {bucket.name} has none of the model's streams: name the others in "
        "config.data.options.buckets"
      )
    servable(recipe.names, recipe.probabilities, streams)
  return mixture
