"""MMAudio's audio codec: sound to the VAE's latents and, by a vocoder, back.

  latent = mean of the VAE's posterior of log-mel(wave)      512 samples to 20 channels
  wave   = vocoder(VAE's decoder(latent))

Without a vocoder, Griffin-Lim makes sound of the mel. The mean is taken as it is, not
standardised, as Ovi trains on it. 16 kHz, 31.25 latents a second; sample n of what
comes out is of the same instant as sample n of what went in. Weights are those of
models/audio_vae.py and models/vocoder.py: released or your own.
"""

import json
from typing import Any

import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Float

from ccl_jax.models import audio_vae
from ccl_jax.models.vocoder import Generator, frozen, synthesize
from ccl_jax.ops import stft

CHANNELS = 20


class MelAudioCodec(struct.PyTreeNode):
  """Codec of sound at 16 kHz: 512 a samples to a latents and back.

  Attributes:
    vae, vocoder: parameters; no vocoder: None.
    generator: the vocoder's fields, as JSON: parameters do not tell its rates.
    chunk: mel frames that the vocoder makes sound of at a time; None: all of them.
    links: where the parameters are stored; see ccl_jax/codecs/bundle.py.
  """

  channels = CHANNELS
  hop = 512

  vae: Any
  vocoder: Any = None
  generator: str = struct.field(pytree_node=False, default="")
  chunk: int | None = struct.field(pytree_node=False, default=512)
  links: tuple = struct.field(pytree_node=False, default=())

  def encode(self, wave: Float[Array, "b n"]) -> Float[Array, "b a c"]:
    """Latents (a, 20) of n = 512 a samples at 16 kHz: the posterior's means.

    Raises:
      UsageError: n gives an odd number of mel frames, or none.
    """
    mel = stft.log_mel(wave, **stft.MODES["16k"])
    # The mean alone: a random draw would make training data differ from run to run.
    return audio_vae.encode_mel(self.vae, mel)[0]

  def decode(self, latent: Float[Array, "b a c"]) -> Float[Array, "b n"]:
    """A wave of n = 512 a samples, by the vocoder or else by Griffin-Lim."""
    mel = audio_vae.decode(self.vae, latent)
    if self.vocoder is None:
      return wave_of_mel(mel)
    # Static fields of a jitted module must be hashable.
    fields = {k: frozen(v) for k, v in json.loads(self.generator).items()}
    return synthesize(Generator(**fields), self.vocoder, mel, self.chunk)


def wave_of_mel(mel: Float[Array, "b m c"]) -> Float[Array, "b n"]:
  """Griffin-Lim of a log10 mel at 16 kHz: what can be had without a vocoder."""
  # The mel is a log10: MMAudio's 16 kHz mode.
  return jnp.clip(stft.griffin_lim(stft.invert_mel(10**mel)), -1, 1)
