"""`connect` and `connect_async`: the clients, loaded only by a program that uses one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, overload

if TYPE_CHECKING:
    from raftkv.client import AsyncClient, Client


@overload
def connect(
    url: str, *, timeout: float | None = None, max_connections: int | None = None, decode_responses: Literal[False] = False
) -> Client[bytes]: ...


@overload
def connect(
    url: str, *, timeout: float | None = None, max_connections: int | None = None, decode_responses: Literal[True]
) -> Client[str]: ...


def connect(
    url: str, *, timeout: float | None = None, max_connections: int | None = None, decode_responses: bool = False
) -> Client[bytes] | Client[str]:
    """A client of the cluster at `url`, ``raftkv://h1:7001,h2:7001``; arguments and errors are those of `raftkv.client.Client`."""
    from raftkv.client import Client

    if decode_responses:
        return Client(url, timeout=timeout, max_connections=max_connections, decode_responses=True)
    return Client(url, timeout=timeout, max_connections=max_connections)


@overload
def connect_async(
    url: str, *, timeout: float | None = None, max_connections: int | None = None, decode_responses: Literal[False] = False
) -> AsyncClient[bytes]: ...


@overload
def connect_async(
    url: str, *, timeout: float | None = None, max_connections: int | None = None, decode_responses: Literal[True]
) -> AsyncClient[str]: ...


def connect_async(
    url: str, *, timeout: float | None = None, max_connections: int | None = None, decode_responses: bool = False
) -> AsyncClient[bytes] | AsyncClient[str]:
    """The same for asyncio: a `raftkv.client.AsyncClient`. Nothing is awaited: no connection is made before the first call."""
    from raftkv.client import AsyncClient

    if decode_responses:
        return AsyncClient(url, timeout=timeout, max_connections=max_connections, decode_responses=True)
    return AsyncClient(url, timeout=timeout, max_connections=max_connections)
