"""From bytes to answers, and from an answer to what a method returns.

hiredis reads RESP3. An error reply is a value here, `ReplyError`; who raises it decides. The `as_…` functions say what a command is
answered; anything else is not the protocol, and would otherwise surface far from here as a strange value.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import hiredis

from raftkv.errors import ProtocolError, ReplyError

Answer = None | bool | int | float | bytes | ReplyError | list["Answer"] | dict["Answer", "Answer"]
"""What a node answers."""

_MORE: Final = object()


class ReplyReader:
    """The answers on one connection."""

    def __init__(self) -> None:
        self._reader = hiredis.Reader(replyError=ReplyError, protocolError=ProtocolError, notEnoughData=_MORE)

    def feed(self, data: bytes) -> None:
        """Some bytes have come."""
        self._reader.feed(data)

    def take(self, answers: list[Answer], count: int) -> None:
        """Append to `answers` what is complete, until there are `count`.

        Raises:
            ProtocolError: the bytes are not RESP.
        """
        while len(answers) < count:
            try:
                answer = self._reader.gets()
            except (TypeError, MemoryError, ValueError) as error:  # maps without values, impossible lengths
                raise ProtocolError(f"the node did not speak RESP: {error or type(error).__name__}") from error
            if answer is _MORE:
                return
            answers.append(answer)


def encode_request(args: Iterable[bytes]) -> bytes:
    """A request: an array of bulk strings."""
    parts = tuple(args)
    return b"*%d\r\n" % len(parts) + b"".join(b"$%d\r\n%b\r\n" % (len(part), part) for part in parts)


def decoded(value: object) -> object:
    """`value` with every string in it as text.

    Raises:
        UnicodeDecodeError: one of them is not UTF-8.
    """
    if isinstance(value, bytes):
        return value.decode()
    if isinstance(value, list):
        return [decoded(item) for item in value]
    if isinstance(value, tuple):
        return tuple(decoded(item) for item in value)
    if isinstance(value, dict):
        return {decoded(key): decoded(item) for key, item in value.items()}
    return value


def _unexpected(answer: Answer) -> ProtocolError:
    return ProtocolError(f"the node answered {str(answer)[:100]!r}, which is no answer to this command")


def as_is(answer: Answer) -> Answer:
    """Whatever it is."""
    return answer


def as_integer(answer: Answer) -> int:
    """A number."""
    if not isinstance(answer, int):
        raise _unexpected(answer)
    return answer


def as_flag(answer: Answer) -> bool:
    """1 or 0."""
    return bool(as_integer(answer))


def as_done(answer: Answer) -> bool:
    """OK, or nil where a condition did not hold."""
    if answer is None:
        return False
    if answer != b"OK":
        raise _unexpected(answer)
    return True


def as_string(answer: Answer) -> bytes:
    """A string."""
    if not isinstance(answer, bytes):
        raise _unexpected(answer)
    return answer


def as_string_or_none(answer: Answer) -> bytes | None:
    """A string, or nil where there is none."""
    return None if answer is None else as_string(answer)


def as_float(answer: Answer) -> float:
    """A number with a fraction, which Redis writes as a string."""
    try:
        return float(answer) if isinstance(answer, float) else float(as_string(answer))
    except ValueError as error:
        raise _unexpected(answer) from error


def as_list(answer: Answer) -> list[Answer]:
    """An array."""
    if not isinstance(answer, list):
        raise _unexpected(answer)
    return answer


def as_strings(answer: Answer) -> list[bytes]:
    """An array of strings."""
    return [as_string(item) for item in as_list(answer)]


def as_strings_or_none(answer: Answer) -> list[bytes | None]:
    """An array of strings, nil for each that is not there."""
    return [as_string_or_none(item) for item in as_list(answer)]


def as_page(answer: Answer) -> tuple[int, list[bytes]]:
    """What a SCAN is answered: where to go on, 0 at the end, and what was found."""
    match answer:
        case [bytes(cursor), list(found)] if cursor.isdigit():
            return int(cursor), as_strings(found)
        case _:
            raise _unexpected(answer)
