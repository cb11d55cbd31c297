"""The numbers that tables show, and how each sums up what its metric says of clips.

  column = sum_i value_i / sum_i per_i         over the clips that have both

a mean where there is no `per`, and for a word error rate all errors over all words.
"""

from typing import NamedTuple


class Column(NamedTuple):
  """A number of a table, and how clips make it.

  Attributes:
    metric: whose records it reads.
    value: the name of its number in them.
    per: the name of what is divided by; None: clips.
    label: over the column.
    higher: whether more is better; None: neither.
    subsets: shown by subset too, not over all clips alone.
    decimals: shown.
  """

  metric: str
  value: str
  per: str | None
  label: str
  higher: bool | None
  subsets: bool
  decimals: int = 3


COLUMNS = {
  "cu": Column("aesthetics", "CU", None, "CU", True, False, 2),
  "pq": Column("aesthetics", "PQ", None, "PQ", True, False, 2),
  "wer": Column("wer", "wer_errors", "wer_words", "WER", False, True),
  "cer": Column("wer", "cer_errors", "cer_words", "CER", False, True),
  "sync_c": Column("sync", "sync_c", None, "Sync-C", True, True, 2),
  "sync_d": Column("sync", "sync_d", None, "Sync-D", False, True, 2),
  "desync": Column("desync", "desync", None, "DeSync", False, True),
  "ib": Column("ib", "ib_score", None, "IB", True, True),
  "av_align": Column("av_align", "av_align", None, "AV-Align", True, True),
  "ce": Column("aesthetics", "CE", None, "CE", True, False, 2),
  "pc": Column("aesthetics", "PC", None, "PC", None, False, 2),
  "wer_mean": Column("wer", "wer", None, "WER by clip", False, True),
  "cer_mean": Column("wer", "cer", None, "CER by clip", False, True),
  "unrequested": Column("wer", "unrequested", None, "Unasked speech", False, True),
  "face_rate": Column("sync", "face_rate", None, "Faces", None, True),
  "film_r": Column("film", "sync_r0", None, "Motion r", True, True),
  "talking_r": Column("talking", "sync_r0", None, "Lips r", True, True),
  "talking_lag": Column("talking", "sync_lag_ms", None, "Lips lag ms", None, True, 0),
  "event_f1": Column("talking", "event_f1", None, "Syllables F1", True, True),
  "right_face": Column("talking", "right_face", None, "Right face", True, True),
  "listener_motion": Column(
    "talking", "listener_motion", None, "Listener moves", False, True
  ),
  "ser": Column("talking", "ser", None, "SER", False, True),
  "impact_f1": Column("talking", "impact_f1", None, "Impacts F1", True, True),
  "hue_error": Column("talking", "hue_error", None, "Hue error", False, True),
  "place_error": Column("talking", "place_error", None, "Place error", False, True),
  "face_missing": Column("talking", "face_missing", None, "No face", False, True),
}
ABOUT = {  # what the number is, for readers of the report
  "cu": "content usefulness of the sound, by AudioBox Aesthetics, about 1 to 10",
  "pq": "production quality of the sound, by AudioBox Aesthetics, about 1 to 10",
  "wer": "errors in the words that Whisper hears, of all words that are to be said",
  "cer": "the same by character, where a language has no spaces",
  "sync_c": "how sure SyncNet is that lips and sound are in step",
  "sync_d": "how far apart SyncNet finds lips and sound where they match best",
  "desync": "seconds between picture and sound, by Synchformer",
  "ib": "cosine of picture and sound, by ImageBind",
  "av_align": "share of the peaks of motion and the onsets of sound that meet",
  "ce": "content enjoyment of the sound, by AudioBox Aesthetics, about 1 to 10",
  "pc": "production complexity of the sound, by AudioBox Aesthetics, about 1 to 10",
  "wer_mean": "the mean of the clips' own word error rates",
  "cer_mean": "the mean of the clips' own character error rates",
  "unrequested": "share of the clips with speech, of those that are to have none",
  "face_rate": "share of the frames in which a face is found",
  "film_r": "correlation of motion and loudness",
  "talking_r": "talking scenes: correlation of mouths and voices",
  "talking_lag": "talking scenes: milliseconds that voices come after mouths",
  "event_f1": "talking scenes: syllables seen against syllables heard",
  "right_face": "talking scenes: whether the face that talks is the one that is heard",
  "listener_motion": "talking scenes: how a mouth moves while the voice is off screen",
  "ser": "talking scenes: errors in the syllables, of all that are to be said",
  "impact_f1": "talking scenes: contacts of balls against clicks",
  "hue_error": "talking scenes: share of the captioned colours that are missing",
  "place_error": "talking scenes: frame widths from the captioned place",
  "face_missing": "talking scenes: share of the captioned faces that are not found",
}
# Distances of sets, not means over clips: their records hold features.
DISTANCES = {"fad": "FAD", "fvd": "FVD"}
