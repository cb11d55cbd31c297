"""The embedded codecs, which need no weights: fitted to the clips they serve."""

from collections.abc import Iterable
from typing import Any

from ccl_jax.codecs.bundle import Codecs
from ccl_jax.errors import UsageError
from ccl_jax.models.byte_text import ByteText
from ccl_jax.models.linear_codec import AudioFit, VideoFit


def fit_codecs(
  clips: Iterable[dict[str, Any]], *, text_length: int, text_dim: int
) -> Codecs:
  """The embedded codecs, fitted in one pass over clips; a few hundred are plenty.

  Args:
    clips: dicts with `video` uint8 (F, H, W, 3), `audio` (n,) or both.
    text_length, text_dim: of `ByteText`.

  Raises:
    UsageError: there are no clips.
  """
  fits, seen = {"video": VideoFit(), "audio": AudioFit()}, 0
  for seen, clip in enumerate(clips, 1):  # noqa: B007
    for stream in fits.keys() & clip.keys():
      fits[stream].add(clip[stream])
  if not seen:
    raise UsageError("got no clips to fit the codecs to, expected at least one")
  video, audio = (fit.codec() for fit in fits.values())
  return Codecs(video, audio, ByteText(text_length, text_dim))
