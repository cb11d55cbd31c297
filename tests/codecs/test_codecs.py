"""The bundle of codecs: one pass to fit, saving bit for bit, users' mistakes."""

import jax
import numpy as np
import pytest
from safetensors import SafetensorError

from ccl_jax.codecs.bundle import (
  fingerprint,
  fingerprints,
  load_codecs,
  save_codecs,
  stored_digests,
)
from ccl_jax.codecs.embedded import fit_codecs
from ccl_jax.data.scenes.talking import draw_clip
from ccl_jax.data.spec import ClipSpec
from ccl_jax.errors import UsageError
from ccl_jax.files import WriteError


def clips(seed=0, count=3):
  rng = np.random.default_rng(seed)
  for _ in range(count):
    video = rng.integers(0, 256, (9, 16, 24, 3)).astype(np.uint8)
    audio = (0.2 * rng.standard_normal(512 * 11)).astype(np.float32)
    yield {"video": video, "audio": audio, "text": "x", "id": "y"}


@pytest.fixture(scope="module")
def codecs():
  return fit_codecs(clips(), text_length=24, text_dim=32)


SCENE = ClipSpec(frames=33, height=32, width=32, fps=25)


@pytest.fixture(scope="module")
def scene_codecs():
  clips = (draw_clip(i, SCENE) for i in range(40))
  return fit_codecs(clips, text_length=8, text_dim=16)


through = jax.jit(lambda codec, x: codec.decode(codec.encode(x)))


def test_mouth_and_voice_of_a_talking_scene_survive(scene_codecs):
  """Per frame: how dark the mouth's pixels are follows the true opening, and the
  decoded sound's energy follows that of the sound.
  """
  alone = {"duet": 0.0, "distractor": 0.0, "impacts": 0.0, "talker": 1.0}
  drawn = [draw_clip(i, SCENE, "test", **alone) for i in range(6)]
  video = np.stack([clip["video"] for clip in drawn]) / np.float32(127.5) - 1
  audio = np.stack([clip["audio"] for clip in drawn])
  seen = np.asarray(through(scene_codecs.video, video))
  heard = np.asarray(through(scene_codecs.audio, audio))

  def energy(wave):
    frames = wave[:, : 32 * 640].reshape(len(wave), 32, 640)
    return np.log(np.square(frames).mean(-1) + 1e-5)

  mouths = []
  for clip, pixels, back in zip(drawn, video.mean(-1), seen.mean(-1)):
    opening = clip["mouth"][0] - clip["mouth"][0].mean()
    mouth = np.einsum("f,fhw->hw", opening, pixels)
    mouth = mouth < 0.7 * mouth.min()
    mouths.append(np.corrcoef(-back[:, mouth].mean(1), opening)[0, 1])
  voices = [np.corrcoef(a, b)[0, 1] for a, b in zip(energy(heard), energy(audio))]
  assert np.mean(mouths) > 0.92, mouths
  assert np.mean(voices) > 0.97, voices


def test_clicks_of_a_talking_scene_keep_their_time(scene_codecs):
  """Of a ball's contacts, by the envelope above the voices: typically within 3 ms."""
  only_a_ball = {"talker": 0.0, "distractor": 0.0, "impacts": 1.0}
  drawn = [draw_clip(i, SCENE, "test", **only_a_ball) for i in range(8)]
  audio = np.stack([clip["audio"] for clip in drawn])
  heard = np.asarray(through(scene_codecs.audio, audio))

  def envelope(wave):
    spectrum = np.fft.rfft(wave)
    spectrum[: int(2900 * len(wave) / 16000)] = 0
    high = np.fft.irfft(spectrum, len(wave)) ** 2
    return np.sqrt(np.convolve(high, np.hanning(65), "same"))

  late, lags = [], np.arange(-320, 321)
  for clip, before, after in zip(drawn, audio, heard):
    before, after = envelope(before), envelope(after)
    for time in clip["events"]["time"]:
      near = slice(int(16000 * time) - 800, int(16000 * time) + 1200)
      if near.start >= 0 and near.stop <= len(before):
        a, b = before[near], after[near]
        late.append(lags[np.argmax([np.roll(a, lag) @ b for lag in lags])] / 16)
  assert len(late) > 8
  assert np.median(np.abs(late)) < 3, late


def test_save_and_load_are_bitwise_and_replace(codecs, tmp_path):
  folder = tmp_path / "deep" / "codecs"
  for saved in (fit_codecs(clips(5), text_length=8, text_dim=16), codecs):
    save_codecs(saved, folder)
    loaded = load_codecs(folder)
    assert jax.tree.structure(loaded) == jax.tree.structure(saved)
    jax.tree.map(np.testing.assert_array_equal, loaded, saved)
    assert fingerprint(loaded) == fingerprint(saved)
  assert [p.name for p in folder.parent.iterdir()] == ["codecs"]  # nothing left over


def test_fingerprint_sees_every_number_and_size(codecs):
  scale = codecs.audio.scale.at[3].multiply(1 + 1e-6)
  others = [
    codecs._replace(audio=codecs.audio.replace(scale=scale)),
    codecs._replace(text=codecs.text.replace(length=23)),
  ]
  prints = {fingerprint(c) for c in [codecs, *others]}
  assert len(prints) == 3 and all(len(p) == 64 for p in prints)


def test_a_failed_save_leaves_the_old_folder_whole(codecs, tmp_path, monkeypatch):
  folder = tmp_path / "codecs"
  save_codecs(codecs, folder)

  def full_disk(*_):
    raise OSError("no space left")

  monkeypatch.setattr("ccl_jax.codecs.bundle.save_file", full_disk)
  with pytest.raises(OSError, match="no space"):
    save_codecs(codecs._replace(text=codecs.text.replace(length=9)), folder)
  assert load_codecs(folder).text.length == 24

  def full_in_its_words(*_):
    raise SafetensorError("Error while serializing: I/O error: No space left on device")

  monkeypatch.setattr("ccl_jax.codecs.bundle.save_file", full_in_its_words)
  with pytest.raises(WriteError, match=f"cannot write {folder}: No space left on dev"):
    save_codecs(codecs, folder)
  assert load_codecs(folder).text.length == 24
  assert [p.name for p in tmp_path.iterdir()] == ["codecs"]


def test_a_folder_with_other_files_is_not_replaced(codecs, tmp_path):
  (tmp_path / "thesis.tex").write_text("precious")
  with pytest.raises(UsageError, match="holds more than codecs"):
    save_codecs(codecs, tmp_path)
  assert (tmp_path / "thesis.tex").read_text() == "precious"


def test_hashes_are_read_without_the_codecs(codecs, tmp_path):
  save_codecs(codecs, tmp_path / "c")
  assert stored_digests(tmp_path / "c") == fingerprints(codecs)
  for text in ("[" * 100_000, "", "[]", "{}", '{"sha256": 3}', '{"sha256": "0"}'):
    (tmp_path / "c" / "text.json").write_text(text)
    with pytest.raises(UsageError, match=r"text\.json"):
      stored_digests(tmp_path / "c")


def test_mistakes_are_one_line(codecs, tmp_path):
  with pytest.raises(UsageError, match=r"nowhere holds no codecs: .* video.json"):
    load_codecs(tmp_path / "nowhere")
  with pytest.raises(UsageError, match="got no clips"):
    fit_codecs([], text_length=8, text_dim=16)

  def spoiled(file, spoil):
    save_codecs(codecs, tmp_path / "c")
    data = (tmp_path / "c" / file).read_bytes()
    (tmp_path / "c" / file).write_bytes(spoil(data))
    with pytest.raises(UsageError) as e:
      load_codecs(tmp_path / "c")
    assert "\n" not in str(e.value)
    return str(e.value)

  def flip_a_bit(data):
    return data[:-9] + bytes([data[-9] ^ 1]) + data[-8:]

  assert "audio codec" in spoiled("audio.safetensors", flip_a_bit)
  assert "damaged" in spoiled("video.safetensors", lambda data: data[:50])
  assert "damaged" in spoiled("text.json", lambda data: data[:20])
  assert "damaged" in spoiled("text.json", lambda d: d.replace(b"length", b"lenght"))
  message = spoiled("text.json", lambda d: d.replace(b"byte_text", b"umt6"))
  assert "kind 'umt6', expected one of linear_video, linear_audio" in message
