"""Small Wan2.1 checkpoints in every form they come in, written without the package."""

import io
import json
import pickle
import struct
import sys
import types
import zipfile
from collections import OrderedDict
from unittest import mock

import ml_dtypes
import numpy as np
from safetensors.numpy import save_file

WIDTH, FFN, LAYERS, TEXT = 256, 72, 2, 24
STORAGES = {
  np.dtype(np.float32): "FloatStorage",
  np.dtype(np.float16): "HalfStorage",
  np.dtype(ml_dtypes.bfloat16): "BFloat16Storage",
}


def wan_tensors(
  image: bool = False, seed: int = 0, text: int = TEXT, *, last: bool = False
) -> dict[str, np.ndarray]:
  """Random tensors under the original names: of I2V with `image`, of FLF2V with `last`
  too.
  """
  d, shapes = WIDTH, {}

  def dense(name, out, into):
    shapes[f"{name}.weight"], shapes[f"{name}.bias"] = (out, into), (out,)

  shapes["patch_embedding.weight"] = (d, 36 if image else 16, 1, 2, 2)
  shapes["patch_embedding.bias"] = (d,)
  for name, into in (("text_embedding", text), ("time_embedding", 64)):
    dense(f"{name}.0", d, into)
    dense(f"{name}.2", d, d)
  dense("time_projection.1", 6 * d, d)
  for i in range(LAYERS):
    block = f"blocks.{i}"
    shapes[f"{block}.modulation"] = (1, 6, d)
    shapes[f"{block}.norm3.weight"] = shapes[f"{block}.norm3.bias"] = (d,)
    for attention in ("self_attn", "cross_attn"):
      extra = ("k_img", "v_img") if image and attention == "cross_attn" else ()
      for m in ("q", "k", "v", "o", *extra):
        dense(f"{block}.{attention}.{m}", d, d)
      for m in ("q", "k", "k_img") if extra else ("q", "k"):
        shapes[f"{block}.{attention}.norm_{m}.weight"] = (d,)
    dense(f"{block}.ffn.0", FFN, d)
    dense(f"{block}.ffn.2", d, FFN)
  dense("head.head", 64, d)
  shapes["head.modulation"] = (1, 2, d)
  if image:
    for name, width in (("img_emb.proj.0", 1280), ("img_emb.proj.4", d)):
      shapes[f"{name}.weight"] = shapes[f"{name}.bias"] = (width,)
    dense("img_emb.proj.1", 1280, 1280)
    dense("img_emb.proj.3", d, 1280)
  if last:
    shapes["img_emb.emb_pos"] = (1, 2 * 257, 1280)
  rng = np.random.default_rng(seed)
  return {n: rng.standard_normal(s, np.float32) for n, s in shapes.items()}


def config(image: bool = False) -> dict:
  return {
    "_class_name": "WanModel",
    "dim": WIDTH,
    "ffn_dim": FFN,
    "num_heads": WIDTH // 128,
    "num_layers": LAYERS,
    "in_dim": 36 if image else 16,
    "eps": 1e-6,
  }


def save_shards(folder, tensors, count=3, stem="diffusion_pytorch_model") -> None:
  """Shards and their index, as the large releases have them."""
  folder.mkdir(parents=True, exist_ok=True)
  names, places = sorted(tensors), {}
  for i in range(count):
    file = f"{stem}-{i + 1:05d}-of-{count:05d}.safetensors"
    part = names[i::count]
    save_file({n: tensors[n] for n in part}, folder / file)
    places |= dict.fromkeys(part, file)
  index = {"metadata": {}, "weight_map": places}
  (folder / f"{stem}.safetensors.index.json").write_text(json.dumps(index))


def _named(name: str, module: str):
  """A stand-in for something of torch's, which pickles by name."""
  return type(name, (), {"__module__": module, "__qualname__": name})


class _Call:
  def __init__(self, function, *args):
    self.function, self.args = function, args

  def __reduce__(self):
    return self.function, self.args


class _Storage:
  def __init__(self, key, kind, array):
    self.key, self.kind, self.array = key, kind, array


def _pickled(tensors, legacy, extra=None, inside=None):
  """(bytes of the pickled dict, storages); `extra` is one more item of the dict, which
  may lie in another, `inside` a training checkpoint, or in several.
  """
  torch = types.ModuleType("torch")
  utils = types.ModuleType("torch._utils")
  for name in ("_rebuild_tensor_v2", "_rebuild_parameter"):
    setattr(utils, name, _named(name, "torch._utils"))
  for name in STORAGES.values():
    setattr(torch, name, _named(name, "torch"))
  storages, state = [], OrderedDict()
  for i, (name, x) in enumerate(tensors.items()):
    # Every third is a transposed view, as torch would save one; a fourth a Parameter.
    base = x.T.copy() if i % 3 == 2 else x
    step = [s // x.itemsize for s in (base.T if i % 3 == 2 else base).strides]
    storage = _Storage(str(i), getattr(torch, STORAGES[x.dtype]), base)
    storages.append(storage)
    item = _Call(
      utils._rebuild_tensor_v2, storage, 0, x.shape, tuple(step), False, OrderedDict()
    )
    if i % 4 == 3:
      item = _Call(utils._rebuild_parameter, item, True, OrderedDict())
    state[name] = item
  state |= extra or {}
  state._metadata = OrderedDict(version=1)  # as Module.state_dict leaves it
  for name in reversed([inside] if isinstance(inside, str) else inside or ()):
    state = {"epoch": 3, "optimizer": {"step": 7}, name: state}

  class Pickler(pickle.Pickler):
    def persistent_id(self, x):
      if isinstance(x, _Storage):
        view = (None,) if legacy else ()
        return ("storage", x.kind, x.key, "cpu", x.array.size, *view)
      return None

  out = io.BytesIO()
  with mock.patch.dict(sys.modules, {"torch": torch, "torch._utils": utils}):
    Pickler(out, 2).dump(state)
  return out.getvalue(), storages


def save_pth(path, tensors, extra=None, inside=None) -> None:
  """torch.save's zip format."""
  raw, storages = _pickled(tensors, legacy=False, extra=extra, inside=inside)
  with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as z:
    z.writestr("archive/data.pkl", raw)
    z.writestr("archive/byteorder", "little")
    for s in storages:
      z.writestr(f"archive/data/{s.key}", s.array.tobytes())
    z.writestr("archive/version", "3\n")


def save_legacy(path, tensors, inside=None) -> None:
  """torch.save's format from before 1.6."""
  raw, storages = _pickled(tensors, legacy=True, inside=inside)
  about = {"protocol_version": 1001, "little_endian": True, "type_sizes": {"int": 4}}
  with open(path, "wb") as f:
    for value in (0x1950A86A20F9469CFC6C, 1001, about):
      pickle.dump(value, f, protocol=2)
    f.write(raw)
    pickle.dump([s.key for s in storages], f, protocol=2)
    for s in storages:
      f.write(struct.pack("<q", s.array.size) + s.array.tobytes())
