"""The metrics by name: where their weights are found, and how networks are read.

A builder gives a `Metric` without reading a network: it names the protocol, for which
the weights' files are hashed, and checks that what it needs is there.
"""

import dataclasses
import fnmatch
import functools
import importlib.metadata
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ccl_jax import hub
from ccl_jax.errors import UsageError
from ccl_jax.metrics.base import Metric, Unscorable
from ccl_jax.metrics.packages import need
from ccl_jax.metrics.records import sha256
from ccl_jax.remote.copies import kept_tree
from ccl_jax.remote.paths import place
from ccl_jax.weights.download import fetched
from ccl_jax.weights.sources import SOURCES

# Names in a folder of weights: as the network is called, or as it was released.
RELEASED = {
  "syncnet": ("syncnet*",),
  "s3fd": ("s3fd*", "sfd_face*"),
  "synchformer": ("synchformer*", "24-01-04T16-39-21*"),
  "imagebind": ("imagebind*",),
  "aesthetics": ("aesthetics*", "audiobox-aesthetics*"),
  "i3d": ("i3d*",),
  "vggish": ("vggish*",),
  "whisper": ("whisper*",),
}
_sha256 = functools.cache(sha256)


@dataclasses.dataclass(frozen=True)
class Options:
  """Settings of the metrics; each is part of the protocol of its metric.

  Attributes:
    sync_scale: of the frames that the face detector sees.
    min_track: frames that a face must be seen in more than.
    min_face_size: pixels that a face must exceed.
    recogniser: "transformers" or "faster-whisper".
    transcripts: what is said in each clip, by another recogniser.
    fvd_frames: how many frames of each clip I3D sees; None: all.
  """

  sync_scale: float | int = 0.25
  min_track: int = 50
  min_face_size: float | int = 100
  recogniser: str = "transformers"
  transcripts: Mapping[str, str] | None = None
  fvd_frames: int | None = None


class Folders:
  """Where the networks' released weights are: folders, addresses of the hub, or none.

  Args:
    places: each a folder of networks, by the names of `RELEASED`; or NETWORK=PLACE of
      one of them. Of a place that is an address, a network is downloaded when it is
      asked for.

  Raises:
    UsageError: there is no such folder, or a network is named twice.
  """

  def __init__(self, places: Sequence[str | pathlib.Path] = ()):
    self._folders, self._named = [], {}
    for text in map(str, places):
      network, equals, source = text.partition("=")
      if equals and network in RELEASED:
        if network in self._named:
          raise UsageError(f"--weights: {network}= is there twice; expected one place")
        self._named[network] = source
        continue
      self._folders.append(text)
      if not hub.is_address(text) and not place(text).is_dir():
        raise UsageError(f"--weights: no folder {text}")
    for network, source in self._named.items():
      if not hub.is_address(source) and not place(source).exists():
        raise UsageError(f"--weights: {network}={source}: no such file or folder")

  def find(self, network: str) -> pathlib.Path:
    """The file or folder of a network, on this disk.

    Raises:
      Unscorable: it is not there, is there several times, or was converted.
      UsageError: it cannot be downloaded.
    """
    if network in self._named:
      return _usable(network, fetched(network, self._named[network]))
    patterns = RELEASED[network]
    places = [(x, p) for x in self._folders for p in _places(x, patterns)]
    # A file of exactly this name is meant, whatever else the patterns match.
    places = [x for x in places if pathlib.PurePath(x[1]).stem == network] or places
    if not places:
      shown = f"not in {', '.join(map(_short, self._folders))}"
      raise Unscorable(
        f"missing weights of {network}: "
        f"{shown if self._folders else 'no --weights given'}; expected {network}/ or "
        f"{' or '.join(patterns)}. To get it: {SOURCES[network]} (docs/eval.md)"
      )
    if len(places) > 1:
      names = ", ".join(path for _, path in places)
      raise Unscorable(f"several weights of {network}: {names}; keep one of them")
    folder, path = places[0]
    if hub.is_address(folder):
      return _usable(network, fetched(network, f"{folder.rstrip('/')}/{path}"))
    return _usable(network, kept_tree(place(folder) / path))

  def load(self, network: str) -> Any:
    """The network with its parameters, in float32 on the device.

    Raises:
      UsageError: the weights are damaged, or another network's.
      Unscorable: see `find`.
    """
    from ccl_jax.weights.load import load_network

    return load_network(network, self.find(network))

  def protocol(self, *networks: str) -> dict[str, Any]:
    """The hashes of networks' weights, as a part of a protocol.

    Raises:
      Unscorable: as `find`.
    """
    return {"weights": {n: _sha256(self.find(n)) for n in networks}}


def _short(folder: str) -> str:
  return folder if hub.is_address(folder) else pathlib.Path(folder).name


def _places(folder: str, patterns: Sequence[str]) -> list[str]:
  """The names in a folder, or at an address, that fit a pattern."""
  if hub.is_address(folder):
    repository = hub.open_repository(folder)
    top = repository.address.path and f"{repository.address.path}/"
    below = repository.below(repository.address.path)
    names = {name[len(top) :].partition("/")[0] for name in below}
  else:
    names = {p.name for p in place(folder).iterdir()}
  return sorted(n for n in names if any(fnmatch.fnmatchcase(n, p) for p in patterns))


def _usable(network: str, path: pathlib.Path) -> pathlib.Path:
  """The path, unless it is of a form that nothing here reads."""
  if network == "whisper" and path.suffix == ".pt":  # of openai-whisper
    raise Unscorable(
      f"{path.name} is a file; expected Whisper as {SOURCES[network]} (docs/eval.md)"
    )
  if (path / "checkpoints").is_dir():
    raise Unscorable(
      f"{path.name} is what ccl_jax.convert made of {network}; expected its release as "
      "it was downloaded, or a folder that `convert export` wrote"
    )
  return path


def _sync(folder: Folders, options: Options) -> Metric:
  from ccl_jax.metrics import lipsync

  sync_protocol = lipsync.SyncProtocol(
    scale=options.sync_scale,
    min_track=options.min_track,
    min_face_size=options.min_face_size,
  )

  def load():
    nets = lipsync.SyncNets(folder.load("s3fd"), folder.load("syncnet"))

    def score(clip):
      frames, wave = clip.frames(lipsync.FPS), clip.integers(lipsync.RATE)
      return lipsync.score(frames, wave, nets, sync_protocol)

    return score

  protocol = {
    "name": "SyncNet, best face",
    "fps": 25,
    **dataclasses.asdict(sync_protocol),
  }
  protocol |= folder.protocol("s3fd", "syncnet")
  # Networks are read by `load`, in the process that scores.
  return Metric("sync", protocol, load, needs=("picture", "sound"))


def _desync(folder: Folders, options: Options) -> Metric:
  def load():
    from ccl_jax.metrics import desync

    net = folder.load("synchformer")
    return lambda clip: desync.score(
      clip.frames(desync.FPS), clip.sound(desync.SAMPLE_RATE), net
    )

  protocol = {"name": "av-benchmark: first and last 4.8 s, mean |offset|", "fps": 25}
  protocol |= folder.protocol("synchformer")
  return Metric("desync", protocol, load, needs=("picture", "sound"))


def _ib(folder: Folders, options: Options) -> Metric:
  def load():
    from ccl_jax.metrics import imagebind_score as ib

    net = folder.load("imagebind")
    return lambda clip: ib.score(
      clip.frames(ib.FPS),
      clip.first_channel(ib.SAMPLE_RATE),
      net,
      seconds=clip.seconds,
    )

  protocol = {"name": "av-benchmark: 0.5 fps in pairs, 3 crops, 3 x 2 s of sound"}
  protocol |= folder.protocol("imagebind")
  return Metric("ib", protocol, load, needs=("picture", "sound"))


def _aesthetics(folder: Folders, options: Options) -> Metric:
  def load():
    from ccl_jax.metrics import aesthetics

    model = folder.load("aesthetics")
    return lambda clip: aesthetics.score(clip.sound(aesthetics.RATE), model)

  protocol = {"name": "AudioBox Aesthetics, windows of 10 s, mono 16 kHz"}
  protocol |= folder.protocol("aesthetics")
  return Metric("aesthetics", protocol, load, needs=("sound",))


def _av_align(folder: Folders, options: Options) -> Metric:
  from ccl_jax.metrics import av_align

  need("cv2", "opencv-python-headless")
  rate = 22050
  protocol = {
    "name": "onsets against peaks of Farneback flow, within a frame",
    "sample_rate": rate,
    "short_side": av_align.SHORT_SIDE,
    "least_flow": av_align.LEAST_FLOW,
  }

  def score(clip):
    return av_align.score(clip.frames(), clip.fps, clip.sound(rate), rate)

  return Metric("av_align", protocol, lambda: score, needs=("picture", "sound"))


def _wer(folder: Folders, options: Options) -> Metric:
  from ccl_jax.metrics import speech

  need("whisper_normalizer.english", "whisper-normalizer")
  protocol = {
    "name": "all errors over all words",
    "normaliser": "whisper-normalizer "
    + importlib.metadata.version("whisper-normalizer"),
    "chinese": "simplified by OpenCC, numbers as digits with their signs",
    "marks": "kept with their letters; of Arabic and Hebrew left out",
    "silence": f"nothing is heard where no {speech.BLOCK / speech.RATE:g} s have "
    f"{speech.SILENCE:g} dBFS",
  }
  if options.transcripts is not None:
    protocol["recogniser"] = "given transcripts"
    load = lambda: speech.transcript_scorer(options.transcripts)
    fields = ("prompt", "transcript", "language", "hypothesis")
    return Metric("wer", protocol, load, needs=(), uses=("sound",), fields=fields)
  # The version is part of the protocol: recognisers change what they hear.
  package = options.recogniser.replace("-", "_")
  need(package, options.recogniser)
  version = importlib.metadata.version(options.recogniser)
  protocol["recogniser"] = f"{options.recogniser} {version}, greedy"
  protocol |= folder.protocol("whisper")

  def load():
    from ccl_jax.metrics import whisper

    kinds = {
      "transformers": whisper.Transformers,
      "faster-whisper": whisper.FasterWhisper,
    }
    return speech.sound_scorer(kinds[options.recogniser](folder.find("whisper")))

  fields = ("prompt", "transcript", "language")
  return Metric("wer", protocol, load, needs=("sound",), fields=fields)


def _film(folder: Folders, options: Options) -> Metric:
  from ccl_jax.metrics import films
  from ccl_jax.metrics.talking_curves import RATE

  def score(clip):
    return films.score(clip.frames(), clip.sound(RATE), clip.fps)

  protocol = {"name": "motion of the picture against loudness"}
  return Metric("film", protocol, lambda: score, needs=("picture", "sound"))


def _talking(folder: Folders, options: Options) -> Metric:
  from ccl_jax.metrics import talking_scene
  from ccl_jax.metrics.talking_curves import RATE

  def score(clip):
    text = clip.fields.get("prompt") or ""
    return talking_scene.score(clip.frames(), clip.sound(RATE), text, clip.fps)

  protocol = {"name": "talking scenes: mouths against voices, captions against both"}
  load, needs = lambda: score, ("picture", "sound")
  return Metric("talking", protocol, load, needs=needs, fields=("prompt",))


def _fad(folder: Folders, options: Options) -> Metric:
  def load():
    from ccl_jax.metrics import fad

    net = folder.load("vggish")
    return lambda clip: {"features": fad.features(clip.sound(fad.RATE), net)}

  protocol = {"name": "VGGish, 128 features a 0.96 s", **folder.protocol("vggish")}
  return Metric("fad", protocol, load, needs=("sound",))


def _fvd(folder: Folders, options: Options) -> Metric:
  def load():
    from ccl_jax.metrics import fvd

    net = folder.load("i3d")
    return lambda clip: {
      # One row a clip: the Frechet distance is of clips, not of frames.
      "features": fvd.features(clip.frames()[: options.fvd_frames], net)[None]
    }

  frames = options.fvd_frames or "all"
  protocol = {"name": "I3D's logits, frames at the clip's own rate", "frames": frames}
  protocol |= folder.protocol("i3d")
  return Metric("fvd", protocol, load, needs=("picture",))


BUILDERS: dict[str, Callable[[Folders, Options], Metric]] = {
  "sync": _sync,
  "desync": _desync,
  "ib": _ib,
  "aesthetics": _aesthetics,
  "wer": _wer,
  "av_align": _av_align,
  "film": _film,
  "talking": _talking,
  "fad": _fad,
  "fvd": _fvd,
}


def build_metrics(
  names: list[str], weights: Sequence[str | pathlib.Path], options: Options
) -> tuple[list[Metric], dict[str, str]]:
  """The metrics that can run here, and of the others why they cannot.

  Args:
    names: of the metrics.
    weights: places, as of `Folders`.
    options: of the metrics.

  Raises:
    UsageError: a name is unknown, or an option is out of range.
  """
  folder, metrics, skipped = Folders(weights), [], {}
  for name in names:
    if name not in BUILDERS:
      raise UsageError(f"unknown metric {name!r}; expected {', '.join(BUILDERS)}")
    try:
      metrics.append(BUILDERS[name](folder, options))
    except Unscorable as e:
      skipped[name] = e.reason
  return metrics, skipped
