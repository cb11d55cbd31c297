"""The paper's ablation on the talking bench: streams alone, then joined, by size.

  python -m ccl_jax.ablation run

trains all of it; a single run is

  python -m ccl_jax.train --config=configs/ablation.py:stage=joint,size=cpu \\
      --workdir=DIR --config.init=JOINED --config.data.root=DATA

  :stage=video   the video stream alone; stage=audio: the audio stream alone
  :stage=joint   both, from what `convert join` made of the two
  :size=cpu      some twenty minutes of a core a run; size=gpu: an accelerator;
                 size=pilot: as cpu; size=runlocal: a few steps
  :longer=4      four times the steps

The model's variant is the command's: `ccl_jax.ablation.variants`.
"""

from configs import common

STAGES = ("video", "audio", "joint")
# Of a size: what it trains, on how many clips, of which kinds of the bench (all, if it
# names none), for how many steps alone and joined.
CPU = {
  "preset": "tiny",
  # A gate that sees all of the other stream learns synchrony late, and the later the
  # longer the clip: with 33 frames of all kinds and 1000 joined steps it was at chance
  # (sync_r0 0.04 +- 0.03), with 17 and 2500 steps too (0.06 +- 0.05). With 9 frames of
  # these kinds and 3000 steps it has 0.38 +- 0.05, where chance is 0.09 and the codecs
  # reach 0.84; with 13, 0.27 +- 0.04, 0.02 and 0.86. These clips have one syllable:
  # when it is said is all there is to hear.
  "clip": {"frames": 13, "height": 32, "width": 32, "fps": 25.0},
  "kinds": ("plain", "half_silent", "contradiction"),
  "text": 48,
  "clips": (4096, 192),
  "batch": 16,
  "steps": (1000, 3000),
}
SIZES = {
  "cpu": CPU,
  "pilot": CPU,
  "gpu": {
    "preset": "small",
    "clip": {"frames": 65, "height": 64, "width": 64, "fps": 25.0},
    "clips": (4096, 192),
    "batch": 64,
    "steps": (2000, 2000),
  },
  "runlocal": {
    "preset": "tiny",
    "clip": {"frames": 17, "height": 32, "width": 32, "fps": 25.0},
    "clips": (16, 12),
    "batch": 4,
    "steps": (2, 4),
  },
}
EXCHANGE = "blocks/(audio_to_video|video_to_audio)/.*"


def get_config(arg=None):
  """One stage: the full method, or one stream and the task `single`."""
  args = common.parse(arg, stage="joint", size="cpu", longer=1)
  for name, known in (("stage", STAGES), ("size", SIZES)):
    if args[name] not in known:
      raise ValueError(
        f"unknown {name} {args[name]!r}; expected one of {', '.join(known)}"
      )
  size, joint = SIZES[args.size], args.stage == "joint"
  c = common.base()
  c.steps = args.longer * size["steps"][joint]
  c.model.preset = size["preset"]
  c.model.dtype = "bfloat16" if args.size == "gpu" else "float32"
  c.clip.update(size["clip"])
  c.data.source = "talking_bench"
  # Faces in their places, as a short training learns no others.
  c.data.options = dict(
    zip(("n_train", "n_test"), size["clips"]), jitter=0.0, shapes=0.0, texture=0.03
  )
  if "kinds" in size:
    c.data.options.kinds = size["kinds"]
  c.batch.size = size["batch"]
  c.batch.threads = 2
  c.codec.text_length, c.codec.text_dim = size.get("text", 112), 128
  c.objective.sigma, c.objective.shift = "logit_normal", 2.0
  c.objective.image_probability = 0.1
  if joint:
    c.optim.groups = ((EXCHANGE, 2e-3, 0.01), (".*", 5e-4, 0.01))
  else:
    c.model.streams = (args.stage,)
    c.tasks.probabilities = {"single": 1.0}
    c.optim.groups = ((".*", 2e-3, 0.01),)
  c.optim.schedule = "cosine"
  c.ema_decay = 0.99
  c.checkpoint.every, c.checkpoint.keep = 500, 1
  c.log_every = 25
  # What `ccl_jax.ablation` scores a finished run on; it has no report of its own.
  c.report.clips, c.report.steps = 100, 16
  if args.size == "runlocal":
    c.codec.fit_clips, c.optim.warmup_steps = 8, 1
    c.checkpoint.every, c.log_every = 2, 1
    c.report.clips, c.report.steps = 4, 2
  return c.lock()
