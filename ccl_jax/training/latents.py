"""Training from records of latents: the data side of `ccl_jax.train`."""

from collections.abc import Callable, Mapping
from typing import Any

from jax.sharding import Mesh

from ccl_jax.codecs.bundle import Codecs, fingerprints, null_text
from ccl_jax.data.sets.batches import LatentBatches
from ccl_jax.data.sets.mixture import Mixture, open_mixture
from ccl_jax.errors import UsageError, bind
from ccl_jax.models.joint import JointDiT
from ccl_jax.sharding import local_rows
from ccl_jax.tasks import servable
from ccl_jax.training.prefetch import DevicePrefetch, make_finisher
from ccl_jax.training.step import Recipe


def open_latents(config, model: JointDiT, recipe: Recipe) -> Mixture:
  """The mixture of sets that `config.data` names.

  Writes what the sets settle into the config: `codec.path`, unless it is given, and
  `clip`, what generation makes if not told otherwise: the clips most common in them.

  Raises:
    UsageError: a mistake in the sets, or clips that no task of the run can use.
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
      "image_form=channels needs: train from films"
    )
  mixture = bind(
    "data.options",
    config.data.options,
    open_mixture,
    config.data.root,
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
  config.codec.path = config.codec.path or str(mixture.sets[0].root / "codecs")
  spec = mixture.common_clip()
  if spec is not None:
    config.clip = {k: getattr(spec, k) for k in ("frames", "height", "width", "fps")}
  return mixture


def latent_batches(
  mixture: Mixture, model: JointDiT, codecs: Codecs, mesh: Mesh, threads: int
) -> tuple[DevicePrefetch, Callable[[Mapping[str, Any]], Mapping[str, Any]]]:
  """Batches of the sets, and what makes them the batches of a step."""
  mixture.check_encoders(fingerprints(codecs))
  reader = LatentBatches(
    mixture,
    rows=lambda size: local_rows(mesh, size),
    threads=threads,
    streams=tuple(dict(model.streams)),
  )
  return DevicePrefetch(reader, mesh), make_finisher(null_text(codecs), mesh)
