"""The peer port: connections between the nodes of a cluster.

Each node dials every other. What node A says to node B travels on the connection that A dialed; what B says to A, on the one that B
dialed. What always holds:

- Nothing is delivered before the handshake has proved the other side, and a message of the core is delivered only if it names that
  side, with its incarnation, as its sender.
- `on_connected` and `on_disconnected` alternate for each node, beginning with the first. A node is connected while both directions
  are open to the same process of it; as soon as one of the two breaks, it is not. So whoever is told `on_connected` knows that
  whatever was under way before, in either direction, may be lost, and that nothing else is.
- Values to one node in one stream arrive in the order of `send`, without gaps, until the connection breaks. Control overtakes bulk.
- A process that was started later takes the place of an earlier one of the same node, and nothing of the earlier one is delivered
  from then on. An earlier one is refused while a later one is connected.
- What waits to be sent is bounded: beyond the bound `send` says False and nothing was queued. A full queue never breaks a
  connection: the other side would take it for a crash of this node, and a slow node would cause an election.

`send` promises nothing: what was queued is lost when the connection breaks. Values queued in one iteration of the event loop leave
in one write. The secret is all that protects this port; see `codec.handshake` for what that is worth.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import secrets
from collections.abc import Callable, Mapping
from typing import cast

import structlog
from msgspec import Struct

from raftkv.codec.frames import MAX_PAYLOAD_BYTES, FrameDecoder, FrameSender, Payload
from raftkv.codec.handshake import KIND_VALUE, MAX_HANDSHAKE_BYTES, NONCE_BYTES, PROTOCOL_VERSION, Handshake, Hello
from raftkv.codec.peer import Publish, SnapshotOffer, Value, decode_value, encode_value, stream_of
from raftkv.errors import ProtocolError
from raftkv.raft.messages import InstallSnapshot, MessageBase
from raftkv.raft.types import Incarnation, NodeId
from raftkv.server.settings import Address
from raftkv.server.sockets import keep_alive, send_promptly

FIRST_RETRY_SECONDS = 0.02
LAST_RETRY_SECONDS = 0.5
"""The pauses before a node is dialed again double between these two. When that node dials here, the pause ends at once."""

CONNECT_SECONDS = 2.0
HANDSHAKE_SECONDS = 3.0
MAX_STRANGERS = 64
"""Connections here that have not proved themselves; one more ends the oldest."""

UNSENT_BYTES = 64 << 10
"""About how much is given to the operating system that it cannot send at once: what is behind it can still be overtaken."""
WRITE_BYTES = 256 << 10
"""About how much is given to a transport in one write."""

PUBLISHED_BYTES = 4 << 20
"""Bytes that wait for a node, whatever they are, beyond which no published message joins them: those can be lost, and what is behind them
must not come late."""

LINGER_SECONDS = 0.5
"""How long a node that stops waits for what it has said to leave."""

SILENCE_SECONDS = 5
"""After so long without an acknowledgement by the other machine, TCP gives a connection up."""


class Facts(Struct, frozen=True, kw_only=True):
    """What this node says of itself to the others. `boot` grows with each start of the process; see `codec.handshake.Hello`."""

    cluster_id: bytes
    node: NodeId
    incarnation: Incarnation
    boot: int
    client_address: str
    peer_address: str
    group: int = 0


class _Connection(asyncio.Protocol):
    """What both ends of a connection have in common: the handshake, and how it ends."""

    dialed: NodeId | None = None

    def __init__(self, network: PeerNetwork) -> None:
        self.network = network
        self.transport: asyncio.Transport = cast(asyncio.Transport, None)  # set by connection_made, before any other call
        self.hello: Hello | None = None
        """The other side, when the connection is open."""
        self.reason = "the connection broke"
        """Why the connection ended, or would, at the time."""
        self.ended = False
        self.gone = asyncio.Event()
        """Set when everything written has left, or never will."""
        self._decoder = FrameDecoder(MAX_HANDSHAKE_BYTES)
        self._handshake = network.handshake(self.dialed)
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        if self.ended:
            self.transport.abort()
            return
        self.transport.set_write_buffer_limits(high=UNSENT_BYTES)
        keep_alive(transport, SILENCE_SECONDS)
        send_promptly(transport, UNSENT_BYTES, SILENCE_SECONDS * 1000)
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(HANDSHAKE_SECONDS, self.end, "the handshake took too long")
        self._write(self._handshake.begin())

    def connection_lost(self, exc: Exception | None) -> None:
        if exc is not None:
            self.reason = str(exc) or type(exc).__name__
        self._finish()
        self.gone.set()

    def eof_received(self) -> None:
        self.end("the other side closed the connection")

    def data_received(self, data: bytes) -> None:
        if self.ended:
            return
        try:
            for payload in self._decoder.feed(data):
                if self.ended:
                    return
                if self.hello is None:
                    self._shake_hands(payload)
                else:
                    self.received(payload, self.hello)
        except ProtocolError as error:
            self.network.refused(self, str(error))
            self.end(str(error))

    def _shake_hands(self, payload: Payload) -> None:
        handshake = self._handshake
        self._write(handshake.receive(payload))
        if handshake.refusal is not None:
            self.network.refused(self, handshake.refusal)
            self.reason = handshake.refusal
            self._finish()
            self.transport.close()
        elif handshake.peer is not None:
            objection = self.network.objection(handshake.peer)
            if objection is not None:
                self.end(objection)
                return
            self.hello = handshake.peer
            self._decoder.max_payload_bytes = MAX_PAYLOAD_BYTES
            self._stop_timer()
            self.opened(handshake.peer)

    def end(self, reason: str) -> None:
        """Break the connection now."""
        if not self.ended:
            self.reason = reason
            self._finish()
            self.transport.abort()

    def _finish(self) -> None:
        if not self.ended:
            self.ended = True
            self._stop_timer()
            self.lost()

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _write(self, data: bytes) -> None:
        if data:
            self.transport.write(data)

    def opened(self, hello: Hello) -> None:
        """The handshake is complete."""
        raise NotImplementedError

    def received(self, payload: Payload, hello: Hello) -> None:
        """A payload has come after the handshake."""
        raise NotImplementedError

    def lost(self) -> None:
        """The connection has ended. Called once."""
        raise NotImplementedError


class _Outgoing(_Connection):
    """A connection that this node dialed: what it says to `link.node` leaves here."""

    def __init__(self, network: PeerNetwork, link: _Link) -> None:
        self.dialed = link.node
        super().__init__(network)
        self.done = asyncio.Event()
        self.sender = FrameSender(network.facts.group)
        self._link = link
        self._paused = False
        self._scheduled = False

    def opened(self, hello: Hello) -> None:
        self._link.outgoing_opened(self, hello)

    def received(self, payload: Payload, hello: Hello) -> None:
        raise ProtocolError(f"node {hello.node} sent a value on the connection that was dialed to it")

    def lost(self) -> None:
        self.done.set()
        self._link.outgoing_lost(self)

    def pause_writing(self) -> None:
        self._paused = True

    def resume_writing(self) -> None:
        self._paused = False
        self._flush()

    def send(self, value: Value) -> bool:
        """Queue `value`; it leaves at the end of this iteration of the event loop, or when there is room."""
        if type(value) is Publish and self.sender.queued_bytes > PUBLISHED_BYTES:
            self.network.message_dropped(self._link.node)
            return False
        try:
            queued = self.sender.queue(KIND_VALUE, stream_of(value), encode_value(value))
        except ValueError as error:
            self.network.events.error("peer_value_too_large", peer=self._link.node, kind=type(value).__name__, reason=str(error))
            return False
        if queued and not self._scheduled and not self._paused:
            self._scheduled = True
            asyncio.get_running_loop().call_soon(self._flush)
        return queued

    def _flush(self) -> None:
        self._scheduled = False
        while self.sender and not self._paused and not self.ended:
            self.transport.write(self.sender.take(WRITE_BYTES))

    def close(self) -> None:
        """Hand everything queued to the transport, and close when it has left."""
        while self.hello is not None and self.sender and not self.ended:
            self.transport.write(self.sender.take(WRITE_BYTES))
        self.reason = "this node stops"
        self._finish()
        self.transport.close()


class _Incoming(_Connection):
    """A connection that another node dialed: what it says arrives here."""

    def __init__(self, network: PeerNetwork) -> None:
        super().__init__(network)
        self._link: _Link | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self.network.stranger_came(self)

    def opened(self, hello: Hello) -> None:
        self.network.stranger_left(self)
        self._link = self.network.link(hello.node)
        if self._link is None:
            self.end(f"node {hello.node} is no longer a member")
        else:
            self._link.incoming_opened(self, hello)

    def received(self, payload: Payload, hello: Hello) -> None:
        if payload.kind != KIND_VALUE or payload.group != hello.group:
            raise ProtocolError(f"node {hello.node} sent a payload of kind {payload.kind} for group {payload.group}")
        value = decode_value(payload.data)
        if isinstance(value, InstallSnapshot):
            raise ProtocolError(f"node {hello.node} sent an InstallSnapshot that is not in an offer")
        message = value.message if isinstance(value, SnapshotOffer) else value
        if isinstance(message, MessageBase):
            claimed = (message.sender, message.incarnation, message.to)
            if claimed != (hello.node, hello.incarnation, self.network.facts.node):
                raise ProtocolError(
                    f"node {hello.node} (incarnation {hello.incarnation}) sent a message of {message.sender} "
                    f"(incarnation {message.incarnation}) to {message.to}"
                )
        self.network.on_value(hello.node, value)

    def lost(self) -> None:
        self.network.stranger_left(self)
        if self._link is not None:
            self._link.incoming_lost(self)


class _Link:
    """Everything about one other node: the two connections, the newest process of it, and the task that dials it."""

    def __init__(self, network: PeerNetwork, node: NodeId, address: Address) -> None:
        self.node = node
        self.address = address
        self.outgoing: _Outgoing | None = None
        self.incoming: _Incoming | None = None
        self.hello: Hello | None = None
        self.connected = False
        self._network = network
        self._dial_now = asyncio.Event()
        self._complaint = ""
        self._closed = False
        self._task = asyncio.get_running_loop().create_task(self._dial(), name=f"raftkv-dial-{node}")
        self._task.add_done_callback(_raise_failure)

    def objection(self, hello: Hello) -> str | None:
        """A reason to refuse this process of the node, or None."""
        present = self.hello
        if present is not None and hello.boot < present.boot and (self.outgoing or self.incoming):
            return f"a process of node {self.node} that was started later is connected"
        return None

    def outgoing_opened(self, connection: _Outgoing, hello: Hello) -> None:
        self._meet(hello)
        self.outgoing = connection
        self._complaint = ""
        self._update("")

    def incoming_opened(self, connection: _Incoming, hello: Hello) -> None:
        self._meet(hello)
        before = self.incoming
        self.incoming = connection
        if before is not None:
            self._down("the other side dialed anew")
            before.end("the other side dialed anew")
        if self.outgoing is None:
            self._dial_now.set()
        self._update("")

    def outgoing_lost(self, connection: _Outgoing) -> None:
        if self.outgoing is connection:
            self.outgoing = None
            self._update(connection.reason)

    def incoming_lost(self, connection: _Incoming) -> None:
        if self.incoming is connection:
            self.incoming = None
            self._update(connection.reason)

    def _meet(self, hello: Hello) -> None:
        """`hello` is the newest process of the node: connections of any other end."""
        present, self.hello = self.hello, hello
        if present is not None and (present.boot, present.incarnation) != (hello.boot, hello.incarnation):
            for connection in (self.outgoing, self.incoming):
                if connection is not None:
                    connection.end("another process of the node has connected")

    def _update(self, reason: str) -> None:
        if self.outgoing is None or self.incoming is None or self.hello is None:
            self._down(reason)
        elif not self.connected:
            self.connected = True
            hello = self.hello
            self._network.events.info("peer_connected", peer=self.node, address=str(self.address), incarnation=hello.incarnation)
            self._network.on_connected(self.node, hello)

    def _down(self, reason: str) -> None:
        if self.connected:
            self.connected = False
            self._network.events.info("peer_disconnected", peer=self.node, reason=reason)
            self._network.on_disconnected(self.node)

    async def _dial(self) -> None:
        """Keep a connection to the node, until `close`."""
        pause = FIRST_RETRY_SECONDS
        while not self._closed:
            self._dial_now.clear()
            connection = _Outgoing(self._network, self)
            try:
                await self._connect(connection)
                if not self._closed:
                    await connection.done.wait()
            finally:
                if not connection.ended and connection.transport is not None:
                    connection.close()
            if connection.hello is not None:
                pause = FIRST_RETRY_SECONDS
            else:
                self._complain(connection.reason)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause * self._network.rng.uniform(0.5, 1.0)):
                    await self._dial_now.wait()
            pause = min(2 * pause, LAST_RETRY_SECONDS)

    async def _connect(self, connection: _Outgoing) -> None:
        """Connect; when that fails, `connection` has ended with the reason."""
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                await loop.create_connection(lambda: connection, self.address.host, self.address.port)
        except TimeoutError:
            reason = f"no answer within {CONNECT_SECONDS:g} s"
        except (OSError, UnicodeError) as error:
            reason = str(error)
        else:
            return
        connection.reason = reason
        connection.ended = True
        connection.done.set()
        if connection.transport is not None:
            connection.transport.abort()

    def _complain(self, reason: str) -> None:
        """Log that the node cannot be reached: once, until the reason changes."""
        if reason != self._complaint:
            self._complaint = reason
            self._network.events.warning("peer_unreachable", peer=self.node, address=str(self.address), reason=reason)

    async def close(self) -> None:
        """Dial no more, and end both connections. What was queued still leaves, if the other side takes it soon."""
        outgoing = self.outgoing
        if self.incoming is not None:
            self.incoming.end("this node stops")
        # A cancellation can be lost in a library that the task awaits (asyncio.wait_for in Python 3.11 was one), so there is a flag too.
        self._closed = True
        self._dial_now.set()
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task
        if outgoing is not None:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LINGER_SECONDS):
                    await outgoing.gone.wait()
            if not outgoing.gone.is_set():
                outgoing.transport.abort()


class PeerNetwork:
    """The connections of one node to all others. All methods are for the event loop's thread.

    Args:
        facts: what this node says of itself.
        secret: the cluster's secret; empty where settings allow to do without.
        on_value: a value has come from a node. Must not raise.
        on_connected: a node is connected; its Hello says which incarnation it is and where its clients go.
        on_disconnected: it is no longer. Called at once when the operating system tells, so within milliseconds of a crash.
        rng: for the jitter of retries.
        logger: for events; the process's own by default.
    """

    def __init__(
        self,
        facts: Facts,
        secret: bytes,
        on_value: Callable[[NodeId, Value], None],
        on_connected: Callable[[NodeId, Hello], None],
        on_disconnected: Callable[[NodeId], None],
        *,
        rng: random.Random | None = None,
        logger: structlog.typing.FilteringBoundLogger | None = None,
    ) -> None:
        self.facts = facts
        self.on_value = on_value
        self.on_connected = on_connected
        self.on_disconnected = on_disconnected
        self.rng = rng or random.Random()
        self.events: structlog.typing.FilteringBoundLogger = logger or structlog.get_logger("raftkv")
        self.refusals = 0
        """Connections refused here or by others."""
        self.unsent = 0
        """Values for which `send` said False."""
        self._secret = secret
        self._links: dict[NodeId, _Link] = {}
        self._strangers: dict[_Incoming, None] = {}
        self._server: asyncio.Server | None = None
        self._last_warning = float("-inf")
        self.messages_dropped = 0
        """Published messages that were not sent because too much waited."""
        self._last_drop = float("-inf")

    # For the node.

    async def listen(self, address: Address) -> Address:
        """Accept other nodes at `address`; a port of 0 means any. The address that it became.

        Raises:
            OSError: the address cannot be used.
        """
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: _Incoming(self), address.host, address.port)
        bound = self._server.sockets[0].getsockname()
        return Address(bound[0], bound[1])

    def set_peers(self, peers: Mapping[NodeId, Address]) -> None:
        """Keep connections to exactly these nodes, at these addresses. The own name is ignored."""
        for node in sorted(set(self._links) - set(peers)):
            link = self._links.pop(node)
            asyncio.get_running_loop().create_task(link.close()).add_done_callback(_raise_failure)
        for node, address in sorted(peers.items()):
            if node == self.facts.node:
                continue
            link_now = self._links.get(node)
            if link_now is None:
                self._links[node] = _Link(self, node, address)
            else:
                link_now.address = address

    def send(self, node: NodeId, value: Value) -> bool:
        """Send `value` to `node`, soon. False: it surely was not sent; the node cannot be reached, or too much waits for it."""
        link = self._links.get(node)
        connection = link.outgoing if link is not None else None
        if connection is not None and not connection.ended and connection.send(value):
            return True
        self.unsent += 1
        return False

    def connected(self, node: NodeId) -> Hello | None:
        """The process of `node` that is connected, if one is."""
        link = self._links.get(node)
        return link.hello if link is not None and link.connected else None

    def queued_bytes(self, node: NodeId) -> int:
        """Bytes that wait to be sent to `node`."""
        link = self._links.get(node)
        return link.outgoing.sender.queued_bytes if link is not None and link.outgoing is not None else 0

    async def close(self) -> None:
        """End all connections. `on_disconnected` is not called for it."""
        self.on_disconnected = _ignore
        if self._server is not None:
            self._server.close()
        for connection in tuple(self._strangers):
            connection.end("this node stops")
        links = list(self._links.values())
        self._links.clear()
        await asyncio.gather(*(link.close() for link in links))

    # For the connections.

    def handshake(self, dialed: NodeId | None) -> Handshake:
        """A new handshake, with a fresh nonce."""
        facts = self.facts
        own = Hello(
            PROTOCOL_VERSION,
            facts.cluster_id,
            facts.node,
            facts.incarnation,
            facts.boot,
            facts.group,
            facts.client_address,
            facts.peer_address,
            secrets.token_bytes(NONCE_BYTES),
        )
        return Handshake(own, self._secret, dialed, self.objection)

    def objection(self, hello: Hello) -> str | None:
        """A reason not to talk to the process that said `hello`, or None."""
        link = self._links.get(hello.node)
        if link is None:
            return f"node {hello.node} is not a member of the cluster that node {self.facts.node} knows"
        return link.objection(hello)

    def link(self, node: NodeId) -> _Link | None:
        return self._links.get(node)

    def refused(self, connection: _Connection, reason: str) -> None:
        """A connection was refused, by this side or the other. Dialing logs for itself; of strangers one a second is logged."""
        self.refusals += 1
        now = asyncio.get_running_loop().time()
        if connection.dialed is None and now - self._last_warning >= 1.0:
            self._last_warning = now
            address = connection.transport.get_extra_info("peername")
            self.events.warning("peer_refused", address=str(address), reason=reason, refusals=self.refusals)

    def message_dropped(self, node: NodeId) -> None:
        """A published message was not sent to `node`, for which too much waits. One a second is logged."""
        self.messages_dropped += 1
        now = asyncio.get_running_loop().time()
        if now - self._last_drop >= 1.0:
            self._last_drop = now
            self.events.warning("message_dropped", peer=node, queued_bytes=self.queued_bytes(node), dropped=self.messages_dropped)

    def stranger_came(self, connection: _Incoming) -> None:
        self._strangers[connection] = None
        if len(self._strangers) > MAX_STRANGERS:
            next(iter(self._strangers)).end("too many connections that have not proved themselves")

    def stranger_left(self, connection: _Incoming) -> None:
        self._strangers.pop(connection, None)


def _ignore(node: NodeId) -> None:
    """Nobody wants to know."""


def _raise_failure(task: asyncio.Task[None]) -> None:
    """Hand an error that ended a task to the event loop's handler of exceptions."""
    if not task.cancelled():
        error = task.exception()
        if error is not None:
            task.get_loop().call_exception_handler({"message": f"task {task.get_name()} failed", "exception": error, "task": task})
