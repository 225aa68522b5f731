"""How deeply encoded writes may be nested: found without recursion, and so shallow that every replica can read them."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raftkv.kv.batch import Group
from raftkv.kv.commands import MAX_NESTING, SPECS, Kind, may_enter_log, parse_request
from raftkv.kv.commands import encode_commands as encoded
from raftkv.kv.nesting import nested_deeper
from raftkv.kv.replies import OK
from tests.kv.driver import SESSION, Driver

ATOMS = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False)
    | st.text(max_size=40)
    | st.binary(max_size=40)
    | st.builds(msgspec.msgpack.Ext, st.integers(-128, 127), st.binary(max_size=20))
)
VALUES = st.recursive(
    ATOMS, lambda inner: st.lists(inner, max_size=20) | st.dictionaries(st.integers(0, 99) | st.text(max_size=3), inner, max_size=20)
)


def levels(value: object) -> int:
    """How many arrays and maps stand inside one another."""
    if isinstance(value, list):
        return 1 + max(map(levels, value), default=0)
    if isinstance(value, dict):
        return 1 + max(map(levels, value.values()), default=0)
    return 0


@settings(max_examples=200, deadline=None)
@given(value=VALUES, cut=st.integers(0, 400))
def test_the_levels_are_counted(value: object, cut: int) -> None:
    """Whatever the values between, an array or map inside of so many others is found, and no other; bytes that end early have no more
    levels than the whole, and are no error."""
    data = msgspec.msgpack.encode(value)
    assert [nested_deeper(data, most) for most in range(8)] == [levels(value) > most for most in range(8)]
    assert not nested_deeper(data[:cut], levels(value))


@pytest.mark.parametrize(
    "value",
    [
        *(b"x" * size for size in (0, 255, 256, 65_535, 65_536)),
        *("x" * size for size in (31, 32, 255, 256, 65_535, 65_536)),
        *(msgspec.msgpack.Ext(1, b"x" * size) for size in (1, 2, 4, 8, 16, 17, 256, 65_536)),
        *([0] * size for size in (15, 16, 65_535, 65_536)),
        *(dict.fromkeys(range(size), 0) for size in (15, 16, 65_536)),
    ],
    ids=lambda value: f"{type(value).__name__} of {len(msgspec.msgpack.encode(value))} bytes",
)
def test_what_follows_any_value_is_found(value: object) -> None:
    """Behind a value of each form and size the next one is read at its place."""
    data = msgspec.msgpack.encode([value, [[0]], value])
    assert nested_deeper(data, 2)
    assert not nested_deeper(data, 3)


@given(data=st.binary(max_size=60))
def test_bytes_that_are_no_msgpack_are_no_error(data: bytes) -> None:
    """Anything can be asked about, and has no more levels than bytes."""
    assert not nested_deeper(data, len(data))


def test_a_million_levels_are_told_at_once() -> None:
    """Depth exhausts neither the stack nor memory: it is looked no further than it is asked about."""
    assert nested_deeper(b"\x91" * 1_000_000 + b"\xc0", MAX_NESTING)


def with_field(depth: int) -> bytes:
    """A SET with one more field, as of a newer program, that is nested so deeply in all."""
    [fields] = msgspec.msgpack.decode(encoded([parse_request([b"set", b"k", b"v"])]))
    return msgspec.msgpack.encode([[*fields, msgspec.Raw(b"\x91" * (depth - 2) + b"\xc0")]])


REQUESTS = (
    "set k v", "set k v nx get px 5", "incr k", "incrby k -5", "del " + "k " * 1000, "expire k 5 nx", "pexpire k -5", "flushall",
    "append k v", "copy k m", "decr k", "decrby k 5", "delex k ifeq v", "expireat k 5", "flushdb", "getdel k", "getex k ex 5", "getset k v",
    "incrbyfloat k 1.5", "mset k v m v", "msetnx k v m v", "persist k", "pexpireat k 5", "psetex k 5 v", "rename k m",
    "renamenx k m", "setex k 5 v", "setnx k v", "setrange k 5 v", "swapdb 0 0", "unlink k m", "setbit k 1 1", "bitop and k m n",
    "hset k f v g w", "hmset k f v", "hsetnx k f v", "hdel k f g", "hincrby k f 1", "hincrbyfloat k f 1",
    "zadd k nx 1 a 2 b", "zadd k incr 1 a", "zincrby k 1 a", "zrem k a b", "zpopmin k", "zpopmax k 2", "zmpop 2 k m min count 5",
    "zrangestore k m (1 5 byscore limit 1 2", "zrangestore k m [a + bylex", "zrangestore k m 0 5 rev", "zremrangebyrank k 0 5",
    "zremrangebyscore k -inf (5", "zremrangebylex k - (b", "zunionstore k 2 m n weights 1 2", "zinterstore k 2 m n aggregate min",
    "zdiffstore k 2 m n",
    "sadd k a b", "srem k a b", "spop k 3", "smove k m a", "sinterstore k m n", "sunionstore k m n", "sdiffstore k m n",
)  # fmt: skip


def test_what_a_program_writes_may_enter_the_log() -> None:
    """Each write that a client can ask for has five levels at most, and may."""
    writes = {name for name, spec in SPECS.items() if spec.kind is Kind.WRITE}
    assert {request.split()[0] for request in REQUESTS} == writes - {"move"}  # which never gets as far
    for request in REQUESTS:
        data = encoded([parse_request(request.encode().split())])
        assert may_enter_log(data)
        assert not nested_deeper(data, 5)


def test_fields_of_a_newer_program_may_enter_the_log() -> None:
    """A command with a field more than is known may, with as many levels as are allowed; every replica can read it."""
    data = with_field(MAX_NESTING)
    assert may_enter_log(data)
    driver = Driver()
    [answer] = driver.groups(Group(0, SESSION, 1, 0, 1, data))
    assert (answer.problem, answer.replies) == (None, [OK])


@pytest.mark.parametrize("depth", [MAX_NESTING + 1, 500, 900, 1_000, 100_000])
def test_what_some_stack_might_not_hold_may_not_enter_the_log(depth: int) -> None:
    """One level more than is allowed is refused, long before it depends on the process whether it can be read."""
    assert not may_enter_log(with_field(depth))
    assert not may_enter_log(with_field(depth) + b"\xc1")
    assert not may_enter_log(b"\x92" + with_field(depth)[1:])


def test_what_all_replicas_find_malformed_may_enter_the_log() -> None:
    """Shallow nonsense is none of its business: that is answered alike everywhere."""
    for data in (b"", b"\xc1", b"\x91\x92\x63\x00", encoded([parse_request([b"get", b"k"])])):
        assert may_enter_log(data)
