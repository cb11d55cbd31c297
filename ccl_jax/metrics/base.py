"""What all scores of clips have in common."""


class Unscorable(Exception):
  """A clip that a score cannot judge; the message says why. It counts as no score,
  never as a zero.
  """
