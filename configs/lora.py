"""A LoRA, or the exchange alone, trained of a model whose parameters stay as they are.

  python -m ccl_jax.train --config=configs/lora.py:init=runs/joint,data=FILMS \\
      --workdir=runs/lora
  python -m ccl_jax.train --config=configs/lora.py:init=weights/joint-14b,size=14b,\\
whole=exchange,records=SET --workdir=runs/exchange

  :init=DIR     the model: a folder of `convert join`, or a run, with its codecs
  :size=14b     its preset
  :rank=16      of the change A B of a kernel
  :alpha=16     the change is alpha / rank A B
  :layers=attention   whose kernels are changed: attention (of both streams), blocks,
                exchange, none, or a regex of whole paths
  :whole=exchange     parameters that are trained themselves, as the exchange between
                streams that were trained apart: no LoRA unless `layers` is given too
  :image_form, :data, :records, :runlocal   as of configs/joint.py

A run saves, and averages, the part that it trains and no more. `generate --ckpt
WORKDIR` adds it to the model that it was trained of; `convert lora --src WORKDIR`
writes it as a file that `generate --lora` and other programs read.
"""

from configs import common, joint


def get_config(arg=None):
  """The recipe of `configs/joint.py` for a part of its parameters."""
  args = common.parse(
    arg,
    init="",
    size="14b",
    rank=16,
    alpha=16.0,
    layers="",
    whole="",
    image_form="first_frame",
    data="",
    records="",
    runlocal=False,
  )
  names = ("size", "init", "image_form", "data", "records", "runlocal")
  own = ",".join(f"{name}={args[name]}" for name in names if args[name] != "")
  c = joint.get_config(own).unlock()
  layers = args.layers or ("" if args.whole else "attention")
  c.lora.update({"rank": args.rank, "alpha": args.alpha, "whole": args.whole})
  c.lora.layers = "" if layers == "none" else layers
  c.optim.groups = ((".*", 1e-4, 0.0),)
  c.steps = 4 if args.runlocal else 2000
  c.batch.size = 8 if args.runlocal else 16
  c.optim.warmup_steps = 1 if args.runlocal else 50
  c.ema_decay = 0.99
  return c.lock()
