"""The Python clients on a real cluster whose leaders die: no call fails, and every write happens once."""

from __future__ import annotations

import asyncio
import threading
import time
from functools import partial

import pytest

from raftkv import Unavailable, Uncertain, connect, connect_async
from raftkv.client import AsyncClient, Client
from tests.e2e.cluster import Cluster

INCREMENTS = 10_000
KILLS = 5
WORKERS = 4
"""Threads, and as many tasks."""
REFUSAL_SECONDS = 10.0
"""Two calls of 1.5 s, and what a loaded machine takes."""
BURST = 5
"""Increments of one pipeline; every other time a worker increments singly."""


def url(cluster: Cluster) -> str:
    """Where all nodes take clients."""
    return "raftkv://" + ",".join(map(cluster.address, cluster.names))


class Count:
    """How much has been done of what is to be done, by all workers together."""

    def __init__(self) -> None:
        self.answers: list[int] = []
        self.errors: list[Exception] = []
        self._left = INCREMENTS
        self._lock = threading.Lock()

    def take(self, most: int) -> int:
        """How many increments the next call makes: none when all have been taken."""
        with self._lock:
            taken = min(most, self._left)
            self._left -= taken
            return taken

    def reached(self, least: int) -> bool:
        """Whether so many increments have been answered, or something went wrong."""
        return len(self.answers) >= least or bool(self.errors)

    def done(self, answers: list[int]) -> None:
        """A call has been answered."""
        with self._lock:
            self.answers += answers


def increment(client: Client[bytes], count: Count) -> None:
    """A thread's work: pipelines and single calls in turn."""
    try:
        while taken := count.take(BURST):
            with client.pipeline() as pipeline:
                for _ in range(taken):
                    pipeline.incr("counter")
                count.done(pipeline.execute())
            if count.take(1):
                count.done([client.incr("counter")])
    except Exception as error:
        count.errors.append(error)


async def increment_in_task(client: AsyncClient[bytes], count: Count) -> None:
    """A task's work."""
    while taken := count.take(BURST):
        async with client.pipeline() as pipeline:
            for _ in range(taken):
                pipeline.incr("counter")
            count.done(await pipeline.execute())
        if count.take(1):
            count.done([await client.incr("counter")])


def run_tasks(cluster: Cluster, count: Count) -> None:
    """The tasks of a thread with a loop of its own."""

    async def work() -> None:
        async with connect_async(url(cluster), timeout=30) as client:
            await asyncio.gather(*(increment_in_task(client, count) for _ in range(WORKERS)))

    try:
        asyncio.run(work())
    except Exception as error:
        count.errors.append(error)


def test_ten_thousand_increments_through_five_kills_are_ten_thousand(cluster: Cluster) -> None:
    """Threads and tasks increment one counter while the leader is killed and started again five times: no call raises anything, no two
    increments are answered the same, and the counter ends at exactly their number."""
    count = Count()
    with connect(url(cluster), timeout=30) as client:
        threads = [threading.Thread(target=increment, args=(client, count)) for _ in range(WORKERS)]
        threads.append(threading.Thread(target=run_tasks, args=(cluster, count)))
        for thread in threads:
            thread.start()
        for kill in range(1, KILLS + 1):
            least = INCREMENTS * kill // (KILLS + 2)
            cluster.wait(f"{least} increments, before kill {kill}", partial(count.reached, least))
            leader = cluster.wait_for_leader()
            assert len(count.answers) < INCREMENTS
            cluster.kill(leader)
            cluster.wait_for_leader(but_not=leader)
            cluster.start(leader)
        for thread in threads:
            thread.join(90)
        assert count.errors == []
        assert client.get("counter") == b"%d" % INCREMENTS
    assert sorted(count.answers) == list(range(1, INCREMENTS + 1))


def test_without_a_quorum_the_client_tells_the_truth_in_time(cluster: Cluster) -> None:
    """Two nodes of three are gone: writes and reads end within their deadline with what is true, and go on when one is back."""
    with connect(url(cluster), timeout=1.5) as client:
        client.set("k", "before")
        gone = cluster.followers()
        cluster.kill(*gone)
        began = time.monotonic()
        with pytest.raises((Unavailable, Uncertain)):
            client.set("k", "after")
        with pytest.raises(Unavailable):
            client.get("k")
        assert time.monotonic() - began < REFUSAL_SECONDS
        cluster.start(gone[0])
        assert client.within(30).get("k") in (b"before", b"after")


def test_a_client_outlives_every_node(cluster: Cluster) -> None:
    """All nodes are killed and started again: the same client goes on, and its session is as it was."""
    with connect(url(cluster), timeout=40) as client:
        assert client.incr("n") == 1
        cluster.kill(*cluster.names)
        for name in cluster.names:
            cluster.start(name)
        assert client.incr("n") == 2


def test_a_client_goes_to_the_leader(cluster: Cluster) -> None:
    """Wherever it begins, its connection ends up at the node that leads, which then has one hop less to make."""
    leader = cluster.wait_for_leader()
    for name in cluster.names:
        others = [other for other in cluster.names if other != name]
        with connect("raftkv://" + ",".join(cluster.address(each) for each in (name, *others))) as client:
            client.get("k")
            assert client.execute("INFO", "server").count(b"tcp_port:" + cluster.address(leader).rpartition(":")[2].encode()) == 1
