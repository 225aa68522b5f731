"""Each rule of the router broken on purpose, and the run that notices.

A fault is a test double of one function that breaks exactly one rule. It must be caught by the same runs of the abstract cluster that the
real router passes; a rule whose fault nothing catches would not be tested at all.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

import pytest

from raftkv.kv.batch import Group
from raftkv.kv.machine import GroupReplies
from raftkv.kv.replies import Failure, Reply
from raftkv.kv.session_commands import Once
from raftkv.kv.sessions import SessionChanges
from raftkv.raft.types import Index
from raftkv.router.connection import Connection
from raftkv.router.ports import MachinePort
from raftkv.router.reads import Reads, _Round
from raftkv.router.router import Router
from raftkv.router.waiting import Line, Waiter
from raftkv.router.writes import OwnWrites, Sealed
from tests.router import test_waiting
from tests.router.cluster import Cluster, random_schedule
from tests.router.stand import Stand

MOST_RUNS = 60

Plant = Callable[[pytest.MonkeyPatch], None]


def complaint(most_runs: int) -> tuple[str, int]:
    """The first thing that the runs find wrong with the router as it is now, or nothing, and how many runs that took."""
    for seed in range(most_runs):
        wrong = Cluster().run(random_schedule(random.Random(seed), 600))
        if wrong:
            return wrong[0], seed + 1
    return "", most_runs


def resend_under_another_session(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hazards 23 and 57: what is sent again after a change of leader is numbered anew, in a new session."""
    resend = OwnWrites.resend

    def faulty(self: OwnWrites) -> None:
        if self._window:
            self._begin_session()
            for sealed in self._window:
                old = sealed.group
                sealed.group = Group(0, self.session, self._next_sequence, 0, old.count, old.commands)
                self._next_sequence += old.count
        resend(self)

    monkeypatch.setattr(OwnWrites, "resend", faulty)


def never_send_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """A frame that is lost is lost for good."""
    for name in ("resend", "check_stall", "refused", "_rejected"):
        monkeypatch.setattr(OwnWrites, name, lambda self, *args: None)


def call_what_left_definite(monkeypatch: pytest.MonkeyPatch) -> None:
    """A write that left this node fails with CLUSTERDOWN when its time is over."""

    def faulty(self: Sealed, now_ms: int) -> None:
        for run in self.runs:
            if run.deadline_ms <= now_ms:
                run.answer([Failure("CLUSTERDOWN", "it did not happen")] * run.count)

    monkeypatch.setattr(Sealed, "expire", faulty)


def send_what_was_called_definite(monkeypatch: pytest.MonkeyPatch) -> None:
    """A write that was told CLUSTERDOWN while it waited stays in the queue."""

    def faulty(self: OwnWrites, now_ms: int, unsent: Failure) -> None:
        for sealed in self._window:
            sealed.expire(now_ms)
        for run in self._runs:
            if run.deadline_ms <= now_ms:
                run.answer([unsent] * run.count)

    monkeypatch.setattr(OwnWrites, "expire", faulty)


def give_back_numbers_that_left(monkeypatch: pytest.MonkeyPatch) -> None:
    """A group that left once and cannot leave again is taken apart as if it had never left."""

    def faulty(self: OwnWrites, sealed: Sealed) -> None:
        self._next -= 1
        while len(self._window) > self._next:
            sealed = self._window.pop()
            self._next_sequence = sealed.group.first
            for run in reversed(sealed.runs):
                run.answer([Failure("CLUSTERDOWN", "it did not happen")] * run.count)

    monkeypatch.setattr(OwnWrites, "put_back", faulty)


def forget_what_could_not_leave(monkeypatch: pytest.MonkeyPatch) -> None:
    """A group that could not leave is dropped, and its clients wait for ever."""

    def faulty(self: OwnWrites, sealed: Sealed) -> None:
        self._next -= 1
        if sealed.transmissions == 0:
            self._window.pop()
            self._next_sequence = sealed.group.first

    monkeypatch.setattr(OwnWrites, "put_back", faulty)


def answer_the_wrong_group(monkeypatch: pytest.MonkeyPatch) -> None:
    """Replies to a repeated group are taken for those to the lowest one in flight."""
    answered = OwnWrites.answered

    def faulty(self: OwnWrites, replies: GroupReplies, now_ms: int) -> None:
        if self._window and replies.problem is None and len(replies.replies) == self._window[0].group.count:
            replies = GroupReplies(replies.session, self._window[0].group.first, replies.replies)
        answered(self, replies, now_ms)

    monkeypatch.setattr(OwnWrites, "answered", faulty)


def take_what_a_snapshot_applied_for_new(monkeypatch: pytest.MonkeyPatch) -> None:
    """After a snapshot the session is left behind, and what was in flight starts anew."""

    def faulty(self: OwnWrites, machine: MachinePort, now_ms: int) -> None:
        if self._window:
            self._begin_session()
            for sealed in self._window:
                old = sealed.group
                sealed.group = Group(0, self.session, self._next_sequence, 0, old.count, old.commands)
                self._next_sequence += old.count
        self._next = 0

    monkeypatch.setattr(OwnWrites, "state_jumped", faulty)


def read_without_waiting_for_writes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hazard 58: a read is asked while writes of its connection are on their way."""
    monkeypatch.setattr(Connection, "may_read", True)


def write_without_waiting_for_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    """A write leaves while reads before it are on their way, and they see it."""
    monkeypatch.setattr(Connection, "may_write", True)


def use_numbers_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hazard 25: the numbers of rounds and forwarded reads begin again after a few."""

    def faulty(self: Reads) -> int:
        self._next_id = (self._next_id + 1) % 3
        return self._next_id

    monkeypatch.setattr(Reads, "_number", faulty)


def read_without_a_round(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hazard 26: whoever believes to lead reads at once what it has applied."""

    def faulty(self: Reads, expiry_point: Index) -> None:
        if self._collected:
            self._pointed.append(_Round(self._collected, 0))
            self._collected = []
            self._wake()

    monkeypatch.setattr(Reads, "ask", faulty)
    deliver = Router._ask_reads

    def and_serve(self: Router, now_ms: int) -> None:
        deliver(self, now_ms)
        self._reads.serve(0)

    monkeypatch.setattr(Router, "_ask_reads", and_serve)


def read_before_the_point_is_applied(monkeypatch: pytest.MonkeyPatch) -> None:
    """A confirmed read is executed whatever has been applied."""
    read_point = Reads.read_point
    monkeypatch.setattr(Reads, "read_point", lambda self, context, index: read_point(self, context, 0))


def deliver_replies_as_they_come(monkeypatch: pytest.MonkeyPatch) -> None:
    """A reply that is there overtakes those before it that are not."""
    deliverable = Connection.deliverable

    def faulty(self: Connection) -> tuple[list[Reply], int]:
        pending = type(self).expect_writes.__globals__["_PENDING"]
        start = self._slots.index(pending) if pending in self._slots else 0
        waiting = [slot for slot in self._slots[start:] if slot is pending]
        there = [slot for slot in self._slots[start:] if slot is not pending]
        if not waiting or not there:
            return deliverable(self)
        return [*self._slots[:start], *there], 0

    monkeypatch.setattr(Connection, "deliverable", faulty)


def take_what_a_client_retries_for_new(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hazard 23: a command that a client asks another node for is applied again, for that node has a session of its own."""

    def faulty(self: Once, sessions: SessionChanges, execute: Callable[[bytes], Reply]) -> Reply:
        return execute(self.command)

    monkeypatch.setattr(Once, "apply_in", faulty)


PLANTS: tuple[Plant, ...] = (
    resend_under_another_session,
    never_send_again,
    call_what_left_definite,
    send_what_was_called_definite,
    give_back_numbers_that_left,
    forget_what_could_not_leave,
    answer_the_wrong_group,
    take_what_a_snapshot_applied_for_new,
    read_without_waiting_for_writes,
    write_without_waiting_for_reads,
    use_numbers_again,
    read_without_a_round,
    read_before_the_point_is_applied,
    deliver_replies_as_they_come,
    take_what_a_client_retries_for_new,
)


@pytest.mark.parametrize("plant", PLANTS, ids=lambda plant: plant.__name__)
def test_the_runs_catch_a_broken_rule(monkeypatch: pytest.MonkeyPatch, plant: Plant) -> None:
    """A router with this fault does not pass the runs that the real one passes."""
    plant(monkeypatch)
    wrong, _ = complaint(MOST_RUNS)
    assert wrong


def test_a_callback_in_the_middle_of_applying_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hazard 28: a router that hands replies over while an entry is applied lets a client's error reach the one who applies."""
    applied = Router.applied

    def faulty(self: Router, index: Index, groups: list[GroupReplies], now_ms: int, pushed: Sequence[bytes] = ()) -> None:
        applied(self, index, groups, now_ms, pushed)
        for connection in self._changed:
            replies, _ = connection.deliverable()
            self._reply(connection.id, replies, connection.protocol, False)

    monkeypatch.setattr(Router, "applied", faulty)
    stand = Stand()
    stand.lead()
    stand.do("INCR a")
    stand.broken.add(1)
    with pytest.raises(ConnectionResetError):
        stand.apply(stand.replica.log[0])


def wake_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who waits is not told that its key has gained elements."""
    monkeypatch.setattr(Line, "pushed", lambda self, keys: None)


def stand_in_line_later(monkeypatch: pytest.MonkeyPatch) -> None:
    """A waiter stands in line at the end of the turn in which its attempt found nothing, and misses what is pushed until then."""
    park, take = Line._park, Line.take_woken
    late: list[Waiter] = []

    def faulty(self: Line) -> list[Waiter]:
        while late:
            park(self, late.pop())
        return take(self)

    monkeypatch.setattr(Line, "_park", lambda self, waiter: late.append(waiter))
    monkeypatch.setattr(Line, "take_woken", faulty)


def wake_one_for_many(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who has taken an element does not wake the next one, for whom there may be another."""
    ended = Line.attempt_ended

    def faulty(self: Line, waiter: Waiter, reply: Reply) -> None:
        with monkeypatch.context() as patch:
            wake_nobody(patch)
            ended(self, waiter, reply)

    monkeypatch.setattr(Line, "attempt_ended", faulty)


def forget_who_was_trying(monkeypatch: pytest.MonkeyPatch) -> None:
    """When a client leaves whose attempt never left this node, nobody takes its place."""
    forget = Line.forget

    def faulty(self: Line, connection: Connection) -> None:
        with monkeypatch.context() as patch:
            wake_nobody(patch)
            forget(self, connection)

    monkeypatch.setattr(Line, "forget", faulty)


def end_while_trying(monkeypatch: pytest.MonkeyPatch) -> None:
    """The time of a waiter ends at once, whatever its attempt under way is about to take."""
    monkeypatch.setattr(Line, "_end", Line._answer)


@pytest.mark.parametrize(
    ("plant", "test"),
    [
        (wake_nobody, test_waiting.test_waiters_are_served_in_the_order_of_waiting),
        (stand_in_line_later, test_waiting.test_a_push_between_the_attempt_and_its_answer_is_not_lost),
        (wake_one_for_many, test_waiting.test_waiters_are_served_in_the_order_of_waiting),
        (forget_who_was_trying, test_waiting.test_a_client_that_leaves_makes_room_for_the_next),
        (end_while_trying, test_waiting.test_an_attempt_under_way_outlives_the_timeout),
    ],
    ids=lambda value: value.__name__,
)
def test_a_broken_rule_of_waiting_is_caught(
    monkeypatch: pytest.MonkeyPatch, plant: Plant, test: Callable[[test_waiting.Node], None]
) -> None:
    """With this fault, the test of the rule fails."""
    plant(monkeypatch)
    with pytest.raises((AssertionError, KeyError)):
        test(test_waiting.Node())
