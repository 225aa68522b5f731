"""The committed log, understood a second time: what the state must be after each entry, and what each command must have answered.

It knows only the commands that the workload uses, and does them in the plainest way, on dicts that keep every version. It shares with
the product nothing but the decoding of a batch. What is checked against it was therefore computed twice.

A command that changes something carries a *tag* that is never used twice: the value that it sets, or the second key that it deletes
(which never exists). So it is known for each one where in the log it took effect, and that it did so once.
"""

from __future__ import annotations

import heapq
from bisect import bisect_right
from collections.abc import Callable

from raftkv.kv.batch import Group, decode_batch
from raftkv.kv.command import Write
from raftkv.kv.commands import decode_writes
from raftkv.kv.counter_commands import IncrementBy
from raftkv.kv.expiry_commands import Expire
from raftkv.kv.hash_commands import SetFields
from raftkv.kv.key_commands import Delete
from raftkv.kv.replies import OK, Reply
from raftkv.kv.sessions import LIMITS
from raftkv.kv.string_commands import Set, SetWith
from raftkv.sim.elements import WRITES, Content, elements_of
from raftkv.sim.trace import Violation

TAG = b"tag:"
"""What the second key of a DEL begins with."""

Version = tuple[int, Content | None]
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
        self.refused: set[bytes] = set()
        """Tags of commands whose clients were told that they did not happen."""
        self.versions: dict[bytes, list[Version]] = {}
        self._due: dict[bytes, int] = {}
        self._expiries: list[tuple[int, bytes]] = []
        self._sessions: dict[bytes, _Session] = {}
        self._command_failed = command_failed

    # Questions.

    def value(self, key: bytes) -> Content | None:
        """The value of `key` now."""
        versions = self.versions.get(key)
        return versions[-1][1] if versions else None

    def first_index_with(
        self, key: bytes, value: object, low: int, high: int, view: Callable[[Content | None], object] = lambda content: content
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
                self._put(key, None)
        for group in batch.groups:
            self._apply_group(group)
        limit_ms = self._sessions_ms - LIMITS.age_ms
        for name in [name for name, session in self._sessions.items() if session.used_ms < limit_ms]:
            del self._sessions[name]

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
            case _ if type(write) in WRITES:
                key = write.key  # type: ignore[attr-defined]
                elements, reply, tag = WRITES[type(write)](elements_of(self.value(key)), write)
                if reply or type(write) is SetFields:
                    self._put(key, elements or None, self._due.get(key, 0))
                self._took_effect(tag, reply)
            case _:
                raise Violation("log content", f"entry {self.index} holds {write}, which no client asked for")
        return True

    def _took_effect(self, tag: bytes, reply: Reply) -> None:
        if tag in self.effects:
            raise Violation("exactly once", f"{tag!r} took effect at {self.effects[tag][0]} and again at {self.index}")
        if tag in self.refused:
            raise Violation("definite refusal", f"{tag!r} took effect at {self.index}; its client was told that it did not happen")
        self.effects[tag] = (self.index, reply)

    def _put(self, key: bytes, value: Content | None, due_ms: int = 0) -> None:
        versions = self.versions.setdefault(key, [])
        if versions and versions[-1][0] == self.index:
            versions[-1] = (self.index, value)
        else:
            versions.append((self.index, value))
        self._due.pop(key, None)
        if due_ms and value is not None:
            self._due[key] = due_ms
            heapq.heappush(self._expiries, (due_ms, key))
