"""CLUSTER: this cluster as a Redis cluster of one shard. The leader is the master of all slots, and the other nodes are its replicas.

So a client that speaks to Redis clusters finds all nodes from any one, and sends its commands to the leader. When it is behind the times
nothing is lost: any node takes any command, and none answers MOVED. Where no leader can be reached the node that is asked calls itself the
master, for it takes commands and holds them until there is one.
"""

from __future__ import annotations

import binascii
import hashlib
from collections.abc import Callable, Sequence
from typing import Final

from msgspec import Struct

from raftkv.kv.arguments import integer, printable
from raftkv.kv.replies import Reply, Verbatim, fail
from raftkv.raft.types import Index
from raftkv.router.connection import Connection, Handler
from raftkv.router.ports import NodeFacts, PeerFacts, ReplicaPort

SLOTS: Final = 16384

_BY_SLOT: Final = "keys are not kept by slot here, and cannot be counted without a visit of all of them"


class Member(Struct, frozen=True, kw_only=True):
    """A node as Redis shows it."""

    id: str
    host: str
    port: int
    peer_port: int
    master: bool
    myself: bool
    connected: bool
    offset: Index

    @property
    def reachable(self) -> bool:
        """Whether clients can be told to go there."""
        return self.myself or (self.connected and bool(self.port))


def slot_of(key: bytes) -> int:
    """The slot of `key` by the rule of Redis clusters: of what is between the first { and the } after it, unless that is nothing."""
    start = key.find(b"{")
    end = key.find(b"}", start + 1) if start >= 0 else -1
    hashed = key[start + 1 : end] if end > start + 1 else key
    return binascii.crc_hqx(hashed, 0) % SLOTS


def node_id(cluster_id: str, node: str) -> str:
    """The id of a node in Redis's form, 40 hexadecimal digits: the same wherever and whenever it is asked."""
    return hashlib.sha256(f"{cluster_id}/{node}".encode()).hexdigest()[:40]


class ClusterView:
    """Executes CLUSTER.

    Args:
        replica: tells who leads.
        facts: tells what the server knows of the nodes.
    """

    def __init__(self, replica: ReplicaPort, facts: Callable[[], NodeFacts]) -> None:
        self._replica = replica
        self._facts = facts
        self.handlers: dict[str, Handler] = {
            "cluster|countkeysinslot": self._count_keys,
            "cluster|getkeysinslot": self._get_keys,
            "cluster|info": self._info,
            "cluster|keyslot": lambda connection, args: slot_of(args[0]),
            "cluster|myid": lambda connection, args: self._id_of(replica.node).encode(),
            "cluster|nodes": self._nodes,
            "cluster|replicas": self._replicas,
            "cluster|shards": self._shards,
            "cluster|slaves": self._replicas,
            "cluster|slots": self._slots,
        }

    def _id_of(self, node: str) -> str:
        return node_id(self._facts().cluster_id, node)

    def _leader(self, facts: NodeFacts) -> str | None:
        """The leader, if this node knows one and can reach it."""
        leader = self._replica.leader
        reachable = leader == self._replica.node or any(peer.node == leader and peer.connected for peer in facts.peers)
        return leader if reachable else None

    def _members(self) -> list[Member]:
        """All nodes, this one first."""
        facts = self._facts()
        own = self._replica.node
        master = self._leader(facts) or own
        myself = PeerFacts(
            node=own,
            client_host=facts.client_host,
            client_port=facts.client_port or facts.tcp_port,
            peer_port=facts.peer_port,
            connected=True,
            offset=self._replica.applied_index,
        )
        return [
            Member(
                id=node_id(facts.cluster_id, peer.node),
                host=peer.client_host,
                port=peer.client_port,
                peer_port=peer.peer_port,
                master=peer.node == master,
                myself=peer.node == own,
                connected=peer.connected,
                offset=peer.offset,
            )
            for peer in (myself, *sorted(facts.peers, key=lambda peer: peer.node))
        ]

    def _in_order(self) -> list[Member]:
        """Those that clients can be told to go to, and the master in any case, first."""
        members = [member for member in self._members() if member.reachable or member.master]
        return sorted(members, key=lambda member: not member.master)

    def _info(self, connection: Connection, args: Sequence[bytes]) -> Reply:
        term, facts = self._replica.term, self._facts()
        fields = {
            "cluster_state": "fail" if self._leader(facts) is None else "ok",
            "cluster_slots_assigned": SLOTS,
            "cluster_slots_ok": SLOTS,
            "cluster_slots_pfail": 0,
            "cluster_slots_fail": 0,
            "cluster_known_nodes": len(facts.peers) + 1,
            "cluster_size": 1,
            "cluster_current_epoch": term,
            "cluster_my_epoch": term,
        }
        return Verbatim("".join(f"{name}:{value}\r\n" for name, value in fields.items()).encode())

    def _line(self, member: Member, master: Member) -> str:
        flags = ("myself," if member.myself else "") + ("master" if member.master else "slave")
        return " ".join(
            (
                member.id,
                f"{member.host}:{member.port}@{member.peer_port}",
                flags if member.port or member.myself else f"{flags},noaddr",
                "-" if member.master else master.id,
                "0",
                "0",
                str(self._replica.term),
                "connected" if member.connected else "disconnected",
                *([f"0-{SLOTS - 1}"] if member.master else []),
            )
        )

    def _nodes(self, connection: Connection, args: Sequence[bytes]) -> Reply:
        members = self._members()
        master = next(member for member in members if member.master)
        return Verbatim("".join(f"{self._line(member, master)}\n" for member in members).encode())

    def _replicas(self, connection: Connection, args: Sequence[bytes]) -> Reply:
        members = self._members()
        asked = next((member for member in members if member.id.encode() == args[0]), None)
        if asked is None:
            fail(f"Unknown node {printable(args[0])}")
        if not asked.master:
            fail("The specified node is not a master")
        return [self._line(member, asked).encode() for member in members if member is not asked]

    def _slots(self, connection: Connection, args: Sequence[bytes]) -> Reply:
        nodes: list[Reply] = [[member.host.encode(), member.port, member.id.encode(), {}] for member in self._in_order()]
        return [[0, SLOTS - 1, *nodes]]

    def _shards(self, connection: Connection, args: Sequence[bytes]) -> Reply:
        nodes: list[Reply] = [
            {
                b"id": member.id.encode(),
                b"port": member.port,
                b"ip": member.host.encode(),
                b"endpoint": member.host.encode(),
                b"role": b"master" if member.master else b"replica",
                b"replication-offset": member.offset,
                b"health": b"online" if member.connected else b"failed",
            }
            for member in sorted(self._members(), key=lambda member: not member.master)
        ]
        return [{b"slots": [0, SLOTS - 1], b"nodes": nodes}]

    def _count_keys(self, connection: Connection, args: Sequence[bytes]) -> Reply:
        if not 0 <= integer(args[0]) < SLOTS:
            fail("Invalid slot")
        fail(_BY_SLOT)

    def _get_keys(self, connection: Connection, args: Sequence[bytes]) -> Reply:
        slot, count = integer(args[0]), integer(args[1])
        if not 0 <= slot < SLOTS or count < 0:
            fail("Invalid slot or number of keys")
        fail(_BY_SLOT)
