"""Quickstart: data, training and clips with sound on a laptop's processor.

  python -m ccl_jax.train --config=configs/quickstart.py --workdir=runs/quickstart

makes the synthetic talking scenes, fits the embedded codecs, trains a tiny joint model,
and writes joint, audio-to-video and video-to-audio clips, the loss curve, an attention
panel and the synchrony scores beside chance and real clips to WORKDIR/report.

  :data=FOLDER    your own films (mp4, mov, mkv, ...) in place of the scenes
  :source=vggsound  FOLDER holds VGGSound, or openhumanvid; or it is of tfds
  :runlocal       a few steps, to see that everything works
"""

from ml_collections.config_dict import placeholder

from configs import common


def get_config(arg=None):
  """The tiny model on 32 x 32 x 33 frames at 25 fps: 9 latent frames of 4 x 4 tokens,
  and 41 audio tokens, five of which are a latent frame's own, its window.
  """
  args = common.parse(arg, data="", source="folder", runlocal=False, seed=0)
  c = common.base()
  c.seed = args.seed
  c.steps = 840
  c.model.dtype = "float32"
  c.model.patch = 1  # a token for each of the few latent pixels
  c.data.source = args.source if args.data else "talking_scene"
  c.data.root = args.data
  c.batch.size = 8
  c.batch.threads = 2
  # Steps count more than clips a step, and the exchange is learned soonest where the
  # other stream is clean.
  c.tasks.probabilities = {"single": 0.1, "a2v": 0.25, "v2a": 0.25, "joint": 0.4}
  c.codec.text_length = 80
  c.codec.text_dim = 128
  c.objective.shift = 2.0
  c.objective.sigma = "logit_normal"
  c.objective.image_probability = 0.1
  c.optim.groups = ((".*", 2e-3, 0.01),)
  c.optim.warmup_steps = 100
  c.optim.schedule = "cosine"
  c.ema_decay = 0.99
  c.checkpoint.every = 1000
  c.log_every = 50
  c.report.tasks = ("joint", "a2v", "v2a")
  c.report.clips = 64
  if args.runlocal:
    c.steps, c.batch.size, c.codec.fit_clips = 4, 4, 16
    c.optim.warmup_steps, c.checkpoint.every, c.log_every = 2, 2, 1
    c.report.clips, c.report.steps, c.report.show = 2, 2, 2
  if args.data:
    # As many rows as the longest caption has bytes, from 80 to 512.
    c.codec.text_length = placeholder(int)
    filters = {"folder": {"captions": ""}, **common.MEDIA}.get(args.source, {})
    c.data.options = {"hop": placeholder(float), **filters}
  else:
    # Of the scene's parts those that a short training can learn at 32 x 32.
    c.data.options = {
      "n_train": 64 if args.runlocal else 2048,
      "n_test": 64,
      "jitter": 0.0,
      "duet": 0.0,
      "shapes": 0.0,
      "texture": 0.03,
      "distractor": 0.0,
      "impacts": 0.0,
    }
  return c.lock()
