"""Broken and changed bytes on each port: they end their own connection, or are answered, and everybody else is served as before.

The bytes are those of the fuzzed targets' corpora, as they are and changed.
"""

from __future__ import annotations

import asyncio
from random import Random

from raftkv.codec.frames import Stream, encode_frame
from raftkv.codec.handshake import KIND_HANDSHAKE, KIND_VALUE
from raftkv.server.admin import AdminServer
from raftkv.server.settings import Address
from tests.fuzz.engine import changed, corpus
from tests.fuzz.targets import TARGETS
from tests.server.conftest import Run
from tests.server.parties import Node, Stranger, close, cluster, facts, read
from tests.server.test_admin import ANYWHERE, ask, get, pages
from tests.server.test_clients import Sink, bulk, connect, request, start

CHANGES = 3
"""How many changed inputs there are for each that is sent as it is."""


def inputs(name: str) -> list[bytes]:
    """The corpus of a target, and changes to it; the same at every call."""
    target, rng = TARGETS[name], Random(name)
    known = corpus(target)
    return [*known, *(changed(target, data, rng, known) for data in known for _ in range(CHANGES))]


async def send(address: Address, data: bytes) -> bytes:
    """Send `data` and nothing after it; all that is answered until the other side closes."""
    reader, writer = await asyncio.open_connection(address.host, address.port)
    answer = b""
    try:
        writer.write(data)
        await writer.drain()
        writer.write_eof()
        answer = await reader.read(-1)
    except ConnectionError:
        return answer
    finally:
        writer.close()
    return answer


def test_garbage_on_the_client_port(run: Run) -> None:
    """Whatever some clients send, another one gets its replies in between, and no connection is left behind."""

    async def main() -> None:
        sink = Sink()
        server, address = await start(sink)
        reader, writer = await connect(address)
        for data in inputs("requests"):
            await send(address, data[1:])
            writer.write(request(b"ECHO", b"1"))
            assert await reader.readexactly(7) == bulk(b"1")
        writer.close()
        opened = sum(event[0] == "open" for event in sink.journal.events)
        await sink.journal.wait(lambda events: sum(event[0] == "closed" for event in events) == opened, "every connection to end")
        await server.close()

    run(main())


def test_garbage_on_the_peer_port(run: Run) -> None:
    """Strangers who send frames and handshakes that are none get in nowhere, and two nodes go on talking."""

    async def main() -> None:
        one, two = await cluster("n1", "n2")
        for data in [*inputs("frames"), *(encode_frame(KIND_HANDSHAKE, 0, 0, data, False) for data in inputs("handshake"))]:
            await send(one.address, data)
        assert one.values == []
        await still_talking(one, two)
        await close(one, two)

    run(main())


def test_garbage_of_a_node_that_has_proved_itself(run: Run) -> None:
    """A node that belongs to the cluster and sends what is no value loses that connection, and nothing else happens."""

    async def main() -> None:
        one, two = await cluster("n1", "n2")
        other = Node(facts("n3"))
        addresses = {"n1": one.address, "n2": two.address, "n3": await other.listen()}
        await other.network.close()
        one.network.set_peers(addresses)
        for data in inputs("values"):
            stranger = await Stranger.dial(one.address)
            assert await stranger.shake(facts("n3"), "n1") is None
            stranger.writer.write(encode_frame(KIND_VALUE, Stream.CONTROL, 0, data[1:], False))
            stranger.writer.write_eof()
            await stranger.closed()
        await still_talking(one, two)
        await close(one, two)

    run(main())


async def still_talking(one: Node, two: Node) -> None:
    """Values go both ways."""
    one.network.send("n2", read(1))
    await two.journal.wait(lambda _: read(1) in two.values, "a value of n1")
    two.network.send("n1", read(2))
    await one.journal.wait(lambda _: read(2) in one.values, "a value of n2")


def test_garbage_on_the_admin_port(run: Run) -> None:
    """Whatever is asked, the next question is answered."""

    async def main() -> None:
        server = AdminServer(pages())
        address = await server.listen(ANYWHERE)
        rng = Random(1)
        target = TARGETS["texts"]
        heads = [get("/livez"), get("/status?x"), b"GET /metrics HTTP/1.0\r\nHost: x\r\n\r\n"]
        for data in [*heads, *(changed(target, head, rng, heads) for head in heads for _ in range(30)), *inputs("frames")]:
            answer = await send(address, data)
            assert not answer or answer.startswith(b"HTTP/1.1 ")
        assert (await ask(address, get("/livez")))[0] == 200
        await server.close()

    run(main())
