"""Linearizable reads at the leader and at other nodes, local reads, slow reads."""

from __future__ import annotations

from raftkv.codec.peer import ForwardReads, ReadAnswers, ReadsRefused
from raftkv.errors import Busy
from raftkv.kv.commands import decode_commands, encode_commands, parse_request
from raftkv.kv.keyspace import ELEMENTS_PER_TURN
from raftkv.kv.replies import OK, Failure, Reply, decode_replies, encode_replies
from raftkv.kv.space_commands import RandomKey
from raftkv.raft.ready import Role
from tests.router.stand import Stand


def code(reply: Reply) -> str:
    """The first word of an error."""
    assert isinstance(reply, Failure)
    return reply.code


def reads(number: int, *lines: str) -> ForwardReads:
    """Reads as another node forwards them."""
    commands = [parse_request(line.encode().split()) for line in lines]
    return ForwardReads(number, encode_commands(commands), len(commands))


def answers(stand: Stand) -> list[tuple[str, int, list[Reply]]]:
    """The answers that were sent to other nodes since the last call, and nothing else was."""
    found = []
    for node, value in stand.take_sent():
        assert isinstance(value, ReadAnswers)
        found.append((node, value.id, decode_replies(value.replies)))
    return found


def with_value(lead: bool = True, **settings: int) -> Stand:
    """A stand whose machine holds a=1."""
    stand = Stand(**settings)
    stand.lead()
    stand.do("SET a 1")
    stand.commit()
    stand.replies.clear()
    if not lead:
        stand.follow("n2", 2)
    return stand


# At the leader.


def test_all_waiting_reads_share_a_round() -> None:
    """Reads of all clients and of other nodes that come in during an iteration need one read point."""
    stand = with_value()
    stand.router.open(2, "")
    stand.ask("GET a")
    stand.ask("GET b", connection=2)
    stand.receive("n2", reads(7, "EXISTS a", "GET a"))
    assert len(stand.replica.contexts) == 1
    stand.confirm()
    assert (stand.answers(1), stand.answers(2)) == ([b"1"], [None])
    assert answers(stand) == [("n2", 7, [1, b"1"])]


def test_a_read_is_not_served_before_its_round_is_confirmed() -> None:
    """Hazard 26: without a read point nothing is read, whatever has been applied."""
    stand = with_value()
    stand.do("GET a")
    stand.do("INCR b", connection=1)
    assert stand.answers() == []
    stand.appended()
    stand.pass_time(20)
    assert stand.answers() == []


def test_a_read_waits_until_its_point_is_applied() -> None:
    """A confirmed read is executed only at a state that has applied the point."""
    stand = with_value()
    stand.router.open(2, "")
    stand.do("INCR a")
    stand.do("GET a", connection=2)
    stand.confirm(index=2)
    assert stand.answers(2) == []
    stand.commit()
    assert stand.answers(2) == [b"2"]


def test_a_number_of_a_round_is_never_used_again() -> None:
    """Hazard 25: a late confirmation of a void round confirms nothing."""
    stand = with_value()
    stand.do("GET a")
    (old,) = stand.replica.contexts
    stand.change(Role.FOLLOWER, None, 2)
    stand.lead(3)
    assert old not in stand.replica.contexts[1:]
    stand.router.read_point(old, 1)
    stand.flush()
    assert stand.answers() == []


def test_reads_of_a_lost_leadership_are_asked_of_the_next_leader() -> None:
    """A round that was not confirmed in its term is void: own reads go to the new leader, other nodes are told."""
    stand = with_value()
    stand.ask("GET a")
    stand.receive("n2", reads(7, "GET a"))
    stand.follow("n3", 2)
    sent = stand.take_sent()
    assert sent[0] == ("n2", ReadsRefused(7, "not the leader any more"))
    assert sent[1][0] == "n3"
    assert isinstance(sent[1][1], ForwardReads)


def test_a_confirmed_read_survives_the_leadership() -> None:
    """A point that was confirmed stays good: the state that has applied it answers."""
    stand = with_value()
    stand.do("INCR a")
    stand.do("GET a")
    stand.commit()
    stand.router.open(2, "")
    stand.do("GET a", connection=2)
    stand.confirm(index=2)
    stand.change(Role.FOLLOWER, None, 2)
    assert (stand.answers(1), stand.answers(2)) == ([2, b"2"], [b"2"])


def test_a_node_that_does_not_lead_refuses_reads() -> None:
    """Reads of another node are answered by a leader only."""
    stand = with_value(lead=False)
    stand.receive("n3", reads(7, "GET a"))
    assert stand.take_sent() == [("n3", ReadsRefused(7, "not the leader"))]


def test_reads_of_other_nodes_are_bounded() -> None:
    """A leader with as many forwarded reads as it may hold refuses more, and takes some again when it has answered."""
    stand = with_value(max_forwarded_reads=3)
    stand.receive("n2", reads(1, "GET a", "GET a"))
    stand.receive("n3", reads(1, "GET a", "GET a"))
    assert stand.take_sent() == [("n3", ReadsRefused(1, "busy"))]
    stand.confirm()
    assert len(answers(stand)) == 1
    stand.receive("n3", reads(2, "GET a", "GET a"))
    assert stand.take_sent() == []


def test_nonsense_among_forwarded_reads_is_refused() -> None:
    """Bytes that are no reads, and writes that pretend to be, are refused without touching the state."""
    stand = with_value()
    stand.receive("n2", ForwardReads(1, b"\xc1", 1))
    stand.receive("n2", reads(2, "INCR a"))
    stand.receive("n2", reads(3))
    stand.confirm()
    assert stand.take_sent() == [("n2", ReadsRefused(number, "malformed")) for number in (1, 2, 3)]
    assert stand.do("GET a") == []
    stand.confirm()
    assert stand.answers() == [b"1"]


def test_a_node_whose_connection_broke_gets_no_late_answer() -> None:
    """Another process may use the name now; what the old one asked is forgotten."""
    stand = with_value()
    stand.receive("n2", reads(7, "GET a"))
    stand.router.peer_disconnected("n2")
    stand.confirm()
    assert stand.take_sent() == []


def test_time_to_live_counts_from_the_leaders_clock() -> None:
    """TTL moves although nothing is written: the leader counts it from its own stamp."""
    stand = with_value()
    stand.do("SET b 1 PX 10000")
    stand.commit()
    stand.now_ms += 4000
    stand.do("PTTL b")
    stand.confirm()
    assert stand.answers() == [OK, 6000]


# At another node.


def test_reads_of_an_iteration_are_forwarded_together() -> None:
    """The reads of all clients travel in one frame, and each gets its own replies."""
    stand = Stand()
    stand.follow()
    stand.router.open(2, "")
    stand.ask("GET a", "GET b")
    stand.ask("GET c", connection=2)
    stand.flush()
    (frame,) = stand.forwarded_reads()
    assert frame.count == 3
    assert len(decode_commands(frame.commands)) == 3
    stand.receive("n2", ReadAnswers(frame.id, encode_replies([b"1", None, b"3"])))
    assert (stand.answers(1), stand.answers(2)) == ([b"1", None], [b"3"])


def test_a_frame_of_reads_is_bounded() -> None:
    """Many reads are cut into several frames."""
    stand = Stand(group_commands=3)
    stand.follow()
    for connection in (2, 3, 4):
        stand.router.open(connection, "")
        stand.ask("GET a", "GET a", connection=connection)
    stand.flush()
    assert [frame.count for frame in stand.forwarded_reads()] == [2, 2, 2]


def test_a_partial_answer_is_asked_for_the_rest() -> None:
    """A leader answers as much as fits; what is missing is asked again, and replies stay in order."""
    stand = Stand()
    stand.follow()
    stand.router.open(2, "")
    stand.ask("GET a", "GET b")
    stand.ask("GET c", connection=2)
    stand.flush()
    (frame,) = stand.forwarded_reads()
    stand.receive("n2", ReadAnswers(frame.id, encode_replies([b"1"])))
    assert stand.answers(1) == [b"1"]
    (again,) = stand.forwarded_reads()
    assert [each.key for each in decode_commands(again.commands)] == [b"b", b"c"]  # type: ignore[attr-defined]
    stand.receive("n2", ReadAnswers(again.id, encode_replies([b"2", b"3"])))
    assert (stand.answers(1), stand.answers(2)) == ([b"1", b"2"], [b"3"])


def test_a_leader_bounds_its_answer() -> None:
    """Replies that together are too large are answered in part; one that is too large by itself is an error."""
    stand = with_value(max_answer_bytes=1000)
    stand.do("SET b " + "x" * 600, "SET c " + "x" * 2000)
    stand.commit()
    stand.receive("n2", reads(1, "GET b", "GET b", "GET b"))
    stand.receive("n3", reads(1, "GET c", "GET a"))
    stand.confirm()
    first, second = answers(stand)
    assert first == ("n2", 1, [b"x" * 600])
    assert [code(reply) for reply in second[2]] == ["ERR"]


def test_own_reads_with_large_replies_leave_in_several_turns() -> None:
    """Replies of one pipeline are made in portions, so that a client cannot make the node hold them all at once."""
    stand = with_value(max_answer_bytes=1000)
    stand.do("SET b " + "x" * 600)
    stand.commit()
    stand.deliveries.clear()
    stand.do(*["GET b"] * 5)
    contexts = list(stand.replica.contexts)
    wakes = stand.wakes
    for context in contexts:
        stand.router.read_point(context, 2)
    stand.flush()
    assert len(stand.deliveries[-1][1]) == 2
    assert stand.wakes > wakes
    stand.flush()
    stand.flush()
    assert [len(replies) for _, replies, _, _ in stand.deliveries] == [2, 2, 1]


def test_refused_reads_are_asked_again_after_a_pause() -> None:
    """A node that cannot answer is asked again, under another number, until the time is over."""
    stand = Stand(timeout_ms=100)
    stand.follow()
    stand.do("GET a")
    (frame,) = stand.forwarded_reads()
    stand.receive("n2", ReadsRefused(frame.id, "not the leader"))
    assert stand.take_sent() == []
    stand.pass_time(10)
    (again,) = stand.forwarded_reads()
    assert again.id != frame.id
    assert again.commands == frame.commands
    stand.receive("n2", ReadAnswers(frame.id, encode_replies([b"late"])))
    assert stand.answers() == []
    stand.receive("n2", ReadsRefused(again.id, "not the leader"))
    stand.pass_time(90)
    assert [code(reply) for reply in stand.answers()] == ["CLUSTERDOWN"]


def test_reads_are_asked_again_of_a_new_leader_and_over_a_new_connection() -> None:
    """What was forwarded may be lost with its leader or its connection; a late answer of the old one meets nobody."""
    stand = Stand()
    stand.follow("n2", 1)
    stand.do("GET a")
    (first,) = stand.forwarded_reads()
    stand.follow("n3", 2)
    (second,) = stand.forwarded_reads()
    stand.router.peer_disconnected("n3")
    stand.router.peer_connected("n3")
    stand.flush()
    (third,) = stand.forwarded_reads()
    assert len({first.id, second.id, third.id}) == 3
    stand.receive("n2", ReadAnswers(first.id, encode_replies([b"old"])))
    stand.receive("n3", ReadAnswers(third.id, encode_replies([b"new"])))
    assert stand.answers() == [b"new"]


def test_silence_makes_reads_go_out_again() -> None:
    """Reads that were forwarded and not answered for `stall_ms` are asked again."""
    stand = Stand(stall_ms=500)
    stand.follow()
    stand.do("GET a")
    (first,) = stand.forwarded_reads()
    stand.pass_time(500)
    (second,) = stand.forwarded_reads()
    assert second.id != first.id


def test_two_processes_never_use_the_same_numbers() -> None:
    """The numbers of a process begin at a place that its random session determines."""
    stand = Stand()
    stand.follow()
    stand.do("GET a")
    (frame,) = stand.forwarded_reads()
    assert frame.id == (int.from_bytes(b"\x01" * 6) << 15) + 1


def test_a_read_without_a_leader_fails_when_its_time_is_over() -> None:
    """A read has no effect, so its failure is definite; meanwhile it waits."""
    stand = Stand(timeout_ms=1000)
    stand.change(Role.FOLLOWER, None, 1)
    stand.do("GET a")
    stand.pass_time(999)
    assert stand.answers() == []
    stand.pass_time(1)
    assert [code(reply) for reply in stand.answers()] == ["CLUSTERDOWN"]


def test_a_read_that_failed_late_takes_no_answer() -> None:
    """An answer after the deadline is for nobody, and the replies around it stay in order."""
    stand = Stand(timeout_ms=1000, stall_ms=5000)
    stand.router.open(2, "")
    stand.follow()
    stand.ask("GET a", "GET b")
    stand.now_ms += 500
    stand.ask("GET c", connection=2)
    stand.flush()
    (frame,) = stand.forwarded_reads()
    stand.pass_time(500)
    assert [code(reply) for reply in stand.answers(1)] == ["CLUSTERDOWN", "CLUSTERDOWN"]
    stand.receive("n2", ReadAnswers(frame.id, encode_replies([b"1", b"2", b"3"])))
    assert stand.answers(2) == [b"3"]
    assert len(stand.answers(1)) == 2


def test_a_client_that_leaves_takes_its_reads_along() -> None:
    """Reads of a client that left are not asked again, and those of others keep their replies."""
    stand = Stand()
    stand.router.open(2, "")
    stand.follow()
    stand.ask("GET a", "GET b")
    stand.ask("GET c", connection=2)
    stand.flush()
    (frame,) = stand.forwarded_reads()
    stand.router.closed(1)
    stand.receive("n2", ReadAnswers(frame.id, encode_replies([b"1", b"2", b"3"])))
    assert stand.answers(2) == [b"3"]
    assert stand.router.idle


# Local reads.


def test_a_readonly_connection_reads_the_local_state_at_once() -> None:
    """After READONLY no leader is asked; after READWRITE it is again."""
    stand = with_value(lead=False)
    assert stand.do("READONLY", "GET a", "EXISTS a") == [OK, b"1", 1]
    assert stand.take_sent() == []
    assert stand.do("READWRITE", "GET a") == [OK]
    assert len(stand.forwarded_reads()) == 1


def test_local_reads_keep_the_order_of_the_connection() -> None:
    """A local read waits for the writes before it, and therefore sees them."""
    stand = with_value(lead=False)
    assert stand.do("READONLY", "INCR a", "GET a", "PING") == [OK]
    stand.commit_groups(*stand.forwarded())
    assert stand.answers()[1:3] == [2, b"2"]


def test_local_reads_need_no_leader() -> None:
    """Also while there is no leader the local state is read."""
    stand = with_value(lead=False)
    stand.change(Role.FOLLOWER, None, 3)
    assert stand.do("READONLY", "GET a") == [OK, b"1"]


# Slow reads.


def test_a_slow_read_runs_away_from_the_loop() -> None:
    """A slow read is executed elsewhere once its point is applied; what follows on its connection that is no write may go on."""
    stand = with_value()
    stand.router.open(2, "")
    stand.ask("DBSIZE", "GET a")
    stand.do("GET a", connection=2)
    stand.confirm()
    assert stand.answers(2) == [b"1"]
    ((command, done),) = stand.replica.slow
    assert command.slow
    assert stand.answers(1) == []
    wakes = stand.wakes
    done(17)
    assert stand.wakes == wakes + 1
    stand.flush()
    assert stand.answers(1) == [17, b"1"]


def test_a_read_that_turns_out_to_take_long_runs_away_from_the_loop() -> None:
    """A read that meets too many elements is executed elsewhere, and what follows on its connection is answered behind it."""
    stand = with_value()
    stand.do([b"RPUSH", b"l", *[b"x"] * (ELEMENTS_PER_TURN + 1)])
    stand.commit()
    stand.replies.clear()
    stand.do("LRANGE l 0 9", "LRANGE l 0 -1", "GET a")
    stand.confirm()
    assert stand.answers() == [[b"x"] * 10]
    stand.flush()
    ((command, done),) = stand.replica.slow
    assert command == parse_request([b"lrange", b"l", b"0", b"-1"])
    done([b"y"])
    stand.flush()
    assert stand.answers() == [[b"x"] * 10, [b"y"], b"1"]


def test_a_slow_read_of_another_node_travels_alone() -> None:
    """Slow reads have frames of their own, so that no other connection waits for them, and silence is no reason to ask them again."""
    stand = Stand(stall_ms=500)
    stand.follow()
    for connection, line in enumerate(("DBSIZE", "GET a", "DBSIZE"), 2):
        stand.router.open(connection, "")
        stand.ask(line, connection=connection)
    stand.flush()
    frames = stand.forwarded_reads()
    assert sorted(frame.count for frame in frames) == [1, 1, 1]
    stand.pass_time(500)
    assert len(stand.forwarded_reads()) == 1


def test_random_numbers_are_drawn_where_the_request_comes_in() -> None:
    """A command that needs a random number carries it to whoever executes it: another one each time, the same ones in a process of the
    same session only."""

    def numbers(session: int) -> list[int]:
        stand = Stand(session=session)
        stand.follow()
        stand.router.open(2, "")
        stand.do("RANDOMKEY")
        stand.do("RANDOMKEY", connection=2)
        commands = [command for frame in stand.forwarded_reads() for command in decode_commands(frame.commands)]
        return [command.number for command in commands if isinstance(command, RandomKey)]

    assert numbers(1) == numbers(1)
    assert len({0, *numbers(1), *numbers(7)}) == 5


def test_a_slow_read_for_another_node_is_answered_when_it_is_done() -> None:
    """The leader runs it elsewhere and then sends the answer."""
    stand = with_value()
    stand.receive("n2", reads(9, "DBSIZE"))
    stand.confirm()
    assert stand.take_sent() == []
    ((_, done),) = stand.replica.slow
    done(1)
    assert answers(stand) == [("n2", 9, [1])]


def test_a_slow_read_that_is_late_answers_nobody() -> None:
    """When the client has been told that it took too long, the result is dropped."""
    stand = with_value(timeout_ms=100)
    stand.do("DBSIZE")
    stand.confirm()
    ((_, done),) = stand.replica.slow
    stand.pass_time(100)
    assert [code(reply) for reply in stand.answers()] == ["CLUSTERDOWN"]
    done(1)
    stand.flush()
    assert len(stand.answers()) == 1


def test_writes_that_are_refused_do_not_hold_up_reads() -> None:
    """A leader that is busy with writes still serves reads of other connections."""
    stand = with_value()
    stand.router.open(2, "")
    stand.replica.refusal = Busy("full")
    stand.do("INCR a")
    stand.do("GET a", connection=2)
    stand.confirm()
    assert stand.answers(2) == [b"1"]


# The order of reads on a connection.


def test_reads_wait_for_those_before_them_that_are_asked_elsewhere() -> None:
    """What a connection asks while its earlier reads are at the leader is asked when they are answered: so the later never see an
    older state, whatever becomes of a frame."""
    stand = with_value(lead=False)
    stand.do("GET a")
    (first,) = stand.forwarded_reads()
    stand.do("GET b")
    stand.do("GET c", "GET d")
    assert stand.forwarded_reads() == []
    stand.receive("n2", ReadsRefused(first.id, "not the leader"))
    stand.pass_time(stand.settings.retry_ms)
    (again,) = stand.forwarded_reads()
    assert [command.key for command in decode_commands(again.commands)] == [b"a", b"b", b"c", b"d"]  # type: ignore[attr-defined]
    stand.receive("n2", ReadAnswers(again.id, encode_replies([b"1", b"2", None, None])))
    assert stand.answers() == [b"1", b"2", None, None]


def test_reads_that_do_not_fit_into_one_frame_wait_for_its_answer() -> None:
    """Reads of one connection are never in two frames at a time, and those of another connection need not wait."""
    stand = with_value(lead=False, group_commands=2)
    stand.router.open(2, "")
    stand.ask("GET a", "GET b")
    stand.ask("GET c")
    stand.ask("GET d", connection=2)
    stand.flush()
    first, other = stand.forwarded_reads()
    assert [frame.count for frame in (first, other)] == [2, 1]
    stand.receive("n2", ReadAnswers(other.id, encode_replies([b"4"])))
    assert (stand.answers(1), stand.answers(2)) == ([], [b"4"])
    stand.receive("n2", ReadAnswers(first.id, encode_replies([b"1", b"2"])))
    (rest,) = stand.forwarded_reads()
    assert rest.count == 1


def test_a_later_round_does_not_overtake_reads_of_the_same_connection() -> None:
    """A leader asks no read point for reads of a connection whose earlier ones wait for theirs."""
    stand = with_value()
    stand.do("GET a")
    stand.do("GET b")
    assert len(stand.replica.contexts) == 1
    stand.confirm()
    assert stand.answers() == [b"1"]
    stand.confirm()
    assert stand.answers() == [b"1", None]


def test_the_rest_of_large_reads_keeps_its_place() -> None:
    """When the replies to reads are so large that some wait for the next turn, the reads behind them wait, too."""
    stand = with_value(max_answer_bytes=50)
    stand.do([b"SET", b"big", b"x" * 60])
    stand.commit()
    stand.replies.clear()
    stand.ask("GET big", "GET big")
    stand.ask("GET a")
    stand.flush()
    stand.confirm()
    assert stand.answers() == [b"x" * 60]
    stand.flush()
    assert stand.answers() == [b"x" * 60, b"x" * 60, b"1"]
