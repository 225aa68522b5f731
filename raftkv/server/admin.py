"""A small HTTP server for operators and their tools: /livez, /readyz, /metrics and /status.

It only reads, and what it says comes from callables of the node. What always holds: a request is at most MAX_REQUEST_BYTES and has
REQUEST_SECONDS to arrive and as long for the answer to leave; at most MAX_CONNECTIONS are served at a time; each connection serves
one GET and is closed. A page whose callable fails is answered 500, and the error is logged; nothing that is asked here can stop the
node.

Nobody has to prove who he is: listen on loopback or on a network of operators.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable

import msgspec
import structlog
from msgspec import Struct
from prometheus_client import CONTENT_TYPE_LATEST

from raftkv.server.settings import Address

MAX_REQUEST_BYTES = 8 << 10
REQUEST_SECONDS = 5.0
MAX_CONNECTIONS = 32

_TEXT = "text/plain; charset=utf-8"
_JSON = "application/json"
_REASONS = {
    200: "OK",
    400: "Bad Request",
    404: "Not Found",
    405: "Method Not Allowed",
    408: "Request Timeout",
    431: "Request Header Fields Too Large",
    500: "Internal Server Error",
    503: "Service Unavailable",
}


class Check(Struct, frozen=True):
    """The answer to a question of health: `ok`, and why."""

    ok: bool
    reason: str = "ok"


class AdminPages(Struct, frozen=True, kw_only=True):
    """Where the pages come from. All are called on the event loop and must be quick.

    `live` says whether the process should be left running; `ready`, whether clients should be sent here; `metrics` is the Prometheus
    text format (`prometheus_client.generate_latest` of the node's own registry); `status` is anything that msgspec turns into JSON.
    """

    live: Callable[[], Check]
    ready: Callable[[], Check]
    metrics: Callable[[], bytes]
    status: Callable[[], object]


class _Response(Struct, frozen=True):
    code: int
    body: bytes
    content_type: str = _TEXT


def _refusal(code: int, text: str) -> _Response:
    return _Response(code, text.encode() + b"\n")


class AdminServer:
    """Serves `pages`. All methods are for the event loop's thread."""

    def __init__(self, pages: AdminPages, logger: structlog.typing.FilteringBoundLogger | None = None) -> None:
        self._pages = pages
        self._events: structlog.typing.FilteringBoundLogger = logger or structlog.get_logger("raftkv")
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.Task[None]] = set()

    async def listen(self, address: Address) -> Address:
        """Accept requests at `address`; a port of 0 means any. The address that it became.

        Raises:
            OSError: the address cannot be used.
        """
        self._server = await asyncio.start_server(self._connected, address.host, address.port, limit=MAX_REQUEST_BYTES)
        bound = self._server.sockets[0].getsockname()
        return Address(bound[0], bound[1])

    async def close(self) -> None:
        """Accept nobody any more, and end what is being served."""
        if self._server is not None:
            self._server.close()
        for task in tuple(self._connections):
            task.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)

    def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if len(self._connections) >= MAX_CONNECTIONS:
            writer.write(_encode(_refusal(503, f"at most {MAX_CONNECTIONS} requests are served at a time")))
            writer.close()
            return
        task = asyncio.get_running_loop().create_task(self._serve(reader, writer))
        self._connections.add(task)
        task.add_done_callback(self._connections.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        sent = False
        try:
            with contextlib.suppress(TimeoutError, OSError):
                response = await self._answer(reader)
                async with asyncio.timeout(REQUEST_SECONDS):
                    writer.write(_encode(response))
                    writer.close()
                    await writer.wait_closed()
                    sent = True
        finally:
            if not sent:
                writer.transport.abort()

    async def _answer(self, reader: asyncio.StreamReader) -> _Response:
        try:
            async with asyncio.timeout(REQUEST_SECONDS):
                head = await reader.readuntil(b"\r\n\r\n")
        except TimeoutError:
            return _refusal(408, f"the request did not arrive within {REQUEST_SECONDS:g} s")
        except asyncio.LimitOverrunError:
            return _refusal(431, f"a request has at most {MAX_REQUEST_BYTES} bytes")
        except asyncio.IncompleteReadError:
            return _refusal(400, "the request is incomplete")
        parts = head.partition(b"\r\n")[0].split(b" ")
        if len(parts) != 3 or not parts[2].startswith(b"HTTP/1."):
            return _refusal(400, "this is an HTTP/1.1 server")
        if parts[0] != b"GET":
            return _refusal(405, "only GET is answered")
        try:
            return self._page(parts[1].partition(b"?")[0])
        except Exception as error:  # a page that fails must not stop the node, and is not lost: it is logged and answered
            self._events.error("admin_page_failed", page=parts[1].decode("latin-1"), reason=repr(error))
            return _refusal(500, "the page could not be made; the node's log says why")

    def _page(self, path: bytes) -> _Response:
        pages = self._pages
        if path in (b"/livez", b"/readyz"):
            check = pages.live() if path == b"/livez" else pages.ready()
            return _Response(200 if check.ok else 503, check.reason.encode() + b"\n")
        if path == b"/metrics":
            return _Response(200, pages.metrics(), CONTENT_TYPE_LATEST)
        if path == b"/status":
            return _Response(200, msgspec.json.encode(pages.status()) + b"\n", _JSON)
        return _refusal(404, "there are /livez, /readyz, /metrics and /status")


def _encode(response: _Response) -> bytes:
    head = (
        f"HTTP/1.1 {response.code} {_REASONS[response.code]}\r\n"
        f"Content-Type: {response.content_type}\r\n"
        f"Content-Length: {len(response.body)}\r\n"
        f"{'Allow: GET' if response.code == 405 else 'Cache-Control: no-store'}\r\n"
        "X-Content-Type-Options: nosniff\r\n"
        "Connection: close\r\n\r\n"
    )
    return head.encode("latin-1") + response.body
