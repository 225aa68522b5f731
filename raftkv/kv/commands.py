"""The table of commands, and the way from a request to a command and from commands to bytes.

The table is made of the families of commands that read and change keys (`kv.families`), of transactions, and of the commands of
connections. Nothing else in the program lists commands.

What always holds: a request that parses here has the right number of arguments and no key longer than the limit; errors are Redis's
own words. Parsing looks at no state.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, NoReturn

import msgspec

from raftkv.errors import ProtocolError
from raftkv.kv import connection_commands, families, session_commands, transactions
from raftkv.kv.arguments import parse_integer, printable
from raftkv.kv.command import MAX_KEY_BYTES, Command, ConnectionCommand, Kind, Read, Spec, Write
from raftkv.kv.families import decode_members
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
    "parse_as",
    "parse_request",
    "spec_of",
]

SPECS: Final[dict[str, Spec]] = {
    spec.name: spec
    for spec in sorted(
        (
            *families.SPECS,
            *transactions.SPECS,
            *session_commands.specs(lambda args: parse_request(args), lambda commands: encode_commands(commands)),
            *connection_commands.SPECS,
        ),
        key=lambda spec: spec.name,
    )
}
"""Every command by its name, in lower case and in order."""

_CLASSES: Final[tuple[type[Command], ...]] = (*families.COMMANDS, *transactions.COMMANDS, *session_commands.COMMANDS)

_BY_SPELLING: Final[dict[bytes, Spec]] = {
    spelling: spec for name, spec in SPECS.items() for spelling in (name.encode(), name.upper().encode())
}

MAX_NESTING: Final = 16
"""How many levels of arrays encoded writes may have in the log. Those of today have up to five (the list, a command, a range in it, its
span, an end of that); a newer program may have more in fields that this one skips. Any stack allows many times as many."""

_SHOWN_BYTES: Final = 128
"""How much of an unknown command, and of its arguments together, its error shows."""


_encoder = msgspec.msgpack.Encoder()
_decoder = families.list_decoder(_CLASSES)
_write_decoder = families.list_decoder(tuple(each for each in _CLASSES if issubclass(each, Write)))


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
    return parse_as(spec_of(args), args, draw)


def spec_of(args: Sequence[bytes]) -> Spec:
    """What the table knows of the command that a client asks for.

    Raises:
        CommandError: there is no such command, or it does not take so many arguments.
    """
    spec = _BY_SPELLING.get(args[0]) or _BY_SPELLING.get(args[0].lower())
    if spec is None:
        _refuse_unknown(args)
    arity = spec.arity
    if len(args) != arity and (arity > 0 or len(args) < -arity):
        fail(f"wrong number of arguments for '{spec.name}' command")
    return spec


def parse_as(spec: Spec, args: Sequence[bytes], draw: Callable[[], int] = lambda: 0) -> Command:
    """The command that a client asks for, which is `spec`; `draw` as in `parse_request`.

    Raises:
        CommandError: there is something wrong with its arguments.
    """
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
    """Whether writes that another node has encoded are nested as shallowly as every replica can read, and what is within them as bytes too.

    Whatever else is wrong with `data`, all replicas find it alike. What this program would have written itself is known to be shallow,
    and that is told fastest by writing it again.
    """
    try:
        writes = _write_decoder.decode(data)
        shallow = _encoder.encode(writes) == data
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        writes, shallow = [], False
    if not shallow and nested_deeper(data, MAX_NESTING):
        return False
    return all(_may_hold(write) for write in writes)


def _may_hold(write: Write) -> bool:
    """The same for what a transaction or a command of a session holds."""
    match write:
        case transactions.Transaction(commands=data):
            return _may_be_transaction(data)
        case session_commands.Once(command=data):
            if nested_deeper(data, MAX_NESTING):
                return False
            try:
                held = _write_decoder.decode(data) if data else []
            except (msgspec.DecodeError, UnicodeDecodeError):
                return True  # which every replica finds alike
            return all(_may_be_transaction(each.commands) for each in held if isinstance(each, transactions.Transaction))
    return True


def _may_be_transaction(data: bytes) -> bool:
    """The same for what a transaction is made of, which has to be readable besides."""
    try:
        return _encoder.encode(decode_members(data)) == data or not nested_deeper(data, MAX_NESTING)
    except (ProtocolError, RecursionError):
        return False


def _refuse_key() -> NoReturn:
    fail(f"key is longer than {MAX_KEY_BYTES} bytes")


def _refuse_unknown(args: Sequence[bytes]) -> NoReturn:
    shown = ""
    for arg in args[1:]:
        if len(shown) >= _SHOWN_BYTES:
            break
        shown += f"'{printable(arg[: _SHOWN_BYTES - len(shown)])}' "
    fail(f"unknown command '{printable(args[0][:_SHOWN_BYTES])}', with args beginning with: {shown}")
