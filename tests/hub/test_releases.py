"""Networks from the hub: which files are read of a repository, and what they become."""

import hashlib
import json

import pytest
from huggingface_hub import constants

from ccl_jax import convert, hub
from ccl_jax.data.manifest import local_manifest
from ccl_jax.data.sets.record_set import RecordSet
from ccl_jax.data.sources.open import open_source
from ccl_jax.data.spec import ClipSpec
from ccl_jax.errors import UsageError
from ccl_jax.metrics.base import Unscorable
from ccl_jax.metrics.registry import Folders
from ccl_jax.shipped import checkpoint
from ccl_jax.weights import release
from ccl_jax.weights.download import fetched
from ccl_jax.weights.lora_open import absolute, parse_lora
from ccl_jax.weights.release import convert_release
from tests.data.films import film
from tests.data.latent_sets import FILM, make_set
from tests.hub.server import COMMIT
from tests.weights.ovi_files import ovi_download
from tests.weights.release_files import SIZES, dit_sizes, native_release, tensors

AROUND = ("README.md", ".gitattributes", "LICENSE.txt", "assets/logo.png")
T5, CLIP = "models_t5_umt5-xxl-enc-bf16.pth", "models_clip_open-clip-xlm-roberta.pth"


def sharded(stem: str, count: int) -> list[str]:
  shards = [f"{stem}-{i:05d}-of-{count:05d}.safetensors" for i in range(1, count + 1)]
  return [f"{stem}.safetensors.index.json", *shards]


def tokenizer(folder: str) -> list[str]:
  names = ("special_tokens_map.json", "spiece.model", "tokenizer_config.json")
  return [f"{folder}/{name}" for name in (*names, "tokenizer.json")]


DIT, INNER = (sharded(f"{p}diffusion_pytorch_model", 6) for p in ("", "transformer/"))
ENCODER = sharded("text_encoder/model", 5)
# The names of published repositories.
REPOSITORIES = {
  "Wan-AI/Wan2.1-I2V-14B-480P": [
    *AROUND, *DIT, *tokenizer("google/umt5-xxl"), *tokenizer("xlm-roberta-large"),
    "config.json", "Wan2.1_VAE.pth", T5, CLIP,
  ],
  "Wan-AI/Wan2.1-I2V-14B-480P-Diffusers": [
    *AROUND, *INNER, *ENCODER, *tokenizer("tokenizer"), "model_index.json",
    "transformer/config.json", "text_encoder/config.json", "vae/config.json",
    "vae/diffusion_pytorch_model.safetensors", "image_encoder/config.json",
    "image_encoder/model.safetensors", "image_processor/preprocessor_config.json",
    "scheduler/scheduler_config.json",
  ],
  "Wan-AI/Wan2.2-T2V-A14B": [
    *AROUND, *(f"{p}_noise_model/{n}" for p in ("high", "low") for n in DIT),
    "Wan2.1_VAE.pth", T5,
  ],
  "chetwinlow1/Ovi": [
    *AROUND, "model.safetensors", "model_960x960.safetensors",
    "model_960x960_10s.safetensors", "model_fp8_e4m3fn.safetensors",
  ],
  "hkchengrex/MMAudio": [
    *AROUND, *(f"ext_weights/{n}" for n in
    ("best_netG.pt", "v1-16.pth", "v1-44.pth", "synchformer_state_dict.pth")),
    "weights/mmaudio_large_44k_v2.pth",
  ],
  "nvidia/bigvgan_v2_44khz_128band_512x": [
    *AROUND, "bigvgan_generator.pt", "bigvgan_discriminator_optimizer.pt",
    "config.json", "bigvgan.py", "activations.py",
  ],
  "facebook/audiobox-aesthetics": [
    *AROUND, "checkpoint.pt", "config.json", "model.safetensors",
  ],
  "openai/whisper-large-v3": [
    *AROUND, "config.json", "generation_config.json", "tokenizer.json", "vocab.json",
    "merges.txt", "preprocessor_config.json", "flax_model.msgpack",
    "model.safetensors", "pytorch_model.bin", "pytorch_model.fp32-00001-of-00002.bin",
    "model.fp32-00001-of-00002.safetensors",
  ],
  "Systran/faster-whisper-large-v3": [
    *AROUND, "model.bin", "config.json", "tokenizer.json", "vocabulary.json",
    "preprocessor_config.json",
  ],
}  # fmt: skip
I2V, INNER_I2V = "Wan-AI/Wan2.1-I2V-14B-480P", "Wan-AI/Wan2.1-I2V-14B-480P-Diffusers"
MMAUDIO, BIGVGAN = "hkchengrex/MMAudio", "nvidia/bigvgan_v2_44khz_128band_512x"
WHISPER = ["config.json", "generation_config.json", "tokenizer.json", "vocab.json",
           "merges.txt", "preprocessor_config.json", "model.safetensors"]  # fmt: skip
READ = [
  ("wan-dit", I2V, "", [*DIT, "config.json"]),
  ("wan-dit", I2V, DIT[2], [*DIT, "config.json"]),
  ("wan-vae", I2V, "", ["Wan2.1_VAE.pth", "config.json"]),
  ("umt5", I2V, "", [T5, "config.json", "google/umt5-xxl/tokenizer.json"]),
  ("clip", I2V, "", [CLIP, "config.json"]),
  ("wan-dit", INNER_I2V, "", [*INNER, "transformer/config.json", "model_index.json"]),
  ("wan-dit", INNER_I2V, "transformer", [*INNER, "transformer/config.json",
                                         "model_index.json"]),
  ("wan-vae", INNER_I2V, "", ["vae/diffusion_pytorch_model.safetensors",
                              "vae/config.json", "model_index.json"]),
  ("umt5", INNER_I2V, "", [*ENCODER, "text_encoder/config.json",
                           "tokenizer/tokenizer.json", "model_index.json"]),
  ("umt5", INNER_I2V, "text_encoder", [*ENCODER, "text_encoder/config.json",
                                       "tokenizer/tokenizer.json", "model_index.json"]),
  ("clip", INNER_I2V, "", ["image_encoder/model.safetensors", "model_index.json",
                           "image_encoder/config.json"]),
  ("ovi-dit", "chetwinlow1/Ovi", "model_960x960.safetensors",
   ["model_960x960.safetensors"]),
  ("vocoder", MMAUDIO, "", ["ext_weights/best_netG.pt"]),
  ("vocoder", BIGVGAN, "", ["bigvgan_generator.pt", "config.json"]),
  ("audio-vae", MMAUDIO, "ext_weights/v1-44.pth", ["ext_weights/v1-44.pth"]),
  ("synchformer", MMAUDIO, "ext_weights", ["ext_weights/synchformer_state_dict.pth"]),
  ("aesthetics", "facebook/audiobox-aesthetics", "",
   ["model.safetensors", "config.json"]),
  ("whisper", "openai/whisper-large-v3", "", WHISPER),
  ("whisper", "Systran/faster-whisper-large-v3", "",
   ["model.bin", "config.json", "tokenizer.json", "vocabulary.json",
    "preprocessor_config.json"]),
]  # fmt: skip
REFUSED = [
  ("wan-dit", "Wan-AI/Wan2.2-T2V-A14B", "", "Wan2.2-A14B, a model of two experts"),
  ("wan-dit", "Wan-AI/Wan2.2-T2V-A14B", "low_noise_model", "of two experts"),
  ("ovi-dit", "chetwinlow1/Ovi", "", "holds model.saf.*model_960x960.* name the one"),
  ("audio-vae", MMAUDIO, "", "hf:hkchengrex/MMAudio/ext_weights holds v1-16.pth, v1-4"),
  ("clip", MMAUDIO, "", "hf:hkchengrex/MMAudio holds no checkpoint: expected .safet"),
  ("vocoder", MMAUDIO, "none", "no such file or folder; it has .gitattributes, LICEN"),
  ("whisper", MMAUDIO, "", "holds no Whisper: expected model.safetensors or model-"),
]


def laid_out(folder, names):
  """Files of such names, each of its own bytes; an index lists the shards beside it."""
  for name in names:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"{{}}{' ' * 30}" if name.endswith(".json") else name)
    if name.endswith(".index.json"):
      stem = name.removesuffix(".safetensors.index.json")
      shards = [n.rpartition("/")[2] for n in names if n.startswith(f"{stem}-0")]
      places = {f"tensor_{i}": shard for i, shard in enumerate(shards)}
      path.write_text(json.dumps({"weight_map": places}))
  return folder


@pytest.fixture
def published(serve, tmp_path):
  """The repositories by their names, a small file in place of each."""
  folders = {
    f"models/{n}": laid_out(tmp_path / n, REPOSITORIES[n]) for n in REPOSITORIES
  }
  return serve(folders)


def address(name, path):
  return f"hf:{name}/{path}".rstrip("/")


def test_only_what_is_read_is_downloaded(published):
  for kind, name, path, expected in READ:
    published.asked.clear()
    place = fetched(kind, address(name, path))
    top = place.parents[path.count("/")] if path else place
    got = sorted(p.relative_to(top).as_posix() for p in top.rglob("*") if p.is_file())
    assert set(expected) <= set(got), (kind, name, path)
    # What another network of the repository has brought is there already.
    assert set(published.bodies()) <= set(expected), (kind, name, path)


def test_what_is_refused_before_anything_large(published):
  for kind, name, path, words in REFUSED:
    with pytest.raises(UsageError, match=words):
      fetched(kind, address(name, path))
  assert {n for n in published.bodies() if not n.endswith(".json")} == set()


def hashes(folder):
  """The SHA-256 of every tensor of a converted network, by its published name."""
  kept = json.loads((folder / "tensors.json").read_text())
  return {name: entry["sha256"] for name, entry in kept.items()}


def drawn(kind, sizes):
  """The same, of the tensors that the small release was made of."""
  made = tensors(kind, sizes, "native")
  return {n: hashlib.sha256(x.tobytes()).hexdigest() for n, x in made.items()}


def test_a_whole_release(serve, tmp_path, monkeypatch, capsys):
  source = native_release(tmp_path / "Wan2.1-T2V-1.3B", image=False)
  laid_out(source, AROUND)
  server = serve({"models/Wan-AI/Wan2.1-T2V-1.3B": source})
  server.licence["models/Wan-AI/Wan2.1-T2V-1.3B"] = "apache-2.0"
  at, dst = "hf:Wan-AI/Wan2.1-T2V-1.3B", tmp_path / "wan"
  convert.main(["wan", "--src", at, "--dst", str(dst), "--verify"])
  told = capsys.readouterr().err
  assert f"{at} (abababa): 7 files, 5.9 MB, licence apache-2.0\n" in told
  whole = f"Wan2.1_VAE.pth is {at}@{COMMIT}/Wan2.1_VAE.pth, byte for byte"
  assert whole in told
  assert hashes(dst / "vae") == drawn("wan-vae", SIZES["wan-vae"])
  assert hashes(dst / "dit") == drawn("wan-dit", dit_sizes(image=False))
  assert (dst / "umt5/tokenizer.json").is_file()
  about = json.loads((dst / "config.json").read_text())
  assert about == {"kind": "wan", "name": f"{at}@{COMMIT}"}
  assert not {*AROUND, "google/umt5-xxl/spiece.model"} & set(server.bodies())
  server.asked.clear()
  monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
  hub.open_repository.cache_clear()
  assert fetched("wan-vae", at) == hub.local(at) and not server.asked


@pytest.fixture
def imported(monkeypatch):
  """What would be converted: command -> path; the folders hold no more than a name."""
  seen = {}

  def import_weights(kind, src, dst, **options):
    seen[kind] = src
    dst.mkdir()
    (dst / "config.json").write_text("{}")

  monkeypatch.setattr(release, "import_weights", import_weights)
  monkeypatch.setattr(release, "link_codecs", lambda dst, **folders: None)
  return seen


def test_ovi_comes_from_three_repositories(serve, tmp_path, imported):
  source = ovi_download(tmp_path / "download")
  laid_out(source / "MMAudio", ["ext_weights/v1-44.pth", "weights/mmaudio_small.pth"])
  laid_out(source / "Ovi", ["model_960x960.safetensors"])
  server = serve(
    {
      "models/chetwinlow1/Ovi": source / "Ovi",
      "models/Wan-AI/Wan2.2-TI2V-5B": source / "Wan2.2-TI2V-5B",
      "models/hkchengrex/MMAudio": source / "MMAudio",
    }
  )
  at = "hf:chetwinlow1/Ovi/model.safetensors"
  convert_release(at, tmp_path / "ovi", kind="ovi")
  assert server.bodies() == [
    "Wan2.2_VAE.pth", "ext_weights/best_netG.pt", "ext_weights/v1-16.pth",
    "google/umt5-xxl/tokenizer.json", "model.safetensors", T5,
  ]  # fmt: skip
  ti2v, sound = "hf:Wan-AI/Wan2.2-TI2V-5B", "hf:hkchengrex/MMAudio"
  assert {kind: hub.origin(path) for kind, path in imported.items()} == {
    "ovi-dit": f"hf:chetwinlow1/Ovi@{COMMIT}/model.safetensors",
    "wan22-vae": f"{ti2v}@{COMMIT}", "umt5": f"{ti2v}@{COMMIT}",
    "audio-vae": f"{sound}@{COMMIT}/ext_weights/v1-16.pth",
    "vocoder": f"{sound}@{COMMIT}",
  }  # fmt: skip


def test_a_release_that_lacks_a_codec_is_told_before(serve, tmp_path):
  names = [n for n in REPOSITORIES[I2V] if n not in (T5, CLIP)]
  server = serve({f"models/{I2V}": laid_out(tmp_path / "wan", names)})
  with pytest.raises(
    UsageError, match=r"hf:Wan-AI/.* holds no checkpoint: .*models_t5"
  ):
    convert_release(f"hf:{I2V}", tmp_path / "dst")
  assert set(server.bodies()) == {DIT[0], "config.json"}
  assert not (tmp_path / "dst").exists()


def test_an_interrupted_conversion_goes_on_with_its_commit(serve, tmp_path, imported):
  source = native_release(tmp_path / "Wan2.1-T2V-1.3B", image=False)
  serve({"models/a/wan": source})
  for commit in ("cd" * 20, COMMIT):
    request = {"src": f"hf:a/wan@{commit}", "dtype": None}
    (tmp_path / "dst").mkdir(exist_ok=True)
    (tmp_path / "dst/unfinished.json").write_text(json.dumps(request))
    if commit != COMMIT:
      with pytest.raises(UsageError, match="was begun with --src hf:a/wan@cdcd"):
        convert_release("hf:a/wan", tmp_path / "dst")
      assert not imported
  convert_release("hf:a/wan", tmp_path / "dst")
  assert imported.keys() == {"wan-dit", "wan-vae", "umt5"}


def test_networks_of_metrics_come_when_they_are_asked_for(published):
  sync = f"hf:{MMAUDIO}/ext_weights"
  folders = Folders([sync, "aesthetics=hf:facebook/audiobox-aesthetics"])
  assert not published.asked
  assert folders.find("synchformer").name == "synchformer_state_dict.pth"
  assert published.bodies() == ["ext_weights/synchformer_state_dict.pth"]
  published.asked.clear()
  found = folders.find("aesthetics")
  assert sorted(p.name for p in found.iterdir()) == ["config.json", "model.safetensors"]
  with pytest.raises(Unscorable, match=f"missing weights of vggish: not in {sync}"):
    folders.find("vggish")
  with pytest.raises(UsageError, match="whisper= is there twice"):
    Folders(["whisper=hf:a/b", "whisper=hf:a/c"])


def test_a_lora_by_its_address(serve, tmp_path):
  assert parse_lora("hf:a/b/c.safetensors") == ("hf:a/b/c.safetensors", 1.0)
  assert parse_lora("hf:a/b:0.5") == ("hf:a/b", 0.5)
  names = ["adapter_config.json", "adapter_model.safetensors", "optimizer.pt"]
  server = serve({"models/a/b": laid_out(tmp_path / "lora", names)})
  with pytest.raises(UsageError, match=r"adapter_model.safetensors"):
    absolute("hf:a/b:0.5")  # not a LoRA's bytes
  assert server.bodies() == names[:2]


def test_a_folder_of_ours_by_its_address(serve, tmp_path):
  names = ["config.json", "checkpoints/0/a", "tensors.json", "codecs/codecs.json"]
  serve({"models/me/run": laid_out(tmp_path / "run", names)})
  place = checkpoint("hf:me/run")
  assert [(place / n).is_file() for n in names] == [True] * 4


def test_films_and_sets_by_their_addresses(serve, tmp_path):
  make_set(tmp_path / "data/set", {FILM: 4})
  (tmp_path / "data/films").mkdir()
  film(tmp_path / "data/films/a.mp4", seconds=1.5)
  laid_out(tmp_path / "data", AROUND)
  server = serve({"datasets/me/data": tmp_path / "data"})
  clips = open_source("folder", ClipSpec(9, 32, 32, 25.0), "hf:datasets/me/data/films")
  assert clips[0]["video"].shape == (9, 32, 32, 3)
  assert server.bodies() == ["films/a.mp4"]
  records = RecordSet("hf:datasets/me/data/set")
  assert [len(x) for x in records.buckets.values()] == [4]
  assert records.buckets[FILM][2]["video"].max() == 2
  assert not {"set/plan.json", *AROUND} & set(server.bodies())


def test_a_manifest_brings_what_it_names(serve, tmp_path):
  rows = [
    {"id": "a", "prompt": "p", "image": "pictures/a.png"},
    {"id": "b", "prompt": "p"},
  ]
  text = "".join(json.dumps(row) + "\n" for row in rows)
  folder = laid_out(tmp_path / "data", ["in/pictures/a.png", "in/pictures/z.png"])
  (folder / "in/set.jsonl").write_text(text)
  (folder / "in/bad.jsonl").write_text(text.replace("a.png", "q.png"))
  server = serve({"datasets/me/data": folder})
  manifest = local_manifest("hf:datasets/me/data/in/set.jsonl")
  assert (manifest.parent / "pictures/a.png").is_file()
  assert server.bodies() == ["in/pictures/a.png", "in/set.jsonl"]
  with pytest.raises(UsageError, match=r"in/pictures/q.png: .* no such file"):
    local_manifest("hf:datasets/me/data/in/bad.jsonl")
