"""The client port: sockets that speak RESP, joined to the router.

Requests go to the router in the order in which they came, replies come back in the same order, one for each. What always holds:

- What one client can make the node hold is bounded: requests in flight by number and bytes, a request that is still arriving by the
  limits of the parser, and output by `max_output_bytes`. Requests that still arrive are bounded for all clients together too.
  At a soft bound the node stops reading from the client; at a hard one it disconnects him.
- Replies that are made during one iteration of the event loop leave in one write per client.
- A client that stops being RESP gets the replies to what he said before, then the error, and is disconnected. So is one that closes
  his sending side: first the replies, then the end.

Nothing here knows a command. Whether a client may do what he asks is the router's business.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Protocol, cast

import structlog

from raftkv.codec.resp import BEFORE_AUTHENTICATION, RequestLimits, RequestParser, encode_replies, encode_reply
from raftkv.kv.replies import Failure, Reply
from raftkv.server.settings import Address, Limits
from raftkv.server.sockets import keep_alive

MAX_CLIENTS_REACHED = Failure("ERR", "max number of clients reached")
TOO_MUCH_ARRIVING = Failure("ERR", "the node holds as many bytes of incomplete requests as it may; try again later")

REQUESTS_AT_ONCE = 1024
"""Requests taken from one client before others have their turn."""

INFLIGHT_BYTES = 1 << 20
"""Bytes of one client's unanswered requests at which the node stops reading from him."""

SUBSCRIBER_OUTPUT_BYTES = 32 << 20
"""Bytes that may wait for a client who is sent published messages: nothing else stops them from coming."""

OUTPUT_BYTES = 256 << 10
"""Bytes of unsent replies at which the node stops reading from a client."""

STALLED_SECONDS = 60
"""A client that has not read a byte of the replies waiting for him for so long is disconnected."""

LINGER_SECONDS = 5
"""The same for a client that is being disconnected."""

AUTHENTICATION_SECONDS = 10
"""How long a client may take to authenticate where that is asked for."""

KEEP_ALIVE_SECONDS = 300
"""Silence after which TCP asks whether a client's machine is still there."""

_SWEEP_SECONDS = 1.0


class RequestSink(Protocol):
    """Who answers requests: the router. It calls `ClientServer.reply` with one reply for each request, in order."""

    def open(self, connection_id: int, address: str) -> None:
        """A client has connected."""

    def submit(self, connection_id: int, requests: list[list[bytes]], now_ms: int) -> None:
        """A client asks for `requests`."""

    def ended(self, connection_id: int) -> None:
        """A client sends nothing more. He may still be answered."""

    def closed(self, connection_id: int) -> None:
        """A client is gone; replies to him go nowhere."""


class _Client(asyncio.Protocol):
    """One connection.

    `in_flight` counts requests that were submitted and not answered; `ending` says that nothing more is read, because the client
    closed his side or broke the protocol, or was told goodbye.
    """

    def __init__(self, server: ClientServer) -> None:
        self.id = 0
        self.in_flight = 0
        self.in_flight_bytes = 0
        self.dirty = False
        self.output: list[bytes] = []
        self.output_bytes = 0
        self.arriving_bytes = 0
        self.authenticated = not server.requires_authentication
        self.opened = 0.0
        self.transport: asyncio.Transport = cast(asyncio.Transport, None)  # set by connection_made, before any other call
        self._server = server
        self._parser = RequestParser(server.request_limits if self.authenticated else BEFORE_AUTHENTICATION)
        self._most = server.max_in_flight if self.authenticated else 1  # requests in flight
        self._chunks: deque[list[int]] = deque()  # [requests not answered, bytes] of each submission
        self._reading = True
        self._output_full = False
        self._ending = False
        self._closing = False
        self._unsent = (0, 0.0)  # bytes waiting for the client, and since when they have not become fewer

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.transport.set_write_buffer_limits(high=OUTPUT_BYTES)
        self._server.client_connected(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._server.client_lost(self)

    def data_received(self, data: bytes) -> None:
        if not self._ending:
            self._take(data)

    def eof_received(self) -> bool:
        """The client sends nothing more; what he has sent is still answered."""
        self._ending = True
        self._server.client_ended(self)
        return True

    def pause_writing(self) -> None:
        self._output_full = True
        self._regulate()

    def resume_writing(self) -> None:
        self._output_full = False
        self._server.mark(self)

    def allow(self, limits: RequestLimits) -> None:
        """The client has authenticated."""
        self.authenticated = True
        self._most = self._server.max_in_flight
        self._parser.limits = limits

    def _take(self, data: bytes) -> None:
        """Parse and submit as much as may be in flight."""
        parser = self._parser
        server = self._server
        requests = parser.feed(data, min(self._most - self.in_flight, REQUESTS_AT_ONCE))
        arriving = parser.pending_bytes
        if requests:
            size = max(self.arriving_bytes + len(data) - arriving, 0)
            self.in_flight += len(requests)
            self.in_flight_bytes += size
            self._chunks.append([len(requests), size])
            server.sink.submit(self.id, requests, server.now_ms())
            server.arrived()
        if arriving != self.arriving_bytes:
            server.arriving(self, arriving)
        if parser.problem is not None:
            self._ending = True
            server.protocol_errors += 1
            server.mark(self)
        elif parser.backlog and self.in_flight < self._most:
            server.mark(self)
        self._regulate()

    def _regulate(self) -> None:
        """Read from the client, or do not, as the bounds say."""
        full = self._ending or self._output_full or self._parser.backlog or self.in_flight_bytes >= INFLIGHT_BYTES
        read = not full and self.in_flight < self._most
        if read != self._reading and not self.transport.is_closing():
            self._reading = read
            if read:
                self.transport.resume_reading()
            else:
                self.transport.pause_reading()

    def answer(self, replies: list[Reply], protocol: int, unasked: int) -> None:
        """Some more requests have been answered; the replies leave at the end of the iteration. `unasked` of them answer no request.

        A client for whom too much waits already is disconnected. One delivery may be of any size: whoever reads at once what he asked
        for is not slow.
        """
        bound = min(SUBSCRIBER_OUTPUT_BYTES, self._server.max_output_bytes) if unasked else self._server.max_output_bytes
        if self.output_bytes + self.transport.get_write_buffer_size() > bound:
            self._server.slow_clients += 1
            self.abort("client_too_slow")
            return
        data = encode_replies(replies, protocol)
        self.output.append(data)
        self.output_bytes += len(data)
        self._answered(len(replies) - unasked)

    def _answered(self, count: int) -> None:
        self.in_flight -= count
        chunks = self._chunks
        while count and chunks:
            first = chunks[0]
            if first[0] > count:
                first[0] -= count
                return
            count -= first[0]
            self.in_flight_bytes -= first[1]
            chunks.popleft()

    def flush(self) -> None:
        """Write what was collected, then go on with what that makes possible."""
        self.dirty = False
        transport = self.transport
        if transport.is_closing():
            self.output.clear()
            return
        if self.output:
            output = self.output
            data = output[0] if len(output) == 1 else b"".join(output)
            output.clear()
            self.output_bytes = 0
            transport.write(data)
        may_take = not self._output_full and self.in_flight_bytes < INFLIGHT_BYTES
        if self._parser.backlog and may_take and self.in_flight < self._most:
            self._take(b"")
        if self._ending and not self.in_flight and not (self._parser.backlog and self._parser.problem is None):
            self._end()
        else:
            self._regulate()

    def _end(self) -> None:
        """Everything has been answered, and nothing more will be asked."""
        if self._parser.problem is not None:
            self.transport.write(encode_reply(self._parser.problem, 2))
        self.close()

    def stop(self) -> None:
        """Read and submit nothing more, and close when what was collected has been written."""
        self._ending = True
        self._parser = RequestParser(self._server.request_limits)
        self.in_flight = 0
        self._server.mark(self)

    def close(self) -> None:
        """Close when everything written has left."""
        self._closing = True
        self.transport.close()

    def abort(self, event: str) -> None:
        """Close at once and say why in the log."""
        unsent = self.output_bytes + self.transport.get_write_buffer_size()
        self.output.clear()
        self._server.events.info(event, client=self._server.address_of(self), unsent_bytes=unsent)
        self.transport.abort()

    def sweep(self, now: float) -> None:
        """Some time has passed: end what has lasted too long."""
        if not self.authenticated and now - self.opened > AUTHENTICATION_SECONDS:
            self.abort("client_did_not_authenticate")
            return
        unsent = self.transport.get_write_buffer_size()
        if not self._unsent[0] or unsent < self._unsent[0]:
            self._unsent = (unsent, now)
        elif now - self._unsent[1] > (LINGER_SECONDS if self._closing else STALLED_SECONDS):
            self._server.slow_clients += 1
            self.abort("client_stalled")


class ClientServer:
    """Listens for clients. All methods are for the event loop's thread.

    Args:
        limits: the node's bounds.
        now_ms: the monotonic clock that the router is given.
        arrived: called after requests were submitted: the router's turn to `flush` is soon.
        requires_authentication: start each client with small limits and one request at a time, until `authenticated` is called.

    `sink` is set before `listen`; the router needs `reply`, so one of the two has to come first.
    """

    def __init__(
        self,
        limits: Limits,
        now_ms: Callable[[], int],
        arrived: Callable[[], None],
        *,
        requires_authentication: bool = False,
        logger: structlog.typing.FilteringBoundLogger | None = None,
    ) -> None:
        self.sink: RequestSink = cast(RequestSink, None)
        self.now_ms = now_ms
        self.arrived = arrived
        self.requires_authentication = requires_authentication
        self.request_limits = RequestLimits(
            max_arguments=limits.max_request_arguments,
            max_bulk_bytes=min(limits.max_request_bytes, 512 << 20),
            max_request_bytes=limits.max_request_bytes,
        )
        self.max_in_flight = limits.max_commands_per_connection
        self.max_output_bytes = limits.max_output_bytes
        self.events: structlog.typing.FilteringBoundLogger = logger or structlog.get_logger("raftkv")
        self.connections_received = 0
        self.connections_rejected = 0
        self.protocol_errors = 0
        self.slow_clients = 0
        self._max_connections = limits.max_connections
        self._max_arriving_bytes = max(limits.max_bytes_in_flight, limits.max_request_bytes)
        self._clients: dict[int, _Client] = {}
        self._all: set[_Client] = set()
        self._next_id = 1
        self._arriving_bytes = 0
        self._dirty: list[_Client] = []
        self._server: asyncio.Server | None = None
        self._sweeper: asyncio.TimerHandle | None = None
        self._gone: asyncio.Event | None = None

    # For the node.

    async def listen(self, address: Address) -> Address:
        """Accept clients at `address`; a port of 0 means any. The address that it became.

        Raises:
            OSError: the address cannot be used.
        """
        if self.sink is None:
            raise RuntimeError("ClientServer.sink must be set before listen()")
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: _Client(self), address.host, address.port, backlog=1024)
        self._sweeper = loop.call_later(_SWEEP_SECONDS, self._sweep)
        bound = self._server.sockets[0].getsockname()
        return Address(bound[0], bound[1])

    def reply(self, connection_id: int, replies: list[Reply], protocol: int, close: bool, unasked: int = 0) -> None:
        """The answers to the oldest unanswered requests of a client, and among them `unasked` pushes that answer none; with `close`, he
        is disconnected after them."""
        client = self._clients.get(connection_id)
        if client is None:
            return
        if replies and not client.transport.is_closing():
            client.answer(replies, protocol, unasked)
        if close:
            client.stop()
        else:
            self.mark(client)

    def authenticated(self, connection_id: int) -> None:
        """A client has proved who he is: the full limits hold for him from now on."""
        client = self._clients.get(connection_id)
        if client is not None:
            client.allow(self.request_limits)

    def stop_listening(self) -> None:
        """Accept nobody from now on; those who are there stay."""
        if self._server is not None:
            self._server.close()

    async def close(self, timeout_seconds: float = 1.0) -> None:
        """Disconnect everybody, after what was written has left or `timeout_seconds` have passed."""
        self.stop_listening()
        for client in tuple(self._all):
            client.flush()
            client.close()
        if self._all:
            self._gone = asyncio.Event()
            try:
                await asyncio.wait_for(self._gone.wait(), timeout_seconds)
            except TimeoutError:
                for client in tuple(self._all):
                    client.transport.abort()
        if self._sweeper is not None:
            self._sweeper.cancel()
            self._sweeper = None

    @property
    def connected(self) -> int:
        """How many clients there are."""
        return len(self._clients)

    # For the connections.

    def time(self) -> float:
        """The event loop's clock, in seconds."""
        return asyncio.get_running_loop().time()

    def client_connected(self, client: _Client) -> None:
        self._all.add(client)
        client.opened = self.time()
        if len(self._clients) >= self._max_connections:
            self.connections_rejected += 1
            client.transport.write(encode_reply(MAX_CLIENTS_REACHED, 2))
            client.stop()
            client.close()
            return
        self.connections_received += 1
        client.id = self._next_id
        self._next_id += 1
        self._clients[client.id] = client
        keep_alive(client.transport, KEEP_ALIVE_SECONDS)
        self.sink.open(client.id, self.address_of(client))

    def client_ended(self, client: _Client) -> None:
        self.mark(client)
        if client.id in self._clients:
            self.sink.ended(client.id)
            self.arrived()

    def client_lost(self, client: _Client) -> None:
        self._all.discard(client)
        self._arriving_bytes -= client.arriving_bytes
        client.arriving_bytes = 0
        if self._clients.pop(client.id, None) is not None:
            self.sink.closed(client.id)
            self.arrived()
        if self._gone is not None and not self._all:
            self._gone.set()

    def arriving(self, client: _Client, pending: int) -> None:
        """`pending` bytes of `client` have arrived and are no whole request yet."""
        self._arriving_bytes += pending - client.arriving_bytes
        client.arriving_bytes = pending
        if self._arriving_bytes > self._max_arriving_bytes:
            largest = max(self._all, key=lambda other: other.arriving_bytes)
            self._arriving_bytes -= largest.arriving_bytes
            largest.arriving_bytes = 0
            if not largest.in_flight:  # else it would be taken for the reply to a request that may well happen
                largest.output.append(encode_reply(TOO_MUCH_ARRIVING, 2))
            largest.stop()
            self.events.warning("too_much_arriving", client=self.address_of(largest))

    def mark(self, client: _Client) -> None:
        """`client` has something to write, or may go on: `flush` him at the end of this iteration."""
        if not client.dirty:
            client.dirty = True
            self._dirty.append(client)
            if len(self._dirty) == 1:
                asyncio.get_running_loop().call_soon(self._flush)

    def address_of(self, client: _Client) -> str:
        """Where `client` comes from, as text."""
        address = client.transport.get_extra_info("peername")
        if isinstance(address, tuple):
            return str(Address(address[0], address[1]))
        return str(address or "unknown")

    def _flush(self) -> None:
        dirty = self._dirty
        self._dirty = []
        for client in dirty:
            client.flush()

    def _sweep(self) -> None:
        now = self.time()
        for client in tuple(self._all):
            client.sweep(now)
        self._sweeper = asyncio.get_running_loop().call_later(_SWEEP_SECONDS, self._sweep)
