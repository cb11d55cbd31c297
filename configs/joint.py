"""Stage 2 of the paper: video and audio streams trained together.

  python -m ccl_jax.train --config=configs/joint.py:size=14b,init=weights/joint-14b \\
      --workdir=DIR --distributed

  :size=14b    the preset: tiny, lab, 1.3b, 5b (Wan2.2's VAE) or 14b (20 B parameters)
  :init=DIR    what to start from: a folder of `convert join`, with its codecs
  :image_form=channels   where the video stream is a Wan2.1-I2V
  :runlocal    tiny sizes, a few steps
  :records=SET   latents that ccl_jax.encode made, or SET_A:0.7+SET_B:0.3; the clips'
                 sizes are theirs

The paper: batch 320, 12 k steps, 352 x 640, 121 frames at 24 fps; the exchange learns
at 1e-4, the pretrained streams at 1e-5.
"""

from configs import common


def get_config(arg=None):
  """The paper's recipe; clips are read from `config.data.root`."""
  args = common.parse(
    arg,
    size="14b",
    runlocal=False,
    data="",
    records="",
    init="",
    image_form="first_frame",
  )
  c = common.base()
  c.model.preset = "tiny" if args.runlocal else args.size
  c.model.remat = "full"
  if args.size == "5b" and not args.runlocal:
    c.clip.stride = 16  # Wan2.2's VAE
  if args.size == "14b" and not args.runlocal:
    c.model.residual = "bfloat16"  # else 25 GiB a 480p clip: docs/scale.md
  c.steps = 12_000
  c.init = args.init
  c.data.source = "records" if args.records else "folder"
  c.data.root = args.records or args.data
  if args.records:  # ccl_jax.data.sets.mixture.open_mixture
    c.data.options = {"buckets": (), "batch_sizes": ()}
  c.clip.update({"frames": 121, "height": 352, "width": 640, "fps": 24.0})
  c.batch.size = 320
  c.codec.text_length, c.codec.text_dim = 512, 4096
  c.model.image_form = args.image_form
  c.objective.image_probability = 0.5 if args.image_form == "first_frame" else 0.0
  c.optim.warmup_steps = 500
  c.ema_decay = 0.9999
  if args.runlocal:
    c.steps, c.batch.size = 4, 8
    c.clip.update({"frames": 17, "height": 32, "width": 32, "fps": 24.0})
    c.codec.text_length, c.codec.text_dim, c.codec.fit_clips = 16, 32, 8
    c.optim.warmup_steps, c.checkpoint.every, c.log_every = 1, 2, 1
    if not c.data.root:
      c.data.source = "talking_scene"
      c.data.options = {"n_train": 16, "n_test": 4}
  return c.lock()
