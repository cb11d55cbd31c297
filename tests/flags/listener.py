"""A pipeline that only listens, and the command `generate` before it."""

import hashlib
import pathlib

import numpy as np

from ccl_jax.data.spec import ClipSpec
from ccl_jax.generation import clip
from ccl_jax.generation import pipeline as inference
from ccl_jax.generation.pipeline import Description
from ccl_jax.generation.release import ANY
from ccl_jax.generation.settings import file_digest
from ccl_jax.models.presets import build_model
from ccl_jax.tasks import GENERATIONS
from ccl_jax.viz.media import write_mp4
from tests.flags.command import command

TRAINED = ClipSpec(17, 32, 48, 25.0)


class Told(Description):
  """With another shift for every size, so that one sees of which clip it is."""

  def shift(self, spec):
    return spec.height / 10 + spec.width / 1000


class Listener:
  """Stands for a pipeline: keeps what it is told; clip i is grey of level 40 (i + 1)
  beside a tone of amplitude 0.1 (i + 1).
  """

  spec, takes_channels, found = TRAINED, False, None
  negative = {"video": "blurred", "audio": ""}
  made = {"vae_tile": "off"}
  prints = {"params": "Pa", "codecs": "Co"}

  def __init__(self, model):
    self.model, self.loaded, self.calls, self.guidance = model, None, [], {}
    self.release = ANY

  def describe(self, folder, step=None):
    """What a checkpoint says of itself; the shift is another for every size."""
    place = pathlib.Path(folder)
    options = {"release": self.release, "negative": self.negative}
    return Told(self.model, TRAINED, self.guidance, place, **options)

  def load(self, folder, **options):
    self.loaded = {"ckpt": folder, **options}
    return self

  @property
  def origin(self):
    """As a run whose newest checkpoint is of step 9."""
    other = ("mesh", "texts", "tile", "choices")
    told = {name: value for name, value in self.loaded.items() if name not in other}
    told["step"] = told["step"] or 9
    if told["quantize"] is None:
      del told["quantize"]
    loras = told.pop("loras")
    prints = {p: file_digest(p) for p in (x.rpartition(":")[0] for x in loras)}
    told |= {"lora": loras} if loras else {}
    return told | {"fingerprints": self.prints | prints}

  def note_cut(self, prompts):
    self.noted = list(prompts)

  def generate(self, task, prompts, *, progress=None, **given):
    self.calls.append({"task": task, "prompts": prompts, **given})
    spec, kind = given["spec"], GENERATIONS[task]
    levels = np.arange(1, len(prompts) + 1)
    tone = np.sin(np.arange(spec.samples) * (2 * np.pi * 440 / 16000))
    picture = np.ones((spec.frames, spec.height, spec.width, 3))
    out = {
      "video": np.stack([(40 * n * picture).astype(np.uint8) for n in levels]),
      "audio": np.stack([(0.1 * n * tone).astype(np.float32) for n in levels]),
    }
    return {s: out[s] for s in kind.generated}


_written = {}  # the bytes of films by what is in them: the listener's are few


def write_once(path, frames, fps, *sound):
  """As `write_mp4`, which takes longer than all else that these commands do."""
  key = hashlib.sha256(frames.tobytes())
  for x in (frames.shape, fps, *sound):
    key.update(x.tobytes() if isinstance(x, np.ndarray) else repr(x).encode())
  key = key.digest()
  if key not in _written:
    write_mp4(path, frames, fps, *sound)
    _written[key] = path.read_bytes()
  else:
    path.write_bytes(_written[key])


def listening(monkeypatch, preset="tiny", **model):
  listener = Listener(build_model(preset, **model))
  monkeypatch.setattr(clip, "write_mp4", write_once)
  monkeypatch.setattr(inference.LoadedModel, "load", listener.load)
  monkeypatch.setattr(inference, "describe", listener.describe)
  return listener


def call(listener, tmp_path, *argv):
  """What the pipeline is told by one command."""
  given = [f"--ckpt={tmp_path}", f"--out={tmp_path / 'out'}", *argv]
  if not any(a.startswith(("--prompt", "--manifest")) for a in argv):
    given.append("--prompt=a cat")
  command("generate").run(*given)
  return listener.calls[-1]
