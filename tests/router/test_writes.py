"""The writes of a node's clients: groups, the session, sending again, and outcomes."""

from __future__ import annotations

import pytest

from raftkv.codec.peer import WritesRefused
from raftkv.errors import Busy, InvariantBroken, Unavailable
from raftkv.kv.batch import Group
from raftkv.kv.commands import decode_commands
from raftkv.kv.machine import GroupReplies, KvMachine
from raftkv.kv.replies import OK, Failure
from raftkv.kv.string_commands import Set
from raftkv.raft.ready import Role
from tests.router.rows import MemoryRows
from tests.router.stand import Stand

SESSION = b"\x01" * 16
SECOND_SESSION = b"\x02" * 16


def code(reply: object) -> str:
    """The first word of an error."""
    assert isinstance(reply, Failure)
    return reply.code


def spans(groups: list[Group]) -> list[tuple[int, int]]:
    """First number and count of each group."""
    return [(group.first, group.count) for group in groups]


def rejected(first: int, problem: str, session: bytes = SESSION) -> list[GroupReplies]:
    """What the machine says of a group that it did not apply."""
    assert problem in ("gap", "unknown_session")
    return [GroupReplies(session, first, [], "gap" if problem == "gap" else "unknown_session")]


# Groups.


def test_groups_number_the_commands_of_the_session_without_gaps() -> None:
    """Consecutive groups carry consecutive numbers of one session, and what was answered as their floor."""
    stand = Stand()
    stand.follow()
    stand.do("SET a 1", "SET b 2")
    (first,) = stand.forwarded()
    assert (first.session, first.machine, first.first, first.floor, first.count) == (SESSION, 0, 1, 0, 2)
    assert decode_commands(first.commands) == [Set(b"a", b"1"), Set(b"b", b"2")]
    stand.do("SET c 3")
    (second,) = stand.forwarded()
    assert (second.first, second.floor, second.count) == (3, 0, 1)
    stand.commit_groups(first)
    stand.do("SET d 4")
    (third,) = stand.forwarded()
    assert (third.first, third.floor, third.count) == (4, 2, 1)


def test_commands_of_many_connections_share_a_group() -> None:
    """One group carries what all clients asked for during an iteration, and each client gets its own replies."""
    stand = Stand()
    stand.follow()
    stand.router.open(2, "")
    stand.ask("SET a 1", "INCR n")
    stand.ask("INCR n", connection=2)
    stand.do("INCR n")
    (group,) = stand.forwarded()
    assert group.count == 4
    stand.commit_groups(group)
    assert stand.answers(1) == [OK, 1, 3]
    assert stand.answers(2) == [2]


def test_a_group_is_bounded_in_number() -> None:
    """A long pipeline is cut into groups of at most `group_commands`."""
    stand = Stand(group_commands=3)
    stand.follow()
    stand.do(*["INCR a"] * 7)
    assert spans(stand.forwarded()) == [(1, 3), (4, 3), (7, 1)]


def test_a_group_is_bounded_in_bytes() -> None:
    """A group is closed before it exceeds `group_bytes`; one command that is larger makes a group of its own."""
    stand = Stand(group_bytes=100)
    stand.follow()
    stand.do("SET a " + "x" * 30, "SET b " + "x" * 30, "SET c " + "x" * 300, "SET d " + "x" * 60, "SET e 1")
    assert spans(stand.forwarded()) == [(1, 2), (3, 1), (4, 2)]


def test_what_arrives_while_groups_are_on_their_way_makes_larger_groups() -> None:
    """At most `groups_ahead` groups are on their way to the leader; the rest collects."""
    stand = Stand(groups_ahead=2)
    stand.follow()
    for _ in range(5):
        stand.do("INCR a")
    first, second = stand.forwarded()
    stand.commit_groups(first)
    assert spans(stand.forwarded()) == [(3, 3)]
    stand.commit_groups(second)
    assert stand.answers() == [1, 2]


def test_a_command_larger_than_an_entry_is_refused() -> None:
    """The error names the limit, and the commands around it go on."""
    stand = Stand(max_entry_bytes=1000)
    stand.lead()
    stand.do("SET a 1", [b"SET", b"b", b"x" * 1000], "INCR a")
    stand.commit()
    assert stand.answers() == [OK, Failure("ERR", "the command has 1004 bytes; max_entry_bytes is 1000"), 2]


# Sending again.


def test_another_leader_is_sent_everything_unanswered_from_the_lowest() -> None:
    """After a change of leader the same groups go out again, in order, before anything new."""
    stand = Stand(group_commands=1)
    stand.follow("n2", 1)
    stand.do("INCR a", "INCR a", "INCR a")
    groups = stand.forwarded()
    stand.commit_groups(groups[0])
    stand.change(Role.FOLLOWER, None, 2)
    stand.do("INCR a")
    assert stand.take_sent() == []
    stand.follow("n3", 2)
    sent = stand.take_sent()
    assert [node for node, _ in sent] == ["n3"] * 3
    stand.sent = sent
    again = stand.forwarded()
    assert again[:2] == groups[1:]
    assert spans(again[2:]) == [(4, 1)]


def test_a_retry_applies_once() -> None:
    """Hazards 23 and 57: a group that went out twice is applied once, and its clients are answered once."""
    stand = Stand()
    stand.follow("n2", 1)
    stand.do("INCR a")
    (group,) = stand.forwarded()
    stand.follow("n3", 2)
    (again,) = stand.forwarded()
    assert again == group
    stand.commit_groups(group, again)
    stand.commit_groups(again)
    assert stand.answers() == [1]
    stand.do("INCR a")
    stand.commit_groups(*stand.forwarded())
    assert stand.answers() == [1, 2]


def test_a_new_leader_proposes_its_own_unanswered_groups_first() -> None:
    """A node that becomes leader puts its groups in flight into its own batch, before new ones."""
    stand = Stand()
    stand.follow("n2", 1)
    stand.do("INCR a")
    (group,) = stand.forwarded()
    stand.ask("INCR a")
    stand.lead(2)
    (batch,) = stand.batches()
    assert batch.groups[0] == group
    assert spans(batch.groups) == [(1, 1), (2, 1)]
    stand.commit()
    assert stand.answers() == [1, 2]


def test_a_deposed_leader_forwards_what_it_had_proposed() -> None:
    """What was proposed and not applied goes to the next leader under the same numbers."""
    stand = Stand()
    stand.lead(1)
    stand.do("INCR a", "INCR a")
    (batch,) = stand.batches()
    stand.replica.log.clear()
    stand.follow("n2", 2)
    assert stand.forwarded() == batch.groups


def test_a_new_connection_to_the_leader_is_sent_everything_unanswered() -> None:
    """A broken connection may have lost anything, so everything goes out again, from the lowest."""
    stand = Stand(group_commands=1)
    stand.follow()
    stand.do("INCR a", "INCR a")
    groups = stand.forwarded()
    stand.reachable.clear()
    stand.router.peer_disconnected("n2")
    stand.do("INCR b")
    stand.pass_time(50)
    assert stand.take_sent() == []
    stand.reachable.add("n2")
    stand.router.peer_connected("n2")
    stand.flush()
    again = stand.forwarded()
    assert again[:2] == groups
    assert spans(again[2:]) == [(3, 1)]


def test_a_group_that_could_not_leave_is_unmade() -> None:
    """When nothing can be sent the commands keep waiting without numbers, and later ones may share their group."""
    stand = Stand()
    stand.reachable.clear()
    stand.follow()
    stand.do("INCR a")
    stand.do("INCR a")
    stand.reachable.add("n2")
    stand.router.peer_connected("n2")
    stand.flush()
    assert spans(stand.forwarded()) == [(1, 2)]


def test_a_refused_group_is_sent_again_with_those_after_it() -> None:
    """A refusal holds everything back for a moment; then the refused group and its followers go out, and nothing new before them."""
    stand = Stand(group_commands=1)
    stand.follow()
    stand.do("INCR a", "INCR a", "INCR a")
    groups = stand.forwarded()
    stand.receive("n2", WritesRefused(SESSION, 2, "busy", "n2"))
    stand.receive("n2", WritesRefused(SESSION, 3, "gap", "n2"))
    stand.do("INCR a")
    assert stand.take_sent() == []
    stand.pass_time(stand.settings.retry_ms)
    again = stand.forwarded()
    assert again[:2] == groups[1:]
    assert spans(again[2:]) == [(4, 1)]


def test_refusals_in_a_row_are_answered_with_longer_pauses() -> None:
    """The pause doubles up to its bound, and is short again after an answer."""
    stand = Stand(retry_ms=10, max_retry_ms=40)
    stand.follow()
    stand.do("INCR a")
    (group,) = stand.forwarded()
    for pause_ms in (10, 20, 40, 40):
        stand.receive("n2", WritesRefused(SESSION, 1, "busy", "n2"))
        stand.pass_time(pause_ms - 1)
        assert stand.take_sent() == []
        stand.pass_time(1)
        assert stand.forwarded() == [group]
    stand.commit_groups(group)
    stand.do("INCR a")
    stand.take_sent()
    stand.receive("n2", WritesRefused(SESSION, 2, "busy", "n2"))
    stand.pass_time(10)
    assert spans(stand.forwarded()) == [(2, 1)]


def test_a_refusal_of_what_is_answered_or_of_another_session_is_ignored() -> None:
    """A late refusal holds nothing back."""
    stand = Stand()
    stand.follow()
    stand.do("INCR a")
    stand.commit_groups(*stand.forwarded())
    stand.receive("n2", WritesRefused(SESSION, 1, "busy", "n2"))
    stand.receive("n2", WritesRefused(SECOND_SESSION, 1, "busy", "n2"))
    stand.do("INCR a")
    assert spans(stand.forwarded()) == [(2, 1)]


def test_a_gap_in_the_log_makes_everything_go_out_again() -> None:
    """When an earlier group was lost on its way, the machine rejects the later one, and both go out again."""
    stand = Stand(group_commands=1)
    stand.follow()
    stand.do("INCR a", "INCR a")
    first, second = stand.forwarded()
    stand.commit_groups(first)
    stand.do("INCR a")
    (third,) = stand.forwarded()
    stand.commit_groups(third)
    assert stand.answers() == [1]
    stand.pass_time(stand.settings.retry_ms)
    assert stand.forwarded() == [second, third]
    stand.commit_groups(second, third)
    assert stand.answers() == [1, 2, 3]


def test_a_lost_first_group_is_a_gap_too() -> None:
    """As long as number 1 is on its way, a machine that does not know the session has not lost anything."""
    stand = Stand(group_commands=1)
    stand.follow()
    stand.do("INCR a", "INCR a")
    first, second = stand.forwarded()
    stand.commit_groups(second)
    assert stand.answers() == []
    stand.pass_time(stand.settings.retry_ms)
    assert stand.forwarded() == [first, second]
    stand.commit_groups(first, second)
    assert stand.answers() == [1, 2]


def test_silence_makes_everything_go_out_again() -> None:
    """What was forwarded and not answered for `stall_ms` is taken for lost."""
    stand = Stand(stall_ms=500)
    stand.follow()
    stand.do("INCR a")
    (group,) = stand.forwarded()
    stand.pass_time(499)
    assert stand.take_sent() == []
    stand.pass_time(1)
    assert stand.forwarded() == [group]


def test_a_leader_does_not_propose_again_what_is_in_its_log() -> None:
    """The leader's own log loses nothing, so silence changes nothing there."""
    stand = Stand(stall_ms=500)
    stand.lead()
    stand.do("INCR a")
    stand.pass_time(3000)
    assert len(stand.batches()) == 1


# Outcomes.


def test_a_write_that_never_left_fails_definitely() -> None:
    """Without a leader a write waits for its time, then fails with CLUSTERDOWN and can never happen."""
    stand = Stand(timeout_ms=1000)
    stand.change(Role.FOLLOWER, None, 1)
    stand.do("SET a 1")
    stand.pass_time(999)
    assert stand.answers() == []
    stand.pass_time(1)
    assert [code(reply) for reply in stand.answers()] == ["CLUSTERDOWN"]
    stand.lead(2)
    assert stand.batches() == []
    stand.do("SET b 2")
    (batch,) = stand.batches()
    assert spans(batch.groups) == [(1, 1)]


def test_a_write_that_left_and_met_silence_is_uncertain() -> None:
    """A write that may be anywhere gets UNCERTAIN when its time is over, and keeps its place in the session."""
    stand = Stand(timeout_ms=1000, stall_ms=5000)
    stand.follow()
    stand.do("INCR a")
    (group,) = stand.forwarded()
    stand.pass_time(1000)
    assert [code(reply) for reply in stand.answers()] == ["UNCERTAIN"]
    stand.do("INCR a")
    (second,) = stand.forwarded()
    assert (second.first, second.floor) == (2, 0)
    stand.follow("n3", 2)
    assert stand.forwarded() == [group, second]
    stand.commit_groups(group, second)
    assert stand.answers()[1:] == [2]


def test_the_writes_of_a_connection_expire_in_their_order() -> None:
    """Of a pipeline of which only a part left, the part that left is UNCERTAIN and the rest CLUSTERDOWN, in order."""
    stand = Stand(timeout_ms=1000, group_commands=2, groups_ahead=1)
    stand.follow()
    stand.do("INCR a", "INCR a", "INCR a")
    stand.pass_time(1000)
    assert [code(reply) for reply in stand.answers()] == ["UNCERTAIN", "UNCERTAIN", "CLUSTERDOWN"]


def test_only_those_whose_time_is_over_are_told() -> None:
    """Clients of one group have their own deadlines."""
    stand = Stand(timeout_ms=1000, groups_ahead=1, stall_ms=9000)
    stand.router.open(2, "")
    stand.follow()
    stand.do("INCR x")
    stand.do("INCR a")
    stand.now_ms += 600
    stand.do("INCR b", connection=2)
    stand.commit_groups(*stand.forwarded())
    assert spans(stand.forwarded()) == [(2, 2)]
    stand.pass_time(400)
    assert [code(reply) for reply in stand.answers(1)[1:]] == ["UNCERTAIN"]
    assert stand.answers(2) == []
    stand.pass_time(600)
    assert [code(reply) for reply in stand.answers(2)] == ["UNCERTAIN"]


def test_what_waits_behind_a_late_write_is_refused_when_its_own_time_is_over() -> None:
    """Requests queued behind one that ran out of time are not started when they are late themselves."""
    stand = Stand(timeout_ms=1000)
    stand.change(Role.FOLLOWER, None, 1)
    stand.do("SET a 1", "GET a", "SET b 1")
    stand.pass_time(1000)
    assert [code(reply) for reply in stand.answers()] == ["CLUSTERDOWN"] * 3


def test_a_busy_leader_keeps_its_writes_until_it_may_propose() -> None:
    """Busy is waited out; when that takes too long, OVERLOADED says that nothing happened."""
    stand = Stand(timeout_ms=1000)
    stand.lead()
    stand.replica.refusal = Busy("too much is in flight")
    stand.do("INCR a")
    stand.pass_time(500)
    stand.replica.refusal = None
    stand.pass_time(20)
    stand.commit()
    assert stand.answers() == [1]
    stand.replica.refusal = Busy("too much is in flight")
    stand.do("INCR a")
    stand.pass_time(1000)
    assert [code(reply) for reply in stand.answers()[1:]] == ["OVERLOADED"]
    stand.replica.refusal = None
    stand.do("INCR a")
    assert spans(stand.batches()[-1].groups) == [(2, 1)]


def test_a_leader_that_cannot_write_says_so_at_once() -> None:
    """Unavailable (the disk is full) is told to the clients in its own words; nothing happened."""
    stand = Stand()
    stand.lead()
    stand.replica.refusal = Unavailable("the disk of the leader is full")
    assert stand.do("INCR a") == [Failure("CLUSTERDOWN", "the disk of the leader is full")]


def test_what_the_leader_would_refuse_is_refused_at_once() -> None:
    """When the leader has told that it takes no writes, what has not left is refused with its reason, until it takes writes again."""
    stand = Stand()
    stand.follow()
    stand.do("INCR a")
    (group,) = stand.forwarded()
    stand.receive("n2", WritesRefused(SESSION, 1, "the disk is full", "n2"))
    stand.router.peer_refuses_writes("n2", "the disk is full")
    stand.router.open(2, "")
    assert stand.do("INCR b", connection=2) == [Failure("CLUSTERDOWN", "the disk is full")]
    stand.pass_time(10)
    assert stand.take_sent() == []
    stand.router.peer_refuses_writes("n2", "")
    stand.flush()
    assert stand.forwarded() == [group]
    stand.do("INCR b", connection=2)
    assert spans(stand.forwarded()) == [(2, 1)]


def test_only_the_leaders_trouble_counts() -> None:
    """That another node takes no writes is no reason to refuse any."""
    stand = Stand()
    stand.follow("n2", 1)
    stand.router.peer_refuses_writes("n3", "the disk is full")
    stand.do("INCR a")
    assert spans(stand.forwarded()) == [(1, 1)]
    stand.router.peer_refuses_writes("n2", "the disk is full")
    stand.follow("n1", 2)
    stand.router.peer_disconnected("n3")
    stand.follow("n3", 3)
    assert spans(stand.forwarded()) == [(1, 1)]


def test_a_client_that_leaves_takes_its_unsent_writes_along() -> None:
    """Writes without a number are dropped with their client; those on their way run on."""
    stand = Stand(groups_ahead=1)
    stand.router.open(2, "")
    stand.follow()
    stand.do("INCR a")
    stand.do("INCR a")
    stand.do("INCR b", connection=2)
    stand.router.closed(1)
    (group,) = stand.forwarded()
    stand.commit_groups(group)
    (rest,) = stand.forwarded()
    assert spans([rest]) == [(2, 1)]
    stand.commit_groups(rest)
    assert stand.answers(1) == []
    assert stand.answers(2) == [1]
    assert stand.replica.machine.session_last(SESSION) == 2


def test_a_client_that_leaves_while_nothing_can_be_sent_is_forgotten() -> None:
    """Unsent writes of clients that left do not pile up while there is no leader."""
    stand = Stand()
    stand.change(Role.FOLLOWER, None, 1)
    stand.do("INCR a", "INCR a")
    stand.router.closed(1)
    stand.pass_time(20)
    assert stand.router.counts().queued == 0
    assert stand.router.idle


# The session.


def test_a_session_that_the_machine_forgot_ends_with_uncertain() -> None:
    """What was in flight under a lost session may have happened; the next write opens a new session."""
    stand = Stand()
    stand.follow()
    stand.do("INCR a")
    stand.commit_groups(*stand.forwarded())
    stand.do("INCR a")
    stand.take_sent()
    stand.router.applied(9, rejected(2, "unknown_session"), stand.now_ms)
    stand.flush()
    assert [code(reply) for reply in stand.answers()[1:]] == ["UNCERTAIN"]
    stand.do("INCR a")
    (group,) = stand.forwarded()
    assert (group.session, group.first) == (SECOND_SESSION, 1)


def test_a_machine_that_lost_what_it_had_answered_ends_the_session() -> None:
    """A gap before the lowest group in flight cannot be filled, so the session is given up rather than tried for ever."""
    stand = Stand()
    stand.follow()
    stand.do("INCR a")
    stand.commit_groups(*stand.forwarded())
    stand.do("INCR a")
    stand.take_sent()
    stand.router.applied(9, rejected(2, "gap"), stand.now_ms)
    stand.flush()
    assert [code(reply) for reply in stand.answers()[1:]] == ["UNCERTAIN"]


def test_late_words_about_an_old_session_or_an_old_group_change_nothing() -> None:
    """Answers to groups that are answered, and to other sessions, are ignored."""
    stand = Stand()
    stand.follow()
    stand.do("INCR a")
    (group,) = stand.forwarded()
    stand.commit_groups(group)
    stand.do("INCR a")
    (second,) = stand.forwarded()
    stand.router.applied(7, rejected(1, "unknown_session"), stand.now_ms)
    stand.router.applied(8, rejected(2, "gap", SECOND_SESSION), stand.now_ms)
    stand.commit_groups(second)
    assert stand.answers() == [1, 2]


def test_an_idle_session_is_replaced_before_the_machine_forgets_it() -> None:
    """After a long silence the next write opens a new session, so that no client ever meets a forgotten one."""
    stand = Stand(session_renewal_ms=60_000)
    stand.follow()
    stand.do("INCR a")
    stand.commit_groups(*stand.forwarded())
    stand.now_ms += 60_000
    stand.do("INCR a")
    (group,) = stand.forwarded()
    assert (group.session, group.first) == (SESSION, 2)
    stand.commit_groups(group)
    stand.now_ms += 60_001
    stand.do("INCR a")
    (group,) = stand.forwarded()
    assert (group.session, group.first) == (SECOND_SESSION, 1)


def test_a_group_is_not_sent_again_when_the_machine_may_have_forgotten_the_session() -> None:
    """A first group that went out long ago (a machine was suspended) is given up: it could open the session a second time."""
    stand = Stand(session_renewal_ms=60_000)
    stand.follow()
    stand.do("INCR a")
    stand.take_sent()
    stand.now_ms += 60_001
    stand.router.peer_connected("n2")
    stand.flush()
    assert stand.take_sent() == []
    assert [code(reply) for reply in stand.answers()] == ["UNCERTAIN"]


def test_the_window_is_bounded() -> None:
    """No more groups are in flight than the machine keeps replies of."""
    stand = Stand(window_groups=3, group_commands=1, groups_ahead=100)
    stand.follow()
    stand.do(*["INCR a"] * 5)
    groups = stand.forwarded()
    assert spans(groups) == [(1, 1), (2, 1), (3, 1)]
    stand.commit_groups(groups[0])
    assert spans(stand.forwarded()) == [(4, 1)]


def test_a_machine_that_answers_part_of_a_group_stops_the_node() -> None:
    """Replies that do not fit the group are a bug that must not reach clients."""
    stand = Stand()
    stand.follow()
    stand.do("INCR a", "INCR a")
    stand.take_sent()
    with pytest.raises(InvariantBroken):
        stand.router.applied(1, [GroupReplies(SESSION, 1, [1])], stand.now_ms)


# A snapshot takes the place of the state.


def jump(stand: Stand, *groups: Group) -> None:
    """The state becomes one that has applied `groups`, whose entries this node never saw."""
    other = Stand()
    other.follow()
    for group in groups:
        other.commit_groups(group)
    stand.replica.machine = KvMachine(other.replica.rows)
    stand.router.snapshot_installed(stand.now_ms)
    stand.flush()


def test_replies_that_a_snapshot_jumped_over_are_looked_up() -> None:
    """What the new state has applied is answered with the replies that the session keeps; the rest goes out again."""
    stand = Stand(group_commands=2)
    stand.follow()
    stand.do("INCR a", "INCR a", "INCR a", "INCR a", "INCR a")
    first, second, third = stand.forwarded()
    jump(stand, first, second)
    assert stand.answers() == [1, 2, 3, 4]
    assert stand.forwarded() == [third]
    stand.commit_groups(third)
    assert stand.answers() == [1, 2, 3, 4, 5]


def test_replies_that_are_not_kept_any_more_leave_the_outcome_open() -> None:
    """A write that was applied and whose reply nobody keeps is UNCERTAIN."""
    stand = Stand()
    stand.follow()
    stand.do("INCR a")
    (first,) = stand.forwarded()
    stand.do("INCR a")
    (second,) = stand.forwarded()
    jump(stand, first, Group(0, SESSION, 2, 1, 1, second.commands))
    assert [code(reply) for reply in stand.answers()[:1]] == ["UNCERTAIN"]
    assert stand.answers()[1:] == [2]


def test_a_state_that_does_not_know_a_new_session_yet_changes_nothing() -> None:
    """A session whose first group is on its way is opened by sending it again."""
    stand = Stand()
    stand.follow()
    stand.do("INCR a")
    (group,) = stand.forwarded()
    jump(stand)
    assert stand.answers() == []
    assert stand.forwarded() == [group]


def test_a_state_that_does_not_know_an_old_session_ends_it() -> None:
    """If the new state has forgotten a session that the old one knew, what was in flight may have happened."""
    stand = Stand()
    stand.follow()
    stand.do("INCR a")
    stand.commit_groups(*stand.forwarded())
    stand.do("INCR a")
    stand.take_sent()
    stand.replica.machine = KvMachine(MemoryRows())
    stand.router.snapshot_installed(stand.now_ms)
    stand.flush()
    assert [code(reply) for reply in stand.answers()[1:]] == ["UNCERTAIN"]
