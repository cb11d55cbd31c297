"""Trains an audio VAE or a vocoder of your own, from a folder of sounds.

  python -m ccl_jax.train_audio --config=configs/audio_vae.py:data=SOUNDS \\
      --workdir=runs/vae
  python -m ccl_jax.train_audio \\
      --config=configs/vocoder.py:data=SOUNDS,vae=runs/vae --workdir=runs/vocoder
  python -m ccl_jax.convert codecs --audio runs/vae/audio-vae runs/vocoder/vocoder \\
      --dst weights/codecs

SOUNDS holds wav, flac, mp3, m4a, ogg, opus, or films (mp4, mov, mkv, avi), at any rate
and in any layout; a tenth is held out, and scored at the end beside the embedded linear
codec of the same rate (WORKDIR/scores.json). What you train is yours: the released
weights of these two networks are for non-commercial use only (docs/licences.md).

Add size=tiny for networks that learn on a laptop's processor, runlocal for a few steps
to see that everything works. The same command goes on where WORKDIR stopped.
"""

from ccl_jax import progress

if __name__ == "__main__":
  progress.starting()  # before the imports that take seconds

import json

import jax
from absl import flags
from ml_collections import config_flags

from ccl_jax import cli
from ccl_jax.audio_codec.run import train
from ccl_jax.remote.paths import place

CONFIG = config_flags.DEFINE_config_file(
  "config", None, "Config file of the run, with its arguments: FILE:NAME=VALUE,..."
)
WORKDIR = flags.DEFINE_string(
  "workdir", None, "Folder of the run; a run that is in it is resumed."
)
ALLOW_CHANGES = flags.DEFINE_bool(
  "allow_changes",
  False,
  "Go on with a run though its config is another; the differences are shown.",
)
BUCKETS = "--workdir", "config.vae.path"
flags.mark_flags_as_required(["config", "workdir"])


def main():
  """Trains by the flags, then prints the scores."""
  example = "configs/audio_vae.py or configs/vocoder.py"
  config = cli.require_config(CONFIG.value, ("kind", "model", "optim"), example)
  done = train(config, WORKDIR.value, allow_changes=ALLOW_CHANGES.value)
  if jax.process_index():
    return
  if not done:
    print(json.dumps({"stopped": True, "workdir": WORKDIR.value}))
    return
  print((place(WORKDIR.value) / "scores.json").read_text(), end="")


if __name__ == "__main__":
  cli.run(main, BUCKETS)
