"""Stand-ins that keep what they are told."""

import collections
import functools
import types
from collections.abc import Callable
from typing import Any, NamedTuple

_CALLED = (types.FunctionType, types.MethodType, type)


class Call(NamedTuple):
  """Arguments of a call."""

  args: tuple
  kwargs: dict[str, Any]


class Recorder:
  """Puts stand-ins in the place of functions, and keeps their calls by name."""

  def __init__(self, monkeypatch):
    self._patch = monkeypatch
    self.calls: dict[str, list[Call]] = collections.defaultdict(list)

  def stub(self, result: Any = None, name: str = "", like: Callable | None = None):
    """A function that keeps its arguments under `name`.

    Args:
      result: what it returns, or a function of its arguments that says so.
      like: what it stands for; its signature is then this one's.
    """

    def call(*args, **kwargs):
      self.calls[name].append(Call(args, kwargs))
      return result(*args, **kwargs) if isinstance(result, _CALLED) else result

    return call if like is None else functools.wraps(like)(call)

  def replace(self, module: Any, name: str, result: Any = None) -> None:
    """Puts a stand-in in the place of `module.name`."""
    real = getattr(module, name)
    self._patch.setattr(module, name, self.stub(result, name, real))

  def spy(self, module: Any, name: str) -> None:
    """Keeps the calls of `module.name`, which goes on to do what it does."""
    self.replace(module, name, getattr(module, name))

  def last(self, name: str) -> Call:
    """The last call of that name."""
    return self.calls[name][-1]

  def told(self, name: str, place: str | int) -> Any:
    """An argument of the last call, by keyword or by number."""
    call = self.last(name)
    return call.args[place] if isinstance(place, int) else call.kwargs[place]
