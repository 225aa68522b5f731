"""Publishing and subscribing: who is told what, in which order, and what a subscribed connection may ask. As Redis 7.0.15 does it."""

from __future__ import annotations

import pytest

from raftkv.codec.peer import Publish
from raftkv.kv.command import MAX_KEY_BYTES
from raftkv.kv.replies import OK, Failure, Pushes, Reply, Simple
from raftkv.router.channels import MATCHING_STEPS, MAX_PATTERN_BYTES, SUBSCRIPTION_BYTES
from tests.router.stand import Stand


def told(*messages: list[Reply]) -> Pushes:
    """Messages in the place of one reply."""
    return Pushes(list(messages))


def heard(stand: Stand, connection: int = 1) -> list[list[Reply]]:
    """Every message that the connection was sent, confirmations too, as lists."""
    return [list(message) for reply in stand.answers(connection) if isinstance(reply, Pushes) for message in reply.messages]


@pytest.fixture
def stand() -> Stand:
    """A node that leads, with three clients, one of which has subscribed to a channel and a pattern."""
    made = Stand()
    made.lead()
    for number in (2, 3):
        made.router.open(number, "127.0.0.1:5000")
    made.router.peer_connected("n2")
    made.do("SUBSCRIBE news", "PSUBSCRIBE n*")
    made.replies.clear()
    return made


def test_a_subscription_is_confirmed_name_by_name() -> None:
    """Each name gets its own message with the number of channels and patterns so far; a name given twice counts once."""
    stand = Stand()
    [reply] = stand.do("SUBSCRIBE a b a")
    assert reply == told([b"subscribe", b"a", 1], [b"subscribe", b"b", 2], [b"subscribe", b"a", 2])
    assert stand.do("PSUBSCRIBE a*") == [told([b"psubscribe", b"a*", 3])]
    assert stand.do("SSUBSCRIBE a") == [told([b"ssubscribe", b"a", 1])]
    assert stand.do("UNSUBSCRIBE a zz") == [told([b"unsubscribe", b"a", 2], [b"unsubscribe", b"zz", 2])]
    assert stand.do("UNSUBSCRIBE", "PUNSUBSCRIBE") == [told([b"unsubscribe", b"b", 1]), told([b"punsubscribe", b"a*", 0])]
    assert stand.do("SUNSUBSCRIBE", "UNSUBSCRIBE") == [told([b"sunsubscribe", b"a", 0]), told([b"unsubscribe", None, 0])]


def test_a_message_reaches_names_first_and_then_patterns(stand: Stand) -> None:
    """PUBLISH answers how many subscriptions of this node it met; a connection hears it once for each."""
    assert stand.do("PUBLISH news hi", "PUBLISH no 1", "PUBLISH other 2", connection=2) == [2, 1, 0]
    assert heard(stand) == [[b"message", b"news", b"hi"], [b"pmessage", b"n*", b"news", b"hi"], [b"pmessage", b"n*", b"no", b"1"]]


def test_a_message_goes_to_every_connected_node_once(stand: Stand) -> None:
    """One frame a node that is connected, whoever subscribes here; what comes in such a frame is delivered and goes no further."""
    stand.router.peer_connected("n3")
    stand.do("PUBLISH other hi", "SPUBLISH s hi", connection=2)
    assert stand.take_sent() == [
        ("n2", Publish(b"other", b"hi")),
        ("n3", Publish(b"other", b"hi")),
        ("n2", Publish(b"s", b"hi", True)),
        ("n3", Publish(b"s", b"hi", True)),
    ]
    stand.router.peer_disconnected("n3")
    stand.receive("n2", Publish(b"news", b"far"))
    assert heard(stand) == [[b"message", b"news", b"far"], [b"pmessage", b"n*", b"news", b"far"]]
    assert stand.take_sent() == []
    stand.do("PUBLISH x y", connection=2)
    assert [node for node, _ in stand.take_sent()] == ["n2"]


def test_shard_channels_are_other_channels(stand: Stand) -> None:
    """SPUBLISH reaches those who said SSUBSCRIBE, and nobody else, here and from another node."""
    stand.do("SSUBSCRIBE news", connection=3)
    assert stand.do("SPUBLISH news 1", "PUBLISH news 2", connection=2) == [1, 2]
    stand.receive("n2", Publish(b"news", b"3", True))
    assert heard(stand, 3)[1:] == [[b"smessage", b"news", b"1"], [b"smessage", b"news", b"3"]]


def test_what_cannot_be_sent_is_counted_and_nothing_waits_for_it(stand: Stand) -> None:
    """A node whose queue is full misses the message; the publisher is answered all the same."""
    stand.reachable.clear()
    assert stand.do("PUBLISH news hi", connection=2) == [2]
    assert stand.router.counts().messages_dropped == 1


def test_in_resp2_a_subscribed_connection_may_ask_little(stand: Stand) -> None:
    """Everything else is refused in Redis's words, before its arguments are looked at but after their number; PING answers as a message."""
    words = "only (P|S)SUBSCRIBE / (P|S)UNSUBSCRIBE / PING / QUIT / RESET are allowed in this context"
    assert stand.do("GET a", "CLIENT ID", "COMMAND", "GET", "PEXPIRE a x", "HELLO 3") == [
        Failure("ERR", f"Can't execute 'get': {words}"),
        Failure("ERR", f"Can't execute 'client|id': {words}"),
        Failure("ERR", f"Can't execute 'command': {words}"),
        Failure("ERR", "wrong number of arguments for 'get' command"),
        Failure("ERR", f"Can't execute 'pexpire': {words}"),
        Failure("ERR", f"Can't execute 'hello': {words}"),
    ]
    assert stand.do("PING", "PING x") == [[b"pong", b""], [b"pong", b"x"]]
    stand.do("UNSUBSCRIBE", "PUNSUBSCRIBE")
    assert stand.do("PING", "ECHO x") == [Simple("PONG"), b"x"]


def test_a_subscription_and_what_follows_it_in_one_piece() -> None:
    """What a client sends behind a SUBSCRIBE is judged by it, and what he sends behind the UNSUBSCRIBE is not."""
    stand = Stand()
    stand.lead()
    stand.ask("SET a 1", "SUBSCRIBE c", "GET a", "UNSUBSCRIBE c", "GET a")
    stand.flush()
    stand.commit()
    stand.confirm()
    stand.confirm()
    assert [type(reply) for reply in stand.answers()] == [Simple, Pushes, Failure, Pushes, bytes]


def test_messages_and_replies_keep_their_order_in_resp3() -> None:
    """A message comes after every reply that was there when it was published, and before those that were not."""
    stand = Stand()
    stand.lead()
    stand.router.open(2, "")
    stand.do("HELLO 3", "SUBSCRIBE c")
    stand.replies.clear()
    stand.ask("ECHO before", "SET a 1", "ECHO behind")
    stand.do("PUBLISH c 1", connection=2)
    stand.do("PUBLISH c 2", connection=2)
    assert [reply.messages[0][2] if isinstance(reply, Pushes) else reply for reply in stand.answers()] == [b"before", b"1", b"2"]
    stand.commit()
    assert stand.answers()[-2:] == [OK, b"behind"]


def test_a_publisher_who_listens_hears_himself_before_the_answer() -> None:
    """In RESP3, the message to oneself leaves before the reply to PUBLISH, as in Redis."""
    stand = Stand()
    stand.do("HELLO 3", "SUBSCRIBE c")
    stand.replies.clear()
    [message, reply] = stand.do("PUBLISH c me")
    assert isinstance(message, Pushes)
    assert reply == 1
    assert stand.deliveries[-1][1] == [message, reply]


def test_pushes_are_not_counted_as_answers() -> None:
    """Whoever takes the replies is told how many of them answer no request, so that one for each request is left."""
    stand = Stand()
    stand.router.open(2, "")
    stand.do("HELLO 3", "SUBSCRIBE c d")
    stand.ask("ECHO a")
    stand.do("PUBLISH c 1", "PUBLISH c 2", connection=2)
    [(_, replies, _, _)] = [delivery for delivery in stand.deliveries if delivery[0] == 1][-1:]
    assert (len(replies), stand.unasked[1]) == (3, 2)


def test_a_client_that_is_gone_is_told_nothing(stand: Stand) -> None:
    """Its subscriptions end with it, also when it is given up because its replies cannot be taken, or says QUIT."""
    stand.router.closed(1)
    stand.do("SUBSCRIBE news", "QUIT", connection=2)
    stand.do("SUBSCRIBE news", connection=3)
    stand.broken.add(3)
    stand.receive("n2", Publish(b"news", b"1"))
    stand.receive("n2", Publish(b"news", b"2"))
    assert heard(stand) == []
    counts = stand.router.counts()
    assert (counts.channels, counts.patterns) == (0, 0)
    assert stand.router.idle


def test_hello_waits_until_messages_have_left() -> None:
    """What was pushed before HELLO is written in the RESP of before."""
    stand = Stand()
    stand.do("HELLO 3", "SUBSCRIBE c")
    stand.deliveries.clear()
    stand.router.received("n2", Publish(b"c", b"1"), stand.now_ms)
    stand.ask("HELLO 2")
    stand.flush()
    assert [(type(replies[0]).__name__, protocol) for _, replies, protocol, _ in stand.deliveries] == [("Pushes", 3), ("dict", 2)]


def test_subscriptions_are_bounded() -> None:
    """When they take as much as they may, another is refused and the rest stays; what ends makes room."""
    stand = Stand(max_subscription_bytes=2 * SUBSCRIPTION_BYTES + 4)
    assert isinstance(stand.do("SUBSCRIBE aa bb")[0], Pushes)
    assert stand.do("SUBSCRIBE c") == [Failure("OVERLOADED", "this node holds as many subscriptions as it may")]
    stand.do("UNSUBSCRIBE aa")
    assert stand.do("PSUBSCRIBE c") == [Failure("OVERLOADED", "this node holds as many subscriptions as it may")]  # it weighs more
    assert stand.do("SUBSCRIBE c") == [told([b"subscribe", b"c", 2])]
    stand.router.closed(1)
    stand.router.open(1, "")
    assert isinstance(stand.do("SUBSCRIBE aa bb")[0], Pushes)


def test_names_and_messages_are_bounded() -> None:
    """A pattern that would be slow to compare, and a message beyond the largest entry, are refused with the limit named."""
    stand = Stand(max_entry_bytes=100)
    [reply] = stand.do([b"PSUBSCRIBE", b"x" * (MAX_PATTERN_BYTES + 1)])
    assert isinstance(reply, Failure)
    assert stand.do([b"PUBLISH", b"c", b"x" * 100]) == [Failure("ERR", "the message has 101 bytes; max_entry_bytes is 100")]
    limit = Failure("ERR", f"the name of a channel has at most {MAX_KEY_BYTES} bytes, a pattern {MAX_PATTERN_BYTES}")
    assert Stand().do([b"PUBLISH", b"c" * (MAX_KEY_BYTES + 1), b""], [b"PUBLISH", b"c" * MAX_KEY_BYTES, b""]) == [limit, 0]


def test_patterns_hold_nobody_up() -> None:
    """Neither many patterns in one request nor a channel that is long to compare with those that there are takes the node's time."""
    stand = Stand()
    stand.router.open(2, "")
    patterns = [b"%03d" % number + b"x" * (MAX_PATTERN_BYTES - 3) for number in range(17)]
    assert isinstance(stand.do([b"PSUBSCRIBE", *patterns], connection=2)[0], Failure)
    assert isinstance(stand.do([b"PSUBSCRIBE", *patterns[:8], b"c*"], connection=2)[0], Pushes)
    channel = b"c" * (MATCHING_STEPS // (MAX_PATTERN_BYTES * 8))
    [reached, refused] = stand.do([b"PUBLISH", channel[:-16], b"1"], [b"PUBLISH", channel, b"2"])
    assert reached == 1
    assert isinstance(refused, Failure)
    assert refused.code == "OVERLOADED"
    stand.receive("n2", Publish(channel, b"3"))
    stand.flush()
    assert [message[3] for message in heard(stand, 2)[-1:]] == [b"1"]
    assert stand.router.counts().messages_dropped == 1
    assert isinstance(stand.do([b"PUNSUBSCRIBE"], connection=2)[0], Pushes)
    assert stand.do([b"PUBLISH", channel, b"4"]) == [0]


PUBSUB: list[tuple[str, Reply]] = [
    ("PUBSUB", Failure("ERR", "wrong number of arguments for 'pubsub' command")),
    ("PUBSUB CHANNELS", [b"news"]),
    ("PUBSUB CHANNELS n?ws", [b"news"]),
    ("PUBSUB channels x*", []),
    ("PUBSUB CHANNELS a b", Failure("ERR", "unknown subcommand or wrong number of arguments for 'CHANNELS'. Try PUBSUB HELP.")),
    ("PUBSUB NUMSUB", []),
    ("PUBSUB NUMSUB news x", [b"news", 1, b"x", 0]),
    ("PUBSUB NUMPAT", 1),
    ("PUBSUB NUMPAT x", Failure("ERR", "wrong number of arguments for 'pubsub|numpat' command")),
    ("PUBSUB SHARDCHANNELS", []),
    ("PUBSUB SHARDNUMSUB news", [b"news", 0]),
    ("PUBSUB NOPE", Failure("ERR", "unknown subcommand 'NOPE'. Try PUBSUB HELP.")),
    ("SUBSCRIBE", Failure("ERR", "wrong number of arguments for 'subscribe' command")),
    ("PUBLISH a", Failure("ERR", "wrong number of arguments for 'publish' command")),
]


@pytest.mark.parametrize(("line", "reply"), PUBSUB, ids=[line for line, _ in PUBSUB])
def test_pubsub_tells_of_this_node(stand: Stand, line: str, reply: Reply) -> None:
    """What PUBSUB answers, and how wrong requests are refused."""
    assert stand.do(line, connection=2) == [reply]
