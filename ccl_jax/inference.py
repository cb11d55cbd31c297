"""From a checkpoint and a prompt to pictures and sound.

Every task of `tasks.GENERATIONS` is the same few lines: encode what is given, sample
what is not (`sampling.py`), decode.
"""

import dataclasses
import json
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ccl_jax.axes import STREAMS
from ccl_jax.codecs import Codecs, load_codecs, to_bytes, to_unit
from ccl_jax.data.spec import ClipSpec
from ccl_jax.errors import UsageError
from ccl_jax.models.joint import JointDiT
from ccl_jax.models.presets import build_model, init_params
from ccl_jax.sampling import Sampling, sample_latents
from ccl_jax.tasks import GENERATIONS, Generation
from ccl_jax.training.checkpoint import restore_params

PyTree = Any


class Pipeline:
  """A model, its parameters and codecs, ready to generate.

  Attributes:
    spec: the clip the model was trained on; `generate` can be given another.
  """

  def __init__(self, model: JointDiT, params: PyTree, codecs: Codecs, spec: ClipSpec):
    self.model, self.params, self.codecs, self.spec = model, params, codecs, spec
    self._compiled = {}

  @classmethod
  def load(
    cls, workdir: str | pathlib.Path, *, weights: str = "ema", step: int | None = None
  ) -> tuple["Pipeline", dict]:
    """Reads a run's folder: (pipeline, metadata of the checkpoint).

    Raises:
      UsageError: it is no run's folder, or holds no checkpoint that is whole.
    """
    workdir = pathlib.Path(workdir)
    path = workdir / "config.json"
    if not path.is_file():
      raise UsageError(
        f"{workdir} is no training run: expected config.json, codecs and checkpoints "
        "in it; give the folder that was --workdir"
      )
    config = json.loads(path.read_text())
    model = build_model(**config["model"])
    codecs = load_codecs(workdir / "codecs")
    text = (codecs.text.length, codecs.text.dim)
    shapes = jax.eval_shape(lambda k: init_params(model, k, text), jax.random.key(0))
    device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    shapes = jax.tree.map(
      lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=device), shapes
    )
    _, params, metadata = restore_params(
      workdir / "checkpoints", weights, shapes, step=step
    )
    return cls(model, params, codecs, ClipSpec(**config["clip"])), metadata

  def generate(
    self,
    task: str,
    prompts: Sequence[str],
    *,
    sampling: Sampling,
    seed: int = 0,
    negative: str = "",
    video: np.ndarray | None = None,
    audio: np.ndarray | None = None,
    image: np.ndarray | None = None,
    spec: ClipSpec | None = None,
    reuse_keys: bool = True,
    progress: Callable[[Any], None] | None = None,
  ) -> dict[str, np.ndarray]:
    """Clips for the prompts.

    Args:
      task: a name of `GENERATIONS`.
      video: uint8 (b, F, H, W, 3), for v2a.
      audio: float (b, n) at 16 kHz, for a2v.
      image: uint8 (b, H, W, 3), for i2v and ti2av.
      negative: the text of the unconditional evaluations.

    Returns:
      The generated streams: `video` uint8 (b, F, H, W, 3) and `audio` float32 (b, n).

    Raises:
      UsageError: the model cannot do the task, or an input is missing.
    """
    spec = spec or self.spec
    kind = self._check(task, {"video": video, "audio": audio, "image": image})
    b = len(prompts)
    keys = jax.random.split(jax.random.key(seed), 2)
    shapes = {
      "video": (*spec.latent_shape, self.codecs.video.channels),
      "audio": (spec.audio_tokens, self.codecs.audio.channels),
    }
    noise = {
      s: jax.random.normal(k, (b, *shapes[s]))
      for s, k in zip(STREAMS, keys)
      if s in kind.generated
    }
    # float32 and one layout, whatever the caller has
    inputs = {
      "video": None if video is None else jnp.asarray(video),
      "audio": None if audio is None else jnp.asarray(audio, jnp.float32),
      "image": None if image is None else jnp.asarray(image),
    }
    tokens = self.codecs.text.tokenize([*prompts, *[negative] * b])
    key = (kind, _hashable(sampling), reuse_keys, progress)
    if key not in self._compiled:
      self._compiled[key] = jax.jit(self._program(kind, sampling, reuse_keys, progress))
    return jax.device_get(
      self._compiled[key](self.params, self.codecs, noise, tokens, inputs)
    )

  def _program(self, kind, sampling, reuse_keys, progress):
    """(params, codecs, noise, tokens, inputs) -> decoded streams."""

    def program(params, codecs, noise, tokens, inputs):
      text = codecs.text.encode(*tokens)
      conditions = {"text": text.reshape(2, -1, *text.shape[1:]), "given": {}}
      if "video" in kind.given:
        conditions["given"]["video"] = codecs.video.encode(to_unit(inputs["video"]))
      if "audio" in kind.given:
        conditions["given"]["audio"] = codecs.audio.encode(inputs["audio"])
      if kind.image:
        still = to_unit(inputs["image"])[:, None]
        conditions["image"] = codecs.video.encode(still)
      if sampling.guidance == "sync":
        conditions["null"] = _null_latents(codecs, noise, conditions)
      latents = sample_latents(
        self.model, params, kind, noise, conditions, sampling,
        reuse_keys=reuse_keys, progress=progress,
      )  # fmt: skip
      out = {}
      if "video" in latents:
        pixels = codecs.video.decode(latents["video"])
        out["video"] = to_bytes(pixels)
      if "audio" in latents:
        out["audio"] = codecs.audio.decode(latents["audio"])
      return out

    return program

  def _check(self, task: str, inputs: Mapping[str, Any]) -> Generation:
    if task not in GENERATIONS:
      raise UsageError(
        f"unknown task {task!r}; expected one of {', '.join(GENERATIONS)}"
      )
    kind = GENERATIONS[task]
    have = dict(self.model.streams)
    missing = [s for s in kind.generated + kind.given if s not in have]
    if missing:
      raise UsageError(
        f"task {task} needs the {missing[0]} stream; this model has {', '.join(have)}"
      )
    if kind.image and have["video"].image_tokens:
      raise UsageError(
        f"task {task}: this model takes its image as condition channels with CLIP "
        "tokens; the codecs of this run have no CLIP encoder"
      )
    for name in (*kind.given, *(["image"] if kind.image else [])):
      if inputs[name] is None:
        raise UsageError(f"task {task} needs --{name} FILE")
    return kind


def _null_latents(codecs, noise, conditions):
  """Silence and a static picture (the image if there is one, else mid-grey)."""
  shapes = {s: x.shape for s, x in {**noise, **conditions["given"]}.items()}
  null = {}
  if "audio" in shapes:
    b, a, _ = shapes["audio"]
    null["audio"] = codecs.audio.encode(jnp.zeros((b, a * codecs.audio.hop)))
  if "video" in shapes:
    b, t, h, w, _ = shapes["video"]
    still = jnp.zeros((b, 1, 8 * h, 8 * w, 3))
    if "image" in conditions:
      still = codecs.video.decode(conditions["image"])
    null["video"] = codecs.video.encode(jnp.repeat(still, 4 * (t - 1) + 1, 1))
  return null


def _hashable(sampling: Sampling):
  scales = tuple(
    (s, tuple(sorted(v.items()))) for s, v in sorted(sampling.scales.items())
  )
  return dataclasses.replace(sampling, scales=scales)
