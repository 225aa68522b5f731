"""`AsyncClient`: for programs with asyncio. The same as `client.py`, awaited.

A client belongs to one event loop. A task that is cancelled in the middle of a call gives its place back without the connection: what it
sent may still happen.
"""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Generator, Sequence
from copy import copy
from time import monotonic
from types import TracebackType
from typing import Any, Generic, Literal, TypeVar, cast, overload

from raftkv.client.command import AnyCommand, Awaited, Key, Text, Value, encode
from raftkv.client.core import Broken, Close, Core, Effect, Exchange, Lane, Open, Outcome, Pause
from raftkv.client.keys import KeyCommands
from raftkv.client.queue import CommandQueue, all_delivered, any_command, delivered, whole
from raftkv.client.replies import Answer, ReplyReader
from raftkv.client.server import ServerCommands
from raftkv.client.strings import StringCommands
from raftkv.client.transaction import commit, look, look_anywhere, unwatch, watch
from raftkv.client.url import check_timeout, parse_url
from raftkv.errors import Busy, ProtocolError, RaftkvError, Unavailable, WatchFailed

_RECEIVE_BYTES = 1 << 16

_Result = TypeVar("_Result")
_Returned = TypeVar("_Returned")


class _Line:
    """A place of the pool: what the core knows of it, and its connection."""

    def __init__(self, lane: Lane) -> None:
        self.lane = lane
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        self._reader = ReplyReader()

    async def do(self, effect: Effect) -> Outcome:
        """Carry out a step; what came of it."""
        try:
            match effect:
                case Open(address, timeout_s):
                    self.close()
                    async with asyncio.timeout(timeout_s):
                        self._streams = await asyncio.open_connection(address.host, address.port)
                    self._reader = ReplyReader()
                case Exchange(data, count, timeout_s):
                    return await self._exchange(data, count, timeout_s)
                case Pause(seconds):
                    await asyncio.sleep(seconds)
                case Close():
                    self.close()
        except OSError as error:  # TimeoutError is one
            return Broken(str(error) or type(error).__name__)
        return None

    async def _exchange(self, data: bytes, count: int, timeout_s: float) -> Outcome:
        answers: list[Answer] = []
        if self._streams is None:
            return Broken("there is no connection")
        reader, writer = self._streams
        try:
            async with asyncio.timeout(timeout_s):
                writer.write(data)
                await writer.drain()
                while True:
                    self._reader.take(answers, count)
                    if len(answers) == count:
                        return answers
                    received = await reader.read(_RECEIVE_BYTES)
                    if not received:
                        return Broken("the node closed the connection", answers)
                    self._reader.feed(received)
        except TimeoutError:
            return Broken(f"the node did not answer within {timeout_s:.3g} s", answers)
        except (OSError, ProtocolError) as error:
            return Broken(str(error) or type(error).__name__, answers)

    def check(self) -> None:
        """Notice that the node has closed the connection while nobody used it: then nothing has to be sent to find out."""
        if self._streams is not None and self._streams[0].at_eof():
            self.drop()

    def drop(self) -> None:
        """Close the connection, and have another the next time."""
        self.lane.address = None
        self.close()

    def close(self) -> None:
        """Close the connection, if there is one."""
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None


class _Pool:
    """The places, of which `most` may be taken at a time. The one used last is taken first."""

    def __init__(self, core: Core, most: int) -> None:
        self.core = core
        self._most = most
        self._idle: list[_Line] = []
        self._free = asyncio.Semaphore(most)
        self._closed = False

    async def take(self, timeout_s: float) -> _Line:
        """A place for one call.

        Raises:
            Busy: all were taken for `timeout_s`.
            Unavailable: the client has been closed.
        """
        try:
            async with asyncio.timeout(timeout_s):
                await self._free.acquire()
        except TimeoutError as error:
            raise Busy(f"all {self._most} connections were in use for {timeout_s:g} s; the call did not happen") from error
        if self._closed:
            self._free.release()
            raise Unavailable("this client has been closed")
        if not self._idle:
            return _Line(self.core.lane())
        line = self._idle.pop()
        line.check()
        return line

    def give_back(self, line: _Line) -> None:
        """The call is over."""
        if self._closed:
            line.close()
        else:
            self._idle.append(line)
        self._free.release()

    def close(self) -> None:
        """Close all connections, those in use when their calls are over."""
        self._closed = True
        idle, self._idle = self._idle, []
        for line in idle:
            line.close()

    async def drive(self, line: _Line, flow: Generator[Effect, Outcome, _Returned]) -> _Returned:
        """Carry out `flow` to its end."""
        outcome: Outcome = None
        try:
            while True:
                effect = flow.send(outcome)
                outcome = await line.do(effect)
        except StopIteration as stop:
            return cast("_Returned", stop.value)
        except BaseException:  # cancelled in the middle: the answers that come would be taken for others
            flow.close()
            line.drop()
            raise


class AsyncClient(Awaited[Text], StringCommands, KeyCommands, ServerCommands):
    """A client of a cluster, for programs with asyncio. Arguments and errors are those of `raftkv.client.Client`."""

    @overload
    def __init__(
        self: AsyncClient[bytes],
        url: str,
        *,
        timeout: float | None = None,
        max_connections: int | None = None,
        decode_responses: Literal[False] = False,
    ) -> None: ...

    @overload
    def __init__(
        self: AsyncClient[str],
        url: str,
        *,
        timeout: float | None = None,
        max_connections: int | None = None,
        decode_responses: Literal[True],
    ) -> None: ...

    def __init__(
        self, url: str, *, timeout: float | None = None, max_connections: int | None = None, decode_responses: bool = False
    ) -> None:
        settings = parse_url(url, timeout_s=timeout, max_connections=max_connections)
        core = Core(settings, monotonic, random.Random(), os.urandom)
        self._pool = _Pool(core, settings.max_connections)
        self._timeout_s = settings.timeout_s
        self._decode = decode_responses

    async def __aenter__(self) -> AsyncClient[Text]:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Close all connections. Calls that run go on; new ones are refused."""
        self._pool.close()

    def within(self, timeout: float) -> AsyncClient[Text]:
        """The same client, whose calls may take `timeout` seconds: ``await client.within(0.5).get("k")``."""
        view = copy(self)
        view._timeout_s = check_timeout(timeout)
        return view

    async def run(self, command: AnyCommand, *, timeout: float | None = None) -> Any:  # noqa: ASYNC109 - no cancellation: an outcome
        """Do any `Command`, within `timeout` seconds or those of the client."""
        [outcome] = await self._perform([command], timeout)
        return delivered(outcome, self._decode)

    async def execute(self, *args: Value, timeout: float | None = None) -> Any:  # noqa: ASYNC109
        """Do any command by its name and arguments; see `raftkv.client.Client.execute`."""
        return await self.run(any_command(args), timeout=timeout)

    def pipeline(self, *, timeout: float | None = None) -> AsyncPipeline:
        """Commands that are sent together; `timeout` seconds are for all of them."""
        return AsyncPipeline(self, timeout)

    def transaction(self, *watch: Key, timeout: float | None = None) -> AsyncTransaction[Text]:
        """Commands that happen together or not at all; see `raftkv.client.Client.transaction`."""
        return AsyncTransaction(self, watch, timeout)

    async def transact(
        self,
        work: Callable[[AsyncTransaction[Text]], Awaitable[_Result]],
        *watch: Key,
        timeout: float | None = None,  # noqa: ASYNC109
    ) -> _Result:
        """Run `work` in a transaction until it went through; see `raftkv.client.Client.transact`."""
        deadline_s = monotonic() + self._seconds(timeout)
        while True:
            try:
                async with self.transaction(*watch, timeout=max(deadline_s - monotonic(), 0.001)) as transaction:
                    return await work(transaction)
            except WatchFailed:
                if monotonic() >= deadline_s:
                    raise

    async def scan_iter(self, *, match: Key | None = None, count: int | None = None, type: str | None = None) -> AsyncIterator[Text]:
        """All keys, page after page; see `raftkv.client.Client.scan_iter`."""
        cursor = 0
        while True:
            cursor, found = await self.scan(cursor, match=match, count=count, type=type)
            for key in found:
                yield key
            if cursor == 0:
                return

    def _seconds(self, timeout: float | None) -> float:
        return self._timeout_s if timeout is None else check_timeout(timeout)

    async def _perform(self, commands: Sequence[AnyCommand], timeout: float | None) -> list[Any]:  # noqa: ASYNC109
        """The outcomes of `commands`."""
        pool = self._pool
        timeout_s = self._seconds(timeout)
        began_s = monotonic()
        line = await pool.take(timeout_s)
        try:
            return await pool.drive(line, pool.core.perform(line.lane, commands, timeout_s - (monotonic() - began_s)))
        finally:
            pool.give_back(line)


class AsyncPipeline(CommandQueue):
    """Commands that are sent together; see `raftkv.client.Pipeline`. Only `execute` is awaited."""

    def __init__(self, client: AsyncClient[bytes] | AsyncClient[str], timeout: float | None) -> None:
        super().__init__()
        self._client = client
        self._timeout = timeout

    async def __aenter__(self) -> AsyncPipeline:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.take()

    async def execute(self, *, raise_on_error: bool = True) -> list[Any]:
        """Do everything that was kept, in order; see `raftkv.client.Pipeline.execute`."""
        commands = self.take()
        outcomes = await self._client._perform(commands, self._timeout) if commands else []
        return all_delivered(outcomes, self._client._decode, raise_on_error)


class AsyncTransaction(CommandQueue, Generic[Text]):
    """Commands that happen together, at the end of an ``async with`` block; see `raftkv.client.Transaction`. What is read by ``now`` is
    awaited."""

    def __init__(self, client: AsyncClient[Text], watch: tuple[Key, ...], timeout: float | None) -> None:
        super().__init__()
        self._client: AsyncClient[Text] = client
        self._watch = tuple(map(encode, watch))
        self._timeout_s = client._seconds(timeout)
        self._line: _Line | None = None
        self._turn = asyncio.Lock()  # tasks may read at once, and there is one connection
        self.results: list[Any] = []
        """What the commands were answered, once the block has ended."""

    async def __aenter__(self) -> AsyncTransaction[Text]:
        pool = self._client._pool
        self._line = line = await pool.take(self._timeout_s)
        try:
            if self._watch:
                whole(await pool.drive(line, watch(pool.core, line.lane, self._watch, self._timeout_s)))
        except BaseException:
            self._leave(line)
            raise
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        line = self._line
        if line is None:
            return
        pool = self._client._pool
        commands = self.take()
        try:
            if error is None and commands:
                flow = commit(pool.core, line.lane, commands, bool(self._watch), self._timeout_s)
                self.results = all_delivered(whole(await pool.drive(line, flow)), self._client._decode, raise_on_error=False)
            elif self._watch:
                await pool.drive(line, unwatch(pool.core, line.lane, self._timeout_s))
        finally:
            self._leave(line)
        for result in self.results:
            if isinstance(result, RaftkvError):
                raise result

    @property
    def now(self) -> AsyncNow[Text]:
        """The methods of a client, done at once on the connection that watches: for the reads that the transaction rests on."""
        return AsyncNow(self)

    def _leave(self, line: _Line) -> None:
        self._line = None
        self._client._pool.give_back(line)

    async def _look(self, command: AnyCommand) -> Any:
        pool = self._client._pool
        step = look if self._watch else look_anywhere
        async with self._turn:
            if self._line is None:
                raise Unavailable("the transaction is over, or has not begun")
            [outcome] = whole(await pool.drive(self._line, step(pool.core, self._line.lane, command, self._timeout_s)))
        return delivered(outcome, self._client._decode)


class AsyncNow(Awaited[Text], StringCommands, KeyCommands, ServerCommands):
    """What a transaction reads before it happens."""

    def __init__(self, transaction: AsyncTransaction[Text]) -> None:
        self._transaction: AsyncTransaction[Text] = transaction

    async def run(self, command: AnyCommand) -> Any:
        """Do `command` at once."""
        return await self._transaction._look(command)
