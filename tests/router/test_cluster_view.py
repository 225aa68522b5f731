"""CLUSTER: every node shows the same cluster of one shard, with the leader as its master."""

from __future__ import annotations

import re

import pytest

from raftkv.kv.replies import Failure, Reply, Verbatim
from raftkv.raft.ready import Role
from raftkv.router import NodeFacts, PeerFacts
from raftkv.router.cluster_view import node_id, slot_of
from tests.router.stand import Stand

PEERS = (
    PeerFacts(node="n2", client_host="10.0.0.2", client_port=7002, peer_port=8002, connected=True, offset=7),
    PeerFacts(node="n3", client_host="10.0.0.3", client_port=7003, peer_port=8003, connected=False, offset=3),
)
FACTS = NodeFacts(cluster_id="ab" * 16, client_host="10.0.0.1", client_port=7001, peer_port=8001, tcp_port=17001, peers=PEERS)
N1, N2, N3 = (node_id("ab" * 16, node) for node in ("n1", "n2", "n3"))


def stand() -> Stand:
    """A node of three, of which n3 is not connected."""
    made = Stand()
    made.facts = FACTS
    return made


def text(reply: Reply) -> str:
    """A reply that is a text."""
    assert isinstance(reply, Verbatim)
    return reply.text.decode()


def test_ids_are_those_of_redis_in_form() -> None:
    """An id is 40 hexadecimal digits, differs between nodes and clusters, and is the same whoever tells it."""
    assert all(re.fullmatch("[0-9a-f]{40}", one) for one in (N1, N2, N3))
    assert len({N1, N2, N3, node_id("cd" * 16, "n1")}) == 4
    made = stand()
    made.lead()
    assert made.do("CLUSTER MYID") == [N1.encode()]


def test_a_leader_is_the_master_of_all_slots() -> None:
    """At the leader the slots are its own, and the connected nodes are its replicas; NODES and SHARDS show also who is not connected."""
    made = stand()
    made.lead(4)
    (slots, nodes, shards) = made.do("CLUSTER SLOTS", "CLUSTER NODES", "CLUSTER SHARDS")
    assert slots == [[0, 16383, [b"10.0.0.1", 7001, N1.encode(), {}], [b"10.0.0.2", 7002, N2.encode(), {}]]]
    assert text(nodes).splitlines() == [
        f"{N1} 10.0.0.1:7001@8001 myself,master - 0 0 4 connected 0-16383",
        f"{N2} 10.0.0.2:7002@8002 slave {N1} 0 0 4 connected",
        f"{N3} 10.0.0.3:7003@8003 slave {N1} 0 0 4 disconnected",
    ]
    assert isinstance(shards, list)
    assert isinstance(shards[0], dict)
    listed = shards[0][b"nodes"]
    assert isinstance(listed, list)
    assert [(node[b"role"], node[b"health"]) for node in listed if isinstance(node, dict)] == [
        (b"master", b"online"), (b"replica", b"online"), (b"replica", b"failed"),
    ]  # fmt: skip


def test_another_node_shows_the_leader() -> None:
    """At any other node the slots are the leader's too, and it is among the replicas."""
    made = stand()
    made.follow("n2")
    assert made.do("CLUSTER SLOTS") == [[[0, 16383, [b"10.0.0.2", 7002, N2.encode(), {}], [b"10.0.0.1", 7001, N1.encode(), {}]]]]
    replicas = made.do(f"CLUSTER REPLICAS {N2}", f"CLUSTER SLAVES {N1}", "CLUSTER REPLICAS x")
    assert isinstance(replicas[0], list)
    assert len(replicas[0]) == 2
    assert replicas[1:] == [Failure("ERR", "The specified node is not a master"), Failure("ERR", "Unknown node x")]


@pytest.mark.parametrize("leader", [None, "n3", "n9"])
def test_without_a_leader_the_node_itself_takes_commands(leader: str | None) -> None:
    """Where no leader is known, or it cannot be reached, clients are told to stay: the node holds what they ask until there is one. The
    state of the cluster tells it."""
    made = stand()
    made.change(Role.FOLLOWER, leader, 4)
    slots, info = made.do("CLUSTER SLOTS", "CLUSTER INFO")
    assert slots == [[0, 16383, [b"10.0.0.1", 7001, N1.encode(), {}], [b"10.0.0.2", 7002, N2.encode(), {}]]]
    assert "cluster_state:fail\r\n" in text(info)
    made.lead(5)
    assert "cluster_state:ok\r\ncluster_slots_assigned:16384\r\n" in text(made.do("CLUSTER INFO")[0])
    assert "cluster_known_nodes:3\r\ncluster_size:1\r\ncluster_current_epoch:5\r\n" in text(made.do("CLUSTER INFO")[0])


def test_a_node_whose_address_is_not_known_is_no_place_to_go() -> None:
    """What has never connected has no address: it is shown, and nobody is sent there."""
    made = stand()
    made.facts = NodeFacts(tcp_port=7001, peers=(PeerFacts(node="n2", connected=True),))
    made.lead()
    slots, nodes = made.do("CLUSTER SLOTS", "CLUSTER NODES")
    assert slots == [[0, 16383, [b"", 7001, node_id("", "n1").encode(), {}]]]
    assert f"{node_id('', 'n2')} :0@0 slave,noaddr " in text(nodes)


def test_keys_of_a_slot_are_not_counted() -> None:
    """To count or list the keys of a slot would be to visit all keys: it is refused, rather than answered with a guess."""
    made = stand()
    made.lead()
    for reply in made.do("CLUSTER COUNTKEYSINSLOT 7", "CLUSTER GETKEYSINSLOT 7 10"):
        assert isinstance(reply, Failure)
        assert reply.message.startswith("keys are not kept by slot")


def test_what_is_in_braces_is_hashed() -> None:
    """Keys with the same text in braces are in the same slot; empty braces, and such that are not closed, are nothing special."""
    assert slot_of(b"123456789") == 0x31C3
    assert slot_of(b"{user}.a") == slot_of(b"x{user}y{z}") == slot_of(b"user")
    assert slot_of(b"{}a") != slot_of(b"")
    assert slot_of(b"{a") != slot_of(b"a")
