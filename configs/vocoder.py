"""A vocoder of your own: BigVGAN, mels at 16 kHz to sound.

  python -m ccl_jax.train_audio --config=configs/vocoder.py:data=SOUNDS,vae=runs/vae \\
      --workdir=runs/vocoder

  :data=FOLDER    sounds, or films with sound, of any sort
  :test=FOLDER    what to score on; without, a tenth of the data is held out
  :vae=DIR        a trained VAE, a run's or a converted one: steps from
                  config.vae.from_step on are of its mels, the scores are of the pair
  :size=tiny      a narrow network that learns on two cores in an hour and a quarter
  :runlocal       a few steps, to see that everything works

The sizes, losses and optimizer of `16k` are BigVGAN's: 1 M steps of 32 windows of 8192
samples, all of the loss from the first step. The tiny one learns from spectra alone.
"""

from configs import common


def get_config(arg=None):
  """BigVGAN's recipe; the sizes are those of ccl_jax.models.vocoder.PRESETS["16k"]."""
  args, c = common.audio_network(arg, "vocoder", vae="")
  c.update(
    {
      "steps": 1_000_000,
      "window": 8192,  # samples
      "batch": {"size": 32},
      # ccl_jax.models.vocoder.Generator
      "model": {
        "channels": 1536,
        "rates": (4, 4, 2, 2, 2, 2),
        "kernels": (8, 8, 4, 4, 4, 4),
        "blocks": ((3, (1, 3, 5)), (7, (1, 3, 5)), (11, (1, 3, 5))),
        "bias": True,
        "tanh": True,
      },
      # ccl_jax.models.discriminators.Discriminators
      "critic": {
        "width": 32,
        "periods": (2, 3, 5, 7, 11),
        "resolutions": ((1024, 120, 600), (2048, 240, 1200), (512, 50, 240)),
      },
      # Mels of this VAE from that step on; real ones before.
      "vae": {"path": args.vae, "from_step": 500_000},
      # ccl_jax.audio_codec.vocoder: of the spectral loss; the first step with a
      # critic, -1: none has one.
      "loss": {"spectral_weight": 0.0, "spectral_floor": 1e-9, "adversary_from": 0},
      # ccl_jax.audio_codec.vocoder.gan_optimizer
      "optim": {
        "lr": 1e-4,
        "decay": 0.9999996,
        "warmup_steps": 0,
        "b1": 0.8,
        "b2": 0.99,
        "weight_decay": 0.01,
        "clip_norm": 1000.0,
      },
      "ema_decay": 0.0,  # the last parameters are the result
    }
  )
  if args.size == "tiny":
    c.model.channels = 512
    c.model.rates, c.model.kernels = (1, 1, 4, 8, 8), (1, 1, 8, 16, 16)
    c.model.blocks = ((3, (1,)),)
    c.critic.width = 4
    c.steps, c.batch.size, c.batch.threads = 120_000, 1, 2
    c.vae.from_step = 40_000
    c.loss.spectral_weight, c.loss.spectral_floor = 45.0, 1e-6
    c.loss.adversary_from = -1
    c.optim.lr, c.optim.decay, c.optim.warmup_steps = 5e-4, 0.99997, 30
    c.ema_decay = 0.999
    c.checkpoint.every, c.log_every = 2000, 200
  if args.runlocal:
    c.model.channels = 16
    c.model.rates, c.model.kernels = (8, 8, 4), (16, 16, 8)
    c.model.blocks = ((3, (1,)),)
    c.critic.width, c.critic.periods, c.critic.resolutions = 1, (2,), ((512, 50, 240),)
    c.steps, c.batch.size, c.batch.threads = 4, 4, 2
    c.loss.adversary_from, c.vae.from_step = 2, 2
    c.checkpoint.every, c.log_every = 2, 1
    c.score.windows, c.score.samples = 4, 8192
  return c.lock()
