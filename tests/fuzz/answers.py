"""Replies of a node, or of whatever listens where a node was expected, as the command line reads them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable

from raftkv.codec.resp import encode_replies
from raftkv.kv.replies import OK, Failure, Reply
from raftkv_cli.replies import INCOMPLETE, MAX_BULK_BYTES, MAX_DEPTH, Answer, ErrorReply, NotRespError, ReplyReader
from tests.fuzz.checks import bounded, expect, splits
from tests.fuzz.target import Target

_Seen = list[tuple[str, Answer]]


def read(pieces: Iterable[bytes]) -> tuple[_Seen, str]:
    """The answers, and the error that ended them."""
    reader = ReplyReader()
    found: _Seen = []
    for piece in pieces:
        reader.feed(piece)
        try:
            while (answer := reader.get()) is not INCOMPLETE:
                found.append(("error", str(answer)) if isinstance(answer, ErrorReply) else ("", answer))
        except NotRespError as error:
            return found, str(error)
    return found, ""


def run(data: bytes) -> None:
    """The same answers however they are cut, in proportion to what came, and encoded again they are read as themselves."""
    found, problem = bounded(data, lambda: read([data]), steps=100 + 20 * len(data), peak_bytes=20_000 + 200 * len(data))
    for pieces in splits(data)[1:]:
        expect(read(pieces) == (found, problem), "the answers depend on the pieces")
    longer, _ = read([data, b"+OK\r\n"])
    expect(longer[: len(found)] == found, "what follows changes the answers before it")
    for kind, answer in found:
        expect(depth(answer) <= MAX_DEPTH, "an array is nested too deep")
        with contextlib.suppress(ValueError):
            if not kind:
                expect(read([encode_replies([plain(answer)], 2)]) == ([("", answer)], ""), f"{answer!r} does not survive its encoding")


def depth(answer: Answer) -> int:
    """How many arrays are inside of each other."""
    return 1 + max(map(depth, answer), default=0) if isinstance(answer, list) else 0


def plain(answer: Answer) -> Reply:
    """The answer as a node holds it.

    Raises:
        ValueError: it holds the text of an error, which is written otherwise.
    """
    if isinstance(answer, str):
        raise ValueError(answer)
    return [plain(each) for each in answer] if isinstance(answer, list) else answer


def seeds() -> list[bytes]:
    """Answers of every kind, and RESP3, which is not spoken."""
    some: list[Reply] = [None, 5, -(1 << 63), b"x\r\n", OK, Failure("ERR", "no"), [1, [2, b""], []], b"", [[[[1]]]]]
    return [
        encode_replies(some, 2), encode_replies([{b"a": 1.5}, True], 3), b"*1\r\n" * 9 + b":1\r\n", b"*-1\r\n$-1\r\n",
        b"*4294967295\r\n:1\r\n",
        b"%%1\r\n*0\r\n:1\r\n", b"$%d\r\n" % MAX_BULK_BYTES, b"HTTP/1.1 400 Bad Request\r\n", b"*2\r\n-ERR a b\r\n+OK\r\n",
    ]  # fmt: skip


TARGET = Target("answers", run, seeds)
