"""Results of runs as the ablation stores them, with numbers that tests choose."""

import math

VERSION = "3f2a"
SIGMAS = (0.3, 0.6, 0.9)


def cells(**means):
  return {name: {"mean": mean, "sem": 0.03, "n": 64} for name, mean in means.items()}


def result(variant, seed, sync=0.5, *, version=VERSION, **changed):
  """A run whose synchrony is `sync`, half of that in v2a, and 0.1 by chance."""
  entry = lambda sync: {
    "scales": {"video": {"s": 3.0}},
    "scores": cells(sync_r0=sync, ser=1 - sync),
    "chance": cells(sync_r0=0.1, ser=0.9),
  }
  step = list(range(50, 1001, 50))
  loss = [0.4 + math.exp(-k / 200) + 0.01 * seed for k in step]
  return {
    "version": version,
    "variant": variant,
    "seed": seed,
    "size": "cpu",
    "model": {"variant": "context"},
    "parameters": 1_000_000,
    "steps": 1000,
    "seconds": {"train": 700.0, "score": 180.0},
    "machine": "a processor, 2 cores",
    "loss": {"step": step, "loss": loss, "by_task": {"joint/video": loss}},
    "stability": {"difference_std": 0.02, "gradient_cosine": None},
    "guidance": {
      form: {"joint": entry(sync), "v2a": entry(sync / 2)} for form in ("text", "ucg2")
    },
    "information": {
      "joint": {
        stream: {
          f"{sigma}": {
            "loss": 0.5, "shuffled": 0.55, "information": 0.05, "sem": 0.002,
            "share": share, "share_sem": 0.004, "chance": 0.0, "chance_sem": 0.002,
            "n": 128,
          }
          for sigma in SIGMAS
        }
        for stream, share in (("video", sync / 10), ("audio", sync / 5))
      }
    },
    "attention": None,
  } | changed  # fmt: skip
