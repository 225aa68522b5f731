"""Blocking pops: who waits for what, who is woken, and how waiting ends. No time passes but the stand's."""

from __future__ import annotations

import pytest

from raftkv.codec.peer import ForwardWrites
from raftkv.kv.batch import FORMAT_VERSION, Batch, Group, encode_batch
from raftkv.kv.commands import encode_commands, parse_request
from raftkv.kv.replies import NO_ARRAY, OK, Failure, Pushes, Reply, Simple
from raftkv.router.router import OVERLOADED, REBUILDING, STOPPING
from raftkv.router.waiting import UNBLOCKED
from raftkv.router.writes import LATE
from tests.router.stand import Stand

OTHER_SESSION = b"o" * 16
WRONG_TYPE = Failure("WRONGTYPE", "Operation against a key holding the wrong kind of value")


class Node(Stand):
    """A leader with five clients, and another node's client who pushes and pops through the log."""

    def __init__(self, **settings: int) -> None:
        super().__init__(**settings)
        self.others = 0
        self.lead()
        for number in range(2, 6):
            self.router.open(number, "")

    def run(self, *lines: str, connection: int = 1) -> list[Reply]:
        """Ask, and let everything be committed until nothing moves; what the connection was answered."""
        before = len(self.answers(connection))
        self.ask(*lines, connection=connection)
        self.settle()
        return self.answers(connection)[before:]

    def settle(self) -> None:
        """Commit until nothing is proposed any more."""
        self.flush()
        while self.replica.applied_index < len(self.replica.log):
            self.commit()

    def other(self, *lines: str) -> None:
        """A client of another node has written this: it is committed next, and nothing else is."""
        commands = [parse_request(line.encode().split()) for line in lines]
        group = Group(0, OTHER_SESSION, self.others + 1, self.others, len(commands), encode_commands(commands))
        self.others += len(commands)
        self.commit_groups(group)

    def attempts(self) -> int:
        """How many commands of this node are on their way."""
        return self.router.counts().in_flight


@pytest.fixture
def node() -> Node:
    """One."""
    return Node()


def test_a_pop_that_finds_an_element_does_not_wait(node: Node) -> None:
    """It is answered by its first attempt, from the first of its keys that has an element."""
    node.run("RPUSH b 1 2 3 4")
    assert node.run("BLPOP a b 0", "BRPOP b a 0") == [[b"b", b"1"], [b"b", b"4"]]
    assert node.run("BLMOVE b a LEFT RIGHT 0", "BRPOPLPUSH b a 0") == [b"2", b"3"]
    assert node.run("BLMPOP 0 2 b a LEFT COUNT 5") == [[b"a", [b"3", b"2"]]]


@pytest.mark.parametrize(
    ("wait", "push", "answer"),
    [
        ("BLPOP a b 0", "RPUSH b x y", [b"b", b"x"]),
        ("BRPOP a b 0", "LPUSH a x y", [b"a", b"x"]),
        ("BLMOVE a b LEFT LEFT 0", "RPUSH a x", b"x"),
        ("BRPOPLPUSH a b 0", "RPUSH a x", b"x"),
        ("BLMPOP 0 2 a b RIGHT COUNT 2", "RPUSH b x y z", [b"b", [b"z", b"y"]]),
    ],
)
def test_a_waiter_gets_what_is_pushed(node: Node, wait: str, push: str, answer: Reply) -> None:
    """Whoever waits for a key is answered when somebody pushes there, here or at another node."""
    assert node.run(wait) == []
    assert node.run(push, connection=2)
    assert node.answers() == [answer]
    node.run("DEL a b")
    node.replies.clear()
    node.run(wait)
    node.other(push)
    node.settle()
    assert node.answers() == [answer]
    assert node.router.idle


def test_nothing_behind_a_waiter_is_taken_up(node: Node) -> None:
    """What the client asks behind it waits with it, and is done when it has been answered, with all its time."""
    node.run("SET a 1", "BLPOP q 0", "INCR a", "GET a", "PING")
    assert node.answers() == [OK]
    node.pass_time(60_000)
    assert node.run("GET a", connection=2) == []
    node.confirm()
    assert node.answers(2) == [b"1"]
    node.run("RPUSH q x", connection=2)
    node.confirm()
    assert node.answers()[1:4] == [[b"q", b"x"], 2, b"2"]


def test_a_waiter_is_told_what_is_published(node: Node) -> None:
    """In RESP3 a client who waits hears messages meanwhile, and the answer comes in its place."""
    node.run("HELLO 3", "SUBSCRIBE c", "BLPOP q 0")
    node.replies.clear()
    node.run("PUBLISH c hi", connection=2)
    assert node.answers() == [Pushes(((b"message", b"c", b"hi"),))]
    node.run("RPUSH q x", connection=2)
    assert node.answers()[1:] == [[b"q", b"x"]]


def test_waiters_are_served_in_the_order_of_waiting(node: Node) -> None:
    """One element serves the first; three that come together serve the next three, one after the other, and nobody else tries."""
    for connection in (3, 1, 4, 2):
        node.run("BLPOP q 0", connection=connection)
    node.other("RPUSH q a")
    assert node.attempts() == 1
    node.settle()
    assert [node.answers(number) for number in (3, 1, 4, 2)] == [[[b"q", b"a"]], [], [], []]
    node.other("RPUSH q b c d e")
    node.settle()
    assert [node.answers(number)[-1:] for number in (1, 4, 2)] == [[[b"q", b"b"]], [[b"q", b"c"]], [[b"q", b"d"]]]
    assert node.router.counts().blocked == 0


def test_a_waiter_whose_element_is_taken_by_another_goes_on_in_its_place(node: Node) -> None:
    """Its attempt finds nothing, it is told nothing, and the next element is its own, before those who came later."""
    node.run("BLPOP q 0")
    node.run("BLPOP q 0", connection=2)
    for _ in range(5):
        node.other("RPUSH q x", "LPOP q")
        node.settle()
        assert node.answers() == node.answers(2) == []
    node.other("RPUSH q y")
    node.settle()
    assert (node.answers(), node.answers(2)) == ([[b"q", b"y"]], [])


def test_a_push_between_the_attempt_and_its_answer_is_not_lost(node: Node) -> None:
    """An attempt that finds nothing, and a push in the very next entry, are applied in one turn: the waiter tries again."""
    node.ask("BLPOP q 0")
    node.flush()
    [attempt] = node.replica.log
    node.apply(attempt)
    node.other("RPUSH q x")
    node.settle()
    assert node.answers() == [[b"q", b"x"]]


def test_a_push_in_the_entry_of_the_attempt_is_not_lost(node: Node) -> None:
    """Also when the push comes behind the attempt in the same entry."""
    node.ask("BLPOP q 0")
    node.ask("RPUSH q x", connection=2)
    node.settle()
    assert (node.answers(), node.answers(2)) == ([[b"q", b"x"]], [1])


def test_entries_that_were_skipped_may_have_pushed(node: Node) -> None:
    """When the state jumps ahead, waiters try again, though nobody said that their key has gained anything."""
    node.run("BLPOP q 0")
    node.run("BLPOP q 0", connection=2)
    group = Group(0, OTHER_SESSION, 1, 0, 1, encode_commands([parse_request([b"RPUSH", b"q", b"x", b"y"])]))
    node.replica.log.append(encode_batch(Batch(FORMAT_VERSION, 1, 1, [group])))
    node.replica.machine.apply(node.replica.applied_index + 1, 1, node.replica.log[-1])
    node.router.snapshot_installed(node.now_ms)
    node.settle()
    assert (node.answers(), node.answers(2)) == ([[b"q", b"x"]], [[b"q", b"y"]])


def test_time_ends_waiting(node: Node) -> None:
    """The timeout counts from the turn of the command, in milliseconds rounded up; the answer is the nil of an array, also of BLMOVE."""
    node.run("BLPOP q 0.2")
    node.run("BLMOVE q r LEFT LEFT 1", connection=2)
    node.run("BLPOP q 0", connection=3)
    node.pass_time(199)
    assert node.answers() == []
    node.pass_time(1)
    assert node.answers() == [NO_ARRAY]
    node.pass_time(1000)
    assert node.answers(2) == [NO_ARRAY]
    node.pass_time(10**9)
    assert node.answers(3) == []
    assert node.router.counts().blocked == 1


def test_an_attempt_under_way_outlives_the_timeout(node: Node) -> None:
    """When the time ends while an attempt is under way, its outcome decides: an element is given, nothing is nil, and only once."""
    for lines, answer in ((["RPUSH q x"], [b"q", b"x"]), (["RPUSH q x", "LPOP q"], NO_ARRAY)):
        node.replies.clear()
        node.run("BLPOP q 1")
        node.other(*lines)
        node.pass_time(2000)
        assert node.answers() == []
        node.settle()
        assert node.answers() == [answer]
        node.pass_time(2000)
        node.other("RPUSH q y")
        node.settle()
        assert node.answers() == [answer]
        node.run("DEL q", connection=2)


def test_a_client_can_be_unblocked(node: Node) -> None:
    """CLIENT UNBLOCK ends the waiting of a connection as a timeout does, or with an error, and says whether it was waiting."""
    node.run("BLPOP q 0")
    assert node.run("CLIENT UNBLOCK 1", "CLIENT UNBLOCK 1", "CLIENT UNBLOCK 99", connection=2) == [1, 0, 0]
    assert node.answers() == [NO_ARRAY]
    node.run("BLPOP q 0")
    assert node.run("CLIENT UNBLOCK 1 ERROR", connection=2) == [1]
    assert node.answers()[1:] == [UNBLOCKED]
    node.run("BLPOP q 0")
    node.other("RPUSH q x")
    assert node.do("CLIENT UNBLOCK 1 timeout", connection=2) == [1]
    node.settle()
    assert node.answers()[2:] == [[b"q", b"x"]]


@pytest.mark.parametrize(("wait", "answer"), [("BLPOP q 0", NO_ARRAY), ("WAIT 9 0", 1)])
def test_who_is_unblocked_in_a_transaction_goes_on(node: Node, wait: str, answer: Reply) -> None:
    """What he asked behind is taken up at once, also when the transaction's reply is made only as it leaves."""
    node.run("SET k x")
    node.run(wait, "PING")
    node.run("MULTI", "GET k", "CLIENT UNBLOCK 1", "EXEC", connection=2)
    assert node.answers(2)[-1] == [b"x", 1]
    assert node.answers()[1:] == [answer, Simple("PONG")]


def test_places_in_line_are_bounded() -> None:
    """A place takes far more than the name of its key, and counts among what the node holds until the client is answered or gone."""
    node = Node(max_bytes=10_000)
    many = " ".join(f"k{number}" for number in range(15))
    assert node.run(f"BLPOP {many} 0") == []
    assert node.run(f"BLPOP {many} 0", "PING", connection=2) == [OVERLOADED, Simple("PONG")]
    node.run("RPUSH k3 x", connection=3)
    assert node.answers() == [[b"k3", b"x"]]
    assert node.run(f"BLPOP {many} 0", connection=2) == []
    node.router.closed(2)
    assert node.run(f"BLPOP {many} 0", connection=3) == []


def test_another_type_wakes_nobody(node: Node) -> None:
    """A key of another type is an error at first, and not there for who waits already, also beside a key that has an element."""
    node.run("SET s x")
    assert node.run("BLPOP s q 0") == [WRONG_TYPE]
    node.run("BLPOP k q 0", connection=2)
    node.run("SET k x")
    node.run("RPUSH q y")
    assert node.answers(2) == [[b"q", b"y"]]
    node.run("BLMOVE q s LEFT LEFT 0", connection=3)
    node.run("RPUSH q z")
    assert node.answers(3) == [WRONG_TYPE]
    assert node.run("LLEN q") == []
    node.confirm()
    assert node.answers()[-1] == 1


def test_an_element_that_one_cannot_take_is_for_the_next(node: Node) -> None:
    """When an attempt ends in an error, whoever waits behind it is served."""
    node.run("SET s x")
    node.run("BLMOVE q s LEFT LEFT 0")
    node.run("BLPOP q 0", connection=2)
    node.other("RPUSH q x")
    node.settle()
    assert (node.answers()[1:], node.answers(2)) == ([WRONG_TYPE], [[b"q", b"x"]])


def test_a_client_that_leaves_makes_room_for_the_next(node: Node) -> None:
    """Parked or trying: the next in line gets the element, unless the attempt had left and takes it with it."""
    for number in (1, 2, 3):
        node.run("BLPOP q 0", connection=number)
    node.router.closed(1)
    node.router.received("n2", ForwardWrites(Group(0, OTHER_SESSION, 1, 0, 1, encode_commands([parse_request([b"RPUSH", b"q", b"x"])]))), 0)
    node.flush()
    payload = node.replica.log[-1]
    node.apply(payload)
    node.router.closed(2)
    node.settle()
    assert (node.answers(2), node.answers(3)) == ([], [[b"q", b"x"]])
    assert node.router.idle
    assert node.router.counts().clients == 3


def test_an_attempt_that_has_left_is_what_it_is(node: Node) -> None:
    """The element that it takes for a client who is gone goes to nobody, as in Redis when a reply cannot be written."""
    node.run("BLPOP q 0")
    node.other("RPUSH q x y")
    assert node.attempts() == 1
    node.router.closed(1)
    node.run("BLPOP q 0", connection=2)
    assert node.answers(2) == [[b"q", b"y"]]


def test_a_client_that_sends_nothing_more_does_not_wait(node: Node) -> None:
    """It is disconnected when it would wait, now or later; who gets an element at once is answered."""
    node.run("BLPOP q 0")
    node.router.ended(1)
    node.flush()
    assert node.deliveries[-1] == (1, [], 2, True)
    node.ask("BLPOP q 0", connection=2)
    node.router.ended(2)
    node.settle()
    assert node.deliveries[-1] == (2, [], 2, True)
    node.run("RPUSH q x", connection=3)
    node.ask("BLPOP q 0", connection=3)
    node.router.ended(3)
    node.settle()
    assert node.answers(3) == [1, [b"q", b"x"]]
    assert node.router.counts().blocked == 0


def test_a_node_that_stops_lets_nobody_wait(node: Node) -> None:
    """Who waits is told to ask another node; an attempt under way is answered first."""
    node.run("BLPOP q 0")
    node.run("BLPOP r 0", connection=2)
    node.ask("BLPOP p 0", connection=3)
    node.flush()
    assert not node.router.drain()
    node.settle()
    assert (node.answers(), node.answers(2), node.answers(3)) == ([STOPPING], [STOPPING], [STOPPING])
    assert node.run("BLPOP q 0") == [STOPPING]
    assert node.router.drain()


def test_a_node_that_cannot_serve_lets_nobody_wait(node: Node) -> None:
    """Without a state, and without a leader for as long as a request may take, whoever waits is told so; a shorter time he does not
    notice."""
    node.run("BLPOP q 0")
    node.replica.ready_to_serve = False
    node.pass_time(1)
    assert node.answers() == [REBUILDING]
    node.replica.ready_to_serve = True
    node.run("BLPOP q 0")
    node.follow(None, 2)
    for _ in range(49):
        node.pass_time(100)
    assert len(node.answers()) == 1
    node.follow("n2", 2)
    node.pass_time(100)
    node.follow(None, 3)
    for _ in range(60):
        node.pass_time(100)
    assert node.answers()[1:] == [Failure("CLUSTERDOWN", "there was no leader for 5 s; the request did not happen")]


def test_a_waiter_survives_a_change_of_leader(node: Node) -> None:
    """Parked or trying, it is served under the new leader, once: the attempt is sent again under its number."""
    node.run("BLPOP q 0")
    node.run("BLPOP q 0", connection=2)
    node.other("RPUSH q x y")
    node.follow("n2", 2)
    [group] = node.forwarded()
    node.follow("n3", 3)
    [again] = node.forwarded()
    assert again == group
    node.commit_groups(again)
    node.commit_groups(*node.forwarded(), again)
    assert (node.answers(), node.answers(2)) == ([[b"q", b"x"]], [[b"q", b"y"]])


def test_an_attempt_has_the_deadline_of_a_request(node: Node) -> None:
    """What may have been taken is UNCERTAIN, as with any write, and what surely was not is told for certain."""
    node.ask("BLPOP q 0")
    node.flush()
    node.pass_time(5000)
    assert node.answers() == [LATE]
    node.settle()
    node.follow(None, 2)
    node.ask("BLPOP q 0")
    node.flush()
    node.pass_time(5000)
    assert node.answers()[1:] == [Failure("CLUSTERDOWN", "there was no leader for 5 s; the request did not happen")]
    assert node.router.idle


def test_waiters_count_among_what_is_held(node: Node) -> None:
    """A node that holds as many requests as it may refuses another one, waiting or not."""
    small = Node(max_commands=2)
    small.run("BLPOP q 0")
    small.run("BLPOP q 0", connection=2)
    assert small.run("BLPOP q 0", connection=3) == [Failure("OVERLOADED", "this node holds as many requests as it may; wait and try again")]
    small.router.closed(1)
    assert small.run("PING", connection=3)


def test_the_memory_of_deadlines_is_bounded(node: Node) -> None:
    """Waiters with long timeouts that are served at once leave nothing behind."""
    for _ in range(1000):
        node.run("BLPOP q 3600")
        node.run("RPUSH q x", connection=2)
    assert len(node.router._line._deadlines) < 100
    assert not node.router._line._lines


def test_what_blocks_ends_a_run_of_writes(node: Node) -> None:
    """In one piece with other writes it takes its turn; those behind it come after its answer."""
    node.run("RPUSH q a", "BLPOP q 0", "RPUSH q b", "BLPOP q 0", "BLPOP q 0.5", "RPUSH q c")
    assert node.answers() == [1, [b"q", b"a"], 1, [b"q", b"b"]]
    node.pass_time(500)
    node.settle()
    assert node.answers()[4:] == [NO_ARRAY, 1]


def test_a_pop_that_is_too_large_is_refused() -> None:
    """As any other write, with the limit named."""
    small = Node(max_entry_bytes=100)
    [reply] = small.run("BLPOP " + "k " * 120 + "0")
    assert isinstance(reply, Failure)
    assert "max_entry_bytes is 100" in reply.message


def test_nothing_waits_in_a_transaction(node: Node) -> None:
    """Inside of MULTI a pop that finds nothing answers nil at once, and what is published is delivered when the transaction is done."""
    node.run("SUBSCRIBE c", connection=2)
    node.run("MULTI", "BLPOP q 0", "BLMOVE q r LEFT LEFT 0", "RPUSH q x", "BLPOP q 0", "PUBLISH c hi", "SUBSCRIBE d")
    assert node.answers()[-1] == Failure("ERR", "Command not allowed inside a transaction")
    node.run("EXEC")
    node.run("MULTI", "BLPOP q 0", "BLMOVE q r LEFT LEFT 0", "RPUSH q x", "BLPOP q 0", "PUBLISH c hi", "EXEC")
    assert node.answers()[-1] == [NO_ARRAY, None, 1, [b"q", b"x"], 1]
    assert node.answers(2)[-1] == Pushes(((b"message", b"c", b"hi"),))


def test_a_transaction_that_pushes_wakes_who_waits(node: Node) -> None:
    """As any push does; what the transaction has taken away again is not there for him."""
    node.run("BLPOP q 0")
    node.run("MULTI", "RPUSH q x", "LPOP q", "EXEC", connection=2)
    assert node.answers() == []
    node.run("MULTI", "RPUSH q y", "EXEC", connection=2)
    assert node.answers() == [[b"q", b"y"]]
