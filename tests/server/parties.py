"""The parties of the peer port's tests: nodes that note what they are told, strangers played by the test, a network that can be cut."""

from __future__ import annotations

import asyncio
import random
import socket
from typing import Any

import msgspec
import structlog

from raftkv.codec.frames import FrameDecoder, FrameSender, Payload
from raftkv.codec.handshake import KIND_VALUE, NONCE_BYTES, PROTOCOL_VERSION, Handshake, Hello
from raftkv.codec.peer import ForwardReads, Value, encode_value, stream_of
from raftkv.server.peers import Facts, PeerNetwork
from raftkv.server.settings import Address
from tests.server.journal import Journal

ANYWHERE = Address("127.0.0.1", 0)
NOWHERE = Address("127.0.0.1", 1)
SECRET = b"the secret of the cluster"


def facts(name: str, boot: int = 1, **changes: Any) -> Facts:
    number = int(name[1:])
    own = Facts(cluster_id=b"c" * 16, node=name, incarnation=100 + number, boot=boot, client_address=f"c:{number}", peer_address="p:1")
    return msgspec.structs.replace(own, **changes)


class Node:
    """One network with a journal of what it was told: ("up", node, boot), ("down", node), ("value", node, value)."""

    def __init__(self, own: Facts, secret: bytes = SECRET) -> None:
        self.journal = Journal()
        self.logged: list[dict[str, Any]] = []
        self.network = PeerNetwork(
            own,
            secret,
            lambda node, value: self.journal.add(("value", node, value)),
            lambda node, hello: self.journal.add(("up", node, hello.boot)),
            lambda node: self.journal.add(("down", node)),
            rng=random.Random(1),
            logger=structlog.wrap_logger(None, processors=[self._log], wrapper_class=structlog.make_filtering_bound_logger(0)),
        )
        self.address = NOWHERE

    def _log(self, logger: object, method: str, event: Any) -> Any:
        self.logged.append(dict(event))
        self.journal.add(("log", event["event"], event.get("reason", "")))
        raise structlog.DropEvent

    async def listen(self) -> Address:
        self.address = await self.network.listen(ANYWHERE)
        return self.address

    @property
    def values(self) -> list[Any]:
        return [event[2] for event in self.journal.events if event[0] == "value"]

    async def up(self, node: str, boot: int = 1) -> None:
        await self.journal.wait(lambda _: (hello := self.network.connected(node)) is not None and hello.boot == boot, f"{node} to connect")

    def cut_what_comes_from(self, node: str) -> None:
        """Break the connection that `node` dialed here, and take no other; what this node says still leaves."""
        server, link = self.network._server, self.network._links[node]
        assert server is not None
        assert link.incoming is not None
        server.close()
        link.incoming.end("cut by the test")

    async def refusal(self, text: str) -> None:
        await self.journal.wait(lambda events: any(event[0] == "log" and text in event[2] for event in events), f"a refusal: {text}")


async def cluster(*names: str) -> list[Node]:
    nodes = [Node(facts(name)) for name in names]
    addresses = {node.network.facts.node: await node.listen() for node in nodes}
    for node in nodes:
        node.network.set_peers(addresses)
    for node in nodes:
        for other in names:
            if other != node.network.facts.node:
                await node.up(other)
    return nodes


async def close(*nodes: Node) -> None:
    for node in nodes:
        await node.network.close()


def read(number: int, size: int = 0) -> ForwardReads:
    """A bulk value with a number."""
    return ForwardReads(number, bytes(size), 1)


class Stranger:
    """The other end of a connection, played by the test: raw bytes, or a proper handshake."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        self.decoder = FrameDecoder()

    @classmethod
    async def dial(cls, address: Address) -> Stranger:
        return cls(*await asyncio.open_connection(address.host, address.port))

    async def payload(self) -> Payload:
        while True:
            data = await self.reader.read(65536)
            assert data, "the connection was closed"
            found = self.decoder.feed(data)
            if found:
                assert len(found) == 1
                return found[0]

    async def shake(self, own: Facts, dialed: str | None, secret: bytes = SECRET) -> str | None:
        """Play one side of the handshake to its end; the reason when it was refused."""
        hello = Hello(PROTOCOL_VERSION, own.cluster_id, own.node, own.incarnation, own.boot, own.group, "c:1", "p:1", b"n" * NONCE_BYTES)
        handshake = Handshake(hello, secret, dialed, lambda _: None)
        self.writer.write(handshake.begin())
        while handshake.peer is None and handshake.refusal is None:
            self.writer.write(handshake.receive(await self.payload()))
        return handshake.refusal

    def send(self, value: Value) -> None:
        sender = FrameSender()
        sender.queue(KIND_VALUE, stream_of(value), encode_value(value))
        self.writer.write(sender.take(1 << 30))

    async def closed(self) -> None:
        while await self.reader.read(65536):
            pass
        self.writer.close()


async def slow_peer(one: Node) -> tuple[Stranger, Stranger, asyncio.Server]:
    """A node n2 that shakes hands on the connection that `one` dials, and then reads nothing; and its own connection is open."""
    arrived: asyncio.Future[Stranger] = asyncio.get_running_loop().create_future()

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        arrived.set_result(Stranger(reader, writer))

    listening = socket.create_server(("127.0.0.1", 0))
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
    server = await asyncio.start_server(accept, sock=listening, limit=65536)
    one.network.set_peers({"n2": Address("127.0.0.1", listening.getsockname()[1])})
    stranger = await arrived
    assert await stranger.shake(facts("n2"), None) is None
    own = await Stranger.dial(one.address)
    assert await own.shake(facts("n2"), "n1") is None
    await one.up("n2")
    stranger.decoder.max_payload_bytes = 1 << 30
    return stranger, own, server


class Proxy:
    """A network between two nodes that can be cut: it forwards bytes from its own port to `target`."""

    def __init__(self, target: Address) -> None:
        self.target = target
        self.open: set[asyncio.StreamWriter] = set()
        self.address = NOWHERE
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self) -> Address:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.address = Address("127.0.0.1", self._server.sockets[0].getsockname()[1])
        return self.address

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            far_reader, far_writer = await asyncio.open_connection(self.target.host, self.target.port)
        except OSError:
            writer.close()
            return
        self.open |= {writer, far_writer}
        for source, sink in ((reader, far_writer), (far_reader, writer)):
            task = asyncio.ensure_future(self._pump(source, sink))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _pump(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        try:
            while data := await source.read(5000):
                sink.write(data)
                await sink.drain()
        except OSError:
            pass
        sink.transport.abort()
        self.open.discard(sink)

    def cut(self, rng: random.Random) -> None:
        """Break one connection, in the middle of whatever it carries."""
        if self.open:
            rng.choice(sorted(self.open, key=id)).transport.abort()

    async def close(self) -> None:
        self._server.close()
        for writer in tuple(self.open):
            writer.transport.abort()
        await asyncio.gather(*self._tasks)
