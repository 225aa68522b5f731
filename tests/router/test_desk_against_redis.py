"""The same requests about connections and nodes to a real redis-server and to a router: the same replies, word for word.

Two servers judge: one that is alone, and one that is a cluster, for what Redis answers only there. Skipped where no redis-server is
installed. What is true of a node of raftkv only is compared in shape.
"""

from __future__ import annotations

import random
import re
import shutil
import socket
from collections.abc import Iterator

import pytest

from raftkv.kv.connection_commands import SPECS as CONNECTION_SPECS
from raftkv.kv.node_commands import SPECS as SPECS_OF_NODES
from raftkv.kv.object_commands import SPECS as OBJECT_SPECS
from raftkv.kv.replies import Failure, Reply, Simple, Verbatim
from raftkv.router.cluster_view import slot_of
from tests.kv.redis_server import RedisServer
from tests.router.stand import Stand

pytestmark = pytest.mark.skipif(shutil.which("redis-server") is None, reason="redis-server is not installed")

NODE_SPECS = [spec for spec in (*CONNECTION_SPECS, *SPECS_OF_NODES, *OBJECT_SPECS) if not spec.name.startswith("raftkv.")]


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """A single redis-server."""
    made = RedisServer(tmp_path_factory.mktemp("redis"), "--enable-debug-command", "yes")
    yield made
    made.close()


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """A redis-server that is a cluster of one node with all slots."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = str(free.getsockname()[1])
    with socket.create_server(("127.0.0.1", 0)) as free:
        bus = str(free.getsockname()[1])
    options = ("--port", port, "--bind", "127.0.0.1", "--cluster-enabled", "yes", "--cluster-port", bus)
    made = RedisServer(tmp_path_factory.mktemp("redis"), *options)
    made.ask([b"cluster", b"addslotsrange", b"0", b"16383"])
    yield made
    made.close()


def stand() -> Stand:
    """A leader."""
    made = Stand()
    made.lead()
    return made


def bare(reply: Reply) -> Reply:
    """A reply without what hiredis does not tell of it in RESP2: maps are arrays, texts and statuses inside arrays are strings."""
    if isinstance(reply, Verbatim):
        return reply.text
    if isinstance(reply, list):
        return [item.text.encode() if isinstance(item, Simple) else bare(item) for item in reply]
    if isinstance(reply, dict):
        return bare([half for pair in reply.items() for half in pair])
    return reply


ALONE = """
client kill 1:1 | client kill id 0 | client kill id x | client kill type foo | client kill user foo | client kill skipme foo
client kill id | client kill foo bar | client kill addr 1:1 laddr 2:2 id 99999 | client kill type pubsub | client kill type master
client kill | client kill id 1 skipme | client kill id 99999999999999999999 | client kill user default type pubsub
client list type foo | client list id 1 x | client list id | client list foo | client list type | client list type pubsub
client list id 99999 | client list foo bar | client info x | client getname x | client id x
client reply foo | client reply | client reply on | client no-evict foo | client no-evict on | client no-evict OFF | client no-evict
client trackinginfo | client getredir | client caching yes | client caching foo | client tracking off | client tracking foo
client tracking
client help x | client foo | client
auth x | auth default x | auth foo x | auth a b c | auth
wait 0 0 | wait x 0 | wait 0 x | wait 0 -1 | wait -1 0 | wait 1 | wait x x | wait 0 1.5 | wait 99999999999999999999 0
config set foo bar | config set maxmemory | config set save "" | config set timeout 0 foo 2 | config get | config rewrite | config rewrite x
config set timeout 0 timeout 0 | config set timeout 0 save | config resetstat | config resetstat x | config foo | config
config get nosuch | config get MAXMEMORY-POLICY | config get timeou? appendfsyn | config get | config set databases 5
latency latest | latency history foo | latency history | latency reset | latency reset a b | latency foo | latency
slowlog get x | slowlog get -2 | slowlog get 1 2 | slowlog foo | slowlog | slowlog reset x
acl whoami | acl users | acl list | acl foo | acl whoami x | acl
time x | lastsave x | reset x | role x | info nosuch | save x | bgrewriteaof x | replicaof no | slaveof
debug foo | debug sleep | debug sleep 0 | debug sleep x | debug set-active-expire 0 | debug reload | debug quicklist-packed-threshold 3
debug | debug set-active-expire
object encoding | object foo x | object | object freq a b | object help x | memory usage | memory foo | memory
memory usage nokey samples -1 | memory usage nokey foo 1 | memory usage nokey samples x | memory usage nokey samples
command count x | command foo | command getkeys get | command getkeys | command getkeys set a b | command getkeys del a b
command getkeys object encoding k | command getkeys object | command getkeys ping | command getkeys memory usage k samples 3
command getkeys client id | command getkeys nosuch | command list foo | command list filterby foo x | command info nosuch
command docs nosuch | command help x
"""

CLUSTER = """
cluster keyslot a | cluster keyslot | cluster keyslot a b | cluster countkeysinslot x | cluster countkeysinslot 16384
cluster countkeysinslot -1 | cluster getkeysinslot 0 -1 | cluster getkeysinslot 16384 1 | cluster getkeysinslot x 1
cluster getkeysinslot 1 x | cluster getkeysinslot 1 | cluster replicas foo | cluster slaves foo | cluster replicas
cluster foo | cluster | cluster info x | cluster myid x | replicaof a b | replicaof no one | slaveof no one
"""


def requests(text: str) -> list[list[bytes]]:
    """The requests in `text`, which bars and line breaks part. An argument of two quotes is empty."""
    found = [one.split() for line in text.splitlines() for one in line.split("|")]
    return [[b"" if word == '""' else word.encode() for word in words] for words in found if words]


@pytest.mark.parametrize("args", requests(ALONE), ids=lambda args: b" ".join(args).decode())
def test_replies_are_those_of_redis(alone: RedisServer, args: list[bytes]) -> None:
    """What concerns a connection or a node is answered in Redis's words, and so is every mistake."""
    (got,) = stand().do(args)
    assert bare(got) == alone.ask(args)


@pytest.mark.parametrize("args", requests(CLUSTER), ids=lambda args: b" ".join(args).decode())
def test_replies_are_those_of_a_cluster(cluster: RedisServer, args: list[bytes]) -> None:
    """So is what concerns a cluster."""
    (got,) = stand().do(args)
    assert bare(got) == cluster.ask(args)


@pytest.mark.parametrize("name", [spec.name for spec in NODE_SPECS])
def test_the_table_says_what_redis_says(alone: RedisServer, name: str) -> None:
    """Arity, flags, places of keys and tips of these commands are Redis's, also of what is in containers, as far as Redis 7.0 has it."""
    (got,) = stand().do(f"COMMAND INFO {name}")
    ours, theirs = described(got), described(alone.ask([b"command", b"info", name.encode()]))
    later = {"client|no-touch", "client|setinfo"}
    assert {one: told for one, told in ours.items() if one not in later} == {one: theirs.get(one) for one in ours if one not in later}


def described(reply: Reply) -> dict[str, object]:
    """By the name of a command and of each that it contains: what COMMAND INFO says of it, up to its keys and then its tips."""
    told: dict[str, object] = {}
    assert isinstance(reply, list)
    for entry in reply:
        assert isinstance(entry, list)
        name, flags, inside = bare(entry[0]), bare(entry[2]), entry[9]
        assert isinstance(name, bytes)
        assert isinstance(flags, list)
        assert isinstance(inside, list)
        tips = bare(entry[7])
        assert isinstance(tips, list)
        told[name.decode()] = (entry[1], sorted(map(str, flags)), entry[3:6], sorted(map(str, tips)))
        told.update(described(inside))
    return told


def test_slots_are_those_of_redis(cluster: RedisServer) -> None:
    """Keys with and without braces are in the slot that Redis says."""
    rng = random.Random(1)
    keys = [b"", b"{}", b"{}a", b"a{b}c", b"{a", b"a}", b"{{a}}", b"}{", b"{a}{b}", b"a{}{b}", b"\xff{\x00}"]
    keys += [bytes(rng.choices(b"ab{}", k=rng.randint(0, 8))) for _ in range(200)]
    assert [slot_of(key) for key in keys] == [cluster.ask([b"cluster", b"keyslot", key]) for key in keys]


def test_a_connection_is_described_as_by_redis(alone: RedisServer) -> None:
    """CLIENT INFO and CLIENT LIST have Redis's fields in Redis's order, and then the library, as Redis has since 7.2."""
    made = stand()
    for args in ([b"client", b"info"], [b"client", b"list"], [b"client", b"list", b"id", b"1"], [b"client", b"list", b"type", b"normal"]):
        expected = alone.ask(args)
        (got,) = made.do(args)
        assert isinstance(got, Verbatim)
        if isinstance(expected, bytes) and expected:
            assert fields(got.text) == [*fields(expected), "lib-name", "lib-ver"]
        assert got.text.endswith(b"\n")


def fields(text: bytes) -> list[str]:
    """The names of the fields of the first line."""
    return [field.partition("=")[0] for field in text.decode().splitlines()[0].split(" ")]


def test_info_has_names_of_redis(alone: RedisServer) -> None:
    """Every field of the sections that Redis has too is one of Redis's, in the same section, but for the version of this program."""
    expected = sections(alone.ask([b"info", b"everything"]))
    (got,) = stand().do("INFO everything")
    ours = sections(bare(got))
    assert ours.pop("Raft")
    del ours["Errorstats"], ours["Keyspace"]
    for title, names in ours.items():
        assert names - {"raftkv_version"} <= expected[title], title
    replication = {"role", "connected_slaves", "master_replid", "master_repl_offset"}
    assert replication <= ours["Replication"]


def sections(text: Reply) -> dict[str, set[str]]:
    """The names of the fields of each section of INFO."""
    assert isinstance(text, bytes)
    found: dict[str, set[str]] = {}
    for part in re.split(r"^# ", text.decode(), flags=re.MULTILINE)[1:]:
        title, *lines = part.splitlines()
        found[title] = {line.partition(":")[0] for line in lines if line}
    return found


def test_the_cluster_is_described_as_by_redis(cluster: RedisServer) -> None:
    """CLUSTER INFO has Redis's fields; NODES, SLOTS and SHARDS have Redis's shape."""
    made = stand()
    (info, nodes, slots, shards) = map(bare, made.do("CLUSTER INFO", "CLUSTER NODES", "CLUSTER SLOTS", "CLUSTER SHARDS"))
    assert isinstance(info, bytes)
    assert isinstance(nodes, bytes)
    told = cluster.ask([b"cluster", b"info"])
    assert isinstance(told, bytes)
    assert [line.partition(b":")[0] for line in info.splitlines()] == [line.partition(b":")[0] for line in told.splitlines()][:9]
    line = rb"[0-9a-f]{40} \S*:\d+@\d+ myself,master - 0 0 \d+ connected 0-16383\n"
    for text in (nodes, cluster.ask([b"cluster", b"nodes"])):
        assert isinstance(text, bytes)
        assert re.fullmatch(line, text)
    assert shape(slots) == shape(cluster.ask([b"cluster", b"slots"]))
    assert shape(shards) == shape(cluster.ask([b"cluster", b"shards"]))


def shape(reply: Reply) -> object:
    """The types in a reply, and the names of what is in its maps."""
    if isinstance(reply, list):
        return [shape(item) for item in reply]
    return reply if isinstance(reply, bytes) and re.fullmatch(rb"[a-z-]+", reply) else type(reply)


VALUES = [b"", b"0", b"-1", b"007", b"12345678901234567890", b"9223372036854775807", b"9223372036854775808", b"1.5", b"a" * 44, b"a" * 45]


@pytest.mark.parametrize("value", VALUES, ids=lambda value: value[:22].decode())
def test_strings_are_kept_as_by_redis(alone: RedisServer, value: bytes) -> None:
    """OBJECT ENCODING and REFCOUNT of a string that was written in one piece are Redis's; so are their replies without a key, and what is
    answered to FREQ."""
    made = stand()
    made.ask([b"set", b"k", value])
    made.flush()
    made.commit()
    alone.ask([b"set", b"k", value])
    for args in ([b"encoding", b"k"], [b"refcount", b"k"], [b"freq", b"k"], [b"encoding", b"no"], [b"idletime", b"no"], [b"freq", b"no"]):
        made.ask([b"object", *args])
        made.flush()
        made.confirm()
        assert made.answers()[-1] == alone.ask([b"object", *args]), args
    made.ask([b"memory", b"usage", b"k"], [b"memory", b"usage", b"no"], [b"object", b"idletime", b"k"])
    made.flush()
    made.confirm()
    size, none, refused = made.answers()[-3:]
    assert isinstance(size, int)
    assert len(value) < size < len(value) + 100
    assert none is None
    assert refused == Failure("ERR", "idle times are not kept")
