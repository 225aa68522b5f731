"""Which request waits for what: the order on a connection, sequencing, forwarding, reads, deadlines and outcomes.

The router stands between the client connections and the replica. It is pure: no sockets, threads or clocks; every time is a
monotonic number of milliseconds that is passed in, and replies and frames leave through callables. The server calls `flush` once
after all the input of an iteration of its event loop: that is when collected writes are proposed or forwarded, reads are asked,
and replies leave.

What always holds:

- The commands of a connection take effect in their order, and their replies leave in their order. A run of writes is issued
  together; a read waits until the writes before it are answered, a write until the reads are, and everything else until all is.
- An acknowledged write was applied exactly once. CLUSTERDOWN and OVERLOADED are said only of what surely did not happen,
  UNCERTAIN of what may have.
- Everything that waits is bounded in number, bytes and time.
- Nothing that a client's connection does disturbs applying: replies are kept, and leave in `flush`.

`OwnWrites` (writes.py) is the session of this node's writes, `Proposals` (proposals.py) the leader's batch, `Reads` (reads.py) the
linearizable reads, `Desk` (desk.py) the commands that concern a connection or the node, `Transactions` (transactions.py) what is watched
and queued until EXEC, `Channels` (channels.py) who is told what is published, `Line` (waiting.py) the blocking pops that wait for an
element.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random
from typing import Protocol

from raftkv.codec.peer import ForwardReads, ForwardWrites, Publish, ReadAnswers, ReadsRefused, WritesRefused
from raftkv.kv.batch import Group
from raftkv.kv.blocking_commands import Blocking
from raftkv.kv.command import Command, ConnectionCommand, Kind
from raftkv.kv.commands import parse_request
from raftkv.kv.machine import GroupReplies
from raftkv.kv.replies import CommandError, Failure, Reply
from raftkv.raft.ready import Role, RoleChange
from raftkv.raft.types import Index, NodeId
from raftkv.router.channels import PUBLISHING, Channels, refusal_in_context
from raftkv.router.connection import Chunk, Connection
from raftkv.router.desk import Desk
from raftkv.router.info import Counts
from raftkv.router.ports import ClockPort, NodeFacts, NoOperations, OperationsPort, ReplicaPort, RouterSettings, SocketFacts
from raftkv.router.postponed import Postponed
from raftkv.router.proposals import Outcome, Proposals
from raftkv.router.reads import OwnReads, Reads
from raftkv.router.surroundings import Surroundings
from raftkv.router.transactions import NAMES as TRANSACTION_NAMES
from raftkv.router.transactions import Transactions, name_inside
from raftkv.router.waiting import WAITING_KEY_BYTES, Line, Waiter
from raftkv.router.writes import OwnWrites

_CONNECTION, _READ, _WRITE = Kind.CONNECTION, Kind.READ, Kind.WRITE  # members of an enum cost more to look up than names

_NAME_BYTES = 64
"""So much of the name of a command is kept for CLIENT LIST; none has so many."""

REBUILDING = Failure("CLUSTERDOWN", "this node is rebuilding its state; ask another node")
STOPPING = Failure("CLUSTERDOWN", "this node is stopping; ask another node")
OVERLOADED = Failure("OVERLOADED", "this node holds as many requests as it may; wait and try again")


class ReplyPort(Protocol):
    """Takes replies to a connection: in order, in RESP version `protocol`; with `close`, the connection ends after them. As many as
    `unasked` of them are pushes that answer no request."""

    def __call__(self, connection_id: int, replies: list[Reply], protocol: int, close: bool, unasked: int = 0) -> None: ...


class Router:
    """See the module.

    Args:
        replica: the replica of this node.
        settings: bounds and periods.
        session: 16 random bytes, drawn for this process; the random numbers in commands follow from them.
        send: sends a frame to a node; False when it surely did not leave.
        reply: takes the replies of a connection.
        clock: makes the leader's stamps.
        new_session: draws another session.
        wake: asks for a `flush` soon; without it what was held back would stay.
        facts: what INFO and ROLE tell about the node.
        operations: does what an operator asks, where there is one.
        sockets: what CLIENT LIST tells about a connection.
    """

    def __init__(
        self,
        replica: ReplicaPort,
        settings: RouterSettings,
        session: bytes,
        send: Callable[[NodeId, object], bool],
        reply: ReplyPort,
        clock: ClockPort,
        new_session: Callable[[], bytes],
        wake: Callable[[], None],
        facts: Callable[[], NodeFacts] = NodeFacts,
        operations: OperationsPort | None = None,
        sockets: Callable[[int], SocketFacts] = lambda connection_id: SocketFacts(),
    ) -> None:
        self._replica = replica
        self._settings = settings
        self._send = send
        self._reply = reply
        self._connections: dict[int, Connection] = {}
        self._changed: list[Connection] = []
        self._held_commands = 0
        self._held_bytes = 0
        self._wake = wake
        self._writes_came = False
        self._gathered = 0
        """Flushes at which the writes that wait were held back for others to join."""
        self._stopping = False
        self._leader: NodeId | None = None
        self._term = 0
        self._leading = False
        self._leaderless_since_ms: int | None = None
        self._refusals: dict[NodeId, str] = {}
        self._writes = OwnWrites(settings, session, new_session)
        self._proposals = Proposals(replica, settings, clock, self._writes)
        self._reads = Reads(replica, settings, send, wake, int.from_bytes(session[:6]) << 15)
        self._random = Random(session)
        self._line = Line()
        self._postponed = Postponed(replica)
        self._channels = Channels(settings, send)
        self._desk = Desk(
            Surroundings(
                replica=replica,
                facts=facts,
                sockets=sockets,
                counts=self.counts,
                operations=operations or NoOperations(),
                connections=self._connections,
                disconnect=self._disconnect,
                unblock=self._unblock,
                postponed=self._postponed,
                channels=self._channels,
            )
        )
        self._transactions = Transactions(
            settings,
            self._desk.names | PUBLISHING,
            self._attend_now,
            self._write_queued,
            self._read_watched,
            self._has_room,
            self._draw,
        )
        seconds = settings.timeout_ms / 1000
        self._late_read = Failure("CLUSTERDOWN", f"the read was not answered within {seconds:g} s; a read has no effect")
        self.commands_processed = 0
        self._errors: dict[str, int] = {}
        """How many replies were errors, by their code."""
        self.refused_frames = 0
        """Frames of other nodes that made no sense."""
        self.last_reply_error: Exception | None = None
        """What the last `reply` that failed raised. Its connection was given up."""

    def _draw(self) -> int:
        return self._random.getrandbits(63)

    # Clients.

    def open(self, connection_id: int, address: str) -> None:
        """A client has connected."""
        self._connections[connection_id] = Connection(connection_id, address, self._changed, self._transactions.open())

    def closed(self, connection_id: int) -> None:
        """A client is gone. Its writes that never left are dropped; the others run on."""
        connection = self._connections.pop(connection_id, None)
        if connection is not None:
            self._give_up(connection)

    def ended(self, connection_id: int) -> None:
        """A client will ask nothing more. What he asked before is answered, unless it waits for something that may never come."""
        connection = self._connections.get(connection_id)
        if connection is not None:
            self._line.client_ended(connection)
            if self._postponed.holds(connection_id):
                self._end_waiting(connection)

    def _disconnect(self, connection: Connection) -> None:
        """End a connection that is not being served now. What it asked for and was not answered is as if its client had gone."""
        del self._connections[connection.id]
        self._give_up(connection)
        self._hand_over(connection, [], close=True)

    def _give_up(self, connection: Connection) -> None:
        count, size = connection.held
        self._held_commands -= count
        self._held_bytes -= size
        if connection.writes_out:
            self._writes.client_gone()
        self._postponed.forget(connection)
        self._channels.forget(connection)
        self._line.forget(connection)
        connection.close()

    def submit(self, connection_id: int, requests: list[list[bytes]], now_ms: int) -> None:
        """A client asks for `requests`, each a list of at least one argument, in this order."""
        connection = self._connections.get(connection_id)
        if connection is None or connection.closing or connection.closed or not requests:
            return
        settings = self._settings
        connection.command = requests[-1][0][:_NAME_BYTES]
        sizes = [sum(map(len, request)) for request in requests]
        count, total = len(sizes), sum(sizes)
        deadline_ms = now_ms + settings.timeout_ms
        refusal: Failure | None = None
        if self._held_commands + count > settings.max_commands or self._held_bytes + total > settings.max_bytes:
            refusal = OVERLOADED
            if connection.chunks or not connection.idle:
                connection.hold([0] * count)
                connection.chunks.append(Chunk([], [], deadline_ms, 0, refusal, unkept=[name_inside(request) for request in requests]))
                self._held_commands += count
                return
        self._held_commands += count
        self._held_bytes += total
        connection.hold(sizes)
        if connection.chunks:
            connection.chunks.append(Chunk(requests, sizes, deadline_ms, 0, refusal))
            return
        position = self._take(connection, requests, sizes, 0, deadline_ms, self._refusal or refusal)
        if position < count and not connection.closing:
            connection.chunks.append(Chunk(requests, sizes, deadline_ms, position, refusal))

    # Taking up requests in their order.

    @property
    def _refusal(self) -> Failure | None:
        """Why this node takes up no reads and writes at all, if so."""
        if self._stopping:
            return STOPPING
        return None if self._replica.ready_to_serve else REBUILDING

    def _advance(self, connection: Connection, now_ms: int) -> None:
        """Take up whatever may be taken up now of the requests that waited."""
        while connection.chunks and not connection.closing:
            chunk = connection.chunks[0]
            for name in chunk.unkept:
                self._transactions.refuse(connection, name, OVERLOADED)
            if not connection.gave_up:  # what was before it has been answered just now: its time begins
                chunk.deadline_ms = now_ms + self._settings.timeout_ms
            late = self._unsent_failure() if chunk.deadline_ms <= now_ms else None
            refusal = self._refusal or chunk.refusal or late
            position = self._take(connection, chunk.requests, chunk.sizes, chunk.position, chunk.deadline_ms, refusal)
            if position < len(chunk.requests):
                chunk.position = position
                return
            connection.chunks.pop(0)

    def _take(
        self,
        connection: Connection,
        requests: list[list[bytes]],
        sizes: list[int],
        position: int,
        deadline_ms: int,
        refusal: Failure | None,
    ) -> int:
        """Take up requests from `position` on until one has to wait; its position is returned.

        With `refusal`, nothing is taken up but what concerns the connection or the node.
        """
        end = len(requests)
        connection.settle()
        transaction = connection.transaction
        while position < end and not connection.closing and connection.waiter is None:
            if transaction.items is not None:
                if not self._transactions.take_inside(connection, requests[position], sizes[position], deadline_ms, refusal):
                    break
                position += 1
                continue
            if connection.subscribed and connection.protocol == 2:
                failure = refusal_in_context(requests[position])
                if failure is not None:
                    connection.reply(failure)
                    position += 1
                    continue
            try:
                command = parse_request(requests[position], self._draw)
            except CommandError as error:
                connection.reply(self._transactions.refused(connection, requests[position], error))
                position += 1
                continue
            if command.kind is _CONNECTION:
                if not self._attend(connection, command, deadline_ms, refusal):
                    break
                position += 1
            elif refusal is not None:
                connection.reply(refusal)
                position += 1
            elif command.kind is _WRITE:
                if not connection.may_write:
                    break
                if isinstance(command, Blocking):
                    self._block(connection, command, sizes[position], deadline_ms)
                    position += 1
                    break
                commands = [command] if position + 1 == end else self._run(requests, position, command)
                after = position + len(commands)
                self._issue_writes(connection, commands, sizes[position:after], deadline_ms)
                position = after
            else:
                if not connection.may_read:
                    break
                commands = [command] if position + 1 == end or command.slow else self._run(requests, position, command)
                after = position + len(commands)
                self._issue_reads(connection, commands, sum(sizes[position:after]), deadline_ms)
                position = after
        return position

    def _run(self, requests: list[list[bytes]], position: int, command: Command) -> list[Command]:
        """`command`, which is the request at `position`, and the commands of its kind that follow it; a slow one ends the run."""
        kind = command.kind
        commands = [command]
        for following in range(position + 1, len(requests)):
            try:
                command = parse_request(requests[following], self._draw)
            except CommandError:
                break  # it is met again at its turn
            if command.kind is not kind or command.slow or isinstance(command, Blocking):
                break
            commands.append(command)
        return commands

    def _issue_writes(self, connection: Connection, commands: list[Command], sizes: list[int], deadline_ms: int) -> None:
        limit = self._settings.max_entry_bytes
        size = sum(sizes)
        if size <= limit or max(sizes) <= limit:
            self._writes_came = True
            self._writes.add(connection, connection.expect_writes(len(commands)), commands, sizes, size, deadline_ms)
            return
        for command, one in zip(commands, sizes, strict=True):
            if one <= limit:
                self._issue_writes(connection, [command], [one], deadline_ms)
            else:
                connection.reply(Failure("ERR", f"the command has {one} bytes; max_entry_bytes is {limit}"))

    def _block(self, connection: Connection, command: Blocking, size: int, deadline_ms: int) -> None:
        """Take up a blocking pop: nothing behind it is taken up before it is answered."""
        limit = self._settings.max_entry_bytes
        if size > limit:
            connection.reply(Failure("ERR", f"the command has {size} bytes; max_entry_bytes is {limit}"))
            return
        waiting = WAITING_KEY_BYTES * len(command.sources)
        if not self._has_room(0, waiting):
            connection.reply(OVERLOADED)
            return
        connection.grow_next(waiting)
        self._held_bytes += waiting
        ticket = connection.expect_writes(1)
        self._attempt(self._line.begin(connection, ticket, command, size, deadline_ms - self._settings.timeout_ms), deadline_ms)

    def _attempt(self, waiter: Waiter, deadline_ms: int) -> None:
        self._writes_came = True
        self._writes.add(waiter, waiter.ticket, [waiter.command], [waiter.size], waiter.size, deadline_ms)

    def _unblock(self, connection_id: int, error: bool) -> bool:
        connection = self._connections.get(connection_id)
        if connection is None:
            return False
        return self._line.unblock(connection, error=error) or self._postponed.unblock(connection_id, error=error)

    def _issue_reads(self, connection: Connection, commands: list[Command], size: int, deadline_ms: int) -> None:
        ticket = connection.expect_reads(len(commands))
        before = connection.last_reads
        reads = OwnReads(connection, ticket, commands, size, deadline_ms, None if before is None or before.over else before)
        connection.last_reads = reads
        if connection.readonly:
            self._reads.execute_local(reads)
        else:
            self._reads.add(reads)

    def _write_queued(self, connection: Connection, command: Command, size: int, deadline_ms: int) -> None:
        """Take up a transaction, whose size counts until it is answered."""
        connection.grow_next(size)
        self._held_bytes += size
        self._issue_writes(connection, [command], [size], deadline_ms)

    def _read_watched(self, connection: Connection, command: Command, size: int, deadline_ms: int) -> None:
        self._issue_reads(connection, [command], size, deadline_ms)

    def _has_room(self, commands: int, size: int) -> bool:
        """Whether this node may hold so much besides what waits for an answer."""
        settings = self._settings
        return self._held_commands + commands <= settings.max_commands and self._held_bytes + size <= settings.max_bytes

    def _attend(self, connection: Connection, command: Command, deadline_ms: int, refusal: Failure | None) -> bool:
        """Execute a command that concerns the connection or the node, once everything before it has been answered. What changes how replies
        are written also waits until those before it have left; WAIT until what it waits for is there."""
        if not isinstance(command, ConnectionCommand):
            raise TypeError(f"{type(command).__name__} is not a command of a connection")
        if command.name in TRANSACTION_NAMES:
            return self._transactions.take(connection, command, deadline_ms, refusal)
        if not connection.idle:
            return False
        if not connection.delivered and _changes_replies(command):
            connection.held_back = True
            return False
        try:
            if not self._postponed.may_answer(connection, command, deadline_ms - self._settings.timeout_ms):
                if connection.ended:
                    self._end_waiting(connection)
                return False
            connection.reply(self._attend_now(connection, command))
        except CommandError as error:
            connection.reply(error.failure)
        return True

    @staticmethod
    def _end_waiting(connection: Connection) -> None:
        """The client will ask nothing more, and waits for what may never come: he is taken for gone, as by Redis."""
        connection.closing = True
        connection.touch()

    def _attend_now(self, connection: Connection, command: ConnectionCommand) -> Reply:
        part = self._channels if command.name in self._channels.names else self._desk
        return part.attend(connection, command)

    # The end of an iteration.

    def flush(self, now_ms: int) -> None:
        """Serve reads, take up what may be taken up now, propose or forward what was collected, and deliver replies."""
        self._postponed.look(now_ms)
        self._reads.serve(self._proposals.clock_ms(now_ms) if self._leading else 0)
        changed = self._changed
        while True:
            for connection in changed:  # the list grows when what is taken up is answered at once
                connection.touched()
                if connection.chunks:
                    self._advance(connection, now_ms)
            taken_up = len(changed)
            for waiter in self._line.take_woken():
                self._attempt(waiter, now_ms + self._settings.timeout_ms)
            self._send_writes(now_ms)
            self._ask_reads(now_ms)
            later: list[Connection] = []
            for connection in changed:  # it grows here too: a transaction's reply is made as it leaves, and may end another's waiting
                connection.touched()
                if not connection.closed:
                    self._deliver(connection)
                if connection.held_back:
                    connection.held_back = False
                    later.append(connection)
            later += changed[taken_up:]
            changed.clear()
            for connection in later:
                if connection.chunks:
                    connection.touch()
            if not changed:
                break
        if self._line.woken:  # by those whom this flush has closed
            self._wake()

    def _deliver(self, connection: Connection) -> None:
        replies, size = connection.deliverable()
        close = connection.closing
        self._held_commands -= len(replies)
        self._held_bytes -= size
        self.commands_processed += len(replies)
        for failure in [reply for reply in replies if type(reply) is Failure]:
            self._errors[failure.code] = self._errors.get(failure.code, 0) + 1
        unasked = connection.take_pushes(replies)
        if replies or close:
            self._hand_over(connection, replies, close, unasked)
        if close:
            self._give_up(connection)

    def _hand_over(self, connection: Connection, replies: list[Reply], close: bool, unasked: int = 0) -> None:
        try:
            self._reply(connection.id, replies, connection.protocol, close, unasked)
        except Exception as error:  # whatever a connection does, it concerns that connection only
            self.last_reply_error = error
            self._give_up(connection)

    def _gathering(self) -> bool:
        """Whether the writes that wait are held back until the next flush, because others are likely to join them."""
        came, self._writes_came = self._writes_came, False
        if not came or not self._writes.crowded or self._gathered + 1 >= self._settings.gather_flushes:
            self._gathered = 0
            return False
        self._gathered += 1
        self._wake()
        return True

    def _send_writes(self, now_ms: int) -> None:
        if self._gathering():
            return
        if self._leading:
            outcome = self._proposals.propose(now_ms)
            if outcome is Outcome.BUSY and self._proposals.unavailable is not None:
                reason = self._proposals.unavailable
                self._writes.fail_queued(Failure("CLUSTERDOWN", reason))
                for node, group in self._proposals.give_back():
                    self._send(node, WritesRefused(group.session, group.first, reason[:1000], self._leader))
        elif self._leader is not None and self._refusals.get(self._leader):
            self._writes.fail_queued(Failure("CLUSTERDOWN", self._refusals[self._leader]))
        elif self._leader is not None and not self._writes.paused(now_ms):
            self._forward_writes(self._leader, now_ms)

    def _forward_writes(self, leader: NodeId, now_ms: int) -> None:
        writes = self._writes
        while writes.waiting and writes.ahead < self._settings.groups_ahead:
            sealed = writes.take(now_ms)
            if sealed is None:
                return
            if not self._send(leader, ForwardWrites(sealed.group)):
                writes.put_back(sealed)
                writes.hold(now_ms)
                return
            writes.transmitted(sealed, now_ms)

    def _ask_reads(self, now_ms: int) -> None:
        if not self._reads.collected:
            return
        if self._leading:
            self._reads.ask(self._proposals.expiry_point(now_ms))
        elif self._leader is not None and not self._reads.paused(now_ms):
            self._reads.forward(self._leader, now_ms)

    # Other nodes.

    def received(self, node: NodeId, value: object, now_ms: int) -> None:
        """A frame for the router has come from `node`."""
        match value:
            case ForwardWrites(group=group):
                self._take_group(node, group)
            case WritesRefused(session=session, first=first):
                self._writes.refused(session, first, now_ms)
            case ForwardReads():
                self._take_foreign_reads(node, value, now_ms)
            case ReadAnswers(id=number, replies=replies):
                self._reads.answered(number, replies)
            case ReadsRefused(id=number):
                self._reads.refused(number, now_ms)
            case Publish():
                self._channels.deliver(value)
            case _:
                raise TypeError(f"{type(value).__name__} is not a frame for the router")

    def _take_group(self, node: NodeId, group: Group) -> None:
        if group.count < 1 or group.first < 1 or group.machine != 0:
            self.refused_frames += 1
            return
        reason = self._proposals.accept(node, group) if self._leading else "not the leader"
        if reason is not None:
            self._send(node, WritesRefused(group.session, group.first, reason[:1000], self._leader))

    def _take_foreign_reads(self, node: NodeId, frame: ForwardReads, now_ms: int) -> None:
        serving = self._leading and self._replica.ready_to_serve
        reason = self._reads.accept(node, frame, now_ms) if serving else "not the leader"
        if reason is not None:
            self._send(node, ReadsRefused(frame.id, reason[:1000]))

    def peer_connected(self, node: NodeId) -> None:
        """There is a (new) connection to `node`."""
        self._channels.peer_connected(node)
        if node == self._leader:
            self._send_again()

    def peer_disconnected(self, node: NodeId) -> None:
        """The connection to `node` broke."""
        self._channels.peer_disconnected(node)
        self._proposals.node_gone(node)
        self._reads.node_gone(node)
        self._refusals.pop(node, None)
        if node == self._leader:
            self._send_again()

    def peer_refuses_writes(self, node: NodeId, reason: str) -> None:
        """`node` tells why it takes no write at present, if it leads; an empty `reason` says that it does. What has not been sent to
        it need not be, and so is refused for certain."""
        self._refusals[node] = reason

    def _send_again(self) -> None:
        self._writes.resend()
        self._reads.ask_again()

    # The replica.

    def role_changed(self, change: RoleChange, now_ms: int) -> None:
        """The node's role, its term or the leader it knows has changed."""
        was_leading, is_leading = self._leading, change.role is Role.LEADER
        new_term = change.term != self._term
        self._leading = is_leading
        if was_leading and (not is_leading or new_term):
            self._reads.lose_lead("not the leader any more")
            self._proposals.forget()
        if is_leading and (not was_leading or new_term):
            self._proposals.lead(now_ms)
        if new_term or was_leading != is_leading or (change.leader is not None and change.leader != self._leader):
            self._send_again()
        self._leader, self._term = change.leader, change.term
        if change.leader is not None:
            self._leaderless_since_ms = None

    def applied(self, index: Index, groups: list[GroupReplies], now_ms: int, pushed: Sequence[bytes] = ()) -> None:
        """The entry at `index` has been applied, and answered `groups`; elements have been added to the keys `pushed`."""
        for replies in groups:
            if replies.session == self._writes.session:
                self._writes.answered(replies, index, now_ms)
            elif self._leading:
                self._proposals.applied(replies)
        self._line.pushed(pushed)  # behind the answers: who was told that there is nothing waits by now
        self._proposals.unblock()

    def snapshot_installed(self, now_ms: int) -> None:
        """The state has jumped: entries were skipped, with the replies of this node's writes in them."""
        self._writes.state_jumped(self._replica.machine, now_ms)
        self._line.skipped()

    def read_point(self, context: int, index: Index) -> None:
        """The round `context` is confirmed: its reads may be executed once `index` is applied."""
        self._reads.read_point(context, index)

    def appended(self, now_ms: int) -> None:
        """Everything proposed here is durable here: the next `flush` proposes what was collected meanwhile."""
        self._proposals.unblock()

    # Time and the end.

    def tick(self, now_ms: int) -> None:
        """Some time has passed: deadlines, silence, and what is due by the log's clock."""
        self._writes.expire(now_ms, self._unsent_failure())
        self._reads.tick(now_ms, self._late_read)
        self._proposals.unblock()
        self._look_after_line(now_ms)
        if not self._replica.ready_to_serve:
            self._writes.fail_queued(REBUILDING)
            self._reads.fail_all(REBUILDING)
        if self._leading:
            self._proposals.expiry_point(now_ms)
        elif self._leader is not None:
            self._writes.check_stall(now_ms)

    def _look_after_line(self, now_ms: int) -> None:
        """End what has waited long enough, or cannot wait here: without a state, or without a leader for as long as a request may take."""
        self._line.expire(now_ms)
        if self._leader is None and self._leaderless_since_ms is None:
            self._leaderless_since_ms = now_ms
        if not self._replica.ready_to_serve:
            self._line.end_all(REBUILDING)
        elif self._leaderless_since_ms is not None and now_ms - self._leaderless_since_ms >= self._settings.timeout_ms:
            self._line.end_all(self._unsent_failure())

    def _unsent_failure(self) -> Failure:
        """What to say of a request whose time is over and that never left this node."""
        seconds = self._settings.timeout_ms / 1000
        if self._leading:
            return Failure("OVERLOADED", f"the request was not taken up within {seconds:g} s; it did not happen")
        if self._leader is not None:
            return Failure("CLUSTERDOWN", f"the leader {self._leader} did not answer within {seconds:g} s; the request did not happen")
        return Failure("CLUSTERDOWN", f"there was no leader for {seconds:g} s; the request did not happen")

    def drain(self) -> bool:
        """Take up nothing new from now on; True when nothing is in flight any more and every reply has been delivered."""
        if not self._stopping:
            self._stopping = True
            self._postponed.release()
            self._line.refusal = STOPPING
            self._line.end_all(STOPPING)
            if self._leader is None:
                self._writes.fail_queued(STOPPING)
        return self.idle

    @property
    def idle(self) -> bool:
        """Whether no client of this node waits for anything."""
        return self._held_commands == 0 and not self._writes.in_flight

    def counts(self) -> Counts:
        """What waits here, for INFO and metrics."""
        return Counts(
            clients=len(self._connections),
            blocked=self._line.waiting + self._postponed.count,
            errors=dict(self._errors),
            commands_processed=self.commands_processed,
            held=self._held_commands,
            queued=self._writes.queued,
            in_flight=self._writes.in_flight,
            reads=self._reads.in_flight,
            forwarded_bytes=self._proposals.waiting_bytes,
            refused_frames=self.refused_frames,
            channels=self._channels.channels,
            patterns=self._channels.patterns,
            messages_dropped=self._channels.dropped,
        )


def _changes_replies(command: ConnectionCommand) -> bool:
    """Whether replies after `command` are written in another way than those before it, or not at all."""
    return command.name in ("hello", "reset") or (command.name == "client" and command.args[0].lower() == b"reply")
