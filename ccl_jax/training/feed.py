"""The feed of a run: its batches, and the codecs and clip sizes that belong to them."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from ccl_jax import progress
from ccl_jax.checkpoints.find import find_parameters
from ccl_jax.codecs.bundle import Codecs, load_codecs, save_codecs, stored_digests
from ccl_jax.codecs.embedded import fit_codecs
from ccl_jax.codecs.texts import fitting_length
from ccl_jax.data.spec import ClipSpec
from ccl_jax.errors import UsageError
from ccl_jax.files import is_whole_folder
from ccl_jax.remote.paths import Place, place


class Feed(NamedTuple):
  """Batches of a run, of films (training/films.py) or of latents (training/latents.py).

  Attributes:
    clip: what generation makes if it is not told otherwise.
    codecs: between films and latents.
    batches: an iterator of host batches with `get_state`, `set_state` and `close`.
    encode: a host batch to the batch of a step.
    batch_sizes: rows of the batches, over all processes.
  """

  clip: ClipSpec
  codecs: Codecs
  batches: Any
  encode: Callable[[Mapping[str, np.ndarray]], Mapping[str, jax.Array]]
  batch_sizes: Sequence[int]

  @property
  def text(self) -> tuple[int, int]:
    """(l, e) of the text embeddings."""
    return self.codecs.text.length, self.codecs.text.dim


NEEDED = ("video", "audio", "text")  # codecs of a run on films


def _own_codecs(config, own: Place, needed: Sequence[str]) -> Codecs:
  """The codecs in a run's folder.

  Raises:
    UsageError: one of `needed` is not there, or the config names others.
  """
  if config.codec.path and place(config.codec.path).is_dir():
    here, named = stored_digests(own), stored_digests(config.codec.path)
    if other := [name for name in here if named.get(name, here[name]) != here[name]]:
      name = other[0]
      raise UsageError(
        f"config.codec.path: the {name} codec of {config.codec.path} "
        f"({named[name][:8]}) is not the one this run has ({here[name][:8]}): leave "
        "config.codec.path as it was, or name a new workdir"
      )
  codecs = load_codecs(own)
  if missing := [name for name in needed if getattr(codecs, name) is None]:
    raise UsageError(
      f"{own} lacks {missing[0]}.json: put the run's own codecs back, or name a new "
      "workdir"
    )
  return codecs


def open_codecs(
  config, workdir: Place, *, path: str = "", clips=None, texts=None
) -> Codecs:
  """The codecs of a run, saved in its folder.

  In this order: those the run has, those that the config names, those at `path`, those
  of the parameters it starts from. What is lacking is fitted to `clips`.

  Args:
    config: of the run.
    workdir: of the run; the codecs are in its folder `codecs`.
    path: of a bundle, or "".
    clips: of a source, to fit embedded codecs to; None: no fit.
    texts: all captions, which the text embedder's length is fitted to where the config
      names none; None: they are not known.

  Raises:
    UsageError: there are no clips to fit, and no text codec; or the run has codecs that
      are not whole, or not those that the config names.
  """
  own = workdir / "codecs"
  if is_whole_folder(own):
    return _own_codecs(config, own, ("text",) if clips is None else NEEDED)
  path = config.codec.path or path
  if not path and config.init:
    path = find_parameters(config.init).codecs
  codecs = load_codecs(path) if path else Codecs()
  if clips is not None and None in (codecs.video, codecs.audio, codecs.text):
    progress.phase("fitting the codecs")
    order = np.random.default_rng(config.seed).permutation(len(clips))
    chosen = order[: config.codec.fit_clips]
    fitted = fit_codecs(
      (clips[int(i)] for i in chosen),
      text_length=config.codec.text_length or fitting_length(texts),
      text_dim=config.codec.text_dim,
    )
    codecs = Codecs(*(have or fit for have, fit in zip(codecs, fitted)))
  if codecs.text is None:
    raise UsageError(
      f"the codecs in {path} have no text codec, which every run needs: give "
      "config.codec.path a bundle that has"
    )
  save_codecs(codecs, own)
  return codecs
