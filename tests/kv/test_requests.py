"""From a request to a command: the table, Redis's errors word for word, the codec."""

from __future__ import annotations

import contextlib
import random

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raftkv.errors import InvariantBroken, ProtocolError
from raftkv.kv import (
    bit_commands,
    counter_commands,
    expiry_commands,
    key_commands,
    lcs_commands,
    range_commands,
    space_commands,
    string_commands,
)
from raftkv.kv.bit_commands import CombineBits, CountBits, FindBit, GetBit, SetBit
from raftkv.kv.command import MAX_KEY_BYTES, ConnectionCommand, Read, Write
from raftkv.kv.commands import (
    SPECS,
    CommandError,
    Kind,
    decode_commands,
    decode_writes,
    encode_commands,
    find_spec,
    keys_of,
    parse_request,
)
from raftkv.kv.counter_commands import IncrementBy, IncrementByDecimal
from raftkv.kv.expiry_commands import Expire, ExpireAt, ExpiryTime, Persist, TimeToLive
from raftkv.kv.key_commands import Copy, Delete, Exists, Rename, TypeOf
from raftkv.kv.keyspace import Changes, Keyspace
from raftkv.kv.lcs_commands import CommonSubsequence
from raftkv.kv.range_commands import Append, GetRange, Length, SetRange
from raftkv.kv.replies import NO_ARRAY, OK, Failure, Pairs, Reply, SetReply, Simple, decode_replies, encode_replies
from raftkv.kv.scan import MAX_PATTERN_BYTES
from raftkv.kv.space_commands import Clear, CountKeys, FindKeys, RandomKey, Scan, SwapDatabase
from raftkv.kv.string_commands import (
    DeleteIf,
    Digest,
    Get,
    GetAndDelete,
    GetAndExpire,
    GetMany,
    Set,
    SetFor,
    SetIf,
    SetIfAbsent,
    SetMany,
    SetWith,
)
from tests.kv.driver import arguments, empty_store


def error_of(request: str | list[bytes]) -> str:
    """The error line that a request is answered with."""
    with pytest.raises(CommandError) as caught:
        parse_request(arguments(request))
    return f"{caught.value.failure.code} {caught.value.failure.message}"


# Each was answered by redis-server 7.0.15, but for those of commands and options of Redis 8.4.
ERRORS = {
    "foo": "ERR unknown command 'foo', with args beginning with: ",
    "foo a b": "ERR unknown command 'foo', with args beginning with: 'a' 'b' ",
    "set": "ERR wrong number of arguments for 'set' command",
    "SET a": "ERR wrong number of arguments for 'set' command",
    "get": "ERR wrong number of arguments for 'get' command",
    "get a b": "ERR wrong number of arguments for 'get' command",
    "del": "ERR wrong number of arguments for 'del' command",
    "exists": "ERR wrong number of arguments for 'exists' command",
    "expire a": "ERR wrong number of arguments for 'expire' command",
    "ttl": "ERR wrong number of arguments for 'ttl' command",
    "dbsize x": "ERR wrong number of arguments for 'dbsize' command",
    "echo": "ERR wrong number of arguments for 'echo' command",
    "role x": "ERR wrong number of arguments for 'role' command",
    "select": "ERR wrong number of arguments for 'select' command",
    "set a b c": "ERR syntax error",
    "set a b ex": "ERR syntax error",
    "set a b ex 10 px 10": "ERR syntax error",
    "set a b ex 10 keepttl": "ERR syntax error",
    "set a b keepttl ex 10": "ERR syntax error",
    "set a b nx xx": "ERR syntax error",
    "set a b ex 0": "ERR invalid expire time in 'set' command",
    "set a b ex -1": "ERR invalid expire time in 'set' command",
    "set a b pxat 0": "ERR invalid expire time in 'set' command",
    "set a b ex 9223372036854775807": "ERR invalid expire time in 'set' command",
    "set a b ex x": "ERR value is not an integer or out of range",
    "set a b ex 99999999999999999999": "ERR value is not an integer or out of range",
    "set a b ex +1": "ERR value is not an integer or out of range",
    "set a b ex 01": "ERR value is not an integer or out of range",
    "set a b ifeq": "ERR syntax error",
    "set a b ifeq c nx": "ERR syntax error",
    "set a b xx ifne c": "ERR syntax error",
    "set a b ifeq c ifne c": "ERR syntax error",
    "set a b ifdeq 123": "ERR digest must be exactly 16 hexadecimal characters",
    "set a b ifdne b6acb9d84a38ff7x": "ERR digest must be exactly 16 hexadecimal characters",
    "delex a ifeq": "ERR wrong number of arguments for 'delex' command",
    "delex a ifeq b c": "ERR wrong number of arguments for 'delex' command",
    "delex a junk b": "ERR Invalid condition. Use IFEQ, IFNE, IFDEQ, or IFDNE",
    "incrby n x": "ERR value is not an integer or out of range",
    "incrby n 1.5": "ERR value is not an integer or out of range",
    "incrby n -0": "ERR value is not an integer or out of range",
    "incrby n 9223372036854775808": "ERR value is not an integer or out of range",
    "expire n x": "ERR value is not an integer or out of range",
    "expire n 10 foo": "ERR Unsupported option foo",
    "expire n 10 nx xx": "ERR NX and XX, GT or LT options at the same time are not compatible",
    "expire n 10 nx gt": "ERR NX and XX, GT or LT options at the same time are not compatible",
    "expire n 10 gt lt": "ERR GT and LT options at the same time are not compatible",
    "expire n 9223372036854775807": "ERR invalid expire time in 'expire' command",
    "expire n -9223372036854776": "ERR invalid expire time in 'expire' command",
    "expire n -9223372036854775808": "ERR invalid expire time in 'expire' command",
    "pexpire n 99999999999999999999": "ERR value is not an integer or out of range",
    "scan": "ERR wrong number of arguments for 'scan' command",
    "scan x": "ERR invalid cursor",
    "scan 18446744073709551616": "ERR invalid cursor",
    "scan 0 count": "ERR syntax error",
    "scan 0 count 0": "ERR syntax error",
    "scan 0 count -1": "ERR syntax error",
    "scan 0 count x": "ERR value is not an integer or out of range",
    "scan 0 match": "ERR syntax error",
    "scan 0 foo": "ERR syntax error",
    "flushall x": "ERR syntax error",
    "flushall async sync": "ERR syntax error",
}


@pytest.mark.parametrize("request_text", ERRORS)
def test_errors_are_the_words_of_redis(request_text: str) -> None:
    """A request that Redis refuses without looking at the data is refused with the same line."""
    assert error_of(request_text) == ERRORS[request_text]


def test_an_unknown_command_is_shown_as_redis_shows_it() -> None:
    """Of an unknown command 128 bytes are shown, and 128 of its arguments; line breaks are spaces, a NUL ends; no byte is lost."""
    text = error_of([b"FooBar", b"A", b"B\r\nC", b"\xff\x00z"])
    assert text.encode("utf-8", "surrogateescape") == b"ERR unknown command 'FooBar', with args beginning with: 'A' 'B  C' '\xff' "
    text = error_of([b"x" * 500, *[b"y" * 50] * 9])
    assert text == f"ERR unknown command '{'x' * 128}', with args beginning with: " + f"'{'y' * 50}' " * 2 + f"'{'y' * 22}' "


PARSED = {
    "set a b": Set(b"a", b"b"),
    "sEt a b": Set(b"a", b"b"),
    "set a b nx get": SetWith(b"a", b"b", 1, True),
    "set a b XX EX 10": SetWith(b"a", b"b", 2, ttl_ms=10_000),
    "set a b px 10 nx nx": SetWith(b"a", b"b", 1, ttl_ms=10),
    "set a b keepttl keepttl": SetWith(b"a", b"b", keep_ttl=True),
    "set a b exat 10": SetWith(b"a", b"b", due_ms=10_000),
    "set a b pxat 10": SetWith(b"a", b"b", due_ms=10),
    "get a": Get(b"a"),
    "set a b ifeq c": SetIf(b"a", b"b", 1, b"c"),
    "set a b IFNE c GET px 10": SetIf(b"a", b"b", 2, b"c", True, False, 10),
    "set a b ex 1 ifdeq B6ACB9D84A38FF74": SetIf(b"a", b"b", 3, b"b6acb9d84a38ff74", ttl_ms=1000),
    "set a b ifdne b6acb9d84a38ff74 keepttl": SetIf(b"a", b"b", 4, b"b6acb9d84a38ff74", keep_ttl=True),
    "setnx a b": SetIfAbsent(((b"a", b"b"),)),
    "msetnx a b c d": SetIfAbsent(((b"a", b"b"), (b"c", b"d"))),
    "mset a b c d": SetMany(((b"a", b"b"), (b"c", b"d"))),
    "setex a 10 b": SetFor(b"a", b"b", 10_000, False),
    "psetex a 10 b": SetFor(b"a", b"b", 10, True),
    "getset a b": SetWith(b"a", b"b", answer_old=True),
    "mget a b a": GetMany((b"a", b"b", b"a")),
    "getdel a": GetAndDelete(b"a"),
    "getex a": GetAndExpire(b"a", b"", b""),
    "getex a persist": GetAndExpire(b"a", b"PERSIST", b""),
    "getex a pxat 10 pxat 99999999999999999999999": GetAndExpire(b"a", b"PXAT", b"9" * 21),
    "delex a": Delete((b"a",)),
    "delex a ifne b": DeleteIf(b"a", 2, b"b"),
    "digest a": Digest(b"a"),
    "append a b": Append(b"a", b"b"),
    "strlen a": Length(b"a"),
    "getrange a 0 -1": GetRange(b"a", 0, -1),
    "substr a 1 2": GetRange(b"a", 1, 2),
    "setrange a 5 b": SetRange(b"a", 5, b"b"),
    "getbit a 9": GetBit(b"a", 9),
    "setbit a 9 1": SetBit(b"a", 9, True),
    "bitcount a": CountBits(b"a", ()),
    "bitcount a 0 -1 bit junk more": CountBits(b"a", (b"0", b"-1", b"bit", b"junk")),
    "bitpos a 0 5": FindBit(b"a", False, (b"5",)),
    "bitop XOR to a b": CombineBits("xor", b"to", (b"a", b"b")),
    "lcs a b minmatchlen 2": CommonSubsequence(b"a", b"b", (b"minmatchlen", b"2")),
    "incr a": IncrementBy(b"a", 1),
    "decr a": IncrementBy(b"a", -1),
    "decrby a -9223372036854775807": IncrementBy(b"a", 2**63 - 1),
    "incrbyfloat a 1.5": IncrementByDecimal(b"a", b"1.5"),
    "unlink a b": Delete((b"a", b"b")),
    "touch a": Exists((b"a",)),
    "type a": TypeOf(b"a"),
    "rename a b": Rename(b"a", b"b", False),
    "renamenx a b": Rename(b"a", b"b", True),
    "copy a b": Copy(b"a", b"b", False),
    "copy a b db 0 replace": Copy(b"a", b"b", True),
    "expireat a 10 gt": ExpireAt(b"a", 10_000, 4),
    "pexpireat a -1": ExpireAt(b"a", -1, 0),
    "expiretime a": ExpiryTime(b"a", False),
    "pexpiretime a": ExpiryTime(b"a", True),
    "persist a": Persist(b"a"),
    "keys a*": FindKeys(b"a*"),
    "randomkey": RandomKey(0),
    "flushdb async": Clear(),
    "swapdb 0 0": SwapDatabase(),
    "incrby a -9223372036854775808": IncrementBy(b"a", -(2**63)),
    "del a b a": Delete((b"a", b"b", b"a")),
    "exists a a": Exists((b"a", b"a")),
    "expire a 10": Expire(b"a", 10_000, 0, False),
    "pexpire a -1 xx gt": Expire(b"a", -1, 6, True),
    "expire a 0 lt XX": Expire(b"a", 0, 10, False),
    "pexpire a -9223372036854775808": Expire(b"a", -(2**63), 0, True),
    "expire a -9223372036854775": Expire(b"a", -9223372036854775000, 0, False),
    "ttl a": TimeToLive(b"a", False),
    "pttl a": TimeToLive(b"a", True),
    "dbsize": CountKeys(),
    "scan 0": Scan(0),
    "scan 17 match a* count 100 type STRING": Scan(17, 100, b"a*", "string"),
    "scan 0 match a match *": Scan(0),
    "scan -1": Scan(2**64 - 1),
    "scan +007": Scan(7),
    "flushall": Clear(),
    "flushall ASYNC": Clear(),
    "flushall sync": Clear(),
    "PING": ConnectionCommand("ping", ()),
    "client setname x": ConnectionCommand("client", (b"setname", b"x")),
}


@pytest.mark.parametrize("request_text", PARSED)
def test_a_request_becomes_a_command(request_text: str) -> None:
    """Names and options are known in any case, and arguments are in their places."""
    assert parse_request(arguments(request_text)) == PARSED[request_text]


@pytest.mark.parametrize("request_text", [text for text, command in PARSED.items() if not isinstance(command, ConnectionCommand)])
def test_a_command_survives_its_codec(request_text: str) -> None:
    """What is encoded is decoded as the same command of the same class; writes also where only writes may be."""
    command = PARSED[request_text]
    assert decode_commands(encode_commands([command, command])) == [command, command]
    if isinstance(command, Write):
        assert decode_writes(encode_commands([command])) == [command]
    else:
        with pytest.raises(ProtocolError):
            decode_writes(encode_commands([command]))


ENCODED = {
    "set a b ifeq c": "919914c40161c4016201c40163c2c20000",
    "set a b ex 1 ifdeq B6ACB9D84A38FF74": "919914c40161c4016203c41062366163623964383461333866663734c2c2cd03e800",
    "setex a 10 b": "919515c40161c40162cd2710c2",
    "setnx a b": "9192169192c40161c40162",
    "mset a b c d": "9192179292c40161c4016292c40163c40164",
    "getdel a": "919219c40161",
    "getex a persist": "91941ac40161c40750455253495354c400",
    "delex a ifne b": "91941bc4016102c40162",
    "incrbyfloat a 1.5": "91931dc40161c403312e35",
    "append a b": "91931ec40161c40162",
    "setrange a 5 b": "919421c4016105c40162",
    "expireat a 10 gt": "919422c40161cd271004",
    "persist a": "919224c40161",
    "renamenx a b": "919426c40161c40162c3",
    "copy a b db 0 replace": "919427c40161c40162c3",
    "swapdb 0 0": "91912a",
    "mget a b a": "91921893c40161c40162c40161",
    "digest a": "91921cc40161",
    "strlen a": "91921fc40161",
    "substr a 1 2": "919420c401610102",
    "pexpiretime a": "919323c40161c3",
    "type a": "919225c40161",
    "keys a*": "919228c402612a",
    "randomkey": "91922900",
    "lcs a b minmatchlen 2": "919430c40161c4016292c40b6d696e6d617463686c656ec40132",
    "getbit a 9": "91932bc4016109",
    "setbit a 9 1": "91942cc4016109c3",
    "bitcount a 0 -1 bit junk more": "91932dc4016194c40130c4022d31c403626974c4046a756e6b",
    "bitpos a 0 5": "91942ec40161c291c40135",
    "bitop XOR to a b": "91942fa3786f72c402746f92c40161c40162",
}


def test_the_bytes_of_commands_are_a_format() -> None:
    """The encoding of each command is what is in logs already; a change of it needs a new format."""
    assert encode_commands([Set(b"k", b"v")]).hex() == "919301c4016bc40176"
    assert encode_commands([SetWith(b"k", b"v", 1, True, False, 5, 0)]).hex() == "919802c4016bc4017601c3c20500"
    assert encode_commands([IncrementBy(b"k", -1)]).hex() == "919304c4016bff"
    assert encode_commands([Delete((b"k", b"l"))]).hex() == "91920592c4016bc4016c"
    assert encode_commands([Expire(b"k", 1000, 3, True)]).hex() == "919507c4016bcd03e803c3"
    assert encode_commands([Clear()]).hex() == "91910b"
    assert {request: encode_commands([PARSED[request]]).hex() for request in ENCODED} == ENCODED


def test_every_command_on_strings_and_keys_has_its_bytes_above() -> None:
    """None comes into the log, or goes to another node, without a test of its encoding."""
    shown = {Set, SetWith, IncrementBy, Delete, Expire, Clear, *(type(PARSED[request]) for request in ENCODED)}
    written_first = {Get, Exists, TimeToLive, CountKeys, Scan}
    strings = (string_commands, counter_commands, range_commands, bit_commands, lcs_commands)
    families = (*strings, key_commands, expiry_commands, space_commands)
    assert {command for family in families for command in family.COMMANDS} == shown | written_first


@settings(max_examples=200, deadline=None)
@given(data=st.binary(max_size=40))
def test_bytes_that_are_no_commands_are_a_protocol_error(data: bytes) -> None:
    """Decoding whatever a peer sends either gives commands or raises ProtocolError."""
    for decode in (decode_commands, decode_writes):
        try:
            assert all(isinstance(command, Read | Write) for command in decode(data))
        except ProtocolError:
            continue


def test_mutated_commands_are_a_protocol_error_or_commands() -> None:
    """The same, near the bytes of real commands."""
    rng = random.Random(5)
    whole = encode_commands([command for command in PARSED.values() if not isinstance(command, ConnectionCommand)])
    read = refused = 0
    for _ in range(3000):
        data = bytearray(whole)
        for _ in range(rng.randint(1, 3)):
            data[rng.randrange(len(data))] = rng.randrange(256)
        try:
            commands = decode_commands(bytes(data[: rng.choice((len(data), rng.randint(1, len(data))))]))
        except ProtocolError:
            refused += 1
        else:
            read += 1
            assert all(isinstance(command, Read | Write) for command in commands)
    assert read
    assert refused


@settings(max_examples=300, deadline=None)
@given(
    name=st.sampled_from(sorted(SPECS)).map(str.encode),
    args=st.lists(st.sampled_from([b"0", b"1", b"-1", b"NX", b"get", b"EX", b"match", b"*", b"count", b"\xff", b""]), max_size=7),
)
def test_any_request_is_a_command_or_an_error(name: bytes, args: list[bytes]) -> None:
    """Nothing else than CommandError comes out of parsing, and its text has no line break."""
    try:
        answer: object = parse_request([name, *args]).kind
    except CommandError as error:
        answer = error.failure.message
    assert answer is SPECS[name.decode()].kind or (isinstance(answer, str) and not {"\n", "\r"} & set(answer))


def test_the_length_of_keys_is_bounded() -> None:
    """A key of the longest length is accepted, a longer one is refused wherever keys are, and the limit is named."""
    longest, longer = b"k" * MAX_KEY_BYTES, b"k" * (MAX_KEY_BYTES + 1)
    assert parse_request([b"SET", longest, b"v"]) == Set(longest, b"v")
    for request in ([b"SET", longer, b"v"], [b"GET", longer], [b"DEL", b"a", longer], [b"EXPIRE", longer, b"1"]):
        assert error_of(request) == f"ERR key is longer than {MAX_KEY_BYTES} bytes"


def test_the_length_of_patterns_is_bounded() -> None:
    """A pattern longer than the limit is refused, and the limit is named."""
    assert "4096" in error_of([b"SCAN", b"0", b"MATCH", b"?" * (MAX_PATTERN_BYTES + 1)])


# What redis-server 7.0.15 answers to COMMAND INFO.
REDIS_INFO = {
    "set": (-3, {"write", "denyoom"}, 1, 1, 1),
    "get": (2, {"readonly", "fast"}, 1, 1, 1),
    "del": (-2, {"write"}, 1, -1, 1),
    "exists": (-2, {"readonly", "fast"}, 1, -1, 1),
    "incr": (2, {"write", "denyoom", "fast"}, 1, 1, 1),
    "incrby": (3, {"write", "denyoom", "fast"}, 1, 1, 1),
    "expire": (-3, {"write", "fast"}, 1, 1, 1),
    "pexpire": (-3, {"write", "fast"}, 1, 1, 1),
    "ttl": (2, {"readonly", "fast"}, 1, 1, 1),
    "pttl": (2, {"readonly", "fast"}, 1, 1, 1),
    "scan": (-2, {"readonly"}, 0, 0, 0),
    "flushall": (-1, {"write"}, 0, 0, 0),
    "ping": (-1, {"fast"}, 0, 0, 0),
    "echo": (2, {"loading", "stale", "fast"}, 0, 0, 0),
    "select": (2, {"loading", "stale", "fast"}, 0, 0, 0),
    "role": (1, {"noscript", "loading", "stale", "fast"}, 0, 0, 0),
    "multi": (1, {"noscript", "loading", "stale", "fast", "allow_busy"}, 0, 0, 0),
    "exec": (1, {"noscript", "loading", "stale", "skip_slowlog"}, 0, 0, 0),
    "discard": (1, {"noscript", "loading", "stale", "fast", "allow_busy"}, 0, 0, 0),
    "watch": (-2, {"noscript", "loading", "stale", "fast", "allow_busy"}, 1, -1, 1),
    "unwatch": (1, {"noscript", "loading", "stale", "fast", "allow_busy"}, 0, 0, 0),
    "eval": (-3, {"noscript", "stale", "skip_monitor", "no_mandatory_keys", "movablekeys"}, 0, 0, 0),
    "evalsha": (-3, {"noscript", "stale", "skip_monitor", "no_mandatory_keys", "movablekeys"}, 0, 0, 0),
}


@pytest.mark.parametrize("name", REDIS_INFO)
def test_the_table_says_what_redis_says(name: str) -> None:
    """Arity, flags and places of keys are Redis's, so that cluster-aware clients route and drivers check alike."""
    spec = SPECS[name]
    assert (spec.arity, set(spec.flags), spec.first_key, spec.last_key, spec.step) == REDIS_INFO[name]


def test_the_table_is_consistent() -> None:
    """Names are sorted and in lower case; flags agree with the kind; every class has a tag of its own."""
    assert list(SPECS) == sorted(SPECS)
    for name, spec in SPECS.items():
        assert spec.name == name == name.lower()
        assert find_spec(name.upper().encode()) is spec
        assert find_spec(name.title().encode()) is spec
        assert ("write" in spec.flags) == (spec.kind is Kind.WRITE and spec.group != "scripting")
        assert any("readonly" in flags for flags in (spec.flags, *(one.flags for one in spec.subcommands))) == (spec.kind is Kind.READ)
        assert spec.summary
    assert find_spec(b"nothing") is None


def test_keys_of_a_request_are_found() -> None:
    """The table says which arguments are keys."""
    assert keys_of(SPECS["del"], arguments("del a b c")) == [b"a", b"b", b"c"]
    assert keys_of(SPECS["set"], arguments("set a b nx")) == [b"a"]
    assert keys_of(SPECS["scan"], arguments("scan 0")) == ()


def test_a_command_without_its_method_is_a_bug() -> None:
    """A read that cannot read, or a write that cannot be applied, stops the node instead of answering."""
    with pytest.raises(InvariantBroken):
        Read().read(Keyspace(empty_store(), 0))
    with pytest.raises(InvariantBroken):
        Write().apply(Changes(empty_store(), 1, 0, 1))


REPLIES = st.recursive(
    st.none() | st.integers(-(2**63), 2**63 - 1) | st.binary(max_size=5) | st.booleans() | st.builds(Simple, st.text(max_size=3))
    | st.just(NO_ARRAY)
    | st.builds(Failure, st.just("ERR"), st.text(max_size=3)) | st.floats(allow_nan=False),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.binary(max_size=3) | st.integers(0, 9), inner, max_size=3)
    | st.builds(SetReply, st.lists(inner, max_size=3)) | st.builds(Pairs, st.lists(st.tuples(inner, inner), max_size=3)),
    max_leaves=6,
)  # fmt: skip


@settings(max_examples=100, deadline=None)
@given(replies=st.lists(REPLIES, max_size=4))
def test_replies_survive_their_codec(replies: list[Reply]) -> None:
    """Every reply is decoded as what it was, statuses, errors, arrays, maps, sets and pairs told apart at any depth."""
    assert decode_replies(encode_replies(replies)) == replies
    assert [type(reply) for reply in decode_replies(encode_replies(replies))] == [type(reply) for reply in replies]


@settings(max_examples=60, deadline=None)
@given(data=st.binary(max_size=30) | st.recursive(st.integers(0, 5) | st.text(max_size=2), st.lists).map(msgspec.msgpack.encode))
def test_bytes_that_are_no_replies_are_a_protocol_error(data: bytes) -> None:
    """Decoding whatever a peer sends either gives replies or raises ProtocolError."""
    with contextlib.suppress(ProtocolError):
        assert isinstance(decode_replies(data), list)


def test_deeply_nested_replies_are_a_protocol_error() -> None:
    """Depth cannot exhaust the stack."""
    with pytest.raises(ProtocolError):
        decode_replies(b"\x92\x03" * 100_000 + b"\xc0")


def test_the_common_reply_is_short() -> None:
    """OK takes four bytes or so, for it is stored for every write until its client has it."""
    assert len(encode_replies([OK] * 100)) < 520
