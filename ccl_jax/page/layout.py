"""The page: what one sees and presses, and what each press does."""

import dataclasses
import html
import os
import secrets
import time
import traceback
import typing
from collections.abc import Sequence
from typing import Any

os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")

import gradio as gr
from starlette.middleware import Middleware

from ccl_jax.axes import STREAMS
from ccl_jax.data.media.image import opened_image
from ccl_jax.diffusion.guidance import served
from ccl_jax.errors import one_line
from ccl_jax.generation.api import Pipeline
from ccl_jax.generation.clip import Clip
from ccl_jax.generation.defaults import SOLVERS
from ccl_jax.generation.sampling import Sampling, variant_of
from ccl_jax.generation.scratch import Scratch
from ccl_jax.page.asked import FORM, LABELS, PROMPT, asked
from ccl_jax.page.door import Door
from ccl_jax.page.work import (
  WAITING,
  Cancelled,
  Failed,
  Work,
  in_page_words,
  noted,
  picture_of,
  said,
)
from ccl_jax.tasks import GENERATIONS

WORDS = {
  "joint": "picture and sound",
  "ti2av": "picture and sound, from a first frame",
  "t2v": "picture",
  "i2v": "picture, from a first frame",
  "t2a": "sound",
  "a2v": "picture, for a sound",
  "v2a": "sound, for a film",
}
EXAMPLES = (
  'a red face on the right says "ba do ba"',
  'a green face in the middle says "do do"',
  'a blue face on the left says "ba ba do"',
)
UPLOAD = "200mb"  # of a file, at most
KEPT = 3600  # seconds that files of clips and uploads are kept
ITSELF = "the model's own"
CSS = """
.ccl-status {display: flex; gap: .7em; align-items: center; min-height: 1.6em}
.ccl-status progress {flex: 1 1 8em; max-width: 22em; height: .8em}
/* With the page's own styles a browser draws bars green and grey. */
.ccl-status progress {appearance: none; border-radius: .4em; overflow: hidden}
.ccl-status progress {background: #8883}
.ccl-status ::-webkit-progress-bar {background: #8883}
.ccl-status ::-webkit-progress-value {background: #6366f1}
.ccl-status ::-moz-progress-bar {background: #6366f1}
/* Seen from wherever on the form the button is pressed. */
.ccl-made {position: sticky; top: .5em; align-self: flex-start}
.ccl-note {opacity: .75; font-size: .9em; margin-top: .3em}
.ccl-error {color: #b42318; font-weight: 600}
.dark .ccl-error {color: #ff8a7a}
"""
# Fonts of the machine: the default theme asks a server of others for its own.
FONTS = {
  "font": ["system-ui", "sans-serif"],
  "font_mono": ["ui-monospace", "monospace"],
}


def page_of(pipe: Pipeline, loras: Sequence[str] = ()) -> gr.Blocks:
  """The page of a pipeline; `launched` serves it.

  Files of users lie in a folder that this user alone reads. The address of an upload
  has a hash of what is in it, that of a clip a number by chance: who does not know it
  cannot open it. A clip's files go with it.

  Args:
    pipe: makes the clips.
    loras: that users may choose from, each as FILE:STRENGTH.
  """
  files_of_users = Scratch()
  os.environ["GRADIO_TEMP_DIR"] = str(files_of_users.path)
  work, tasks = Work(), pipe.about.tasks
  own = pipe.about.sampling(Sampling(), pipe.about.spec)
  streams = {s for task in tasks for s in GENERATIONS[task].generated}
  forms = served(variant_of(pipe.about.model))
  named = [(os.path.basename(text), text) for text in loras]

  with gr.Blocks(
    title="ccl_jax", analytics_enabled=False, delete_cache=(KEPT // 6, KEPT)
  ) as page:
    made = gr.State(None, time_to_live=KEPT)
    who = gr.State(None)  # the name of the clip that is being made
    gr.Markdown(f"## Clips with sound\n`{pipe.about.place.name}` &nbsp; {_clip(pipe)}")
    with gr.Row():
      with gr.Column(scale=5, min_width=320):
        prompt = gr.Textbox(
          label=LABELS["prompt"], lines=3, max_length=PROMPT, elem_id="prompt",
          placeholder="What to show; spoken words in quotation marks",
        )  # fmt: skip
        task = gr.Radio(
          [(f"{WORDS[name]} ({name})", name) for name in tasks],
          value=tasks[0], label=LABELS["task"], elem_id="task",
        )  # fmt: skip
        image = gr.Image(
          label=_frame(GENERATIONS[tasks[0]].needs(pipe.about.takes_channels)),
          type="filepath", image_mode=None,
          sources=["upload", "clipboard"], height=200, elem_id="image",
          visible="image" in GENERATIONS[tasks[0]].takes,
        )  # fmt: skip
        audio = gr.Audio(
          label=LABELS["audio"], type="filepath", sources=["upload"],
          visible=False, elem_id="audio", buttons=[],
        )  # fmt: skip
        video = gr.Video(
          label=LABELS["video"],
          sources=["upload"],
          height=200,
          visible=False,
          elem_id="video",
        )
        with gr.Row():
          # Texts: a field of numbers that is empty may come as 0.
          seed = gr.Textbox("0", label=LABELS["seed"], min_width=120, elem_id="seed")
          steps = gr.Textbox(
            label=LABELS["steps"],
            min_width=120,
            elem_id="steps",
            placeholder=f"{own.steps}",
          )
        with gr.Accordion("Settings", open=False, elem_id="settings"):
          with gr.Row():
            guidance = gr.Dropdown(
              [(ITSELF, ""), *((name, name) for name in forms)],
              value="", label=LABELS["guidance"], min_width=200, elem_id="guidance",
            )  # fmt: skip
            solver = gr.Dropdown(
              [(ITSELF, ""), *((name, name) for name in SOLVERS)],
              value="", label=LABELS["solver"], min_width=200,
            )  # fmt: skip
          with gr.Row():
            scales = [
              gr.Textbox(
                label=LABELS[f"scale_{s}"], placeholder="e.g. 5 or 3,5",
                visible=s in streams, min_width=200, elem_id=f"scale_{s}",
              )
              for s in STREAMS
            ]  # fmt: skip
          negative = gr.Textbox(
            label=LABELS["negative_prompt"], max_length=PROMPT, placeholder=ITSELF
          )
          with gr.Row():
            seconds = gr.Textbox(
              label=LABELS["seconds"], placeholder=f"{pipe.about.spec.seconds:.2f}",
              min_width=120, elem_id="seconds",
            )  # fmt: skip
            size = gr.Textbox(
              label=LABELS["size"], min_width=120, elem_id="size",
              placeholder=f"{pipe.about.spec.width}x{pipe.about.spec.height}",
            )  # fmt: skip
          lora = gr.CheckboxGroup(
            named, label=LABELS["lora"], visible=bool(named), elem_id="lora"
          )
        with gr.Row():
          start = gr.Button("Generate", variant="primary", elem_id="start")
          end = gr.Button("Cancel", elem_id="cancel", interactive=False)
      with gr.Column(scale=6, min_width=320, elem_classes="ccl-made"):
        status = gr.HTML(_told("ready"), elem_id="status")
        preview = gr.Image(
          label="Latents, step by step", interactive=False, visible=False,
          elem_id="preview", buttons=[],
        )  # fmt: skip
        player = gr.Video(
          label="Clip", interactive=False, autoplay=True, loop=True, height=420,
          elem_id="player", visible="video" in streams,
        )  # fmt: skip
        sound = gr.Audio(
          label="Clip",
          interactive=False,
          visible=False,
          elem_id="sound",
          buttons=["download"],
        )
        files = gr.File(
          label="Clip and settings", file_count="multiple", interactive=False,
          visible=False, elem_id="files",
        )  # fmt: skip
        look = gr.Button(
          "Show the share of attention on the context tokens", size="sm",
          visible=False, elem_id="look",
        )  # fmt: skip
        attention = gr.Image(
          show_label=False, buttons=["download", "fullscreen"], interactive=False,
          visible=False, elem_id="attention",
        )  # fmt: skip
    gr.Examples(
      [[text, name] for text, name in zip(EXAMPLES, ("joint", "t2v", "t2a"))
       if name in tasks],
      [prompt, task], elem_id="examples",
    )  # fmt: skip

    def choose(name: str):
      kind = GENERATIONS[name]
      label = _frame(kind.needs(pipe.about.takes_channels))
      return {
        image: gr.update(visible="image" in kind.takes, label=label),
        audio: gr.update(visible="audio" in kind.takes),
        video: gr.update(visible="video" in kind.takes),
      }

    @typing.no_type_check  # it must look like the generator that it is
    def make(*values):
      began, name = time.monotonic(), secrets.token_urlsafe(12)
      # In the folder that is served: nothing copies the clip there.
      scratch = Scratch(files_of_users.path)
      yield {  # what an earlier clip has left goes
        status: _told("waiting"),
        who: name,
        made: None,
        start: gr.update(interactive=False),
        end: gr.update(interactive=True),
        preview: gr.update(value=None, visible=False),
        **{x: gr.update(visible=False) for x in (files, attention, look)},
        player: gr.update(value=None),
        sound: gr.update(value=None),
      }

      def made_by(listener):
        form = dict(zip(FORM, values, strict=True))
        call = asked(form, loras, files_of_users.path)
        clip = pipe(callback=listener, **call)
        stem = "{task}_{seed}".format(**clip.settings)
        path = scratch.path / name / f"{stem}{clip.suffix}"
        clip.save(path)
        return dataclasses.replace(clip, scratch=(clip.scratch, scratch)), path

      done = {
        start: gr.update(interactive=True),
        end: gr.update(interactive=False),
        preview: gr.update(visible=False),
      }
      events, shown, notes = work.run(made_by, name), None, ()
      try:
        while True:
          event = next(events)
          notes = event.notes
          told = {status: said(event)}
          if event.preview is not None and event.preview is not shown:
            shown = event.preview
            told[preview] = gr.update(value=picture_of(shown), visible=True)
          yield told
      except StopIteration as e:
        clip, path = e.value
      except Cancelled:
        yield {status: _told("cancelled"), **done}
        return
      except Failed as e:
        yield {status: _error(in_page_words(str(e))) + noted(notes), **done}
        return
      except Exception as e:  # a defect: whoever runs the server reads of it
        traceback.print_exc()
        text = f"the program has failed ({type(e).__name__}): its log has more"
        yield {status: _error(text), **done}
        return
      finally:
        events.close()
      took = time.monotonic() - began
      film = clip.frames is not None
      settings_file = path.with_suffix(".json")
      both = film and clip.sound is not None and _has_context(pipe)
      yield {
        status: _told(f"done in {took:.1f} s") + noted(notes),
        made: clip,
        player: gr.update(value=str(path) if film else None, visible=film),
        sound: gr.update(value=None if film else str(path), visible=not film),
        files: gr.update(value=[str(path), str(settings_file)], visible=True),
        look: gr.update(visible=both),
        **done,
      }

    def lost():
      """What is shown where neither `make` nor its values could be read or sent."""
      text = "the page could not send this or show it: see the server's log"
      return {
        status: _error(text),
        start: gr.update(interactive=True),
        end: gr.update(interactive=False),
      }

    def show(clip: Clip | None):
      if clip is None:
        raise gr.Error("this clip is gone: make it again", print_exception=False)
      scratch = Scratch()
      try:
        pipe.attention(clip, scratch.path / "attention.png")
      except Exception as e:
        if (line := one_line(e)) is None:
          raise
        raise gr.Error(in_page_words(line), print_exception=False) from e
      with opened_image(scratch.path / "attention.png") as picture:
        return gr.update(value=picture.convert("RGB"), visible=True)

    quiet = {"show_progress": "hidden", "api_visibility": "private"}
    task.change(choose, task, [image, audio, video], queue=False, **quiet)
    told = [
      status, who, made, start, end, preview, player, sound, files, attention, look
    ]  # fmt: skip
    running = start.click(
      make,
      [prompt, task, image, audio, video, seed, steps, guidance, solver, *scales,
       negative, seconds, size, lora],
      told,
      preprocess=False,  # nothing of another library opens what users give
      concurrency_limit=None,  # `Work` has them wait, and says so
      **quiet,
    )  # fmt: skip
    running.failure(lost, None, [status, start, end], queue=False, **quiet)
    end.click(work.cancel, who, None, queue=False, **quiet)
    look.click(
      show, made, attention, concurrency_limit=1, api_visibility="private",
    )  # fmt: skip
  page.files_of_users = files_of_users  # they go with the page
  return page


def launched(page: gr.Blocks, host: str, port: int) -> tuple[Any, str]:
  """Serves a page; returns the server and its address.

  Args:
    page: of `page_of`.
    host: the address to listen at.
    port: of the host.
  """
  page.queue(max_size=WAITING, api_open=False)
  page.launch(
    server_name=host,
    server_port=port,
    share=False,
    quiet=True,
    prevent_thread_lock=True,
    max_file_size=UPLOAD,
    allowed_paths=[],
    footer_links=[],
    app_kwargs={"middleware": [Middleware(Door)]},
    theme=gr.themes.Soft(**FONTS),
    css=CSS,
  )
  return page, page.local_url


def _frame(needed: Sequence[str]) -> str:
  return LABELS["image"] + ("" if "image" in needed else ", if you have one")


def _told(text: str) -> str:
  return f'<div class="ccl-status" role="status">{text}</div>'


def _error(text: str) -> str:
  return f'<div class="ccl-error" role="alert">{html.escape(text)}</div>'


def _clip(pipe: Pipeline) -> str:
  spec = pipe.about.spec
  return f"{spec.width} x {spec.height} pixels, {spec.seconds:.2f} s"


def _has_context(pipe: Pipeline) -> bool:
  cross = pipe.about.model.cross
  return cross is not None and cross.variant == "context"
