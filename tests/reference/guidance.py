"""Guidance (section 4.3): the forms, written out.

`v(text, keys)` gives the velocities of all streams: `text` is "txt" or "neg"; `keys`
is "C" (context tokens alone, or the gate off), "C+m" (the other stream too), "silent"
or "static" (C+m, but audio or video is replaced by its null, at timestep 0), or "C+m'"
(C+m', where m' is of the next clip: see `sampling.py`).
"""


def guide(form, v, scales):
  """The guided velocity of every stream; `scales` by stream."""
  return {s: _FORMS[form](lambda *at, s=s: v(*at)[s], s, **scales[s]) for s in scales}


def _none(v, stream):
  return v("txt", "C+m")


def _text(v, stream, s):
  return v("neg", "C+m") + s * (v("txt", "C+m") - v("neg", "C+m"))


def _ucg2(v, stream, s):
  """Eq. 5."""
  return v("neg", "C") + s * (v("txt", "C+m") - v("neg", "C"))


def _ucg3(v, stream, s_m, s_t):
  """Eq. 6; and eq. 2, where a gate switches the other stream off."""
  return (
    v("neg", "C")
    + s_m * (v("neg", "C+m") - v("neg", "C"))
    + s_t * (v("txt", "C+m") - v("neg", "C+m"))
  )


def _ucg3_text(v, stream, s_t, s_m):
  """Eq. 6 in the other order."""
  return (
    v("neg", "C")
    + s_t * (v("txt", "C") - v("neg", "C"))
    + s_m * (v("txt", "C+m") - v("txt", "C"))
  )


def _modality(v, stream, s):
  return v("txt", "C") + s * (v("txt", "C+m") - v("txt", "C"))


def _shuffled(v, stream, s):
  return v("neg", "C+m'") + s * (v("txt", "C+m") - v("neg", "C+m'"))


def _null(text):
  """SyncCFG: the video's anchor is driven by silence, the audio's by a still."""

  def form(v, stream, s):
    anchor = v(text, "silent" if stream == "video" else "static")
    return anchor + s * (v("txt", "C+m") - anchor)

  return form


_FORMS = {
  "none": _none,
  "text": _text,
  "ucg2": _ucg2,
  "ucg3": _ucg3,
  "ucg3_text": _ucg3_text,
  "modality": _modality,
  "ucg2_shuffled": _shuffled,
  "ucg2_null": _null("neg"),
  "multimodal": _ucg3,
  "multimodal2": _ucg2,
  "sync": _null("txt"),
}
