"""What commands answer: plain values that are the same on every replica and know nothing of RESP.

A reply is None (nil), an int, bytes (a bulk string), a `Simple` (a status such as OK), a `Failure` (an error), a bool or float (RESP3
types, which RESP2 renders as integer and bulk string), a list (an array), or a dict (a map; RESP2 renders it as a flat array).
"""

from __future__ import annotations

from msgspec import Struct


class Simple(Struct, frozen=True, array_like=True, tag=1, gc=False):
    """A status line. Never holds CR or LF."""

    text: str


class Failure(Struct, frozen=True, array_like=True, tag=2, gc=False):
    """An error reply: `code` is its first word (ERR, WRONGTYPE, CLUSTERDOWN, …), `message` the rest. Neither holds CR or LF."""

    code: str
    message: str


Reply = None | int | bytes | bool | float | Simple | Failure | list["Reply"] | dict["Reply", "Reply"]

OK = Simple("OK")
