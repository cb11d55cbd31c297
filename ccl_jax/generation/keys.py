"""The keys that the steps of a sampling share, computed once, before the first one.

They depend neither on the latents nor on the noise level. By the stream that reads:

  text      of the prompt, and of the negative prompt
  image     of image tokens, beside the text
  context   of the learnable context tokens: the same for all evaluations and clips
  other     of a given stream: clean, it reads context tokens only, and so never changes
            (dynamic context routing makes this exact). Once for each text that it is
            read with, and for its null

Each is (depth, rows, ...), the rows those of evaluations that run together, b clips
each; of context tokens (depth, r, ...).
"""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from ccl_jax.diffusion.guidance import Evaluation

PyTree = Any
Keys = dict[str, dict[str, tuple[jax.Array, jax.Array]]]
Group = tuple[Evaluation, ...]  # that run together


def text_of(e: Evaluation) -> Evaluation:
  """What the text of an evaluation depends on, and nothing else of it."""
  return Evaluation(text=e.text, shuffled=e.shuffled)


def taken(keys: Mapping[str, Mapping[str, Any]], places: Sequence[int], b: int) -> Keys:
  """The keys of some evaluations, in their order.

  Args:
    keys: by stream, of evaluations that run together.
    places: which of these.
    b: clips.
  """

  def rows(x):
    if list(places) == list(range(x.shape[1] // b)):
      return x
    return jnp.concatenate([x[:, i * b : (i + 1) * b] for i in places], 1)

  def of(name, pair):
    return pair if name == "context" else jax.tree.map(rows, pair)

  return {
    s: {name: of(name, pair) for name, pair in own.items()} for s, own in keys.items()
  }


def of_groups(
  keys: Mapping[Group, Keys], wanted: Sequence[Group], b: int
) -> dict[Group, Keys]:
  """The keys of evaluations that run together in some step, by them.

  Args:
    keys: of all that runs together in a step with guidance.
    wanted: each is one of these, or is among one.
    b: clips.
  """
  found = {}
  for group in wanted:
    whole = next(g for g in keys if set(group) <= set(g))
    found[group] = taken(keys[whole], [whole.index(e) for e in group], b)
  return found


def following(tree: PyTree, axis: int = 0) -> PyTree:
  """Arrays of clips by `axis`, at the place of every clip those of the next one."""
  return jax.tree.map(lambda x: jnp.roll(x, -1, axis), tree)


def joined(trees: Sequence[PyTree], axis: int) -> PyTree:
  """Trees of arrays, concatenated leaf by leaf along `axis`."""
  return jax.tree.map(lambda *leaves: jnp.concatenate(leaves, axis), *trees)
