"""What commands answer: plain values that are the same on every replica and know nothing of RESP.

A reply is None (nil), an int, bytes (a bulk string), a `Simple` (a status such as OK), a `Failure` (an error), a bool or float
(RESP3 types, which RESP2 renders as integer and bulk string), a list (an array), a `NoArray` (the nil where an array was expected, which
RESP2 renders in another way), a dict (a map; RESP2 renders it as a flat array), a `SetReply` (a set; RESP2 renders it as an array), or
`Pairs` (an array of arrays of two; RESP2 renders it as a flat array).
What a node says of itself may also be a `Verbatim`, and what nobody wants to hear is `MUTED`.

Encoded, a reply is msgpack; what msgpack would not tell apart is an array whose first element says what it is: 1 a status, 2 an
error, 3 an array, 4 a map with its keys and values in turn, 5 a set, 6 the nil of an array, 7 pairs with their halves in turn. The
encoding is part of the state (stored replies) and of the frames between nodes.

`Pushes` are what a node tells a client without having been asked. No command of the state machine answers them, and they are never encoded.
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


class Verbatim(Struct, frozen=True, gc=False):
    """A text for people, such as that of INFO: a bulk string that RESP3 marks as text. Only the node that the client is connected to makes
    one, so it has no encoding."""

    text: bytes


class Muted(Struct, frozen=True, gc=False):
    """Nothing: the client has said that it wants no reply (CLIENT REPLY). It has no encoding either."""


class NoArray(Struct, frozen=True, array_like=True, tag=6, gc=False):
    """The nil that takes the place of an array."""


class Pushes(Struct, frozen=True):
    """One or several messages to a client, each of them a sequence: not the reply to a request, or what takes the place of one. RESP3 marks
    each as a push, RESP2 renders it as an array."""

    messages: Sequence[Sequence[Reply]]


class SetReply(Struct, frozen=True):
    """A set. Its members are in the order in which they were found, which is the same on every replica."""

    members: list[Reply]


class Pairs(Struct, frozen=True):
    """What a client of RESP2 gets as one array, and one of RESP3 as an array of pairs: fields with values, members with scores."""

    pairs: list[tuple[Reply, Reply]]


Reply = (
    None
    | int
    | bytes
    | bool
    | float
    | Simple
    | Failure
    | NoArray
    | Pushes
    | Verbatim
    | Muted
    | list["Reply"]
    | dict["Reply", "Reply"]
    | SetReply
    | Pairs
)

OK = Simple("OK")
NO_ARRAY = NoArray()
MUTED = Muted()


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
    if isinstance(reply, SetReply):
        return reply_bytes(reply.members)
    if isinstance(reply, Pairs):
        return 8 + sum(reply_bytes(one) + reply_bytes(other) + 4 for one, other in reply.pairs)
    return 64 if isinstance(reply, (Simple, Failure)) else 9


_ARRAY = 3
_MAP = 4
_SET = 5
_PAIRS = 7

_NESTED = (list, dict, SetReply, Pairs)

_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(list[object])


def encode_replies(replies: Sequence[Reply]) -> bytes:
    """The bytes of `replies`."""
    return _encoder.encode([_tagged(reply) if type(reply) in _NESTED else reply for reply in replies])


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
    if type(reply) is SetReply:
        return [_SET, *map(_tagged, reply.members)]
    if type(reply) is Pairs:
        return [_PAIRS, *(_tagged(half) for pair in reply.pairs for half in pair)]
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
        case [3, *items]:
            return [_untagged(each) for each in items]
        case [4, *halves] if len(halves) % 2 == 0:
            plain = [_untagged(half) for half in halves]
            return dict(zip(plain[::2], plain[1::2], strict=True))
        case [5, *items]:
            return SetReply([_untagged(each) for each in items])
        case [6]:
            return NO_ARRAY
        case [7, *halves] if len(halves) % 2 == 0:
            plain = [_untagged(half) for half in halves]
            return Pairs(list(zip(plain[::2], plain[1::2], strict=True)))
        case _:
            raise ValueError("an array in a reply does not say what it is")
