"""The text of INFO and the reply to ROLE: what Redis's tools expect to find, with Redis's names, and a section of our own.

The leader shows as a master whose connected followers are its replicas; any other node shows as a replica of the leader. Offsets
are indices of the log. A field that would need a number that this node does not have is left out rather than invented.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from msgspec import Struct

from raftkv.kv.replies import Reply
from raftkv.raft.ready import Role
from raftkv.router.ports import NodeFacts, PeerFacts, ReplicaPort

REDIS_VERSION = "7.0.15"
"""The version of Redis whose behaviour this node has."""

_NO_ID = "0" * 40


Fields = Iterator[tuple[str, object]]


class Counts(Struct, frozen=True, kw_only=True):
    """What the router counts: `held` requests that are not answered, `queued` writes without and `in_flight` writes with a sequence
    number, `reads` that wait, bytes of other nodes' groups that wait for a batch, clients `blocked` in a pop, `channels` and
    `patterns` that somebody listens to, and published messages that could not be sent to another node."""

    clients: int
    commands_processed: int
    held: int
    queued: int
    in_flight: int
    reads: int
    forwarded_bytes: int
    refused_frames: int
    blocked: int
    channels: int
    patterns: int
    messages_dropped: int


def human(size: int) -> str:
    """`size` bytes as Redis writes it for people."""
    if size < 1024:
        return f"{size}B"
    value = float(size)
    for unit in "KMGTP":
        value /= 1024
        if value < 1024 or unit == "P":
            break
    return f"{value:.2f}{unit}"


def leader_facts(replica: ReplicaPort, facts: NodeFacts) -> PeerFacts:
    """What is known of the leader, another node or none."""
    for peer in facts.peers:
        if peer.node == replica.leader:
            return peer
    return PeerFacts(node=replica.leader or "")


def connected_peers(facts: NodeFacts) -> list[PeerFacts]:
    """The other nodes that are connected."""
    return [peer for peer in facts.peers if peer.connected]


def role_reply(replica: ReplicaPort, facts: NodeFacts) -> Reply:
    """ROLE, in the shape that Redis has for masters and for replicas."""
    offset = replica.applied_index
    if replica.role is Role.LEADER:
        replicas: list[Reply] = [
            [peer.client_host.encode(), str(peer.client_port).encode(), str(peer.offset).encode()] for peer in connected_peers(facts)
        ]
        return [b"master", offset, replicas]
    leader = leader_facts(replica, facts)
    state = b"connected" if leader.connected else b"connect"
    return [b"slave", leader.client_host.encode(), leader.client_port, state, offset if leader.connected else -1]


def info_text(names: Sequence[bytes], replica: ReplicaPort, facts: NodeFacts, counts: Counts) -> str:
    """The sections that `names` asks for, all of them when it is empty; those that do not exist are left out in silence."""
    sections: dict[str, Callable[[], Fields]] = {
        "server": lambda: _server(facts),
        "clients": lambda: _clients(facts, counts),
        "memory": lambda: _memory(facts),
        "persistence": _persistence,
        "stats": lambda: _stats(facts, counts),
        "replication": lambda: _replication(replica, facts),
        "cpu": lambda: _cpu(facts),
        "modules": lambda: iter(()),
        "errorstats": lambda: iter(()),
        "cluster": lambda: iter([("cluster_enabled", 0)]),
        "keyspace": lambda: _keyspace(facts),
        "raft": lambda: _raft(replica, facts, counts),
    }
    asked = {name.lower().decode("ascii", "replace") for name in names}
    if not asked or asked & {"default", "all", "everything"}:
        asked = set(sections)
    parts = []
    for name, fields in sections.items():
        if name in asked:
            title = "CPU" if name == "cpu" else name.capitalize()
            parts.append(f"# {title}\r\n" + "".join(f"{field}:{value}\r\n" for field, value in fields()))
    return "\r\n".join(parts)


def _server(facts: NodeFacts) -> Fields:
    yield "redis_version", REDIS_VERSION
    yield "raftkv_version", facts.raftkv_version
    yield "redis_mode", "standalone"
    yield "os", facts.os
    yield "arch_bits", 64
    yield "process_id", facts.process_id
    yield "run_id", facts.run_id or _NO_ID
    yield "tcp_port", facts.tcp_port
    yield "server_time_usec", facts.wall_us
    yield "uptime_in_seconds", facts.uptime_seconds
    yield "uptime_in_days", facts.uptime_seconds // 86_400
    yield "executable", facts.executable
    yield "config_file", ""


def _clients(facts: NodeFacts, counts: Counts) -> Fields:
    yield "connected_clients", counts.clients
    yield "cluster_connections", len(connected_peers(facts))
    yield "maxclients", facts.max_clients
    yield "blocked_clients", counts.blocked


def _memory(facts: NodeFacts) -> Fields:
    yield "used_memory", facts.memory_bytes
    yield "used_memory_human", human(facts.memory_bytes)
    yield "used_memory_rss", facts.memory_bytes
    yield "used_memory_rss_human", human(facts.memory_bytes)
    yield "used_memory_peak", facts.memory_peak_bytes
    yield "used_memory_peak_human", human(facts.memory_peak_bytes)
    yield "maxmemory", 0
    yield "maxmemory_human", "0B"
    yield "maxmemory_policy", "noeviction"


def _persistence() -> Fields:
    yield "loading", 0
    yield "async_loading", 0
    yield "rdb_bgsave_in_progress", 0
    yield "rdb_last_bgsave_status", "ok"
    yield "aof_enabled", 1
    yield "aof_last_write_status", "ok"


def _stats(facts: NodeFacts, counts: Counts) -> Fields:
    yield "total_connections_received", facts.connections_received
    yield "total_commands_processed", counts.commands_processed
    yield "rejected_connections", facts.connections_rejected
    yield "evicted_keys", 0
    yield "pubsub_channels", counts.channels
    yield "pubsub_patterns", counts.patterns


def _replication(replica: ReplicaPort, facts: NodeFacts) -> Fields:
    offset = replica.applied_index
    peers = connected_peers(facts)
    leading = replica.role is Role.LEADER
    if leading:
        yield "role", "master"
    else:
        leader = leader_facts(replica, facts)
        yield "role", "slave"
        yield "master_host", leader.client_host
        yield "master_port", leader.client_port
        yield "master_link_status", "up" if leader.connected else "down"
        yield "master_sync_in_progress", 0 if facts.fenced is None else 1
        yield "slave_repl_offset", offset
        yield "slave_priority", 100
        yield "slave_read_only", 0
    yield "connected_slaves", len(peers) if leading else 0
    for number, peer in enumerate(peers if leading else ()):
        lag = 0 if peer.offset >= offset else 1
        yield f"slave{number}", f"ip={peer.client_host},port={peer.client_port},state=online,offset={peer.offset},lag={lag}"
    yield "master_failover_state", "no-failover"
    yield "master_replid", (facts.cluster_id + _NO_ID)[:40]
    yield "master_replid2", _NO_ID
    yield "master_repl_offset", offset
    yield "second_repl_offset", -1


def _cpu(facts: NodeFacts) -> Fields:
    yield "used_cpu_sys", f"{facts.cpu_system_seconds:.6f}"
    yield "used_cpu_user", f"{facts.cpu_user_seconds:.6f}"


def _keyspace(facts: NodeFacts) -> Fields:
    if facts.keys:
        yield "db0", f"keys={facts.keys},expires={facts.keys_with_expiry or 0},avg_ttl=0"


def _raft(replica: ReplicaPort, facts: NodeFacts, counts: Counts) -> Fields:
    machine = replica.machine
    yield "raft_node", replica.node
    yield "raft_cluster", facts.cluster_name
    yield "raft_cluster_id", facts.cluster_id
    yield "raft_role", str(replica.role)
    yield "raft_term", replica.term
    yield "raft_leader", replica.leader or ""
    yield "raft_applied_index", replica.applied_index
    yield "raft_log_clock_ms", machine.clock_ms
    yield "raft_machine_version", machine.machine_version
    yield "raft_log_bytes", facts.log_bytes
    yield "raft_fenced", facts.fenced or ""
    yield "raft_peers_connected", len(connected_peers(facts))
    yield "raft_requests_held", counts.held
    yield "raft_writes_queued", counts.queued
    yield "raft_writes_in_flight", counts.in_flight
    yield "raft_reads_waiting", counts.reads
    yield "raft_forwarded_bytes_waiting", counts.forwarded_bytes
    yield "raft_frames_refused", counts.refused_frames
    yield "raft_messages_dropped", counts.messages_dropped
