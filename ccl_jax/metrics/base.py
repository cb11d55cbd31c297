"""The interface of all metrics of clips, and their one way to refuse a clip."""

import functools
from collections.abc import Callable, Mapping
from typing import Any

# Of a `clip.Clip`, which refuses by this module's `Unscorable`.
Scorer = Callable[[Any], dict[str, Any]]


class Unscorable(Exception):
  """A metric cannot judge a clip: it counts as not scored, never as 0.

  Attributes:
    reason: why, in a line.
  """

  def __init__(self, reason: str):
    super().__init__(reason)
    self.reason = reason


class Metric:
  """A score of clips, whose networks are read when the first clip needs them.

  Args:
    load: reads the networks, and returns the function from a clip to its scores.

  Attributes:
    name: of the metric.
    protocol: all that a number depends on besides the clip, as JSON: settings, and the
      hash of the weights.
    needs: which of "picture" and "sound" it looks at; a clip that lacks one has no
      score.
    uses: which it looks at where they are there.
    fields: the fields of the manifest that its numbers depend on.
  """

  def __init__(
    self,
    name: str,
    protocol: Mapping[str, Any],
    load: Callable[[], Scorer],
    *,
    needs: tuple[str, ...],
    uses: tuple[str, ...] = (),
    fields: tuple[str, ...] = (),
  ):
    self.name, self.protocol, self._load = name, dict(protocol), load
    self.needs, self.fields = frozenset(needs), fields
    self.uses = frozenset(uses)

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
    """The scores of a clip as JSON, with what led to them; arrays are kept beside it.

    Raises:
      Unscorable: it has no score, for the reason given.
    """
    clip.check(self.needs)
    return self._scorer(clip)
