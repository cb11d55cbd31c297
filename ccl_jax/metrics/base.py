"""What the scores of clips have in common."""


class Unscorable(Exception):
  """A clip that a metric cannot judge, and why: it counts as not scored, never as 0."""

  def __init__(self, reason: str):
    super().__init__(reason)
    self.reason = reason
