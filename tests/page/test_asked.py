"""What the page takes of a form, and what its server refuses to read."""

import asyncio
import json

import pytest

from ccl_jax.errors import UsageError
from ccl_jax.page.asked import FORM, asked
from ccl_jax.page.door import Door

USUAL = dict.fromkeys(FORM) | {"prompt": "a cat", "task": "joint", "lora": []}


@pytest.fixture
def uploads(tmp_path):
  (tmp_path / "uploads" / "ab12").mkdir(parents=True)
  (tmp_path / "uploads" / "ab12" / "x.png").touch()
  (tmp_path / "own.png").touch()
  (tmp_path / "uploads" / "link.png").symlink_to(tmp_path / "own.png")
  return tmp_path / "uploads"


def test_an_empty_form_is_what_the_model_has(uploads):
  expected = {"prompt": "a cat", "task": "joint", "seed": 0, "lora": None}
  assert asked(USUAL, [], uploads) == expected
  empty = USUAL | {
    "size": "",
    "seed": "",
    "steps": "",
    "seconds": "",
    "negative_prompt": "",
    "scale_video": "",
  }
  assert asked(empty, [], uploads) == expected


def test_values_come_as_the_pipeline_takes_them(uploads):
  given = {"path": str(uploads / "ab12" / "x.png")}
  form = USUAL | {
    "task": "i2v", "image": given, "audio": given, "seed": "3", "steps": "2.5",
    "seconds": "two", "size": "64x32", "scale_video": "3,5", "scale_audio": "loud",
    "guidance": "none", "solver": "euler", "lora": ["a:1"],
    "negative_prompt": "dull",
  }  # fmt: skip
  assert asked(form, ["a:1", "b:1"], uploads) == {
    "prompt": "a cat", "task": "i2v", "image": given["path"], "seed": 3, "steps": 2.5,
    "seconds": "two", "size": "64x32", "scale_video": ["3", "5"],
    "scale_audio": ["loud"], "guidance": "none", "solver": "euler", "lora": ["a:1"],
    "negative_prompt": "dull",
  }  # fmt: skip
  # A task that does not exist is refused by the pipeline, whatever else there is.
  for task in ("dance", None, 3, ["i2v"]):
    assert "image" not in asked(form | {"task": task, "lora": []}, [], uploads)


@pytest.mark.parametrize(
  ("wrong", "words"),
  [
    ({"lora": ["b:1"]}, "--lora: got"),
    ({"lora": "a:1"}, "--lora: got 'a:1'"),
    ({"prompt": "x" * 4001}, "--prompt: got 4001 characters; expected at most 4000"),
    ({"negative_prompt": "x" * 4001}, "--negative_prompt: got 4001 characters"),
    ({"prompt": ["a", "b"]}, "--prompt: got .*; expected a text"),
    ({"negative_prompt": ["a"]}, "--negative_prompt: got .*; expected a text"),
    *(
      ({"task": "i2v", "image": image}, "--image: no file that was uploaded")
      for image in (
        {"path": "/etc/passwd"},
        {"path": "UPLOADS/../own.png"},
        {"path": "UPLOADS"},
        {"path": "UPLOADS/none.png"},
        {"path": "UPLOADS/link.png"},
        {"path": 3},
        {"path": "UPLOADS/" + 5000 * "x"},
        {"path": "UPLOADS/x\0y"},
        {"url": "x.png"},
        "UPLOADS/ab12/x.png",
      )
    ),
  ],
)
def test_what_no_form_has(uploads, wrong, words):
  wrong = json.loads(json.dumps(wrong).replace("UPLOADS", str(uploads)))
  with pytest.raises(UsageError, match=words):
    asked(USUAL | wrong, ["a:1"], uploads)


def answered(path, body=None, kind=b"application/json", parts=1):
  """(status of the door's own, body that came through) of one request."""
  size = -(-len(body or b"") // parts) or 1
  pieces = [(body or b"")[i : i + size] for i in range(0, len(body or b""), size)]
  messages = [
    {"type": "http.request", "body": x, "more_body": i + 1 < len(pieces)}
    for i, x in enumerate(pieces)
  ]
  seen = {}

  async def app(scope, receive, send):
    seen["body"], more = b"", bool(messages) or body is not None
    while more:
      message = await receive()
      seen["body"] += message.get("body", b"")
      more = message.get("more_body", False)

  async def receive():
    return messages.pop(0)

  async def send(message):
    seen.setdefault("status", message.get("status"))

  scope = {
    "type": "http",
    "path": path,
    "method": "GET" if body is None else "POST",
    "headers": [(b"content-type", kind)],
  }
  asyncio.run(Door(app)(scope, receive, send))
  return seen.get("status"), seen.get("body")


def test_nothing_of_other_servers_is_read():
  for address in (
    "http://a/x",
    "https://a/x",
    "HTTPS://a",
    " http:a",
    "//a/x",
    "ftp:a",
  ):
    assert answered(f"/gradio_api/file={address}") == (403, None), address
    assert answered(f"/gradio_api/proxy={address}") == (403, None), address
    file = {"path": address, "meta": {"_type": "gradio.FileData"}}
    for form in ({"data": [1, {"image": file}]}, [[file]], file):
      assert answered("/queue/join", json.dumps(form).encode()) == (403, None), form
  escaped = b'{"data": [{"path": "\\u0068ttp://a/x"}]}'
  assert answered("/queue/join", escaped, kind=b"text/plain") == (403, None)


def test_a_form_that_this_door_cannot_read_is_read_by_nobody():
  file = {"path": "http://a/x"}
  deep = file
  for _ in range(100):
    deep = [deep]
  for form in (
    b"no { json",
    json.dumps(deep).encode(),
    json.dumps(file).encode("utf-16"),
  ):
    assert answered("/queue/join", form) == (403, None), form[:20]


def test_all_else_comes_through_as_it_is():
  form = {"data": ["see http://a", {"path": "/up/x.png", "url": "http://here/x.png"}]}
  body = json.dumps(form).encode()
  for parts in (1, 3):
    assert answered("/queue/join", body, parts=parts) == (None, body)
  assert answered("/gradio_api/file=/up/http:x.png") == (None, b"")
  assert answered("/config") == (None, b"")
  assert answered("/reset", b" ") == (None, b" ")
  film = bytes(2**20 + 1)
  assert answered("/upload", film, kind=b"multipart/form-data; x") == (None, film)
  assert answered("/queue/join", film, parts=4) == (413, None)
