"""The phases of a generation beside its sampling: the text encoder, and the decoding.

Both are the programs that `generate` runs, of the codecs that published weights make:
UMT5-XXL, the VAE of Wan2.1 or Wan2.2, and MMAudio's; or of the embedded codecs, where
the width of the text is another than UMT5's.
"""

import dataclasses
import json
from typing import Any

import jax
import jax.numpy as jnp
from flax import traverse_util
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from ccl_jax.checkpoints.converted import on_mesh
from ccl_jax.codecs.bundle import Codecs
from ccl_jax.data.spec import ClipSpec
from ccl_jax.generation.decoding import AUTO, chosen_tile, decode, with_tile
from ccl_jax.generation.memory import GIB, held, worked_in
from ccl_jax.generation.meshes import TEXT_WIDTH
from ccl_jax.models import audio_vae, vocoder, wan_vae
from ccl_jax.models.byte_text import ByteText
from ccl_jax.models.joint import JointDiT
from ccl_jax.models.linear_codec import (
  BANDS,
  COLOURS,
  GROUP,
  PAIR,
  PATCH,
  LinearAudioCodec,
  LinearVideoCodec,
)
from ccl_jax.models.mel_codec import CHANNELS, MelAudioCodec
from ccl_jax.models.umt5 import UMT5Encoder, UMT5Text
from ccl_jax.models.wan_vae import Wan22VideoCodec, WanVideoCodec
from ccl_jax.sharding import finest

HIDDEN = 384  # of MMAudio's 16 kHz VAE


@dataclasses.dataclass(frozen=True)
class Phase:
  """What a phase needs of a chip.

  Attributes:
    bytes: of all: its compiled program, with arguments and results, and `beside`.
    beside: of these, what is held meanwhile and is no argument of the program.
    tile: pixels of the tiles that the video is decoded by; None: by none.
  """

  bytes: int
  beside: int = 0
  tile: int | None = None

  def __str__(self) -> str:
    out = f"{self.bytes / GIB:.2f} GiB"
    if self.beside:
      out += f", of which {self.beside / GIB:.2f} are held beside the program"
    return out if self.tile is None else f"{out}; by tiles of {self.tile} pixels"


def codec_shapes(model: JointDiT, text: tuple[int, int], mesh: Mesh) -> Codecs:
  """The codecs that a model's sizes tell, of shapes on a mesh, as they are loaded.

  Args:
    model: the network.
    text: rows of a text, and their width.
    mesh: that generates.
  """
  channels = {s: c.out_channels for s, c in model.streams}
  published = text[1] == TEXT_WIDTH
  key = jax.random.key(0)
  place = lambda tree, dtype="float32": _placed(tree, dtype, mesh)
  ids = jnp.zeros((1, text[0]), jnp.int32)
  if not published:

    def linear(kind, p):
      shapes = {"mean": (p,), "basis": (p, kind.channels), "scale": (kind.channels,)}
      return kind(
        **place({k: jax.ShapeDtypeStruct(x, "float32") for k, x in shapes.items()})
      )

    video = linear(LinearVideoCodec, GROUP * PATCH**2 * COLOURS)
    codecs = Codecs(video, linear(LinearAudioCodec, PAIR * BANDS), ByteText(*text))
  else:
    kind = Wan22VideoCodec if channels.get("video") == 48 else WanVideoCodec
    weights = jax.eval_shape(
      lambda k: wan_vae.init_params(k, release=kind.release), key
    )
    sizes = {"bands": BANDS, "channels": CHANNELS, "hidden": HIDDEN}
    mel = jax.eval_shape(lambda k: audio_vae.init_params(k, **sizes), key)
    generator = vocoder.Generator(BANDS)
    waves = jax.eval_shape(lambda k: vocoder.init_params(k, generator), key)
    fields = json.dumps(vocoder.sizes_of(generator))
    encoder = jax.eval_shape(UMT5Encoder().init, key, ids, ids > 0)["params"]
    codecs = Codecs(
      kind(place(weights)),
      MelAudioCodec(place(mel), place(waves), fields),
      UMT5Text(place(encoder, "bfloat16"), None, text[0]),
    )
  return Codecs(
    video=codecs.video if "video" in channels else None,
    audio=codecs.audio if "audio" in channels else None,
    text=codecs.text,
  )


def text_phase(codecs: Codecs, length: int, mesh: Mesh) -> Phase:
  """The encoding of a text, before anything else is read.

  Args:
    codecs: of `codec_shapes`.
    length: rows of a text.
    mesh: that encodes.
  """
  ids = jax.ShapeDtypeStruct((1, length), jnp.int32)
  mask = jax.ShapeDtypeStruct((1, length), jnp.bool_)
  program = jax.jit(lambda c, *x: c.encode(*x), out_shardings=_whole(mesh))
  with jax.set_mesh(mesh):
    compiled = program.lower(codecs.text, ids, mask).compile()
  return Phase(held(codecs.text, ids, mask) + worked_in(compiled))


def decoding_phase(
  codecs: Codecs, spec: ClipSpec, batch: int, mesh: Mesh, beside: int, limit: float
) -> Phase:
  """The decoding of clips, by tiles where there is no room for them as a whole.

  Args:
    codecs: of `codec_shapes`.
    spec: of the clips.
    batch: how many there are.
    mesh: that decodes.
    beside: bytes that are held meanwhile.
    limit: bytes of a chip.
  """
  sizes = {"video": spec.latent_shape, "audio": (spec.audio_tokens,)}
  latents = {
    s: jax.ShapeDtypeStruct(
      (batch, *sizes[s], getattr(codecs, s).channels),
      jnp.float32,
      sharding=_whole(mesh),
    )
    for s in sizes
    if getattr(codecs, s) is not None
  }
  program = jax.jit(decode, out_shardings=_whole(mesh))
  codecs = codecs._replace(text=None)

  def need(tile: int | None) -> int:
    with jax.set_mesh(finest(mesh)):
      lowered = program.lower(with_tile(codecs, tile), latents)
      return beside + held(codecs, latents) + worked_in(lowered.compile())

  def room() -> bool:
    try:
      return need(None) <= limit
    except jax.errors.JaxRuntimeError as e:
      if "RESOURCE_EXHAUSTED" not in str(e):
        raise
      return False

  tile = chosen_tile(AUTO, codecs, room)
  return Phase(need(tile), beside, tile)


def _whole(mesh: Mesh) -> NamedSharding:
  """An array on every device of a mesh."""
  return NamedSharding(mesh, PartitionSpec())


def _placed(tree: Any, dtype: Any, mesh: Mesh) -> Any:
  """Shapes of parameters as they are read onto a mesh, from folders of `convert`."""
  flat = traverse_util.flatten_dict({"all": tree}, sep="/")
  shapes = {k: jax.ShapeDtypeStruct(x.shape, dtype) for k, x in flat.items()}
  return traverse_util.unflatten_dict(on_mesh(shapes, mesh), sep="/")["all"]
