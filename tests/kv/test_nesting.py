"""How deeply encoded writes may be nested: found without recursion, and so shallow that every replica can read them."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import inspect

from raftkv.kv import commands
from raftkv.kv.batch import Group
from raftkv.kv.commands import MAX_NESTING, Write, may_enter_log, parse_request
from raftkv.kv.commands import encode_commands as encoded
from raftkv.kv.nesting import nested_deeper
from raftkv.kv.replies import OK
from raftkv.kv.transactions import Transaction
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


def depth(kind: inspect.Type) -> int:
    """How many arrays and maps a value of a type has inside one another, at most. A type that is not bounded is no answer."""
    match kind:
        case inspect.StructType():
            return 1 + max((depth(field.type) for field in kind.fields), default=0)
        case inspect.ListType() | inspect.VarTupleType():
            return 1 + depth(kind.item_type)
        case inspect.TupleType():
            return 1 + max(map(depth, kind.item_types), default=0)
        case inspect.UnionType():
            return max(map(depth, kind.types))
        case inspect.BytesType() | inspect.StrType() | inspect.LiteralType():
            return 0
        case inspect.IntType() | inspect.BoolType() | inspect.FloatType() | inspect.NoneType():
            return 0
    raise AssertionError(f"{kind} is not known to be shallow")


WRITES = [each for each in commands._CLASSES if issubclass(each, Write)]


@pytest.mark.parametrize("write", WRITES, ids=lambda write: str(write.__name__))
def test_no_write_is_deep(write: type[Write]) -> None:
    """Whatever a client asks for has five levels at most, the list of commands being one: far less than may enter the log."""
    assert 1 + depth(inspect.type_info(write)) <= 5 < MAX_NESTING


@pytest.mark.parametrize("request_", ["set k v", "set k v nx get px 5", "del " + "k " * 1000, "mset " + "k v " * 1000])
def test_what_a_program_writes_may_enter_the_log(request_: str) -> None:
    """What a client asks for is accepted from another node."""
    assert may_enter_log(encoded([parse_request(request_.encode().split())]))


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


@pytest.mark.parametrize("depth", [MAX_NESTING + 1, 500, 100_000])
def test_what_a_transaction_is_made_of_is_as_shallow(depth: int) -> None:
    """Bytes within bytes are looked at too, and a field more may be as deep as elsewhere."""
    sound = encoded([Transaction((), with_field(MAX_NESTING))])
    assert may_enter_log(sound)
    assert Driver().groups(Group(0, SESSION, 1, 0, 1, sound))[0].replies == [[OK]]
    assert not may_enter_log(encoded([Transaction((), with_field(depth))]))


def test_what_all_replicas_find_malformed_may_enter_the_log() -> None:
    """Shallow nonsense is none of its business: that is answered alike everywhere."""
    for data in (b"", b"\xc1", b"\x91\x92\x63\x00", encoded([parse_request([b"get", b"k"])])):
        assert may_enter_log(data)
