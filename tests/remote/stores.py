"""Stores on this machine for tests: gcp-storage-emulator and moto, as they are sold.

The emulator of Google's store lacks three things that the real one has and that this
package relies on, so they are added here, by its documentation: an upload or a removal
may be bound to a generation (`ifGenerationMatch`), a download says its generation, and
the last bytes of an object may be asked for (`Range: bytes=-N`).

  python -m tests.remote.stores PORT      # by hand, with a bucket "bucket"
"""

import contextlib
import copy
import re
import sys
import threading
from http import HTTPStatus

from gcp_storage_emulator import server
from gcp_storage_emulator.exceptions import NotFound
from gcp_storage_emulator.handlers import objects

BUCKET = "bucket"
_status = None  # that all requests are answered with


def _generation(storage, bucket, name):
  try:
    return str(storage.get_file_obj(bucket, name)["generation"])
  except NotFound:
    return "0"


def _conditioned(handler, name_of):
  """A handler that does nothing where the object has another generation than asked."""

  def handle(request, response, storage, *args, **kwargs):
    wanted, name = request.query.get("ifGenerationMatch"), name_of(request)
    bucket = request.params.get("bucket_name")
    if wanted and name and _generation(storage, bucket, name) != wanted[0]:
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


class _Router(server.Router):
  def handle(self, method):
    if _status is None:
      super().handle(method)
      return
    handler = self._request_handler
    handler.rfile.read(int(handler.headers.get("Content-Length") or 0))
    handler.send_response(_status)
    handler.send_header("Content-Length", "0")
    handler.end_headers()


server.Router = _Router


@contextlib.contextmanager
def answering(status: int):
  """A context in which the store answers every request with an HTTP status."""
  global _status
  _status = status
  try:
    yield
  finally:
    _status = None


def google(port: int = 0):
  """Google's store on a port of this machine, with an empty bucket; started."""
  store = server.create_server("127.0.0.1", port, in_memory=True, default_bucket=BUCKET)
  # Its whole list as JSON after every request; nobody reads it.
  store._storage._write_config_to_file = lambda: None
  store.start()
  return store


def content(store):
  """All that is in the store, for `set_content`."""
  storage = store._storage
  return copy.deepcopy([storage.buckets, storage.objects, vars(storage._store)])


def set_content(store, content) -> None:
  """Has the store hold what it held once."""
  storage = store._storage
  storage.buckets, storage.objects, files = copy.deepcopy(content)
  storage.resumable, storage.soft_deleted = {}, {}
  vars(storage._store).update(files)


def google_environment(store) -> dict[str, str]:
  """What leads gcsfs, TensorStore and ArrayRecord to the store."""
  url = f"http://127.0.0.1:{store._api._httpd.server_address[1]}"
  return {
    "STORAGE_EMULATOR_HOST": url,
    "TENSORSTORE_GCS_HTTP_URL": url,
    "CLOUD_STORAGE_EMULATOR_ENDPOINT": url,
    # Would ask Google whether the bucket is a hierarchical one.
    "GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT": "false",
  }


def amazon_environment(url: str) -> dict[str, str]:
  """What leads s3fs and TensorStore to a store at a URL."""
  return {
    "AWS_ENDPOINT_URL": url,
    "AWS_ACCESS_KEY_ID": "nobody",
    "AWS_SECRET_ACCESS_KEY": "nothing",
    "AWS_DEFAULT_REGION": "us-east-1",
  }


if __name__ == "__main__":
  for name, value in google_environment(google(int(sys.argv[1]))).items():
    print(f"export {name}={value}", flush=True)
  threading.Event().wait()
