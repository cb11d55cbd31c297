import dataclasses

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ccl_jax.diffusion.guidance import GUIDANCE, Evaluation, get_guidance, guided
from ccl_jax.errors import UsageError

SHAPES = {"video": (2, 3, 4, 5), "audio": (2, 7, 6)}
NEG_OFF, NEG_ON = Evaluation(text=False, cross=False), Evaluation(text=False)
TXT_ON = Evaluation()
TXT_OFF, NEG_SHUFFLED = Evaluation(cross=False), Evaluation(False, shuffled=True)
SILENT, STATIC = Evaluation(null="audio"), Evaluation(null="video")
NEG_SILENT, NEG_STATIC = (
  Evaluation(False, null="audio"),
  Evaluation(False, null="video"),
)


def _predictions(form, seed=0):
  """A random velocity per evaluation and stream, by name and by evaluation."""
  rng = np.random.default_rng(seed)
  named = {
    name: {s: jnp.asarray(rng.normal(size=z), jnp.float32) for s, z in SHAPES.items()}
    for name in form.evaluations
  }
  return named, {e: named[name] for name, e in form.evaluations.items()}


def _expected(form, v, stream, s):
  """The formulas, written out by hand."""

  def at(e):
    return np.float64(v[e][stream])

  if form == "none":
    return at(TXT_ON)
  if form == "text":
    return at(NEG_ON) + s["s"] * (at(TXT_ON) - at(NEG_ON))
  if form == "modality":
    return at(TXT_OFF) + s["s"] * (at(TXT_ON) - at(TXT_OFF))
  if form == "ucg2_shuffled":
    return at(NEG_SHUFFLED) + s["s"] * (at(TXT_ON) - at(NEG_SHUFFLED))
  if form == "ucg3_text":
    text = s["s_t"] * (at(TXT_OFF) - at(NEG_OFF))
    return at(NEG_OFF) + text + s["s_m"] * (at(TXT_ON) - at(TXT_OFF))
  if form in ("ucg2", "multimodal2"):
    return at(NEG_OFF) + s["s"] * (at(TXT_ON) - at(NEG_OFF))
  if form in ("ucg3", "multimodal"):
    cross = s["s_m"] * (at(NEG_ON) - at(NEG_OFF))
    text = s["s_t"] * (at(TXT_ON) - at(NEG_ON))
    return at(NEG_OFF) + cross + text
  silent, static = {"sync": (SILENT, STATIC), "ucg2_null": (NEG_SILENT, NEG_STATIC)}[
    form
  ]
  anchor = at(silent if stream == "video" else static)
  return anchor + s["s"] * (at(TXT_ON) - anchor)


@pytest.mark.parametrize("name", GUIDANCE)
def test_formulas(name):
  form = GUIDANCE[name]
  named, by_evaluation = _predictions(form)
  values = iter(np.random.default_rng(1).uniform(0.5, 7, 8).tolist())
  scales = {s: {k: next(values) for k in form.scales} for s in SHAPES}
  got = form.combine(named, scales)
  assert got.keys() == SHAPES.keys()
  for stream in SHAPES:
    want = _expected(name, by_evaluation, stream, scales[stream])
    np.testing.assert_allclose(got[stream], want, atol=1e-5)


@pytest.mark.parametrize("name", GUIDANCE)
def test_scale_one_is_the_conditional_prediction_bit_for_bit(name):
  form = GUIDANCE[name]
  named, by_evaluation = _predictions(form)
  ones = {s: dict.fromkeys(form.scales, 1.0) for s in SHAPES}

  def combine(p):
    return form.combine(p, ones)

  chex.assert_trees_all_equal(combine(named), by_evaluation[TXT_ON])
  chex.assert_trees_all_equal(jax.jit(combine)(named), by_evaluation[TXT_ON])


def test_guidance_adds_up_in_single_precision():
  form = GUIDANCE["text"]
  named, _ = _predictions(form)
  half = jax.tree.map(lambda x: x.astype(jnp.bfloat16), named)
  wide = jax.tree.map(lambda x: x.astype(jnp.float32), half)
  chex.assert_trees_all_equal(
    form.combine(half, form.defaults), form.combine(wide, form.defaults)
  )


class Network:
  """A stand-in that tells every evaluation, stream and sample apart."""

  def __init__(self):
    self.calls = []

  def __call__(self, latents, timestep, evaluations):
    self.calls.append(evaluations)
    stacked = {k: jnp.concatenate([x] * len(evaluations)) for k, x in latents.items()}
    batch = len(next(iter(latents.values())))
    code = jnp.array(
      [
        2.0 * e.text
        + 3.0 * e.cross
        + 5.0 * (e.null == "audio")
        + 7.0 * (e.null == "video")
        + 11.0 * e.shuffled
        for e in evaluations
      ]
    )
    code = jnp.repeat(code, batch)
    mixed = sum(x.reshape(len(x), -1).mean(-1) for x in stacked.values())
    out = {
      k: jnp.sin(x + (code * mixed).reshape(-1, *[1] * (x.ndim - 1)) + timestep / 1000)
      for k, x in stacked.items()
    }
    return [
      {k: x[i * batch : (i + 1) * batch] for k, x in out.items()}
      for i in range(len(evaluations))
    ]


def _latents(streams=("video", "audio")):
  rng = np.random.default_rng(4)
  make = {s: jnp.asarray(rng.normal(size=z), jnp.float32) for s, z in SHAPES.items()}
  return {s: make[s] for s in streams}


@pytest.mark.parametrize("name", GUIDANCE)
def test_batched_equals_one_call_each(name):
  form, results = GUIDANCE[name], []
  evaluations = tuple(form.evaluations.values())
  for batched in (True, False):
    network = Network()
    velocity = guided(network, form, {}, batched=batched)
    results.append(velocity(_latents(), jnp.float32(640.0)))
    wanted = [evaluations] if batched else [(e,) for e in evaluations]
    assert network.calls == wanted
  chex.assert_trees_all_close(*results, atol=1e-5)


def test_the_default_scales_apply_unless_given():
  form = GUIDANCE["ucg3"]
  latents, t = _latents(), jnp.float32(300.0)
  named = dict(
    zip(form.evaluations, Network()(latents, t, tuple(form.evaluations.values())))
  )
  got = guided(Network(), form, {"audio": {"s_m": 2}}, batched=True)(latents, t)
  scales = {
    "video": form.defaults["video"],
    "audio": {"s_m": 2, "s_t": form.defaults["audio"]["s_t"]},
  }
  chex.assert_trees_all_close(got, form.combine(named, scales), atol=1e-6)


@pytest.mark.parametrize("stream", SHAPES)
@pytest.mark.parametrize("name", ["ucg2", "sync"])
def test_a_run_of_one_stream_pays_for_its_own_evaluations_only(name, stream):
  network = Network()
  got = guided(network, GUIDANCE[name], {}, batched=True)(
    _latents((stream,)), jnp.float32(500.0)
  )
  assert got.keys() == {stream}
  anchor = {"ucg2": NEG_OFF, "sync": SILENT if stream == "video" else STATIC}[name]
  assert network.calls == [(anchor, TXT_ON)]


@pytest.mark.parametrize(
  "variant,serves",
  [
    (
      "context",
      [
        "none",
        "text",
        "modality",
        "ucg2",
        "ucg2_null",
        "ucg2_shuffled",
        "ucg3",
        "ucg3_text",
        "sync",
      ],
    ),
    (
      "gate",
      [
        "none",
        "text",
        "modality",
        "ucg2_null",
        "ucg2_shuffled",
        "multimodal",
        "multimodal2",
        "sync",
      ],
    ),
  ],
)
def test_a_model_serves_the_forms_it_can(variant, serves):  # fmt: skip
  for name in GUIDANCE:
    if name in serves:
      assert get_guidance(name, variant) is GUIDANCE[name]
    else:
      with pytest.raises(UsageError, match=f"{name}.*{', '.join(serves)}"):
        get_guidance(name, variant)
  with pytest.raises(UsageError, match=f"'apg' is unknown.*{', '.join(serves)}"):
    get_guidance("apg", variant)


@pytest.mark.parametrize("name", GUIDANCE)
def test_a_block_is_left_out_of_negative_evaluations_only(name):
  """Of those without the prompt; what is otherwise equal stays one run."""
  form = GUIDANCE[name]
  usual = form.used(("video", "audio"))
  skipping = form.used(("video", "audio"), skip=True)
  assert usual.keys() == skipping.keys()
  for n, e in skipping.items():
    assert e == dataclasses.replace(usual[n], skip=not usual[n].text)
  assert len(set(skipping.values())) == len(set(usual.values()))
  assert not any(e.skip for e in usual.values())


def test_fusion_serves_what_a_gate_does():
  serves = lambda variant: {n for n, g in GUIDANCE.items() if served(n, variant) is g}
  assert serves("fusion") == serves("gate") and "ucg2" not in serves("fusion")


def served(name, variant):
  try:
    return get_guidance(name, variant)
  except UsageError:
    return None


def test_ucg2_is_ucg3_of_equal_scales():
  """So a form of two scales is worth its third evaluation only with two of them."""
  named, _ = _predictions(GUIDANCE["ucg3"])
  pairs = {s: {"s_m": k, "s_t": k} for s, k in (("video", 4.0), ("audio", 2.5))}
  ones = {s: {"s": x["s_m"]} for s, x in pairs.items()}
  three, two = (
    GUIDANCE["ucg3"].combine(named, pairs),
    GUIDANCE["ucg2"].combine(named, ones),
  )
  chex.assert_trees_all_close(three, two, atol=1e-5)


def test_the_orders_of_eq_6_are_one_where_text_and_modality_add_up():
  """v(txt, C) - v(neg, C) = v(txt, C+m) - v(neg, C+m): each form then has it s_t times,
  and what the other stream adds s_m times.
  """
  rng = np.random.default_rng(3)
  base, text, other = (rng.normal(size=(2, 3)) for _ in range(3))
  at = lambda e: {"audio": jnp.asarray(base + text * e.text + other * e.cross)}
  scales = {"audio": {"s_m": 2.0, "s_t": 6.0}}
  for name in ("ucg3", "ucg3_text"):
    form = GUIDANCE[name]
    got = form.combine({n: at(e) for n, e in form.evaluations.items()}, scales)
    np.testing.assert_allclose(got["audio"], base + 6 * text + 2 * other, rtol=1e-5)


def test_values_get_the_names_of_their_scales():
  form = GUIDANCE["ucg3_text"]  # whose order is its own
  assert form.named({"video": (4.0, 2.0), "audio": ()}, "x.") == {
    "video": {"s_t": 4.0, "s_m": 2.0}
  }
  assert GUIDANCE["none"].named({"video": ()}, "x.") == {}
  with pytest.raises(UsageError, match=r"x.audio: got 1 values; expected 2 \(s_t, s_m"):
    form.named({"audio": (4.0,)}, "x.")


def test_another_clip_is_needed_where_streams_are_shuffled():
  for name, form in GUIDANCE.items():
    assert form.least(("video",)) == (2 if name == "ucg2_shuffled" else 1)
    assert form.least(("video",), ("video",)) == 1  # there is no other stream


def test_user_mistakes():
  with pytest.raises(UsageError, match=r"'adaln'.*context, gate or fusion"):
    get_guidance("text", "adaln")
  with pytest.raises(UsageError, match=r"'s' for audio.*s_m, s_t"):
    GUIDANCE["ucg3"].resolve({"audio": {"s": 3.0}})
  with pytest.raises(UsageError, match=r"'sound'.*video, audio"):
    GUIDANCE["text"].resolve({"sound": {"s": 3.0}})
