"""What every metric shares."""


class Unscorable(Exception):
  """A clip that a metric cannot score, and why: a skip with a reason, never a zero."""
