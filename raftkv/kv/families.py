"""The families of commands that read and change keys, and the bytes of these commands.

A family is a module with `SPECS` (what the table says of each name) and `COMMANDS` (the classes with a codec); to add a family, name it
below. What is made of such commands, like a transaction, is not here.
"""

from __future__ import annotations

import functools
import operator
from typing import Final, TypeVar, cast

import msgspec

from raftkv.errors import ProtocolError
from raftkv.kv import (
    bit_commands,
    blocking_commands,
    blocking_sorted_set_commands,
    counter_commands,
    expiry_commands,
    hash_commands,
    key_commands,
    lcs_commands,
    list_commands,
    list_search_commands,
    lock_commands,
    range_commands,
    set_algebra,
    set_commands,
    sorted_set_algebra,
    sorted_set_commands,
    sorted_set_ranges,
    space_commands,
    string_commands,
)
from raftkv.kv.command import Command, Read, Spec, Write

SPECS: Final[tuple[Spec, ...]] = (
    *string_commands.SPECS,
    *counter_commands.SPECS,
    *range_commands.SPECS,
    *bit_commands.SPECS,
    *lcs_commands.SPECS,
    *key_commands.SPECS,
    *expiry_commands.SPECS,
    *hash_commands.SPECS,
    *list_commands.SPECS,
    *list_search_commands.SPECS,
    *blocking_commands.SPECS,
    *set_commands.SPECS,
    *set_algebra.SPECS,
    *sorted_set_commands.SPECS,
    *sorted_set_ranges.SPECS,
    *sorted_set_algebra.SPECS,
    *blocking_sorted_set_commands.SPECS,
    *space_commands.SPECS,
    *lock_commands.SPECS,
)

COMMANDS: Final[tuple[type[Command], ...]] = (
    *string_commands.COMMANDS,
    *counter_commands.COMMANDS,
    *range_commands.COMMANDS,
    *bit_commands.COMMANDS,
    *lcs_commands.COMMANDS,
    *key_commands.COMMANDS,
    *expiry_commands.COMMANDS,
    *hash_commands.COMMANDS,
    *list_commands.COMMANDS,
    *list_search_commands.COMMANDS,
    *blocking_commands.COMMANDS,
    *set_commands.COMMANDS,
    *set_algebra.COMMANDS,
    *sorted_set_commands.COMMANDS,
    *sorted_set_ranges.COMMANDS,
    *sorted_set_algebra.COMMANDS,
    *blocking_sorted_set_commands.COMMANDS,
    *space_commands.COMMANDS,
    *lock_commands.COMMANDS,
)

_Command = TypeVar("_Command")


def list_decoder(classes: tuple[type[_Command], ...]) -> msgspec.msgpack.Decoder[list[_Command]]:
    """Decodes lists of any of `classes`, which msgspec tells apart by their tags; the type of such a list mypy cannot write down."""
    kind = cast("type[list[_Command]]", list[functools.reduce(operator.or_, classes)])  # type: ignore[misc]
    return msgspec.msgpack.Decoder(kind)


_decoder: Final[msgspec.msgpack.Decoder[list[Read | Write]]] = list_decoder(cast("tuple[type[Read | Write], ...]", COMMANDS))


def decode_members(data: bytes) -> list[Read | Write]:
    """The reads and writes in `data`, none of which is made of others.

    Raises:
        ProtocolError: there is something else in `data`.
        RecursionError: `data` is nested deeper than the stack allows. How deep that is differs between processes, so a replica must
            not make a reply of it.
    """
    try:
        return _decoder.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ProtocolError(f"encoded commands cannot be read: {error}") from error
