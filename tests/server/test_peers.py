"""The peer port: who is let in, what arrives in which order, how a break is noticed, and bounds."""

from __future__ import annotations

import asyncio
import random
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from raftkv.codec.frames import HEADER_BYTES, FrameSender
from raftkv.codec.peer import ForwardReads, Publish, ReadsRefused, SnapshotOffer, Value, decode_value, encode_value
from raftkv.raft.messages import Heartbeat, InstallSnapshot
from raftkv.raft.types import SnapshotMeta
from raftkv.server import peers
from raftkv.server.peers import Facts
from raftkv.server.settings import Address
from tests.server.conftest import Run
from tests.server.parties import NOWHERE, SECRET, Node, Proxy, Stranger, close, cluster, facts, read, slow_peer

ROOT = Path(__file__).resolve().parents[2]


def test_three_nodes_connect_and_talk(run: Run) -> None:
    """Each node is told of each other once, with its Hello; values arrive from both sides, each stream in order."""

    async def main() -> None:
        nodes = await cluster("n1", "n2", "n3")
        one, two, three = nodes
        hello = one.network.connected("n2")
        assert hello is not None
        assert (hello.incarnation, hello.client_address) == (102, "c:2")
        for number in range(50):
            assert one.network.send("n2", read(number, 20_000))
            assert two.network.send("n1", read(number))
            assert one.network.send("n3", read(number))
        await two.journal.wait(lambda _: len(two.values) == 50, "values at n2")
        await one.journal.wait(lambda _: len(one.values) == 50, "values at n1")
        await three.journal.wait(lambda _: len(three.values) == 50, "values at n3")
        assert two.values == [read(number, 20_000) for number in range(50)]
        assert one.values == three.values == [read(number) for number in range(50)]
        assert all(sum(event[0] == "up" for event in node.journal.events) == 2 for node in nodes)
        assert all(event[1] != "peer_refused" for node in nodes for event in node.journal.events if event[0] == "log")
        await close(*nodes)

    run(main())


def test_an_unknown_node_is_not_sent_to(run: Run) -> None:
    """`send` says False for a node that is not connected, not known, or this one."""

    async def main() -> None:
        one = Node(facts("n1"))
        one.network.set_peers({"n1": await one.listen(), "n2": NOWHERE})
        assert not any(one.network.send(node, read(1)) for node in ("n1", "n2", "n9"))
        assert one.network.unsent == 3
        assert one.network.connected("n2") is None
        await close(one)

    run(main())


@pytest.mark.parametrize(
    ("own", "secret", "known", "text"),
    [
        (facts("n2"), b"another secret", True, "the proof is wrong"),
        (facts("n2", cluster_id=b"d" * 16), SECRET, True, "belongs to cluster 6464"),
        (facts("n2", group=1), SECRET, True, "means group 1"),
        (facts("n2"), SECRET, False, "node n2 is not a member"),
        (facts("n3"), SECRET, True, "node n3 is not a member"),
    ],
)
def test_who_does_not_belong_is_refused(run: Run, own: Facts, secret: bytes, known: bool, text: str) -> None:
    """Neither side is told of the other, both log why, and nothing can be sent."""

    async def main() -> None:
        one, two = Node(facts("n1")), Node(own, secret)
        addresses = {"n1": await one.listen(), "n2": await two.listen()}
        one.network.set_peers(addresses if known else {"n1": addresses["n1"]})
        two.network.set_peers({**addresses, own.node: addresses["n2"]})
        await one.refusal(text)
        await two.refusal(text)
        assert not one.network.send("n2", read(1))
        assert not two.network.send("n1", read(1))
        assert not any(event[0] in ("up", "value") for node in (one, two) for event in node.journal.events)
        await close(one, two)

    run(main())


def test_a_wrong_address_is_named(run: Run) -> None:
    """When the address of one node leads to another, the log says which node answered."""

    async def main() -> None:
        one, three = Node(facts("n1")), Node(facts("n3"))
        one.network.set_peers({"n2": await three.listen()})
        three.network.set_peers({"n1": await one.listen()})
        await one.refusal("node n2 was meant, and this is node n3")
        await close(one, three)

    run(main())


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", "is a client talking to the peer port"),
        (b"\xa2" + bytes(15), "layout version 2"),
        (b"\xa1\x01\0\0\0\0\0\0\0\x01\0\0" + bytes(4), "more than 4096 bytes"),
    ],
)
def test_what_is_not_the_protocol_is_refused(run: Run, data: bytes, text: str) -> None:
    """Noise ends its own connection, with a reason in the log, and disturbs nobody."""

    async def main() -> None:
        one, two = await cluster("n1", "n2")
        stranger = await Stranger.dial(one.address)
        stranger.writer.write(data)
        await one.refusal(text)
        await stranger.closed()
        one.network.send("n2", read(1))
        await two.journal.wait(lambda _: two.values == [read(1)], "the value")
        await close(one, two)

    run(main())


def test_nothing_is_delivered_before_the_handshake(run: Run) -> None:
    """A value sent at once is refused, however well formed."""

    async def main() -> None:
        one = Node(facts("n1"))
        one.network.set_peers({"n1": await one.listen(), "n2": NOWHERE})
        stranger = await Stranger.dial(one.address)
        stranger.send(read(1))
        await one.refusal("before the handshake was complete")
        await stranger.closed()
        assert one.values == []
        await close(one)

    run(main())


@pytest.mark.parametrize(
    "value",
    [
        Heartbeat("n3", "n1", 1, 102, 0, 1),
        Heartbeat("n2", "n1", 1, 999, 0, 1),
        Heartbeat("n2", "n3", 1, 102, 0, 1),
        SnapshotOffer("s", InstallSnapshot("n3", "n1", 1, 103, SnapshotMeta()), ()),
        InstallSnapshot("n2", "n1", 1, 102, SnapshotMeta(9, 1)),
    ],
    ids=["sender", "incarnation", "receiver", "within an offer", "a snapshot without its files"],
)
def test_a_message_that_may_not_come_is_refused(run: Run, value: Value) -> None:
    """A node speaks for itself only: a message of the core must name it, its incarnation and the receiver. And the core is never told to
    take a snapshot whose files did not come."""

    async def main() -> None:
        one = Node(facts("n1"))
        one.network.set_peers({"n1": await one.listen(), "n2": NOWHERE, "n3": NOWHERE})
        stranger = await Stranger.dial(one.address)
        assert await stranger.shake(facts("n2"), "n1") is None
        stranger.send(Heartbeat("n2", "n1", 1, 102, 0, 1))
        stranger.send(value)
        await one.refusal("node n2 (incarnation 102) sent a message of" if not isinstance(value, InstallSnapshot) else "not in an offer")
        await stranger.closed()
        assert one.values == [Heartbeat("n2", "n1", 1, 102, 0, 1)]
        await close(one)

    run(main())


def test_strangers_are_bounded(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Connections that prove nothing do not keep others out: beyond the bound the oldest is ended."""
    monkeypatch.setattr(peers, "HANDSHAKE_SECONDS", 3600.0)

    async def main() -> None:
        one = Node(facts("n1"))
        one.network.set_peers({"n1": await one.listen(), "n2": NOWHERE})
        idle = [await Stranger.dial(one.address) for _ in range(peers.MAX_STRANGERS + 1)]
        await idle[0].closed()
        member = await Stranger.dial(one.address)
        assert await member.shake(facts("n2"), "n1") is None
        member.send(read(1))
        await one.journal.wait(lambda _: one.values == [read(1)], "the value")
        for stranger in [*idle, member]:
            stranger.writer.close()
        await close(one)

    run(main())


def test_a_handshake_has_a_deadline(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever connects and says nothing is disconnected, on either side of the connection."""
    monkeypatch.setattr(peers, "HANDSHAKE_SECONDS", 0.05)

    async def main() -> None:
        one = Node(facts("n1"))
        silent = await asyncio.start_server(lambda _, writer: accepted.append(writer), "127.0.0.1", 0)
        one.network.set_peers({"n1": await one.listen(), "n2": Address("127.0.0.1", silent.sockets[0].getsockname()[1])})
        stranger = await Stranger.dial(one.address)
        await stranger.closed()
        await one.refusal("the handshake took too long")
        for writer in accepted:
            writer.close()
        silent.close()
        await close(one)

    accepted: list[asyncio.StreamWriter] = []
    run(main())


def test_a_node_that_dials_is_dialed_at_once(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """A node that comes back is connected without waiting for the pause between two attempts."""
    monkeypatch.setattr(peers, "FIRST_RETRY_SECONDS", 3600.0)
    monkeypatch.setattr(peers, "LAST_RETRY_SECONDS", 3600.0)

    async def main() -> None:
        with socket.create_server(("127.0.0.1", 0)) as reserved:
            later = Address("127.0.0.1", reserved.getsockname()[1])
        one, two = Node(facts("n1")), Node(facts("n2"))
        addresses = {"n1": await one.listen(), "n2": later}
        one.network.set_peers(addresses)
        await one.journal.wait(lambda events: ("log", "peer_unreachable") in [event[:2] for event in events], "a failure")
        two.address = await two.network.listen(later)
        two.network.set_peers(addresses)
        await one.up("n2")
        await two.up("n1")
        await close(one, two)

    run(main())


def test_an_unreachable_node_is_logged_once(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """However often it is dialed in vain, the log says so once."""
    monkeypatch.setattr(peers, "FIRST_RETRY_SECONDS", 0.001)
    monkeypatch.setattr(peers, "LAST_RETRY_SECONDS", 0.001)
    dials: list[str] = []
    connect = peers._Link._connect

    async def count(link: peers._Link, connection: peers._Outgoing) -> None:
        await connect(link, connection)
        dials.append(connection.reason)
        if len(dials) == 20:
            many.set()

    monkeypatch.setattr(peers._Link, "_connect", count)
    many = asyncio.Event()

    async def main() -> None:
        one = Node(facts("n1"))
        one.network.set_peers({"n2": NOWHERE})
        await many.wait()
        assert [event["event"] for event in one.logged] == ["peer_unreachable"]
        await close(one)

    run(main())


def test_a_node_that_stops_is_noticed_by_the_others(run: Run) -> None:
    """When a node closes its connections the others are told at once, each once; the node itself is not."""

    async def main() -> None:
        one, two, three = await cluster("n1", "n2", "n3")
        await one.network.close()
        for node in (two, three):
            await node.journal.wait(lambda events: ("down", "n1") in events, "the break")
            assert node.network.connected("n1") is None
            assert not node.network.send("n1", read(1))
            assert node.journal.events.count(("down", "n1")) == 1
        assert not any(event[0] == "down" for event in one.journal.events)
        await close(two, three)

    run(main())


def test_what_was_sent_before_a_clean_stop_arrives(run: Run) -> None:
    """A node that stops in order gets its last words out."""

    async def main() -> None:
        one, two = await cluster("n1", "n2")
        for number in range(20):
            one.network.send("n2", read(number, 100_000))
        await one.network.close()
        await two.journal.wait(lambda events: ("down", "n1") in events, "the end")
        await two.journal.wait(lambda _: len(two.values) == 20, "the last words")
        await close(two)

    run(main())


CHILD = """
import asyncio, sys
sys.path.insert(0, {root!r})
from tests.server.parties import Node, facts
from raftkv.server.settings import Address

async def main():
    node = Node(facts("n2"))
    own = await node.listen()
    node.network.set_peers({{"n1": Address("127.0.0.1", {port}), "n2": own}})
    print(own.port, flush=True)
    await node.up("n1")
    print("up", flush=True)
    await asyncio.Event().wait()

asyncio.run(main())
"""


@pytest.mark.skipif(sys.platform == "win32", reason="needs SIGKILL")
def test_a_killed_process_is_noticed_at_once(run: Run) -> None:
    """SIGKILL of a node is reported by its broken connections, long before any timeout."""

    async def main() -> None:
        one = Node(facts("n1"))
        await one.listen()
        script = CHILD.format(root=str(ROOT), port=one.address.port)
        child = await asyncio.create_subprocess_exec(sys.executable, "-c", script, stdout=subprocess.PIPE)
        assert child.stdout is not None
        one.network.set_peers({"n2": Address("127.0.0.1", int(await child.stdout.readline()))})
        await one.up("n2")
        assert await child.stdout.readline() == b"up\n"
        loop = asyncio.get_running_loop()
        killed = loop.time()
        child.send_signal(signal.SIGKILL)
        await one.journal.wait(lambda events: ("down", "n2") in events, "the crash to be noticed")
        assert loop.time() - killed < 1.0
        await child.wait()
        await close(one)

    run(main())


def test_a_later_process_takes_the_place_of_an_earlier_one(run: Run) -> None:
    """When a later process of a node connects, the earlier one is reported gone, and nothing of it is delivered any more; when the
    later one is there, the earlier one is refused."""

    async def main() -> None:
        one, old = await cluster("n1", "n2")
        new = Node(facts("n2", boot=2))
        old.network.send("n1", read(1))
        await one.journal.wait(lambda _: one.values == [read(1)], "the value of the old process")
        addresses = {"n1": one.address, "n2": await new.listen()}
        one.network.set_peers(addresses)
        new.network.set_peers(addresses)
        await one.up("n2", boot=2)
        old.network.send("n1", read(2))
        await old.refusal("a process of node n2 that was started later is connected")
        new.network.send("n1", read(3))
        await one.journal.wait(lambda _: one.values == [read(1), read(3)], "the value of the new process")
        one.network.send("n2", read(4))
        await new.journal.wait(lambda _: new.values == [read(4)], "the value for the new process")
        assert [event for event in one.journal.events if event[0] in ("up", "down")] == [("up", "n2", 1), ("down", "n2"), ("up", "n2", 2)]
        await close(one, old, new)

    run(main())


def test_a_node_that_dials_anew_is_told_of(run: Run) -> None:
    """When a node dials again before the end of its last connection has been seen, what was under way on that one may be lost: it is
    reported as down and up again, and the old connection ends."""

    async def main() -> None:
        one = Node(facts("n1"))
        await one.listen()
        stranger, own, server = await slow_peer(one)
        again = await Stranger.dial(one.address)
        assert await again.shake(facts("n2"), "n1") is None
        again.send(read(1))
        await own.closed()
        await one.journal.wait(lambda _: one.values == [read(1)], "the value on the new connection")
        changes = [event for event in one.journal.events if event[0] in ("up", "down")]
        assert changes == [("up", "n2", 1), ("down", "n2"), ("up", "n2", 1)]
        for party in (stranger, again):
            party.writer.close()
        server.close()
        await close(one)

    run(main())


def test_a_node_whose_clock_went_back_is_let_in(run: Run) -> None:
    """A process with a smaller boot is refused only while one with a larger boot is connected: clocks do go back between two starts."""

    async def main() -> None:
        one, late = await cluster("n1", "n2")
        await close(late)
        await one.journal.wait(lambda events: ("down", "n2") in events, "the end of the first process")
        early = Node(facts("n2", boot=0))
        addresses = {"n1": one.address, "n2": await early.listen()}
        one.network.set_peers(addresses)
        early.network.set_peers(addresses)
        await one.up("n2", boot=0)
        await close(one, early)

    run(main())


def test_a_member_that_is_removed_is_disconnected(run: Run) -> None:
    """A node that is no longer in the list is disconnected and refused; when it is back in the list, it connects."""

    async def main() -> None:
        one, two = await cluster("n1", "n2")
        one.network.set_peers({"n1": one.address})
        await one.journal.wait(lambda events: ("down", "n2") in events, "the disconnection")
        await two.refusal("node n2 is not a member")
        one.network.set_peers({"n1": one.address, "n2": two.address})
        await one.up("n2")
        await close(one, two)

    run(main())


def test_queues_are_bounded_and_control_overtakes(run: Run) -> None:
    """To a node that does not read, `send` refuses beyond the bound and the connection stays; a heartbeat still has room, and when the
    node reads again it arrives before the megabytes that were queued first (hazard 62)."""

    async def main() -> None:
        one = Node(facts("n1"))
        await one.listen()
        stranger, own, server = await slow_peer(one)
        heartbeat = Heartbeat("n1", "n2", 1, 101, 0, 1)
        sent = 0
        assert one.network.send("n2", read(0, 10))
        while one.network.send("n2", read(sent, 1 << 20)):
            sent += 1
            assert sent < 200
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert one.network.queued_bytes("n2") <= 65 << 20
        assert one.network.send("n2", heartbeat)
        assert not any(event[0] == "down" for event in one.journal.events)
        before = 0
        values: list[Value] = []
        while heartbeat not in values:
            data = await stranger.reader.read(65536)
            before += len(data)
            values += [decode_value(payload.data) for payload in stranger.decoder.feed(data)]
        assert before < 8 << 20
        while len(values) < sent + 2:
            values += [decode_value(payload.data) for payload in stranger.decoder.feed(await stranger.reader.read(1 << 20))]
        assert [value.id for value in values if isinstance(value, ForwardReads)] == [0, *range(sent)]
        stranger.writer.close()
        own.writer.close()
        server.close()
        await close(one)

    run(main())


def test_values_of_one_iteration_leave_in_one_write(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many values are sent before the loop goes round, the transport is written to once."""
    takes: list[int] = []
    take = FrameSender.take

    def counted(sender: FrameSender, max_bytes: int) -> bytes:
        data = take(sender, max_bytes)
        takes.append(len(data))
        return data

    monkeypatch.setattr(FrameSender, "take", counted)

    async def main() -> None:
        one, two = await cluster("n1", "n2")
        for number in range(100):
            one.network.send("n2", read(number))
        assert takes == []
        await two.journal.wait(lambda _: len(two.values) == 100, "the values")
        assert takes == [100 * (HEADER_BYTES + len(encode_value(read(1)))) + sum(number > 127 for number in range(100))]
        await close(one, two)

    run(main())


def test_a_value_too_large_to_send(run: Run) -> None:
    """What no receiver would take is refused and logged, and the connection stays."""

    async def main() -> None:
        one, two = await cluster("n1", "n2")
        assert not one.network.send("n2", read(1, 66 << 20))
        assert ("log", "peer_value_too_large") in [event[:2] for event in one.journal.events]
        assert one.network.send("n2", read(2))
        await two.journal.wait(lambda _: two.values == [read(2)], "the next value")
        await close(one, two)

    run(main())


def test_a_node_that_answers_on_the_wrong_connection(run: Run) -> None:
    """Values come only on the connection that their sender dialed; on the other one they end it."""

    async def main() -> None:
        one = Node(facts("n1"))
        await one.listen()
        stranger, own, server = await slow_peer(one)
        stranger.send(ReadsRefused(1, "no"))
        await stranger.closed()
        await one.journal.wait(lambda _: one.network.refusals == 1, "the refusal")
        assert one.values == []
        own.writer.close()
        server.close()
        await close(one)

    run(main())


@pytest.mark.parametrize("seed", range(3))
def test_breaks_are_never_silent(run: Run, seed: int) -> None:
    """Under connections that break anywhere, again and again: connected and disconnected alternate; values never change their order,
    never come twice, and between "up" and "down" none is missing; and in the end the nodes are connected."""

    async def main() -> None:
        rng = random.Random(seed)
        one, two = Node(facts("n1")), Node(facts("n2"))
        proxies = [Proxy(await one.listen()), Proxy(await two.listen())]
        addresses = {"n1": await proxies[0].start(), "n2": await proxies[1].start()}
        one.network.set_peers(addresses)
        two.network.set_peers(addresses)
        number = 0
        for _ in range(15):
            await one.up("n2")
            await two.up("n1")
            for _ in range(rng.randrange(1, 40)):
                one.network.send("n2", read(number, rng.randrange(20_000)))
                number += 1
                await asyncio.sleep(0)
            rng.choice(proxies).cut(rng)
            await one.journal.wait(changed(one), "the break at n1")
            await two.journal.wait(changed(two), "the break at n2")
        await one.up("n2")
        await two.up("n1")
        one.network.send("n2", read(number))
        await two.journal.wait(lambda _: bool(two.values) and two.values[-1].id == number, "the last value")
        check_history(one, "n2")
        check_history(two, "n1")
        await close(one, two)
        for proxy in proxies:
            await proxy.close()

    run(main())


def changed(node: Node) -> Callable[[list[Any]], bool]:
    """Whether anything about connections has happened since now."""
    seen = sum(event[0] in ("up", "down") for event in node.journal.events)
    return lambda events: sum(event[0] in ("up", "down") for event in events) > seen


def check_history(node: Node, other: str) -> None:
    events = [event for event in node.journal.events if event[0] in ("up", "down", "value")]
    states = [event[0] for event in events if event[0] != "value"]
    assert states[0] == "up"
    assert all(before != after for before, after in pairwise(states))
    last: int | None = None
    connected = gap_allowed = False
    for event in events:
        if event[0] == "value":
            number = event[2].id
            assert last is None or number > last
            assert gap_allowed or last is None or number == last + 1, f"{last} was followed by {number} while connected"
            last = number
            gap_allowed = not connected
        else:
            connected = event[0] == "up"
            gap_allowed = True


def test_published_messages_take_little_of_a_queue(run: Run) -> None:
    """To a node that does not read, messages are dropped long before the queue is full, counted, and logged once a second; appends and
    heartbeats still have room."""

    async def main() -> None:
        one = Node(facts("n1"))
        await one.listen()
        stranger, own, server = await slow_peer(one)
        sent = 0
        while one.network.send("n2", Publish(b"c", bytes(1 << 20))):
            sent += 1
            assert sent < 20
        assert not one.network.send("n2", Publish(b"c", b"small"))
        assert one.network.queued_bytes("n2") <= peers.PUBLISHED_BYTES + (1 << 20) + 100
        assert one.network.messages_dropped == 2
        assert [event["event"] for event in one.logged].count("message_dropped") == 1
        assert one.network.send("n2", read(0, 1 << 20))
        assert one.network.send("n2", Heartbeat("n1", "n2", 1, 101, 0, 1))
        stranger.writer.close()
        own.writer.close()
        server.close()
        await close(one)

    run(main())
