"""RESP: requests however their bytes are cut, Redis's errors, bounds on memory and work, and replies in both versions."""

from __future__ import annotations

import time
import tracemalloc
from collections.abc import Iterable

import hiredis
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raftkv.codec.resp import (
    BEFORE_AUTHENTICATION,
    RequestLimits,
    RequestParser,
    encode_replies,
    encode_reply,
)
from raftkv.errors import InvalidSettings
from raftkv.kv.replies import NO_ARRAY, OK, Failure, Pairs, Pushes, Reply, SetReply, Simple
from raftkv.kv.scores import spell
from tests.codec.cutting import cut, every_byte

Outcome = tuple[list[list[bytes]], Failure | None]

arguments = st.one_of(st.binary(max_size=12), st.sampled_from([b"\r\n", b"$3\r\n", b"x" * 4096, b"x" * 4097]))
requests = st.lists(st.lists(arguments, min_size=1, max_size=14), max_size=8)


def encode(request: Iterable[bytes]) -> bytes:
    parts = list(request)
    return b"*%d\r\n" % len(parts) + b"".join(b"$%d\r\n%b\r\n" % (len(part), part) for part in parts)


def parse(pieces: Iterable[bytes], limits: RequestLimits | None = None, most: int = 1 << 30) -> Outcome:
    parser = RequestParser(limits or RequestLimits())
    found: list[list[bytes]] = []
    for piece in pieces:
        found += parser.feed(piece, most)
        while parser.backlog:
            found += parser.feed(b"", most)
    return found, parser.problem


@settings(max_examples=150, deadline=None)
@given(requests, st.lists(st.integers(0, 1 << 20), max_size=6), st.sampled_from([1, 3, 11, 1 << 30]))
def test_requests_are_found_however_they_are_cut(wanted: list[list[bytes]], places: list[int], most: int) -> None:
    """The requests do not depend on the pieces in which their bytes arrive, nor on how many are asked for at a time."""
    data = b"".join(map(encode, wanted))
    assert parse(cut(data, places), most=most) == (wanted, None)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.lists(st.binary(max_size=12), min_size=1, max_size=4), max_size=4))
def test_one_byte_at_a_time(wanted: list[list[bytes]]) -> None:
    """A request is complete with its last byte and not before."""
    for request in wanted:
        parser = RequestParser(RequestLimits())
        *before, last = every_byte(encode(request))
        assert not any(parser.feed(byte) for byte in before)
        assert parser.feed(last) == [request]
        assert parser.pending_bytes == 0


@settings(max_examples=300, deadline=None)
@given(
    st.lists(
        st.sampled_from(
            [
                b"*",
                b"$",
                b"\r",
                b"\n",
                b"\r\n",
                b"0",
                b"1",
                b"2",
                b"3",
                b"-1",
                b"999",
                b"a",
                b'"',
                b"'",
                b"\\",
                b"\0",
                b" ",
                b"*1\r\n$1\r\nx\r\n",
            ]
        ),
        max_size=30,
    ).map(b"".join),
    st.lists(st.integers(0, 200), max_size=4),
)
def test_anything_is_parsed_alike_whole_and_in_pieces(data: bytes, places: list[int]) -> None:
    """Bytes that are almost the protocol have the same requests and the same error however they are cut; nothing is ever raised."""
    whole = parse([data])
    assert parse(cut(data, places)) == whole
    assert parse(every_byte(data)) == whole


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=300))
def test_noise_is_parsed_alike_whole_and_in_pieces(data: bytes) -> None:
    """The same for bytes without any structure."""
    assert parse(every_byte(data)) == parse([data])


def test_what_follows_a_request_stays_for_the_next() -> None:
    """Trailing data is neither lost nor read early."""
    parser = RequestParser(RequestLimits())
    assert parser.feed(encode([b"PING"]) + b"*2\r\n$4\r\nECHO\r\n$2\r\nh") == [[b"PING"]]
    assert parser.feed(b"i\r\n*1\r\n") == [[b"ECHO", b"hi"]]
    assert parser.feed(b"$4\r\nQUIT\r\n") == [[b"QUIT"]]


def test_no_more_than_asked_for_at_a_time() -> None:
    """`feed` stops at `most` requests, says so, and goes on where it stopped, also when more bytes come first."""
    parser = RequestParser(RequestLimits())
    data = b"".join(encode([b"SET", b"k", b"%d" % number]) for number in range(50))
    assert len(parser.feed(data, 20)) == 20
    assert parser.backlog
    assert len(parser.feed(encode([b"PING"]), 20)) == 20
    assert parser.feed(b"", 20)[-1] == [b"PING"]
    assert not parser.backlog
    assert parser.feed(b"", 0) == []


def test_a_rest_that_is_no_request_ends_the_backlog() -> None:
    """`feed` stopped at `most`, and what is left is only the beginning of a line: more bytes have to come, also when a request before it
    had arrived in pieces that ended with an argument."""
    parser = RequestParser(RequestLimits())
    assert parser.feed(b"*2\r\n$4\r\nECHO\r\n") == []
    assert parser.feed(b"$1\r\nx\r\n*1", 1) == [[b"ECHO", b"x"]]
    assert parser.feed(b"", 1) == []
    assert not parser.backlog
    assert parser.feed(b"\r\n$4\r\nPING\r\n", 1) == [[b"PING"]]


@settings(max_examples=100, deadline=None)
@given(requests, st.sampled_from([1, 2, 11]))
def test_no_cut_and_no_bound_keeps_a_parser_busy(wanted: list[list[bytes]], most: int) -> None:
    """As long as there is a backlog, each `feed` finds a request or ends it: otherwise a client would not be read from again."""
    for size in (1, 2, 7, 30):
        data = b"".join(map(encode, wanted))
        parser = RequestParser(RequestLimits())
        found: list[list[bytes]] = []
        for at in range(0, len(data), size):
            found += parser.feed(data[at : at + size], most)
            while parser.backlog:
                more = parser.feed(b"", most)
                assert more or not parser.backlog
                found += more
        assert found == wanted


def test_empty_requests_are_work_too() -> None:
    """`most` bounds what is looked at in one call, also when nothing comes of it."""
    parser = RequestParser(RequestLimits())
    parser.feed(b"\r\n" * 1000 + b"*0\r\n" * 1000 + encode([b"PING"]), 100)
    for _ in range(19):
        assert parser.backlog
        assert parser.feed(b"", 100) == []
    assert parser.feed(b"", 100) == [[b"PING"]]


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 80), st.integers(0, 2000))
def test_long_pipelines_are_found_however_they_lie(size: int, offset: int) -> None:
    """Requests that lie across the windows of the fast path are found like any other."""
    wanted = [[b"PING", bytes(offset)[:1000]], *([b"SET", b"%d" % number, bytes(size)] for number in range(2500))]
    data = b"".join(map(encode, wanted))
    assert parse([data]) == (wanted, None)
    assert parse([data], most=1024) == (wanted, None)


ERRORS = [
    (b"*3\r\n$3\r\nfoo\r\nx\r\n", "expected '$', got 'x'"),
    (b"*1\r\n:3\r\n", "expected '$', got ':'"),
    (b"*1\r\n\r\n", "expected '$', got ' '"),
    (b"*1\r\n $4\r\n", "expected '$', got ' '"),
    (b"*x\r\n", "invalid multibulk length"),
    (b"*\r\n", "invalid multibulk length"),
    (b"*01\r\n", "invalid multibulk length"),
    (b"*+1\r\n", "invalid multibulk length"),
    (b"*-0\r\n", "invalid multibulk length"),
    (b"*1_0\r\n", "invalid multibulk length"),
    (b"*3 \r\n", "invalid multibulk length"),
    (b"*1\n", "invalid multibulk length"),
    (b"*2147483648\r\n", "invalid multibulk length"),
    (b"*9223372036854775808\r\n", "invalid multibulk length"),
    (b"*" + b"9" * 5000 + b"\r\n", "invalid multibulk length"),
    (b"*1\r\n$-1\r\n", "invalid bulk length"),
    (b"*1\r\n$x\r\n", "invalid bulk length"),
    (b"*1\r\n$\r\n", "invalid bulk length"),
    (b"*1\r\n$04\r\n", "invalid bulk length"),
    (b"*1\r\n$4\n", "invalid bulk length"),
    (b"*1\r\n$536870913\r\n", "invalid bulk length"),
    (b'ECHO "a\r\n', "unbalanced quotes in request"),
    (b"ECHO 'a\r\n", "unbalanced quotes in request"),
    (b'ECHO "a"b\r\n', "unbalanced quotes in request"),
    (b"ECHO 'a\\\\'\r\n", "unbalanced quotes in request"),
    (b"A" * 65537, "too big inline request"),
    (b"*" + b"1" * 65537, "too big mbulk count string"),
    (b"*1\r\n$" + b"1" * 65537, "too big bulk count string"),
]


@pytest.mark.parametrize(("data", "text"), ERRORS, ids=[repr(data[:24]) for data, _ in ERRORS])
def test_errors_read_as_in_redis(data: bytes, text: str) -> None:
    """Every violation is answered with the text that a real Redis 7 gives for the same bytes."""
    assert parse([data]) == ([], Failure("ERR", f"Protocol error: {text}"))


@pytest.mark.parametrize(("data", "text"), ERRORS[:-3], ids=[repr(data[:24]) for data, _ in ERRORS[:-3]])
def test_errors_are_found_in_any_pieces(data: bytes, text: str) -> None:
    """The error is the same byte by byte, and the requests before it are not lost."""
    assert parse(every_byte(encode([b"PING"]) + data)) == ([[b"PING"]], Failure("ERR", f"Protocol error: {text}"))


def test_a_byte_of_no_encoding_in_an_error() -> None:
    """The offending byte goes back as it came."""
    parser = RequestParser(RequestLimits())
    parser.feed(b"*1\r\n\x80\r\n")
    assert parser.problem is not None
    assert encode_reply(parser.problem, 2) == b"-ERR Protocol error: expected '$', got '\x80'\r\n"


def test_a_miscounted_argument_is_an_error() -> None:
    """The bytes after an argument must be CR LF: the rest of a value is never read as a command."""
    assert parse([b"*1\r\n$4\r\nPINGXX*1\r\n$8\r\nFLUSHALL\r\n"])[0] == []


def test_nothing_is_parsed_after_an_error() -> None:
    """What a client sends after breaking the protocol is not executed."""
    parser = RequestParser(RequestLimits())
    assert parser.feed(b"*x\r\n" + encode([b"PING"])) == []
    assert parser.feed(encode([b"PING"])) == []
    assert parser.pending_bytes == 0


@pytest.mark.parametrize("line", [b"POST / HTTP/1.1\r\n", b"GET / HTTP/1.1\r\nHost: here\r\n"])
def test_http_is_refused(line: bytes) -> None:
    """A browser that was made to send a request here cannot slip a command into its body."""
    found, problem = parse([line + b"\r\n" + encode([b"FLUSHALL"])])
    assert problem is not None
    assert [b"FLUSHALL"] not in found


INLINE = [
    (b"PING\r\n", [b"PING"]),
    (b"PING\n", [b"PING"]),
    (b" SET  k\tv \r\n", [b"SET", b"k", b"v"]),
    (b'ECHO "a\\x41\\n\\t\\q"\r\n', [b"ECHO", b"aA\n\tq"]),
    (b'ECHO "\\x4"\r\n', [b"ECHO", b"x4"]),
    (b"ECHO 'it\\'s'\r\n", [b"ECHO", b"it's"]),
    (b"ECHO 'a\\b'\r\n", [b"ECHO", b"a\\b"]),
    (b"ECHO a'b c'\r\n", [b"ECHO", b"ab c"]),
    (b'ECHO a"b c" d\r\n', [b"ECHO", b"ab c", b"d"]),
    (b'ECHO ""\r\n', [b"ECHO", b""]),
    (b"ECHO \x0bb a\x0bb\r\n", [b"ECHO", b"b", b"a\x0bb"]),
    (b'ECHO "\x0bb"\r\n', [b"ECHO", b"\x0bb"]),
]


@pytest.mark.parametrize(("line", "wanted"), INLINE, ids=[repr(line) for line, _ in INLINE])
def test_inline_requests_are_quoted_as_in_redis(line: bytes, wanted: list[bytes]) -> None:
    """An inline line is split as a real Redis 7 splits it."""
    assert parse([line]) == ([wanted], None)


def test_empty_requests_are_no_requests() -> None:
    """Blank lines and arrays of nothing are skipped without an answer."""
    assert parse([b"\r\n \r\n*0\r\n*-1\r\n*0\r\n" + encode([b"PING"]) + b"\n"]) == ([[b"PING"]], None)


def test_a_claimed_count_reserves_nothing() -> None:
    """`*200000000` and `$500000000` cost no memory until the arguments really come."""
    tracemalloc.start()
    try:
        parser = RequestParser(RequestLimits(max_arguments=1 << 30))
        parser.feed(b"*200000000\r\n$500000000\r\n")
        assert tracemalloc.get_traced_memory()[1] < 16 * 1024
        assert parser.problem is None
        assert parser.pending_bytes < 1024
    finally:
        tracemalloc.stop()


def test_a_large_argument_in_small_pieces_takes_linear_work() -> None:
    """8 MiB in pieces of 256 bytes: copying what is there at each piece would move 128 GiB."""
    value = bytes(8 << 20)
    data = encode([b"SET", b"k", value])
    parser = RequestParser(RequestLimits())
    started = time.process_time()
    found = [request for at in range(0, len(data), 256) for request in parser.feed(data[at : at + 256])]
    assert time.process_time() - started < 5
    assert found == [[b"SET", b"k", value]]


def test_a_long_line_in_small_pieces_takes_linear_work() -> None:
    """Half a megabyte without a line feed, byte by byte, is looked at once: looking at all of it each time would be 128 GiB."""
    parser = RequestParser(RequestLimits(max_line_bytes=1 << 20))
    started = time.process_time()
    for _ in range(1 << 19):
        parser.feed(b"a")
    assert time.process_time() - started < 2.5
    assert parser.feed(b"\n") == [[b"a" * (1 << 19)]]


@pytest.mark.parametrize(
    ("limits", "data", "text"),
    [
        (RequestLimits(max_arguments=20), b"*21\r\n", "invalid multibulk length"),
        (RequestLimits(max_bulk_bytes=5000), b"*1\r\n$5001\r\n", "invalid bulk length"),
        (RequestLimits(max_request_bytes=50000), b"*3\r\n$30000\r\n%b\r\n$30000\r\n" % bytes(30000), "too big request"),
        (RequestLimits(max_line_bytes=2000), b"a" * 2001, "too big inline request"),
        (BEFORE_AUTHENTICATION, b"*11\r\n", "unauthenticated multibulk length"),
        (BEFORE_AUTHENTICATION, b"*1\r\n$16385\r\n", "unauthenticated bulk length"),
    ],
)
def test_limits(limits: RequestLimits, data: bytes, text: str) -> None:
    """A request beyond a limit is refused when its size is known, before its bytes are taken."""
    assert parse([data], limits) == ([], Failure("ERR", f"Protocol error: {text}"))
    assert parse(every_byte(data), limits) == ([], Failure("ERR", f"Protocol error: {text}"))


def test_limits_may_grow() -> None:
    """After authentication the larger limits hold for the next request."""
    parser = RequestParser(BEFORE_AUTHENTICATION)
    large = encode([b"SET", b"k", bytes(20_000)])
    assert parser.feed(encode([b"AUTH", b"secret"]) + large, 1) == [[b"AUTH", b"secret"]]
    parser.limits = RequestLimits()
    assert parser.feed(b"", 1) == [[b"SET", b"k", bytes(20_000)]]


def test_limits_below_the_smallest_request_are_refused() -> None:
    """A setting that would refuse every client is named."""
    with pytest.raises(InvalidSettings, match="max_bulk_bytes is 10; it must be at least 4097"):
        RequestLimits(max_bulk_bytes=10)


# --- replies -------------------------------------------------------------------------------------------------------------------

WIRE: list[tuple[Reply, bytes, bytes]] = [
    (None, b"$-1\r\n", b"_\r\n"),
    (NO_ARRAY, b"*-1\r\n", b"_\r\n"),
    (OK, b"+OK\r\n", b"+OK\r\n"),
    (Simple("QUEUED"), b"+QUEUED\r\n", b"+QUEUED\r\n"),
    (Failure("WRONGTYPE", "no"), b"-WRONGTYPE no\r\n", b"-WRONGTYPE no\r\n"),
    (7, b":7\r\n", b":7\r\n"),
    (-(1 << 63), b":-9223372036854775808\r\n", b":-9223372036854775808\r\n"),
    (1 << 63, b"$19\r\n9223372036854775808\r\n", b"(9223372036854775808\r\n"),
    (True, b":1\r\n", b"#t\r\n"),
    (False, b":0\r\n", b"#f\r\n"),
    (1.5, b"$3\r\n1.5\r\n", b",1.5\r\n"),
    (float("-inf"), b"$4\r\n-inf\r\n", b",-inf\r\n"),
    (NO_ARRAY, b"*-1\r\n", b"_\r\n"),
    (Pushes([[b"a", 1], [None]]), b"*2\r\n$1\r\na\r\n:1\r\n*1\r\n$-1\r\n", b">2\r\n$1\r\na\r\n:1\r\n>1\r\n_\r\n"),
    (b"", b"$0\r\n\r\n", b"$0\r\n\r\n"),
    (b"a\r\nb", b"$4\r\na\r\nb\r\n", b"$4\r\na\r\nb\r\n"),
    ([], b"*0\r\n", b"*0\r\n"),
    ([1, [b"x", None]], b"*2\r\n:1\r\n*2\r\n$1\r\nx\r\n$-1\r\n", b"*2\r\n:1\r\n*2\r\n$1\r\nx\r\n_\r\n"),
    ({b"k": [1], b"l": True}, b"*4\r\n$1\r\nk\r\n*1\r\n:1\r\n$1\r\nl\r\n:1\r\n", b"%2\r\n$1\r\nk\r\n*1\r\n:1\r\n$1\r\nl\r\n#t\r\n"),
    ({}, b"*0\r\n", b"%0\r\n"),
    (NO_ARRAY, b"*-1\r\n", b"_\r\n"),
    (SetReply([b"m", 1]), b"*2\r\n$1\r\nm\r\n:1\r\n", b"~2\r\n$1\r\nm\r\n:1\r\n"),
    (SetReply([]), b"*0\r\n", b"~0\r\n"),
    (
        Pairs([(b"m", 1.5), (b"n", None)]),
        b"*4\r\n$1\r\nm\r\n$3\r\n1.5\r\n$1\r\nn\r\n$-1\r\n",
        b"*2\r\n*2\r\n$1\r\nm\r\n,1.5\r\n*2\r\n$1\r\nn\r\n_\r\n",
    ),
    (Pairs([]), b"*0\r\n", b"*0\r\n"),
]


@pytest.mark.parametrize(("reply", "resp2", "resp3"), WIRE, ids=[repr(reply) for reply, _, _ in WIRE])
def test_replies_on_the_wire(reply: Reply, resp2: bytes, resp3: bytes) -> None:
    """Each kind of reply, in both versions: RESP2 flattens maps and has no nulls, booleans and doubles of its own."""
    assert encode_reply(reply, 2) == resp2
    assert encode_reply(reply, 3) == resp3


replies = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(-(1 << 63), (1 << 63) - 1),
        st.binary(max_size=20),
        st.just(b"v" * 5000),
        st.floats(allow_nan=False),
        st.builds(Simple, st.text(max_size=20)),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.dictionaries(st.binary(max_size=5), inner, max_size=3),
        st.builds(Pairs, st.lists(st.tuples(inner, inner), max_size=3)),
        st.builds(SetReply, st.lists(st.binary(max_size=5), unique=True, max_size=3)),
    ),
    max_leaves=10,
)


def seen(reply: object) -> object:
    """What a client sees of `reply` in RESP3."""
    if isinstance(reply, Simple):
        return reply.text.replace("\r", " ").replace("\n", " ").encode("utf-8", "replace")
    if isinstance(reply, list):
        return [seen(item) for item in reply]
    if isinstance(reply, Pairs):
        return [[seen(one), seen(other)] for one, other in reply.pairs]
    if isinstance(reply, SetReply):
        return [seen(member) for member in reply.members]
    if isinstance(reply, dict):
        return {key: seen(value) for key, value in reply.items()}
    return reply


@settings(max_examples=150, deadline=None)
@given(st.lists(replies, max_size=5))
def test_a_client_reads_what_was_replied(wanted: list[Reply]) -> None:
    """What an independent parser of the protocol reads is what was encoded, one reply for each."""
    reader = hiredis.Reader()
    reader.feed(encode_replies(wanted, 3))
    got = [reader.gets() for _ in wanted]
    assert got == [seen(reply) for reply in wanted]
    assert reader.gets() is False


@settings(max_examples=100, deadline=None)
@given(
    st.text(st.characters(codec=None), max_size=30),
    st.sampled_from([Simple, lambda text: Failure("ERR", text), lambda text: Failure(text, "")]),
)
def test_no_text_ends_a_line_early(text: str, make: type[Simple]) -> None:
    """Whatever a status or an error holds, surrogates included, it is one line: no reply can be injected."""
    wire = encode_reply(make(text), 2)
    assert wire.endswith(b"\r\n")
    assert b"\r" not in wire[:-2]
    assert b"\n" not in wire[:-2]


def test_bytes_of_a_client_survive_in_a_text() -> None:
    """An argument that is quoted in an error, decoded with surrogates, leaves with its own bytes."""
    assert encode_reply(Failure("ERR", b"bad '\xff'".decode("utf-8", "surrogateescape")), 2) == b"-ERR bad '\xff'\r\n"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (3.0, b"3"),
        (-0.0, b"-0"),
        (0.1, b"0.10000000000000001"),
        (1e17, b"1e+17"),
        (12345678.0, b"12345678"),
        (1e21, b"1e+21"),
        (1.5e300, b"1.5000000000000001e+300"),
        (1e-5, b"1.0000000000000001e-05"),
        (1.234e-05, b"1.234e-05"),
        (123456.789, b"123456.789"),
        (float("nan"), b"nan"),
        (float("inf"), b"inf"),
    ],
)
def test_doubles_are_written_as_in_redis(value: float, text: bytes) -> None:
    """With 17 digits, plain where that is short and else with an exponent, without zeros at the end."""
    assert spell(value) == text


@settings(max_examples=200, deadline=None)
@given(st.floats(allow_nan=False))
def test_doubles_read_back_the_same(value: float) -> None:
    """No digit that matters is lost."""
    assert float(spell(value)) == value


def test_a_wrong_end_of_an_argument_is_noticed_in_any_pieces() -> None:
    """What was known of a line that has arrived is not taken for knowledge of the next argument."""
    data = b"*2\r\n$4\r\nECHO\r\n$1\r\nx\r\xcfrest"
    whole = parse([data])
    assert whole[1] is not None
    for place in range(len(data)):
        for other in range(place, len(data)):
            assert parse(cut(data, [place, other])) == whole
