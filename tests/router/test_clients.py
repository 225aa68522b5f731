"""CLIENT: who is connected, who is to go, and who wants no replies."""

from __future__ import annotations

from raftkv.codec.resp import encode_replies
from raftkv.kv.replies import MUTED, OK, Failure, Reply, Simple, Verbatim
from raftkv.router import SocketFacts
from tests.router.stand import Stand

PONG = Simple("PONG")


def two_clients() -> Stand:
    """A leader with the connections 1 and 2."""
    stand = Stand()
    stand.router.open(2, "127.0.0.1:50002")
    stand.lead()
    return stand


def listed(reply: Reply) -> list[dict[str, str]]:
    """The fields of each line of CLIENT LIST."""
    assert isinstance(reply, Verbatim)
    return [dict(field.split("=", 1) for field in line.split(" ")) for line in reply.text.decode().splitlines()]


def test_a_list_tells_what_is_known_of_each_connection() -> None:
    """CLIENT LIST tells what the server knows of the sockets, and what the clients have said of themselves."""
    stand = two_clients()
    stand.sockets[2] = SocketFacts(
        local_address="127.0.0.1:7001", descriptor=9, age_seconds=61, idle_seconds=3, arriving_bytes=5, unsent_bytes=7
    )
    stand.do("HELLO 3 SETNAME you", "CLIENT SETINFO lib-name redis-py", "CLIENT SETINFO lib-ver 5.0", "READONLY", connection=2)
    stand.do("GET k", connection=2)
    one, two = listed(stand.do("CLIENT LIST")[0])
    assert (one["id"], one["addr"], one["cmd"], one["flags"], one["resp"], one["user"]) == (
        "1", "127.0.0.1:50001", "client|list", "N", "2", "default",
    )  # fmt: skip
    assert (two["id"], two["addr"], two["laddr"], two["fd"], two["name"]) == ("2", "127.0.0.1:50002", "127.0.0.1:7001", "9", "you")
    assert (two["age"], two["idle"], two["qbuf"], two["omem"], two["events"]) == ("61", "3", "5", "7", "rw")
    assert (two["cmd"], two["flags"], two["resp"], two["lib-name"], two["lib-ver"]) == ("get", "r", "3", "redis-py", "5.0")
    assert [line["id"] for line in listed(stand.do("CLIENT LIST ID 2 7 2")[0])] == ["2", "2"]
    assert [line["id"] for line in listed(stand.do("CLIENT INFO")[0])] == ["1"]


def test_the_name_of_no_command_is_not_shown() -> None:
    """What a client calls a command and is none is not in the list, however long or strange."""
    stand = two_clients()
    stand.do([b"x" * 1_000_000], connection=2)
    assert listed(stand.do("CLIENT LIST ID 2")[0])[0]["cmd"] == "NULL"
    assert len(stand.router._connections[2].command) < 100
    for name in (b"a b=\xff\n", b"get|\xff", b"client|", b"client|\xff", b"|", b"client|id|x"):
        stand.do([name], connection=2)
        assert listed(stand.do("CLIENT LIST ID 2")[0])[0]["cmd"] == "NULL"
    stand.do([b"CLIENT|ID"], connection=2)  # no command, but the name of one
    assert listed(stand.do("CLIENT LIST ID 2")[0])[0]["cmd"] == "client|id"


def test_texts_are_marked_in_resp3_only() -> None:
    """A text for people is a bulk string in RESP2, and says that it is text in RESP3."""
    assert encode_replies([Verbatim(b"a\r\nb")], 2) == b"$4\r\na\r\nb\r\n"
    assert encode_replies([Verbatim(b"a\r\nb")], 3) == b"=8\r\ntxt:a\r\nb\r\n"


def test_another_client_is_disconnected() -> None:
    """CLIENT KILL by any filter ends the other connection at once; what it waited for is not answered, and it may ask no more."""
    for how in ("127.0.0.1:50002", "ID 2", "ADDR 127.0.0.1:50002", "LADDR 127.0.0.1:7002", "ID 2 TYPE normal USER default", "SKIPME yes"):
        stand = two_clients()
        stand.sockets = {1: SocketFacts(local_address="127.0.0.1:7001"), 2: SocketFacts(local_address="127.0.0.1:7002")}
        stand.do("SET k v", "GET k", connection=2)
        assert stand.do(f"CLIENT KILL {how}") == [OK if how.startswith("127") else 1], how
        assert [(number, close) for number, _, _, close in stand.deliveries if number == 2] == [(2, True)]
        stand.commit()
        stand.router.closed(2)  # the server tells that the socket is gone
        assert stand.do("PING", connection=2) == []
        assert stand.answers(2) == []
        assert stand.router.idle
        assert [line["id"] for line in listed(stand.do("CLIENT LIST")[0])] == ["1"]


def test_the_last_filter_of_a_kind_counts() -> None:
    """As in Redis. So a request with thousands of filters compares each connection with five at most."""
    stand = two_clients()
    assert stand.do("CLIENT KILL ID 9 ID 2 ID 8", "CLIENT KILL" + " TYPE pubsub" * 1000 + " ID 8 ID 2 TYPE normal") == [0, 1]


def test_names_are_bounded() -> None:
    """A connection keeps its names for as long as it lives, so there are limits to their length."""
    stand = two_clients()
    longest = b"n" * 4096
    for request in ([b"CLIENT", b"SETNAME"], [b"CLIENT", b"SETINFO", b"LIB-NAME"], [b"HELLO", b"3", b"SETNAME"]):
        [refused, taken] = stand.do([*request, longest + b"n"], [*request, longest])
        assert isinstance(refused, Failure)
        assert not isinstance(taken, Failure)
    assert stand.do("CLIENT GETNAME") == [longest]


def test_one_who_ends_himself_is_answered_first() -> None:
    """CLIENT KILL of one's own connection is answered, and then the connection ends; SKIPME no says that one counts too."""
    for how, reply in (("127.0.0.1:50001", OK), ("ID 1 SKIPME no", 1), ("TYPE normal SKIPME no", 2)):
        stand = two_clients()
        assert stand.do(f"CLIENT KILL {how}", "PING") == [reply]
        assert (1, [reply], 2, True) in stand.deliveries
    assert two_clients().do("CLIENT KILL ID 1", "CLIENT KILL ID 9") == [0, 0]


def test_a_client_that_is_killed_loses_no_write_of_others() -> None:
    """The write of a client that was disconnected before it left does not happen; those of others do, in their order."""
    stand = two_clients()
    stand.ask("SET k mine", connection=2)
    stand.ask("CLIENT KILL ID 2", "SET k yours")
    stand.flush()
    stand.commit()
    stand.ask("GET k")
    stand.flush()
    stand.confirm()
    assert stand.answers()[-1] == b"yours"
    assert stand.replica.machine.applied_index == 1


def test_replies_are_left_out_for_those_who_want_none() -> None:
    """After CLIENT REPLY OFF nothing is answered, errors included, until ON is, while everything happens; after SKIP the next reply is
    left out, and that of SKIP itself. Each request still has its place, so that the server can count."""
    stand = two_clients()
    assert stand.do("PING", "CLIENT REPLY SKIP", "PING", "PING x") == [PONG, MUTED, MUTED, b"x"]
    assert stand.do("PING", "CLIENT REPLY OFF", "PING", "NOSUCH") == [PONG, MUTED, MUTED, MUTED]
    stand.do("SET k v", "CLIENT REPLY SKIP", "GET k", "CLIENT REPLY ON", "PING")
    stand.commit()
    stand.confirm()
    stand.flush()
    assert stand.answers()[-5:] == [MUTED, MUTED, MUTED, OK, PONG]
    assert stand.router.idle
    assert encode_replies([MUTED, PONG, MUTED], 2) == encode_replies([PONG], 3) == b"+PONG\r\n"


def test_a_mistake_about_replies_changes_nothing() -> None:
    """An unknown word after CLIENT REPLY is an error, and replies go on."""
    stand = two_clients()
    assert stand.do("CLIENT REPLY MAYBE", "PING") == [Failure("ERR", "syntax error"), PONG]
