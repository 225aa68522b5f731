"""What a node does in the turns of its loop, around its replica and its router: time passes, other nodes' frames arrive, work is done.

What always holds: the core gets as many ticks as time has passed, also after a pause, so that a leader that slept knows it before it
answers; a frame goes to the one part that it is for; what the replica and the router have ready leaves at the end of a turn.

What is not here: when a turn comes, what a clock shows, and connections. The server and the simulator each bring their own, and both run
this. An error goes up to whoever runs the turn: it stops the node.
"""

from __future__ import annotations

from collections.abc import Callable

from raftkv.codec.peer import (
    EntriesFound,
    EntriesWant,
    ForwardReads,
    ForwardWrites,
    Publish,
    ReadAnswers,
    ReadsRefused,
    Transfer,
    Value,
    WritesRefused,
)
from raftkv.kv.clock import LogClock
from raftkv.ports import Shell
from raftkv.raft.types import NodeId
from raftkv.repair import ReadableLog, answer
from raftkv.replica import Replica
from raftkv.router.router import Router

_FOR_ROUTER = (ForwardWrites, WritesRefused, ForwardReads, ReadAnswers, ReadsRefused, Publish)


class Turns:
    """One node's turns.

    Args:
        replica: the replica.
        router: its router.
        clock: the clock of the log, which is told what this machine's shows.
        log: the durable log, from which other nodes are given entries that are rotten in theirs.
        shell: the surroundings.
        wall_ms: this machine's clock.
        transfer: does what an operator asks for at another node: to hand over the leadership, to a node or to whichever is best.
        tick_ms: how long a tick takes.
        heartbeat_ticks: the period of what is done now and then.
        ticks: how much of that period has passed.
    """

    def __init__(
        self,
        replica: Replica,
        router: Router,
        clock: LogClock,
        log: ReadableLog,
        shell: Shell,
        wall_ms: Callable[[], int],
        transfer: Callable[[NodeId | None], None],
        *,
        tick_ms: int,
        heartbeat_ticks: int,
        ticks: int = 0,
    ) -> None:
        self._replica = replica
        self._router = router
        self._clock = clock
        self._log = log
        self._shell = shell
        self._wall_ms = wall_ms
        self._transfer = transfer
        self._tick_ms = tick_ms
        self._heartbeat_ticks = heartbeat_ticks
        self.ticks = ticks
        """Ticks since the last heartbeat."""
        self._ticked_ms = 0

    def begin(self, now_ms: int) -> None:
        """Time passes from now on."""
        self._ticked_ms = now_ms

    def due_ms(self, *, calm: bool) -> int:
        """When there is something to do if nothing happens: at the next tick, or when it is `calm` at the next heartbeat."""
        return self._ticked_ms + (self._heartbeat_ticks - self.ticks if calm else 1) * self._tick_ms

    def pass_time(self, now_ms: int) -> None:
        """Give the core the ticks that are due. After a long pause two election timeouts tell it all there is to know."""
        due = (now_ms - self._ticked_ms) // self._tick_ms
        if due < 1:
            return
        self._ticked_ms += due * self._tick_ms
        self.ticks += due
        for _ in range(min(due, 2 * self._replica.raft.config.election_ticks)):
            self._replica.tick()
        if self.ticks >= self._heartbeat_ticks:
            self.ticks = 0
            self._clock.observe(self._replica.node, self._wall_ms(), now_ms)
            self._router.tick(now_ms)
            self._shell.wake()

    def work(self, now_ms: int) -> None:
        """Do what there is to do, all of it at once for whatever came in this iteration of the loop."""
        self.pass_time(now_ms)
        self._replica.pump(now_ms)
        self._router.flush(now_ms)
        if self._replica.raft.has_ready():
            self._replica.pump(now_ms)
            self._router.flush(now_ms)

    def take(self, sender: NodeId, value: Value, now_ms: int) -> None:
        """Another node sent `value`."""
        if isinstance(value, _FOR_ROUTER):
            self._router.received(sender, value, now_ms)
        elif isinstance(value, EntriesWant):
            self._answer(sender, value)
        elif isinstance(value, Transfer):
            self._transfer(value.to or None)
        else:
            self._replica.receive(sender, value)
        self._shell.wake()

    def _answer(self, sender: NodeId, want: EntriesWant) -> None:
        """A node whose log is rotten asks for entries."""
        leads, term = self._replica.vouches, self._replica.raft.term

        def answered(result: EntriesFound | BaseException) -> None:
            if isinstance(result, BaseException):
                raise result
            self._shell.send(sender, result)

        self._shell.background(lambda: answer(self._log, want, leads=leads, term=term), answered)
