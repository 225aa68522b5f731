"""TCP links between the nodes of a cluster on this machine, which can be impaired one direction at a time.

Each node is known to the others by an address of a proxy here. The first frame on a connection says who dials, so the proxy knows both
ends, and every byte belongs to a path: what one node says to another, whoever of the two dialed. Impairments lie on paths:

- cut: nothing passes, and connections stay. When a cut ends, the connections that were under it are reset, as TCP gives up one that
  has lost bytes.
- stall: nothing passes, and connections stay. When a stall ends, everything passes that was said meanwhile.
- delay and throttle: everything passes, later.

What always holds: bytes of a connection arrive in order and without gaps, or it breaks; what is held is bounded, and beyond the bound
whoever sends is not read from; a new connection reaches the other node only while both its paths let bytes through; everything is on
the loopback address. A connection that a node closes or loses is closed or reset at the other end behind the bytes before it, so a
crash behind a cut is not noticed.

The proxies run in an event loop in one thread; the methods of `Links` may be called from any other.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import socket
import struct
import threading
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import TypeVar

import msgspec

from raftkv.codec.frames import FrameDecoder
from raftkv.codec.handshake import MAX_HANDSHAKE_BYTES, Hello
from raftkv.errors import ProtocolError

Pair = tuple[str, str]
"""Who says something, and to whom."""

CHUNK_BYTES = 16 << 10
HELD_CHUNKS = 16
"""Chunks held on one direction of one connection; there is no more in memory, besides the buffers of the two sockets."""
CALL_SECONDS = 30.0
FIRST_FRAME_SECONDS = 5.0
_RESET = struct.pack("ii", 1, 0)  # SO_LINGER: closing sends RST

_Result = TypeVar("_Result")
_hellos = msgspec.msgpack.Decoder(Hello)


@dataclass(frozen=True, eq=False)
class Impairment:
    """What is wrong with some paths, from `Links.impose` until `Links.lift`. Several on one path: the worst counts."""

    cut: bool = False
    stall: bool = False
    delay_s: float = 0.0
    bytes_per_second: int | None = None


class _Path:
    """What one node says to another."""

    def __init__(self) -> None:
        self.flows: set[_Flow] = set()
        self._impairments: dict[Impairment, None] = {}
        self._changed = asyncio.Event()
        self._free_at = 0.0

    def impose(self, impairment: Impairment) -> None:
        self._impairments[impairment] = None
        self._change()

    @property
    def impaired(self) -> bool:
        return bool(self._impairments)

    def has(self, impairment: Impairment) -> bool:
        return impairment in self._impairments

    def lift(self, impairment: Impairment) -> None:
        if impairment in self._impairments:
            del self._impairments[impairment]
            self._change()

    def _change(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    async def let_through(self, arrived: float, size: int) -> None:
        """Return when `size` bytes that came at `arrived` may go on."""
        loop = asyncio.get_running_loop()
        while (wait := self._wait_s(arrived, loop.time())) > 0:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(None if wait == math.inf else wait):
                    await self._changed.wait()
        rates = [each.bytes_per_second for each in self._impairments if each.bytes_per_second is not None]
        if rates:
            self._free_at = max(self._free_at, loop.time()) + size / min(rates)

    def _wait_s(self, arrived: float, now: float) -> float:
        if any(each.cut or each.stall for each in self._impairments):
            return math.inf
        delay = max((each.delay_s for each in self._impairments), default=0.0)
        throttled = any(each.bytes_per_second is not None for each in self._impairments)
        return max(arrived + delay if delay else 0.0, self._free_at if throttled else 0.0) - now


@dataclass
class _End:
    """One of the two sockets of a connection."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    def reset(self) -> None:
        raw = self.writer.get_extra_info("socket")
        with contextlib.suppress(OSError):  # it is closed already
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        self.writer.transport.abort()


class _Flow:
    """One direction of one connection: from `source` to `sink`, on `path`."""

    def __init__(self, source: _End, sink: _End, path: _Path) -> None:
        self.held_bytes = 0
        self._source = source
        self._sink = sink
        self._path = path
        self._chunks: asyncio.Queue[tuple[float, bytes | None]] = asyncio.Queue(HELD_CHUNKS)
        path.flows.add(self)

    async def put(self, data: bytes | None) -> None:
        """Let `data` be delivered: b"" is the end of the connection, None says that it broke."""
        self.held_bytes += len(data or b"")
        await self._chunks.put((asyncio.get_running_loop().time(), data))

    async def read(self) -> None:
        """Take what the source says, while there is room, up to its end."""
        data: bytes | None = b"-"
        while data:
            try:
                data = await self._source.reader.read(CHUNK_BYTES)
            except OSError:
                data = None
            await self.put(data)

    async def deliver(self) -> bool:
        """Bring it to the sink. Whether the connection then ends in order."""
        while True:
            arrived, data = await self._chunks.get()
            await self._path.let_through(arrived, len(data or b""))
            if not data:
                return data is not None
            self.held_bytes -= len(data)
            try:
                self._sink.writer.write(data)
                await self._sink.writer.drain()
            except OSError:
                return False

    def end(self) -> None:
        """What is held is lost."""
        self._path.flows.discard(self)


async def _connect(near: _End, target: tuple[str, int], said: bytes, forward: _Path, backward: _Path) -> None:
    """Carry a connection that came at `near` on to `target`, `said` first, until one side ends it."""
    now = asyncio.get_running_loop().time()
    await forward.let_through(now, 0)
    await backward.let_through(now, 0)
    far = _End(*await asyncio.open_connection(*target))
    flows = [_Flow(near, far, forward), _Flow(far, near, backward)]
    await flows[0].put(said)
    readers = [asyncio.create_task(flow.read()) for flow in flows]
    deliveries = [asyncio.create_task(flow.deliver()) for flow in flows]
    in_order = False
    try:
        done, _ = await asyncio.wait(deliveries, return_when=asyncio.FIRST_COMPLETED)
        in_order = all(task.result() for task in done)
    finally:
        for task in (*readers, *deliveries):
            task.cancel()
        for flow in flows:
            flow.end()
        for end in (near, far):
            if in_order:
                end.writer.close()
            else:
                end.reset()


class Links:
    """The proxies of one cluster; a context manager.

    Args:
        targets: where each node listens for the others, ``host:port``, by its name.
    """

    def __init__(self, targets: Mapping[str, str]) -> None:
        self.addresses: dict[str, str] = {}
        """Where the others have to dial each node; known inside the context."""
        self.errors: list[str] = []
        """What went wrong in the proxies themselves: no fault that was asked for."""
        self._targets = {name: (address.rpartition(":")[0], int(address.rpartition(":")[2])) for name, address in targets.items()}
        self._paths = {(one, other): _Path() for one in targets for other in targets if one != other}
        self._connections: dict[asyncio.Task[None], Pair | None] = {}
        """Who dialed and who is dialed on each connection, once it is known."""
        self._servers: list[asyncio.Server] = []
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="raftkv-links", daemon=True)

    def __enter__(self) -> Links:
        self._loop.set_exception_handler(lambda loop, context: self.errors.append(str(context.get("exception") or context["message"])))
        self._thread.start()
        self._wait_for(self._listen())
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._wait_for(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(CALL_SECONDS)
        self._loop.close()

    @property
    def pairs(self) -> list[Pair]:
        """All paths."""
        return list(self._paths)

    def impose(self, impairment: Impairment, pairs: Iterable[Pair]) -> None:
        """Let `impairment` lie on the paths `pairs`."""
        wanted = list(pairs)

        def impose() -> None:
            for pair in wanted:
                self._paths[pair].impose(impairment)

        self._call(impose)

    def lift(self, impairment: Impairment) -> None:
        """Take `impairment` off every path. Does nothing if it lies on none."""

        async def lift() -> None:
            if impairment.cut:  # while nothing passes yet
                broken = self._reset({pair for pair, path in self._paths.items() if path.has(impairment)})
                await asyncio.gather(*broken, return_exceptions=True)
            for path in self._paths.values():
                path.lift(impairment)

        self._wait_for(lift())

    def reset(self, pairs: Iterable[Pair]) -> int:
        """Break every connection between the nodes of `pairs`, whoever dialed it; how many there were."""
        wanted = set(pairs)
        return self._call(lambda: len(self._reset(wanted)))

    @property
    def impaired(self) -> list[Pair]:
        """The paths that an impairment lies on."""
        return self._call(lambda: [pair for pair, path in self._paths.items() if path.impaired])

    def held_bytes(self, sender: str, receiver: str) -> int:
        """What `sender` has said to `receiver` and is on its way."""
        return self._call(lambda: sum(flow.held_bytes for flow in self._paths[sender, receiver].flows))

    def _reset(self, pairs: set[Pair]) -> list[asyncio.Task[None]]:
        both = pairs | {(other, one) for one, other in pairs}
        hit = [task for task, pair in self._connections.items() if pair in both]
        for task in hit:
            task.cancel()
        return hit

    def _call(self, act: Callable[[], _Result]) -> _Result:
        async def run() -> _Result:
            return act()

        return self._wait_for(run())

    def _wait_for(self, work: Awaitable[_Result]) -> _Result:
        async def run() -> _Result:
            return await work

        return asyncio.run_coroutine_threadsafe(run(), self._loop).result(CALL_SECONDS)

    async def _listen(self) -> None:
        for name in self._targets:
            server = await asyncio.start_server(self._accepter(name), "127.0.0.1", 0)
            self._servers.append(server)
            self.addresses[name] = "{}:{}".format(*server.sockets[0].getsockname())

    async def _close(self) -> None:
        for server in self._servers:
            server.close()
        tasks = list(self._connections)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _accepter(self, dialed: str) -> Callable[[asyncio.StreamReader, asyncio.StreamWriter], None]:
        def accepted(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = self._loop.create_task(self._serve(dialed, _End(reader, writer)))
            self._connections[task] = None
            task.add_done_callback(self._served)

        return accepted

    def _served(self, task: asyncio.Task[None]) -> None:
        del self._connections[task]
        if not task.cancelled() and (error := task.exception()) is not None:
            self.errors.append(repr(error))

    async def _serve(self, dialed: str, near: _End) -> None:
        try:
            async with asyncio.timeout(FIRST_FRAME_SECONDS):
                dialer, said = await _first_frame(near.reader)
            forward, backward = self._paths[dialer, dialed], self._paths[dialed, dialer]
            task = asyncio.current_task()
            if task is not None:
                self._connections[task] = (dialer, dialed)
            await _connect(near, self._targets[dialed], said, forward, backward)
        except (OSError, ProtocolError, msgspec.DecodeError, KeyError):
            near.reset()  # nobody of the cluster, or the other node does not listen
        except asyncio.CancelledError:
            near.reset()
            raise


async def _first_frame(reader: asyncio.StreamReader) -> tuple[str, bytes]:
    """Who dials, and everything that was said so far."""
    decoder, said = FrameDecoder(MAX_HANDSHAKE_BYTES), b""
    while True:
        data = await reader.read(CHUNK_BYTES)
        if not data:
            raise ConnectionResetError("the connection ended before its first frame")
        said += data
        for payload in decoder.feed(data):
            return _hellos.decode(payload.data).node, said
