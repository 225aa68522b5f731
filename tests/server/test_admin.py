"""The operators' port: its pages, and bounds on everything that a stranger can send."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, Gauge, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from raftkv.server import admin
from raftkv.server.admin import AdminPages, AdminServer, Check
from raftkv.server.settings import Address
from tests.server.conftest import Run

ANYWHERE = Address("127.0.0.1", 0)


def metrics() -> bytes:
    registry = CollectorRegistry()
    Gauge("raftkv_term", "The term.", registry=registry).set(7)
    return generate_latest(registry)


def status() -> object:
    return {"node": "n1", "term": 7, "role": "leader"}


def pages(**changes: Callable[[], Any]) -> AdminPages:
    defaults: dict[str, Callable[[], Any]] = {
        "live": lambda: Check(True),
        "ready": lambda: Check(False, "there is no leader"),
        "metrics": metrics,
        "status": status,
    }
    return AdminPages(**{**defaults, **changes})


async def ask(address: Address, request: bytes) -> tuple[int, dict[str, str], bytes]:
    """The status, headers and body of the answer to `request`."""
    reader, writer = await asyncio.open_connection(address.host, address.port)
    writer.write(request)
    answer = await reader.read()
    writer.close()
    head, _, body = answer.partition(b"\r\n\r\n")
    first, *lines = head.decode().split("\r\n")
    version, code, _ = first.split(" ", 2)
    assert version == "HTTP/1.1"
    headers = dict(line.split(": ", 1) for line in lines)
    assert int(headers["Content-Length"]) == len(body)
    assert headers["Connection"] == "close"
    return int(code), headers, body


def get(path: str) -> bytes:
    return f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()


def test_pages(run: Run) -> None:
    """Health is 200 or 503 with the reason; metrics are in Prometheus's format; status is JSON."""

    async def main() -> None:
        server = AdminServer(pages())
        address = await server.listen(ANYWHERE)
        assert (await ask(address, get("/livez")))[::2] == (200, b"ok\n")
        assert (await ask(address, get("/readyz?verbose")))[::2] == (503, b"there is no leader\n")
        code, headers, body = await ask(address, get("/metrics"))
        assert (code, headers["Content-Type"].split(";")[0]) == (200, "text/plain")
        (family,) = text_string_to_metric_families(body.decode())
        assert family.samples[0].value == 7
        code, headers, body = await ask(address, get("/status"))
        assert (code, headers["Content-Type"], json.loads(body)) == (200, "application/json", status())
        await server.close()

    run(main())


@pytest.mark.parametrize(
    ("request_bytes", "code"),
    [
        (get("/"), 404),
        (get("/status/../livez"), 404),
        (b"POST /livez HTTP/1.1\r\nContent-Length: 0\r\n\r\n", 405),
        (b"HEAD /livez HTTP/1.1\r\n\r\n", 405),
        (b"GET /livez\r\n\r\n", 400),
        (b"GET /livez HTTP/2\r\n\r\n", 400),
        (b"\x16\x03\x01\x02\r\n\r\n", 400),
        (b"*1\r\n$4\r\nPING\r\n\r\n\r\n", 400),
        (b"GET /livez HTTP/1.1\r\nX: " + b"x" * admin.MAX_REQUEST_BYTES, 431),
    ],
)
def test_other_requests_are_refused(run: Run, request_bytes: bytes, code: int) -> None:
    """What is not a small GET of a page gets the status that says so."""

    async def main() -> None:
        server = AdminServer(pages())
        address = await server.listen(ANYWHERE)
        assert (await ask(address, request_bytes))[0] == code
        await server.close()

    run(main())


def test_an_unfinished_request(run: Run) -> None:
    """A client that closes his side in the middle of a request is told so."""

    async def main() -> None:
        server = AdminServer(pages())
        address = await server.listen(ANYWHERE)
        reader, writer = await asyncio.open_connection(address.host, address.port)
        writer.write(b"GET /livez HT")
        writer.write_eof()
        assert (await reader.read()).startswith(b"HTTP/1.1 400 ")
        writer.close()
        await server.close()

    run(main())


def test_a_slow_request_is_ended(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """A request that does not arrive in time is answered 408 and disconnected."""
    monkeypatch.setattr(admin, "REQUEST_SECONDS", 0.02)

    async def main() -> None:
        server = AdminServer(pages())
        address = await server.listen(ANYWHERE)
        assert (await ask(address, b"GET /livez HTTP/1.1\r\n"))[0] == 408
        await server.close()

    run(main())


def test_a_page_that_fails_stops_nothing(run: Run) -> None:
    """An error in a page is a 500, without its details, and the next request is served."""

    def fail() -> object:
        raise RuntimeError("a detail")

    async def main() -> None:
        server = AdminServer(pages(status=fail))
        address = await server.listen(ANYWHERE)
        code, _, body = await ask(address, get("/status"))
        assert code == 500
        assert b"a detail" not in body
        assert (await ask(address, get("/livez")))[0] == 200
        await server.close()

    run(main())


def test_a_large_page_arrives_whole(run: Run) -> None:
    """A page larger than any socket buffer is sent to its end."""

    async def main() -> None:
        server = AdminServer(pages(metrics=lambda: b"m" * (16 << 20)))
        address = await server.listen(ANYWHERE)
        assert len((await ask(address, get("/metrics")))[2]) == 16 << 20
        await server.close()

    run(main())


def test_connections_are_bounded(run: Run) -> None:
    """Beyond the bound a connection is told so at once; when the others have ended there is room again."""

    async def main() -> None:
        server = AdminServer(pages())
        address = await server.listen(ANYWHERE)
        idle = [await asyncio.open_connection(address.host, address.port) for _ in range(admin.MAX_CONNECTIONS)]
        assert (await ask(address, b""))[0] == 503
        for reader, writer in idle:
            writer.write_eof()
            await reader.read()
            writer.close()
        assert (await ask(address, get("/livez")))[0] == 200
        await server.close()

    run(main())


def test_closing_ends_what_is_served(run: Run) -> None:
    """A node that stops does not wait for operators."""

    async def main() -> None:
        server = AdminServer(pages())
        address = await server.listen(ANYWHERE)
        reader, writer = await asyncio.open_connection(address.host, address.port)
        writer.write(b"GET /li")
        await ask(address, get("/livez"))
        await server.close()
        assert await reader.read() == b""
        writer.close()

    run(main())
