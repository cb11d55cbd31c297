"""Stage 1 of the paper: the audio stream alone, text to sound.

  python -m ccl_jax.encode \\
      --config=configs/encode.py:data=SOUNDS,codecs=weights/codecs,out=SET,loudness=-23
  python -m ccl_jax.train --config=configs/audio.py:size=14b,records=SET \\
      --workdir=DIR --distributed
  python -m ccl_jax.generate --ckpt DIR --task t2a --prompt 'rain on a roof' --out out

  :size=14b      the preset: its audio stream, with as many blocks as its video stream
  :records=SET   latents of sounds (or of films, whose pictures are left unread), or a
                 mixture: SPEECH:0.3+SOUNDS:0.7
  :runlocal      a tiny stream, a few steps

The paper: WavCaps, VGGSound and speech; batch 3200, 160 k steps; the learning rate of
1e-4 is a reconstruction. `convert join --audio DIR` puts the stream beside a video one.
"""

from configs import common


def get_config(arg=None):
  """The audio stream alone: no exchange between streams, and the one task `single`."""
  args = common.parse(arg, size="14b", records="", runlocal=False)
  c = common.base()
  c.model.preset = "tiny" if args.runlocal else args.size
  c.model.streams = ("audio",)
  c.model.remat = "full"
  c.tasks.probabilities = {"single": 1.0}
  c.steps = 160_000
  c.data.source = "records"
  c.data.root = args.records
  c.data.options = {"buckets": (), "batch_sizes": ()}  # data.mixture.open_mixture
  c.clip.update({"frames": 121, "height": 352, "width": 640, "fps": 24.0})
  c.batch.size = 3200
  c.codec.text_length, c.codec.text_dim = 512, 4096
  c.optim.groups = ((".*", 1e-4, 0.01),)
  c.optim.warmup_steps = 1000
  c.ema_decay = 0.9999
  if args.runlocal:
    c.steps, c.batch.size = 4, 4
    c.clip.update({"frames": 17, "height": 32, "width": 32, "fps": 24.0})
    c.codec.text_length, c.codec.text_dim = 128, 32
    c.optim.warmup_steps, c.checkpoint.every, c.log_every = 1, 2, 1
  return c.lock()
