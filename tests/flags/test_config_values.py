"""The numbers of the configs are the paper's, and what follows a colon changes which.

Of table and section of the paper: tasks 4.4, stages "training recipe", ablations table
2. Numbers that the paper leaves open are those that the documents name.
"""

import pytest

from configs import common, encode
from tests.flags.config_keys import KINDS, arguments, flat, get, names

EXCHANGE = "blocks/(audio_to_video|video_to_audio)/.*"

BASE = {
  "seed": 0, "steps": 1000, "init": "",
  "lora.rank": 16, "lora.alpha": 16.0, "lora.layers": "", "lora.whole": "",
  "model.preset": "tiny", "model.streams": ("video", "audio"),
  "model.patch": None,
  "model.variant": "context", "model.tarp": True, "model.times": "causal",
  "model.tarp_centre": "aligned", "model.window": None, "model.video_window": None,
  "model.rope_unit": None, "model.video_tokens": None, "model.audio_tokens": None,
  "model.context_std": 0.02, "model.context_values": True,
  "model.cross_rope": "3d", "model.image_form": "first_frame", "model.remat": "none",
  "model.dtype": "bfloat16", "model.residual": "float32", "model.attention": "auto",
  "clip.frames": 33, "clip.height": 32, "clip.width": 32, "clip.fps": 25.0,
  "clip.stride": 8, "clip.audio_rate": None,
  "data.source": "folder", "data.root": "", "data.cache_gb": 1.0,
  "batch.size": 8, "batch.threads": 4,
  "codec.path": "", "codec.fit_clips": 256,
  "codec.text_length": 64, "codec.text_dim": 128,
  # Table of tasks: alone, sound to picture, picture to sound, both.
  "tasks.probabilities.single": 0.10, "tasks.probabilities.a2v": 0.15,
  "tasks.probabilities.v2a": 0.15, "tasks.probabilities.joint": 0.60,
  "tasks.draw": "sample",
  "tasks.text_dropout.single": None, "tasks.text_dropout.a2v": None,
  "tasks.text_dropout.v2a": None, "tasks.text_dropout.joint": None,
  "objective.sigma": "uniform", "objective.shift": 5.0,
  "objective.loss_weights": (1.0, 1.0), "objective.text_dropout": 0.1,
  "objective.image_probability": 0.0, "objective.last_image_probability": 0.0,
  "objective.shared_sigma": True,
  "objective.detach": True,
  # The exchange at 1e-4, all else at 1e-5.
  "optim.groups": ((EXCHANGE, 1e-4, 0.01), (".*", 1e-5, 0.01)),
  "optim.warmup_steps": 100, "optim.schedule": "constant",
  "optim.b1": 0.9, "optim.b2": 0.99, "optim.eps": 1e-8, "optim.clip_norm": 1.0,
  "optim.moment_dtype": "float32",
  "accumulate": 1, "ema_decay": 0.999,
  "mesh": (1, -1, 1, 1), "slices": (1, 1, 1, 1),
  "checkpoint.every": 500, "checkpoint.minutes": 0.0, "checkpoint.keep": 2,
  "log_every": 10, "profile": (),
  "log.trackers": (),
  "evaluate.every": 0, "evaluate.clips": 64, "evaluate.root": "",
  "evaluate.sigmas": (0.1, 0.3, 0.5, 0.7, 0.9),
  "report.tasks": (), "report.clips": 16, "report.steps": 20,
  "report.guidance": "ucg2", "report.show": 4,
  "report.scales.video": (2.0,), "report.scales.audio": (2.0,),
}  # fmt: skip

PAPER_CLIP = {
  "clip.frames": 121, "clip.height": 352, "clip.width": 640, "clip.fps": 24.0,
}  # fmt: skip
SMALL_CLIP = {
  "clip.frames": 17, "clip.height": 32, "clip.width": 32, "clip.fps": 24.0,
}  # fmt: skip
FEW_STEPS = {
  "steps": 4, "optim.warmup_steps": 1, "checkpoint.every": 2, "log_every": 1,
}  # fmt: skip
LATENTS = {"data.source": "records", "data.options.buckets": (),
           "data.options.batch_sizes": ()}  # fmt: skip
# Stage 2: batch 320, 12 k steps, 352 x 640, 121 frames at 24 fps.
JOINT = PAPER_CLIP | {
  "model.preset": "14b", "model.remat": "save_attention", "model.residual": "bfloat16",
  "steps": 12_000, "batch.size": 320, "codec.text_length": 512,
  "codec.text_dim": 4096, "objective.image_probability": 0.5,
  "optim.warmup_steps": 500, "ema_decay": 0.9999,
}  # fmt: skip
# A part of a model: a rate for all of it, and a batch that few devices hold.
LORA = JOINT | {
  "optim.groups": ((".*", 1e-4, 0.0),), "steps": 2000, "batch.size": 16,
  "optim.warmup_steps": 50, "ema_decay": 0.99,
}  # fmt: skip
# Stage 1: batch 3200, 160 k steps at 1e-4; one stream, so one task.
AUDIO = PAPER_CLIP | LATENTS | {
  "model.preset": "14b", "model.streams": ("audio",), "model.remat": "full",
  "tasks.probabilities": {"single": 1.0}, "steps": 160_000, "data.root": "",
  "batch.size": 3200, "codec.text_length": 512, "codec.text_dim": 4096,
  "optim.groups": ((".*", 1e-4, 0.01),), "optim.warmup_steps": 1000,
  "ema_decay": 0.9999,
}  # fmt: skip
# Ablations, sized for two cores or a quarter of an hour of one accelerator.
ABLATION = {
  "model.dtype": "float32", "data.source": "talking_bench",
  "data.options.jitter": 0.0, "data.options.shapes": 0.0,
  "data.options.texture": 0.03, "data.options.n_test": 192, "batch.threads": 2,
  "codec.text_length": 112, "codec.text_dim": 128, "objective.sigma": "logit_normal",
  "objective.shift": 2.0, "objective.image_probability": 0.1,
  "optim.schedule": "cosine", "ema_decay": 0.99, "checkpoint.keep": 1,
  "log_every": 25, "report.clips": 100, "report.steps": 16,
  "clip.height": 32, "clip.width": 32, "clip.fps": 25.0,
  "data.options.n_train": 4096, "batch.size": 16,
}  # fmt: skip
# Short clips in which one syllable is said.
CORES = {
  "clip.frames": 13, "codec.text_length": 48,
  "data.options.kinds": ("plain", "half_silent", "contradiction"),
}  # fmt: skip
ALONE = ABLATION | CORES | {
  "steps": 1000, "tasks.probabilities": {"single": 1.0},
  "optim.groups": ((".*", 2e-3, 0.01),),
}  # fmt: skip
# The exchange at 2e-3, all else at 5e-4.
JOINED = ABLATION | {
  "steps": 3000, "optim.groups": ((EXCHANGE, 2e-3, 0.01), (".*", 5e-4, 0.01)),
}  # fmt: skip
QUICKSTART = {
  "steps": 840, "model.dtype": "float32", "model.patch": 1,
  "data.source": "talking_scene", "batch.size": 8, "batch.threads": 2,
  "tasks.probabilities.a2v": 0.25, "tasks.probabilities.v2a": 0.25,
  "tasks.probabilities.joint": 0.4,
  "codec.text_length": 80, "codec.text_dim": 128, "objective.shift": 2.0,
  "objective.sigma": "logit_normal", "objective.image_probability": 0.1,
  "optim.groups": ((".*", 2e-3, 0.01),), "optim.warmup_steps": 100,
  "optim.schedule": "cosine", "ema_decay": 0.99, "checkpoint.every": 1000,
  "log_every": 50, "report.tasks": ("joint", "a2v", "v2a"), "report.clips": 64,
}  # fmt: skip
SCENES = {
  "n_train": 2048, "n_test": 64, "jitter": 0.0, "duet": 0.0, "shapes": 0.0,
  "texture": 0.03, "distractor": 0.0, "impacts": 0.0,
}  # fmt: skip
SCENES = {f"data.options.{k}": v for k, v in SCENES.items()}
QUICK_LOCAL = FEW_STEPS | {
  "batch.size": 4, "codec.fit_clips": 16, "optim.warmup_steps": 2,
  "report.clips": 2, "report.steps": 2, "report.show": 2,
}  # fmt: skip
MEDIA = {
  "min_seconds": 0.0, "max_seconds": float("inf"), "min_side": 0, "speech": "",
  "test_share": 0.02, "data_dir": "",
}  # fmt: skip
HOP = {"hop": None}
OPTIONS = lambda **values: {f"data.options.{k}": v for k, v in values.items()}

OVI = {
  "model.preset": "5b", "model.variant": "fusion",
  "model.residual": "float32", "model.remat": "full",
  "clip.stride": 16, "clip.height": 512, "clip.width": 992, "clip.audio_rate": 31.4,
}  # fmt: skip

# (config, what follows the colon, what then differs from the base)
TRAINING = [
  ("joint", "", JOINT),
  (
    "joint",
    "size=1.3b",
    JOINT
    | {"model.preset": "1.3b", "model.residual": "float32", "model.remat": "full"},
  ),
  ("joint", "init=W,data=FILMS", JOINT | {"init": "W", "data.root": "FILMS"}),
  (
    "joint",
    "size=5b,variant=fusion",
    JOINT | OVI | {"optim.groups": ((EXCHANGE, 1e-5, 0.01), (".*", 1e-5, 0.01))},
  ),
  (
    "joint",
    "size=5b,variant=fusion,train=towers",
    JOINT | OVI | {"optim.groups": ((EXCHANGE, 0.0, 0.01), (".*", 1e-5, 0.01))},
  ),
  (
    "joint",
    "train=exchange",
    JOINT | {"optim.groups": ((EXCHANGE, 1e-4, 0.01), (".*", 0.0, 0.01))},
  ),
  ("joint", "records=A:0.7+B:0.3", JOINT | LATENTS | {"data.root": "A:0.7+B:0.3"}),
  (
    "joint",
    "image_form=channels",
    JOINT | {"model.image_form": "channels", "objective.image_probability": 0.0},
  ),
  (
    "joint",
    "runlocal",
    JOINT | SMALL_CLIP | FEW_STEPS | OPTIONS(n_train=16, n_test=4)
    | {
      "model.preset": "tiny", "model.residual": "float32", "model.remat": "full",
      "batch.size": 8,
      "codec.text_length": 16, "codec.text_dim": 32, "codec.fit_clips": 8,
      "data.source": "talking_scene",
    },
  ),
  (
    "joint",
    "runlocal,data=FILMS",
    JOINT | SMALL_CLIP | FEW_STEPS
    | {
      "model.preset": "tiny", "model.residual": "float32", "model.remat": "full",
      "batch.size": 8,
      "codec.text_length": 16, "codec.text_dim": 32, "codec.fit_clips": 8,
      "data.root": "FILMS",
    },
  ),
  ("lora", "init=M", LORA | {"init": "M", "lora.layers": "attention"}),
  (
    "lora",
    "init=M,size=1.3b,rank=4,alpha=8,layers=blocks,records=S",
    LORA | LATENTS
    | {
      "init": "M", "model.preset": "1.3b", "model.residual": "float32",
      "model.remat": "full",
      "lora.rank": 4, "lora.alpha": 8.0, "lora.layers": "blocks", "data.root": "S",
    },
  ),
  ("lora", "whole=exchange,data=D", LORA | {"lora.whole": "exchange",
                                            "data.root": "D"}),
  (
    "lora",
    "whole=exchange,layers=blocks/video/.*,image_form=channels",
    LORA
    | {
      "lora.whole": "exchange", "lora.layers": "blocks/video/.*",
      "model.image_form": "channels", "objective.image_probability": 0.0,
    },
  ),
  (
    "lora",
    "runlocal,data=FILMS",
    LORA | SMALL_CLIP | FEW_STEPS
    | {
      "lora.layers": "attention", "model.preset": "tiny",
      "model.residual": "float32", "model.remat": "full", "batch.size": 8,
      "codec.text_length": 16,
      "codec.text_dim": 32, "codec.fit_clips": 8, "data.root": "FILMS",
    },
  ),
  ("audio", "", AUDIO),
  ("audio", "size=1.3b,records=S", AUDIO | {"model.preset": "1.3b", "data.root": "S"}),
  (
    "audio",
    "runlocal,size=14b",
    AUDIO | SMALL_CLIP | FEW_STEPS
    | {
      "model.preset": "tiny", "batch.size": 4, "codec.text_length": 128,
      "codec.text_dim": 32,
    },
  ),
  ("ablation", "", JOINED | CORES),
  ("ablation", "size=pilot", JOINED | CORES),
  ("ablation", "longer=4", JOINED | CORES | {"steps": 12_000}),
  ("ablation", "stage=video", ALONE | {"model.streams": ("video",)}),
  ("ablation", "stage=audio", ALONE | {"model.streams": ("audio",)}),
  (
    "ablation",
    "size=gpu",
    JOINED
    | {
      "model.preset": "small", "model.dtype": "bfloat16", "steps": 2000,
      "clip.frames": 65, "clip.height": 64, "clip.width": 64, "batch.size": 64,
    },
  ),
  (
    "ablation",
    "size=runlocal",
    JOINED | FEW_STEPS
    | OPTIONS(n_train=16, n_test=12, jitter=0.0, shapes=0.0, texture=0.03)
    | {
      "clip.frames": 17, "batch.size": 4, "codec.fit_clips": 8, "report.clips": 4,
      "report.steps": 2,
    },
  ),
  ("quickstart", "", QUICKSTART | SCENES),
  ("quickstart", "seed=3", QUICKSTART | SCENES | {"seed": 3}),
  (
    "quickstart",
    "runlocal",
    QUICKSTART | SCENES | QUICK_LOCAL | {"data.options.n_train": 64},
  ),
  (
    "quickstart",
    "data=FILMS",
    QUICKSTART | OPTIONS(**HOP, captions="")
    | {"codec.text_length": None}
    | {"data.source": "folder", "data.root": "FILMS"},
  ),
  (
    "quickstart",
    "data=V,source=vggsound",
    QUICKSTART | OPTIONS(**HOP, **MEDIA)
    | {"codec.text_length": None}
    | {"data.source": "vggsound", "data.root": "V"},
  ),
  (
    "quickstart",
    "data=V,source=openhumanvid",
    QUICKSTART | OPTIONS(**HOP, **MEDIA, caption="", min_scores=())
    | {"codec.text_length": None}
    | {"data.source": "openhumanvid", "data.root": "V"},
  ),
]  # fmt: skip


@pytest.mark.parametrize(("name", "argument", "changes"), TRAINING)
def test_a_training_config(name, argument, changes):
  expected = {k: v for k, v in BASE.items()} | changes
  if isinstance(changes.get("tasks.probabilities"), dict):
    del expected["tasks.probabilities"]
    expected = {k: v for k, v in expected.items() if "probabilities" not in k}
    expected["tasks.probabilities.single"] = 1.0
  if not any(k.startswith("data.options.") for k in changes):
    expected["data.options"] = {}
  expected["model.blocks"] = {}
  found = {
    k: v.to_dict() if hasattr(v, "to_dict") else v
    for k, v in flat(get(name, argument)).items()
  }
  assert found == expected


def test_a_part_to_train_that_is_none():
  with pytest.raises(ValueError, match="train 'fusion': expected all, exchange or tow"):
    get("joint", "train=fusion")


def test_the_base_itself():
  found = {k: v for k, v in flat(common.base()).items() if k in BASE}
  assert found == BASE


CUT = {"kinds": ("film", "silent", "image", "sound"), "hop": None}
ENCODE = {
  "out": "", "data.source": "folder", "data.root": "", "data.split": "train",
  "data.loudness": None, "clips": ("121x352x640@24",), "codec.path": "",
  "codec.fit_clips": 256, "codec.text_length": 512, "codec.text_dim": 4096,
  "batch.size": 8, "batch.threads": 4, "video_std": False, "shard_clips": 256,
}  # fmt: skip
ENCODING = [
  ("", OPTIONS(**CUT, captions="")),
  ("out=S,data=D,codecs=C", OPTIONS(**CUT, captions="")
   | {"out": "S", "data.root": "D", "codec.path": "C"}),
  ("loudness=-23", OPTIONS(**CUT, captions="") | {"data.loudness": -23.0}),
  ("video_std", OPTIONS(**CUT, captions="") | {"video_std": True}),
  ("video_std=0", OPTIONS(**CUT, captions="")),
  ("clips=81x480x832@16+17x32x48@25", OPTIONS(**CUT, captions="")
   | {"clips": ("81x480x832@16", "17x32x48@25")}),
  ("runlocal", OPTIONS(**CUT, captions="")
   | {"clips": ("17x32x32@24",), "codec.text_length": 128, "codec.text_dim": 32,
      "codec.fit_clips": 16}),
  ("source=tfds", OPTIONS(**CUT) | {"data.source": "tfds"}),
  ("source=vggsound", OPTIONS(**CUT, **MEDIA) | {"data.source": "vggsound"}),
  ("source=wavcaps", OPTIONS(**CUT, **MEDIA) | {"data.source": "wavcaps"}),
  ("source=openhumanvid", OPTIONS(**CUT, **MEDIA, caption="", min_scores=())
   | {"data.source": "openhumanvid"}),
  ("source=talking_scene", OPTIONS(n_train=20_000, n_test=200)
   | {"data.source": "talking_scene"}),
]  # fmt: skip


@pytest.mark.parametrize(("argument", "changes"), ENCODING)
def test_the_config_of_encode(argument, changes):
  assert flat(get("encode", argument)) == ENCODE | changes


def test_encode_knows_every_source():
  assert {a.partition("source=")[2] for a, _ in ENCODING if "source" in a} | {
    "folder"
  } == set(encode.OPTIONS)


SOUND = {
  "seed": 0, "data.root": "", "data.test": "", "data.cache_gb": 8.0,
  "batch.threads": 8, "mesh": (-1, 1, 1, 1), "checkpoint.every": 1000,
  "checkpoint.minutes": 0.0, "checkpoint.keep": 2, "log_every": 100,
  "profile": (), "score.windows": 64,
  "log.trackers": (),
  "score.samples": 32_768,
}  # fmt: skip
VAE = SOUND | {
  "kind": "audio-vae", "steps": 200_000, "window": 65_536, "batch.size": 64,
  "model.hidden": 384, "loss.kl_weight": 1e-3, "loss.modulation_weight": 0.2,
  "optim.lr": 5e-3, "optim.warmup_steps": 1000, "optim.schedule": "cosine",
  "optim.b1": 0.9, "optim.b2": 0.99, "optim.clip_norm": 1e9, "ema_decay": 0.9995,
}  # fmt: skip
# BigVGAN's published recipe.
VOCODER = SOUND | {
  "kind": "vocoder", "steps": 1_000_000, "window": 8192, "batch.size": 32,
  "model.channels": 1536, "model.rates": (4, 4, 2, 2, 2, 2),
  "model.kernels": (8, 8, 4, 4, 4, 4),
  "model.blocks": ((3, (1, 3, 5)), (7, (1, 3, 5)), (11, (1, 3, 5))),
  "model.bias": True, "model.tanh": True, "critic.width": 32,
  "critic.periods": (2, 3, 5, 7, 11),
  "critic.resolutions": ((1024, 120, 600), (2048, 240, 1200), (512, 50, 240)),
  "vae.path": "", "vae.from_step": 500_000, "loss.spectral_weight": 0.0,
  "loss.spectral_floor": 1e-9, "loss.adversary_from": 0, "optim.lr": 1e-4,
  "optim.decay": 0.9999996, "optim.warmup_steps": 0, "optim.b1": 0.8,
  "optim.b2": 0.99, "optim.weight_decay": 0.01, "optim.clip_norm": 1000.0,
  "ema_decay": 0.0,
}  # fmt: skip
SCORED = {"score.windows": 4, "score.samples": 8192}
SOUNDS = [
  ("audio_vae", "", VAE),
  ("audio_vae", "data=D,test=T,seed=4", VAE
   | {"data.root": "D", "data.test": "T", "seed": 4}),
  ("audio_vae", "size=tiny", VAE
   | {"model.hidden": 64, "window": 16_384, "batch.size": 8, "steps": 10_000,
      "optim.lr": 1e-2, "optim.warmup_steps": 100, "ema_decay": 0.995,
      "batch.threads": 2, "checkpoint.every": 500, "log_every": 50}),
  ("audio_vae", "runlocal", VAE | FEW_STEPS | SCORED
   | {"model.hidden": 8, "window": 8192, "batch.size": 4, "batch.threads": 2}),
  ("vocoder", "", VOCODER),
  ("vocoder", "data=D,test=T,seed=4,vae=V", VOCODER
   | {"data.root": "D", "data.test": "T", "seed": 4, "vae.path": "V"}),
  ("vocoder", "size=tiny", VOCODER
   | {"model.channels": 512, "model.rates": (1, 1, 4, 8, 8),
      "model.kernels": (1, 1, 8, 16, 16), "model.blocks": ((3, (1,)),),
      "critic.width": 4, "steps": 120_000, "batch.size": 1, "batch.threads": 2,
      "vae.from_step": 40_000, "loss.spectral_weight": 45.0,
      "loss.spectral_floor": 1e-6, "loss.adversary_from": -1, "optim.lr": 5e-4,
      "optim.decay": 0.99997, "optim.warmup_steps": 30, "ema_decay": 0.999,
      "checkpoint.every": 2000, "log_every": 200}),
  ("vocoder", "runlocal", VOCODER | SCORED
   | {"model.channels": 16, "model.rates": (8, 8, 4), "model.kernels": (16, 16, 8),
      "model.blocks": ((3, (1,)),), "critic.width": 1, "critic.periods": (2,),
      "critic.resolutions": ((512, 50, 240),), "steps": 4, "batch.size": 4,
      "batch.threads": 2, "loss.adversary_from": 2, "vae.from_step": 2,
      "checkpoint.every": 2, "log_every": 1}),
]  # fmt: skip


@pytest.mark.parametrize(("name", "argument", "expected"), SOUNDS)
def test_a_config_of_sound(name, argument, expected):
  assert flat(get(name, argument)) == expected


def test_every_argument_is_tried():
  tried = [(n, a) for n, a, _ in (*TRAINING, *SOUNDS)]
  tried += [("encode", a) for a, _ in ENCODING]
  given = {(n, x.partition("=")[0]) for n, a in tried for x in a.split(",")}
  assert {(n, a) for n in names() for a in arguments(n)} <= given


def test_every_config_has_a_kind():
  assert names() == {name for members in KINDS.values() for name in members}


def test_what_follows_the_colon_has_types_and_names():
  parse = common.parse
  defaults = {"size": "a", "quick": False, "seed": 0, "rate": 0.5}
  assert parse("seed=3,quick,rate=2", **defaults).to_dict() == {
    "size": "a", "quick": True, "seed": 3, "rate": 2.0,
  }  # fmt: skip
  assert parse(None, **defaults).to_dict() == defaults
  for text, value in (("1", True), ("true", True), ("0", False), ("false", False)):
    assert parse(f"quick={text}", **defaults).quick is value
  assert parse("size=a=b", **defaults).size == "a=b"
  with pytest.raises(ValueError, match="'sise' .* size, quick, seed, rate"):
    parse("sise=3", **defaults)
  for text in ("size=", "size", "seed=", "quick,rate="):  # as of an unset $FILMS
    with pytest.raises(ValueError, match="argument (size|seed|rate) is empty"):
      parse(text, **defaults)
  for text in ("yes", "2", "FALSE"):
    with pytest.raises(ValueError, match=f"quick: got '{text}'; expected true or fal"):
      parse(f"quick={text}", **defaults)


@pytest.mark.parametrize(
  ("name", "argument", "words"),
  [
    ("ablation", "stage=full", "'full'.*video, audio, joint"),
    ("ablation", "size=lab", "'lab'.*cpu, pilot, gpu, runlocal"),
    ("vocoder", "size=44k", "'44k'.*16k or tiny"),
    ("audio_vae", "vae=V", "unknown argument 'vae'"),
  ],
)
def test_an_argument_that_is_none(name, argument, words):
  with pytest.raises(ValueError, match=words):
    get(name, argument)


@pytest.mark.parametrize("name", sorted(names()))
def test_a_misspelt_key_is_refused(name):
  """Configs are locked."""
  with pytest.raises((KeyError, AttributeError)):
    get(name).stepps = 3
