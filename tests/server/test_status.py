"""What a node tells of the others: it knows of each what the process of it that is connected has said, and nothing else."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import cast

from msgspec import structs

from raftkv.codec.peer import Health
from raftkv.raft.types import Member
from raftkv.server import status
from raftkv.server.node import Node
from raftkv.server.settings import Address, NodeSettings
from raftkv.server.status import NodeStatus, Reporter
from raftkv.storage.identity import Identity, cluster_id
from raftkv.storage.wal import Wal
from raftkv_cli.processes import HOST, Ports
from tests.server import parties
from tests.server.conftest import Run


class Pair:
    """A real node n1 in this process, and a node n2 that the test plays."""

    def __init__(self, directory: Path) -> None:
        ports = Ports.free(2)
        self._addresses = {f"n{i}": Address(HOST, port) for i, port in enumerate(ports.peer, 1)}
        client = Address(HOST, ports.client[0])
        self._node = Node(
            NodeSettings(name="n1", data_dir=directory, client=client, peer=self._addresses["n1"], cluster=self._addresses)
        )
        members = tuple(Member(name, 0, str(address)) for name, address in self._addresses.items())
        self._cluster_id = cluster_id("raftkv", members)

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """n1 runs inside."""
        serving = asyncio.create_task(self._node.serve())
        yield
        serving.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await serving

    async def start_other(self, boot: int) -> parties.Node:
        """A process of n2, once the two are connected."""
        other = parties.Node(parties.facts("n2", boot, cluster_id=self._cluster_id), b"")
        await other.network.listen(self._addresses["n2"])
        other.network.set_peers(self._addresses)
        await until(lambda: (hello := self._node._network.connected("n2")) is not None and hello.boot == boot)
        await until(lambda: other.network.connected("n1") is not None)
        return other

    def reporter(self) -> Reporter:
        """One of n1's, with nothing to report of."""
        identity = Identity(self._cluster_id, "raftkv", "n1", 1, 0, ())
        return Reporter(self._node._settings, identity, cast(Wal, None))

    def known(self) -> NodeStatus:
        """What n1 tells of n2."""
        return next(node for node in self._node._reporter.status().nodes if node.name == "n2")

    async def heard(self, other: parties.Node, process_id: int) -> None:
        """`other` tells its health, and n1 has heard it."""
        told = Health((), 1, 7, None, "c:2", process_id=process_id, role="follower", last=9, committed=8)
        assert other.network.send("n1", told)
        await until(lambda: self._node._reporter._heard.get("n2") == told)


async def until(condition: Callable[[], bool]) -> None:
    """Let the event loop run until `condition` holds, which the test's deadline bounds."""
    while not condition():  # noqa: ASYNC110 - the node under test tells nobody
        await asyncio.sleep(0)


NOTHING = NodeStatus("n2", "unreachable")
"""What is known of n2, but for its address, before it has said anything."""


def test_a_restarted_node_is_not_taken_for_the_process_before_it(run: Run, tmp_path: Path) -> None:
    """What a node told is dropped when its connection breaks, and of its next process nothing is known before that has spoken."""

    async def main() -> None:
        pair = Pair(tmp_path)
        async with pair.running():
            first = await pair.start_other(1)
            assert structs.replace(pair.known(), peer=None) == NOTHING
            await pair.heard(first, 111)
            assert pair.known() == NodeStatus("n2", "follower", 111, "c:2", "", 9, 8, 7, None, 1)
            await parties.close(first)
            await until(lambda: pair.known().role == "unreachable")
            second = await pair.start_other(2)
            assert structs.replace(pair.known(), peer=None) == NOTHING
            await pair.heard(second, 222)
            assert pair.known().pid == 222
            await parties.close(second)

    run(main())


def test_the_last_words_over_half_a_connection_are_not_taken_for_the_next_process(run: Run, tmp_path: Path) -> None:
    """A node that is heard although it is not connected any more, and then restarts, is unknown until its new process has spoken."""

    async def main() -> None:
        pair = Pair(tmp_path)
        async with pair.running():
            first = await pair.start_other(1)
            first.cut_what_comes_from("n1")
            await until(lambda: pair.known().role == "unreachable")
            await pair.heard(first, 111)
            await parties.close(first)
            second = await pair.start_other(2)
            assert structs.replace(pair.known(), peer=None) == NOTHING
            await parties.close(second)

    run(main())


def test_what_has_not_changed_is_told_seldom(tmp_path: Path) -> None:
    """Each node is told every change, after a time what has not changed, and everything anew after a break; a clock that went on is
    no change."""
    reporter = Pair(tmp_path).reporter()
    health = Health((), 1, 7, None, "c:1")
    assert reporter.is_news("n2", health, 5_000)
    assert not reporter.is_news("n2", structs.replace(health, wall_ms=2), 5_100)
    assert reporter.is_news("n3", health, 5_100)
    assert reporter.is_news("n2", structs.replace(health, applied=8), 5_200)
    assert reporter.is_news("n2", health, 5_300)
    assert not reporter.is_news("n2", health, 5_299 + status.TELL_AGAIN_MS)
    assert reporter.is_news("n2", health, 5_300 + status.TELL_AGAIN_MS)
    assert not reporter.is_news("n2", health, 6_400)
    reporter.forget("n2")
    assert reporter.is_news("n2", health, 6_500)
    assert not reporter.is_news("n2", health, 6_600)
