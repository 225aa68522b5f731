"""What a leader does with groups of writes, its own and other nodes': it collects them and proposes them as batches.

While an append is on its way to the disk, groups collect; the next batch carries them all. What always holds: the groups of one
node enter the log in the order in which they came, and a group that leaves a gap behind a refused one is refused too (the state
machine would reject it, but the log is the wrong place to find out). No group enters it that is nested too deeply for a replica to
read: that would stop them all. Everything of other nodes that waits here is theirs to send
again: it is forgotten when this node stops leading.
"""

from __future__ import annotations

import enum
from collections import deque
from collections.abc import Iterator

from raftkv.errors import Busy, NotLeader, Unavailable
from raftkv.kv.batch import FORMAT_VERSION, Batch, Group, encode_batch
from raftkv.kv.commands import MAX_NESTING, may_enter_log
from raftkv.kv.machine import GroupReplies
from raftkv.raft.types import Index, NodeId
from raftkv.router.ports import ClockPort, ReplicaPort, RouterSettings
from raftkv.router.writes import OwnWrites, Sealed

OVERHEAD_BYTES = 64
"""What a group takes in an entry beyond its commands, at most."""


class Outcome(enum.Enum):
    """Why `Proposals.propose` stopped."""

    DONE = "done"
    """Nothing waits, or an append is on its way."""
    BUSY = "busy"
    """Too much is in flight."""
    NOT_LEADER = "not_leader"


class _Source:
    """The groups of one other node that wait here, and the number that its next one begins with (None: any)."""

    __slots__ = ("expected", "groups", "session")

    def __init__(self) -> None:
        self.groups: deque[Group] = deque()
        self.session = b""
        self.expected: int | None = None


class Proposals:
    """The batch in the making.

    Args:
        replica: where batches are proposed.
        settings: the bounds.
        clock: makes the stamps.
        own: this node's writes.
    """

    def __init__(self, replica: ReplicaPort, settings: RouterSettings, clock: ClockPort, own: OwnWrites) -> None:
        self._replica = replica
        self._settings = settings
        self._clock = clock
        self._own = own
        self._sources: dict[NodeId, _Source] = {}
        self._waiting_bytes = 0
        self._turn = 0
        self._blocked = False
        self._last_stamp_ms = 0
        self._last_index: Index = 0
        self.unavailable: str | None = None
        """Why this leader can take no write at all at present."""

    @property
    def waiting_bytes(self) -> int:
        """Bytes of other nodes' groups that wait here."""
        return self._waiting_bytes

    def lead(self, now_ms: int) -> None:
        """This node leads from now on, in a new term."""
        self.forget()
        self._clock.start(self._replica.machine.clock_ms, now_ms)

    def forget(self) -> None:
        """Leadership is over, or begins: nothing of other nodes waits here."""
        self._sources.clear()
        self._waiting_bytes = 0
        self._last_stamp_ms = 0
        self._last_index = 0
        self.unblock()

    def unblock(self) -> None:
        """Something has changed: proposing may work again."""
        self._blocked = False
        self.unavailable = None

    # Groups of other nodes.

    def accept(self, node: NodeId, group: Group) -> str | None:
        """Take a group of `node`, or say why not."""
        size = len(group.commands) + OVERHEAD_BYTES
        source = self._sources.setdefault(node, _Source())
        if source.session != group.session:
            source.session = group.session
            source.expected = None
        if source.expected is not None and group.first > source.expected:
            applied = self._replica.machine.session_last(group.session) or 0
            if group.first > applied + 1:
                return "gap"
        reason = self._refusal(size)
        if reason is None and not may_enter_log(group.commands):  # last, because it costs the most
            reason = f"the commands are nested in more than {MAX_NESTING} levels"
        if reason is not None:
            if source.expected is None:
                source.expected = group.first
            return reason
        source.groups.append(group)
        source.expected = max(source.expected or 0, group.first + group.count)
        self._waiting_bytes += size
        return None

    def _refusal(self, size: int) -> str | None:
        if size > self._settings.max_entry_bytes + 2 * OVERHEAD_BYTES:
            return f"the group has {size} bytes and an entry holds at most {self._settings.max_entry_bytes}"
        if self.unavailable is not None:
            return self.unavailable
        if self._waiting_bytes and self._waiting_bytes + size > self._settings.max_forwarded_bytes:  # one is taken, however large
            return "too much waits at the leader"
        return None

    def give_back(self) -> Iterator[tuple[NodeId, Group]]:
        """Forget what waits of other nodes; the first group of each, which its node is to be told."""
        for node, source in self._sources.items():
            if source.groups:
                source.expected = source.groups[0].first
                yield node, source.groups[0]
                source.groups.clear()
        self._waiting_bytes = 0

    def node_gone(self, node: NodeId) -> None:
        """The connection to `node` broke: it will send again, in order, from its lowest."""
        source = self._sources.get(node)
        if source is not None:
            source.expected = None

    def applied(self, replies: GroupReplies) -> None:
        """A group that the machine rejected will come again, from wherever its node begins."""
        if replies.problem is not None:
            for source in self._sources.values():
                if source.session == replies.session:
                    source.expected = None

    # Proposing.

    def propose(self, now_ms: int) -> Outcome:
        """Propose what has been collected, unless an append is on its way already."""
        if self._blocked:
            return Outcome.BUSY
        if self._replica.appending:
            return Outcome.DONE
        for _ in range(self._settings.batches_per_append):
            if not (self._waiting_bytes or (self._own.waiting and not self._own.paused(now_ms))):
                break
            outcome = self._propose_one(now_ms)
            if outcome is not Outcome.DONE:
                return outcome
        return Outcome.DONE

    def _propose_one(self, now_ms: int) -> Outcome:
        """Propose one batch; when it is refused, everything is as before."""
        own: list[Sealed] = []
        foreign: list[tuple[_Source, Group]] = []
        groups: list[Group] = []
        for taken in self._collect(now_ms):
            if isinstance(taken, Sealed):
                own.append(taken)
                groups.append(taken.group)
            else:
                foreign.append(taken)
                groups.append(taken[1])
        if not groups:  # the window of this node's writes is full, or nobody waits for what was queued any more
            return Outcome.DONE
        outcome = self._hand_over(groups, now_ms)
        if outcome is Outcome.DONE:
            for sealed in own:
                self._own.transmitted(sealed, now_ms)
        else:
            for sealed in reversed(own):
                self._own.put_back(sealed)
            for source, group in reversed(foreign):
                source.groups.appendleft(group)
                self._waiting_bytes += len(group.commands) + OVERHEAD_BYTES
        return outcome

    def _hand_over(self, groups: list[Group], now_ms: int) -> Outcome:
        machine = self._replica.machine
        stamp_ms = self._clock.stamp(now_ms, self._replica.majority)
        payload = encode_batch(Batch(FORMAT_VERSION, machine.machine_version, stamp_ms, groups))
        try:
            entry = self._replica.propose(payload)
        except NotLeader:
            return Outcome.NOT_LEADER
        except Busy:
            self._blocked = True
            return Outcome.BUSY
        except Unavailable as error:
            self._blocked = True
            self.unavailable = str(error)
            return Outcome.BUSY
        self._last_stamp_ms = stamp_ms
        self._last_index = entry.index
        return Outcome.DONE

    def _collect(self, now_ms: int) -> Iterator[Sealed | tuple[_Source, Group]]:
        """Take groups for one batch from all sources in turn, until the batch is full or nothing waits."""
        settings = self._settings
        sources: deque[_Source | None] = deque([None, *(source for source in self._sources.values() if source.groups)])
        sources.rotate(-(self._turn % len(sources)))
        self._turn += 1
        size = count = 0
        while sources:
            source = sources.popleft()
            taken: Sealed | tuple[_Source, Group]
            if source is None:
                sealed = None if self._own.paused(now_ms) else self._own.take(now_ms)
                if sealed is None:
                    continue
                taken, group = sealed, sealed.group
            elif source.groups:
                group = source.groups[0]
                taken = source, group
            else:
                continue
            group_size = len(group.commands) + OVERHEAD_BYTES
            if count and (size + group_size > settings.batch_bytes or count + group.count > settings.batch_commands):
                if isinstance(taken, Sealed):
                    self._own.put_back(taken)
                return
            if source is not None:
                source.groups.popleft()
                self._waiting_bytes -= group_size
            size += group_size
            count += group.count
            sources.append(source)
            yield taken

    # The log's clock.

    def clock_ms(self, now_ms: int) -> int:
        """What the log's clock would show on a batch made now."""
        return self._clock.stamp(now_ms, self._replica.majority)

    def expiry_point(self, now_ms: int) -> Index:
        """The index that a linearizable read must wait for so that it sees everything gone that is due now; 0 for none.

        When something is due and no batch on its way carries a stamp late enough, an empty batch is proposed.
        """
        due_ms = self._replica.machine.next_expiry_ms
        if due_ms is None or self._blocked:
            return 0
        if self._clock.stamp(now_ms, self._replica.majority) < due_ms:
            return 0
        on_its_way = self._last_index > self._replica.applied_index
        if on_its_way and self._last_stamp_ms >= due_ms:
            return self._last_index
        return self._last_index if self._hand_over([], now_ms) is Outcome.DONE else 0
