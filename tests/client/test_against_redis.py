"""Both clients against a real Redis: what is sent is right, and what is answered becomes what the methods promise."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from collections.abc import Awaitable, Callable

import pytest

from raftkv import ReplyError, Unavailable, Uncertain, WatchFailed, connect, connect_async
from raftkv.client import AsyncClient, AsyncTransaction, Client, Transaction
from raftkv.errors import Busy, InvalidRequest
from tests.client.conftest import Redis


def test_methods_return_what_they_say(redis_server: Redis) -> None:
    """Every method of strings, keys and servers, with its options."""
    with connect(redis_server.url) as client:
        assert client.flushall()
        assert (client.set("a", 1), client.get("a"), client.get("none")) == (True, b"1", None)
        assert (client.set("a", 2, nx=True), client.set("b", 2, xx=True), client.set("a", 2, xx=True, ex=100)) == (False, False, True)
        assert 0 < client.ttl("a") <= 100
        assert client.set("a", 3, keep_ttl=True)
        assert 0 < client.pttl("a") <= 100_000
        assert client.set("c", b"\xff\x00", px=50_000)
        assert (client.set("e", 1, exat=4_000_000_000), client.set("e", 1, pxat=4_000_000_000_000)) == (True, True)
        assert (client.getset("c", "é"), client.getdel("c"), client.getdel("c")) == (b"\xff\x00", "é".encode(), None)
        assert client.mset({"x": 1, "y": 0.5})
        assert client.mget("x", "none", "y") == [b"1", None, b"0.5"]
        assert (client.append("x", "23"), client.strlen("x"), client.strlen("none")) == (3, 3, 0)
        assert (client.incr("n"), client.incr_by("n", 9), client.decr("n"), client.decr_by("n", 4)) == (1, 10, 9, 5)
        assert client.incr_by_float("n", 0.25) == 5.25
        assert (client.exists("a", "a", "none"), client.type("a"), client.type("none")) == (2, b"string", b"none")
        assert (client.expire("x", 100), client.expire("x", 50, "GT"), client.pexpire("none", 1)) == (True, False, False)
        assert (client.expire_at("x", 4_000_000_000), client.persist("x"), client.persist("x")) == (True, True, False)
        assert (client.rename("x", "z"), client.delete("z", "none"), client.ttl("z"), client.ttl("y")) == (True, 1, -2, -1)
        assert (client.ping(), client.echo("hi"), client.dbsize()) == (b"PONG", b"hi", 4)
        assert b"redis_version:" in client.info("server")
        assert client.execute("HSET", "h", "f", 1.5) == 1
        assert client.execute("HGETALL", "h") == {b"f": b"1.5"}
        assert client.scan(0, match="h*", count=100, type="hash") == (0, [b"h"])


def test_replies_are_decoded_where_that_is_asked_for(redis_server: Redis) -> None:
    """Text in, text out; also in pipelines, transactions and scans."""
    with connect(redis_server.url, decode_responses=True) as client:
        client.mset({f"key:{number}": "ö" for number in range(50)})
        assert client.mget("key:1", "none") == ["ö", None]
        assert sorted(client.scan_iter(match="key:*", count=5)) == sorted(f"key:{number}" for number in range(50))
        assert client.pipeline().get("key:1").execute() == ["ö"]
        with client.transaction() as transaction:
            transaction.get("key:1")
        assert transaction.results == ["ö"]


_FORK = """
import os, sys
from raftkv import connect

client = connect(sys.argv[1], max_connections=1)
parent = client.execute("CLIENT", "ID")
taken = client._pool.take(1)  # by a thread that the child does not have
child = os.fork()
if child == 0:
    os._exit(0 if client.execute("CLIENT", "ID") != parent else 1)
status = os.waitpid(child, 0)[1]
client._pool.give_back(taken)
assert client.execute("CLIENT", "ID") == parent
sys.exit(os.waitstatus_to_exitcode(status))
"""


def test_a_forked_process_has_connections_of_its_own(redis_server: Redis) -> None:
    """Else the answers to one process would be read by the other; and one's write would have the number of another's in its session."""
    subprocess.run([sys.executable, "-W", "ignore", "-c", _FORK, redis_server.url], check=True, timeout=60)


def test_errors_say_what_redis_said(redis_server: Redis) -> None:
    """An error has Redis's words; a pipeline raises the first, or returns them all."""
    with connect(redis_server.url) as client:
        client.execute("LPUSH", "list", 1)
        with pytest.raises(ReplyError, match="wrong kind of value") as caught:
            client.incr("list")
        assert (caught.value.code, caught.value.definite) == ("WRONGTYPE", True)
        with client.pipeline() as pipeline:
            results = pipeline.incr("list").set("a", 1).add("NONSENSE").execute(raise_on_error=False)
            assert [type(result) for result in results] == [ReplyError, bool, ReplyError]
            with pytest.raises(ReplyError, match="WRONGTYPE"):
                pipeline.incr("list").set("a", 2).execute()
        assert client.get("a") == b"2"
        with pytest.raises(InvalidRequest):
            client.mset({})
        with pytest.raises(InvalidRequest):
            client.execute("SUBSCRIBE", "x")


def test_a_pipeline_that_is_not_executed_does_nothing(redis_server: Redis) -> None:
    """What was kept is dropped at the end of its block; an empty one asks nobody."""
    with connect(redis_server.url) as client:
        with client.pipeline() as pipeline:
            pipeline.set("a", 1).set("b", 1)
            assert len(pipeline) == 2
        assert pipeline.execute() == []
        assert client.exists("a", "b") == 0


def test_a_long_pipeline_keeps_its_order(redis_server: Redis) -> None:
    """Ten thousand commands, reads among them, as if each had waited for the one before it."""
    with connect(redis_server.url, timeout=60) as client, client.pipeline() as pipeline:
        for number in range(5_000):
            pipeline.incr("n")
            if number % 50 == 0:
                pipeline.get("n")
        results = [int(result) for result in pipeline.execute()]
    expected = [value for number in range(5_000) for value in ([number + 1] * (1 + (number % 50 == 0)))]
    assert results == expected


def test_a_transaction_happens_together_or_not_at_all(redis_server: Redis) -> None:
    """A block that ends well is executed, with what it read at once; one that raises, or whose key was changed, does nothing."""
    with connect(redis_server.url) as client:
        client.set("stock", 5)
        with client.transaction("stock") as transaction:
            left = int(transaction.now.get("stock") or 0)
            transaction.set("stock", left - 1).incr("sold")
        assert transaction.results == [True, 1]

        def sell(meanwhile: Callable[[], object]) -> None:
            with client.transaction("stock", "sold") as transaction:
                transaction.set("stock", 0)
                meanwhile()

        with pytest.raises(ZeroDivisionError):
            sell(lambda: 1 // 0)
        with pytest.raises(WatchFailed) as caught:
            sell(lambda: client.incr("sold"))
        assert caught.value.definite
        with client.transaction("stock"):
            pass
        assert (client.get("stock"), client.get("sold")) == (b"4", b"2")
        with pytest.raises(Unavailable):
            transaction.now.get("stock")


def test_errors_in_a_transaction_are_told(redis_server: Redis) -> None:
    """A command that cannot be understood stops everything; one that fails does not stop the others, and is raised when they are done."""
    with connect(redis_server.url) as client:
        client.execute("LPUSH", "list", 1)
        with pytest.raises(ReplyError, match="unknown command"), client.transaction() as transaction:
            transaction.set("a", 1).add("NONSENSE")
        assert client.get("a") is None
        with pytest.raises(ReplyError, match="WRONGTYPE"), client.transaction() as transaction:
            transaction.set("a", 1).incr("list").set("b", 2)
        assert [type(result) for result in transaction.results] == [bool, ReplyError, bool]
        assert client.mget("a", "b") == [b"1", b"2"]


def test_a_transaction_is_repeated_until_nobody_interferes(redis_server: Redis) -> None:
    """Threads that add to one key by reading and writing it lose nothing."""

    def add_one(transaction: Transaction[bytes]) -> int:
        value = int(transaction.now.get("n") or 0) + 1
        transaction.set("n", value)
        return value

    def work(client: Client[bytes], seen: list[int]) -> None:
        seen += [client.transact(add_one, "n", timeout=60) for _ in range(25)]

    seen: list[int] = []
    with connect(redis_server.url) as client:
        threads = [threading.Thread(target=work, args=(client, seen)) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(90)
        assert client.get("n") == b"100"
    assert sorted(seen) == list(range(1, 101))


def test_threads_share_few_connections(redis_server: Redis) -> None:
    """No more connections are made than the client may have, and a call that finds none free in its time is refused."""
    with connect(redis_server.url, max_connections=2) as client:
        threads = [threading.Thread(target=lambda: [client.incr("n") for _ in range(50)]) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert client.get("n") == b"400"
        assert 1 <= redis_server.client_count() <= 2
        with client.transaction("n"), client.transaction("n"), pytest.raises(Busy, match="all 2 connections"):
            client.within(0.05).get("n")
    with pytest.raises(Unavailable, match="closed"):
        client.get("n")


def test_a_call_ends_in_its_time(redis_server: Redis) -> None:
    """A node that does not answer is not waited for longer than the call may take, and the client can be used afterwards."""
    with connect(redis_server.url) as client:
        with pytest.raises(Uncertain, match="may have happened"):
            client.execute("BLPOP", "none", 0, timeout=0.1)
        assert client.within(2).ping() == b"PONG"


def test_a_server_that_is_gone_and_back(redis_server: Redis) -> None:
    """Without a server nothing happens and that is said; when it is back, the same client goes on."""
    with connect(redis_server.url, timeout=0.3) as client:
        client.set("a", 1)
        redis_server.stop()
        with pytest.raises(Unavailable):
            client.set("a", 2)
        with pytest.raises(Unavailable), client.transaction("a"):
            pass
        redis_server.start()
        assert client.within(10).get("a") is None


def run(redis_server: Redis, work: Callable[[AsyncClient[bytes]], Awaitable[None]], **settings: float) -> None:
    """Run `work` with a client of the server."""

    async def main() -> None:
        async with connect_async(redis_server.url, timeout=settings.get("timeout")) as client:
            await work(client)

    asyncio.run(main())


def test_asyncio_has_the_same_methods(redis_server: Redis) -> None:
    """Calls, pipelines, transactions and scans, awaited."""

    async def work(client: AsyncClient[bytes]) -> None:
        assert (await client.set("a", 1), await client.get("a")) == (True, b"1")
        assert sorted(await asyncio.gather(*(client.incr("n") for _ in range(100)))) == list(range(1, 101))
        async with client.pipeline() as pipeline:
            assert await pipeline.incr("n").get("n").add("ECHO", "x").execute() == [101, b"101", b"x"]
        async with client.transaction("a") as transaction:
            value = int(await transaction.now.get("a") or 0)
            transaction.set("a", value + 1)
        assert transaction.results == [True]

        async def interfere() -> None:
            async with client.transaction("a") as transaction:
                await client.set("a", 9)
                transaction.set("a", 0)

        with pytest.raises(WatchFailed):
            await interfere()
        assert {key async for key in client.scan_iter(count=1)} == {b"a", b"n"}
        with pytest.raises(ReplyError):
            await client.execute("LPUSH", "a", 1)

    run(redis_server, work)


@pytest.mark.parametrize("watched", [(), ("a",)])
def test_tasks_may_read_at_once_in_a_transaction(redis_server: Redis, watched: tuple[str, ...]) -> None:
    """Each gets its own answer, though there is one connection."""

    async def read_many() -> None:
        async with connect_async(redis_server.url) as client:
            await client.mset({str(number): number for number in range(20)})
            async with client.transaction(*watched) as transaction:
                values = await asyncio.gather(*(transaction.now.get(str(number)) for number in range(20)))
            assert values == [b"%d" % number for number in range(20)]

    asyncio.run(read_many())


def test_asyncio_transactions_are_repeated(redis_server: Redis) -> None:
    """Tasks that add to one key by reading and writing it lose nothing."""

    async def add_one(transaction: AsyncTransaction[bytes]) -> int:
        value = int(await transaction.now.get("n") or 0) + 1
        transaction.set("n", value)
        return value

    async def work(client: AsyncClient[bytes]) -> None:
        seen = await asyncio.gather(*(client.transact(add_one, "n", timeout=60) for _ in range(20)))
        assert sorted(seen) == list(range(1, 21))

    run(redis_server, work)


def test_a_task_that_is_cancelled_leaves_the_client_as_it_was(redis_server: Redis) -> None:
    """Its answer is never taken for that of another call."""

    async def work(client: AsyncClient[bytes]) -> None:
        await client.set("a", 1)
        for _ in range(20):
            task = asyncio.create_task(client.execute("BLPOP", "none", 0, timeout=30))
            await asyncio.sleep(0)
            await client.get("a")
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert await client.get("a") == b"1"

    run(redis_server, work)


def test_asyncio_calls_end_in_their_time(redis_server: Redis) -> None:
    """Also those that wait for a connection, and those whose server is gone."""

    async def work(client: AsyncClient[bytes]) -> None:
        with pytest.raises(Uncertain):
            await client.execute("BLPOP", "none", 0, timeout=0.1)
        redis_server.stop()
        with pytest.raises(Unavailable):
            await client.within(0.2).get("a")
        client.close()
        with pytest.raises(Unavailable, match="closed"):
            await client.get("a")

    run(redis_server, work)


def test_asyncio_waits_for_a_connection(redis_server: Redis) -> None:
    """A bound of one connection is kept, and a call that does not get it in its time is refused."""

    async def main() -> None:
        async with connect_async(redis_server.url, max_connections=1) as client:
            assert len(await asyncio.gather(*(client.incr("n") for _ in range(20)))) == 20
            async with client.transaction("n"):
                with pytest.raises(Busy, match="all 1 connections"):
                    await client.within(0.05).get("n")

    asyncio.run(main())
