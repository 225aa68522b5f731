"""The table of commands, and the way from a request to a command and from commands to bytes.

A family of commands is a module with `SPECS` (what the table says of each name) and `COMMANDS` (the classes with a codec); to add a
family, name it below. Nothing else in the program lists commands.

What always holds: a request that parses here has the right number of arguments and no key longer than the limit; errors are Redis's
own words. Parsing looks at no state.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable, Sequence
from typing import Final, NoReturn, TypeVar, cast

import msgspec

from raftkv.errors import ProtocolError
from raftkv.kv import (
    bit_commands,
    connection_commands,
    counter_commands,
    expiry_commands,
    hash_commands,
    key_commands,
    range_commands,
    set_algebra,
    set_commands,
    sorted_set_algebra,
    sorted_set_commands,
    sorted_set_ranges,
    space_commands,
    string_commands,
)
from raftkv.kv.arguments import parse_integer, printable
from raftkv.kv.command import MAX_KEY_BYTES, Command, ConnectionCommand, Kind, Read, Spec, Write
from raftkv.kv.nesting import nested_deeper
from raftkv.kv.replies import CommandError, fail

__all__ = [
    "MAX_KEY_BYTES",
    "MAX_NESTING",
    "SPECS",
    "Command",
    "CommandError",
    "ConnectionCommand",
    "Kind",
    "Read",
    "Spec",
    "Write",
    "decode_commands",
    "decode_writes",
    "encode_commands",
    "find_spec",
    "keys_of",
    "may_enter_log",
    "parse_request",
]

SPECS: Final[dict[str, Spec]] = {
    spec.name: spec
    for spec in sorted(
        (
            *string_commands.SPECS,
            *counter_commands.SPECS,
            *range_commands.SPECS,
            *bit_commands.SPECS,
            *key_commands.SPECS,
            *expiry_commands.SPECS,
            *sorted_set_commands.SPECS,
            *sorted_set_ranges.SPECS,
            *sorted_set_algebra.SPECS,
            *hash_commands.SPECS,
            *set_commands.SPECS,
            *set_algebra.SPECS,
            *space_commands.SPECS,
            *connection_commands.SPECS,
        ),
        key=lambda spec: spec.name,
    )
}
"""Every command by its name, in lower case and in order."""

_CLASSES: Final[tuple[type[Command], ...]] = (
    *string_commands.COMMANDS,
    *counter_commands.COMMANDS,
    *range_commands.COMMANDS,
    *bit_commands.COMMANDS,
    *key_commands.COMMANDS,
    *expiry_commands.COMMANDS,
    *sorted_set_commands.COMMANDS,
    *sorted_set_ranges.COMMANDS,
    *sorted_set_algebra.COMMANDS,
    *hash_commands.COMMANDS,
    *set_commands.COMMANDS,
    *set_algebra.COMMANDS,
    *space_commands.COMMANDS,
)

_BY_SPELLING: Final[dict[bytes, Spec]] = {
    spelling: spec for name, spec in SPECS.items() for spelling in (name.encode(), name.upper().encode())
}

_Command = TypeVar("_Command", bound=Command)

MAX_NESTING: Final = 16
"""How many levels of arrays encoded writes may have in the log. Those of today have up to five (the list, a command, a range in it, its
span, an end of that); a newer program may have more in fields that this one skips. Any stack allows many times as many."""

_SHOWN_BYTES: Final = 128
"""How much of an unknown command, and of its arguments together, its error shows."""


def _list_of(classes: tuple[type[_Command], ...]) -> type[list[_Command]]:
    """The type of a list of any of `classes`, which msgspec tells apart by their tags and mypy cannot write down."""
    return cast("type[list[_Command]]", list[functools.reduce(operator.or_, classes)])  # type: ignore[misc]


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(_list_of(_CLASSES))
_write_decoder = msgspec.msgpack.Decoder(_list_of(tuple(each for each in _CLASSES if issubclass(each, Write))))


def find_spec(name: bytes) -> Spec | None:
    """What the table knows of the command that a client spells `name`."""
    return _BY_SPELLING.get(name) or _BY_SPELLING.get(name.lower())


def parse_request(args: Sequence[bytes], draw: Callable[[], int] = lambda: 0) -> Command:
    """The command that a client asks for.

    Args:
        args: the name of the command and its arguments; at least the name.
        draw: draws a random number of 63 bits, for a command that needs one.

    Returns:
        A `Read` or a `Write` for the state machine, or a `ConnectionCommand`; `kind` tells which.

    Raises:
        CommandError: it is no command; `failure` is what to answer, in Redis's words.
    """
    spec = _BY_SPELLING.get(args[0]) or _BY_SPELLING.get(args[0].lower())
    if spec is None:
        _refuse_unknown(args)
    arity = spec.arity
    if len(args) != arity and (arity > 0 or len(args) < -arity):
        fail(f"wrong number of arguments for '{spec.name}' command")
    first = spec.first_key
    if first or spec.counted_keys:
        if first == spec.last_key and not spec.counted_keys:
            if len(args[first]) > MAX_KEY_BYTES:
                _refuse_key()
        elif max(map(len, keys_of(spec, args)), default=0) > MAX_KEY_BYTES:
            _refuse_key()
    command = spec.parse(args)
    return command.with_random(draw()) if spec.random else command


def keys_of(spec: Spec, args: Sequence[bytes]) -> Sequence[bytes]:
    """The arguments of a request that are keys. None are when their number is wrong."""
    found: Sequence[bytes] = ()
    if spec.first_key:
        last = spec.last_key if spec.last_key >= 0 else len(args) + spec.last_key
        found = args[spec.first_key : last + 1 : spec.step]
    if not spec.counted_keys:
        return found
    number = parse_integer(args[spec.counted_keys])
    rest = args[spec.counted_keys + 1 :]
    return [*found, *rest[:number]] if number is not None and 0 < number <= len(rest) else ()


def encode_commands(commands: Sequence[Command]) -> bytes:
    """The bytes of reads or writes, for the log or for another node."""
    return _encoder.encode(commands)


def decode_commands(data: bytes) -> list[Command]:
    """The reads or writes in `data`.

    Raises:
        ProtocolError: there is something else in `data`.
    """
    try:
        return _decoder.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ProtocolError(f"encoded commands cannot be read: {error}") from error


def decode_writes(data: bytes) -> list[Write]:
    """The writes in `data`, and nothing but writes.

    Raises:
        ProtocolError: there is something else in `data`.
        RecursionError: `data` is nested deeper than the stack allows. How deep that is differs between processes, so a replica must
            not make a reply of it; `may_enter_log` keeps it out of the log.
    """
    try:
        return _write_decoder.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ProtocolError(f"encoded writes cannot be read: {error}") from error


def may_enter_log(data: bytes) -> bool:
    """Whether writes that another node has encoded are nested as shallowly as every replica can read.

    Whatever else is wrong with `data`, all replicas find it alike. What this program would have written itself is known to be shallow,
    and that is told fastest by writing it again.
    """
    try:
        if _encoder.encode(_write_decoder.decode(data)) == data:
            return True
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        pass  # looked at below
    return not nested_deeper(data, MAX_NESTING)


def _refuse_key() -> NoReturn:
    fail(f"key is longer than {MAX_KEY_BYTES} bytes")


def _refuse_unknown(args: Sequence[bytes]) -> NoReturn:
    shown = ""
    for arg in args[1:]:
        if len(shown) >= _SHOWN_BYTES:
            break
        shown += f"'{printable(arg[: _SHOWN_BYTES - len(shown)])}' "
    fail(f"unknown command '{printable(args[0][:_SHOWN_BYTES])}', with args beginning with: {shown}")
