"""Texts of users in figures, which matplotlib could take for mathematics."""

import numpy as np
import pytest
from matplotlib.cbook import is_math_text

from ccl_jax.viz.labels import literal
from ccl_jax.viz.panels import contact_sheet, loss_curves

HARD = [
  "$_$",
  "$",
  "costs $5 or $6",
  r"\$_$",
  r"$\frac{$",
  "a\nb\0c",
  "\ud83d",
  "_^{",
  "",
]


@pytest.mark.parametrize("text", HARD)
def test_no_text_is_mathematics(text):
  shown = literal(text)
  assert not is_math_text(shown)
  assert "\n" not in shown and "\0" not in shown
  shown.encode()


def test_what_is_shown_is_the_text():
  assert literal("costs $5 or $6").replace(r"\$", "$") == "costs $5 or $6"
  assert len(literal("x" * 500)) == 160 and literal("x" * 160) == "x" * 160
  assert literal("a\n\tb") == "a b"


def test_figures_of_hard_texts(tmp_path):
  clip = {"video": np.zeros((5, 8, 8, 3), np.uint8), "audio": np.zeros(100)}
  contact_sheet(tmp_path / "a.png", [clip] * 2, [" ".join(HARD), "$_$"], [1.0] * 2)
  loss_curves(tmp_path / "b.png", [{"step": 0, "loss/$_$/video": 1.0}])
  assert (tmp_path / "a.png").stat().st_size and (tmp_path / "b.png").stat().st_size
