"""The repair phase of a node as a process: sockets, a timer and a thread around `raftkv.repair.Repair`, before the core exists.

The node listens to its peers and to operators, and to no client: its client port is closed, so clients go elsewhere. It tells the
others at every heartbeat that it is in repair, so that `raftkv status` shows it. When the phase has ended all of this is closed, and the
node starts as always.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import structlog
from prometheus_client import CollectorRegistry, Gauge, generate_latest

from raftkv.codec.handshake import Hello
from raftkv.codec.peer import Health, Value
from raftkv.raft.types import NodeId
from raftkv.repair import Ending, Repair
from raftkv.server.admin import AdminPages, AdminServer, Check
from raftkv.server.peers import Facts, PeerNetwork
from raftkv.server.settings import Address, NodeSettings
from raftkv.server.status import REPAIRING, ClusterStatus, NodeStatus
from raftkv.storage.rotten import RottenLog

TICK_MS = 50
HEALTH_MS = 500

_Result = TypeVar("_Result")


class RepairPhase:
    """One node's repair phase.

    Args:
        settings: the node's settings.
        cluster: the cluster's name.
        facts: what it says of itself to peers.
        members: the peer addresses of the other members, never none.
        log: the rotten log. It is closed when the phase has ended.
        stop: set when the node is to stop.
    """

    def __init__(
        self,
        settings: NodeSettings,
        cluster: str,
        facts: Facts,
        members: dict[NodeId, str],
        log: RottenLog,
        stop: asyncio.Event,
    ) -> None:
        self._settings = settings
        self._cluster = cluster
        self._members = members
        self._log = log
        self._last = log.last_index
        self._stop = stop
        self._loop = asyncio.get_running_loop()
        self._over = asyncio.Event()
        self._failure: BaseException | None = None
        self._heard: dict[NodeId, Health] = {}
        self._events: structlog.typing.FilteringBoundLogger = structlog.get_logger("raftkv").bind(node=settings.name)
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="raftkv-repair")
        self._network = PeerNetwork(
            facts, settings.secret or b"", self._received, self._connected, lambda peer: self._guarded(self._repair.disconnected, peer)
        )
        self._repair = Repair(settings.name, log, sorted(members), self._background, self._send, self._ended)

    async def run(self) -> bool:
        """Repair the log, as long as it takes; False if the node is to stop before that.

        Raises:
            StorageError: the disk failed.
            OSError: an address cannot be used.
        """
        settings = self._settings
        admin = AdminServer(
            AdminPages(
                live=lambda: Check(True),
                ready=lambda: Check(False, self._repair.describe()),
                metrics=self._metrics,
                status=self._status,
            )
        )
        waiting = [self._loop.create_task(event.wait()) for event in (self._over, self._stop)]
        ticking = self._loop.create_task(self._tick())
        try:
            await self._network.listen(settings.peer)
            self._network.set_peers({node: Address.parse(at, what=f"the address of {node}") for node, at in self._members.items()})
            if settings.admin is not None:
                await admin.listen(settings.admin)
            await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (ticking, *waiting):
                task.cancel()
            await admin.close()
            await self._network.close()
            await asyncio.to_thread(self._pool.shutdown)
            self._log.close()
        if self._failure is not None:
            raise self._failure
        return self._over.is_set()

    async def _tick(self) -> None:
        ticked = told = self._loop.time()
        while True:
            await asyncio.sleep(TICK_MS / 1000)
            now = self._loop.time()
            self._guarded(self._repair.tick, int((now - ticked) * 1000))
            ticked = now
            if now - told >= HEALTH_MS / 1000:
                told = now
                self._guarded(self._tell_health)

    def _tell_health(self) -> None:
        health = self._health()
        for peer in self._members:
            self._network.send(peer, health)

    def _guarded(self, act: Callable[..., None], *arguments: object) -> None:
        """Run `act`; whatever it raises stops the node."""
        if self._over.is_set():
            return
        try:
            act(*arguments)
        except Exception as error:
            self._failure = error
            self._over.set()

    def _background(self, work: Callable[[], _Result], done: Callable[[_Result | BaseException], None]) -> None:
        def run_work() -> None:
            try:
                result: _Result | BaseException = work()
            except BaseException as error:  # handed to `done`, which decides
                result = error
            self._loop.call_soon_threadsafe(self._guarded, done, result)

        self._pool.submit(run_work)

    def _send(self, peer: NodeId, value: object) -> bool:
        return self._network.send(peer, value)  # type: ignore[arg-type]  # a repair sends nothing that the codec does not know

    def _received(self, peer: NodeId, value: Value) -> None:
        if isinstance(value, Health):
            self._heard[peer] = value
        self._guarded(self._repair.received, peer, value)

    def _connected(self, peer: NodeId, hello: Hello) -> None:
        self._guarded(self._repair.connected, peer)

    def _ended(self, ending: Ending) -> None:
        self._over.set()

    # What others are told.

    def _health(self) -> Health:
        settings = self._settings
        return Health(
            digests=(),
            wall_ms=time.time_ns() // 1_000_000,
            applied=0,
            fenced="the log is being repaired",
            client_address=str(settings.client_address),
            peer_address=str(settings.peer_address),
            process_id=os.getpid(),
            role=REPAIRING,
            term=self._log.term,
            last=self._last,
        )

    def _status(self) -> ClusterStatus:
        nodes = [NodeStatus(self._settings.name, REPAIRING, os.getpid(), last=self._last)]
        for member, address in self._members.items():
            health = self._heard.get(member) if self._network.connected(member) is not None else None
            role = "unreachable" if health is None else health.role
            nodes.append(NodeStatus(member, role, peer=address, last=None if health is None else health.last))
        leader = next((node.name for node in nodes if node.role == "leader"), None)
        return ClusterStatus(self._cluster, leader, self._log.term, sorted(nodes, key=lambda node: node.name))

    def _metrics(self) -> bytes:
        registry = CollectorRegistry()
        Gauge("raftkv_rotten_entries", "Entries of the log that are being repaired", registry=registry).set(self._repair.missing)
        return generate_latest(registry)
