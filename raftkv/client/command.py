"""A command as a value, and methods that are written once for clients of both kinds, pipelines and transactions.

A method of a family (`strings.py`, …) says which command it is and what that is answered, and nothing of how it is sent::

    @method
    def get(self, key: Key) -> Command[bytes | None, str | None]: ...

`Command` names two types: what is returned where replies stay bytes, and where they are decoded. On an object that derives from
`Blocking` the method returns one of these, on one from `Awaited` something to await, on a `Queue` the queue itself. The type checker
sees each with the method's own arguments. A further family is a class of such methods, named among the bases of `Client`,
`AsyncClient`, and those in `queue.py`.
"""

from __future__ import annotations

import enum
import functools
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from types import MethodType
from typing import Any, Concatenate, Generic, ParamSpec, TypeVar, cast, overload

from raftkv.client.replies import Answer
from raftkv.errors import InvalidRequest

Value = bytes | bytearray | memoryview | str | int | float
"""What can be an argument. Numbers are written in decimal, text in UTF-8."""
Key = bytes | bytearray | memoryview | str

Text = TypeVar("Text", bytes, str)
AsBytes = TypeVar("AsBytes")
AsText = TypeVar("AsText")
_P = ParamSpec("_P")


class Kind(enum.Enum):
    """What is known of a command's effect, which decides what may be done when no answer comes."""

    READ = "read"
    """None: it can be asked again."""
    WRITE = "write"
    """One that must happen once: asked again in its session."""
    OTHER = "other"
    """It concerns the node or the connection; it is not asked again once it was sent."""
    UNKNOWN = "unknown"
    """The node is asked, once for each name."""


@dataclass(frozen=True, slots=True)
class Command(Generic[AsBytes, AsText]):
    """One command: its name and arguments, its kind, and what becomes of the answer."""

    args: tuple[bytes, ...]
    kind: Kind
    shape: Callable[[Answer], AsBytes]

    @property
    def name(self) -> str:
        """The name, in upper case."""
        return self.args[0].decode("utf-8", "replace").upper()


AnyCommand = Command[Any, Any]


def encode(value: Value) -> bytes:
    """An argument in bytes.

    Raises:
        InvalidRequest: it is of no type that can be an argument. (A bool would be stored as a word that nothing reads back.)
    """
    if isinstance(value, bytes):
        return value
    if isinstance(value, str):
        return value.encode()
    if isinstance(value, bool) or not isinstance(value, int | float | bytearray | memoryview):
        raise InvalidRequest(f"an argument is {type(value).__name__}; it must be bytes, str, int or float")
    return bytes(value) if isinstance(value, bytearray | memoryview) else repr(value).encode()


def read(shape: Callable[[Answer], AsBytes], *args: Value) -> Command[AsBytes, AsText]:
    """A command without an effect."""
    return Command(tuple(map(encode, args)), Kind.READ, shape)


def write(shape: Callable[[Answer], AsBytes], *args: Value) -> Command[AsBytes, AsText]:
    """A command with an effect on the data."""
    return Command(tuple(map(encode, args)), Kind.WRITE, shape)


class Blocking(Generic[Text]):
    """Something whose methods return what the command is answered."""

    def run(self, command: AnyCommand) -> Any:
        """Send `command` and wait for its answer."""
        raise NotImplementedError


class Awaited(Generic[Text]):
    """Something whose methods return a coroutine of what the command is answered."""

    async def run(self, command: AnyCommand) -> Any:
        """Send `command` and wait for its answer."""
        raise NotImplementedError


class Queue:
    """Something whose methods keep the command for later and return the object itself."""

    def run(self, command: AnyCommand) -> Any:
        """Keep `command`."""
        raise NotImplementedError


_Queue = TypeVar("_Queue", bound=Queue)


class Method(Generic[_P, AsBytes, AsText]):
    """A method made of a function that builds its command; see the module."""

    def __init__(self, build: Callable[Concatenate[Any, _P], Command[AsBytes, AsText]]) -> None:
        @functools.wraps(build)
        def call(self: Any, *args: _P.args, **kwargs: _P.kwargs) -> Any:
            return self.run(build(self, *args, **kwargs))

        self._call = call
        self.__doc__ = build.__doc__

    @overload
    def __get__(self, instance: None, owner: type) -> Callable[..., Any]: ...

    @overload
    def __get__(self, instance: Blocking[bytes], owner: type) -> Callable[_P, AsBytes]: ...

    @overload
    def __get__(self, instance: Blocking[str], owner: type) -> Callable[_P, AsText]: ...

    @overload
    def __get__(self, instance: Awaited[bytes], owner: type) -> Callable[_P, Coroutine[Any, Any, AsBytes]]: ...

    @overload
    def __get__(self, instance: Awaited[str], owner: type) -> Callable[_P, Coroutine[Any, Any, AsText]]: ...

    @overload
    def __get__(self, instance: _Queue, owner: type) -> Callable[_P, _Queue]: ...

    def __get__(self, instance: object, owner: type) -> Callable[..., Any]:
        return self._call if instance is None else cast("Callable[..., Any]", MethodType(self._call, instance))


def method(build: Callable[Concatenate[Any, _P], Command[AsBytes, AsText]]) -> Method[_P, AsBytes, AsText]:
    """Make a method of a function that builds its command."""
    return Method(build)
