"""A set of latents from media: see ccl_jax.encode.

  python -m ccl_jax.encode --config=configs/encode.py:data=FILMS,out=SET

  :codecs=DIR              saved codecs; without, the embedded ones are fitted
  :clips=SHAPE+SHAPE       shapes of clips: a film goes to the one that fits it best
  :source=vggsound         or wavcaps, openhumanvid: media and metadata below `data`; or
                           tfds (a built data set), talking_scene (drawn below `data`)
  :loudness=-23            LUFS that every clip is brought to; without, as recorded
  :video_std               also the deviation of the video VAE's posterior, to train
                           from draws of it (docs/data.md); needs a VAE in `codecs`
  :runlocal                tiny clips and texts

A shape is FRAMESxHEIGHTxWIDTH@FPS, such as 81x480x832@16; or FRAMES..@FPS+TOKENS where
a model has lengths of its own, such as 241x704x1280@24+314 of Ovi.
"""

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from configs import common

CUT = {"kinds": ("film", "silent", "image", "sound"), "hop": placeholder(float)}
OPTIONS = {
  "folder": CUT | {"captions": ""},
  "tfds": CUT,
  **{kind: CUT | filters for kind, filters in common.MEDIA.items()},
  "talking_scene": {"n_train": 20_000, "n_test": 200},
}


def get_config(arg=None):
  """Films, silent films, stills and sounds below `data`, to records below `out`."""
  args = common.parse(
    arg,
    data="",
    codecs="",
    out="",
    clips="121x352x640@24",
    source="folder",
    loudness="",
    video_std=False,
    runlocal=False,
  )
  c = ConfigDict(
    {
      "out": args.out,
      # ccl_jax.data.sources.items.open_items; `options` are those of the source
      "data": {
        "source": args.source,
        "root": args.data,
        "split": "train",
        "options": OPTIONS.get(args.source, {}),
        "loudness": float(args.loudness) if args.loudness else placeholder(float),
      },
      "clips": tuple(args.clips.split("+")),
      "codec": {
        "path": args.codecs,
        "fit_clips": 256,
        "text_length": 512,
        "text_dim": 4096,
      },
      "batch": {"size": 8, "threads": 4},
      "video_std": args.video_std,
      "shard_clips": 256,
    }
  )
  if args.runlocal:
    c.clips = ("17x32x32@24",)
    c.codec.text_length, c.codec.text_dim, c.codec.fit_clips = 128, 32, 16
  return c.lock()
