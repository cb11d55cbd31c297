"""What is scored of a trained VAE and vocoder: which way of coding has which name."""

from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np
import pytest

from ccl_jax.audio_codec import run as audio_training
from ccl_jax.audio_codec import scores as codec_scores
from ccl_jax.data.sources.sounds import Sounds
from tests.flags.config_keys import get


class Nothing(Sounds):
  """Stands for a folder of sounds that nobody reads."""

  def __init__(self):
    self.train = self.held_out = ()


@pytest.fixture
def ways(monkeypatch):
  """{name: coder} that were scored; a wave is text, and each step says its name."""
  a, found = audio_training, {}
  linear = SimpleNamespace(encode=lambda x: f"E({x})", decode=lambda x: f"D({x})")
  fitted = lambda train: found.update(fitted=train) or linear
  both = {"lsd_db/x": 1, "mel_db/x": 2}
  waves = lambda coders, held: found.update(waves=coders) or both
  mels = lambda coders, held: found.update(mels=coders) or {"mel_db/vae": 3}
  monkeypatch.setattr(codec_scores, "linear_codec", fitted)
  monkeypatch.setattr(
    codec_scores, "linear_mel", lambda codec: lambda x: f"linear({x})"
  )
  monkeypatch.setattr(codec_scores, "score_waves", waves)
  monkeypatch.setattr(codec_scores, "score_mels", mels)
  monkeypatch.setattr(codec_scores, "clicks", lambda count: ("clicks", count))
  late = lambda coder, *given: found.update(clicks=given) or np.array([-3.0, 1.0, 2.0])
  monkeypatch.setattr(codec_scores, "click_errors_ms", late)
  monkeypatch.setattr(a, "mel_of", lambda wave, vae: f"mel({wave}, {vae})")
  monkeypatch.setattr(a.mel_codec, "wave_of_mel", lambda mel: f"griffin({mel})")
  monkeypatch.setattr(a, "synthesize", lambda g, params, mel: f"{params}({mel})")
  monkeypatch.setattr(a.audio_vae, "folded", lambda params: f"folded {params}")
  return found


def test_ways_of_a_vocoder(ways, monkeypatch):
  """Alone of real mels; with a VAE the pair, and the VAE by Griffin-Lim."""
  monkeypatch.setattr(audio_training, "find_vae", lambda _: "VAE")
  config = get("vocoder", "data=SOUNDS,size=tiny,vae=V")
  task = audio_training.vocoder_task(config, Nothing())
  scores = task.score("voice", "train", "held")
  assert ways["fitted"] == "train"
  assert {name: coder("w") for name, coder in ways["waves"].items()} == {
    "vocoder": "voice(mel(w, None))", "griffin_lim": "griffin(mel(w, None))",
    "linear": "D(E(w))", "codec": "voice(mel(w, VAE))",
    "vae_griffin_lim": "griffin(mel(w, VAE))",
  }  # fmt: skip
  assert scores["lsd_db/x"] == 1
  assert ways["clicks"] == ("clicks", 64)  # as many as windows
  for name in ways["waves"]:  # however early or late
    assert scores[f"click_ms_median/{name}"] == 2
    assert scores[f"click_ms_max/{name}"] == 3
  task = audio_training.vocoder_task(get("vocoder", "data=S,size=tiny"), Nothing())
  task.score("voice", "train", "held")
  assert set(ways["waves"]) == {"vocoder", "griffin_lim", "linear"}


def test_ways_of_a_vae(ways, monkeypatch):
  """Mels of the VAE beside the linear codec's; waves by Griffin-Lim; and the latents'
  moments: over all windows, by channel.
  """
  a = audio_training
  for name in ("measure_bands", "make_optimizer", "make_vae_step"):
    monkeypatch.setattr(a, name, lambda *_, **__: None)
  monkeypatch.setattr(a, "_shapes_of_vae", lambda **_: {})
  monkeypatch.setattr(a, "log_mel", lambda wave: wave)
  encode = lambda params, mel: (jnp.stack([mel, -2 * mel], -1), None)
  monkeypatch.setattr(a.audio_vae, "encode_mel", encode)
  task = a.vae_task(get("audio_vae", "data=SOUNDS,size=tiny"), Nothing())
  held = [np.array([1.0, 2.0]), np.array([3.0, 6.0])]
  scores = task.score("params", "train", held)
  made = {name: coder("w") for name, coder in ways["mels"].items()}
  assert made == {"vae": "mel(w, folded params)", "linear": "linear(w)"}
  made = {name: coder("w") for name, coder in ways["waves"].items()}
  expected = {"vae_griffin_lim": "griffin(mel(w, folded params))", "linear": "D(E(w))"}
  assert made == expected
  # Channels 1 2 3 6 and twice its negative: means 3 and -6, deviations sqrt(3.5) times.
  assert scores["latent_mean"] == pytest.approx(4.5)
  assert scores["latent_std"] == pytest.approx(1.5 * 3.5**0.5)
  # Distances by mels are those of mels: of waves only the other one counts.
  assert scores["mel_db/vae"] == 3 and scores["lsd_db/x"] == 1
  assert "mel_db/x" not in scores
