"""Stage 2 of the paper: video and audio streams trained together.

  python -m ccl_jax.train --config=configs/joint.py:size=14b,init=weights/joint-14b \\
      --workdir=DIR --distributed

  :size=14b    the preset: tiny, lab, 1.3b, 5b (Wan2.2's VAE) or 14b (20 B parameters)
  :init=DIR    what to start from: a folder of `convert join`, with its codecs
  :image_form=channels   where the video stream is a Wan2.1-I2V
  :variant=fusion        with size=5b and init=OVI, a converted Ovi as it is
  :train=exchange   or towers: the other part stays as it starts, bit for bit
  :runlocal    tiny sizes, a few steps
  :records=SET   latents that ccl_jax.encode made, or SET_A:0.7+SET_B:0.3; the clips'
                 sizes are theirs

The paper: batch 320, 12 k steps, 352 x 640, 121 frames at 24 fps; the exchange learns
at 1e-4, the pretrained streams at 1e-5. Ovi's exchange is pretrained too, and clips of
variant fusion have the size of its first release, 121 frames of 512 x 992.
"""

from configs import common

EXCHANGE = "blocks/(audio_to_video|video_to_audio)/.*"


def get_config(arg=None):
  """The paper's recipe; clips are read from `config.data.root`.

  Raises:
    ValueError: an argument that there is none of, or a part to train that is none.
  """
  args = common.parse(
    arg,
    size="14b",
    runlocal=False,
    data="",
    records="",
    init="",
    image_form="first_frame",
    variant="context",
    train="all",
  )
  if args.train not in ("all", "exchange", "towers"):
    raise ValueError(f"train {args.train!r}: expected all, exchange or towers")
  c = common.base()
  c.model.preset = "tiny" if args.runlocal else args.size
  c.model.remat = "full"
  if args.size == "5b" and not args.runlocal:
    c.clip.stride = 16  # Wan2.2's VAE
  if args.size == "14b" and not args.runlocal:
    c.model.residual = "bfloat16"  # else 25 GiB a 480p clip: docs/scale.md
    c.model.remat = "save_attention"  # 13 GiB a 480p clip buy a tenth of the step
  c.steps = 12_000
  c.init = args.init
  c.data.source = "records" if args.records else "folder"
  c.data.root = args.records or args.data
  if args.records:  # ccl_jax.data.sets.mixture.open_mixture
    c.data.options = {"buckets": (), "batch_sizes": ()}
  c.clip.update({"frames": 121, "height": 352, "width": 640, "fps": 24.0})
  if args.variant == "fusion":
    c.clip.height, c.clip.width = 512, 992
    c.clip.audio_rate = 31.4  # Ovi's lengths of sound
  c.batch.size = 320
  c.codec.text_length, c.codec.text_dim = 512, 4096
  c.model.image_form, c.model.variant = args.image_form, args.variant
  c.objective.image_probability = 0.5 if args.image_form == "first_frame" else 0.0
  # A rate of 0 freezes.
  exchange, towers = (1e-5 if args.variant == "fusion" else 1e-4), 1e-5
  c.optim.groups = (
    (EXCHANGE, exchange * (args.train != "towers"), 0.01),
    (".*", towers * (args.train != "exchange"), 0.01),
  )
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
