"""Sound that is damaged, silent, clipped, one-sided: refused with a reason, or kept."""

import struct

import av
import jax.numpy as jnp
import numpy as np
import pytest

from ccl_jax.codecs.embedded import fit_codecs
from ccl_jax.data.media.decode import MediaError, measure, probe, read_audio, read_clip
from ccl_jax.data.sets.buckets import parse_spec
from ccl_jax.data.sources import catalogue
from ccl_jax.data.spec import ClipSpec
from tests.data.films import film
from tests.data.sound_files import wav

SHAPE = parse_spec("17x32x48@25")
TIME = np.arange(32000) / 16000
SINE = (0.25 * np.sin(2 * np.pi * 440 * TIME)).astype(np.float32)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("rate", [16000, 44100])
def test_samples_that_are_no_numbers_are_refused(tmp_path, value, rate):
  wave = np.resize(SINE, 2 * rate)
  wave[rate // 2] = value
  wav(tmp_path / "bad.wav", wave, rate)
  with pytest.raises(MediaError, match=r"bad.wav: NaN or infinite .* at 0\.(49|50) s"):
    read_audio(tmp_path / "bad.wav")
  # The part after it is sound.
  assert np.isfinite(read_audio(tmp_path / "bad.wav", 8000, start=1.0)).all()
  film(tmp_path / "mute.mp4", sound=None)
  with pytest.raises(MediaError, match="NaN or infinite"):
    read_clip(
      tmp_path / "mute.mp4", ClipSpec(33, 32, 48, 25), 0.0, tmp_path / "bad.wav"
    )


def test_encode_names_the_file_and_goes_on(tmp_path):
  bad = SINE.copy()
  bad[100] = np.nan
  wav(tmp_path / "bad.wav", bad)
  wav(tmp_path / "good.wav", SINE)
  wav(tmp_path / "none.wav", SINE[:0])
  found = catalogue.scan(tmp_path, [SHAPE])
  ((bucket, items),) = found.buckets.items()
  assert [name for name, _ in found.skipped] == ["none.wav"]
  results = {}
  for item in items:
    try:
      results[item.id] = catalogue.read(tmp_path, bucket, item)["audio"]
    except MediaError as e:
      results[item.id] = str(e)
  assert "bad.wav: NaN" in results.pop("bad.wav@0.000")
  assert all(isinstance(wave, np.ndarray) for wave in results.values())


def test_no_sound_at_all_is_skipped_with_a_reason(tmp_path):
  wav(tmp_path / "none.wav", SINE[:0])
  with pytest.raises(MediaError, match=r"none.wav: .*(too short|no sound|ends at 0)"):
    read_audio(tmp_path / "none.wav", 8000)
  found = measure(tmp_path / "none.wav")
  assert found.duration == 0


def test_silence_is_kept_and_its_latents_are_finite(tmp_path):
  wav(tmp_path / "silent.wav", 0 * SINE)
  silent = read_audio(tmp_path / "silent.wav", 32 * 512)
  assert not silent.any()
  rng = np.random.default_rng(0)
  clips = [
    {
      "video": rng.integers(0, 255, (5, 16, 16, 3)).astype(np.uint8),
      "audio": wave,
    }
    for wave in (SINE[: 32 * 512], silent, SINE[512 : 33 * 512])
  ]
  for chosen in (clips, [clips[1]]):  # also fitted to nothing but silence
    codec = fit_codecs(chosen, text_length=4, text_dim=16).audio
    latent = codec.encode(jnp.asarray(silent[None]))
    assert jnp.isfinite(latent).all() and jnp.isfinite(codec.decode(latent)).all()


def test_clipped_sound_is_kept(tmp_path):
  wav(tmp_path / "clipped.wav", np.clip(8 * SINE, -1, 1))
  wave = read_audio(tmp_path / "clipped.wav")
  assert wave.max() == 1 and (wave == 1).mean() > 0.2
  wav(tmp_path / "beyond.wav", 8 * SINE)
  assert np.abs(read_audio(tmp_path / "beyond.wav")).max() == 1


@pytest.mark.parametrize(
  ("form", "scale", "offset", "error"),
  [("u1", 127, 128, 0.01), ("<i2", 32767, 0, 1e-4), ("<i4", 2**31 - 1, 0, 1e-4)],
)
def test_integer_samples(tmp_path, form, scale, offset, error):
  path = wav(
    tmp_path / "a.wav", np.round(SINE.astype(float) * scale + offset), form=form
  )
  np.testing.assert_allclose(read_audio(path), SINE, atol=error)


@pytest.mark.parametrize("rate", [16000, 48000])
def test_of_a_dead_channel_the_other_is_taken(tmp_path, rate):
  wave = np.resize(SINE, 2 * rate)
  reference = read_audio(wav(tmp_path / "m.wav", wave, rate))
  for waves, expected in (
    ([wave, 0 * wave], reference),
    ([0 * wave, wave], reference),
    ([wave, wave], reference),
    ([wave, 0.5 * wave], 0.75 * reference),
    ([0 * wave, 0 * wave], 0 * reference),
  ):
    path = wav(tmp_path / "s.wav", np.stack(waves), rate)
    np.testing.assert_allclose(read_audio(path), expected, atol=1e-5)
  hiss = 2e-5 * np.random.default_rng(0).standard_normal(len(wave))
  path = wav(tmp_path / "s.wav", np.stack([wave, hiss]), rate)
  np.testing.assert_allclose(read_audio(path), reference, atol=1e-5)


@pytest.mark.parametrize("rate", [0, 1, 1999, 768_001, 2**31 - 1])
def test_absurd_rates_are_refused(tmp_path, rate):
  path = wav(tmp_path / "a.wav", SINE, rate)
  for read in (probe, read_audio):
    with pytest.raises(MediaError, match=r"a\.wav: \w+") as e:
      read(path)
    assert rate == 0 or f"sample rate of {rate} Hz, expected 2000 to 768000" in str(e)


@pytest.mark.parametrize("rate", [2000, 8000, 192_000])
def test_other_rates_are_read(tmp_path, rate):
  time = np.arange(2 * rate) / rate
  wav(tmp_path / "a.wav", 0.25 * np.sin(2 * np.pi * 440 * time), rate)
  wave = read_audio(tmp_path / "a.wav")
  np.testing.assert_allclose(wave[4000:28000], SINE[4000:28000], atol=0.01)


def test_a_film_whose_sound_is_damaged_is_named(tmp_path):
  film(tmp_path / "a.mkv", codecs=("libx264", "pcm_s16le"))
  data = bytearray((tmp_path / "a.mkv").read_bytes())
  assert read_clip(tmp_path / "a.mkv", ClipSpec(33, 32, 48, 25))[1].any()
  with av.open(str(tmp_path / "a.mkv")) as container:
    assert container.streams.audio[0].rate == 48000
  at = data.index(struct.pack(">d", 48000.0))  # SamplingFrequency
  data[at : at + 8] = struct.pack(">d", 4.0)
  (tmp_path / "b.mkv").write_bytes(data)
  with pytest.raises(MediaError, match=r"b\.mkv: the sound has a sample rate of 4 Hz"):
    read_clip(tmp_path / "b.mkv", ClipSpec(33, 32, 48, 25))
