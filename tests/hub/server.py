"""A small hub on this machine: the addresses that huggingface_hub asks for, of folders.

Written from what the hub's API documents, without the package that is tested: the tree
of a repository, files with their digests, ranges of bytes, gates and cut connections.
"""

import contextlib
import hashlib
import http.server
import json
import pathlib
import re
import threading
import urllib.parse

COMMIT, TOKEN = "ab" * 20, "a-token"
LARGE = 20  # bytes from which a file has a SHA-256, as those in LFS have


class Hub(http.server.ThreadingHTTPServer):
  """Repositories by "models/OWNER/NAME" or "datasets/OWNER/NAME": folders.

  Attributes:
    licence, gated: by repository.
    asked: (method, path below the repository, first byte) of every file asked for.
    cuts: after how many bytes the next bodies end early.
    stalled: a body that is to be cut waits, once its bytes are out, until this is set.
    down: whether every answer is an error of the server.
    sizes: by path, in place of a file's own, as the tree says them.
    more: paths that the tree has, and no folder.
  """

  daemon_threads = True

  def __init__(self, repositories: dict[str, pathlib.Path]):
    super().__init__(("127.0.0.1", 0), _Handler)
    self.repositories, self.commit = repositories, COMMIT
    self.licence, self.gated, self.sizes, self.more = {}, set(), {}, []
    self.asked, self.cuts, self.down = [], [], False
    self.stalled = threading.Event()
    self.stalled.set()

  @property
  def url(self) -> str:
    return f"http://127.0.0.1:{self.server_address[1]}"

  def bodies(self) -> list[str]:
    """The files whose bytes were asked for, in order, each once."""
    return sorted({path for method, path, _ in self.asked if method == "GET"})


@contextlib.contextmanager
def served(repositories: dict[str, pathlib.Path]):
  hub = Hub(repositories)
  thread = threading.Thread(target=hub.serve_forever, args=(0.02,), daemon=True)
  thread.start()
  try:
    yield hub
  finally:
    hub.shutdown()
    hub.server_close()
    thread.join()


class _Handler(http.server.BaseHTTPRequestHandler):
  protocol_version = "HTTP/1.1"

  def log_message(self, *args):
    pass

  def do_HEAD(self):
    self.do_GET()

  def do_GET(self):
    hub, path = self.server, urllib.parse.unquote(self.path.partition("?")[0])
    if hub.down:
      return self._refuse(503, "")
    api = re.fullmatch(
      r"/api/(models|datasets)/([\w.-]+/[\w.-]+)(?:/(revision|tree|auth-check)/?(.*))?",
      path,
    )
    file = re.fullmatch(r"/(datasets/)?([\w.-]+/[\w.-]+)/resolve/([^/]+)/(.+)", path)
    if api:
      return self._api(f"{api[1]}/{api[2]}", api[3], api[4])
    if file:
      kind = "datasets" if file[1] else "models"
      return self._file(f"{kind}/{file[2]}", file[3], file[4])
    self._refuse(404, "")

  def _allowed(self, name, revision="main"):
    hub = self.server
    if name not in hub.repositories:
      # Whether a repository is private or is not there, a stranger is not told.
      return self._refuse(401, "RepoNotFound")
    if revision not in ("main", "", hub.commit):
      return self._refuse(404, "RevisionNotFound")
    return True

  def _api(self, name, what, rest):
    hub = self.server
    if not self._allowed(name, "main" if what == "auth-check" else rest or ""):
      return
    if what == "auth-check":
      return self._refuse(403, "GatedRepo") if self._gate(name) else self._json({})
    if what == "tree":
      more = [{"type": "file", "oid": "0", "size": 1, "path": n} for n in hub.more]
      own = [self._entry(name, n) for n in _names(hub.repositories[name])]
      return self._json(more + own)
    about = {
      "id": name.partition("/")[2],
      "sha": hub.commit,
      "gated": "auto" if name in hub.gated else False,
      "siblings": [],
      "tags": [],
    }
    if name in hub.licence:
      about["cardData"] = {"license": hub.licence[name]}
    self._json(about)

  def _gate(self, name):
    allowed = self.headers.get("authorization") == f"Bearer {TOKEN}"
    return name in self.server.gated and not allowed

  def _entry(self, name, path):
    data = (self.server.repositories[name] / path).read_bytes()
    size = self.server.sizes.get(path, len(data))
    git = hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
    entry = {"type": "file", "oid": git, "size": size, "path": path}
    if len(data) >= LARGE:
      digest = hashlib.sha256(data).hexdigest()
      entry["lfs"] = {"oid": digest, "size": size, "pointerSize": 134}
    return entry

  def _file(self, name, revision, path):
    hub = self.server
    if not self._allowed(name, revision):
      return
    first = re.fullmatch(r"bytes=(\d+)-", self.headers.get("range", ""))
    first = int(first[1]) if first else 0
    hub.asked.append((self.command, path, first))
    if self._gate(name):
      return self._refuse(403, "GatedRepo")
    place = hub.repositories[name] / path
    if not place.is_file():
      return self._refuse(404, "EntryNotFound")
    data = place.read_bytes()
    entry = self._entry(name, path)
    self.send_response(206 if first else 200)
    self.send_header("ETag", f'"{entry.get("lfs", entry)["oid"]}"')
    self.send_header("X-Repo-Commit", hub.commit)
    self.send_header("Content-Length", str(len(data) - first))
    if first:
      self.send_header("Content-Range", f"bytes {first}-{len(data) - 1}/{len(data)}")
    self.end_headers()
    if self.command == "HEAD":
      return
    body = data[first:]
    if hub.cuts and len(body) > hub.cuts[0]:
      self.wfile.write(body[: hub.cuts.pop(0)])
      self.wfile.flush()
      hub.stalled.wait(60)
      self.close_connection = True
      return
    self.wfile.write(body)

  def _json(self, value):
    body = json.dumps(value).encode()
    self.send_response(200)
    self.send_header("Content-Type", "application/json")
    self.send_header("Content-Length", str(len(body)))
    self.end_headers()
    self.wfile.write(body)

  def _refuse(self, status, code):
    self.send_response(status)
    if code:
      self.send_header("X-Error-Code", code)
    self.send_header("Content-Length", "0")
    self.end_headers()


def _names(folder):
  files = (p for p in folder.rglob("*") if p.is_file())
  return sorted(p.relative_to(folder).as_posix() for p in files)
