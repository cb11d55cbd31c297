"""From an Ovi download to a clip with sound, on small weights in the real layout."""

import numpy as np
import pytest

from ccl_jax.data.spec import ClipSpec
from ccl_jax.errors import UsageError
from ccl_jax.generation.pipeline import LoadedModel
from ccl_jax.generation.sampling import Sampling
from ccl_jax.weights.release import convert_release
from tests.weights.ovi_files import ovi_download

CLIP = ClipSpec(5, 32, 64, 24, stride=16)
FAST = Sampling(guidance="text", steps=1, shift=5.0, skip_block=1)


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory):
  """Of the fp8 file, whose values are plain."""
  folder = tmp_path_factory.mktemp("ovi")
  download = ovi_download(folder / "ckpts", "model_fp8_e4m3fn.safetensors")
  convert_release(download, folder / "ovi", kind="ovi", verify=True)
  return LoadedModel.load(folder / "ovi")


def test_a_release_says_what_it_is_for(pipeline):
  assert pipeline.spec == ClipSpec(121, 512, 992, 24, stride=16, audio_rate=31.4)
  assert pipeline.spec.audio_tokens == 157
  assert pipeline.shift(pipeline.spec) == 5.0 and pipeline.about.area == 720**2
  assert pipeline.negative["audio"] == "robotic, muffled, echo, distorted"
  about = pipeline.about
  assert (about.release.sound, about.rule) == ("tags", "nearest")
  # Its two blocks have no block 11.
  assert about.guidance == {"form": "text", "scales": {"video": [4.0], "audio": [3.0]}}
  wave = np.zeros((1, CLIP.samples), np.float32)
  with pytest.raises(UsageError, match="task a2v: .*joint, ti2av, t2v, i2v, t2a"):
    pipeline.generate("a2v", ["x"], sampling=FAST, audio=wave, spec=CLIP)


def test_a_download_becomes_a_clip_with_sound(pipeline):
  """The picture begins with the given one; the prompt is told in the model's form."""
  image = np.random.default_rng(0).integers(0, 255, (1, 32, 64, 3), np.uint8)
  told = []
  text = pipeline.codecs.text
  tokenize = type(text).tokenize
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(
      type(text), "tokenize", lambda self, x: told.extend(x) or tokenize(self, x)
    )
    made = pipeline.generate(
      "ti2av", ['a face says "hello" Audio: grass'], sampling=FAST, image=image,
      negative=pipeline.negative, spec=CLIP,
    )  # fmt: skip
  assert told[0] == "a face says <S>hello<E> <AUDCAP>grass<ENDAUDCAP>"
  assert told[1:] == [pipeline.negative["video"], pipeline.negative["audio"]]
  assert made["video"].shape == (1, 5, 32, 64, 3) and made["video"].std() > 1
  assert made["audio"].shape == (1, CLIP.samples) and made["audio"].std() > 0
