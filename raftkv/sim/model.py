"""The committed log, understood a second time: what the state must be after each entry, and what each command must have answered.

It knows only the commands that the workload uses, and does them in the plainest way, on dicts that keep every version. It shares with
the product nothing but the decoding of a batch. What is checked against it was therefore computed twice.

A command that changes something carries a *tag* that is never used twice: the value that it sets, or the second key that it deletes
(which never exists). So it is known for each one where in the log it took effect, and that it did so once. A transaction has one tag, in
its last command.
"""

from __future__ import annotations

import heapq
from bisect import bisect_right
from collections.abc import Callable

from raftkv.kv.batch import Group, decode_batch
from raftkv.kv.command import Read, Write
from raftkv.kv.commands import decode_writes
from raftkv.kv.counter_commands import IncrementBy
from raftkv.kv.expiry_commands import Expire
from raftkv.kv.hash_commands import SetFields
from raftkv.kv.key_commands import Delete
from raftkv.kv.list_commands import ListPop, ListPush
from raftkv.kv.replies import OK, Reply
from raftkv.kv.session_commands import Once, OpenSession
from raftkv.kv.sessions import LIMITS
from raftkv.kv.sorted_set_commands import AddMembers, AddToScore, RemoveMembers
from raftkv.kv.string_commands import Get, Set, SetWith
from raftkv.kv.transactions import Transaction
from raftkv.sim.hashes_and_sets import WRITES, elements_of
from raftkv.sim.trace import Violation
from raftkv.sim.values import SortedSet, Value

TAG = b"tag:"
"""What the second key of a DEL begins with."""

Version = tuple[int, Value]
"""An index, and the value of a key from then on."""


class _Session:
    def __init__(self) -> None:
        self.last = 0
        self.used_ms = 0


class Model:
    """The state after the newest entry that any node has applied, with its history."""

    def __init__(self, command_failed: Callable[[bool], None] = lambda followed: None) -> None:
        self.index = 0
        self.clock_ms = 0
        self._sessions_ms = 0
        """The clock by which sessions age."""
        self.commands = 0
        self.repeated = 0
        """Commands that were in the log again and must not take effect again."""
        self.effects: dict[bytes, tuple[int, Reply]] = {}
        """Tag to the index where it took effect, and the reply."""
        self.counted: dict[tuple[bytes, int], int] = {}
        """Counter and number to the index where it reached that number."""
        self.popped: dict[tuple[bytes, bytes | None], list[int]] = {}
        """List and element, None where there was none, to the indices where it was taken away."""
        self.aborted: dict[bytes, int] = {}
        """Tag of a transaction that was stopped by a change of what it watched, to the index where that was found."""
        self.summed: dict[tuple[bytes, bytes, float], list[int]] = {}
        """Sorted set, member and score to the indices where an increment came to that score."""
        self.refused: set[bytes] = set()
        """Tags of commands whose clients were told that they did not happen."""
        self.versions: dict[bytes, list[Version]] = {}
        self._changed: dict[bytes, int] = {}
        """Key to the index where a command changed it last; that it expired is no change of its own."""
        self._due: dict[bytes, int] = {}
        self._expiries: list[tuple[int, bytes]] = []
        self._sessions: dict[bytes, _Session] = {}
        self._client_sessions: dict[bytes, _Session] = {}
        self._command_failed = command_failed

    # Questions.

    def value(self, key: bytes) -> Value:
        """The value of `key` now."""
        versions = self.versions.get(key)
        return versions[-1][1] if versions else None

    def string(self, key: bytes) -> bytes | None:
        """The string at `key` now, if there is one."""
        value = self.value(key)
        return value if isinstance(value, bytes) else None

    def first_index_with(
        self, key: bytes, value: object, low: int, high: int, view: Callable[[Value], object] = lambda content: content
    ) -> int | None:
        """The first index from `low` to `high` after which the `view` of `key` was `value`; None when there is none."""
        versions = self.versions.get(key, [])
        at = bisect_right(versions, low, key=lambda version: version[0]) - 1
        if view(versions[at][1] if at >= 0 else None) == value:
            return low
        for index, later in versions[at + 1 :]:
            if index > high:
                return None
            if view(later) == value:
                return index
        return None

    def explain(self, key: bytes, low: int, high: int) -> str:
        """The versions of `key` that matter between two indices, in words."""
        return str([version for version in self.versions.get(key, []) if low - 20 <= version[0] <= high + 20][-20:])

    # The log.

    def apply(self, index: int, payload: bytes | None) -> None:
        """The entry at `index` is committed; `payload` is its batch, None when it has none."""
        if index != self.index + 1:
            raise Violation("log order", f"entry {index} is applied somewhere, and nobody has applied {self.index + 1}")
        self.index = index
        if payload is None:
            return
        batch = decode_batch(payload)
        passed_ms = max(batch.stamp_ms - self.clock_ms, 0)
        self.clock_ms += passed_ms
        self._sessions_ms += min(passed_ms, LIMITS.advance_ms)
        while self._expiries and self._expiries[0][0] < self.clock_ms:
            due_ms, key = heapq.heappop(self._expiries)
            if self._due.get(key) == due_ms:
                changed = self._changed[key]
                self._put(key, None)
                self._changed[key] = changed
        for group in batch.groups:
            self._apply_group(group)
        limit_ms = self._sessions_ms - LIMITS.age_ms
        for table in (self._sessions, self._client_sessions):
            for name in [name for name, session in table.items() if session.used_ms < limit_ms]:
                del table[name]

    def _apply_group(self, group: Group) -> None:
        session = self._sessions.get(group.session)
        if session is None:
            if group.first != 1:
                return
            session = self._sessions[group.session] = _Session()
        if group.first > session.last + 1:
            return
        session.used_ms = self._sessions_ms
        last = group.first + group.count - 1
        for sequence, write in enumerate(decode_writes(group.commands), group.first):
            if sequence <= session.last:
                self.repeated += 1
                continue
            session.last = sequence
            self.commands += 1
            if not self._apply_write(write):
                self._command_failed(sequence < last)

    def _apply_write(self, write: Write) -> bool:
        """Do one command; False when it has to fail."""
        match write:
            case Set(key=key, value=value):
                self._put(key, value)
                self._took_effect(value, OK)
            case SetWith(key=key, value=value, condition=condition, ttl_ms=ttl_ms):
                absent = self.value(key) is None
                if condition == 1 and not absent:
                    self._took_effect(value, None)
                    return True
                self._put(key, value, self.clock_ms + ttl_ms if ttl_ms else 0)
                self._took_effect(value, OK)
            case IncrementBy(key=key, amount=amount):
                before = self.value(key) or b"0"
                if not isinstance(before, bytes) or not before.isdigit():
                    return False
                number = int(before) + amount
                self._put(key, b"%d" % number, self._due.get(key, 0))
                self.counted[key, number] = self.index
            case ListPush(key=key, elements=(element,), left=False):
                pushed = (*self._list(key), element)
                self._put(key, pushed, self._due.get(key, 0))
                self._took_effect(element, len(pushed))
            case ListPop(key=key, left=True, count=None):
                elements = self._list(key)
                self.popped.setdefault((key, elements[0] if elements else None), []).append(self.index)
                if elements:
                    self._put(key, elements[1:] or None, self._due.get(key, 0))
            case AddMembers(key=key, elements=elements, options=0):
                scores = self._scores(key)
                count = len(scores)
                scores.update(elements)
                self._put_scores(key, scores)
                self._took_effect(elements[-1][0], len(scores) - count)
            case AddToScore(key=key, member=member, amount=amount, options=0):
                scores = self._scores(key)
                score = scores.get(member, 0) + amount
                self._put_scores(key, {**scores, member: score})
                self.summed.setdefault((key, member, score), []).append(self.index)
            case RemoveMembers(key=key, members=members):
                scores = self._scores(key)
                gone = sum(scores.pop(member, None) is not None for member in members)
                if gone:
                    self._put_scores(key, scores)
                self._took_effect(members[-1], gone)
            case Delete(keys=keys):
                gone = 0
                for key in keys:
                    if self.value(key) is not None:
                        self._put(key, None)
                        gone += 1
                self._took_effect(keys[-1], gone)
            case Expire(key=key, ttl_ms=ttl_ms):
                present = self.value(key)
                if present is not None:
                    self._put(key, present if ttl_ms > 0 else None, self.clock_ms + ttl_ms)
            case OpenSession(session=name):
                if name not in self._client_sessions:
                    self._client_sessions[name] = _Session()
                    self._client_sessions[name].used_ms = self._sessions_ms
            case Once(session=name, sequence=sequence, command=command):
                return self._apply_once(name, sequence, command)
            case Transaction(watches=watches):
                self._apply_transaction(write, watches)
            case _ if type(write) in WRITES:
                key = write.key  # type: ignore[attr-defined]
                after, reply, tag = WRITES[type(write)](elements_of(self.value(key)), write)
                if reply or type(write) is SetFields:
                    self._put(key, after or None, self._due.get(key, 0))
                self._took_effect(tag, reply)
            case _:
                raise Violation("log content", f"entry {self.index} holds {write}, which no client asked for")
        return True

    def _apply_once(self, name: bytes, sequence: int, command: bytes) -> bool:
        known = self._client_sessions.get(name)
        if known is not None and sequence <= known.last + 1:
            known.used_ms = self._sessions_ms
        if known is not None and sequence == known.last + 1:
            known.last = sequence
            [inner] = decode_writes(command)
            return self._apply_write(inner)
        return True

    def _apply_transaction(self, transaction: Transaction, watches: tuple[tuple[bytes, int], ...]) -> None:
        members = transaction.members()
        tag = members[-1].keys[-1] if isinstance(members[-1], Delete) else b""
        if all(self._unchanged(key, revision) for key, revision in watches):
            self._took_effect(tag, [self._apply_member(member) for member in members])
        else:
            self.aborted[tag] = self.index

    def _unchanged(self, key: bytes, revision: int) -> bool:
        """Whether `key` is as it was when it had `revision`: of a key that is there the index that wrote it; of another one, what is left
        of an index behind which nothing has touched it."""
        changed = self._changed.get(key, 0)
        if self.value(key) is not None:
            return changed == revision
        return revision < 0 and changed <= -1 - revision

    def _apply_member(self, member: Read | Write) -> Reply:
        match member:
            case Get(key=key):
                return self.string(key)
            case Set(key=key, value=value):
                self._put(key, value)
                return OK
            case Delete(keys=(tag,)) if self.value(tag) is None:
                return 0
            case _:
                raise Violation("log content", f"entry {self.index} holds {member} in a transaction, which no client asked for")

    def _list(self, key: bytes) -> tuple[bytes, ...]:
        value = self.value(key)
        return value if isinstance(value, tuple) else ()

    def _scores(self, key: bytes) -> dict[bytes, float]:
        value = self.value(key)
        return dict(value.pairs) if isinstance(value, SortedSet) else {}

    def _put_scores(self, key: bytes, scores: dict[bytes, float]) -> None:
        pairs = tuple(sorted(scores.items(), key=lambda item: (item[1], item[0])))
        self._put(key, SortedSet(pairs) if pairs else None, self._due.get(key, 0))

    def _took_effect(self, tag: bytes, reply: Reply) -> None:
        if tag in self.effects:
            raise Violation("exactly once", f"{tag!r} took effect at {self.effects[tag][0]} and again at {self.index}")
        if tag in self.refused:
            raise Violation("definite refusal", f"{tag!r} took effect at {self.index}; its client was told that it did not happen")
        self.effects[tag] = (self.index, reply)

    def _put(self, key: bytes, value: Value, due_ms: int = 0) -> None:
        self._changed[key] = self.index
        versions = self.versions.setdefault(key, [])
        if versions and versions[-1][0] == self.index:
            versions[-1] = (self.index, value)
        else:
            versions.append((self.index, value))
        self._due.pop(key, None)
        if due_ms and value is not None:
            self._due[key] = due_ms
            heapq.heappush(self._expiries, (due_ms, key))
