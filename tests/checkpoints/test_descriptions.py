"""config.json of any kind, where a disk or a hand has changed it."""

import json
import os

import pytest

from ccl_jax.checkpoints import converted
from ccl_jax.checkpoints.find import find_parameters, read_config
from ccl_jax.codecs.links import link_codec
from ccl_jax.errors import UsageError
from ccl_jax.models.presets import stored_model

GOOD = {
  "kind": "wan-dit",
  "sizes": {"width": 8, "heads": 2, "rates": [4, 4], "bias": True, "name": "x"},
  "source": {"sha256": "ab"},
  "dtype": "float32",
}


def folder(tmp_path, value):
  text = value if isinstance(value, str) else json.dumps(value)
  (tmp_path / "config.json").write_text(text)
  return tmp_path


@pytest.mark.parametrize(
  "change",
  [
    {"kind": None},
    {"kind": ["wan"]},
    {"codecs": 3},
    {"codecs": None},
    {"dtype": None},
    {"sizes": None},
    {"sizes": []},
    {"sizes": {"width": -1}},
    {"sizes": {"width": 10**9}},
    {"sizes": {"width": {"a": 2**40}}},
    {"sizes": {"width": float("nan")}},
    {"sizes": {"rates": [4, -4]}},
    {"source": []},
    {"source": {"sha256": 3}},
    {"model": None},
    {"clip": [33]},
    {"seed": -1},
    {"seed": 2**64},
  ],
)
def test_types_and_ranges(tmp_path, change):
  place = folder(tmp_path, GOOD | change)
  with pytest.raises(UsageError, match=r"config\.json: \w+.*: got .*put back") as e:
    find_parameters(place)
  assert "\n" not in str(e.value)
  with pytest.raises(UsageError, match=r"holds no converted weights: .*config\.json"):
    converted.read_description(place)


@pytest.mark.parametrize("text", ["", "{", "[" * 100_000, "\0", '{"kind": "wan-dit"'])
def test_what_is_no_json(tmp_path, text):
  with pytest.raises(UsageError, match=r"holds no model: .*config\.json"):
    find_parameters(folder(tmp_path, text))


def test_other_files_in_its_place(tmp_path):
  (tmp_path / "config.json").mkdir()
  with pytest.raises(UsageError, match=r"config\.json is a folder"):
    find_parameters(tmp_path)
  (tmp_path / "config.json").rmdir()
  os.mkfifo(tmp_path / "config.json")
  with pytest.raises(UsageError, match=r"config\.json is a pipe"):
    find_parameters(tmp_path)
  (tmp_path / "file").touch()
  assert read_config(tmp_path / "file") == {}
  with pytest.raises(UsageError, match="holds no model"):
    find_parameters(tmp_path / "file")


def test_good_ones_are_as_they_are(tmp_path):
  """A vocoder's blocks are lists of lists of lists."""
  sizes = GOOD["sizes"] | {"blocks": [[3, [1, 3]], [7, []]]}
  more = GOOD | {"more": [None], "sizes": sizes}
  assert read_config(folder(tmp_path, more)) == more


def test_every_seed_of_a_run_is_one(tmp_path):
  """Of 64 bits, as `train` takes it."""
  assert read_config(folder(tmp_path, {"seed": 2**64 - 1})) == {"seed": 2**64 - 1}


def test_sizes_of_another_network(tmp_path):
  place = folder(tmp_path, GOOD | {"kind": "audio-vae"})
  with pytest.raises(UsageError, match="its sizes are not those of audio-vae"):
    link_codec(place)
  for wrong in (
    lambda x: x["depth"],
    lambda x: x["width"] // 0,
    lambda x: x["width"](),
  ):
    with pytest.raises(UsageError, match=r"config\.json: its sizes are not those of"):
      converted.of_sizes(place, wrong)


@pytest.mark.parametrize(
  "model",
  [{}, {"preset": None}, {"preset": ["tiny"]}, {"preset": "tiny", "window": "3"}],
)
def test_a_model_of_other_values(tmp_path, model):
  found = find_parameters(folder(tmp_path, {"kind": "joint", "model": model}))
  with pytest.raises(UsageError, match="are not of this version"):
    found.build("model", stored_model)


def test_a_digest_needs_all_of_it(tmp_path):
  about = {k: v for k, v in GOOD.items() if k != "dtype"}
  with pytest.raises(UsageError, match=r"config\.json has no 'dtype'"):
    converted.digest(folder(tmp_path, about))
