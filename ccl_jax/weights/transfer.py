"""Moves tensors between a published checkpoint and our parameters, one at a time.

Nothing is taken on trust: every tensor must be known, of the expected shape, and used
exactly once. What is imported and exported again is the same, bit by bit.
"""

import hashlib
import pathlib
import shutil
import sys
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from ccl_jax import __version__, progress
from ccl_jax.checkpoints import find
from ccl_jax.checkpoints.folders import new_folder
from ccl_jax.checkpoints.usage import Usage, stated
from ccl_jax.documents import check
from ccl_jax.errors import UsageError
from ccl_jax.files import new_file, write_json
from ccl_jax.remote.copies import local_tree
from ccl_jax.remote.paths import Place
from ccl_jax.shipped import checkpoint
from ccl_jax.weights.download import fetched, source_name
from ccl_jax.weights.reader import Weights, open_weights, read_config
from ccl_jax.weights.released import compared
from ccl_jax.weights.rules import Match, Shapes, expected_tensors, match
from ccl_jax.weights.upstream import LICENCES, Sizes, Upstream, get_upstream
from ccl_jax.weights.writer import Spec, write_safetensors

DTYPES = ("float32", "bfloat16", "float16")
PLAIN_FP8 = "float8_e4m3fn"
USAGE = "sampling"  # of an exported config.json: see `checkpoints.usage`
# Bits of the exponent, all of them set in NaN and infinity; numpy is slow to tell.
_EXPONENTS = {"bfloat16": 0x7F80, "float16": 0x7C00}


class Source(NamedTuple):
  """A checkpoint that has passed every test that its headers allow.

  Attributes:
    upstream: the network that it is of.
    weights: its tensors.
    form: its format.
    sizes, shapes: of the network, and of our parameters.
    matches: which tensor becomes which parameter.
    usage: how the network is sampled; see `checkpoints.usage`.
  """

  upstream: Upstream
  weights: Weights
  form: str
  sizes: Sizes
  shapes: Shapes
  matches: list[Match]
  usage: dict[str, Any]


def open_source(kind: str, src) -> Source:
  """The checkpoint `src` of a network, held to account; no tensor is read.

  Args:
    kind: a name of `weights.upstream.MODULES`.
    src: a file or folder, or an address of the hub.

  Raises:
    UsageError: it is not what it should be.
  """
  upstream, src = get_upstream(kind), fetched(kind, src)
  other = upstream.other(src)
  try:
    weights = open_weights(src, upstream.places, upstream.files, fp8=upstream.plain_fp8)
    weights = upstream.view(weights)
  except UsageError:
    # Which file of a folder is meant may be unclear; a file says itself what it is.
    if other and src.is_dir():
      raise UsageError(f"{src} is {other}") from None
    raise
  if other and not upstream.certain(weights):
    raise UsageError(f"{src} is {other}")
  form = upstream.format_of(weights)
  if form not in upstream.tables:
    raise UsageError(
      f"{src} has {form} names; convert {kind} knows {', '.join(upstream.tables)}"
    )
  rows = upstream.tables[form]
  config = read_config(src, upstream.places)
  try:
    sizes = upstream.sizes(weights, rows, config)
    shapes = upstream.shapes(sizes)
  except UsageError:
    raise
  except Exception as e:
    if not config:
      raise
    # Whatever values of other types or sizes lead to.
    raise UsageError(
      f"{src}: the config.json beside it does not describe this network: take the "
      "one of its release, or none"
    ) from e
  matches = match(rows, weights, shapes, upstream.ignore)
  usage = upstream.usage(sizes)
  if USAGE in config:  # an export of ours
    place = f"{weights.path}: config.json: {USAGE}"
    advice = "put back what was written, or leave it out"
    usage = stated(check(config[USAGE], Usage, place, advice))
  return Source(upstream, weights, form, sizes, shapes, matches, usage)


def import_weights(
  kind: str,
  src,
  dst,
  *,
  dtype: str | None = None,
  verify: bool = False,
  licence: str | None = None,
) -> dict[str, Any]:
  """Converts the checkpoint `src` into the folder `dst`; returns its config.json.

  Args:
    kind: a name of `weights.upstream.MODULES`.
    src: a file or folder, or an address of the hub.
    dst: a new folder.
    dtype: to store everything in; as it is in the source if not given.
    verify: read everything back, and compare it tensor by tensor; say whether the
      files are the release's, where their digests are known.
    licence: the weights' terms; None: those of the published ones.

  Raises:
    UsageError: `src` is not what it should be, or `dst` is there already.
  """
  with local_tree(src) as source:
    options = {"dtype": dtype, "verify": verify, "licence": licence}
    return _import_weights(kind, source, dst, **options)


def _import_weights(kind: str, src: pathlib.Path, dst, *, dtype, verify, licence):
  """As `import_weights`, of a file or folder of this machine."""
  from ccl_jax.checkpoints.slices import SliceReader, SliceWriter

  src = fetched(kind, src)
  upstream, weights, form, sizes, shapes, matches, usage = open_source(kind, src)
  for note in weights.notes:
    print(note, file=sys.stderr)
  dtypes = _dtypes(matches, weights, dtype, (PLAIN_FP8,) * upstream.plain_fp8)
  shapes = {path: x.update(dtype=dtypes[path]) for path, x in shapes.items()}
  total = sum(weights.nbytes(m.name) for m in matches)
  stored = sum(x.size * x.dtype.itemsize for x in shapes.values())
  hashes, source = {}, hashlib.sha256()
  with (
    new_folder(dst, stored) as fresh,
    SliceWriter(fresh / "checkpoints", shapes) as writer,
  ):
    with _bar(total, f"{kind} ({form})") as bar:
      for m in matches:
        tensor = weights.read(m.name)
        # Hashed as stored: an export is compared with it bit by bit.
        with np.errstate(over="ignore"):  # infinity is named below
          stored_tensor = tensor.astype(dtypes[m.path], copy=False)
        if not _finite(stored_tensor):
          raise UsageError(
            f"{weights.file_of(m.name)}: {m.name} holds NaN or infinity"
            + (f" in {dtypes[m.path].name}" if stored_tensor is not tensor else "")
            + ", which no network can run with"
          )
        hashes[m.name] = {
          "sha256": _sha(stored_tensor),
          "shape": list(m.shape),
          "dtype": dtypes[m.path].name,
        }
        # The hash of the source is of its own bytes, whatever dtype is chosen.
        raw = hashes[m.name]["sha256"] if stored_tensor is tensor else _sha(tensor)
        source.update(f"{m.target} {tensor.dtype} {m.shape} {raw}\n".encode())
        writer.write(m.path, m.slot, m.transform.forward(stored_tensor))
        bar.update(tensor.nbytes)
    kinds = {d.name for d in dtypes.values()}
    config = {
      "kind": kind,
      "sizes": sizes,
      "dtype": kinds.pop() if len(kinds) == 1 else "mixed",
      "parameters": sum(x.size for x in shapes.values()),
      "source": {
        "name": source_name(src),
        "format": form,
        "sha256": source.hexdigest(),
        **({"scales": weights.layout} if weights.layout else {}),
      },
      "licence": LICENCES.get(kind, "") if licence is None else licence,
      "version": __version__,
    }
    config |= usage
    writer.finish(config)
    if verify:
      reader = SliceReader(fresh / "checkpoints")
      with _bar(stored, "verify") as bar:
        for m in matches:
          tensor = m.transform.backward(reader.read(m.path, m.slot))
          _check(tensor, hashes[m.name], m.name, dst)
          bar.update(tensor.nbytes)
      for file in sorted({weights.file_of(m.name) for m in matches}):
        if said := compared(file):
          print(said, file=sys.stderr)
    for name, file in _beside(src, upstream):
      with new_file(fresh / name) as part:
        shutil.copyfile(file, part)
    write_json(fresh / "tensors.json", hashes, indent=2)
    write_json(fresh / "config.json", config, indent=2)
  return config


def _beside(
  src: pathlib.Path, upstream: Upstream
) -> Iterator[tuple[str, pathlib.Path]]:
  """Files that belong to the weights, where they are found."""
  folder = src if src.is_dir() else src.parent
  for name, places in upstream.beside.items():
    file = next((f for p in places if (f := folder / p / name).is_file()), None)
    if file is None:
      print(f"no {name} near {src}: copy it to the result", file=sys.stderr)
    else:
      yield name, file


def export_weights(
  src, dst, *, form: str, dtype: str | None = None, verify: bool = False
) -> dict[str, Any]:
  """Writes parameters under the names of `form`; returns the config.json beside them.

  Args:
    src: a folder of `import_weights`; of a joint model or a run, the video stream, or
      of one that is Ovi's network all of it.
    dst: a new folder.
    form: a format of the upstream's tables.
    dtype: to write everything in; as it is stored if not given. A run stores float32,
      whatever it started from.
    verify: read everything back, and compare it tensor by tensor.

  The settings that the parameters are sampled with go along in the config.json, where
  no other program reads it.

  Raises:
    UsageError: `src` is no such folder, or is damaged, or `dst` is there already.
  """
  src = checkpoint(src)
  kind, sizes, reader, usage = _exportable(src)
  upstream = get_upstream(kind)
  if form not in upstream.tables:
    raise UsageError(f"--format {form}: {kind} has {', '.join(upstream.tables)}")
  try:
    config, shapes = upstream.config(sizes, form), upstream.shapes(sizes)
  except find.BAD_VALUES as e:
    raise UsageError(
      f"{src}/config.json: its sizes are not those of {kind} ({e!r:.120}): put back "
      "what was written"
    ) from e
  for path, x in shapes.items():
    if path not in reader.shapes or reader.shapes[path].shape != x.shape:
      raise UsageError(f"{src}: {path} is not the {x.shape} its config.json speaks of")
  if usage and upstream.usage(sizes):
    config = config | {USAGE: usage}
  matches = expected_tensors(upstream.tables[form], shapes)
  # The header of a safetensors file precedes the data: all sizes are needed first.
  kept = None if dtype is None else _dtype(dtype)
  specs = [
    Spec(m.name, m.shape, kept or np.dtype(reader.shapes[m.path].dtype))
    for m in matches
  ]
  total = sum(spec.nbytes for spec in specs)
  hashes = {}

  def tensors(bar):
    for m, spec in zip(matches, specs, strict=True):
      tensor = m.transform.backward(reader.read(m.path, m.slot))
      with np.errstate(over="ignore"):  # infinity is named below
        # ascontiguousarray adds an axis to ()
        tensor = np.asarray(tensor, spec.dtype, order="C")
      if kept and not _finite(tensor):
        raise UsageError(f"{src}: {m.path} holds NaN or infinity in {kept.name}")
      hashes[m.name] = {"sha256": _sha(tensor)}
      yield tensor
      bar.update(tensor.nbytes)

  with new_folder(dst, total) as fresh:
    with _bar(total, f"{kind} to {form}") as bar:
      write_safetensors(fresh, upstream.stem_of(sizes), specs, tensors(bar))
    if config:
      write_json(fresh / "config.json", config, indent=2)
    if verify:
      with local_tree(fresh) as folder, _bar(total, "verify") as bar:
        written = open_weights(folder, fp8=True)
        for m in matches:
          _check(written.read(m.name), hashes[m.name], m.name, dst)
          bar.update(written.nbytes(m.name))
  return config


def _exportable(src: Place):
  """(kind, sizes, reader, usage) of a folder with parameters."""
  from ccl_jax.checkpoints.slices import SliceReader
  from ccl_jax.weights import transformers

  description = find.read_config(src)
  if description.get("kind") in find.RELEASES:  # of a whole download: its transformer
    src = src / find.DIT
    description = find.read_config(src)
  if {"kind", "sizes"} <= description.keys():
    reader = SliceReader(src / "checkpoints")
    return description["kind"], description["sizes"], reader, stated(description)
  if "model" not in description:
    raise UsageError(
      f"{src} holds neither converted weights nor a run: expected its config.json"
    )
  found = find.find_parameters(src)
  reader = SliceReader(found.folder / "checkpoints", name=found.name)
  model, usage = transformers.model_of(found), stated(found.description)
  text = reader.shapes.get("video/text_embedding/in/kernel")
  width = 0 if text is None else text.shape[0]  # 0: there is no video stream
  try:
    kind, sizes = transformers.published_as(model, width, usage.get("edition"))
  except UsageError as e:
    raise UsageError(f"{src} has no published layout: {e}") from e
  if kind == "ovi-dit":
    return kind, sizes, reader, usage
  if len(model.streams) > 1:
    print(
      f"{src}: the video stream alone is exported; its audio stream and the exchange "
      f"({model.cross.variant}) have no published layout",
      file=sys.stderr,
    )
  return kind, sizes, reader, {}


def _dtypes(
  matches: list[Match], weights, dtype, more: tuple[str, ...] = ()
) -> dict[str, np.dtype]:
  """The dtype each parameter is stored in; `more` are read too."""
  out = {}
  for m in matches:
    own = weights.dtype(m.name)
    if own.name not in DTYPES + more:
      raise UsageError(
        f"{weights.file_of(m.name)}: {m.name} is {own.name}, expected one of "
        + ", ".join(DTYPES + more)
      )
    chosen = own if dtype is None else _dtype(dtype)
    if out.setdefault(m.path, chosen) != chosen:
      raise UsageError(
        f"{weights.file_of(m.name)}: {m.name} is {own.name}, the layers before it "
        f"{out[m.path].name}: choose one with --dtype"
      )
  return out


def _dtype(name: str) -> np.dtype:
  import jax.numpy as jnp

  if name not in DTYPES:
    raise UsageError(f"--dtype {name}: expected one of {', '.join(DTYPES)}")
  return np.dtype(jnp.dtype(name))


def _finite(array: np.ndarray) -> bool:
  # A piece at a time: what is as large as the tensor would count as memory.
  flat = array.reshape(-1)
  pieces = (flat[i : i + 2**20] for i in range(0, flat.size, 2**20))
  if array.dtype.name not in _EXPONENTS:
    return all(np.isfinite(x).all() for x in pieces)
  mask = np.uint16(_EXPONENTS[array.dtype.name])
  return all((x.view(np.uint16) & mask != mask).all() for x in pieces)


def _sha(array: np.ndarray) -> str:
  flat = np.ascontiguousarray(array).reshape(-1)
  return hashlib.sha256(flat.view(np.uint8)).hexdigest()


def _check(tensor, expected, name, dst) -> None:
  if _sha(tensor) != expected["sha256"]:
    raise UsageError(
      f"{dst}: {name} reads back differently; the disk cannot be trusted"
    )


def _bar(total: int, what: str) -> progress.Bar:
  return progress.Bar(what, total, "B")
