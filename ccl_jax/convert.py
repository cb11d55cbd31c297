"""Brings published weights in, and takes them out again.

  python -m ccl_jax.convert wan --src hf:Wan-AI/Wan2.1-T2V-14B \\
      --dst weights/t2v-14b --verify
  python -m ccl_jax.generate --ckpt weights/t2v-14b --task t2v --out out \\
      --prompt "a cat yawns"

`wan` takes all that a download of Wan2.1 or Wan2.2-TI2V-5B holds: transformer, VAE,
text encoder and, of I2V, image encoder. `ovi` does so of the folder with Ovi,
Wan2.2-TI2V-5B and MMAudio in it, or of one of several files in Ovi. The others take one
network:

  python -m ccl_jax.convert wan-dit --src model_bf16.safetensors --dst weights/t2v \\
      --dtype float32
  python -m ccl_jax.convert audio-vae --src v1-16.pth --dst weights/audio-vae
  python -m ccl_jax.convert vocoder --src best_netG.pt --dst weights/vocoder
  python -m ccl_jax.convert export --format diffusers --src weights/t2v-14b --dst out
  python -m ccl_jax.convert join --video weights/t2v-14b --audio runs/audio \\
      --size 14b --dst weights/joint-14b
  python -m ccl_jax.convert lora --format diffusers --model weights/t2v-14b \\
      --src style.safetensors --dst style_diffusers.safetensors
  python -m ccl_jax.convert codecs --dst weights/codecs --video weights/vae \\
      --audio weights/audio-vae weights/vocoder --text weights/umt5

SRC is hf:OWNER/NAME[@REVISION][/PATH] of the Hugging Face Hub, of which the files come
that are read; or a folder as it was downloaded, a file, or an index.json. It may be
.safetensors or .pth, one file or shards, original or diffusers names; in fp8 too, with
the scales of ComfyUI, LightX2V or musubi, as what it stands for. Nothing is taken on
trust: every tensor must be known, of the expected shape, and used exactly once.

DST becomes a folder with config.json (what it is, its sizes, a hash of the source),
tensors.json (a hash of every tensor) and checkpoints/0, the parameters as training
restores them: sharded, no host holding them all. It appears when it is whole; memory
holds one tensor at a time. What is imported and exported again is the same, bit by bit;
of the vocoder, each kernel, whose weight norm is folded, in place of the two tensors
that make it.
"""

import argparse
import signal
import sys

from ccl_jax import cli, progress
from ccl_jax.checkpoints.find import RELEASES
from ccl_jax.places import hold_new
from ccl_jax.remote.paths import place
from ccl_jax.weights.sources import SOURCES
from ccl_jax.weights.transfer import DTYPES, export_weights, import_weights
from ccl_jax.weights.upstream import LICENCES

BUCKETS = ["src", "dst", "video", "audio", "text", "image", "model"]


def _parser() -> argparse.ArgumentParser:
  def command(name, text):
    terms = f"Licence: {LICENCES[name]}." if name in LICENCES else ""
    source = f"To get it: {SOURCES[name]}" if name in SOURCES else ""
    sub = commands.add_parser(
      name,
      help=f"{text}. {terms}" if terms else text,
      description=f"{name}: {text}\n\n{__doc__}",
      epilog="\n".join(filter(None, (source, terms))),
    )
    what = "File, *.safetensors," if name == "lora" else "Folder"
    sub.add_argument(
      "--dst", required=True, help=f"{what} to write; it must not exist yet."
    )
    return sub

  parser = cli.Parser(
    prog="python -m ccl_jax.convert",
    description=__doc__,
    buckets=BUCKETS,
  )
  commands = parser.add_subparsers(
    dest="command", required=True, parser_class=cli.Parser, metavar="COMMAND"
  )
  texts = {
    "wan": "a whole download of Wan2.1 or Wan2.2-TI2V-5B; the same command continues "
    "an interrupted one",
    "ovi": "a whole Ovi download with all its codecs; continues as wan does",
    "ovi-dit": "Ovi's two towers and their fusion, to both streams",
    "wan-dit": "Wan's diffusion transformer, T2V, I2V or TI2V, to a video stream",
    "wan-vae": "Wan2.1's video VAE",
    "wan22-vae": "Wan2.2's video VAE, of TI2V-5B and Ovi",
    "umt5": "the UMT5-XXL text encoder",
    "clip": "the CLIP ViT-H image encoder",
    "aesthetics": "AudioBox Aesthetics, the scorer of PQ, CU, CE and PC",
    "i3d": "I3D of Kinetics-400, the features of FVD",
    "vggish": "VGGish, the features of FAD",
    "syncnet": "SyncNet, which scores lip sync",
    "s3fd": "the S3FD face detector",
    "synchformer": "Synchformer, for DeSync",
    "imagebind": "ImageBind's vision and audio towers, for the IB-score",
    "audio-vae": "MMAudio's VAE of mel spectrograms, 16 or 44.1 kHz",
    "vocoder": "BigVGAN's generator, MMAudio's at 16 kHz or NVIDIA's",
  }
  dtype = "Type to store parameters in; default: that of SRC."
  verify = "Read every tensor back and compare it with SRC."
  for kind in texts:
    sub = command(kind, texts[kind])
    sub.add_argument(
      "--src",
      required=True,
      help="Checkpoint to read: hf:OWNER/NAME, a folder, a file or an index.json.",
    )
    sub.add_argument("--dtype", choices=DTYPES, help=dtype)
    sub.add_argument("--verify", action="store_true", help=verify)
  sub = command("join", "a joint model from a video stream and an audio stream")
  sub.add_argument(
    "--video",
    required=True,
    help="Video stream: a converted Wan or Ovi, or a training run.",
  )
  sub.add_argument(
    "--audio",
    help="Audio stream: a converted Ovi or a training run; default: random parameters.",
  )
  sub.add_argument(
    "--size", required=True, help="Preset of the joint model: 1.3b, 14b, ..."
  )
  sub.add_argument(
    "--variant",
    default="context",
    help="Exchange between the streams: context (default), gate or fusion.",
  )
  sub.add_argument(
    "--seed",
    type=int,
    default=0,
    help="Seed of the parameters that are not pretrained.",
  )
  for stream in ("video", "audio"):
    sub.add_argument(
      f"--{stream}_tokens",
      type=int,
      help=f"Context tokens in place of the {stream}; default: those of the preset.",
    )
  sub = command(
    "lora", "a LoRA under other names: ComfyUI's, diffusers' or ours (docs/lora.md)"
  )
  sub.add_argument(
    "--src", required=True, help="LoRA in any spelling, or a run of configs/lora.py."
  )
  sub.add_argument(
    "--model",
    help="Model that it is for: converted weights or a training run; default: of a run "
    "of configs/lora.py, what it was trained of.",
  )
  sub.add_argument("--format", required=True, help="Names: comfyui, diffusers or ours.")
  sub = command("codecs", "a bundle that refers to converted codecs")
  for flag, text in (
    ("--video", "Folder of a converted wan-vae or wan22-vae."),
    ("--audio", "Folders of a converted audio-vae and, if not Griffin-Lim, a vocoder."),
    ("--text", "Folder of a converted umt5."),
    ("--image", "Folder of a converted clip, which I2V models need."),
  ):
    sub.add_argument(flag, nargs="+", help=text)
  sub = command("export", "converted weights under published names")
  sub.add_argument(
    "--src", required=True, help="Folder of converted weights, or a training run."
  )
  sub.add_argument(
    "--format", required=True, help="Names to write: native, diffusers, ..."
  )
  sub.add_argument("--dtype", choices=DTYPES, help=dtype)
  sub.add_argument("--verify", action="store_true", help=verify)
  return parser


def _say_terms(*kinds: str) -> None:
  """Prints the terms of the networks that have narrower ones than ours."""
  for terms in dict.fromkeys(LICENCES[kind] for kind in kinds if kind in LICENCES):
    print(f"licence: {terms} (docs/licences.md)", file=sys.stderr)


def main(argv: list[str] | None = None) -> None:
  """Runs the command line. A mistake is one line and exit code 2."""
  args = _parser().parse_args(argv)
  # An interruption by the scheduler cleans up as Ctrl-C does.
  signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
  import jax

  jax.config.update("jax_platforms", "cpu")
  with cli.working(), hold_new(args.dst):
    try:
      if args.command == "export":
        options = {"dtype": args.dtype, "verify": args.verify}
        export_weights(args.src, args.dst, form=args.format, **options)
      elif args.command == "join":
        from ccl_jax.weights.join import join

        config = join(
          args.video,
          args.audio,
          args.dst,
          size=args.size,
          variant=args.variant,
          seed=args.seed,
          video_tokens=args.video_tokens,
          audio_tokens=args.audio_tokens,
        )
        print(f"random, from seed {args.seed}: {', '.join(config['random'])}")
      elif args.command == "lora":
        from ccl_jax.weights.lora_write import convert_lora

        note = convert_lora(args.src, args.dst, model=args.model, form=args.format)
        if note:
          progress.say(f"note: {note}")
      elif args.command == "codecs":
        from ccl_jax.weights.release import link_codecs

        named = {n: getattr(args, n) for n in ("video", "audio", "text", "image")}
        link_codecs(args.dst, **named)
      elif args.command in RELEASES:
        from ccl_jax.weights.release import DOWNLOADS, convert_release

        kind, options = args.command, {"dtype": args.dtype, "verify": args.verify}
        convert_release(args.src, args.dst, kind=kind, **options)
        _say_terms(*DOWNLOADS[kind].parts)
      else:
        import_weights(
          args.command, args.src, args.dst, dtype=args.dtype, verify=args.verify
        )
        _say_terms(args.command)
    except KeyboardInterrupt:
      left = "nothing was left in it"
      if place(args.dst).exists():
        left = "what is finished stays, the same command goes on"
      print(f"interrupted: {args.dst}: {left}", file=sys.stderr)
      sys.exit(130)
  print(args.dst)


if __name__ == "__main__":
  main()
