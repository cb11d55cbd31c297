"""The configuration every other one starts from, and how `:arg` is read.

`--config=configs/joint.py:size=14b,runlocal --config.optim.warmup_steps=10`: what
follows the colon goes to `get_config(arg)`, further flags override single keys.
"""

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

# Options of the builders of media (ccl_jax.data.sources.media_builder), by source.
_FILTERS = {
  "min_seconds": 0.0,
  "max_seconds": float("inf"),
  "min_side": 0,
  "speech": "",
  "test_share": 0.02,
  "data_dir": "",
}
MEDIA = {
  "vggsound": _FILTERS,
  "wavcaps": _FILTERS,
  "openhumanvid": _FILTERS | {"caption": "", "min_scores": ()},
}


_TRUE, _FALSE = ("1", "true", "True"), ("0", "false", "False")


def parse(arg: str | None, **defaults) -> ConfigDict:
  """Reads arguments "a=1,b" into the types of their defaults; a bare name is True.

  Raises:
    ValueError: an argument without a default, or one whose value is none of its type:
      an empty one may be a variable of a shell that is not set.
  """
  out = ConfigDict(defaults)
  for item in filter(None, (arg or "").split(",")):
    name, _, value = item.partition("=")
    if name not in out:
      raise ValueError(
        f"unknown argument {name!r} of this config; expected {', '.join(defaults)}"
      )
    kind = type(defaults[name])
    if kind is bool and value not in ("", *_TRUE, *_FALSE):
      raise ValueError(f"argument {name}: got {value!r}; expected true or false")
    if kind is not bool and not value:
      raise ValueError(f"argument {name} is empty; expected {name}=VALUE, or none")
    out[name] = (value in ("", *_TRUE)) if kind is bool else kind(value)
  return out


def base() -> ConfigDict:
  """Defaults of a training run; each section is the keywords of one function."""
  return ConfigDict(
    {
      "seed": 0,
      "steps": 1000,
      # Where the parameters come from: a joined or converted model, or a run; "" draws
      # them. A run that has a checkpoint goes on from that.
      "init": "",
      # ccl_jax.models.adapter.Adapter: the part of `init` that is trained, and all else
      # stays as it is; without a pattern, all is trained.
      "lora": {"rank": 16, "alpha": 16.0, "layers": "", "whole": ""},
      # ccl_jax.models.presets.build_model
      "model": {
        "preset": "tiny",
        "streams": ("video", "audio"),
        # Rows and columns of the latent that a video token covers: 1 or, unset, 2.
        "patch": placeholder(int),
        "variant": "context",
        "tarp": True,
        # When latent frames are: "causal", the first of one picture and the others of
        # four; or the paper's "uniform", with windows about `tarp_centre`.
        "times": "causal",
        "tarp_centre": "aligned",
        # What the exchange sees: audio tokens in multiples of those of a latent frame,
        # and latent frames; 0: all. Unset: 1 and 1; with uniform times 3 and 1.
        "window": placeholder(int),
        "video_window": placeholder(int),
        # "token", "latent" or "index" (not aligned). Unset: token; with uniform times
        # latent.
        "rope_unit": placeholder(str),
        "cross_rope": "3d",
        # Context tokens of either stream; unset: the preset's. How large they start,
        # and whether they have values.
        "video_tokens": placeholder(int),
        "audio_tokens": placeholder(int),
        "context_std": 0.02,
        "context_values": True,
        "image_form": "first_frame",
        "remat": "none",
        "dtype": "bfloat16",
        # Of the residual stream from block to block: what full remat keeps.
        "residual": "float32",
        # dense, chunked, splash (TPU), cudnn or tokamax (GPU); auto: by the device
        "attention": "auto",
        "blocks": ConfigDict(),
      },
      # ccl_jax.data.spec.ClipSpec
      # `stride`: pixels of a latent's side, 16 for Wan2.2's VAE. `audio_rate`: audio
      # tokens a second, 31.4 for Ovi; unset: as many as the picture lasts.
      "clip": {
        "frames": 33,
        "height": 32,
        "width": 32,
        "fps": 25.0,
        "stride": 8,
        "audio_rate": placeholder(float),
      },
      # ccl_jax.data.sources.open.open_source; `options` are those of the source.
      # Decoded clips are kept in memory up to `cache_gb`.
      "data": {"source": "folder", "root": "", "options": {}, "cache_gb": 1.0},
      "batch": {"size": 8, "threads": 4},
      # A folder of saved codecs, or "" to fit the embedded ones to the data.
      "codec": {"path": "", "fit_clips": 256, "text_length": 64, "text_dim": 128},
      "tasks": {
        "probabilities": {"single": 0.10, "a2v": 0.15, "v2a": 0.15, "joint": 0.60},
        "draw": "sample",  # or "step": one task a step, with a static route
        # By task, in place of objective.text_dropout.
        "text_dropout": {
          "single": placeholder(float),
          "a2v": placeholder(float),
          "v2a": placeholder(float),
          "joint": placeholder(float),
        },
      },
      "objective": {
        "sigma": "uniform",
        "shift": 5.0,
        "loss_weights": (1.0, 1.0),
        "text_dropout": 0.1,
        "image_probability": 0.0,
        "last_image_probability": 0.0,
        "shared_sigma": True,  # of both streams in the task joint
        "detach": True,  # clean streams, from the loss of the other
      },
      "optim": {
        # (pattern of the whole path, learning rate, weight decay); first match wins
        "groups": (
          ("blocks/(audio_to_video|video_to_audio)/.*", 1e-4, 0.01),
          (".*", 1e-5, 0.01),
        ),
        "warmup_steps": 100,
        "schedule": "constant",
        "b1": 0.9,
        "b2": 0.99,
        "eps": 1e-8,
        "clip_norm": 1.0,
        "moment_dtype": "float32",
      },
      "accumulate": 1,
      "ema_decay": 0.999,
      "mesh": (1, -1, 1, 1),  # data, fsdp, context, tensor
      "slices": (1, 1, 1, 1),  # of each, the parts on slices joined by a slow network
      # Saved every so many steps or, where that is not 0, so many minutes.
      "checkpoint": {"every": 500, "minutes": 0.0, "keep": 2},
      "log_every": 10,
      # Whom to tell beside TensorBoard: "wandb", "mlflow" (ccl_jax.training.trackers).
      "log": {"trackers": ()},
      # Held-out loss by task and noise level every so many steps (0: never), on `clips`
      # clips of the source's test split or, where it has none, of the data at `root`.
      "evaluate": {
        "every": 0,
        "clips": 64,
        "root": "",
        "sigmas": (0.1, 0.3, 0.5, 0.7, 0.9),
      },
      # (first, last) step of an xprof trace in WORKDIR/profile.
      "profile": (),
      # What a finished run shows: see ccl_jax.generation.report.
      "report": {
        "tasks": (),
        "clips": 16,
        "steps": 20,
        "guidance": "ucg2",
        # By stream, one value for each scale of the form; (): those the form has.
        "scales": {"video": (2.0,), "audio": (2.0,)},
        "show": 4,
      },
    }
  )


def audio_network(
  arg: str | None, kind: str, **options
) -> tuple[ConfigDict, ConfigDict]:
  """The arguments, and the settings that both networks of an audio codec share.

  Args:
    arg: the text after the config file's colon.
    kind: "audio-vae" or "vocoder".
    options: further arguments than data, test, size, runlocal and seed.

  Raises:
    ValueError: unknown arguments, or another size than 16k or tiny.
  """
  args = parse(arg, data="", test="", **options, size="16k", runlocal=False, seed=0)
  if args.size not in ("16k", "tiny"):
    raise ValueError(f"size {args.size!r}: expected 16k or tiny")
  return args, ConfigDict(
    {
      "kind": kind,
      "seed": args.seed,
      # ccl_jax.data.sources.sounds.Sounds; all is decoded once if it fits
      "data": {"root": args.data, "test": args.test, "cache_gb": 8.0},
      "batch": {"threads": 8},
      "mesh": (-1, 1, 1, 1),  # data, fsdp, context, tensor
      "checkpoint": {"every": 1000, "minutes": 0.0, "keep": 2},
      "log_every": 100,
      "log": {"trackers": ()},
      "profile": (),  # (first, last) step of an xprof trace in WORKDIR/profile
      # What a finished run is scored on; as many clicks as windows.
      "score": {"windows": 64, "samples": 32_768},
    }
  )
