"""What a type checker makes of the clients: `make lint` checks these, and they hold at run time too."""

from __future__ import annotations

from typing import assert_type

from raftkv import connect, connect_async
from raftkv.client import AsyncClient, Client, Pipeline
from tests.client.conftest import Redis


def test_types_of_a_client(redis_server: Redis) -> None:
    """Replies are bytes unless they are decoded, and a pipeline's methods return the pipeline."""
    with connect(redis_server.url) as client:
        assert_type(client, Client[bytes])
        assert_type(client.get("k"), bytes | None)
        assert_type(client.mget("k"), list[bytes | None])
        assert_type(client.set("k", 1, ex=10), bool)
        pipeline = client.pipeline()
        assert_type(pipeline.set("k", 1).incr("k"), Pipeline)
        assert pipeline.execute() == [True, 2]
        with client.transaction("k") as transaction:
            assert_type(transaction.now.get("k"), bytes | None)
        assert_type(list(client.scan_iter()), list[bytes])
    with connect(redis_server.url, decode_responses=True) as decoding:
        assert_type(decoding, Client[str])
        assert_type(decoding.get("k"), str | None)
        assert_type(decoding.scan(0), tuple[int, list[str]])
        assert decoding.get("k") == "2"


async def types_of_an_async_client() -> None:
    """The same, awaited. Checked and never run."""
    client = connect_async("raftkv://h", decode_responses=True)
    assert_type(client, AsyncClient[str])
    assert_type(await client.get("k"), str | None)
    assert_type(await client.incr("k"), int)
    assert_type([key async for key in client.scan_iter()], list[str])
    async with client.transaction("k") as transaction:
        assert_type(await transaction.now.mget("k"), list[str | None])


def test_methods_explain_themselves() -> None:
    """`help` shows a method's own signature and docstring, on the class and on a client."""
    assert (Client.get.__doc__ or "").startswith("GET: the value")
    assert (connect("raftkv://h").set.__doc__ or "").startswith("SET: store")
    assert Client.get.__name__ == "get"
