"""Transactions of redis-py, and its locks, while leaders die: what was acknowledged is there, once, and nothing was done by halves."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from typing import cast

import pytest
import redis
from redis.exceptions import LockError, LockNotOwnedError

from raftkv_cli.waiting import wait_until
from tests.e2e.cluster import DEADLINE_SECONDS, Cluster

ACCOUNTS = [f"account:{number}" for number in range(5)]
BEGINNING = 100


class Transfers:
    """A client that moves money between accounts at random, watching both, and remembers what was acknowledged. It goes on, at another
    node, after every error."""

    def __init__(self, cluster: Cluster, number: int) -> None:
        self.acknowledged: list[str] = []
        self.uncertain: list[str] = []
        self.conflicts = 0
        self.failure: BaseException | None = None
        self._cluster = cluster
        self.name = f"client{number}"
        self._rng = random.Random(number)
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Transfers:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._ended.set()
        self._thread.join(DEADLINE_SECONDS)

    def _run(self) -> None:
        try:
            count = 0
            while not self._ended.is_set():
                client = self._cluster.redis(self._rng.choice(self._cluster.running()))
                try:
                    while not self._ended.is_set():
                        count += 1
                        self._transfer(client, f"{self.name}:{count}")
                except (redis.ConnectionError, redis.TimeoutError, redis.ResponseError, redis.WatchError):
                    self._ended.wait(0.05)
                finally:
                    client.close()
        except BaseException as error:
            self.failure = error

    def _transfer(self, client: redis.Redis, transfer: str) -> None:
        giver, taker = self._rng.sample(ACCOUNTS, 2)
        with client.pipeline(transaction=True) as pipe:
            pipe.watch(giver, taker)  # type: ignore[no-untyped-call]
            balance = int(cast("str", pipe.get(giver)))
            other = int(cast("str", pipe.get(taker)))
            amount = self._rng.randint(0, balance)
            pipe.multi()
            pipe.set(giver, balance - amount)
            pipe.set(taker, other + amount)
            pipe.set(f"transfer:{transfer}", amount)
            try:
                replies = pipe.execute()
            except redis.WatchError as error:
                if "occurred" in str(error):  # what redis-py makes of a connection that breaks while keys are watched
                    self.uncertain.append(transfer)
                    raise redis.ConnectionError from error
                self.conflicts += 1
                return
            except (redis.ConnectionError, redis.TimeoutError):
                self.uncertain.append(transfer)
                raise
            except redis.ResponseError as error:
                if str(error).startswith("UNCERTAIN"):
                    self.uncertain.append(transfer)
                raise
        assert replies == [True, True, True]
        self.acknowledged.append(transfer)


def test_money_is_neither_made_nor_lost_while_leaders_die(cluster: Cluster) -> None:
    """Clients at all nodes transfer money with WATCH, MULTI and EXEC; the leader is killed twice. The sum never changes, every
    acknowledged transfer is there, and only those are there that may be."""
    for account in ACCOUNTS:
        cluster.redis("n1").set(account, BEGINNING)
    clients = [Transfers(cluster, number) for number in range(3)]

    def more(count: int) -> None:
        goals = [len(client.acknowledged) + count for client in clients]
        cluster.wait(
            f"{count} more transfers by each client",
            lambda: all(len(client.acknowledged) >= goal or client.failure for client, goal in zip(clients, goals, strict=True)),
        )

    with clients[0], clients[1], clients[2]:
        for _ in range(2):
            more(30)
            leader = cluster.wait_for_leader()
            cluster.kill(leader)
            cluster.wait_for_leader(but_not=leader)
            more(30)
            check_sum(cluster)
            cluster.start(leader)
    assert [client.failure for client in clients] == [None] * 3
    check_sum(cluster)
    client = cluster.redis(cluster.wait_for_leader())
    for each in clients:
        assert all(client.exists(f"transfer:{transfer}") for transfer in each.acknowledged)
        attempted = {*each.acknowledged, *each.uncertain}
        found = cast("list[str]", list(client.scan_iter(f"transfer:{each.name}:*")))
        assert {*found} <= {f"transfer:{transfer}" for transfer in attempted}
    assert sum(each.conflicts for each in clients) > 0
    cluster.wait_until_equal()


def check_sum(cluster: Cluster) -> None:
    """All accounts together hold what they held in the beginning, read in one transaction."""
    pipe = cluster.redis(cluster.wait_for_leader()).pipeline(transaction=True)
    for account in ACCOUNTS:
        pipe.get(account)
    assert sum(map(int, pipe.execute())) == BEGINNING * len(ACCOUNTS)


def test_a_pipeline_of_ten_thousand_is_one_transaction(cluster: Cluster) -> None:
    """redis-py makes a transaction of a pipeline unless told otherwise; through a follower, all of it is done, and seen at once."""
    [follower, *_] = cluster.followers()
    pipe = cluster.redis(follower).pipeline()
    for _ in range(10_000):
        pipe.incr("n")
    assert pipe.execute() == [*range(1, 10_001)]


def test_a_transaction_on_its_way_through_a_leader_kill_happens_once(cluster: Cluster) -> None:
    """A node that forwards a transaction sends it again to the next leader, and its client is answered as if nothing had been."""
    leader = cluster.wait_for_leader()
    [follower, *_] = cluster.followers()
    answers: list[object] = []

    def increment() -> None:
        client = cluster.redis(follower)
        while len(answers) < 150:
            pipe = client.pipeline(transaction=True)
            pipe.incr("n")
            pipe.incr("n")
            pipe.get("n")
            answers.append(pipe.execute())

    thread = threading.Thread(target=increment)
    thread.start()
    cluster.wait("transactions to be under way", lambda: len(answers) > 30)
    cluster.kill(leader)
    thread.join(60)
    assert answers == [[2 * number - 1, 2 * number, str(2 * number)] for number in range(1, 151)]


# Locks.


def test_a_lock_of_redis_py_is_acquired_extended_and_released(cluster: Cluster) -> None:
    """Through different nodes, by its owner only, and it can be acquired again."""
    one, other = (cluster.redis(name) for name in cluster.names[:2])
    lock = one.lock("lock", timeout=30)
    assert lock.acquire(blocking=False)
    assert lock.owned()
    rival = other.lock("lock", timeout=30)
    assert not rival.acquire(blocking=False)
    assert lock.extend(100)
    assert 120 < other.ttl("lock") <= 130
    assert lock.extend(50, replace_ttl=True)
    assert 40 < other.ttl("lock") <= 50
    assert lock.reacquire()
    assert 20 < other.ttl("lock") <= 30
    other.set("lock", "stolen", keepttl=True)
    for act in cast("list[Callable[[], object]]", [lock.reacquire, lock.release]):
        with pytest.raises(LockNotOwnedError):
            act()
    other.delete("lock")
    assert rival.acquire(blocking=False)
    rival.release()
    assert other.exists("lock") == 0
    with pytest.raises(LockError):
        rival.release()


def test_a_lock_expires(cluster: Cluster) -> None:
    """The lock of a client that never releases it is free when its time is over, and is not its any more."""
    one, other = (cluster.redis(name) for name in cluster.names[:2])
    lost = one.lock("lock", timeout=0.5)
    assert lost.acquire(blocking=False)
    assert other.lock("lock", timeout=30, sleep=0.05).acquire(blocking_timeout=DEADLINE_SECONDS)
    with pytest.raises(LockNotOwnedError):
        lost.release()


def test_a_lock_excludes_through_a_leader_kill(cluster: Cluster) -> None:
    """Two clients that wait for the same lock, at nodes that live on, never hold it together, though the leader dies; what each counts
    under it is not lost."""
    leader = cluster.wait_for_leader()
    names = cluster.followers()
    entered: list[int] = []
    inside: list[int] = []
    failures: list[object] = []
    ended = threading.Event()

    def work(number: int) -> None:
        try:
            client = cluster.redis(names[number])
            while not ended.is_set():
                with client.lock("lock", timeout=60, sleep=0.01):
                    inside.append(number)
                    value = int(cast("str | None", client.get("n")) or 0)
                    if len(inside) != 1:
                        failures.append(list(inside))
                    client.set("n", value + 1)
                    entered.append(number)
                    inside.remove(number)
                ended.wait(0.01)
        except BaseException as error:
            failures.append(error)
            raise

    threads = [threading.Thread(target=work, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()

    def both(count: int) -> Callable[[], bool]:
        goals = [entered.count(number) + count for number in range(2)]
        return lambda: bool(failures) or all(entered.count(number) >= goal for number, goal in enumerate(goals))

    try:
        wait_until("both clients to hold the lock now and then", both(5), DEADLINE_SECONDS)
        cluster.kill(leader)
        wait_until("both clients to hold the lock after the kill", both(5), DEADLINE_SECONDS)
    finally:
        ended.set()
        for thread in threads:
            thread.join(DEADLINE_SECONDS)
    assert failures == []
    assert cluster.redis(names[0]).get("n") == str(len(entered))


def test_other_scripts_are_refused_in_words(cluster: Cluster) -> None:
    """A script that nobody knows says what is possible instead, and one that is only named is not known, as in Redis."""
    client = cluster.redis("n1")
    with pytest.raises(redis.ResponseError, match="only the three scripts of redis-py's Lock"):
        client.eval("return 1", 0)
    with pytest.raises(redis.ResponseError, match="only the three scripts of redis-py's Lock"):
        client.script_load("return 1")
    with pytest.raises(redis.exceptions.NoScriptError):
        client.evalsha("0" * 40, 0)
    with pytest.raises(redis.ResponseError, match="there are no functions here"):
        client.function_list()
