"""MMAudio's VAE of log-mel spectrograms: two frames to one latent of 20 or 40 channels.

  mean, logvar = encoder((mel - data_mean) / data_std)         logvar in [-30, 20]
  mel          = decoder(z) data_std + data_mean               z = mean + e^(logvar/2) n

A wave becomes mel by `ops.stft.log_mel`, in the mode of the same name as the preset:

  preset   bands   channels   samples per latent   latents per second
  16k      80      20         512                  31.25
  44k      128     40         1024                 43.07

Latent a is centred on sample (2 a + 1) hop, where its two frames meet.

`params` is {"encoder", "decoder", "data_mean", "data_std"}; all sizes are read from it.
The two statistics, per band over the training set, are constants: they get no gradient,
and an optimizer must leave them out. To train, minimise `loss`, and apply
`audio_vae_layers.forced` after every step; for inference, `folded` saves normalising
the weights in every call.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ccl_jax.errors import UsageError
from ccl_jax.models.audio_vae_layers import Decoder, Encoder, fold
from ccl_jax.ops.spectral_loss import modulation_loss

PyTree = Any
PAIR = 2  # mel frames of a latent
PRESETS = {
  "16k": {"bands": 80, "channels": 20, "hidden": 384},
  "44k": {"bands": 128, "channels": 40, "hidden": 512},
}


def init_params(key: Array, *, bands: int, channels: int, hidden: int) -> PyTree:
  """Random parameters, for mels of mean 0 and deviation 1 until both are set.

  Args:
    bands, channels: of the mel, and of a latent.
    hidden: channels of the first level; the next ones have 2 and 4 times as many.
  """
  keys = jax.random.split(key)
  mel, latent = jnp.zeros((1, PAIR, bands)), jnp.zeros((1, 1, channels))
  return {
    "encoder": Encoder(hidden, channels).init(keys[0], mel)["params"],
    "decoder": Decoder(hidden, bands).init(keys[1], latent)["params"],
    "data_mean": jnp.zeros(bands),
    "data_std": jnp.ones(bands),
  }


def folded(params: PyTree) -> PyTree:
  """Parameters for inference, whose weights are not normalised anew in every call."""
  return params | {half: fold(params[half]) for half in ("encoder", "decoder")}


def encode_mel(
  params: PyTree, mel: Float[Array, "b m c"]
) -> tuple[Float[Array, "b a z"], Float[Array, "b a z"]]:
  """Mean and log-variance of the latents of a mel of m = 2 a frames.

  Raises:
    UsageError: an odd number of frames, or none; another number of bands.
  """
  encoder = params["encoder"]
  _, bands, hidden = _shape(encoder["first"])
  *_, channels = _shape(encoder["last"])
  _check_mel(*mel.shape[1:], bands)
  mean, std = _statistics(params)
  # Bands of mean 0 and deviation 1: EDM2's layers expect unit inputs.
  x = (mel.astype(jnp.float32) - mean) / std
  moments = Encoder(hidden, channels // 2).apply({"params": encoder}, x)
  mean, logvar = jnp.split(moments, 2, axis=-1)
  # DiagonalGaussianDistribution of latent diffusion clips alike.
  return mean, jnp.clip(logvar, -30, 20)


def decode(params: PyTree, latent: Float[Array, "b a z"]) -> Float[Array, "b m c"]:
  """The mel of m = 2 a frames, in the units of what was encoded, from a latents."""
  decoder = params["decoder"]
  _, hidden, bands = _shape(decoder["last"])
  mean, std = _statistics(params)
  network = Decoder(hidden, bands)
  mel = network.apply({"params": decoder}, latent.astype(jnp.float32))
  return mel * std + mean


def sample(
  key: Array, mean: Float[Array, "b a z"], logvar: Float[Array, "b a z"]
) -> Float[Array, "b a z"]:
  """Latents drawn from the posterior: mean + e^(logvar / 2) n, with n ~ N(0, 1)."""
  noise = jax.random.normal(key, mean.shape, mean.dtype)
  return mean + jnp.exp(0.5 * logvar) * noise


def kl(mean: Float[Array, "b a z"], logvar: Float[Array, "b a z"]) -> Float[Array, ""]:
  """Divergence of the posterior from N(0, 1), in nats per number of the latents."""
  # KL(N(mean, e^logvar) || N(0, 1)), a mean over the latents' numbers.
  return 0.5 * jnp.mean(mean**2 + jnp.exp(logvar) - 1 - logvar)


def loss(
  params: PyTree,
  mel: Float[Array, "b m c"],
  key: Array,
  *,
  kl_weight: float | Float[Array, ""],
  modulation_weight: float = 0.0,
) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
  """Mean of |decode(z) - mel| / data_std + kl_weight KL + modulation_weight
  `modulation_loss`; and the terms.

  In units of each band's deviation, so that quiet bands count as much as loud ones.

  Args:
    params: as of `init_params`.
    mel: of m = 2 a frames.
    key: of the draw of z.
    kl_weight: weight of `kl`; may be traced, for a warm-up.
    modulation_weight: 0 leaves the term out.
  """
  mean, logvar = encode_mel(params, mel)
  _, std = _statistics(params)
  decoded = decode(params, sample(key, mean, logvar))
  terms = {"mel": (jnp.abs(decoded - mel) / std).mean(), "kl": kl(mean, logvar)}
  total = terms["mel"] + kl_weight * terms["kl"]
  if modulation_weight:  # its windows are longer than the shortest mels
    terms["modulation"] = modulation_loss(decoded / std, mel / std)
    total += modulation_weight * terms["modulation"]
  return total, terms


def _statistics(params: PyTree) -> tuple[Array, Array]:
  """Mean and deviation per band, for (b m c)."""
  # The statistics are constants of the data, not parameters.
  fixed = jax.lax.stop_gradient((params["data_mean"], params["data_std"]))
  return tuple(x[None, None] for x in fixed)


def _shape(conv: PyTree) -> tuple[int, ...]:
  """(size, channels in, channels out) of a convolution, raw or folded."""
  (weight,) = conv.values()
  return weight.shape


def _check_mel(frames: int, bands: int, expected: int) -> None:
  if bands != expected:
    raise UsageError(
      f"this audio VAE takes mels of {expected} bands, got {bands}: use the mode of "
      "ops.stft.MODES that it was trained with"
    )
  if frames < PAIR or frames % PAIR:
    raise UsageError(
      f"the audio VAE takes mels of an even number of frames, got {frames}: crop or "
      "pad the sound to whole latents, of 2 hops each"
    )
