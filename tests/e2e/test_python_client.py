"""The Python clients on a real cluster whose leaders die: no call fails, and every write happens once."""

from __future__ import annotations

import asyncio
import threading
from functools import partial

from raftkv import connect, connect_async
from raftkv.client import AsyncClient, Client
from tests.e2e.cluster import Cluster

INCREMENTS = 10_000
KILLS = 5
WORKERS = 4
"""Threads, and as many tasks."""
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
