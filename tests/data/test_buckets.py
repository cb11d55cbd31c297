import pytest

from ccl_jax.data.sets.buckets import KINDS, Bucket, check_specs, choose, parse_spec
from ccl_jax.data.spec import ClipSpec
from ccl_jax.errors import UsageError

WIDE, TALL = ClipSpec(33, 32, 64, 25), ClipSpec(33, 64, 32, 25)
LONG, SMALL = ClipSpec(65, 32, 64, 25), ClipSpec(33, 16, 32, 25)


@pytest.mark.parametrize(
  ("kind", "name", "streams", "seconds"),
  [
    ("film", "33x32x64@25+41", ("video", "audio"), 1.32),
    ("silent", "33x32x64@25", ("video",), 1.32),
    ("image", "1x32x64", ("video",), 0),
    ("sound", "+41", ("audio",), 41 * 512 / 16000),
  ],
)
def test_a_kind_makes_a_bucket_and_is_told_by_it(kind, name, streams, seconds):
  bucket = Bucket.of(WIDE, kind)
  assert (bucket.kind, bucket.name, bucket.streams) == (kind, name, streams)
  assert bucket.seconds == pytest.approx(seconds)
  if kind in ("film", "silent"):
    assert bucket.spec() == WIDE
  assert len({Bucket.of(WIDE, k).name for k in KINDS}) == 4


def test_a_shape_may_say_how_many_tokens_its_sound_has():
  """Ovi's 10 seconds; the bucket's name says it, and gives it back."""
  spec = parse_spec("241x64x64@24+314")
  assert (spec.audio_tokens, parse_spec("241x64x64@24").audio_tokens) == (314, 313)
  assert parse_spec("121x64x64@24+157") == parse_spec("121x64x64@24")
  bucket = Bucket.of(spec)
  assert bucket.name == "241x64x64@24+314"
  assert bucket.spec().audio_tokens == 314 and bucket.samples == spec.samples
  with pytest.raises(UsageError, match="999 audio tokens .* expected about 313"):
    parse_spec("241x64x64@24+999")


@pytest.mark.parametrize(
  ("height", "width", "seconds", "expected"),
  [
    (480, 854, 2.0, WIDE),
    (480, 854, 3.0, LONG),  # the longest of the nearest aspect
    (854, 480, 3.0, TALL),  # the aspect comes before the duration
    (20, 40, 2.0, SMALL),  # nothing is enlarged that need not be
    (8, 16, 2.0, SMALL),
    (480, 854, 1.28, WIDE),  # the last frame is held for one period
    (480, 854, 1.2799, None),
    (480, 854, 2.56, LONG),  # 65 frames, the last one held
    (480, 854, 2.5599, WIDE),
    (32, 64, 2.0, WIDE),  # a film of exactly one shape needs no enlarging
    (31, 62, 2.0, SMALL),
    (64, 32, 2.0, TALL),
    (16, 32, 2.0, SMALL),
    (100, 100, 2.0, WIDE),  # as near to one as to the other: the first
  ],
)
def test_a_film_goes_to_the_shape_that_fits_it_best(height, width, seconds, expected):
  assert choose([WIDE, TALL, LONG, SMALL], height, width, seconds) == expected


def test_of_shapes_that_need_enlarging_the_smallest():
  large = ClipSpec(33, 64, 128, 25)
  assert choose([large, WIDE], 8, 16, 2.0) == WIDE
  assert choose([large, WIDE], 64, 128, 2.0) == large
  assert choose([large, WIDE], 63, 127, 2.0) == WIDE
  assert choose([large, WIDE], 900, 1800, 2.0) == large


def test_seconds_come_before_pixels():
  """Of one aspect the longest, by time and not by frames."""
  slow, fast = ClipSpec(33, 16, 32, 12.5), ClipSpec(49, 32, 64, 25)
  assert choose([fast, slow], 480, 960, 3.0) == slow
  assert choose([fast, slow], 480, 960, 2.5) == fast


def test_the_longest_comes_before_what_needs_no_enlarging():
  large = ClipSpec(65, 64, 128, 25)
  assert choose([WIDE, large], 32, 64, 3.0) == large
  assert choose([WIDE, large], 32, 64, 2.0) == WIDE


def test_a_bucket_in_numbers():
  ntsc = ClipSpec(33, 32, 64, 29.97)
  assert Bucket.of(ntsc) == Bucket(33, 32, 64, 29.97, 34)
  assert Bucket.of(ntsc).name == "33x32x64@29.97+34"
  assert Bucket.of(ntsc, "image") == Bucket(1, 32, 64)
  assert Bucket.of(ntsc, "silent") == Bucket(33, 32, 64, 29.97)
  assert Bucket.of(ntsc, "sound") == Bucket(tokens=34)
  assert Bucket.of(ntsc) == Bucket.of(ntsc, "film")
  assert Bucket.of(ntsc).samples == 34 * 512
  assert Bucket.of(ntsc, "sound").seconds == pytest.approx(1.088)
  assert Bucket.of(ntsc, "image").samples == 0
  sizes = [Bucket(5, 16, 16), Bucket(1, 64, 64), Bucket(1, 16, 64), Bucket(tokens=9)]
  assert sorted(sizes) == [sizes[3], sizes[2], sizes[1], sizes[0]]


def test_shapes_are_written_as_in_a_name():
  assert parse_spec("33x32x64@25") == WIDE
  assert parse_spec("81x480x832@29.97003").rate.denominator == 1001
  assert parse_spec(" 33x32x64@12.5\n").fps == 12.5
  for text in (
    "33x32@25", "33x32x64", "ax32x64@25", "", "33x32x64@", "33x32x64@25.",
    "33x32x64@-1", "33x32x64@25x", "1 33x32x64@25", "33x32x64x3@25",
  ):  # fmt: skip
    with pytest.raises(UsageError, match="FRAMESxHEIGHTxWIDTH@FPS"):
      parse_spec(text)
  with pytest.raises(UsageError, match="4 k"):
    parse_spec("32x32x64@25")
  with pytest.raises(UsageError, match="no two alike"):
    check_specs([WIDE, TALL, WIDE])
  with pytest.raises(UsageError, match="one or more"):
    check_specs([])
