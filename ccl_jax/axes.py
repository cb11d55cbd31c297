"""The axis legend: one letter, one meaning, in shapes, einsum and einops alike.

  b  batch
  F  pixel frames                      H, W  pixels
  t  latent frames, (F - 1) / 4 + 1    h, w  latent rows and columns
  s  video tokens per latent frame, (H / 16)(W / 16)
  a  audio tokens, 31.25 per second    n     audio samples (in codecs)
  l  text tokens, zero-padded to the model's text length
  r  learnable context tokens
  n  heads    d  head width    c  channels or model width
  k  keys     g  audio queries per latent frame, padded

Conventions: sigma 0 is data and sigma 1 is noise; the network's timestep is
1000 * sigma; pixels are in [-1, 1]; frequencies in Hz, times in seconds, sound at
16 kHz; arrays are channels last (b t h w c). Per-stream values are dicts with the keys
of `STREAMS`; an absent stream is an absent key.
"""

STREAMS = ("video", "audio")


def other(stream: str) -> str:
  """The stream that `stream` reads from in cross-modal attention."""
  return {"video": "audio", "audio": "video"}[stream]
