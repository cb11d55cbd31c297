"""A network that computes nothing and keeps what it was told, array by array.

It stands where a `JointDiT` stands: `told` has one entry for each run of the network,
in order. Arrays are kept as NumPy's, so its callers run without jit
(`jax.disable_jit()`), where a scan is a loop of Python.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from ccl_jax.models.cca import CrossConfig, Geometry
from ccl_jax.models.joint import JointDiT
from ccl_jax.models.stream import StreamConfig
from ccl_jax.tasks import Route


@dataclasses.dataclass
class Told:
  """The arguments of one run of the network.

  `reads` and `detached` have a bool for every sample; a stream that the route does not
  name is not in the call's dict and counts as False. `texts` are those that it was
  told, or whose keys it was told; `keys` are those of a given stream.
  """

  latents: Mapping[str, np.ndarray]
  timesteps: Mapping[str, np.ndarray]
  texts: Mapping[str, np.ndarray]
  reads: Mapping[str, np.ndarray]
  detached: Mapping[str, np.ndarray]
  image: Mapping[str, np.ndarray]
  keys: Mapping[str, Any]
  collect: bool
  geometry: Geometry | None
  route: Route

  @property
  def text(self) -> np.ndarray:
    """The text of all streams, which is one."""
    first, *others = self.texts.values()
    assert all(np.array_equal(first, text) for text in others)
    return first

  def rows(self, part: slice) -> "Told":
    """The same of some samples only."""
    cut = lambda tree: {k: v[part] for k, v in tree.items()}
    return dataclasses.replace(
      self,
      latents=cut(self.latents),
      timesteps=cut(self.timesteps),
      texts=cut(self.texts),
      reads=cut(self.reads),
      detached=cut(self.detached),
      image=cut(self.image),
      keys={s: tuple(x[:, part] for x in pair) for s, pair in self.keys.items()},
    )


def reading_texts(apply: Callable[..., Any]) -> Callable[..., Any]:
  """`JointDiT.apply` by one of (self, variables, latents, timesteps, texts, ...) which
  is told the texts in every run: as keys of texts it is given these themselves.
  """

  def whole(self, variables, latents, timesteps, text=None, *args, keys=None, **kwargs):
    if not latents:
      return {}, _texts_as_keys(text)
    text = _texts_of(keys, latents) if text is None else text
    return apply(self, variables, latents, timesteps, text, *args, **kwargs)

  return whole


def _texts_as_keys(texts):
  return {s: {"text": (text[None],) * 2} for s, text in texts.items()}


def _texts_of(keys, streams):
  return {s: keys[s]["text"][0][0] for s in streams}


def recording(
  answer: Callable[[Any, Told], Mapping[str, Any]],
  *,
  channels: bool = False,
  variant: str | None = "context",
  collect: Callable[[Told], Mapping[str, Any]] | None = None,
) -> tuple[JointDiT, list[Told]]:
  """The network, and the list that its runs are written to.

  Args:
    answer: (params, told) -> velocities by stream. The latents it needs for gradients
      in the parameters are in `told`.
    channels: it takes an image as condition channels and CLIP tokens.
    variant: of cross-modal attention; None: streams that never exchange.
    collect: told -> what a run with `collect=True` returns as keys.
  """
  video = StreamConfig(
    24, 32, 2, in_channels=25 if channels else 5, out_channels=5, image_tokens=channels
  )
  audio = StreamConfig(
    24, 32, 2, in_channels=4, out_channels=4, patch=(1, 1, 1), positions="line"
  )
  cross = None if variant is None else CrossConfig(variant)
  model = JointDiT(streams=(("video", video), ("audio", audio)), depth=1, cross=cross)
  told: list[Told] = []

  def apply(
    variables, latents, timesteps, text=None, route=Route(), *, image=None, keys=None,
    collect=False, geometry=None, left_out=None,
  ):  # fmt: skip
    host = lambda tree: jax.tree.map(np.asarray, dict(tree or {}))
    by_sample = lambda flags: {
      s: np.broadcast_to(np.asarray(v), (b,)) for s, v in flags.items()
    }
    assert set(timesteps) == set(latents)
    texts = text if isinstance(text, Mapping) else dict.fromkeys(latents, text)
    if text is None:
      texts = _texts_of(keys, latents)
    keys = {s: of["other"] for s, of in (keys or {}).items() if "other" in of}
    b = len(next(iter((latents or texts).values())))
    assert set(texts) == set(latents or texts)
    run = Told(
      host(latents), host(timesteps), host(texts), by_sample(route.reads),
      by_sample(route.detached), host(image), host(keys), collect, geometry, route,
    )  # fmt: skip
    told.append(run)
    if not latents:  # of texts alone
      return {}, _texts_as_keys(texts)
    velocity = answer(variables["params"], run)
    others = collected(run).items() if collect else ()
    return (velocity, {s: {"other": x} for s, x in others}) if collect else velocity

  collected = collect
  # Not a subclass: modules wrap their methods, and this one must stay a function.
  object.__setattr__(model, "apply", apply)
  return model, told
