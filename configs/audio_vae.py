"""A VAE of mel spectrograms of your own, in the layout of MMAudio's at 16 kHz.

  python -m ccl_jax.train_audio --config=configs/audio_vae.py:data=SOUNDS \\
      --workdir=runs/vae

  :data=FOLDER    sounds, or films with sound, of any sort
  :test=FOLDER    what to score on; without, a tenth of the data is held out
  :size=tiny      64 channels, which learn in 20 minutes on two cores
  :runlocal       a few steps of 8 channels, to see that everything works

Two frames of mel become 20 channels: 31.25 latents a second. The sizes of `16k` are the
published ones; its length, weights and learning rate are this project's own.
"""

from configs import common


def get_config(arg=None):
  """The VAE's recipe. Its layers keep magnitudes: weights are of rms 1."""
  args, c = common.audio_network(arg, "audio-vae")
  c.update(
    {
      "steps": 200_000,
      "window": 65_536,  # samples
      "batch": {"size": 64},
      # ccl_jax.models.audio_vae.init_params
      "model": {"hidden": 384},
      # ccl_jax.models.audio_vae.loss
      "loss": {"kl_weight": 1e-3, "modulation_weight": 0.2},
      # ccl_jax.training.optim.make_optimizer; lr: relative change of a weight in a step
      "optim": {
        "lr": 5e-3,
        "warmup_steps": 1000,
        "schedule": "cosine",
        "b1": 0.9,
        "b2": 0.99,
        "clip_norm": 1e9,  # weights of norm 1 need none
      },
      "ema_decay": 0.9995,
    }
  )
  if args.size == "tiny":
    c.model.hidden, c.window, c.batch.size, c.steps = 64, 16_384, 8, 10_000
    c.optim.lr, c.optim.warmup_steps, c.ema_decay = 1e-2, 100, 0.995
    c.batch.threads, c.checkpoint.every, c.log_every = 2, 500, 50
  if args.runlocal:
    c.model.hidden, c.window, c.batch.size, c.steps = 8, 8192, 4, 4
    c.optim.warmup_steps, c.checkpoint.every, c.log_every = 1, 2, 1
    c.batch.threads, c.score.windows, c.score.samples = 2, 4, 8192
  return c.lock()
