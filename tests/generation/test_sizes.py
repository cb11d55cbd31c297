"""The size of a clip by its first frame's aspect ratio: Wan's rules, by hand."""

import numpy as np
import pytest
from PIL import Image

from ccl_jax.data.spec import ClipSpec
from ccl_jax.errors import UsageError
from ccl_jax.generation.sizes import size_for_area, spec_for

AREA = 704 * 1280
SPEC = ClipSpec(5, 704, 1280, 24, stride=16)
WAN = ClipSpec(frames=81, height=480, width=832, fps=16)


@pytest.mark.parametrize(
  ("picture", "expected"),
  [
    ((704, 1280), (704, 1280)),
    ((1280, 704), (1280, 704)),
    # sqrt(A r) = 1265.7 is 1248, and A / 1248 = 722.1 is 704: 1.773 for 1.778. By
    # height 711.97 is 704, A / 704 = 1280: 1.818.
    ((1080, 1920), (704, 1248)),
    # 949.3 is 928, and A / 928 = 971 is 960: both ways are as near, height goes first.
    ((500, 500), (928, 960)),
    # Width 1096.1 is 1088, A / 1088 = 828.2 is 800: 1.36 for 4 / 3. By height 822.1 is
    # 800, A / 800 = 1126.4 is 1120: 1.4.
    ((300, 400), (800, 1088)),
    # So flat that 32 rows are too many: no more than the area.
    ((2, 9000), (32, 28160)),
  ],
)
def test_the_nearer_of_both_ways(picture, expected):
  assert size_for_area(*picture, AREA, 32) == expected


def test_a_clip_follows_its_first_image_in_a_given_area(tmp_path):
  path = tmp_path / "tall.png"
  Image.fromarray(np.zeros((1920, 1080, 3), np.uint8)).save(path)
  spec = spec_for(SPEC, {"image": [path]}, AREA)
  assert spec == ClipSpec(5, 1248, 704, 24, stride=16)
  assert spec_for(SPEC, {"image": [path]}, None) is SPEC
  assert spec_for(SPEC, {}, AREA) is SPEC
  (tmp_path / "no.png").write_text("no picture")
  with pytest.raises(UsageError, match="image: .*no.png"):
    spec_for(SPEC, {"image": [tmp_path / "no.png"]}, AREA)


def picture(path, width, height):
  Image.new("RGB", (width, height), (90, 90, 90)).save(path)
  return path


@pytest.mark.parametrize(
  ("width", "height", "expected"),
  # sqrt(480 * 832 * h / w) and its counterpart, down to multiples of 16
  [(720, 1280, (832, 464)), (1024, 1024, (624, 624)), (1920, 1080, (464, 832)),
   (832, 480, (480, 832)), (100, 4000, (3984, 96))],
)  # fmt: skip
def test_wan_takes_the_aspect_of_its_image(tmp_path, width, height, expected):
  path = picture(tmp_path / "a.png", width, height)
  spec = spec_for(WAN, {"image": [path, path]}, 480 * 832, "each")
  assert (spec.height, spec.width) == expected
  assert (spec.frames, spec.fps) == (81, 16)


def test_images_of_several_shapes_need_a_word(tmp_path):
  paths = [picture(tmp_path / f"{w}.png", w, 480) for w in (832, 480)]
  with pytest.raises(UsageError, match=r"needs clips of 480 x 832 .*480.png of 624"):
    spec_for(WAN, {"image": paths}, 480 * 832, "each")
  with pytest.raises(UsageError, match=r"image: .*none.png: No such file"):
    spec_for(WAN, {"image": [tmp_path / "none.png"]}, 480 * 832, "each")
