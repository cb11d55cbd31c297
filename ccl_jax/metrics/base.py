"""What the scores of clips have in common: one interface, and one way to refuse."""

import functools
from collections.abc import Callable, Mapping
from typing import Any

# Of a `clip.Clip`, which refuses by this module's `Unscorable`.
Scorer = Callable[[Any], dict[str, Any]]


class Unscorable(Exception):
  """A clip that a metric cannot judge, and why: it counts as not scored, never as 0."""

  def __init__(self, reason: str):
    super().__init__(reason)
    self.reason = reason


class Metric:
  """A score of clips, whose networks are read when the first clip needs them.

  Attributes:
    name: of the metric.
    protocol: all that a number depends on besides the clip, as JSON: settings, and the
      hash of the weights.
    needs: which of "picture" and "sound" it looks at.
    fields: the fields of the manifest that its numbers depend on.
  """

  def __init__(
    self,
    name: str,
    protocol: Mapping[str, Any],
    load: Callable[[], Scorer],
    *,
    needs: tuple[str, ...],
    fields: tuple[str, ...] = (),
  ):
    self.name, self.protocol, self._load = name, dict(protocol), load
    self.needs, self.fields = frozenset(needs), fields

  @functools.cached_property
  def _scorer(self) -> Scorer:
    return self._load()

  def prepare(self) -> None:
    """Reads the networks.

    Raises:
      UsageError: their files are not what they should be.
      Unscorable: a package is missing.
    """
    _ = self._scorer

  def score(self, clip: Any) -> dict[str, Any]:
    """The numbers of a clip, and what led to them, as JSON; arrays are kept beside it.

    Raises:
      Unscorable: it has no score, for the reason given.
    """
    clip.check(self.needs)
    return self._scorer(clip)
