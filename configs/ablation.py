"""The paper's table 2, one row a run, on the synthetic talking scenes.

  python -m ccl_jax.train --config=configs/ablation.py:row=gate --workdir=runs/gate

  :row=gate     binary gate, global attention, unscaled RoPE
  :row=tarp     the gate with aligned windows
  :row=ccl      aligned windows, context tokens, routing by task (the full method)
  :size=lab     the preset;  :runlocal  tiny sizes, a few steps

The rows with and without UCG differ in guidance only: config.report.guidance.
"""

from configs import common

ROWS = {
  "gate": {"variant": "gate", "tarp": False},
  "tarp": {"variant": "gate", "tarp": True},
  "ccl": {"variant": "context", "tarp": True},
}


def get_config(arg=None):
  """One row of the table: batch 128, 6000 steps, as the paper's ablations."""
  args = common.parse(arg, row="ccl", size="lab", runlocal=False)
  if args.row not in ROWS:
    raise ValueError(f"unknown row {args.row!r}; expected one of {', '.join(ROWS)}")
  c = common.base()
  c.model.update(ROWS[args.row])
  c.model.preset = args.size
  c.model.remat = "full"
  c.steps = 6000
  c.clip = {"frames": 65, "height": 64, "width": 64, "fps": 25.0}
  c.data.source = "talking_scene"
  c.data.options = {"n_train": 20_000, "n_test": 200}
  c.batch.size = 128
  c.codec.text_length, c.codec.text_dim = 128, 256
  c.optim.groups = ((".*", 3e-4, 0.01),)
  c.report.tasks = ("joint", "a2v", "v2a")
  c.report.clips = 100
  c.report.guidance = "ucg2" if args.row == "ccl" else "text"
  if args.runlocal:
    c.model.preset = "tiny"
    c.clip = {"frames": 17, "height": 32, "width": 32, "fps": 25.0}
    c.data.options = {"n_train": 16, "n_test": 4}
    c.steps, c.batch.size, c.codec.fit_clips = 4, 8, 8
    c.optim.warmup_steps, c.checkpoint.every, c.log_every = 1, 2, 1
    c.report.clips, c.report.steps, c.report.show = 2, 2, 2
  return c.lock()
