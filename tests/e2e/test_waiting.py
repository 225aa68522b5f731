"""Clients that wait: for elements of a list, through the death of a leader, and for what is published at another node."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import threading
from collections import Counter

import pytest
from redis.client import PubSub

from tests.e2e.cluster import DEADLINE_SECONDS, Cluster

STOP = "stop"
CONSUMERS_PER_NODE = 2


class Consumer:
    """A client of one node that pops from the queue, and waits where it is empty, until it is told to stop."""

    def __init__(self, cluster: Cluster, node: str) -> None:
        self.popped: list[str] = []
        self.failure: Exception | None = None
        self._client = cluster.redis(node)
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        try:
            while True:
                answer = self._client.blpop(["urgent", "queue"], timeout=30)
                if answer is None:
                    continue
                if answer[1] == STOP:
                    return
                self.popped.append(str(answer[1]))
        except Exception as error:  # it is the test's, whatever it is
            self.failure = error

    def join(self) -> None:
        """Wait for the end."""
        self._thread.join(DEADLINE_SECONDS)
        assert not self._thread.is_alive()


def blocked(cluster: Cluster, node: str) -> int:
    """How many clients of `node` wait."""
    found = cluster.redis(node).info("clients")
    assert isinstance(found, dict)
    return int(found["blocked_clients"])


def test_waiters_survive_a_killed_leader_and_pop_each_item_once(cluster: Cluster) -> None:
    """Consumers wait at the followers when the leader is killed, first in an empty queue and then under load: every item that was pushed
    is popped, and none is popped twice."""
    leader = cluster.wait_for_leader()
    nodes = cluster.followers()
    consumers = [Consumer(cluster, node) for node in nodes for _ in range(CONSUMERS_PER_NODE)]
    cluster.wait("all consumers to wait", lambda: all(blocked(cluster, node) == CONSUMERS_PER_NODE for node in nodes))
    cluster.kill(leader)
    pushed = [str(number) for number in range(400)]
    producer = cluster.redis(nodes[0])
    for number, item in enumerate(pushed):
        producer.rpush("urgent" if number % 7 == 0 else "queue", item)
        if number == 200:
            cluster.start(leader)
            second = cluster.wait_for_leader(but_not=leader)
            assert second in nodes
            cluster.wait_until_equal()
    for _ in consumers:
        producer.rpush("queue", STOP)
    for consumer in consumers:
        consumer.join()
    assert [consumer.failure for consumer in consumers] == [None] * len(consumers)
    assert Counter(item for consumer in consumers for item in consumer.popped) == Counter(pushed)
    assert producer.llen("queue") == producer.llen("urgent") == 0


def test_a_waiter_is_served_while_the_leader_dies(cluster: Cluster) -> None:
    """The leader is killed at once after a push that it has acknowledged; the waiter at a follower gets the element, once."""
    leader = cluster.wait_for_leader()
    [node, other] = cluster.followers()
    consumer = Consumer(cluster, node)
    cluster.wait("the consumer to wait", lambda: blocked(cluster, node) == 1)
    with cluster.connect(leader) as connection:
        assert connection.call("RPUSH", "queue", "only") == 1
        cluster.kill(leader)
    cluster.wait("the element to be popped", lambda: consumer.popped == ["only"])
    cluster.redis(other).rpush("queue", STOP)
    consumer.join()
    assert (consumer.popped, consumer.failure) == (["only"], None)


def test_a_client_that_goes_away_waits_no_longer(cluster: Cluster) -> None:
    """A client that waits for ever and disconnects is noticed at once, and the next element is for another."""
    [node, *_] = cluster.followers()
    host, _, port = cluster.address(node).rpartition(":")
    with socket.create_connection((host, int(port))) as connection:
        connection.sendall(b"BLPOP queue 0\r\n")
        cluster.wait("the client to wait", lambda: blocked(cluster, node) == 1)
    cluster.wait("it to be forgotten", lambda: blocked(cluster, node) == 0)
    client = cluster.redis(node)
    client.rpush("queue", "x")
    assert client.blpop("queue", timeout=5) == ("queue", "x")


@pytest.mark.parametrize("protocol", [2, 3])
def test_what_one_node_publishes_another_delivers_in_order(cluster: Cluster, protocol: int) -> None:
    """A subscriber of one node hears what is published at another: each message once, in the order of the publisher."""
    with PubSub(cluster.redis("n1", protocol=protocol).connection_pool, ignore_subscribe_messages=True) as heard:
        heard.subscribe("news")
        heard.psubscribe("n?ws")
        publisher = cluster.redis("n2")

        def reached() -> bool:
            publisher.publish("news", "start")
            return heard.get_message(timeout=0.1) is not None

        cluster.wait("the nodes to be connected", reached)
        for number in range(300):
            publisher.publish("news", number)
        publisher.publish("news", "end")
        got: list[tuple[str, str]] = []
        while not got or got[-1] != ("pmessage", "end"):
            message = heard.get_message(timeout=DEADLINE_SECONDS)
            assert message is not None
            if message["data"] != "start":
                got.append((message["type"], message["data"]))
    wanted = [*(str(number) for number in range(300)), "end"]
    assert got == [(kind, data) for data in wanted for kind in ("message", "pmessage")]
    assert publisher.pubsub_numsub("news") == [("news", 0)]


@pytest.mark.skipif(shutil.which("redis-cli") is None, reason="redis-cli is not installed")
def test_redis_cli_subscribes(cluster: Cluster) -> None:
    """Redis's own client shows what is published at another node."""
    host, _, port = cluster.address("n1").rpartition(":")
    command = ["redis-cli", "-h", host, "-p", port, "SUBSCRIBE", "news"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert [process.stdout.readline().strip() for _ in range(3)] == ["subscribe", "news", "1"]
            cluster.wait("n1 to be connected to n3", lambda: _connected(cluster))
            cluster.redis("n3").publish("news", "hello")
            assert [process.stdout.readline().strip() for _ in range(3)] == ["message", "news", "hello"]
        finally:
            os.kill(process.pid, signal.SIGTERM)


def _connected(cluster: Cluster) -> bool:
    found = cluster.redis("n3").info("clients")
    assert isinstance(found, dict)
    return int(found["cluster_connections"]) == 2
