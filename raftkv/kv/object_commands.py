"""OBJECT and MEMORY USAGE: how a value is kept, as far as that can be told.

An encoding is a matter of Redis's memory, of which there is none here. What is answered is the encoding that Redis gives to a value that
was written in one piece; for a collection, the one that has each element on its own, as they are here.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from itertools import islice
from typing import Annotated, Final

from msgspec import Meta

from raftkv.kv.arguments import INT64_MAX, SYNTAX_ERROR, integer, parse_integer
from raftkv.kv.collection import decode_collection
from raftkv.kv.command import HELP, MAX_KEY_BYTES, Command, Kind, Read, Spec, subcommand
from raftkv.kv.connection_commands import NONDETERMINISTIC, parse_unchanged
from raftkv.kv.keyspace import Keyspace
from raftkv.kv.replies import Reply, fail
from raftkv.kv.rows import HASH, HEADER_BYTES, LIST, SET, SORTED_SET, STRING, Value, value_key

DEFAULT_SAMPLES: Final = 5
"""So many elements of a collection are looked at to say how much all of them take."""

_EMBEDDED_BYTES: Final = 44
"""The longest string that Redis keeps together with its object."""
_SHARED: Final = range(10_000)
"""Integers of which Redis has one object each, which nobody owns."""
_NO_FREQUENCY: Final = (
    "An LFU maxmemory policy is not selected, access frequency not tracked. Please note that when switching between policies at runtime "
    "LRU and LFU data will take some time to adjust."
)
_ENDLESS: Final = 2**31 - 1

_ENCODINGS: Final = {HASH: b"hashtable", LIST: b"quicklist", SET: b"hashtable", SORTED_SET: b"skiplist"}


class Question(enum.IntEnum):
    """What OBJECT asks."""

    ENCODING = 1
    REFCOUNT = 2
    IDLETIME = 3
    FREQ = 4


class Inspect(Read, frozen=True, array_like=True, gc=False, tag=192):
    """OBJECT ENCODING, REFCOUNT, IDLETIME, FREQ."""

    key: bytes
    question: Question

    def read(self, keys: Keyspace) -> Reply:
        value = keys.value(self.key)
        if value is None:
            return None
        match self.question:
            case Question.ENCODING:
                return encoding(value)
            case Question.REFCOUNT:
                return _ENDLESS if value.type == STRING and parse_integer(value.data) in _SHARED else 1
            case Question.IDLETIME:
                return fail("idle times are not kept")
            case _:
                return fail(_NO_FREQUENCY)


class MemoryUsage(Read, frozen=True, array_like=True, gc=False, tag=193):
    """MEMORY USAGE: the bytes of the rows of a key before the store compresses them. Those of a collection are guessed from `samples`
    of its elements, or counted when it is 0."""

    key: bytes
    samples: Annotated[int, Meta(ge=0, le=INT64_MAX)] = DEFAULT_SAMPLES

    def read(self, keys: Keyspace) -> Reply:
        value = keys.value(self.key)
        if value is None:
            return None
        size = len(value_key(self.key)) + HEADER_BYTES + len(value.data)
        if value.type == STRING:
            return size
        collection = decode_collection(self.key, value)
        rows = collection.count * (2 if value.type == SORTED_SET else 1)
        sampled = min(self.samples, rows) or rows
        elements = islice(keys.elements(collection.prefix, collection.end), sampled)
        return size + sum(len(name) + len(element) for name, element in elements) * rows // sampled


def encoding(value: Value) -> bytes:
    """What Redis calls the way in which it would keep `value`."""
    if value.type != STRING:
        return _ENCODINGS[value.type]
    if parse_integer(value.data) is not None:
        return b"int"
    return b"embstr" if len(value.data) <= _EMBEDDED_BYTES else b"raw"


def _key(args: Sequence[bytes]) -> bytes:
    key = args[2]
    if len(key) > MAX_KEY_BYTES:
        fail(f"key is longer than {MAX_KEY_BYTES} bytes")
    return key


def _parse_object(args: Sequence[bytes]) -> Command:
    name = args[1].upper()
    return parse_unchanged(args) if name == b"HELP" else Inspect(_key(args), Question[name.decode("ascii")])


def _parse_memory(args: Sequence[bytes]) -> Command:
    if args[1].upper() == b"HELP":
        return parse_unchanged(args)
    key = _key(args)
    samples = DEFAULT_SAMPLES
    for position in range(3, len(args), 2):
        if args[position].upper() != b"SAMPLES" or position + 1 == len(args):
            fail(SYNTAX_ERROR)
        samples = integer(args[position + 1])
        if samples < 0:
            fail(SYNTAX_ERROR)
    return MemoryUsage(key, samples)


_KEY: Final = (2, 2, 1)

SPECS: Final = (
    Spec(
        name="memory",
        arity=-2,
        kind=Kind.READ,
        parse=_parse_memory,
        summary="A container for commands on memory",
        group="server",
        differs="There is USAGE alone, and it tells the bytes of the rows of a key in the store, before compression.",
        subcommands=(
            subcommand("USAGE <key> [SAMPLES <count>]", -3, "Tell about how many bytes a key and its value take", "readonly", keys=_KEY),
            HELP,
        ),
    ),
    Spec(
        name="object",
        arity=-2,
        kind=Kind.READ,
        parse=_parse_object,
        summary="A container for commands on how values are kept",
        group="generic",
        differs="ENCODING tells what Redis would use for a value written in one piece, and for a collection of any size what it uses for "
        "large ones. IDLETIME is refused: idle times are not kept.",
        subcommands=(
            subcommand("ENCODING <key>", 3, "Return how the value is kept", "readonly", keys=_KEY, tips=NONDETERMINISTIC),
            subcommand("FREQ <key>", 3, "Return how often the key is used", "readonly", keys=_KEY, tips=NONDETERMINISTIC),
            subcommand("IDLETIME <key>", 3, "Return how long the key was not used", "readonly", keys=_KEY, tips=NONDETERMINISTIC),
            subcommand("REFCOUNT <key>", 3, "Return how many references the value has", "readonly", keys=_KEY, tips=NONDETERMINISTIC),
            HELP,
        ),
    ),
)

COMMANDS: Final = (Inspect, MemoryUsage)
