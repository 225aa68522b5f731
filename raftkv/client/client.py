"""`Client`: for programs with threads. Blocking sockets under the steps of `core.py`, and a bounded pool of connections.

A client may be used from any number of threads: a call takes a place of the pool for as long as it lasts, and waits for one within its
deadline when all are taken. What is decided is decided in `core.py`; this module connects, sends, receives and waits. A process that is
forked begins with an empty pool: connections, and the numbers of sessions, belong to one process.
"""

from __future__ import annotations

import os
import random
import socket
import threading
import time
import weakref
from collections.abc import Callable, Generator, Iterator, Sequence
from copy import copy
from types import TracebackType
from typing import Any, Generic, Literal, TypeVar, cast, overload

from raftkv.client.command import AnyCommand, Blocking, Key, Text, Value, encode
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
    """A place of the pool: what the core knows of it, and its socket."""

    def __init__(self, lane: Lane) -> None:
        self.lane = lane
        self._socket: socket.socket | None = None
        self._reader = ReplyReader()

    def do(self, effect: Effect) -> Outcome:
        """Carry out a step; what came of it."""
        try:
            match effect:
                case Open(address, timeout_s):
                    self.close()
                    self._socket = socket.create_connection((address.host, address.port), timeout=timeout_s)
                    self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                    self._reader = ReplyReader()
                case Exchange(data, count, timeout_s):
                    return self._exchange(data, count, timeout_s)
                case Pause(seconds):
                    time.sleep(seconds)
                case Close():
                    self.close()
        except OSError as error:
            return Broken(str(error) or type(error).__name__)
        return None

    def _exchange(self, data: bytes, count: int, timeout_s: float) -> Outcome:
        answers: list[Answer] = []
        connection = self._socket
        if connection is None:
            return Broken("there is no connection")
        deadline_s = time.monotonic() + timeout_s
        try:
            connection.settimeout(timeout_s)
            connection.sendall(data)
            while True:
                self._reader.take(answers, count)
                if len(answers) == count:
                    return answers
                left_s = deadline_s - time.monotonic()
                if left_s <= 0:
                    raise TimeoutError
                connection.settimeout(left_s)
                received = connection.recv(_RECEIVE_BYTES)
                if not received:
                    return Broken("the node closed the connection", answers)
                self._reader.feed(received)
        except TimeoutError:
            return Broken(f"the node did not answer within {timeout_s:.3g} s", answers)
        except (OSError, ProtocolError) as error:
            return Broken(str(error) or type(error).__name__, answers)

    def check(self) -> None:
        """Notice that the node has closed the connection while nobody used it: then nothing has to be sent to find out."""
        if self._socket is None:
            return
        try:
            self._socket.setblocking(False)
            self._socket.recv(1, socket.MSG_PEEK)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            pass
        self.drop()

    def drop(self) -> None:
        """Close the connection, and have another the next time."""
        self.lane.address = None
        self.close()

    def close(self) -> None:
        """Close the connection, if there is one."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None


class _Pool:
    """The places, of which `most` may be taken at a time. The one used last is taken first, so that few connections are open when few are
    needed."""

    def __init__(self, core: Core, most: int) -> None:
        self.core = core
        self._most = most
        self._idle: list[_Line] = []
        self._closed = False
        self.begin()
        _pools.add(self)

    def begin(self) -> None:
        """Have no places, and none that is taken: at first, and in a process that was forked, where threads that took some are no more."""
        for line in self._idle:
            line.close()
        self._idle = []
        self._taken = 0
        self._changed = threading.Condition()
        self._core_lock = threading.Lock()

    def take(self, timeout_s: float) -> _Line:
        """A place for one call.

        Raises:
            Busy: all were taken for `timeout_s`.
            Unavailable: the client has been closed.
        """
        with self._changed:
            if not self._changed.wait_for(lambda: self._closed or self._taken < self._most, timeout_s):
                raise Busy(f"all {self._most} connections were in use for {timeout_s:g} s; the call did not happen")
            if self._closed:
                raise Unavailable("this client has been closed")
            self._taken += 1
            line = self._idle.pop() if self._idle else None
        if line is None:
            with self._core_lock:
                return _Line(self.core.lane())
        line.check()
        return line

    def give_back(self, line: _Line) -> None:
        """The call is over."""
        with self._changed:
            self._taken -= 1
            if self._closed:
                line.close()
            else:
                self._idle.append(line)
            self._changed.notify()

    def close(self) -> None:
        """Close all connections, those in use when their calls are over."""
        with self._changed:
            self._closed = True
            idle, self._idle = self._idle, []
            self._changed.notify_all()
        for line in idle:
            line.close()

    def drive(self, line: _Line, flow: Generator[Effect, Outcome, _Returned]) -> _Returned:
        """Carry out `flow` to its end."""
        outcome: Outcome = None
        try:
            while True:
                with self._core_lock:
                    effect = flow.send(outcome)
                outcome = line.do(effect)
        except StopIteration as stop:
            return cast("_Returned", stop.value)
        except BaseException:  # an interrupt in the middle: the answers that come would be taken for others
            flow.close()
            line.drop()
            raise


_pools: weakref.WeakSet[_Pool] = weakref.WeakSet()
"""All pools of this process."""


def _begin_anew() -> None:
    for pool in tuple(_pools):
        pool.begin()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_begin_anew)


class Client(Blocking[Text], StringCommands, KeyCommands, ServerCommands):
    """A client of a cluster, for programs with threads. See docs/client.md.

    Args:
        url: the nodes: ``raftkv://h1:7001,h2:7001,h3:7001``.
        timeout: how many seconds a call may take, all retries included; 5 if the URL does not say otherwise.
        max_connections: how many connections there may be, and so calls at a time; 16 if the URL does not say otherwise.
        decode_responses: return text instead of bytes.

    Raises:
        InvalidSettings: an argument cannot be used. No connection is made before the first call.

    Every method may raise, besides what it says itself:

    - `Unavailable`, `Busy`: it surely did not happen, in all of the time that it had.
    - `Uncertain`: it may have happened, or may yet. A write is asked for again in its session until its outcome is known, so this is
      what is left when that took longer than the call may.
    - `ReplyError`: a node refused it in words of its own; it did not happen.
    """

    @overload
    def __init__(
        self: Client[bytes],
        url: str,
        *,
        timeout: float | None = None,
        max_connections: int | None = None,
        decode_responses: Literal[False] = False,
    ) -> None: ...

    @overload
    def __init__(
        self: Client[str], url: str, *, timeout: float | None = None, max_connections: int | None = None, decode_responses: Literal[True]
    ) -> None: ...

    def __init__(
        self, url: str, *, timeout: float | None = None, max_connections: int | None = None, decode_responses: bool = False
    ) -> None:
        settings = parse_url(url, timeout_s=timeout, max_connections=max_connections)
        core = Core(settings, time.monotonic, random.Random(), os.urandom)
        self._pool = _Pool(core, settings.max_connections)
        self._timeout_s = settings.timeout_s
        self._decode = decode_responses

    def __enter__(self) -> Client[Text]:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Close all connections. Calls that run go on; new ones are refused."""
        self._pool.close()

    def within(self, timeout: float) -> Client[Text]:
        """The same client, whose calls may take `timeout` seconds: ``client.within(0.5).get("k")``."""
        view = copy(self)
        view._timeout_s = check_timeout(timeout)
        return view

    def run(self, command: AnyCommand, *, timeout: float | None = None) -> Any:
        """Do any `Command`, within `timeout` seconds or those of the client."""
        [outcome] = self._perform([command], timeout)
        return delivered(outcome, self._decode)

    def execute(self, *args: Value, timeout: float | None = None) -> Any:
        """Do any command by its name and arguments: ``client.execute("CONFIG", "GET", "maxmemory")``.

        A node is asked once what kind of command it is: a read is retried like any, a write made once like any, and what concerns the node
        or the connection is sent once.

        Args:
            args: the name and the arguments.
            timeout: how many seconds it may take, if not those of the client.

        Returns:
            The answer as RESP3 has it: None, bool, int, float, bytes (or str), list or dict.

        Raises:
            InvalidRequest: the command would change the state of a connection, as MULTI does.
        """
        return self.run(any_command(args), timeout=timeout)

    def pipeline(self, *, timeout: float | None = None) -> Pipeline:
        """Commands that are sent together; `timeout` seconds are for all of them."""
        return Pipeline(self, timeout)

    def transaction(self, *watch: Key, timeout: float | None = None) -> Transaction[Text]:
        """Commands that happen together or not at all, and not if one of the keys in `watch` is changed meanwhile. `timeout` seconds are
        for each step: to watch, to read, to execute."""
        return Transaction(self, watch, timeout)

    def transact(self, work: Callable[[Transaction[Text]], _Result], *watch: Key, timeout: float | None = None) -> _Result:
        """Run `work` in a transaction, again from the beginning whenever a watched key was changed, until it went through.

        Args:
            work: reads by the ``now`` of the transaction that it is given, and calls its methods for what is to happen.
            watch: the keys.
            timeout: how many seconds all of it may take, if not those of the client.

        Returns:
            What `work` returned.

        Raises:
            WatchFailed: the keys were changed each time.
        """
        deadline_s = time.monotonic() + self._seconds(timeout)
        while True:
            try:
                with self.transaction(*watch, timeout=max(deadline_s - time.monotonic(), 0.001)) as transaction:
                    return work(transaction)
            except WatchFailed:
                if time.monotonic() >= deadline_s:
                    raise

    def scan_iter(self, *, match: Key | None = None, count: int | None = None, type: str | None = None) -> Iterator[Text]:
        """All keys, or those that `match` (a pattern) and `type` allow, page after page of about `count` keys. One that is there from
        beginning to end is returned; each page is a call of its own."""
        cursor = 0
        while True:
            cursor, found = self.scan(cursor, match=match, count=count, type=type)
            yield from found
            if cursor == 0:
                return

    def _seconds(self, timeout: float | None) -> float:
        return self._timeout_s if timeout is None else check_timeout(timeout)

    def _perform(self, commands: Sequence[AnyCommand], timeout: float | None) -> list[Any]:
        """The outcomes of `commands`."""
        pool = self._pool
        timeout_s = self._seconds(timeout)
        began_s = time.monotonic()
        line = pool.take(timeout_s)
        try:
            return pool.drive(line, pool.core.perform(line.lane, commands, timeout_s - (time.monotonic() - began_s)))
        finally:
            pool.give_back(line)


class Pipeline(CommandQueue):
    """Commands that are sent together, by one thread. A ``with`` block, or not; what was not executed at its end is dropped.

    The commands take effect in their order, but others may come in between; each has an outcome of its own. After a failure those without
    an answer are asked for again, writes in their session, so that each happens once.
    """

    def __init__(self, client: Client[bytes] | Client[str], timeout: float | None) -> None:
        super().__init__()
        self._client = client
        self._timeout = timeout

    def __enter__(self) -> Pipeline:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.take()

    def execute(self, *, raise_on_error: bool = True) -> list[Any]:
        """Do everything that was kept, in order.

        Args:
            raise_on_error: raise the first error, when all have an outcome; otherwise errors are among the results.

        Returns:
            The result of each command.
        """
        commands = self.take()
        outcomes = self._client._perform(commands, self._timeout) if commands else []
        return all_delivered(outcomes, self._client._decode, raise_on_error)


class Transaction(CommandQueue, Generic[Text]):
    """Commands of one thread that happen together, at the end of a ``with`` block::

        with client.transaction("stock") as t:
            left = int(t.now.get("stock") or 0)     # at once, on the connection that watches
            t.set("stock", left - 1)                # when the block ends
        t.results                                   # what each command was answered

    A block that is left by an exception does nothing. The end of the block raises `WatchFailed` if a watched key has changed since the
    block began, and then nothing happened. The error of a single command does not undo the others, as in Redis; it is raised when all
    have happened.
    """

    def __init__(self, client: Client[Text], watch: tuple[Key, ...], timeout: float | None) -> None:
        super().__init__()
        self._client: Client[Text] = client
        self._watch = tuple(map(encode, watch))
        self._timeout_s = client._seconds(timeout)
        self._line: _Line | None = None
        self.results: list[Any] = []
        """What the commands were answered, once the block has ended."""

    def __enter__(self) -> Transaction[Text]:
        pool = self._client._pool
        self._line = line = pool.take(self._timeout_s)
        try:
            if self._watch:
                whole(pool.drive(line, watch(pool.core, line.lane, self._watch, self._timeout_s)))
        except BaseException:
            self._leave(line)
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        line = self._line
        if line is None:
            return
        pool = self._client._pool
        commands = self.take()
        try:
            if error is None and commands:
                flow = commit(pool.core, line.lane, commands, bool(self._watch), self._timeout_s)
                self.results = all_delivered(whole(pool.drive(line, flow)), self._client._decode, raise_on_error=False)
            elif self._watch:
                pool.drive(line, unwatch(pool.core, line.lane, self._timeout_s))
        finally:
            self._leave(line)
        for result in self.results:
            if isinstance(result, RaftkvError):
                raise result

    @property
    def now(self) -> Now[Text]:
        """The methods of a client, done at once on the connection that watches: for the reads that the transaction rests on."""
        return Now(self)

    def _leave(self, line: _Line) -> None:
        self._line = None
        self._client._pool.give_back(line)

    def _look(self, command: AnyCommand) -> Any:
        if self._line is None:
            raise Unavailable("the transaction is over, or has not begun")
        pool = self._client._pool
        step = look if self._watch else look_anywhere
        [outcome] = whole(pool.drive(self._line, step(pool.core, self._line.lane, command, self._timeout_s)))
        return delivered(outcome, self._client._decode)


class Now(Blocking[Text], StringCommands, KeyCommands, ServerCommands):
    """What a transaction reads before it happens."""

    def __init__(self, transaction: Transaction[Text]) -> None:
        self._transaction: Transaction[Text] = transaction

    def run(self, command: AnyCommand) -> Any:
        """Do `command` at once."""
        return self._transaction._look(command)
