"""The values that nodes exchange: round trips, tags that are the protocol, bounds, and which may overtake which."""

from __future__ import annotations

import tracemalloc
from contextlib import suppress
from typing import get_args

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raftkv.codec.frames import Stream
from raftkv.codec.peer import (
    EntriesFound,
    EntriesWant,
    Fence,
    FileInfo,
    ForwardReads,
    ForwardWrites,
    Health,
    Lack,
    Publish,
    ReadAnswers,
    ReadsRefused,
    SnapshotChunk,
    SnapshotDone,
    SnapshotOffer,
    SnapshotWant,
    Transfer,
    Value,
    WritesRefused,
    decode_value,
    encode_value,
    stream_of,
)
from raftkv.errors import ProtocolError
from raftkv.kv.batch import Group
from raftkv.raft.messages import (
    Append,
    AppendRejected,
    AppendResponse,
    Heartbeat,
    HeartbeatResponse,
    InstallSnapshot,
    PreVote,
    PreVoteResponse,
    SnapshotRequest,
    TimeoutNow,
    Vote,
    VoteResponse,
)
from raftkv.raft.types import Configuration, Entry, EntryId, EntryKind, Member, SnapshotMeta

ENVELOPE = ("n1", "n2", 3, 77)
META = SnapshotMeta(9, 2, Configuration((Member("n1", 77, "h:1"), Member("n2", 78, "h:2")), ("n1", "n2")))
INSTALL = InstallSnapshot(*ENVELOPE, META)

# Each value with its tag and its stream. A change here is a change of the protocol.
VALUES: list[tuple[int, Stream, Value]] = [
    (1, Stream.CONTROL, PreVote(*ENVELOPE, 4, 10, 3, 7)),
    (2, Stream.CONTROL, PreVoteResponse(*ENVELOPE, 4, True, 7)),
    (3, Stream.CONTROL, Vote(*ENVELOPE, 10, 3)),
    (4, Stream.CONTROL, VoteResponse(*ENVELOPE, False)),
    (5, Stream.BULK, Append(*ENVELOPE, 8, 2, (Entry(9, 3, EntryKind.BATCH, b"\0\xff" * 99), Entry(10, 3, EntryKind.NOOP, b"")), 8)),
    (6, Stream.CONTROL, AppendResponse(*ENVELOPE, 10)),
    (7, Stream.CONTROL, AppendRejected(*ENVELOPE, 10, 8, 2, 12)),
    (8, Stream.CONTROL, Heartbeat(*ENVELOPE, 10, 5)),
    (9, Stream.CONTROL, HeartbeatResponse(*ENVELOPE, 5, False)),
    (10, Stream.BULK, INSTALL),
    (11, Stream.CONTROL, SnapshotRequest(*ENVELOPE, "state lost")),
    (12, Stream.CONTROL, TimeoutNow(*ENVELOPE)),
    (32, Stream.BULK, ForwardWrites(Group(0, b"s" * 16, 1, 0, 2, b"commands"))),
    (33, Stream.CONTROL, WritesRefused(b"s" * 16, 1, "not leader", "n3")),
    (34, Stream.BULK, ForwardReads(1, b"commands", 2)),
    (35, Stream.BULK, ReadAnswers(1, b"replies")),
    (36, Stream.CONTROL, ReadsRefused(1, "not leader")),
    (37, Stream.CONTROL, Health(((9, b"d" * 16), (10, b"e" * 16)), 1_700_000_000_000, 10, None, "h:1", 1)),
    (38, Stream.CONTROL, Fence(9, "digest differs")),
    (39, Stream.BULK, SnapshotOffer("snap-1", INSTALL, (FileInfo("a.sst", 10, 1), FileInfo("MANIFEST", 0, 0)))),
    (40, Stream.CONTROL, SnapshotWant("snap-1", 0, 262144, 100)),
    (41, Stream.BULK, SnapshotChunk("snap-1", 0, 262144, b"\0" * 100)),
    (42, Stream.CONTROL, SnapshotDone("snap-1", False, "the file differs", True)),
    (43, Stream.CONTROL, Transfer("n2")),
    (44, Stream.CONTROL, EntriesWant(7, EntryId(9, 3), (EntryId(8, 0), EntryId(9, 3)))),
    (45, Stream.BULK, EntriesFound(7, (Entry(9, 3, EntryKind.BATCH, b"\0\xff" * 99),), Lack.ROTTEN, True, 4)),
    (46, Stream.BULK, Publish(b"news", b"\0\xff" * 99, True)),
]
IDS = [type(value).__name__ for _, _, value in VALUES]


@pytest.mark.parametrize(("tag", "stream", "value"), VALUES, ids=IDS)
def test_values_travel(tag: int, stream: Stream, value: Value) -> None:
    """Each value comes back equal and as its own type, under its tag, in its stream."""
    data = encode_value(value)
    decoded = decode_value(data)
    assert type(decoded) is type(value)
    assert decoded == value
    assert msgspec.msgpack.decode(data)[0] == tag
    assert stream_of(value) == stream


def test_every_value_is_here() -> None:
    """No kind of value is missing from the list above."""
    kinds = {kind for part in get_args(Value) for kind in (get_args(part) or (part,))}
    assert {type(value) for _, _, value in VALUES} == kinds


@pytest.mark.parametrize(("tag", "stream", "value"), VALUES, ids=IDS)
def test_a_newer_node_may_append_fields(tag: int, stream: Stream, value: Value) -> None:
    """A value with more fields than this node knows is read without them, so that versions may mix."""
    parts = msgspec.msgpack.decode(encode_value(value))
    assert decode_value(msgspec.msgpack.encode([*parts, "a field of tomorrow"])) == value


@pytest.mark.parametrize(("tag", "stream", "value"), VALUES, ids=IDS)
def test_a_value_that_is_cut_off_is_refused(tag: int, stream: Stream, value: Value) -> None:
    """No beginning of a value is a value."""
    data = encode_value(value)
    for end in range(len(data)):
        with pytest.raises(ProtocolError):
            decode_value(data[:end])


@pytest.mark.parametrize(
    "parts",
    [
        [99],
        [],
        ["5"],
        {},
        None,
        [32, [0, b"short", 1]],
        [33, b"not 16 bytes", 1, "reason", None],
        [33, b"s" * 16, -1, "reason", None],
        [33, b"s" * 16, 1, "r" * 1001, None],
        [37, [[1, b"d" * 65]], 0, 0, None, "", 1],
        [37, [[1, b"d"]] * 257, 0, 0, None, "", 1],
        [39, "", [10, *ENVELOPE, [1, 1, [[], [], [], [], False]]], []],
        [39, "s", [8, *ENVELOPE, 1, 1], []],
        [40, "n" * 256, 0, 0, 0],
        [40, "s", -1, 0, 0],
        [5, *ENVELOPE, 1, 1, [[1, 1, 99, b""]], 0],
        [5, *ENVELOPE, 1, 1, "entries", 0],
        [6, *ENVELOPE, "match"],
        [6, *ENVELOPE, 1.5],
        "not UTF-8",
        [44, 1, [9, 3], [[1, 1]] * 257],
        [44, -1, [9, 3], []],
        [44, 1, [9], []],
        [45, 1, [[1, 1, 2, b""]] * 257, 0, False, 1],
        [45, 1, [[1, 1, 99, b""]], 0, False, 1],
        [45, 1, [], 4, False, 1],
        [48, 1, b"c" * 16, "n1", 1, 1, 0, "", "", b"n" * 32, ""],
    ],
)
def test_what_is_no_value_is_refused(parts: object) -> None:
    """Unknown tags, wrong types, and sizes out of bounds are a ProtocolError; a handshake is no value."""
    data = b"\x94\x26\x01\xa1\x80" if parts == "not UTF-8" else msgspec.msgpack.encode(parts)
    with pytest.raises(ProtocolError, match="is not a value of the peer protocol"):
        decode_value(data)


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=80))
def test_noise_is_refused(data: bytes) -> None:
    """Any bytes are a value or a ProtocolError, never another error."""
    with suppress(ProtocolError):
        decode_value(data)


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(VALUES), st.data())
def test_damage_is_a_value_or_refused(case: tuple[int, Stream, Value], data: st.DataObject) -> None:
    """A value with changed bytes is another value or a ProtocolError."""
    damaged = bytearray(encode_value(case[2]))
    for _ in range(data.draw(st.integers(1, 3))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    with suppress(ProtocolError):
        decode_value(bytes(damaged))


@pytest.mark.parametrize("count", [b"\x00\x0f\xff\xff", b"\xff\xff\xff\xff"])
@pytest.mark.parametrize(
    "beginning",
    [
        b"\x99\x05\xa2n1\xa2n2\x03\x4d\x01\x01\xdd",
        b"\x97\x25\xdd",
        b"\x94\x27\xa1s\x96\x0a\xa2n1\xa2n2\x03\x4d\x93\x01\x01\x95\xdd",
        b"\x93\x23\x01\xc6",
        b"\xdd",
    ],
    ids=["entries", "digests", "members", "bytes", "value"],
)
def test_a_claimed_count_reserves_nothing(beginning: bytes, count: bytes) -> None:
    """A million or four billion elements that do not follow cost no memory."""
    tracemalloc.start()
    try:
        with pytest.raises(ProtocolError):
            decode_value(beginning + count + b"\x05")
        assert tracemalloc.get_traced_memory()[1] < 64 * 1024
    finally:
        tracemalloc.stop()


def test_deep_nesting_is_refused() -> None:
    """Nested arrays do not exhaust the stack."""
    with pytest.raises(ProtocolError):
        decode_value(b"\x91" * 1_000_000)
