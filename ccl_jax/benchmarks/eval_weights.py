"""Random weights of the metrics' networks at the sizes of their releases.

For figures of speed and memory, and for rehearsals without a download: names, shapes
and types are those of the releases (ImageBind without the towers that are not read),
the numbers are drawn. The detector's are such that any picture has faces, else SyncNet
would have nothing to do; Whisper's such that it says what fits in `WORDS` tokens.
"""

import pathlib
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from ccl_jax.errors import UsageError
from ccl_jax.files import write_json
from ccl_jax.models.scorers.aesthetics import AestheticsNet
from ccl_jax.models.scorers.i3d import I3D
from ccl_jax.models.scorers.s3fd import S3FDNet
from ccl_jax.models.scorers.synchformer import SynchformerNet
from ccl_jax.models.scorers.vggish import VGGish
from ccl_jax.models.scorers.wavlm import WavLM
from ccl_jax.weights.rules import expected_tensors
from ccl_jax.weights.upstream import Sizes, get_upstream
from ccl_jax.weights.writer import Spec, write_safetensors

# Metric -> its networks; those without one are not here.
NETWORKS = {
  "sync": ("syncnet", "s3fd"), "desync": ("synchformer",), "ib": ("imagebind",),
  "aesthetics": ("aesthetics",), "wer": ("whisper",), "fad": ("vggish",),
  "fvd": ("i3d",),
}  # fmt: skip
FACES = "conf.3"  # the detector's map whose every place is a face, of 128 pixels there
WORDS = 24  # tokens; about what is said in 5 s


def _fields(net, *names: str) -> Sizes:
  return {name: getattr(net, name) for name in names}


def _tower(width: int, depth: int) -> Sizes:
  return {"width": width, "heads": 1, "hidden": 4 * width, "depth": depth, "out": 1024}


_SYNCHFORMER = (
  "width", "hidden", "heads", "depths", "joint_hidden", "joint_heads", "classes"
)  # fmt: skip
_WAVLM = (
  "channels", "kernels", "width", "ffn", "heads", "depth", "buckets", "taps", "groups"
)  # fmt: skip
_SYNCNET = {
  "lips": {"widths": [96, 256, 256, 256, 256, 512], "hidden": 512, "out": 1024},
  "sound": {"widths": [64, 192, 384, 256, 256, 512], "hidden": 512, "out": 1024},
}
SIZES: Mapping[str, Sizes] = {
  "syncnet": _SYNCNET,
  "s3fd": _fields(S3FDNet(), "widths", "fc", "extras"),
  "synchformer": _fields(SynchformerNet(), *_SYNCHFORMER) | {"times": 8, "grid": 14},
  "imagebind": {"vision": _tower(1280, 32), "audio": _tower(768, 12), "grid": 16},
  "aesthetics": _fields(AestheticsNet(), "dense", "norms", "unit")
  | {"wavlm": _fields(WavLM(), *_WAVLM), "scale": 4 * [[5.0, 1.0]]},
  "i3d": _fields(I3D(), "stem", "mixed", "classes"),
  "vggish": _fields(VGGish(), "convs", "dense"),
}
WHISPER = {  # large-v3
  "d_model": 1280, "encoder_layers": 32, "decoder_layers": 32,
  "encoder_attention_heads": 20, "decoder_attention_heads": 20,
  "encoder_ffn_dim": 5120, "decoder_ffn_dim": 5120, "vocab_size": 51866,
}  # fmt: skip
SPECIAL = (
  "<|endoftext|>", "<|startoftranscript|>", "<|en|>", "<|zh|>", "<|translate|>",
  "<|transcribe|>", "<|startoflm|>", "<|startofprev|>", "<|nospeech|>",
  "<|notimestamps|>",
)  # fmt: skip


def draw(kind: str, folder: pathlib.Path, sizes: Sizes | None = None) -> None:
  """Writes a network's release into `folder`/`kind`, one tensor in memory at a time.

  Args:
    kind: a name of `SIZES`.
    folder: above that of the network.
    sizes: as the network's converter reads them; those of the release if not given.
  """
  upstream, sizes = get_upstream(kind), sizes or SIZES[kind]
  matches = expected_tensors(upstream.tables["native"], upstream.shapes(sizes))
  specs = [Spec(m.name, m.shape, np.dtype(np.float32)) for m in matches]
  (folder / kind).mkdir(parents=True)
  write_safetensors(folder / kind, upstream.stem_of(sizes), specs, _tensors(specs))
  if config := upstream.config(sizes, "native"):
    write_json(folder / kind / "config.json", config)


def _tensors(specs: Sequence[Spec]) -> Iterator[np.ndarray]:
  """Numbers of each that keep a signal's size."""
  rng = np.random.default_rng(0)
  for spec in specs:
    x = rng.standard_normal(spec.shape, np.float32)
    if spec.name.startswith(("conf.", "loc.")):
      x = np.zeros(spec.shape, np.float32)  # of the detector: no moves, and no face
      if spec.name.startswith("conf.") and spec.name.endswith("bias"):
        x[-1] = 5 if spec.name.startswith(FACES) else -5
    elif len(spec.shape) > 1:
      x /= np.float32(np.prod(spec.shape[1:]) ** 0.5)
    elif spec.name.endswith("weight"):
      x = 1 + x / 10
    elif spec.name.endswith("running_var"):
      x = 0.5 + abs(x)
    yield np.asarray(x, spec.dtype)


def write_processor(path: pathlib.Path, symbols: Sequence[str]) -> dict[str, int]:
  """Writes Whisper's tokenizer and front end into the folder `path`.

  Args:
    symbols: of the tokenizer, `SPECIAL` among them.

  Returns:
    The symbols' numbers.
  """
  import transformers

  ids = {symbol: i for i, symbol in enumerate(symbols)}
  tokenizer = transformers.WhisperTokenizer(vocab=ids, merges=[])
  tokenizer.add_special_tokens({"additional_special_tokens": list(SPECIAL)})
  features = transformers.WhisperFeatureExtractor(feature_size=128)
  transformers.WhisperProcessor(features, tokenizer).save_pretrained(path)
  return ids


def draw_whisper(folder: pathlib.Path, sizes: Mapping[str, int] = WHISPER) -> None:
  """Writes Whisper's release into `folder`/whisper, in float16 as it is published.

  Raises:
    UsageError: torch or transformers is not installed.
  """
  try:
    import torch
    import transformers
    from transformers.convert_slow_tokenizer import bytes_to_unicode
  except ImportError as e:
    raise UsageError(f"Whisper needs {e.name}: pip install 'ccl_jax[whisper]'") from e
  path = folder / "whisper"
  path.mkdir(parents=True)
  symbols = [*bytes_to_unicode().values()]
  others = (
    f"<|{i}|>" for i in range(sizes["vocab_size"] - len(symbols) - len(SPECIAL))
  )
  ids = write_processor(path, [*symbols, *SPECIAL, *others])
  end, start = ids["<|endoftext|>"], ids["<|startoftranscript|>"]
  tokens = {
    "bos_token_id": end, "eos_token_id": end, "pad_token_id": end,
    "decoder_start_token_id": start, "begin_suppress_tokens": [],
  }  # fmt: skip
  config = transformers.WhisperConfig(
    **sizes, **tokens, num_mel_bins=128, suppress_tokens=[], dtype="float16"
  )
  with torch.device("meta"):
    model = transformers.WhisperForConditionalGeneration(config)
  config.save_pretrained(path)
  spoken = len(bytes_to_unicode())
  transformers.GenerationConfig(
    **tokens, is_multilingual=True, max_new_tokens=WORDS,
    lang_to_id={x: ids[x] for x in ("<|en|>", "<|zh|>")},
    task_to_id={x: ids[f"<|{x}|>"] for x in ("transcribe", "translate")},
    no_timestamps_token_id=ids["<|notimestamps|>"],
    suppress_tokens=list(range(spoken, sizes["vocab_size"])),
    _from_model_config=False,
  ).save_pretrained(path)  # fmt: skip
  shapes = {n: tuple(x.shape) for n, x in model.state_dict().items()}
  del shapes["proj_out.weight"]  # is that of the tokens' embedding
  specs = [Spec(n, shape, np.dtype(np.float16)) for n, shape in shapes.items()]
  write_safetensors(path, "model", specs, _tensors(specs))
