"""What the page's server refuses before it reads on.

The library that serves the page fetches addresses that its users name, from wherever
the server stands. This page never needs that.
"""

from collections.abc import Callable
from typing import Any

from ccl_jax import documents

BODY = 2**20  # bytes of a form
_ELSEWHERE = "http:", "https:", "ftp:", "//"


class Door:
  """An ASGI application before another: requests that name addresses get 403."""

  def __init__(self, app: Callable):
    self._app = app

  async def __call__(self, scope: Any, receive: Callable, send: Callable) -> None:
    """Answers one request, or hands it on."""
    if scope["type"] != "http":
      return await self._app(scope, receive, send)
    place = scope["path"].partition("=")[2]
    if is_elsewhere(place):
      return await _refuse(send, 403)
    kind = dict(scope["headers"]).get(b"content-type", b"")
    if scope["method"] != "POST" or kind.startswith(b"multipart/"):
      return await self._app(scope, receive, send)
    body, more = b"", True
    while more:
      message = await receive()
      body += message.get("body", b"")
      more = message.get("more_body", False)
      if len(body) > BODY:
        return await _refuse(send, 413)
    if names_addresses(body):
      return await _refuse(send, 403)
    messages = [{"type": "http.request", "body": body, "more_body": False}]

    async def again():
      return messages.pop() if messages else await receive()

    return await self._app(scope, again, send)


def is_elsewhere(place: Any) -> bool:
  """Whether the place of a file is an address, and no path of this machine."""
  return isinstance(place, str) and place.strip().lower().startswith(_ELSEWHERE)


def names_addresses(body: bytes) -> bool:
  """Whether a form in JSON has a file whose path is an address, or cannot be read:
  another reader might find one in it.
  """
  if not body.strip():
    return False
  try:
    left = [documents.parse(body, "a form")]
  except documents.Malformed:
    return True
  while left:
    value = left.pop()
    if isinstance(value, dict):
      if is_elsewhere(value.get("path")):
        return True
      left += value.values()
    elif isinstance(value, list):
      left += value
  return False


async def _refuse(send: Callable, status: int) -> None:
  await send({"type": "http.response.start", "status": status, "headers": []})
  await send({"type": "http.response.body", "body": b""})
