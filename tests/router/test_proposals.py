"""What a leader proposes: collecting, batches, other nodes' groups, and the log's clock."""

from __future__ import annotations

from raftkv.codec.peer import ForwardWrites, WritesRefused
from raftkv.errors import Busy, Unavailable
from raftkv.kv.batch import Group
from raftkv.kv.commands import encode_commands, parse_request
from raftkv.kv.replies import OK
from raftkv.raft.ready import Role
from tests.router.stand import WALL_MS, Stand

THEIRS = b"\x22" * 16
OTHERS = b"\x33" * 16


def group(first: int, *lines: str, session: bytes = THEIRS) -> Group:
    """A group as another node makes it."""
    commands = [parse_request(line.encode().split()) for line in lines]
    return Group(0, session, first, first - 1, len(commands), encode_commands(commands))


def contents(stand: Stand) -> list[list[tuple[bytes, int, int]]]:
    """Session, first number and count of the groups of each batch."""
    return [[(each.session, each.first, each.count) for each in batch.groups] for batch in stand.batches()]


OWN = b"\x01" * 16


def test_what_arrives_during_an_append_shares_the_next_batch() -> None:
    """While an entry is on its way to the disk everything is collected; the next entry carries it all."""
    stand = Stand()
    stand.replica.slow_disk = True
    stand.lead()
    stand.do("INCR a")
    stand.do("INCR a")
    stand.do("INCR a")
    stand.receive("n2", ForwardWrites(group(1, "INCR b")))
    assert contents(stand) == [[(OWN, 1, 1)]]
    stand.appended()
    assert sorted(contents(stand)[1]) == [(OWN, 2, 2), (THEIRS, 1, 1)]


def test_clients_that_write_together_share_a_batch() -> None:
    """While several clients write, a batch waits for a flush without new writes, and no longer than the bound."""
    stand = Stand(gather_flushes=3)
    stand.lead()
    for connection in range(2, 8):
        stand.router.open(connection, "127.0.0.1:50002")
    stand.do("INCR a")
    stand.ask("INCR a", connection=2)
    stand.do("INCR a", connection=3)
    wakes = stand.wakes
    assert wakes
    stand.do("INCR a", connection=4)
    assert contents(stand) == [[(OWN, 1, 1)]]
    stand.flush()
    assert contents(stand)[1:] == [[(OWN, 2, 3)]]
    for connection in range(5, 8):
        stand.do("INCR a", connection=connection)
    assert contents(stand)[2:] == [[(OWN, 5, 3)]]


def test_a_lone_client_is_never_held_back() -> None:
    """The writes of one client at a time leave with the flush that takes them up."""
    stand = Stand(gather_flushes=3)
    stand.lead()
    for number in range(1, 4):
        stand.do("INCR a")
        stand.commit()
        assert len(contents(stand)) == number


def test_a_full_group_is_not_held_back() -> None:
    """Waiting for others gains nothing where a group is full already."""
    stand = Stand(gather_flushes=3, group_commands=4)
    stand.router.open(2, "127.0.0.1:50002")
    stand.lead()
    stand.ask("INCR a", "INCR a")
    stand.do("INCR a", "INCR a", connection=2)
    assert contents(stand) == [[(OWN, 1, 4)]]


def test_a_batch_is_bounded_and_batches_share_an_append() -> None:
    """What does not fit one batch makes several, proposed together so that they share one fsync."""
    stand = Stand(group_commands=2, batch_commands=4, batches_per_append=2)
    stand.replica.slow_disk = True
    stand.lead()
    stand.do(*["INCR a"] * 11)
    assert contents(stand) == [[(OWN, 1, 2), (OWN, 3, 2)], [(OWN, 5, 2), (OWN, 7, 2)]]
    stand.appended()
    assert contents(stand)[2:] == [[(OWN, 9, 2), (OWN, 11, 1)]]


def test_a_batch_is_bounded_in_bytes() -> None:
    """A group that would make the batch too large waits for the next one; a large one travels alone."""
    stand = Stand(group_bytes=100, batch_bytes=400)
    stand.lead()
    stand.do("SET a " + "x" * 80, "SET b " + "x" * 80, "SET c " + "x" * 1000, "SET d " + "x" * 80)
    assert contents(stand) == [[(OWN, 1, 1), (OWN, 2, 1)], [(OWN, 3, 1)], [(OWN, 4, 1)]]


def test_all_nodes_have_their_turn() -> None:
    """When more waits than fits, no node's groups wait behind all of another's."""
    stand = Stand(group_commands=1, batch_commands=3, batches_per_append=1)
    stand.replica.slow_disk = True
    stand.lead()
    stand.do("INCR x")
    stand.ask(*["INCR a"] * 6)
    for first in range(1, 7):
        stand.router.received("n2", ForwardWrites(group(first, "INCR b")), stand.now_ms)
        stand.router.received("n3", ForwardWrites(group(first, "INCR c", session=OTHERS)), stand.now_ms)
    stand.appended()
    stand.appended()
    for batch in contents(stand)[1:]:
        assert {session for session, _, _ in batch} == {OWN, THEIRS, OTHERS}


def test_the_groups_of_a_node_keep_their_order() -> None:
    """Whatever mixes in, the groups of one session enter the log in order."""
    stand = Stand(group_commands=1, batch_commands=2, batches_per_append=100)
    stand.lead()
    stand.ask(*["INCR a"] * 5)
    for first in range(1, 6):
        stand.router.received("n2", ForwardWrites(group(first, "INCR b")), stand.now_ms)
    stand.flush()
    order = [(session, first) for batch in contents(stand) for session, first, _ in batch]
    assert [first for session, first in order if session == THEIRS] == [1, 2, 3, 4, 5]
    assert [first for session, first in order if session == OWN] == [1, 2, 3, 4, 5]


def test_busy_leaves_everything_as_it_was() -> None:
    """A refused batch is taken apart: numbers are given back, groups of other nodes keep their place."""
    stand = Stand()
    stand.lead()
    stand.replica.refusal = Busy("full")
    stand.ask("INCR a")
    stand.receive("n2", ForwardWrites(group(1, "INCR b")))
    stand.receive("n2", ForwardWrites(group(2, "INCR b")))
    stand.do("INCR a")
    assert stand.batches() == []
    assert stand.take_sent() == []
    stand.replica.refusal = None
    stand.pass_time(20)
    assert sorted(contents(stand)[0]) == [(OWN, 1, 2), (THEIRS, 1, 1), (THEIRS, 2, 1)]


def test_a_node_that_does_not_lead_refuses_groups_and_names_the_leader() -> None:
    """A group for another leader is refused at once."""
    stand = Stand()
    stand.follow("n3")
    stand.receive("n2", ForwardWrites(group(5, "INCR b")))
    assert stand.take_sent() == [("n2", WritesRefused(THEIRS, 5, "not the leader", "n3"))]


def test_a_group_behind_a_refused_one_is_refused_too() -> None:
    """After a refusal nothing of that session is taken before the refused group has come again."""
    stand = Stand(max_forwarded_bytes=300)
    stand.replica.slow_disk = True
    stand.lead()
    stand.do("INCR a")
    stand.receive("n2", ForwardWrites(group(1, "SET b " + "x" * 50)))
    stand.receive("n2", ForwardWrites(group(2, "SET b " + "x" * 500)))
    stand.receive("n2", ForwardWrites(group(3, "INCR c")))
    reasons = [(value.first, value.reason) for _, value in stand.take_sent() if isinstance(value, WritesRefused)]
    assert reasons == [(2, "too much waits at the leader"), (3, "gap")]
    stand.receive("n2", ForwardWrites(group(2, "INCR b")))
    stand.receive("n2", ForwardWrites(group(3, "INCR c")))
    assert stand.take_sent() == []


def test_a_first_group_that_is_refused_keeps_those_after_it_out() -> None:
    """The leader need not know a session to refuse what follows a group that it refused."""
    stand = Stand(max_forwarded_bytes=100)
    stand.replica.slow_disk = True
    stand.lead()
    stand.do("INCR a")
    stand.receive("n3", ForwardWrites(group(1, "INCR b", session=b"\x33" * 16)))
    stand.receive("n2", ForwardWrites(group(7, "SET b " + "x" * 500)))
    stand.receive("n2", ForwardWrites(group(8, "INCR b")))
    assert [value.first for _, value in stand.take_sent() if isinstance(value, WritesRefused)] == [7, 8]


def test_a_group_beyond_the_bound_is_taken_when_nothing_else_waits() -> None:
    """A bound that is smaller than a group delays it and does not refuse it for ever."""
    stand = Stand(max_forwarded_bytes=100)
    stand.replica.slow_disk = True
    stand.lead()
    stand.do("INCR a")
    stand.receive("n2", ForwardWrites(group(1, "SET b " + "x" * 500)))
    assert stand.take_sent() == []


def test_a_full_window_proposes_nothing() -> None:
    """While all groups that may be in flight are, what waits behind them makes no empty entries, however often the loop turns."""
    stand = Stand(window_groups=2)
    stand.lead()
    for _ in range(3):
        stand.do("INCR a")
    for _ in range(5):
        stand.flush()
    assert len(stand.replica.log) == 2


def test_what_the_machine_knows_of_a_session_opens_the_way_again() -> None:
    """Groups that another leader got committed meanwhile are no gap."""
    stand = Stand()
    stand.lead()
    stand.receive("n2", ForwardWrites(group(1, "INCR b")))
    stand.commit()
    stand.commit_groups(group(2, "INCR b"))
    stand.receive("n2", ForwardWrites(group(3, "INCR b")))
    assert stand.take_sent() == []
    stand.commit_groups(group(9, "INCR b"))
    stand.receive("n2", ForwardWrites(group(6, "INCR b")))
    assert stand.take_sent() == []


def test_a_node_that_connects_again_may_begin_anywhere() -> None:
    """A broken connection loses groups; the machine, not the leader, knows where the session stands."""
    stand = Stand()
    stand.lead()
    stand.receive("n2", ForwardWrites(group(1, "INCR b")))
    stand.router.peer_disconnected("n2")
    stand.receive("n2", ForwardWrites(group(5, "INCR b")))
    assert stand.take_sent() == []


def test_a_restarted_node_begins_a_session_of_its_own() -> None:
    """Another session of the same node is not measured by the numbers of the one before."""
    stand = Stand()
    stand.lead()
    stand.receive("n2", ForwardWrites(group(1, "INCR b")))
    stand.receive("n2", ForwardWrites(group(1, "INCR b", session=OTHERS)))
    stand.commit()
    assert stand.take_sent() == []
    assert stand.replica.machine.session_last(OTHERS) == 1


def test_leadership_takes_the_groups_of_other_nodes_along() -> None:
    """What waited at a deposed leader is not proposed when it leads again: its nodes have sent it to somebody else."""
    stand = Stand()
    stand.replica.slow_disk = True
    stand.lead(1)
    stand.do("INCR a")
    stand.receive("n2", ForwardWrites(group(1, "INCR b")))
    stand.follow("n3", 2)
    stand.replica.appending = False
    stand.lead(3)
    sessions = {session for batch in contents(stand)[1:] for session, _, _ in batch}
    assert THEIRS not in sessions
    stand.receive("n2", ForwardWrites(group(4, "INCR b")))
    assert [value for _, value in stand.take_sent() if isinstance(value, WritesRefused)] == []


def test_a_full_disk_is_told_to_the_nodes_that_wait() -> None:
    """When the leader cannot write, what other nodes forwarded is refused with its reason, the first group of each."""
    stand = Stand()
    stand.replica.slow_disk = True
    stand.lead()
    stand.do("INCR a")
    for first in (1, 2):
        stand.receive("n2", ForwardWrites(group(first, "INCR b")))
    stand.replica.refusal = Unavailable("the disk is full")
    stand.appended()
    assert stand.take_sent() == [("n2", WritesRefused(THEIRS, 1, "the disk is full", "n1"))]
    stand.receive("n2", ForwardWrites(group(3, "INCR b")))
    assert stand.take_sent() == [("n2", WritesRefused(THEIRS, 3, "gap", "n1"))]


def test_nonsense_of_another_node_is_counted_and_dropped() -> None:
    """A group that cannot be is not proposed."""
    stand = Stand()
    stand.lead()
    stand.receive("n2", ForwardWrites(Group(0, THEIRS, 0, 0, 1, b"")))
    stand.receive("n2", ForwardWrites(Group(0, THEIRS, 1, 0, 0, b"\x90")))
    stand.receive("n2", ForwardWrites(Group(7, THEIRS, 1, 0, 1, b"\x90")))
    assert stand.router.refused_frames == 3
    assert stand.batches() == []


def test_what_is_nested_too_deeply_does_not_enter_the_log() -> None:
    """A group that a replica might not be able to read is refused, for certain, and so is what follows it; the next that is sound is
    applied."""
    stand = Stand()
    stand.lead()
    sound = group(1, "SET b 1")
    nested = b"\x91\x94" + sound.commands[2:] + b"\x91" * 1_000 + b"\xc0"  # one field more, and what a field it is
    stand.receive("n2", ForwardWrites(Group(0, THEIRS, 1, 0, 1, nested)))
    stand.receive("n2", ForwardWrites(group(2, "SET b 2")))
    stand.flush()
    stand.commit()
    refused = [(value.first, value.reason) for _, value in stand.take_sent() if isinstance(value, WritesRefused)]
    assert refused == [(1, "the commands are nested in more than 16 levels"), (2, "gap")]
    assert stand.batches() == []
    stand.receive("n2", ForwardWrites(sound))
    stand.flush()
    stand.commit()
    assert contents(stand) == [[(THEIRS, 1, 1)]]


# The log's clock.


def test_batches_carry_the_leaders_stamp() -> None:
    """The stamp follows the monotonic clock, from what a majority's wall clocks say."""
    stand = Stand()
    stand.lead()
    stand.do("INCR a")
    stand.now_ms += 250
    stand.do("INCR a")
    assert [batch.stamp_ms for batch in stand.batches()] == [WALL_MS + 1000, WALL_MS + 1250]


def test_an_empty_batch_is_proposed_when_something_is_due() -> None:
    """Without any write, what is due goes away: one empty batch is proposed, and no second while it is on its way."""
    stand = Stand()
    stand.lead()
    stand.do("SET a 1 PX 100", "SET b 1")
    stand.commit()
    stand.pass_time(100)
    assert len(stand.batches()) == 1
    stand.pass_time(1)
    stand.pass_time(5)
    stand.pass_time(5)
    assert [len(batch.groups) for batch in stand.batches()] == [1, 0]
    stand.commit()
    stand.do("EXISTS a", "EXISTS b")
    stand.confirm()
    assert stand.answers()[2:] == [0, 1]
    stand.pass_time(100)
    assert len(stand.batches()) == 2


def test_only_the_leader_lets_things_expire() -> None:
    """A follower proposes nothing, whatever is due."""
    stand = Stand()
    stand.follow()
    stand.do("SET a 1 PX 100")
    stand.commit_groups(*stand.forwarded())
    stand.pass_time(500)
    assert len(stand.replica.log) == 1


def test_a_read_sees_nothing_that_is_due() -> None:
    """A linearizable read waits for the batch that lets expire what is due when the read is asked."""
    stand = Stand()
    stand.lead()
    stand.do("SET a 1 PX 100")
    stand.commit()
    stand.now_ms += 101
    assert stand.do("GET a") == []
    assert [len(batch.groups) for batch in stand.batches()] == [1, 0]
    stand.confirm()
    assert stand.answers() == [OK]
    stand.commit()
    assert stand.answers() == [OK, None]


def test_a_read_does_not_wait_for_an_expiry_of_a_lost_leadership() -> None:
    """An empty batch that a new leader overwrote holds nobody up."""
    stand = Stand()
    stand.lead(1)
    stand.do("SET a 1 PX 100")
    stand.commit()
    stand.now_ms += 101
    stand.do("GET a")
    context = stand.replica.contexts[-1]
    stand.router.read_point(context, 1)
    del stand.replica.log[1:]
    stand.change(Role.FOLLOWER, "n2", 2)
    assert stand.answers() == [OK, b"1"]
