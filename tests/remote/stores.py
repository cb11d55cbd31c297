"""Stores on this machine for tests: gcp-storage-emulator and moto, as they are sold.

The emulator of Google's store lacks three things that the real one has and that this
package relies on, so they are added here, by its documentation: an upload or a removal
may be bound to a generation (`ifGenerationMatch`), a download says its generation, and
the last bytes of an object may be asked for (`Range: bytes=-N`).

  python -m tests.remote.stores PORT      # by hand, with a bucket "bucket"
"""

import os
import re
import sys
import threading
from http import HTTPStatus

from gcp_storage_emulator import server
from gcp_storage_emulator.exceptions import NotFound
from gcp_storage_emulator.handlers import objects

BUCKET = "bucket"
_turn = threading.Lock()


def _generation(storage, bucket, name):
  try:
    return str(storage.get_file_obj(bucket, name)["generation"])
  except NotFound:
    return "0"


def _conditioned(handler, name_of):
  """A handler that does nothing where the object has another generation than asked."""

  def handle(request, response, storage, *args, **kwargs):
    wanted = request.query.get("ifGenerationMatch")
    with _turn:
      if wanted:
        bucket, name = request.params["bucket_name"], name_of(request)
        if name and _generation(storage, bucket, name) != wanted[0]:
          response.status = HTTPStatus.PRECONDITION_FAILED
          return
      handler(request, response, storage, *args, **kwargs)

  return handle


def _download(request, response, storage, *args, **kwargs):
  bucket, name = request.params["bucket_name"], request.params["object_id"]
  headers = request._request_handler.headers
  try:
    about = storage.get_file_obj(bucket, name)
  except NotFound:
    response.status = HTTPStatus.NOT_FOUND
    return
  if last := re.fullmatch(r"bytes=-(\d+)", headers.get("range") or ""):
    size = int(about["size"])
    del headers["range"]
    headers["range"] = f"bytes={max(size - int(last[1]), 0)}-{max(size - 1, 0)}"
  response["x-goog-generation"] = str(about["generation"])
  _sent(request, response, storage, *args, **kwargs)


_sent = objects.download
_REPLACED = {
  objects.download: _download,
  objects.insert: _conditioned(
    objects.insert, lambda request: request.query.get("name", [None])[0]
  ),
  objects.delete: _conditioned(
    objects.delete, lambda request: request.params["object_id"]
  ),
}
objects.download = _download  # as `objects.get` calls it
server.HANDLERS = tuple(
  (path, {method: _REPLACED.get(f, f) for method, f in handlers.items()})
  for path, handlers in server.HANDLERS
)


def google(port: int = 0):
  """Google's store on a port of this machine, with an empty bucket; started."""
  store = server.create_server(
    "127.0.0.1", port, in_memory=True, default_bucket=BUCKET
  )
  store.start()
  return store


def google_environment(url: str) -> dict[str, str]:
  """What leads gcsfs, TensorStore and ArrayRecord to a store at a URL."""
  return {
    "STORAGE_EMULATOR_HOST": url,
    "TENSORSTORE_GCS_HTTP_URL": url,
    "CLOUD_STORAGE_EMULATOR_ENDPOINT": url,
    # Asks Google whether the bucket is a hierarchical one.
    "GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT": "false",
  }


if __name__ == "__main__":
  port = int(sys.argv[1])
  for name, value in google_environment(f"http://127.0.0.1:{port}").items():
    print(f"export {name}={value}", flush=True)
  google(port)
  os.read(0, 1) if not sys.stdin.isatty() else threading.Event().wait()
