"""The commands that concern a connection or the node: replies and errors as Redis 7.0.15 gives them."""

from __future__ import annotations

import random

import pytest

from raftkv.codec.resp import encode_replies
from raftkv.errors import InvalidRequest, Unavailable
from raftkv.kv.commands import SPECS, Kind
from raftkv.kv.replies import OK, Failure, Reply, Simple, Verbatim
from raftkv.raft.ready import Role
from raftkv.router import NodeFacts, PeerFacts
from raftkv.router.info import human
from raftkv.router.transactions import NAMES
from tests.router.stand import Stand

PONG = Simple("PONG")


def err(message: str, code: str = "ERR") -> Failure:
    """An error reply."""
    return Failure(code, message)


def hello(proto: int = 2, role: bytes = b"master") -> dict[Reply, Reply]:
    """What HELLO answers on connection 1."""
    return {
        b"server": b"redis",
        b"version": b"7.0.15",
        b"proto": proto,
        b"id": 1,
        b"mode": b"standalone",
        b"role": role,
        b"modules": [],
    }


BAD_NAME = err("Client names cannot contain spaces, newlines or special characters.")
BAD_PROTOCOL = err("Protocol version is not an integer or out of range")

EXCHANGES: list[tuple[list[bytes], Reply]] = [
    ([b"PING"], PONG),
    ([b"ping", b"a"], b"a"),
    ([b"PING", b"a", b"b"], err("wrong number of arguments for 'ping' command")),
    ([b"ECHO", b"a\r\nb"], b"a\r\nb"),
    ([b"ECHO"], err("wrong number of arguments for 'echo' command")),
    ([b"SELECT", b"0"], OK),
    ([b"SELECT", b"16"], err("DB index is out of range")),
    ([b"SELECT", b"-1"], err("DB index is out of range")),
    ([b"SELECT", b"x"], err("value is not an integer or out of range")),
    ([b"SELECT", b"99999999999999999999"], err("value is not an integer or out of range")),
    ([b"SELECT", b"99999999999"], err("value is out of range, value must between -2147483648 and 2147483647")),
    ([b"SELECT"], err("wrong number of arguments for 'select' command")),
    ([b"HELLO"], hello()),
    ([b"HELLO", b"2"], hello()),
    ([b"HELLO", b"3"], hello(3)),
    ([b"HELLO", b"4"], err("unsupported protocol version", "NOPROTO")),
    ([b"HELLO", b"x"], BAD_PROTOCOL),
    ([b"HELLO", b"03"], BAD_PROTOCOL),
    ([b"HELLO", b"3", b"FOO"], err("Syntax error in HELLO option 'FOO'")),
    ([b"HELLO", b"3", b"SETNAME"], err("Syntax error in HELLO option 'SETNAME'")),
    ([b"HELLO", b"3", b"AUTH", b"default"], err("Syntax error in HELLO option 'AUTH'")),
    ([b"HELLO", b"3", b"auth", b"default", b"x", b"setname", b"me"], hello(3)),
    ([b"HELLO", b"3", b"AUTH", b"alice", b"x"], err("invalid username-password pair or user is disabled.", "WRONGPASS")),
    ([b"HELLO", b"3", b"SETNAME", b"a b"], BAD_NAME),
    ([b"CLIENT"], err("wrong number of arguments for 'client' command")),
    ([b"CLIENT", b"FOO"], err("unknown subcommand 'FOO'. Try CLIENT HELP.")),
    ([b"CLIENT", b"foo", b"a"], err("unknown subcommand 'foo'. Try CLIENT HELP.")),
    ([b"CLIENT", b"ID"], 1),
    ([b"CLIENT", b"ID", b"x"], err("wrong number of arguments for 'client|id' command")),
    ([b"CLIENT", b"GETNAME"], None),
    ([b"CLIENT", b"GETNAME", b"x"], err("wrong number of arguments for 'client|getname' command")),
    ([b"CLIENT", b"SETNAME", b"me"], OK),
    ([b"CLIENT", b"SETNAME"], err("wrong number of arguments for 'client|setname' command")),
    ([b"CLIENT", b"SETNAME", b"a b"], BAD_NAME),
    ([b"CLIENT", b"SETNAME", b"\xc3\xa9"], BAD_NAME),
    ([b"CLIENT", b"SETINFO", b"lib-name", b"redis-py"], OK),
    ([b"CLIENT", b"SETINFO", b"LIB-VER", b"5.0"], OK),
    ([b"CLIENT", b"SETINFO", b"lib-foo", b"x"], err("Unrecognized option 'lib-foo'")),
    ([b"CLIENT", b"SETINFO", b"lib-name", b"a b"], err("lib-name cannot contain spaces, newlines or special characters.")),
    ([b"READONLY"], OK),
    ([b"READWRITE"], OK),
    ([b"READONLY", b"x"], err("wrong number of arguments for 'readonly' command")),
    ([b"ROLE"], [b"master", 0, []]),
    ([b"ROLE", b"x"], err("wrong number of arguments for 'role' command")),
    ([b"COMMAND", b"COUNT"], len(SPECS)),
    ([b"COMMAND", b"COUNT", b"a"], err("wrong number of arguments for 'command|count' command")),
    ([b"COMMAND", b"FOO"], err("unknown subcommand 'FOO'. Try COMMAND HELP.")),
    ([b"COMMAND", b"GETKEYS"], err("wrong number of arguments for 'command|getkeys' command")),
    ([b"COMMAND", b"GETKEYS", b"get"], err("wrong number of arguments for 'command|getkeys' command")),
    ([b"COMMAND", b"GETKEYS", b"SET", b"a", b"b"], [b"a"]),
    ([b"COMMAND", b"GETKEYS", b"del", b"a", b"b"], [b"a", b"b"]),
    ([b"COMMAND", b"GETKEYS", b"nosuch", b"a"], err("Invalid command specified")),
    ([b"COMMAND", b"GETKEYS", b"ping", b"a"], err("The command has no key arguments")),
    ([b"COMMAND", b"GETKEYS", b"get", b"a", b"b"], err("Invalid number of arguments specified for command")),
    ([b"COMMAND", b"LIST", b"FOO"], err("syntax error")),
    ([b"COMMAND", b"LIST", b"FILTERBY", b"FOO", b"x"], err("syntax error")),
    ([b"COMMAND", b"LIST", b"FILTERBY", b"MODULE", b"x"], []),
    ([b"COMMAND", b"LIST", b"FILTERBY", b"PATTERN", b"read*"], [b"readonly", b"readwrite"]),
    ([b"COMMAND", b"LIST", b"FILTERBY", b"ACLCAT", b"nosuch"], []),
    ([b"COMMAND", b"DOCS", b"nosuch"], {}),
    ([b"INFO", b"nosuch"], Verbatim(b"")),
]


@pytest.mark.parametrize(("request_", "reply"), EXCHANGES, ids=lambda value: repr(value)[:60])
def test_replies_are_redis_own(request_: list[bytes], reply: Reply) -> None:
    """Each request is answered as Redis 7.0.15 answers it."""
    stand = Stand()
    stand.lead()
    assert stand.do(request_) == [reply]


def test_every_command_of_a_connection_is_attended_to() -> None:
    """The table of commands names none that the desk does not know, and the other way round; so it is with what is in containers."""
    stand = Stand()
    named = {name: spec for name, spec in SPECS.items() if spec.kind is Kind.CONNECTION}
    assert stand.router._desk.names | stand.router._channels.names | NAMES == set(named)
    inside = {f"{name}|{one.name}" for name, spec in named.items() for one in spec.subcommands if one.name != "help"}
    assert {name for name in stand.router._desk.full_names if "|" in name} == inside


def test_the_name_of_a_connection() -> None:
    """CLIENT SETNAME and HELLO SETNAME name the connection, for itself only; an empty name is none."""
    stand = Stand()
    stand.router.open(2, "")
    stand.lead()
    assert stand.do("CLIENT SETNAME me", "CLIENT GETNAME") == [OK, b"me"]
    assert stand.do("CLIENT GETNAME", connection=2) == [None]
    assert stand.do("HELLO 3 SETNAME you", "CLIENT GETNAME")[1] == b"you"
    assert stand.do([b"CLIENT", b"SETNAME", b""], "CLIENT GETNAME") == [OK, None]


def test_a_hello_that_fails_changes_no_protocol() -> None:
    """An error in an option leaves the version as it was, although options before it have taken effect, as in Redis."""
    stand = Stand()
    stand.lead()
    replies = stand.do("HELLO 3 SETNAME me FOO", "CLIENT GETNAME")
    assert replies == [err("Syntax error in HELLO option 'FOO'"), b"me"]
    assert {protocol for _, _, protocol, _ in stand.deliveries} == {2}


def test_command_shows_the_table() -> None:
    """COMMAND, COMMAND INFO and COMMAND LIST agree with the table, in Redis's shape."""
    stand = Stand()
    stand.lead()
    everything, some, names = stand.do("COMMAND", "COMMAND INFO get nosuch set", "COMMAND LIST")
    assert isinstance(everything, list)
    assert isinstance(some, list)
    assert isinstance(names, list)
    assert [name for name in names if isinstance(name, bytes) and b"|" not in name] == [name.encode() for name in SPECS]
    assert b"client|id" in names
    assert len(everything) == len(SPECS)
    get = [b"get", 2, [Simple("readonly"), Simple("fast")], 1, 1, 1]
    assert isinstance(some[0], list)
    assert some[0][:6] == get
    assert some[0][6] == [Simple("@string"), Simple("@read"), Simple("@fast")]
    assert some[1] is None
    assert some[0] in everything


def test_containers_have_help() -> None:
    """HELP of every container lists what is in it, from the table, also where the state machine executes the rest."""
    stand = Stand()
    stand.lead()
    for name, spec in SPECS.items():
        if spec.subcommands:
            (lines,) = stand.do(f"{name} help")
            assert isinstance(lines, list)
            assert Simple(f"{name.upper()} <subcommand> [<arg> [value] [opt] ...]. Subcommands are:") == lines[0]
            assert {Simple(one.usage) for one in spec.subcommands} < set(lines)


def test_what_was_counted_is_counted_anew() -> None:
    """After CONFIG RESETSTAT, INFO tells of errors, commands and connections since then; the router itself forgets nothing."""
    stand = Stand()
    stand.facts = NodeFacts(connections_received=7, connections_rejected=1)
    stand.lead()
    stand.do("NOSUCH", "GET", "CLIENT NO-EVICT maybe")
    before = info(stand)
    assert (before["errorstat_ERR"], before["total_error_replies"]) == ("count=3", "3")
    assert stand.do("CONFIG RESETSTAT") == [OK]
    after = info(stand)
    assert "errorstat_ERR" not in after
    assert [after[name] for name in ("total_error_replies", "total_connections_received", "rejected_connections")] == ["0", "0", "0"]
    assert int(after["total_commands_processed"]) < int(before["total_commands_processed"])
    assert stand.router.commands_processed > 4


def test_a_connection_is_reset() -> None:
    """RESET gives the connection the protocol, the name, the reads and the replies that it began with; what was asked before is answered
    as it was asked."""
    stand = Stand()
    stand.lead()
    replies = stand.do("HELLO 3 SETNAME me", "READONLY", "INFO nosuch", "RESET", "CLIENT GETNAME")
    assert replies[3:] == [Simple("RESET"), None]
    assert [(len(given), protocol) for _, given, protocol, _ in stand.deliveries] == [(3, 3), (2, 2)]
    assert not stand.router._connections[1].readonly


def test_time_is_that_of_the_node() -> None:
    """TIME tells the wall clock that the server reads, in seconds and microseconds."""
    stand = Stand()
    stand.facts = NodeFacts(wall_us=1_700_000_000_000_042)
    stand.lead()
    assert stand.do("TIME") == [[b"1700000000", b"42"]]


def test_command_docs_tell_the_summary() -> None:
    """COMMAND DOCS is a map from name to summary and group."""
    stand = Stand()
    stand.lead()
    (docs,) = stand.do("COMMAND DOCS get")
    assert isinstance(docs, dict)
    entry = docs[b"get"]
    assert isinstance(entry, dict)
    assert entry[b"group"] == b"string"
    assert entry[b"summary"] == SPECS["get"].summary.encode()


class Operator:
    """Does what an operator asks, and remembers it."""

    def __init__(self) -> None:
        self.asked: list[str | None] = []

    def status(self) -> bytes:
        """The state of the cluster."""
        return b'{"nodes": []}'

    def transfer(self, to: str | None) -> None:
        """Hand over."""
        self.asked.append(to)
        if to == "n9":
            raise InvalidRequest("n9 is not a voter")
        if to == "n8":
            raise Unavailable("there is no leader to ask")


def test_operators_may_use_any_client() -> None:
    """RAFTKV.STATUS and RAFTKV.TRANSFER are passed on, and refusals are errors of their kind."""
    stand = Stand()
    operator = Operator()
    stand.router._desk._operations = operator
    stand.lead()
    replies = stand.do("RAFTKV.STATUS", "RAFTKV.TRANSFER", "raftkv.transfer n2", "RAFTKV.TRANSFER n9", "RAFTKV.TRANSFER n8")
    assert replies == [
        b'{"nodes": []}',
        OK,
        OK,
        err("n9 is not a voter"),
        err("there is no leader to ask", "CLUSTERDOWN"),
    ]
    assert operator.asked == [None, "n2", "n9", "n8"]
    assert stand.do("RAFTKV.TRANSFER a b") == [err("wrong number of arguments for 'raftkv.transfer' command")]


FACTS = NodeFacts(
    raftkv_version="0.1.0",
    cluster_name="c",
    cluster_id="ab" * 16,
    tcp_port=7001,
    uptime_seconds=90_000,
    memory_bytes=3 << 20,
    peers=(
        PeerFacts(node="n2", client_host="127.0.0.1", client_port=7002, connected=True, offset=7),
        PeerFacts(node="n3", client_host="127.0.0.1", client_port=7003, connected=False, offset=3),
    ),
)


def info(stand: Stand, *sections: str) -> dict[str, str]:
    """The fields of INFO."""
    return dict(line.split(":", 1) for line in info_text(stand, *sections).split("\r\n") if ":" in line)


def info_text(stand: Stand, *sections: str) -> str:
    """The reply to INFO."""
    (reply,) = stand.do(" ".join(["INFO", *sections]))
    assert isinstance(reply, Verbatim)
    return reply.text.decode()


def test_info_of_a_leader() -> None:
    """A leader shows as a master with its connected followers as replicas."""
    stand = Stand()
    stand.facts = FACTS
    stand.lead(3)
    fields = info(stand)
    assert fields["redis_version"] == "7.0.15"
    assert fields["raftkv_version"] == "0.1.0"
    assert fields["role"] == "master"
    assert fields["connected_slaves"] == "1"
    assert fields["slave0"] == "ip=127.0.0.1,port=7002,state=online,offset=7,lag=0"
    assert fields["used_memory_human"] == "3.00M"
    assert fields["cluster_enabled"] == "1"
    assert "db0" not in fields  # nobody knows how many keys there are
    assert fields["uptime_in_days"] == "1"
    assert (fields["raft_term"], fields["raft_leader"], fields["raft_role"]) == ("3", "n1", "leader")
    assert stand.do("ROLE") == [[b"master", 0, [[b"127.0.0.1", b"7002", b"7"]]]]


def test_info_of_a_follower() -> None:
    """Any other node shows as a replica of the leader, with its link."""
    stand = Stand()
    stand.facts = FACTS
    stand.follow("n2")
    fields = info(stand, "replication", "raft")
    assert fields["role"] == "slave"
    assert (fields["master_host"], fields["master_port"], fields["master_link_status"]) == ("127.0.0.1", "7002", "up")
    assert fields["raft_peers_connected"] == "1"
    assert "redis_version" not in fields
    assert stand.do("ROLE", "HELLO") == [[b"slave", b"127.0.0.1", 7002, b"connected", 0], hello(role=b"replica")]


def test_info_of_a_node_without_a_leader() -> None:
    """Without a leader the link is down, and ROLE says that the node looks for one."""
    stand = Stand()
    stand.facts = FACTS
    stand.change(Role.FOLLOWER, None, 4)
    assert info(stand)["master_link_status"] == "down"
    assert stand.do("ROLE") == [[b"slave", b"", 0, b"connect", -1]]


def test_info_has_redis_sections_in_redis_order() -> None:
    """Tools that look for a section of Redis find it; ours comes last."""
    stand = Stand()
    stand.lead()
    titles = [line[2:] for line in info_text(stand, "everything").split("\r\n") if line.startswith("# ")]
    assert titles == [
        "Server",
        "Clients",
        "Memory",
        "Persistence",
        "Stats",
        "Replication",
        "CPU",
        "Modules",
        "Commandstats",
        "Errorstats",
        "Cluster",
        "Keyspace",
        "Raft",
    ]


@pytest.mark.parametrize(("size", "text"), [(0, "0B"), (1023, "1023B"), (1024, "1.00K"), (1536, "1.50K"), (5 << 30, "5.00G")])
def test_sizes_are_written_as_redis_writes_them(size: int, text: str) -> None:
    """Two decimals and one letter."""
    assert human(size) == text


WORDS = [
    *b"0 -1 1 99999999999999999999 x * [ on off id type normal help get set list info default nan inf filterby pattern samples".split(),
    *b"sleep 127.0.0.1:1 user addr reply skip".split(), b"", b"\xff", b"\r\n", b"k|\xff", b"a" * 5000,
]  # fmt: skip


@pytest.mark.parametrize("seed", range(4))
def test_no_request_breaks_the_desk(seed: int) -> None:
    """Whatever a client says after the name of a command, he is answered once, or waits; the node goes on."""
    rng = random.Random(seed)
    names = [
        [name.encode(), *inside]
        for name, spec in SPECS.items()
        if spec.kind is Kind.CONNECTION or spec.subcommands
        for inside in ([], *([one.name.encode()] for one in spec.subcommands))
    ]
    stand = Stand()
    stand.facts = FACTS
    stand.lead()
    for number in range(2, 1500):
        stand.router.open(number, "127.0.0.1:1")
        asked = [rng.choice(names) + rng.choices(WORDS, k=rng.randrange(4)) for _ in range(4)]
        stand.do(*asked, connection=number)
        for _ in asked:  # what was watched is read before what follows is taken up
            stand.commit()
            stand.confirm()
        encode_replies(stand.answers(number), 2 + number % 2)
        client = stand.router._connections.get(number)
        answered = len(stand.answers(number))
        assert answered == 4 or client is None or client.closed or (answered < 4 and stand.router._postponed.holds(number)), asked
    assert stand.router.last_reply_error is None
