"""A web page that makes clips, for one or several users.

  python -m ccl_jax.app --ckpt quickstart
  ccl-jax app --ckpt runs/quickstart --port 8000
  ccl-jax app --ckpt weights/t2v --lora style.safetensors:0.8 --lora motion.safetensors

It needs the extra app: pip install 'ccl_jax[app]'. The page is for this machine alone
unless --host says otherwise: whoever reaches it can make clips, so that behind it you
want a firewall or a proxy that asks for a password. Clips are made one after the other;
up to 16 wait. Files are kept for an hour, in a folder of their own that goes with the
server.
"""

import importlib.util
import socket
import sys
import time

from ccl_jax import cli, progress
from ccl_jax.errors import UsageError

STOPPED = "stopped"


def main(argv: list[str] | None = None) -> None:
  """Loads the model that the command line names, and serves its page until Ctrl-C."""
  parser = cli.Parser(
    prog="ccl-jax app",
    description=__doc__,
    buckets=("ckpt", "codecs"),
  )
  add = parser.add_argument
  add("--ckpt", required=True, help="a run, converted weights, or quickstart")
  add("--codecs", help="a bundle of codecs; that of --ckpt if not given")
  add("--step", type=int, help="of the checkpoint; the newest if not given")
  add("--weights", choices=("ema", "params"), help="of a run; ema if not given")
  add("--lora", action="append", default=[], help="FILE:STRENGTH to offer; repeatable")
  add("--mesh", help="sizes of data,fsdp,context,tensor; all devices if not given")
  add("--vae_tile", default="auto", help="side of the decoder's tiles, or off")
  add("--host", default="127.0.0.1", help="address to listen at; 0.0.0.0: all")
  add("--port", type=int, default=7860, help="of the page")
  args = parser.parse_args(argv)
  with cli.working(STOPPED):
    serve(args)


def serve(args) -> None:
  """Serves the page; see `main`.

  Args:
    args: of the command line.

  Raises:
    UsageError: the extra is not installed, the port is taken, or the model cannot be
      loaded.
  """
  if importlib.util.find_spec("gradio") is None:
    raise UsageError("the page needs gradio: pip install 'ccl_jax[app]'")
  check_free(args.host, args.port)
  from ccl_jax.generation.api import Pipeline
  from ccl_jax.page.layout import launched, page_of
  from ccl_jax.weights.lora_open import absolute

  loras = [absolute(text) for text in args.lora]
  mesh = cli.mesh_sizes(args.mesh and args.mesh.split(","))
  progress.phase("loading")
  pipe = Pipeline.load(
    args.ckpt,
    choices=loras,
    codecs=args.codecs,
    weights=args.weights,
    step=args.step,
    mesh=mesh,
    vae_tile=args.vae_tile,
  )
  server, address = launched(page_of(pipe, loras), args.host, args.port)
  progress.end()
  print(f"page: {address}  (Ctrl-C ends it)", flush=True)
  try:
    while True:
      time.sleep(3600)
  finally:
    server.close(verbose=False)


def check_free(host: str, port: int) -> None:
  """Checks that a port can be listened at.

  Raises:
    UsageError: it is taken, or the host is none of this machine.
  """
  if not 0 < port < 2**16:
    raise UsageError(f"--port: got {port}; expected 1 to 65535")
  try:
    with socket.socket() as probe:
      probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
      probe.bind((host, port))
  except OSError as e:
    reason = e.strerror or e
    raise UsageError(
      f"cannot listen at {host}:{port} ({reason}): name another --host or --port"
    ) from e


if __name__ == "__main__":
  main(sys.argv[1:])
