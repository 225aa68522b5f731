"""The client port: order, bounds in every direction, and how connections end."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Callable
from typing import cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raftkv.codec.resp import encode_reply
from raftkv.errors import InvalidSettings
from raftkv.kv.replies import OK, Pushes, Reply
from raftkv.server import clients
from raftkv.server.clients import ClientServer
from raftkv.server.settings import Address, Limits
from tests.server.conftest import Run
from tests.server.journal import Journal

ANYWHERE = Address("127.0.0.1", 0)


class Sink:
    """Stands for the router: notes what is asked, and answers at once, later, or never.

    `answer` makes the reply to a request; None says that it is answered only when the test calls `release`.
    """

    def __init__(self, answer: Callable[[list[bytes]], Reply] | None = lambda request: request[-1]) -> None:
        self.server: ClientServer
        self.journal = Journal()
        self.waiting: dict[int, list[list[bytes]]] = {}
        self._answer = answer

    def open(self, connection_id: int, address: str) -> None:
        self.waiting[connection_id] = []
        self.journal.add(("open", connection_id))
        assert address.startswith(("127.0.0.1:", "unknown"))

    def submit(self, connection_id: int, requests: list[list[bytes]], now_ms: int) -> None:
        assert now_ms == 42
        self.journal.add(("submit", connection_id, len(requests)))
        self.waiting[connection_id] += requests
        if self._answer is not None:
            self.release(connection_id, len(requests), self._answer)

    def ended(self, connection_id: int) -> None:
        self.journal.add(("ended", connection_id))

    def closed(self, connection_id: int) -> None:
        self.journal.add(("closed", connection_id))

    def release(self, connection_id: int, count: int, answer: Callable[[list[bytes]], Reply], close: bool = False) -> None:
        waiting = self.waiting[connection_id]
        taken, waiting[:count] = waiting[:count], []
        self.server.reply(connection_id, [answer(request) for request in taken], 2, close)

    @property
    def asked(self) -> int:
        return sum(event[2] for event in self.journal.events if event[0] == "submit")


def make(sink: Sink, **limits: int) -> ClientServer:
    server = ClientServer(Limits(**limits), lambda: 42, lambda: None)
    server.sink = sink
    sink.server = server
    return server


async def start(sink: Sink, **limits: int) -> tuple[ClientServer, Address]:
    server = make(sink, **limits)
    return server, await server.listen(ANYWHERE)


Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


async def connect(address: Address) -> Streams:
    return await asyncio.open_connection(address.host, address.port)


def request(*parts: bytes) -> bytes:
    return b"*%d\r\n" % len(parts) + b"".join(b"$%d\r\n%b\r\n" % (len(part), part) for part in parts)


def bulk(data: bytes) -> bytes:
    return b"$%d\r\n%b\r\n" % (len(data), data)


def echo(words: list[bytes]) -> Reply:
    return words[-1]


def test_requests_are_answered_in_order(run: Run) -> None:
    """A pipeline, an inline line and a request cut in two get their replies in their order."""

    async def main() -> None:
        server, address = await start(Sink())
        reader, writer = await connect(address)
        writer.write(request(b"ECHO", b"1") + request(b"ECHO", b"2") + b'ECHO "3 4"\r\n' + request(b"ECHO", b"5")[:-5])
        assert await reader.readexactly(23) == bulk(b"1") + bulk(b"2") + bulk(b"3 4")
        writer.write(request(b"ECHO", b"5")[-5:])
        assert await reader.readexactly(7) == bulk(b"5")
        writer.close()
        await server.close()

    run(main())


def test_no_more_than_the_bound_is_in_flight(run: Run) -> None:
    """Of a long pipeline only as many requests as allowed are submitted before replies; all are answered in the end, in order."""

    async def main() -> None:
        sink = Sink(None)
        server, address = await start(sink, max_commands_per_connection=10)
        reader, writer = await connect(address)
        wanted = [b"%d" % number for number in range(95)]
        writer.write(b"".join(request(b"ECHO", word) for word in wanted))
        for done in range(0, 95, 5):
            await sink.journal.wait(lambda _: bool(sink.waiting.get(1)) and len(sink.waiting[1]) >= min(10, 95 - done), "requests")  # noqa: B023
            assert len(sink.waiting[1]) <= 10
            sink.release(1, 5, echo)
        assert await reader.readexactly(len(b"".join(map(bulk, wanted)))) == b"".join(map(bulk, wanted))
        writer.close()
        await server.close()

    run(main())


def test_large_requests_count_by_their_bytes(run: Run) -> None:
    """The node stops reading when unanswered requests have a megabyte, whatever their number."""

    async def main() -> None:
        sink = Sink(None)
        server, address = await start(sink)
        reader, writer = await connect(address)
        value = bytes(100_000)
        writer.write(request(b"ECHO", value) * 100)
        await sink.journal.wait(lambda _: sink.asked * 100_000 >= clients.INFLIGHT_BYTES, "a megabyte of requests")
        for _ in range(50):
            await asyncio.sleep(0)
        assert sink.asked * 100_000 <= clients.INFLIGHT_BYTES + (1 << 20)
        for done in range(100):
            await sink.journal.wait(lambda _: bool(sink.waiting[1]), f"request {done}")
            sink.release(1, 1, lambda _: OK)
            assert await reader.readexactly(5) == b"+OK\r\n"
        writer.close()
        await server.close()

    run(main())


def test_a_protocol_error_is_told_after_the_replies(run: Run) -> None:
    """The requests before the error are answered first; then comes the error, then the end."""

    async def main() -> None:
        sink = Sink(None)
        server, address = await start(sink)
        reader, writer = await connect(address)
        writer.write(request(b"ECHO", b"1") + request(b"ECHO", b"2") + b"*1\r\nx\r\n" + request(b"ECHO", b"3"))
        await sink.journal.wait(lambda _: sink.asked == 2, "two requests")
        sink.release(1, 2, echo)
        assert await reader.read() == bulk(b"1") + bulk(b"2") + b"-ERR Protocol error: expected '$', got 'x'\r\n"
        await sink.journal.wait(lambda events: events[-1] == ("closed", 1), "the end")
        assert (sink.asked, server.protocol_errors) == (2, 1)
        await server.close()

    run(main())


def test_a_client_that_says_no_more_is_answered(run: Run) -> None:
    """After a half-close all that was asked is answered, more than may be in flight at once too; then the connection ends."""

    async def main() -> None:
        sink = Sink(None)
        server, address = await start(sink, max_commands_per_connection=2)
        reader, writer = await connect(address)
        writer.write(b"".join(request(b"ECHO", b"%d" % number) for number in range(5)) + b"*1\r\n$4\r\nPI")
        writer.write_eof()
        for count in (2, 2, 1):
            await sink.journal.wait(lambda _: len(sink.waiting.get(1, [])) == count, "requests")  # noqa: B023
            sink.release(1, count, echo)
        assert await reader.read() == b"".join(bulk(b"%d" % number) for number in range(5))
        await sink.journal.wait(lambda events: events[-1] == ("closed", 1), "the end")
        await server.close()

    run(main())


def test_a_client_that_is_told_goodbye(run: Run) -> None:
    """After a reply that closes, nothing is submitted and the connection ends with that reply."""

    async def main() -> None:
        sink = Sink(None)
        server, address = await start(sink, max_commands_per_connection=3)
        reader, writer = await connect(address)
        writer.write(request(b"ECHO", b"1") * 2 + request(b"QUIT") + request(b"ECHO", b"2") * 5)
        await sink.journal.wait(lambda _: sink.asked == 3, "three requests")
        sink.release(1, 3, lambda words: OK if words[0] == b"QUIT" else words[-1], close=True)
        assert await reader.read() == bulk(b"1") * 2 + b"+OK\r\n"
        await sink.journal.wait(lambda events: events[-1] == ("closed", 1), "the end")
        assert sink.asked == 3
        await server.close()

    run(main())


def test_a_client_that_vanishes(run: Run) -> None:
    """A reset connection is reported once, and replies to it go nowhere."""

    async def main() -> None:
        sink = Sink(None)
        server, address = await start(sink)
        _, writer = await connect(address)
        writer.write(request(b"ECHO", b"1"))
        await sink.journal.wait(lambda _: sink.asked == 1, "the request")
        raw = writer.get_extra_info("socket")
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        writer.transport.abort()
        await sink.journal.wait(lambda events: ("closed", 1) in events, "the end")
        sink.release(1, 1, echo)
        assert server.connected == 0
        await server.close()
        assert sink.journal.events.count(("closed", 1)) == 1

    run(main())


def test_too_many_clients(run: Run) -> None:
    """One client too many is told so as Redis tells it; when somebody leaves there is room again."""

    async def main() -> None:
        sink = Sink()
        server, address = await start(sink, max_connections=2)
        first, second, third = [await connect(address) for _ in range(3)]
        assert await third[0].read() == b"-ERR max number of clients reached\r\n"
        first[1].close()
        await sink.journal.wait(lambda events: ("closed", 1) in events, "the first to leave")
        fourth = await connect(address)
        for reader, writer in (second, fourth):
            writer.write(request(b"ECHO", b"here"))
            assert await reader.readexactly(10) == bulk(b"here")
            writer.close()
        assert (server.connections_received, server.connections_rejected) == (3, 1)
        await server.close()

    run(main())


def test_a_client_that_does_not_read_is_not_read(run: Run) -> None:
    """While replies pile up unread, requests wait in the client's own buffers; when he reads, all of it comes, in order."""

    async def main() -> None:
        sink = Sink(lambda words: words[-1] + bytes(65536))
        server, address = await start(sink)
        reader, writer = await asyncio.open_connection(address.host, address.port, limit=4096)
        total = 400
        for number in range(total):
            writer.write(request(b"ECHO", bytes(10_000), b"%03d" % number))
        submitted = -1
        while submitted != sink.asked:
            submitted = sink.asked
            for _ in range(20):
                await asyncio.sleep(0)
        assert sink.asked < total
        for number in range(total):
            assert await reader.readexactly(65549) == bulk(b"%03d" % number + bytes(65536))
        assert server.slow_clients == 0
        writer.close()
        await server.close()

    run(main())


def test_a_client_that_never_reads_is_disconnected(run: Run) -> None:
    """Beyond the hard bound of output a client is disconnected; the node holds no more for him."""

    async def main() -> None:
        sink = Sink(None)
        server, address = await start(sink, max_output_bytes=4 << 20)
        _, writer = await connect(address)
        writer.write(request(b"ECHO", b"1") * 100)
        for _ in range(100):
            await sink.journal.wait(lambda events: ("closed", 1) in events or bool(sink.waiting.get(1)), "a request or the end")
            if ("closed", 1) in sink.journal.events:
                break
            sink.release(1, 1, lambda _: bytes(1 << 20))
            await asyncio.sleep(0)
        await sink.journal.wait(lambda events: ("closed", 1) in events, "the end")
        assert server.slow_clients == 1
        writer.close()
        await server.close()

    run(main())


def test_closing_does_not_wait_for_a_client_that_does_not_read(run: Run) -> None:
    """A node that stops gives a client a bounded time to take his replies."""

    async def main() -> None:
        sink = Sink(lambda _: bytes(16 << 20))
        server, address = await start(sink)
        _, writer = await connect(address)
        writer.write(request(b"GET", b"k"))
        await sink.journal.wait(lambda _: sink.asked == 1, "the request")
        await server.close(timeout_seconds=0.05)
        await sink.journal.wait(lambda events: ("closed", 1) in events, "the end")
        writer.close()

    run(main())


def test_closing_sends_what_was_replied(run: Run) -> None:
    """Replies that were given before the node stops reach their client."""

    async def main() -> None:
        sink = Sink(None)
        server, address = await start(sink)
        reader, writer = await connect(address)
        writer.write(request(b"GET", b"k"))
        await sink.journal.wait(lambda _: sink.asked == 1, "the request")
        sink.release(1, 1, lambda _: bytes(1 << 20))
        answer = asyncio.ensure_future(reader.read())
        await server.close()
        assert await answer == bulk(bytes(1 << 20))
        writer.close()

    run(main())


def test_settings_that_no_request_fits_are_refused() -> None:
    """A bound too small for any request is named when the server is made."""
    with pytest.raises(InvalidSettings, match="max_bulk_bytes is 100"):
        ClientServer(Limits(max_request_bytes=100), lambda: 0, lambda: None)


# --- one connection on a transport that the test controls -----------------------------------------------------------------------


class Wire(asyncio.Transport):
    """A transport that keeps what is written, and says that it is full when told so."""

    def __init__(self) -> None:
        super().__init__()
        self.writes: list[bytes] = []
        self.reading = True
        self.closing = False
        self.unsent = 0

    def write(self, data: bytes | bytearray | memoryview) -> None:  # type: ignore[override, unused-ignore]
        assert not self.closing
        self.writes.append(bytes(data))

    def pause_reading(self) -> None:
        assert self.reading
        self.reading = False

    def resume_reading(self) -> None:
        assert not self.reading
        self.reading = True

    def is_closing(self) -> bool:
        return self.closing

    def close(self) -> None:
        self.closing = True

    def abort(self) -> None:
        self.closing = True

    def get_write_buffer_size(self) -> int:
        return self.unsent

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        pass


def attach(server: ClientServer) -> tuple[clients._Client, Wire]:
    wire = Wire()
    client = clients._Client(server)
    client.connection_made(wire)
    return client, wire


actions = st.lists(
    st.one_of(
        st.tuples(st.just("data"), st.integers(1, 60)),
        st.tuples(st.just("reply"), st.integers(1, 12)),
        st.tuples(st.just("iterate"), st.just(0)),
        st.tuples(st.just("full"), st.just(0)),
        st.tuples(st.just("room"), st.just(0)),
    ),
    max_size=60,
)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.binary(max_size=8), max_size=25), actions, st.integers(1, 6), st.booleans())
def test_any_schedule_answers_everything_in_order(words: list[bytes], schedule: list[tuple[str, int]], most: int, half_close: bool) -> None:
    """However bytes, replies and back-pressure interleave: never more in flight than allowed, and in the end all replies in order."""

    async def main() -> None:
        sink = Sink(None)
        server = make(sink, max_commands_per_connection=most)
        client, wire = attach(server)
        data = b"".join(b"\r\n" * len(word) + request(b"ECHO", word) for word in words)
        rounds = len(data) + 2 * len(words) + 2  # an empty line takes one too, also when it was fed before they begin
        full = False

        def feed(size: int) -> None:
            nonlocal data
            if wire.reading and data:
                piece, data = data[:size], data[size:]
                client.data_received(piece)

        async def act(kind: str, number: int) -> None:
            nonlocal full
            if kind == "data":
                feed(number)
            elif kind == "reply" and sink.waiting[1]:
                sink.release(1, min(number, len(sink.waiting[1])), echo)
            elif kind == "iterate":
                await asyncio.sleep(0)
            elif kind == "full" and not full:
                full = True
                client.pause_writing()
            elif kind == "room" and full:
                full = False
                client.resume_writing()
            assert len(sink.waiting[1]) <= most

        for kind, number in schedule:
            await act(kind, number)
        for _ in range(rounds):
            for kind in ("room", "data", "iterate", "reply", "iterate"):
                await act(kind, 1 << 20)
        if half_close:
            client.eof_received()
            await asyncio.sleep(0)
            assert wire.closing
        assert b"".join(wire.writes) == b"".join(map(bulk, words))

    asyncio.run(main())


def test_replies_of_one_iteration_leave_in_one_write() -> None:
    """However often the router replies to a client before the loop goes round, there is one write for each client."""

    async def main() -> None:
        sink = Sink(None)
        server = make(sink)
        pairs = [attach(server) for _ in range(3)]
        for client, _ in pairs:
            client.data_received(request(b"ECHO", b"x") * 10)
        for _ in range(10):
            for number in (1, 2, 3):
                sink.release(number, 1, echo)
        assert all(wire.writes == [] for _, wire in pairs)
        await asyncio.sleep(0)
        assert [wire.writes for _, wire in pairs] == [[bulk(b"x") * 10]] * 3

    asyncio.run(main())


def test_incomplete_requests_are_bounded_together() -> None:
    """When the requests that still arrive exceed the bound for all clients, the one who has sent most is disconnected with an error,
    whoever sent the last bytes."""

    async def main() -> None:
        sink = Sink()
        server = make(sink, max_request_bytes=1 << 20, max_bytes_in_flight=3 << 20)
        pairs = [attach(server) for _ in range(4)]
        sizes = [900_000, 1_000_000, 950_000, 400_000]
        for (client, _), size in zip(pairs, sizes, strict=True):
            client.data_received(request(b"ECHO", bytes(size))[:-1])
        await asyncio.sleep(0)
        assert [wire.closing for _, wire in pairs] == [False, True, False, False]
        assert b"".join(pairs[1][1].writes).startswith(b"-ERR the node holds as many bytes of incomplete requests as it may")
        pairs[3][0].data_received(b"\n")
        await asyncio.sleep(0)
        assert pairs[3][1].writes == [bulk(bytes(400_000))]

    asyncio.run(main())


def test_replies_of_one_iteration_are_bounded_too() -> None:
    """Replies that pile up before the loop goes round count like those that the transport holds; one large delivery is allowed."""

    async def main() -> None:
        sink = Sink(None)
        server = make(sink, max_output_bytes=1 << 20)
        (client, wire), (other, other_wire) = attach(server), attach(server)
        for one in (client, other):
            one.data_received(request(b"GET", b"k") * 10)
        sink.release(1, 10, lambda _: bytes(1 << 20))
        assert not wire.closing
        for _ in range(2):
            sink.release(2, 1, lambda _: bytes(1 << 20))
        assert other_wire.closing
        await asyncio.sleep(0)
        assert [sum(map(len, end.writes)) >> 20 for end in (wire, other_wire)] == [10, 0]
        assert server.slow_clients == 1

    asyncio.run(main())


def test_an_error_is_not_taken_for_a_reply() -> None:
    """A client who is disconnected while requests of his are unanswered is told nothing: an error would pass for the reply to a request
    that may well happen. Replies that were given leave first."""

    async def main() -> None:
        sink = Sink(None)
        server = make(sink, max_request_bytes=1 << 20, max_bytes_in_flight=1 << 20)
        (waiting, wire), (answered, other_wire) = attach(server), attach(server)
        waiting.data_received(request(b"INCR", b"k") + request(b"SET", b"k", bytes(900_000))[:-1])
        answered.data_received(request(b"INCR", b"k") + request(b"SET", b"k", bytes(500_000))[:-1])
        await asyncio.sleep(0)
        assert (wire.writes, wire.closing) == ([], True)
        sink.release(2, 1, lambda _: 1)
        answered.data_received(b"\n" + request(b"SET", b"k", bytes(1_000_000))[:-1])
        sink.release(2, 1, lambda _: OK)
        waiting.connection_lost(None)
        third, _ = attach(server)
        third.data_received(request(b"SET", b"k", bytes(500_000))[:-1])
        await asyncio.sleep(0)
        assert b"".join(other_wire.writes) == b":1\r\n+OK\r\n" + encode_reply(clients.TOO_MUCH_ARRIVING, 2)
        assert other_wire.closing

    asyncio.run(main())


def test_before_authentication_one_small_request_at_a_time() -> None:
    """Where authentication is asked for, a request waits for the reply to the one before it, and larger ones are errors; the limits
    grow with the reply that says so."""

    async def main() -> None:
        sink = Sink(None)
        server = ClientServer(Limits(), lambda: 42, lambda: None, requires_authentication=True)
        server.sink = sink
        sink.server = server
        good, wire = attach(server)
        large = request(b"SET", b"k", bytes(20_000))
        good.data_received(request(b"AUTH", b"s") + large + large)
        assert sink.waiting[1] == [[b"AUTH", b"s"]]
        server.authenticated(1)
        sink.release(1, 1, lambda _: OK)
        await asyncio.sleep(0)
        assert len(sink.waiting[1]) == 2
        bad, bad_wire = attach(server)
        bad.data_received(large)
        await asyncio.sleep(0)
        assert bad_wire.writes == [b"-ERR Protocol error: unauthenticated bulk length\r\n"]
        assert bad_wire.closing
        assert not wire.closing

    asyncio.run(main())


def test_one_client_does_not_keep_the_loop() -> None:
    """Of a chunk with very many requests, or very many empty ones, a bounded number is taken before others have their turn."""

    async def main() -> None:
        sink = Sink()
        server = make(sink)
        client, wire = attach(server)
        client.data_received(b"A\n" * 10_000 + b"\r\n" * 10_000 + b"*0\r\n" * 10_000 + b"B\n")
        assert sink.asked == clients.REQUESTS_AT_ONCE
        turns = 0
        while sink.asked < 10_001:
            await asyncio.sleep(0)
            turns += 1
        assert turns >= 30_000 // clients.REQUESTS_AT_ONCE
        await asyncio.sleep(0)
        assert b"".join(wire.writes) == bulk(b"A") * 10_000 + bulk(b"B")
        assert wire.reading

    asyncio.run(main())


def test_a_client_that_does_not_authenticate_is_disconnected() -> None:
    """Who has not proved who he is has only so long."""

    async def main() -> None:
        server = ClientServer(Limits(), lambda: 42, lambda: None, requires_authentication=True)
        server.sink = cast(clients.RequestSink, Sink(None))
        client, wire = attach(server)
        client.sweep(client.opened + clients.AUTHENTICATION_SECONDS - 1)
        assert not wire.closing
        client.sweep(client.opened + clients.AUTHENTICATION_SECONDS + 1)
        assert wire.closing

    asyncio.run(main())


def test_a_client_that_has_stopped_reading_is_disconnected() -> None:
    """Replies that do not move for a minute end the connection; ones that move, however slowly, do not."""

    async def main() -> None:
        server = make(Sink(None))
        client, wire = attach(server)
        wire.unsent = 1000
        now = 1000.0
        client.sweep(now)
        for _ in range(5):
            now += clients.STALLED_SECONDS - 1
            wire.unsent -= 1
            client.sweep(now)
        assert not wire.closing
        client.sweep(now + clients.STALLED_SECONDS + 1)
        assert wire.closing
        assert server.slow_clients == 1

    asyncio.run(main())


def test_pushes_answer_no_request() -> None:
    """What comes unasked is written in its place, and as many requests stay in flight as have no reply."""

    async def main() -> None:
        sink = Sink(None)
        server = make(sink)
        client, wire = attach(server)
        client.data_received(request(b"GET", b"k") * 3)
        server.reply(1, [Pushes([[b"message"]]), b"1", Pushes([[b"message"]])], 3, False, 2)
        await asyncio.sleep(0)
        message = b">1\r\n" + bulk(b"message")
        assert b"".join(wire.writes) == message + bulk(b"1") + message
        assert client.in_flight == 2

    asyncio.run(main())


def test_a_subscriber_that_does_not_read_is_disconnected(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody can stop messages from being published, so what waits for one subscriber has a bound of its own."""
    monkeypatch.setattr(clients, "SUBSCRIBER_OUTPUT_BYTES", 1 << 20)

    async def main() -> None:
        server = make(Sink(None))
        (_, wire), (_, other) = attach(server), attach(server)
        wire.unsent, other.unsent = 1 << 20, (1 << 20) + 1
        for number in (1, 2):
            server.reply(number, [Pushes([[b"message"]])], 2, False, 1)
        assert (wire.closing, other.closing) == (False, True)
        assert server.slow_clients == 1

    asyncio.run(main())
