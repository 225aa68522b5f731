"""Programs made for Redis, as they are: what they ask of nodes and of the cluster, and that they live through the loss of a leader."""

from __future__ import annotations

import shutil
import signal
import socket
import subprocess
import sys
import time

import pytest
import redis
from redis.cluster import RedisCluster

from raftkv_cli.resp import Unreachable
from tests.e2e.cluster import Cluster


def cluster_client(cluster: Cluster, name: str) -> RedisCluster:
    """redis-py's client for Redis clusters, which is told of one node."""
    host, _, port = cluster.address(name).rpartition(":")
    return RedisCluster(host=host, port=int(port), decode_responses=True)


def wait_until_connected(cluster: Cluster) -> None:
    """Wait until every node has told every other where its clients go."""

    def connected() -> bool:
        for name in cluster.names:
            with cluster.connect(name) as connection:
                shards = connection.call("CLUSTER", "SLOTS")
                if not isinstance(shards, list) or not isinstance(shards[0], list) or len(shards[0]) < 2 + len(cluster.names):
                    return False
        return True

    cluster.wait("all nodes to know each other's addresses", connected)


def test_a_cluster_client_finds_all_nodes_from_any(cluster: Cluster) -> None:
    """redis-py's RedisCluster starts at any node, takes the leader for the master of all slots, and works; also with several keys at once
    and with reads from replicas."""
    wait_until_connected(cluster)
    leader = cluster.address(cluster.wait_for_leader()).replace("localhost", "127.0.0.1")
    for name in cluster.names:
        with cluster_client(cluster, name) as client:
            assert [node.name for node in client.get_primaries()] == [leader]
            assert len(client.get_nodes()) == 3
            assert client.set(f"of {name}", name) is True
            assert client.get(f"of {name}") == name
            assert client.exists("of n1") == 1
            assert client.cluster_keyslot("{a}b") == client.keyslot("{a}b") == 15495
            assert client.cluster_info(target_nodes=RedisCluster.PRIMARIES)["cluster_state"] == "ok"


def test_a_cluster_client_lives_through_the_loss_of_the_leader(cluster: Cluster) -> None:
    """After the leader was killed the same client goes on, with what was acknowledged before."""
    wait_until_connected(cluster)
    leader = cluster.wait_for_leader()
    with cluster_client(cluster, leader) as client:
        assert client.set("before", "1") is True
        cluster.kill(leader)

        def goes_on() -> bool:
            try:
                return client.set("after", "2") is True
            except (redis.ConnectionError, redis.exceptions.RedisClusterException, redis.ResponseError):
                return False

        cluster.wait("the cluster client to find the new leader", goes_on)
        assert (client.get("before"), client.get("after")) == ("1", "2")
        assert [node.name for node in client.get_primaries()] != [cluster.address(leader)]


def test_wait_counts_the_nodes_that_hold_a_write(cluster: Cluster) -> None:
    """WAIT through any node: a majority has the write at once, all nodes soon, and a node that is stopped does not count."""
    for name in cluster.names:
        client = cluster.redis(name)
        assert client.set("k", name) is True
        assert client.wait(1, 0) in (1, 2)
        assert client.wait(2, 30_000) == 2
    if sys.platform == "win32":
        return
    leader, (follower, _) = cluster.wait_for_leader(), cluster.followers()
    cluster.process(follower).signal(signal.SIGSTOP)
    try:
        client = cluster.redis(leader)
        assert client.set("k", "v") is True
        started = time.monotonic()
        assert client.wait(2, 300) == 1
        assert time.monotonic() - started >= 0.3
    finally:
        cluster.process(follower).signal(signal.SIGCONT)
    assert client.wait(2, 30_000) == 2


def test_redis_py_reads_what_a_node_tells_of_itself(cluster: Cluster) -> None:
    """The replies that redis-py takes apart are such that it can, in RESP2 and RESP3, and they are true."""
    for protocol in (2, 3):
        client = cluster.redis("n1", protocol=protocol)
        info = client.info()
        assert (info["redis_version"], info["cluster_enabled"], info["aof_enabled"]) == ("7.0.15", 1, 1)
        assert client.info("everything")["raft_node"] == "n1"
        client.client_setname("me")
        own = client.client_info()
        assert own["name"] == "me"
        [line] = [line for line in client.client_list() if line["name"] == "me"]
        assert (line["addr"], line["cmd"], line["resp"]) == (own["addr"], "client|list", str(protocol))
        assert int(line["fd"]) > 0
        assert line["laddr"] == cluster.address("n1").replace("localhost", "127.0.0.1")
        assert client.config_get("maxmemory-policy", "appendfsync") == {"maxmemory-policy": "noeviction", "appendfsync": "always"}
        assert abs(client.time()[0] - time.time()) < 60
        assert client.set("k", "12") is True
        assert client.object("encoding", "k") == "int"
        assert client.command_count() == len(client.command())
        assert client.acl_whoami() == "default"
        assert client.slowlog_len() == 0
        with pytest.raises(redis.ResponseError, match="every acknowledged write is on the disks"):
            client.bgsave()


def test_a_client_is_disconnected_by_another(cluster: Cluster) -> None:
    """CLIENT KILL ends the connection of the other client, which sees it end."""
    with cluster.connect("n1") as one, cluster.connect("n1") as two:
        number: object = two.call("CLIENT", "ID")
        assert one.call("CLIENT", "KILL", "ID", str(number)) == 1
        with pytest.raises(Unreachable):
            two.call("PING")
        assert one.call("PING") == b"PONG"


def test_a_client_that_wants_no_replies_gets_none(cluster: Cluster) -> None:
    """Between CLIENT REPLY OFF and ON nothing is sent, and everything happens; DEBUG SLEEP delays what comes after it."""
    host, _, port = cluster.address("n1").rpartition(":")
    with socket.create_connection((host, int(port)), timeout=30) as connection:
        started = time.monotonic()
        connection.sendall(b"PING\r\nCLIENT REPLY OFF\r\nSET k quiet\r\nDEBUG SLEEP 0.3\r\nNOSUCH\r\nCLIENT REPLY ON\r\nGET k\r\n")
        answer = b""
        while not answer.endswith(b"quiet\r\n"):
            data = connection.recv(4096)
            assert data
            answer += data
    assert answer == b"+PONG\r\n+OK\r\n$5\r\nquiet\r\n"
    assert time.monotonic() - started >= 0.3


@pytest.mark.skipif(shutil.which("redis-cli") is None, reason="redis-cli is not installed")
def test_redis_cli_takes_the_nodes_for_a_cluster(cluster: Cluster) -> None:
    """redis-cli -c works through any node, its check of clusters is content, and it shows the help of a container."""
    wait_until_connected(cluster)
    for name in cluster.names:
        host, _, port = cluster.address(name).rpartition(":")

        def run(*command: str, host: str = host, port: str = port) -> str:
            return subprocess.run(
                ["redis-cli", "-h", host, "-p", port, *command], capture_output=True, text=True, timeout=60, check=True
            ).stdout  # fmt: skip

        assert run("-c", "set", "k", name) == "OK\n"
        assert run("-c", "get", "k") == f"{name}\n"
        checked = run("--cluster", "check", f"{host}:{port}")
        assert "All 16384 slots covered" in checked
        assert "2 additional replica(s)" in checked
        assert "SETNAME <name>" in run("client", "help")


@pytest.mark.skipif(shutil.which("redis-benchmark") is None, reason="redis-benchmark is not installed")
def test_redis_benchmark_measures_a_node(cluster: Cluster) -> None:
    """redis-benchmark asks for what it asks of Redis, and runs."""
    host, _, port = cluster.address("n2").rpartition(":")
    done = subprocess.run(
        ["redis-benchmark", "-h", host, "-p", port, "-n", "200", "-c", "4", "-t", "ping,set,get,incr", "--csv"],
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    assert {line.split(",")[0] for line in done.stdout.splitlines()} >= {'"SET"', '"GET"', '"INCR"'}
    assert "ERR" not in done.stdout + done.stderr
