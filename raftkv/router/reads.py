"""Linearizable reads: asked of the leader, answered from an applied state (thesis, section 6.4).

A leader asks the core for one read point for all the reads that have come in, its own clients' and other nodes', and executes
them once its state machine has applied that point. Any other node forwards its clients' reads to the leader and waits for the
replies. What always holds:

- A read is executed only after a read point that was asked for after the read had arrived, and only at a state that has applied it.
- A number that names a round or a forwarded frame is never used again by this process, and another process's numbers are far
  away, so an answer that comes late meets nobody.
- A read has no effect, so it can be asked again (another leader, silence) until its time is over, and then fails definitely.
- Reads of one connection are executed in their order, also when some are asked again: what follows reads that are not answered yet is
  asked together with them or waits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from raftkv.codec.peer import ForwardReads, ReadAnswers, ReadsRefused
from raftkv.errors import NotLeader, ProtocolError
from raftkv.kv.command import Command, Kind
from raftkv.kv.commands import decode_commands, encode_commands
from raftkv.kv.keyspace import TakesLong
from raftkv.kv.replies import Failure, Reply, decode_replies, encode_replies, reply_bytes
from raftkv.raft.types import Index, NodeId
from raftkv.router.connection import Connection
from raftkv.router.ports import ReplicaPort, RouterSettings


class OwnReads:
    """Consecutive reads of one connection; a slow one is on its own. `commands` are those not answered yet, `before` the reads of the
    connection before them as long as they wait, and `asked_with` the number of the frame or round that they were last asked in."""

    __slots__ = ("asked_with", "before", "commands", "connection", "deadline_ms", "size", "ticket")

    def __init__(
        self, connection: Connection, ticket: int, commands: list[Command], size: int, deadline_ms: int, before: OwnReads | None = None
    ) -> None:
        self.before = before
        self.asked_with = 0
        self.connection = connection
        self.ticket = ticket
        self.commands = commands
        self.size = size
        self.deadline_ms = deadline_ms

    @property
    def over(self) -> bool:
        """Whether nobody waits for it any more."""
        return not self.commands or self.connection.closed

    def join(self, number: int) -> bool:
        """Be asked in the frame or round `number`, unless reads before these wait elsewhere."""
        if self.before is not None and self.before.over:
            self.before = None
        if self.before is not None and self.before.asked_with != number:
            return False
        self.asked_with = number
        return True

    def answer(self, replies: list[Reply]) -> None:
        """Hand over the replies to the first of the reads, in order."""
        if self.over or not replies:
            return
        count = len(replies)
        self.connection.reads_answered(self.ticket, replies)
        self.ticket += count
        self.commands = self.commands[count:]

    def fail(self, failure: Failure) -> None:
        """Answer everything that is left with `failure`."""
        self.answer([failure] * len(self.commands))
        self.connection.gave_up = True


class ForeignReads:
    """A frame of reads that another node forwarded; `over` once it has been answered, refused or forgotten by that node."""

    __slots__ = ("commands", "deadline_ms", "id", "node", "over")

    def __init__(self, node: NodeId, number: int, commands: list[Command], deadline_ms: int) -> None:
        self.node = node
        self.id = number
        self.commands = commands
        self.deadline_ms = deadline_ms
        self.over = False


Waiting = OwnReads | ForeignReads


class _Round:
    """Reads that share a read point, and the index of an expiry that they must see besides."""

    __slots__ = ("expiry_point", "point", "reads")

    def __init__(self, reads: list[Waiting], expiry_point: Index) -> None:
        self.reads = reads
        self.expiry_point = expiry_point
        self.point: Index = 0


class _Frame:
    """Runs of reads that were forwarded together, and how many reads of each."""

    __slots__ = ("asked_ms", "parts", "slow")

    def __init__(self, reads: list[OwnReads], asked_ms: int, slow: bool) -> None:
        self.parts = [(each, len(each.commands)) for each in reads]
        self.asked_ms = asked_ms
        self.slow = slow

    def left(self) -> list[OwnReads]:
        """The runs that still wait."""
        return [reads for reads, _ in self.parts if not reads.over]


class Reads:
    """All the reads that wait at this node.

    Args:
        replica: gives read points and the machine.
        settings: the bounds.
        send: sends a frame to a node; False when it surely did not leave.
        wake: asks for another `serve` soon.
        seed: where the numbers of this process begin.
    """

    def __init__(
        self,
        replica: ReplicaPort,
        settings: RouterSettings,
        send: Callable[[NodeId, object], bool],
        wake: Callable[[], None],
        seed: int,
    ) -> None:
        self._replica = replica
        self._settings = settings
        self._send = send
        self._wake = wake
        self._next_id = seed
        self._collected: list[Waiting] = []
        self._asked: dict[int, _Round] = {}
        self._pointed: list[_Round] = []
        self._frames: dict[int, _Frame] = {}
        self._slow: list[Waiting] = []
        self._foreign_count = 0
        self._clock_ms = 0
        self._resume_ms = 0
        self._pause_ms = settings.retry_ms

    # What the router asks.

    @property
    def in_flight(self) -> int:
        """Reads of this node's clients that wait."""
        return sum(len(reads.commands) for reads in self._everything() if isinstance(reads, OwnReads))

    @property
    def collected(self) -> bool:
        """Whether reads wait to be asked."""
        return bool(self._collected)

    def add(self, reads: OwnReads) -> None:
        """Reads of a client of this node have come in."""
        self._collected.append(reads)

    def _everything(self) -> Iterator[Waiting]:
        yield from self._collected
        for entry in (*self._asked.values(), *self._pointed):
            yield from entry.reads
        for frame in self._frames.values():
            yield from frame.left()
        yield from self._slow

    def _number(self) -> int:
        self._next_id += 1
        return self._next_id

    # At the leader.

    def accept(self, node: NodeId, frame: ForwardReads, now_ms: int) -> str | None:
        """Take reads that `node` forwarded, or say why not."""
        try:
            commands = decode_commands(frame.commands)
        except ProtocolError:
            return "malformed"
        if not commands or any(command.kind is not Kind.READ for command in commands):
            return "malformed"
        if self._foreign_count + len(commands) > self._settings.max_forwarded_reads:
            return "busy"
        self._collected.append(ForeignReads(node, frame.id, commands, now_ms + self._settings.timeout_ms))
        self._foreign_count += len(commands)
        return None

    def _end(self, reads: ForeignReads) -> None:
        if not reads.over:
            reads.over = True
            self._foreign_count -= len(reads.commands)

    def ask(self, expiry_point: Index) -> None:
        """Ask for one read point for everything collected, which must also see `expiry_point` applied."""
        if not self._collected:
            return
        context = self._number()
        asked: list[Waiting] = []
        waiting: list[Waiting] = []
        for reads in self._collected:
            (asked if isinstance(reads, ForeignReads) or reads.join(context) else waiting).append(reads)
        if not asked:
            return
        try:
            self._replica.read_index(context)
        except NotLeader:
            return
        self._asked[context] = _Round(asked, expiry_point)
        self._collected = waiting

    def _ask_later(self, reads: Sequence[Waiting]) -> None:
        """`reads` have to be asked again, before what has come in since."""
        self._collected[:0] = reads

    def read_point(self, context: int, index: Index) -> None:
        """The core has confirmed a round."""
        entry = self._asked.pop(context, None)
        if entry is not None:
            entry.point = index
            self._pointed.append(entry)

    def serve(self, clock_ms: int) -> None:
        """Execute the reads whose point has been applied. Times to live count from `clock_ms` (0: from the log's clock)."""
        self._clock_ms = clock_ms
        if not self._pointed or not self._replica.ready_to_serve:
            return
        applied = self._replica.applied_index
        ready = [entry for entry in self._pointed if entry.point <= applied and entry.expiry_point <= applied]
        if not ready:
            return
        self._pointed = [entry for entry in self._pointed if entry not in ready]
        for entry in ready:
            left: list[Waiting] = []
            for reads in entry.reads:
                if (isinstance(reads, OwnReads) and reads.before in left) or not self._execute(reads):
                    left.append(reads)
            entry.reads = left
            if left:
                self._pointed.append(entry)
                self._wake()

    def execute_local(self, reads: OwnReads) -> None:
        """Answer reads of a client of this node from the state as it is."""
        if not self._execute(reads):
            self._pointed.append(_Round([reads], 0))
            self._wake()

    def _execute(self, reads: Waiting) -> bool:
        """Answer `reads` from the state as it is; False when their replies are so large that the rest must wait for the next
        turn."""
        if reads.over:
            return True
        if reads.commands[0].slow:
            self._execute_slow(reads)
            return True
        replies, size = self._read(reads.commands)
        if not replies:
            self._execute_slow(reads)
            return True
        if isinstance(reads, ForeignReads):
            self._answer_foreign(reads, replies, size)
        else:
            reads.answer(replies)
        return reads.over

    def _execute_slow(self, reads: Waiting) -> None:
        def done(reply: Reply) -> None:
            self._slow.remove(reads)
            if isinstance(reads, ForeignReads):
                self._answer_foreign(reads, [reply], reply_bytes(reply))
            else:
                reads.answer([reply])
                if not reads.over:  # what was found to take long on the way
                    self._pointed.append(_Round([reads], 0))
            self._wake()

        self._slow.append(reads)
        self._replica.run_slow(reads.commands[0], done)

    def _read(self, commands: Sequence[Command]) -> tuple[list[Reply], int]:
        """The replies to as many commands, at least one, as fit into one answer, and their bytes; none when the first takes so long that
        it is for another thread."""
        read = self._replica.machine.read
        clock_ms = self._clock_ms
        limit = self._settings.max_answer_bytes
        replies: list[Reply] = []
        size = 0
        for command in commands:
            try:
                reply = read(command, clock_ms)
            except TakesLong:
                break
            replies.append(reply)
            size += reply_bytes(reply)
            if size > limit:
                break
        return replies, size

    def _answer_foreign(self, reads: ForeignReads, replies: list[Reply], size: int) -> None:
        """Send replies to the first of the reads; the node asks again for the rest."""
        if reads.over:
            return
        limit = self._settings.max_answer_bytes
        if size > limit and len(replies) > 1:
            replies = replies[:-1]
        elif size > limit:
            replies = [Failure("ERR", f"the reply is larger than {limit} bytes, the most that one node answers another; ask for less")]
        self._end(reads)
        self._send(reads.node, ReadAnswers(reads.id, encode_replies(replies)))

    def lose_lead(self, reason: str) -> None:
        """Leadership is over or in another term: rounds that were not confirmed are void."""
        self._ask_later([reads for entry in self._asked.values() for reads in entry.reads])
        self._asked.clear()
        for entry in self._pointed:
            entry.expiry_point = 0
        kept: list[Waiting] = []
        for reads in self._collected:
            if isinstance(reads, ForeignReads):
                self._refuse(reads, reason)
            else:
                kept.append(reads)
        self._collected = kept

    def _refuse(self, reads: ForeignReads, reason: str) -> None:
        if not reads.over:
            self._end(reads)
            self._send(reads.node, ReadsRefused(reads.id, reason))

    def node_gone(self, node: NodeId) -> None:
        """The connection to `node` broke: what it asked, it asks again; what it was asked, it may have forgotten."""
        for reads in self._everything():
            if isinstance(reads, ForeignReads) and reads.node == node:
                self._end(reads)

    # At another node.

    def paused(self, now_ms: int) -> bool:
        """Whether a refusal or a loss is to be waited out."""
        return now_ms < self._resume_ms

    def forward(self, leader: NodeId, now_ms: int) -> None:
        """Send everything collected to the leader."""
        waiting = [reads for reads in self._collected if isinstance(reads, OwnReads) and not reads.over]
        self._collected = []
        for position, (number, frame) in enumerate(frames := list(self._frames_of(waiting))):
            commands = [command for reads in frame for command in reads.commands]
            if not self._send(leader, ForwardReads(number, encode_commands(commands), len(commands))):
                self._ask_later([reads for _, unsent in frames[position:] for reads in unsent])
                self._hold(now_ms)
                return
            self._frames[number] = _Frame(frame, now_ms, commands[0].slow)

    def _frames_of(self, waiting: list[OwnReads]) -> Iterator[tuple[int, list[OwnReads]]]:
        """Cut reads into numbered frames: whole runs up to the bounds of a group, and each slow read on its own. What may not be
        asked yet is collected again."""
        settings = self._settings
        frame: list[OwnReads] = []
        number = self._number()
        count = size = 0
        for reads in waiting:
            slow = reads.commands[0].slow
            full = count + len(reads.commands) > settings.group_commands or size + reads.size > settings.group_bytes
            if frame and full and not slow:
                yield number, frame
                frame, number, count, size = [], self._number(), 0, 0
            own = self._number() if slow else number
            if not reads.join(own):
                self._collected.append(reads)
            elif slow:
                yield own, [reads]
            else:
                frame.append(reads)
                count += len(reads.commands)
                size += reads.size
        if frame:
            yield number, frame

    def answered(self, number: int, data: bytes) -> None:
        """The leader has answered the first of the reads of a frame, usually all."""
        frame = self._frames.pop(number, None)
        if frame is None:
            return
        replies = decode_replies(data)
        start = 0
        for reads, count in frame.parts:
            reads.answer(replies[start : start + count])
            start += count
        self._ask_later(frame.left())
        self._pause_ms = self._settings.retry_ms

    def refused(self, number: int, now_ms: int) -> None:
        """The node asked cannot answer a frame: ask again after a pause."""
        frame = self._frames.pop(number, None)
        if frame is not None:
            self._ask_later(frame.left())
            self._hold(now_ms)

    def ask_again(self) -> None:
        """Another leader, or another connection to it: what was forwarded is asked again, now."""
        self._ask_later([reads for frame in self._frames.values() for reads in frame.left()])
        self._frames.clear()
        self._resume_ms = 0
        self._pause_ms = self._settings.retry_ms

    def _hold(self, now_ms: int) -> None:
        if now_ms >= self._resume_ms:
            self._resume_ms = now_ms + self._pause_ms
            self._pause_ms = min(2 * self._pause_ms, self._settings.max_retry_ms)

    # Time.

    def tick(self, now_ms: int, late: Failure) -> None:
        """Fail what has waited too long with `late`, and ask again what was forwarded and met silence."""
        for reads in self._everything():
            if reads.deadline_ms <= now_ms and not reads.over:
                if isinstance(reads, OwnReads):
                    reads.fail(late)
                else:
                    self._refuse(reads, "late")
        self._collected = [reads for reads in self._collected if not reads.over]
        for entry in self._asked.values():
            entry.reads = [reads for reads in entry.reads if not reads.over]
        self._pointed = [entry for entry in self._pointed if any(not reads.over for reads in entry.reads)]
        for number, frame in list(self._frames.items()):
            silent = not frame.slow and now_ms - frame.asked_ms >= self._settings.stall_ms
            left = frame.left()
            if silent or not left:
                del self._frames[number]
                self._ask_later(left)

    def fail_all(self, failure: Failure) -> None:
        """Answer every read of this node's clients with `failure`."""
        for reads in list(self._everything()):
            if isinstance(reads, OwnReads):
                reads.fail(failure)
