"""Runs the pickle of a torch file on a machine that can make plain values only.

A pickle is a program, and `pickle` calls whatever it names. Here `pickletools` takes it
apart, and the opcodes that torch writes, no others, make numbers, texts, lists, dicts
and notes of where tensors lie. Names of code are notes too: nothing is imported, called
or changed, and every file has a machine of its own.

Each opcode costs a bounded amount of memory, and their number is bounded; so are the
depth of what they build and the size of what may be a key of a dict.
"""

import io
import pickletools
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

from ccl_jax.weights.entries import AXES, NAME, shown

BYTES = 16 * 2**20  # of a pickle, at most; that of 57 GB of weights has 0.2 MB
OPCODES = 1_000_000  # of a file, at most
DEPTH = 100  # of values in values
KEY_ITEMS = 64  # of a tuple that is a key
DTYPES = {
  "float64": np.float64, "float32": np.float32, "float16": np.float16,
  "bfloat16": ml_dtypes.bfloat16, "int64": np.int64, "int32": np.int32,
  "int16": np.int16, "int8": np.int8, "uint8": np.uint8, "bool": np.bool_,
  "uint16": np.uint16, "uint32": np.uint32, "uint64": np.uint64,
  "float8_e4m3fn": ml_dtypes.float8_e4m3fn, "float8_e5m2": ml_dtypes.float8_e5m2,
}  # fmt: skip
_STORAGES = {
  "DoubleStorage": "float64", "FloatStorage": "float32", "HalfStorage": "float16",
  "BFloat16Storage": "bfloat16", "LongStorage": "int64", "IntStorage": "int32",
  "ShortStorage": "int16", "CharStorage": "int8", "ByteStorage": "uint8",
  "BoolStorage": "bool",
}  # fmt: skip
_LISTS = ("build_intlist", "build_doublelist", "build_boollist", "build_tensorlist")


class Refused(Exception):
  """What no file of weights asks for, in words that go on from the file's name."""


class Name(NamedTuple):
  """A name of code in a pickle, which stays a name."""

  module: str
  name: str


class Storage(NamedTuple):
  """Bytes outside the pickle: their key, and the type and number of elements."""

  key: str
  dtype: np.dtype
  numel: int


class Tensor(NamedTuple):
  """A view into a storage; `first` and `strides` count its elements."""

  storage: Storage
  first: int
  shape: tuple[int, ...]
  strides: tuple[int, ...]


class Object:
  """Any object of TorchScript: what it holds, by attribute."""

  def __init__(self):
    self.attributes = {}


_KNOWN = {
  Name("collections", "OrderedDict"),
  Name("torch._utils", "_rebuild_tensor"),  # before 0.4
  Name("torch._utils", "_rebuild_tensor_v2"),
  Name("torch._utils", "_rebuild_tensor_v3"),  # of types without a storage of theirs
  Name("torch._utils", "_rebuild_parameter"),
  Name("torch.jit._pickle", "restore_type_tag"),
  Name("torch.storage", "UntypedStorage"),
  *(Name("torch.jit._pickle", name) for name in _LISTS),
  *(Name("torch", name) for name in (*_STORAGES, *DTYPES)),
}


class Machine:
  """Reads the pickles of one file.

  Attributes:
    storages: every storage that was named, by key.
    steps: opcodes so far: a bound for all that is made of the file.
  """

  def __init__(self):
    self.storages, self.steps, self._copied = {}, 0, 0

  def load(self, raw: bytes) -> tuple[Any, int]:
    """The value of the pickle that `raw` begins with, and how many bytes it has.

    Raises:
      Refused: it asks for what no weights need.
      EOFError: it does not end.
      Exception: of many kinds, where it is no pickle.
    """
    self._stack, self._marks, self._memo = [], [], {}
    stream = io.BytesIO(raw)
    opcodes = pickletools.genops(stream)
    while True:
      try:
        opcode, argument, _ = next(opcodes)
      except ValueError as e:
        if stream.tell() < len(raw):
          raise
        raise EOFError("the pickle does not end") from e
      self.steps += 1
      if self.steps > OPCODES:
        raise Refused(f"is a pickle of more than {OPCODES} opcodes")
      if opcode.name == "STOP":
        value = self._pop()
        _check_depth(value)
        return value, stream.tell()
      self._step(opcode.name, argument)

  def _step(self, opcode: str, argument: Any) -> None:
    stack = self._stack
    match opcode:
      case "BINPUT" | "LONG_BINPUT":
        self._remember(argument)
      case "MEMOIZE":
        self._remember(len(self._memo))
      case "BINGET" | "LONG_BINGET":
        stack.append(self._memo[argument])
      case "BININT1" | "BININT2" | "BININT" | "LONG1" | "BINFLOAT":
        stack.append(argument)
      case "BINUNICODE" | "SHORT_BINUNICODE" | "BINUNICODE8":
        stack.append(argument)
      case "BINSTRING" | "SHORT_BINSTRING" | "BINBYTES" | "SHORT_BINBYTES":
        stack.append(argument)
      case "NONE" | "NEWTRUE" | "NEWFALSE":
        stack.append({"NONE": None, "NEWTRUE": True, "NEWFALSE": False}[opcode])
      case "MARK":
        self._marks.append(len(stack))
      case "EMPTY_TUPLE":
        stack.append(())
      case "TUPLE":
        stack.append(tuple(self._marked()))
      case "TUPLE1" | "TUPLE2" | "TUPLE3":
        stack.append(tuple(self._last(int(opcode[-1]))))
      case "EMPTY_LIST":
        stack.append([])
      case "APPEND":
        self._extend(self._last(1))
      case "APPENDS":
        self._extend(self._marked())
      case "EMPTY_DICT":
        stack.append({})
      case "SETITEM":
        self._set(self._last(2))
      case "SETITEMS":
        self._set(self._marked())
      case "GLOBAL":
        self._name(*argument.split(" ", 1))
      case "STACK_GLOBAL":
        self._name(*self._last(2))
      case "REDUCE":
        name, arguments = self._last(2)
        stack.append(self._made(name, arguments))
      case "NEWOBJ":
        name, _ = self._last(2)
        if not (isinstance(name, Name) and _is_class(name)):
          raise Refused(f"asks for an object of {shown(name)}")
        stack.append(Object())
      case "BUILD":
        self._build(self._pop())
      case "BINPERSID":
        stack.append(self._storage(self._pop()))
      case "POP":
        self._pop()
      case "POP_MARK":
        self._marked()
      case "PROTO" | "FRAME":
        pass  # how it is cut into frames says nothing about its values
      case _:
        raise Refused(f"asks for the pickle opcode {opcode}")

  def _last(self, n: int) -> list:
    """Takes the last n values off the stack, none from before a mark."""
    floor = self._marks[-1] if self._marks else 0
    if len(self._stack) - n < floor:
      raise IndexError("the stack is empty")
    taken = self._stack[len(self._stack) - n :]
    del self._stack[len(self._stack) - n :]
    return taken

  def _pop(self) -> Any:
    return self._last(1)[0]

  def _marked(self) -> list:
    """Takes the values after the last mark, and the mark."""
    start = self._marks.pop()
    taken = self._stack[start:]
    del self._stack[start:]
    return taken

  def _top(self, kind: type) -> Any:
    if not self._stack or not isinstance(self._stack[-1], kind):
      raise TypeError(f"no {kind.__name__} on the stack")
    return self._stack[-1]

  def _remember(self, index: int) -> None:
    # Whoever counts memos needs an opcode for each.
    if index > self.steps:
      raise Refused(f"asks for memo {index} after {self.steps} opcodes")
    self._memo[index] = self._top(object)

  def _extend(self, values: list) -> None:
    self._top(list).extend(values)

  def _set(self, values: list) -> None:
    target = self._top(dict)
    for key, value in zip(values[::2], values[1::2], strict=True):
      target[_key(key)] = value

  def _name(self, module: Any, name: Any) -> None:
    if not (isinstance(module, str) and isinstance(name, str)):
      raise TypeError("a name of code is text")
    named = Name(module, name)
    # Classes of TorchScript's own code: any of them is a bag of attributes.
    if named not in _KNOWN and not _is_class(named):
      raise Refused(f"asks for {shown(f'{module}.{name}')}")
    self._stack.append(named)

  def _made(self, name: Any, arguments: Any) -> Any:
    if not isinstance(name, Name) or not isinstance(arguments, tuple):
      raise TypeError("what is called has a name, and a tuple of arguments")
    match tuple(name):
      case ("collections", "OrderedDict"):
        return self._ordered(*arguments)
      case ("torch._utils", "_rebuild_tensor" | "_rebuild_tensor_v2"):
        return _tensor(*arguments[:4])
      case ("torch._utils", "_rebuild_tensor_v3"):
        storage, first, shape, strides, _, _, dtype = arguments[:7]
        return _tensor(_typed(storage, dtype), first, shape, strides)
      case ("torch._utils", "_rebuild_parameter"):
        return _of(Tensor, arguments[0])
      case ("torch.jit._pickle", "restore_type_tag"):
        value, _ = arguments
        return value
      case ("torch.jit._pickle", function) if function in _LISTS:
        (value,) = arguments
        return _of(list, value)
    if _is_class(name):
      return Object()
    raise Refused(f"asks for a call of {shown('.'.join(name))}")

  def _ordered(self, items: Any = ()) -> dict:
    if not isinstance(items, (list, tuple)):
      raise TypeError("an OrderedDict is made of pairs")
    self._count(items)  # Python 2 gave them at once
    return {_key(key): value for key, value in items}

  def _count(self, items: Any) -> None:
    """Bounds what is copied: one list of items may be named any number of times."""
    self._copied += len(items)
    if self._copied > self.steps:
      raise Refused("makes dicts of more items than it has opcodes")

  def _build(self, state: Any) -> None:
    target = self._top(object)
    if isinstance(target, dict):
      return  # attributes of a dict, such as _metadata, are no tensors
    if not isinstance(target, Object):
      raise Refused(f"changes {shown(target)}")
    named = lambda name: isinstance(name, str) and len(name) <= NAME
    if not all(map(named, _of(dict, state))):
      raise Refused(f"has an attribute whose name is no text of {NAME} characters")
    self._count(state)
    target.attributes |= state

  def _storage(self, pid: Any) -> Storage:
    # (kind, type, key, device, elements, view): a view would share bytes.
    kind, storage, key, _, numel, *view = _of(tuple, pid)
    if kind != "storage" or not isinstance(storage, Name) or any(view):
      raise Refused("asks for another thing than a storage")
    if storage == Name("torch.storage", "UntypedStorage"):
      dtype = np.uint8
    elif storage.module == "torch" and storage.name in _STORAGES:
      dtype = DTYPES[_STORAGES[storage.name]]
    else:
      raise Refused(f"asks for a storage of {shown('.'.join(storage))}")
    if type(key) not in (str, int) or type(numel) is not int or numel < 0:
      raise Refused("asks for a storage without key or size")
    record = Storage(str(key), np.dtype(dtype), numel)
    if self.storages.setdefault(record.key, record) != record:
      raise Refused(f"names the storage {shown(record.key)} in two ways")
    return record


def _is_class(name: Name) -> bool:
  return name.module.startswith("__torch__.")


def _of(kind: type, value: Any) -> Any:
  if not isinstance(value, kind):
    raise TypeError(f"expected a {kind.__name__}, got {shown(value)}")
  return value


def _key(value: Any) -> Any:
  """A key of a dict: to hash nested tuples would recurse, and large ones cost time."""
  items = value if type(value) is tuple else (value,)
  if len(items) > KEY_ITEMS or not all(map(_is_plain, items)):
    raise Refused("has a dict whose keys are no texts and numbers")
  return value


def _is_plain(value: Any) -> bool:
  if type(value) is int:
    return abs(value) < 2**63
  return value is None or isinstance(value, (str, bytes, float, bool))


def _tensor(storage: Any, first: Any, shape: Any, strides: Any) -> Tensor:
  sizes = lambda x: type(x) is tuple and all(type(n) is int for n in x)
  if type(storage) is not Storage or type(first) is not int:
    raise TypeError("a tensor is a view into a storage")
  if not sizes(shape) or not sizes(strides) or len(shape) != len(strides):
    raise TypeError("a tensor has a shape and as many strides")
  if len(shape) > AXES:
    raise Refused(f"has a tensor of {len(shape)} axes")
  return Tensor(storage, first, shape, strides)


def _typed(storage: Any, dtype: Any) -> Storage:
  """The bytes of a storage as elements of another type."""
  if type(dtype) is not Name or dtype.name not in DTYPES:
    raise Refused(f"has a tensor of {shown(getattr(dtype, 'name', dtype))}")
  dtype = np.dtype(DTYPES[dtype.name])
  size = _of(Storage, storage).numel * storage.dtype.itemsize
  return Storage(storage.key, dtype, size // dtype.itemsize)


def _check_depth(value: Any) -> None:
  """Without recursion, which nested values would exhaust; each value is seen once."""
  seen, left = set(), [(value, 0)]
  while left:
    value, depth = left.pop()
    if type(value) is dict:
      inner = value.values()
    elif type(value) is Object:
      inner = value.attributes.values()
    elif type(value) in (list, tuple):
      inner = value
    else:
      continue
    if depth >= DEPTH:
      raise Refused(f"has values nested more than {DEPTH} deep")
    if id(value) not in seen:
      seen.add(id(value))
      left += [(x, depth + 1) for x in inner]
