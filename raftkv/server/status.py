"""What a node tells about itself and the others: to its peers (`Health`), to clients (INFO, ROLE), to operators (status, metrics).

Everything is read when it is asked for; nothing here changes anything. What is told of another node is what the process of it that is
connected now has said: before its first word nothing is known.
"""

from __future__ import annotations

import os
import platform
import sys
import time

import msgspec
from msgspec import Struct, structs
from prometheus_client import CollectorRegistry, Gauge, generate_latest

from raftkv import __version__
from raftkv.codec.peer import Health
from raftkv.kv.digest import Pair
from raftkv.raft.ready import Role
from raftkv.raft.types import Index, NodeId
from raftkv.replica import Replica
from raftkv.router.info import Counts
from raftkv.router.ports import NodeFacts, PeerFacts
from raftkv.server.clients import BACKLOG, KEEP_ALIVE_SECONDS, ClientServer
from raftkv.server.peers import PeerNetwork
from raftkv.server.settings import NodeSettings
from raftkv.storage.identity import Identity
from raftkv.storage.wal import Wal
from raftkv.storage.writer import LogThread

REPAIRING = "repairing"
"""The role that a node tells whose log is being repaired: its core does not run."""
TELL_AGAIN_MS = 1_000
"""How often a node tells what has not changed: its clock goes with it."""


class NodeStatus(Struct, frozen=True):
    """One node of the cluster, as the node that was asked sees it. `lag` is how many committed entries it has not applied."""

    name: NodeId
    role: str
    pid: int | None = None
    client: str | None = None
    peer: str | None = None
    last: Index | None = None
    committed: Index | None = None
    applied: Index | None = None
    digest: str | None = None
    lag: int | None = None


class ClusterStatus(Struct, frozen=True):
    """The whole cluster."""

    cluster: str
    leader: NodeId | None
    term: int
    nodes: list[NodeStatus]


class Reporter:
    """Answers for one node.

    Args:
        settings: the node's settings.
        identity: who it is.
        wal: its log.
    """

    def __init__(self, settings: NodeSettings, identity: Identity, wal: Wal) -> None:
        self._settings = settings
        self._identity = identity
        self._wal = wal
        self._started = time.monotonic()
        self._heard: dict[NodeId, Health] = {}
        self._told: dict[NodeId, tuple[Health, int]] = {}
        self._metrics = _Metrics()

    def attach(self, replica: Replica, network: PeerNetwork, clients: ClientServer, log: LogThread) -> None:
        """Name the parts that exist only later."""
        self._replica = replica
        self._network = network
        self._clients = clients
        self._log = log

    def heard(self, node: NodeId, health: Health) -> None:
        """Another node told its health."""
        self._heard[node] = health

    def forget(self, node: NodeId) -> None:
        """The connection to `node` broke, or a process of it has connected: what was heard may have been said by another one."""
        self._heard.pop(node, None)
        self._told.pop(node, None)

    def is_news(self, node: NodeId, health: Health, now_ms: int) -> bool:
        """Whether `node` has to be told `health`: it differs from what it was told last, or that was long ago. To wake every node for
        every other at every heartbeat is a large part of what an idle cluster costs."""
        facts = structs.replace(health, wall_ms=0)
        told, when_ms = self._told.get(node, (None, 0))
        if told == facts and now_ms - when_ms < TELL_AGAIN_MS:
            return False
        self._told[node] = facts, now_ms
        return True

    def health(self, digests: tuple[Pair, ...]) -> Health:
        """What this node tells the others."""
        replica, raft = self._replica, self._replica.raft
        return Health(
            digests=digests,
            wall_ms=time.time_ns() // 1_000_000,
            applied=replica.applied_index,
            fenced=raft.fenced,
            client_address=str(self._settings.client_address),
            machine_version=replica.machine.machine_version,
            peer_address=str(self._settings.peer_address),
            process_id=os.getpid(),
            role=str(raft.role),
            term=raft.term,
            last=raft.last_index,
            committed=raft.committed,
            refusing_writes=replica.out_of_space or "",
        )

    def status(self) -> ClusterStatus:
        """The whole cluster as this node sees it."""
        replica, raft = self._replica, self._replica.raft
        nodes = []
        for member in raft.configuration.members:
            if member.id == self._identity.node:
                nodes.append(self._status_of(member.id, self.health(((replica.applied_index, replica.machine.digest),))))
            else:
                connected = self._network.connected(member.id) is not None
                health = self._heard.get(member.id) if connected else None
                nodes.append(
                    NodeStatus(member.id, "unreachable", peer=member.peer_address) if health is None else self._status_of(member.id, health)
                )
        return ClusterStatus(self._identity.cluster_name, raft.leader, raft.term, nodes)

    def _status_of(self, node: NodeId, health: Health) -> NodeStatus:
        newest = health.digests[-1] if health.digests else None
        applied = newest[0] if newest is not None else health.applied
        committed = max(health.committed, self._replica.raft.committed)
        return NodeStatus(
            name=node,
            role="fenced" if health.fenced is not None and health.role != REPAIRING else health.role,
            pid=health.process_id,
            client=health.client_address,
            peer=health.peer_address,
            last=health.last,
            committed=health.committed,
            applied=applied,
            digest=newest[1].hex() if newest is not None else None,
            lag=max(0, committed - applied),
        )

    def status_json(self) -> bytes:
        """`status` as JSON."""
        return msgspec.json.encode(self.status())

    def facts(self) -> NodeFacts:
        """What INFO and ROLE tell."""
        usage = _usage()
        settings = self._settings
        return NodeFacts(
            raftkv_version=__version__,
            cluster_name=self._identity.cluster_name,
            cluster_id=self._identity.cluster_id.hex(),
            run_id=f"{self._identity.incarnation:016x}{os.getpid():024x}",
            os=f"{platform.system()} {platform.release()} {platform.machine()}",
            executable=sys.executable,
            process_id=os.getpid(),
            client_host=settings.client_address.host,
            client_port=settings.client_address.port,
            peer_port=settings.peer_address.port,
            bound=settings.client.host,
            tcp_port=settings.client.port,
            tcp_backlog=BACKLOG,
            keep_alive_seconds=KEEP_ALIVE_SECONDS,
            max_bulk_bytes=self._clients.request_limits.max_bulk_bytes,
            max_request_bytes=settings.limits.max_request_bytes,
            data_dir=str(settings.data_dir),
            log_level=settings.log_level,
            uptime_seconds=int(time.monotonic() - self._started),
            wall_us=time.time_ns() // 1000,
            max_clients=settings.limits.max_connections,
            connections_received=self._clients.connections_received,
            connections_rejected=self._clients.connections_rejected,
            memory_bytes=_resident_bytes(),
            memory_peak_bytes=usage[0],
            cpu_user_seconds=usage[1],
            cpu_system_seconds=usage[2],
            log_bytes=self._wal.size_bytes,
            fenced=self._replica.raft.fenced,
            peers=tuple(self._peer_facts(peer) for peer in self._replica.raft.view.nodes if peer != self._identity.node),
        )

    def _peer_facts(self, peer: NodeId) -> PeerFacts:
        hello = self._network.connected(peer)
        health = self._heard.get(peer)
        address = hello.client_address if hello is not None else health.client_address if health is not None else ""
        host, _, port = address.rpartition(":")
        peer_port = (hello.peer_address if hello is not None else health.peer_address if health is not None else "").rpartition(":")[2]
        progress = self._replica.raft.progress().get(peer)
        offset = progress.match if progress is not None else health.last if health is not None else 0
        return PeerFacts(
            node=peer,
            client_host=host.strip("[]"),
            client_port=int(port) if port.isdecimal() else 0,
            peer_port=int(peer_port) if peer_port.isdecimal() else 0,
            connected=hello is not None,
            offset=offset,
        )

    def metrics(self, counts: Counts) -> bytes:
        """Everything as Prometheus text."""
        return self._metrics.render(self._replica, self._wal, self._log, self._clients, self._network, counts)


class _Metrics:
    """The node's own registry: the library's global one belongs to whoever embeds a node."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._gauges: dict[str, Gauge] = {}

    def render(
        self, replica: Replica, wal: Wal, log: LogThread, clients: ClientServer, network: PeerNetwork, counts: Counts
    ) -> bytes:
        raft = replica.raft
        values: dict[str, tuple[str, float]] = {
            "raftkv_term": ("The term of the node", raft.term),
            "raftkv_is_leader": ("1 on the leader", raft.role is Role.LEADER),
            "raftkv_has_leader": ("1 while the node knows a leader", raft.leader is not None),
            "raftkv_last_index": ("The newest entry of the log", raft.last_index),
            "raftkv_committed_index": ("The newest entry known to be committed", raft.committed),
            "raftkv_applied_index": ("The newest entry that the state machine holds", replica.applied_index),
            "raftkv_persisted_index": ("The newest durable entry", raft.persisted_index),
            "raftkv_fenced": ("1 while the state is being rebuilt", raft.fenced is not None),
            "raftkv_suspect": ("1 while acknowledged entries may be missing", raft.suspect is not None),
            "raftkv_disk_full": ("1 while writes are refused for want of disk space", replica.out_of_space is not None),
            "raftkv_log_bytes": ("Bytes of log on disk", wal.size_bytes),
            "raftkv_log_backlog_bytes": ("Bytes that wait to be written to the log", log.backlog_bytes),
            "raftkv_log_last_fsync_seconds": ("How long the last write of the log took", log.last_fsync_seconds),
            "raftkv_log_fsync_age_seconds": ("How long the running write of the log has taken so far", log.fsync_age_seconds),
            "raftkv_clients": ("Connected clients", clients.connected),
            "raftkv_client_connections": ("Clients that have connected since the start", clients.connections_received),
            "raftkv_client_connections_rejected": ("Clients rejected since the start", clients.connections_rejected),
            "raftkv_client_protocol_errors": ("Clients that stopped speaking RESP, since the start", clients.protocol_errors),
            "raftkv_commands": ("Commands answered since the start", counts.commands_processed),
            "raftkv_requests_held": ("Requests that wait for their answer", counts.held),
            "raftkv_writes_in_flight": ("Writes on their way through the log", counts.in_flight),
            "raftkv_peer_refusals": ("Connections between nodes that were refused", network.refusals),
            "raftkv_messages_dropped": ("Messages of peers that made no sense", sum(raft.dropped.values())),
            "raftkv_resident_bytes": ("Resident memory of the process", _resident_bytes()),
        }
        for name, (text, value) in values.items():
            gauge = self._gauges.get(name)
            if gauge is None:
                gauge = self._gauges[name] = Gauge(name, text, registry=self._registry)
            gauge.set(float(value))
        return generate_latest(self._registry)


def _usage() -> tuple[int, float, float]:
    """Peak memory in bytes, and processor seconds of the process in user and system mode."""
    if sys.platform == "win32":
        times = os.times()
        return 0, times.user, times.system
    import resource

    usage = resource.getrusage(resource.RUSAGE_SELF)
    scale = 1 if sys.platform == "darwin" else 1024
    return usage.ru_maxrss * scale, usage.ru_utime, usage.ru_stime


def _resident_bytes() -> int:
    """Resident memory now where the system tells easily, else the peak."""
    if sys.platform != "linux":
        return _usage()[0]
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
