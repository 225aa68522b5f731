"""Drives a `KvMachine` the way a node does: requests in, one batch an entry, replies out."""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence

from raftkv.kv.batch import FORMAT_VERSION, Batch, Group, encode_batch
from raftkv.kv.commands import encode_commands, parse_request
from raftkv.kv.machine import Applied, GroupReplies, KvMachine
from raftkv.kv.replies import CommandError, Reply
from raftkv.kv.sessions import LIMITS, Limits
from raftkv.kv.store import Store
from raftkv.sim.disk import SimDisk
from raftkv.sim.store import ModelStore

Request = str | Sequence[bytes]
"""A request as text, split at spaces, or as its arguments."""

LogEntry = tuple[bool, bytes]
"""Whether it is a batch, and its payload."""

SESSION = b"driver's session"
START_MS = 1_700_000_000_000


def arguments(request: Request) -> list[bytes]:
    """The arguments of a request."""
    return [part.encode() for part in request.split()] if isinstance(request, str) else list(request)


def empty_store() -> ModelStore:
    """A model store with nothing in it."""
    return ModelStore(SimDisk(random.Random(0)), "store")


def group(session: bytes, first: int, requests: Iterable[Request], floor: int = 0) -> Group:
    """A group of writes."""
    commands = [parse_request(arguments(request)) for request in requests]
    return Group(0, session, first, floor, len(commands), encode_commands(commands))


def batch(groups: list[Group], stamp_ms: int, version: int = 1) -> bytes:
    """The payload of an entry."""
    return encode_batch(Batch(FORMAT_VERSION, version, stamp_ms, groups))


def rows_of(store: Store) -> list[tuple[bytes, bytes]]:
    """Every row of a store."""
    return list(store.scan(b"", b"\xff" * 9))


class Driver:
    """One machine and one session of one client. `now_ms` is the stamp of the next batch."""

    def __init__(self, store: Store | None = None, limits: Limits | None = None, session: bytes = SESSION) -> None:
        self.store = empty_store() if store is None else store
        self.machine = KvMachine(self.store) if limits is None else KvMachine(self.store, limits=limits)
        self.session = session
        self.next = (self.machine.session_last(session) or 0) + 1
        self.now_ms = START_MS
        self.log: list[LogEntry] = []

    def apply(self, payload: bytes) -> Applied:
        """Apply a batch after all other entries."""
        applied = self.machine.apply(self.machine.applied_index + 1, 1, payload)
        self.log.append((True, payload))
        return applied

    def configure(self, configuration: bytes) -> None:
        """Apply a configuration after all other entries."""
        self.machine.apply_empty(self.machine.applied_index + 1, 1, configuration)
        self.log.append((False, configuration))

    def follow(self, log: Sequence[LogEntry]) -> None:
        """Apply those entries of `log` that are not applied yet."""
        for is_batch, payload in log[self.machine.applied_index :]:
            if is_batch:
                self.apply(payload)
            else:
                self.configure(payload)

    def groups(self, *groups: Group, stamp_ms: int | None = None) -> list[GroupReplies]:
        """Apply one batch of groups."""
        return self.apply(batch(list(groups), self.now_ms if stamp_ms is None else stamp_ms)).groups

    def write(self, *requests: Request) -> list[Reply]:
        """Apply writes in one batch; the replies to them."""
        sent = group(self.session, self.next, requests, floor=self.next - 1)
        self.next += len(requests)
        [answer] = self.groups(sent)
        if answer.problem is not None:
            raise AssertionError(answer.problem)
        return answer.replies

    def pass_ms(self, ms: int) -> None:
        """Time passes, and a batch without commands says so."""
        self.now_ms += ms
        self.groups()

    def age_ms(self, ms: int) -> None:
        """Sessions grow so much older: time passes in steps that their clock follows."""
        while ms > 0:
            step = min(ms, LIMITS.advance_ms)
            self.pass_ms(step)
            ms -= step

    def read(self, request: Request) -> Reply:
        """The reply to a read."""
        return self.machine.read(parse_request(arguments(request)))

    def run(self, request: Request) -> Reply:
        """The reply to any request, as a client sees it."""
        try:
            command = parse_request(arguments(request))
        except CommandError as error:
            return error.failure
        if command.kind.value == "write":
            return self.write(request)[0]
        return self.read(request)
