"""The references: networks of other libraries, and the parameters of their files.

A reference draws its weights at random and saves itself in its own format; what it has
saved comes through the converter. A test compares two programs that share a file.
"""

import pathlib
from typing import Any, NamedTuple

import pytest

from tests.parity.check_case import converted


class Pair(NamedTuple):
  """A network of another library, and what the converter made of its files.

  Attributes:
    reference: a torch module.
    saved: the folder where it saved itself.
    imported: the folder that the converter made of it.
    sizes, params: what is in there.
  """

  reference: Any
  saved: pathlib.Path
  imported: pathlib.Path
  sizes: dict[str, Any]
  params: Any


@pytest.fixture(scope="session")
def make_pair(tmp_path_factory):
  """(kind, maker of references, its options) -> Pair."""

  def make(kind: str, name: str, **options) -> Pair:
    # Torch and the libraries take seconds to import: not while tests are collected.
    from tests.parity.live import references

    folder = tmp_path_factory.mktemp(name)
    reference = getattr(references, name)(folder / "saved", **options)
    sizes, params = converted(kind, folder / "saved", folder / "imported")
    return Pair(reference, folder / "saved", folder / "imported", sizes, params)

  return make


@pytest.fixture(scope="session")
def t2v(make_pair) -> Pair:
  return make_pair("wan-dit", "wan_dit", image=False)


@pytest.fixture(scope="session")
def i2v(make_pair) -> Pair:
  return make_pair("wan-dit", "wan_dit", image=True)


@pytest.fixture(scope="session")
def flf2v(make_pair) -> Pair:
  return make_pair("wan-dit", "wan_dit", image=True, last=True)


@pytest.fixture(scope="session")
def ti2v(make_pair) -> Pair:
  return make_pair("wan-dit", "wan_dit", image=False, channels=48)
