"""Requests of clients: RESP arrays and inline lines to arguments, and arguments to commands.

The first byte of an input chooses the limits, the rest is what the client sends.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from raftkv.codec.resp import BEFORE_AUTHENTICATION, RequestLimits, RequestParser, encode_replies
from raftkv.kv.commands import CommandError, Kind, decode_commands, encode_commands, parse_request
from raftkv.kv.replies import Failure
from tests.fuzz.checks import bounded, expect, splits
from tests.fuzz.target import Target
from tests.router.stand import Stand

SMALL = RequestLimits(max_arguments=12, max_bulk_bytes=4097, max_request_bytes=48 * 1024, max_line_bytes=1024)
MOST_LOOKED_AT = 30
"""Requests of one input that are executed; an input of nothing but short lines holds thousands."""

LIMITS = (RequestLimits(), BEFORE_AUTHENTICATION, SMALL)

_Outcome = tuple[list[list[bytes]], Failure | None]


def encode_request(arguments: Sequence[bytes]) -> bytes:
    """A request as clients send it."""
    return b"*%d\r\n" % len(arguments) + b"".join(b"$%d\r\n%b\r\n" % (len(part), part) for part in arguments)


def parse(pieces: Iterable[bytes], limits: RequestLimits, most: int = 1 << 30) -> _Outcome:
    """What is found, checking at each step what is held."""
    parser = RequestParser(limits)
    found: list[list[bytes]] = []
    fed = 0
    for piece in pieces:
        fed += len(piece)
        found += parser.feed(piece, most)
        while parser.backlog:
            found += parser.feed(b"", most)
        expect(parser.pending_bytes >= 0, "less than nothing is held")
        # An argument is counted as 48 bytes more than it has, and takes at least six on the wire.
        expect(parser.pending_bytes <= 9 * fed, f"{parser.pending_bytes} bytes are held of {fed}")
    return found, parser.problem


def run(data: bytes) -> None:
    """The same requests however they are cut, within the limits; each becomes a command or an error, and survives encoding."""
    limits = LIMITS[data[0] % len(LIMITS)] if data else LIMITS[0]
    sent = data[1:]
    outcome = bounded(data, lambda: parse([sent], limits), steps=200 + 40 * len(sent), peak_bytes=20_000 + 150 * len(sent))
    found, problem = outcome
    for pieces in splits(sent):
        expect(parse(pieces, limits) == outcome, "the requests depend on the pieces")
    expect(parse([sent], limits, 1) == outcome, "the requests depend on how many are asked for")
    ping = encode_request([b"PING"])
    longer, _ = parse([sent + ping], limits)
    expect(longer[: len(found)] == found, "what follows changes the requests before it")
    if problem is not None:
        expect(encode_replies([problem], 2).count(b"\n") == 1, "an error does not fit in a line")
    for request in found[:MOST_LOOKED_AT]:
        expect(len(request) <= limits.max_line_bytes + limits.max_arguments, "too many arguments")
        if len(request) <= limits.max_arguments and all(len(part) <= limits.max_bulk_bytes for part in request):
            expect(parse([encode_request(request)], limits) == ([request], None), "a request is not what its encoding says")
        execute(request)
    serve(found[:MOST_LOOKED_AT])


def execute(request: list[bytes]) -> None:
    """A request becomes a command, which survives encoding, or an error in one line."""
    try:
        command = parse_request(request)
    except CommandError as error:
        expect(encode_replies([error.failure], 3).count(b"\n") == 1, "an error does not fit in a line")
        return
    if command.kind is not Kind.CONNECTION:
        (again,) = decode_commands(encode_commands([command]))
        expect(again == command, f"{command} became {again}")


def serve(requests: list[list[bytes]]) -> None:
    """A leader answers every request, with something that can be sent."""
    stand = Stand()
    stand.lead()
    stand.ask(*[list(request) for request in requests])
    for _ in range(len(requests) + 1):
        if len(stand.answers()) == len(requests):
            break
        stand.flush()
        stand.commit()
        stand.confirm()
        while stand.replica.slow:
            command, done = stand.replica.slow.pop()
            done(stand.replica.machine.read(command))
    answers = stand.answers()
    closed = any(close for _, _, _, close in stand.deliveries)
    expect(len(answers) == len(requests) or closed, f"{len(requests)} requests have {len(answers)} answers")
    for protocol in (2, 3):
        encode_replies(answers, protocol)


def seeds() -> list[bytes]:
    """Requests of every kind."""
    many = [
        [b"SET", b"k", b"v"], [b"SET", b"k", b"v", b"EX", b"10", b"NX", b"GET"], [b"SET", b"k", b"v", b"KEEPTTL"],
        [b"INCRBY", b"n", b"-9223372036854775808"], [b"SCAN", b"18446744073709551615", b"MATCH", b"a[^b-c]*?", b"COUNT", b"5"],
        [b"SCAN", b"-1", b"TYPE", b"string"], [b"PEXPIRE", b"k", b"9223372036854775807", b"GT", b"XX"], [b"EXISTS", *[b"k"] * 11],
        [b"CLIENT", b"SETNAME", b"x"], [b"COMMAND", b"DOCS", b"get"], [b"HELLO", b"3", b"AUTH", b"u", b"p", b"SETNAME", b"n"],
        [b"nosuch", b"\r\n\0", b"\xff\xfe"], [b"FLUSHALL", b"ASYNC"], [b"TTL", b""], [b"MGET", b"a", b"b"], [b"DEL", b"a"],
    ]  # fmt: skip
    arrays = [b"\0" + encode_request(request) for request in many]
    lines = [
        b"\1SET k \"a\\x41\\n\\\"\" 'it\\'s'\r\n", b"\2PING\n\r\n\n*0\r\n*-1\r\nGET a\v\fb\r\n", b"\1GET 'open\r\n",
        b"\1POST / HTTP/1.1\r\n",
        b"\2*1\r\n$4097\r\n" + b"x" * 4097 + b"\r\n", b"\2*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$5\r\na\r\nb", b"\0*11\r\n" + b"$1\r\na\r\n" * 11,
    ]  # fmt: skip
    return [*arrays, *lines, b"\0" + b"".join(map(encode_request, many)), b"\1*1000\r\n$5\r\n", b"\0" + encode_request([b"PING"]) * 12]


TARGET = Target("requests", run, seeds)
