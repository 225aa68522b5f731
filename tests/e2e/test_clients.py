"""What Redis clients see of a healthy cluster: any client, any node, one order."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess

import pytest
import redis

from raftkv_cli.resp import ErrorReply
from tests.e2e.cluster import Cluster


def test_what_one_node_took_every_node_answers(cluster: Cluster) -> None:
    """A value set through any node is read through any node, at once: reads are linearizable by default."""
    for writer in cluster.names:
        assert cluster.redis(writer).set(f"key of {writer}", f"value of {writer}") is True
        for reader in cluster.names:
            assert cluster.redis(reader).get(f"key of {writer}") == f"value of {writer}"


def test_all_nodes_come_to_the_same_state(cluster: Cluster) -> None:
    """After writes through all nodes, all have applied the same entries with the same digest, and hold the values themselves."""
    for number in range(30):
        cluster.redis(cluster.names[number % 3]).set(f"k{number}", number)
    cluster.wait_until_equal()
    assert [cluster.read_locally(name, "k29") for name in cluster.names] == [b"29"] * 3


def test_a_pipeline_through_a_follower_keeps_its_order(cluster: Cluster) -> None:
    """Writes and reads sent at once to a node that must forward them take effect, and are answered, in the order they were sent."""
    [follower, *_] = cluster.followers()
    with cluster.connect(follower) as connection:
        commands: list[tuple[str, ...]] = []
        expected: list[object] = []
        for number in range(400):
            commands += [("INCR", "counter"), ("GET", "counter"), ("SET", "last", str(number)), ("GET", "last")]
            expected += [number + 1, b"%d" % (number + 1), b"OK", b"%d" % number]
        assert connection.pipeline([*commands]) == expected


def test_an_error_in_a_pipeline_is_answered_in_its_place(cluster: Cluster) -> None:
    """Wrong commands between right ones are refused in Redis's words, and the right ones happen."""
    [follower, *_] = cluster.followers()
    with cluster.connect(follower) as connection:
        connection.call("SET", "text", "abc")
        answers = connection.pipeline([("SET", "a", "1"), ("NOSUCH", "x"), ("INCR", "text"), ("GET",), ("INCR", "a")])
    assert (answers[0], answers[4]) == (b"OK", 2)
    texts = [str(answer) for answer in answers[1:4]]
    assert all(isinstance(answer, ErrorReply) for answer in answers[1:4])
    assert texts[0].startswith("ERR unknown command 'NOSUCH'")
    assert texts[1] == "ERR value is not an integer or out of range"
    assert texts[2] == "ERR wrong number of arguments for 'get' command"


def test_resp3_is_spoken_to_those_who_ask(cluster: Cluster) -> None:
    """HELLO 3 switches a connection to RESP3, which redis-py then uses for everything."""
    client = cluster.redis("n1", protocol=3)
    assert client.set("k", "v") is True
    assert client.get("k") == "v"
    assert client.get("nothing") is None
    with cluster.connect("n1") as connection:
        hello: object = connection.call("HELLO", "3")
        assert isinstance(hello, dict)
        assert hello[b"proto"] == 3


def test_a_large_value_goes_through_every_node(cluster: Cluster) -> None:
    """A value of a megabyte, larger than a frame between nodes, is stored and read through any node."""
    value = "0123456789abcdef" * 65536
    for name in cluster.names:
        assert cluster.redis(name).set("large", value) is True
        assert cluster.redis(name).get("large") == value


def test_a_key_expires_on_every_node(cluster: Cluster) -> None:
    """A key with a time to live is gone through every node after it, though nobody writes."""
    [follower, *_] = cluster.followers()
    cluster.redis(follower).set("short", "1", px=200)
    cluster.wait("the key to expire", lambda: cluster.redis("n1").get("short") is None)
    cluster.wait("it to be gone from every node's own state", lambda: not any(cluster.read_locally(n, "short") for n in cluster.names))


@pytest.mark.skipif(shutil.which("redis-cli") is None, reason="redis-cli is not installed")
def test_redis_cli_works(cluster: Cluster) -> None:
    """redis-cli sets and gets through any node, as with Redis."""
    for name in cluster.names:
        host, _, port = cluster.address(name).rpartition(":")
        for command, answer in ((["SET", "greeting", name], "OK"), (["GET", "greeting"], name), (["PING"], "PONG")):
            done = subprocess.run(
                ["redis-cli", "-h", host, "-p", port, *command], capture_output=True, text=True, timeout=60, check=True
            )  # fmt: skip
            assert done.stdout.strip() == answer


def test_a_client_that_hangs_up_disturbs_nobody(cluster: Cluster) -> None:
    """Connections that end in the middle of a request or with answers unread leave the node as it was."""
    for _ in range(20):
        host, _, port = cluster.address("n1").rpartition(":")
        with socket.create_connection((host, int(port)), timeout=10) as half:
            half.sendall(b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$100\r\nabc")
        with socket.create_connection((host, int(port)), timeout=10) as deaf:
            deaf.sendall(b"*2\r\n$3\r\nGET\r\n$1\r\nk\r\n" * 100)
    assert cluster.redis("n1").set("k", "v") is True
    assert len(cluster.running()) == 3


GARBAGE = [
    b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    b"*200000000\r\n",
    b"*1\r\n$999999999999\r\n",
    b"*-5\r\n$-9\r\n\r\n\r\n",
    b"\xff" * 5000,
    b"\x00" * 5000,
    b"A" * 300_000,
]


def test_garbage_on_any_port_is_refused_and_does_no_harm(cluster: Cluster) -> None:
    """Bytes that are no protocol, on the ports for clients, peers and administration, close their connection and nothing else."""
    leader = cluster.wait_for_leader()
    before = cluster.status()
    for spec in cluster.nodes.specs:
        for address in (spec.client, spec.peer, spec.admin):
            for garbage in [*GARBAGE, os.urandom(4096)]:
                host, _, port = address.rpartition(":")
                with socket.create_connection((host, int(port)), timeout=10) as connection:
                    _send_and_hang_up(connection, garbage)
    assert len(cluster.running()) == 3
    after = cluster.status()
    assert before is not None
    assert after is not None
    assert (after.leader, after.term) == (leader, before.term)
    assert cluster.redis(leader).set("k", "still here") is True


def _send_and_hang_up(connection: socket.socket, data: bytes) -> None:
    """Send `data`, say that no more comes, and read what is answered until the other side closes. It may close at any time."""
    try:
        connection.sendall(data)
        connection.shutdown(socket.SHUT_WR)
        connection.settimeout(10)
        while connection.recv(65536):
            continue
    except (ConnectionResetError, BrokenPipeError, OSError) as error:
        if isinstance(error, TimeoutError):
            raise


def test_a_node_refuses_what_is_too_large_and_goes_on(cluster: Cluster) -> None:
    """A request beyond the limits is refused in words, and the node serves on."""
    client = cluster.redis("n1")
    with pytest.raises(redis.RedisError):
        client.set("k", "x" * (32 << 20))
    assert cluster.redis("n1").set("k", "v") is True
