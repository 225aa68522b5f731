"""The table of commands, and the way from a request to a command and from commands to bytes.

A family of commands is a module with `SPECS` (what the table says of each name) and `COMMANDS` (the classes with a codec); to add a
family, name it below. Nothing else in the program lists commands.

What always holds: a request that parses here has the right number of arguments and no key longer than the limit; errors are Redis's
own words. Parsing looks at no state.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Sequence
from typing import Final, NoReturn, TypeVar, cast

import msgspec

from raftkv.errors import ProtocolError
from raftkv.kv import connection_commands, key_commands, node_commands, object_commands, space_commands, string_commands
from raftkv.kv.arguments import printable
from raftkv.kv.command import MAX_KEY_BYTES, Command, ConnectionCommand, Kind, Read, Spec, Subcommand, Write
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
    "Subcommand",
    "Write",
    "check_subcommand",
    "decode_commands",
    "decode_writes",
    "encode_commands",
    "find_spec",
    "find_subcommand",
    "fits",
    "keys_of",
    "may_enter_log",
    "parse_request",
]

SPECS: Final[dict[str, Spec]] = {
    spec.name: spec
    for spec in sorted(
        (
            *string_commands.SPECS,
            *key_commands.SPECS,
            *space_commands.SPECS,
            *object_commands.SPECS,
            *connection_commands.SPECS,
            *node_commands.SPECS,
        ),
        key=lambda spec: spec.name,
    )
}
"""Every command by its name, in lower case and in order."""

_CLASSES: Final[tuple[type[Command], ...]] = (
    *string_commands.COMMANDS,
    *key_commands.COMMANDS,
    *space_commands.COMMANDS,
    *object_commands.COMMANDS,
)

_BY_SPELLING: Final[dict[bytes, Spec]] = {
    spelling: spec for name, spec in SPECS.items() for spelling in (name.encode(), name.upper().encode())
}

_Command = TypeVar("_Command", bound=Command)

MAX_NESTING: Final = 16
"""How many levels of arrays encoded writes may have in the log. Those of today have three (the list, a command, its keys); a newer
program may have more in fields that this one skips. Any stack allows many times as many."""

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


def find_subcommand(spec: Spec, name: bytes) -> Subcommand | None:
    """What the table knows of the command of `spec` that a client spells `name`."""
    spelled = name.lower()
    return next((one for one in spec.subcommands if one.name.encode() == spelled), None)


def check_subcommand(spec: Spec, args: Sequence[bytes]) -> Subcommand:
    """What the table knows of the command of `spec` that a client asks for.

    Raises:
        CommandError: there is none, or it does not take so many arguments.
    """
    found = find_subcommand(spec, args[1])
    if found is None:
        fail(f"unknown subcommand '{printable(args[1][:_SHOWN_BYTES])}'. Try {spec.name.upper()} HELP.")
    if not fits(found.arity, len(args)):
        fail(f"wrong number of arguments for '{spec.name}|{found.name}' command")
    return found


def fits(arity: int, count: int) -> bool:
    """Whether `count` arguments, names included, are what `arity` asks for."""
    return count == arity if arity > 0 else count >= -arity


def parse_request(args: Sequence[bytes]) -> Command:
    """The command that a client asks for.

    Args:
        args: the name of the command and its arguments; at least the name.

    Returns:
        A `Read` or a `Write` for the state machine, or a `ConnectionCommand`; `kind` tells which.

    Raises:
        CommandError: it is no command; `failure` is what to answer, in Redis's words.
    """
    spec = _BY_SPELLING.get(args[0]) or _BY_SPELLING.get(args[0].lower())
    if spec is None:
        _refuse_unknown(args)
    arity = spec.arity
    if len(args) != arity:
        if arity > 0 or len(args) < -arity:
            fail(f"wrong number of arguments for '{spec.name}' command")
        if spec.subcommands and len(args) > 1:
            check_subcommand(spec, args)
    first = spec.first_key
    if first:
        if first == spec.last_key:
            if len(args[first]) > MAX_KEY_BYTES:
                _refuse_key()
        elif max(map(len, keys_of(spec, args))) > MAX_KEY_BYTES:
            _refuse_key()
    return spec.parse(args)


def keys_of(spec: Spec | Subcommand, args: Sequence[bytes]) -> Sequence[bytes]:
    """The arguments of a request that are keys."""
    if not spec.first_key:
        return ()
    last = spec.last_key if spec.last_key >= 0 else len(args) + spec.last_key
    return args[spec.first_key : last + 1 : spec.step]


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
