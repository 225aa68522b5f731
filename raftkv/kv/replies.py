"""What commands answer: plain values that are the same on every replica and know nothing of RESP.

A reply is None (nil), an int, bytes (a bulk string), a `Simple` (a status such as OK), a `Failure` (an error), a bool or float
(RESP3 types, which RESP2 renders as integer and bulk string), a list (an array), a `NoArray` (the nil where an array was expected, which
RESP2 renders in another way), or a dict (a map; RESP2 renders it as a flat array).

Encoded, a reply is msgpack; what msgpack would not tell apart is an array whose first element says what it is: 1 a status, 2 an
error, 3 an array, 4 a map with its keys and values in turn, 6 the nil of an array. The encoding is part of the state (stored replies) and
of the frames between nodes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NoReturn

import msgspec
from msgspec import Struct

from raftkv.errors import ProtocolError


class Simple(Struct, frozen=True, array_like=True, tag=1, gc=False):
    """A status line. Never holds CR or LF."""

    text: str


class Failure(Struct, frozen=True, array_like=True, tag=2, gc=False):
    """An error reply: `code` is its first word (ERR, WRONGTYPE, CLUSTERDOWN, …), `message` the rest. Neither holds CR or LF."""

    code: str
    message: str


class NoArray(Struct, frozen=True, array_like=True, tag=6, gc=False):
    """The nil that takes the place of an array."""


Reply = None | int | bytes | bool | float | Simple | Failure | NoArray | list["Reply"] | dict["Reply", "Reply"]

OK = Simple("OK")
NO_ARRAY = NoArray()


class CommandError(Exception):
    """A command answers an error. `failure` is the reply; nothing was changed."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(f"{failure.code} {failure.message}")
        self.failure = failure


def fail(message: str, code: str = "ERR") -> NoReturn:
    """Answer an error: raise its `CommandError`."""
    raise CommandError(Failure(code, message))


def reply_bytes(reply: Reply) -> int:
    """About how much memory `reply` takes, and how many bytes on the wire."""
    if isinstance(reply, bytes):
        return len(reply) + 8
    if isinstance(reply, list):
        return 8 + sum(map(reply_bytes, reply))
    if isinstance(reply, dict):
        return 8 + sum(map(reply_bytes, reply)) + sum(map(reply_bytes, reply.values()))
    return 64 if isinstance(reply, (Simple, Failure)) else 9


_ARRAY = 3
_MAP = 4

_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(list[object])


def encode_replies(replies: Sequence[Reply]) -> bytes:
    """The bytes of `replies`."""
    return _encoder.encode([_tagged(reply) if type(reply) in (list, dict) else reply for reply in replies])


def decode_replies(data: bytes) -> list[Reply]:
    """The replies in `data`.

    Raises:
        ProtocolError: `data` is not the encoding of replies.
    """
    try:
        return [_untagged(item) for item in _decoder.decode(data)]
    except (msgspec.DecodeError, ValueError, TypeError, IndexError, RecursionError) as error:
        raise ProtocolError(f"encoded replies cannot be read: {error}") from error


def _tagged(reply: Reply) -> object:
    if type(reply) is list:
        return [_ARRAY, *map(_tagged, reply)]
    if type(reply) is dict:
        return [_MAP, *(_tagged(half) for pair in reply.items() for half in pair)]
    return reply


def _untagged(item: object) -> Reply:
    if item is None or isinstance(item, (bool, int, float, bytes)):
        return item
    if not isinstance(item, list):
        raise TypeError(f"a reply cannot be {type(item).__name__}")
    match item:
        case [1, str(text)]:
            return Simple(text)
        case [2, str(code), str(message)]:
            return Failure(code, message)
        case [6]:
            return NO_ARRAY
        case [3, *items]:
            return [_untagged(each) for each in items]
        case [4, *halves] if len(halves) % 2 == 0:
            plain = [_untagged(half) for half in halves]
            return dict(zip(plain[::2], plain[1::2], strict=True))
        case _:
            raise ValueError("an array in a reply does not say what it is")
