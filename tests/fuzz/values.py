"""Values of other nodes: what is in a frame after the handshake, and what the router does with it.

The first byte of an input chooses who leads; the rest is one encoded value.
"""

from __future__ import annotations

from raftkv.codec.peer import (
    Fence,
    FileInfo,
    ForwardReads,
    ForwardWrites,
    Health,
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
from raftkv.kv.commands import Command, encode_commands, parse_request
from raftkv.kv.replies import OK, Failure, Pairs, Reply, SetReply, encode_replies
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
from raftkv.raft.types import Configuration, Entry, EntryKind, Member, SnapshotMeta
from tests.fuzz.checks import bounded, expect
from tests.fuzz.target import Target
from tests.router.stand import Stand

_FOR_THE_ROUTER = (ForwardWrites, WritesRefused, ForwardReads, ReadAnswers, ReadsRefused, Publish)
SESSION = bytes(range(16))


def decode(data: bytes) -> Value | None:
    """The value, or None where there is none."""
    try:
        return decode_value(data)
    except ProtocolError:
        return None


def run(data: bytes) -> None:
    """Decoding ends in a value or a `ProtocolError`; a value survives encoding; the router takes whatever is meant for it."""
    role, encoded = data[:1], data[1:]
    value = bounded(data, lambda: decode(encoded), steps=200, peak_bytes=20_000 + 80 * len(encoded))
    if value is None:
        return
    again = encode_value(value)
    expect(encode_value(decode_value(again)) == again, "a value does not survive its encoding")
    stream_of(value)
    if isinstance(value, _FOR_THE_ROUTER):
        receive(value, leads=role != b"\1")


def receive(value: Value, *, leads: bool) -> None:
    """The router gets `value` from n2, while it waits for answers of its own."""
    stand = Stand()
    stand.router.open(2, "127.0.0.1:50002")
    stand.do("SUBSCRIBE news", "PSUBSCRIBE n*", connection=2)
    if leads:
        stand.lead()
    else:
        stand.follow("n2")
        stand.ask("SET a 1", "GET a", "SCAN 0")
        stand.flush()
    stand.receive("n2", value)
    for _ in range(3):
        stand.commit()
        stand.confirm()
        while stand.replica.slow:
            command, done = stand.replica.slow.pop()
            done(stand.replica.machine.read(command))
        stand.flush()


def commands(*lines: bytes) -> bytes:
    """Encoded commands."""
    parsed: list[Command] = [parse_request(line.split()) for line in lines]
    return encode_commands(parsed)


def seeds() -> list[bytes]:
    """One of each value, as a leader and as a follower gets it."""
    head = ("n2", "n1", 3, 5)
    meta = SnapshotMeta(9, 2, Configuration((Member("n1", 1, "a:1"),), ("n1",), (), ("n2",), True))
    install = InstallSnapshot(*head, meta)
    group = Group(0, SESSION, 1, 0, 2, commands(b"SET k v", b"INCR n"))
    reads = commands(b"GET k", b"SCAN 5 MATCH a*[b-c] COUNT 3", b"PTTL k", b"EXISTS a b", b"DBSIZE")
    replies: list[Reply] = [None, 5, b"x", OK, Failure("ERR", "no"), [1, [2]], {b"a": 1.5}, SetReply([b"m"]), Pairs([(b"m", 2.5)])]
    values: list[Value] = [
        PreVote(*head, 4, 8, 2, 1), PreVoteResponse(*head, 4, True, 1), Vote(*head, 8, 2, True), VoteResponse(*head, False),
        Append(*head, 8, 2, (Entry(9, 3, EntryKind.BATCH, b"payload"), Entry(10, 3, EntryKind.NOOP, b"")), 8), AppendResponse(*head, 9),
        AppendRejected(*head, 8, 7, 2, 7), Heartbeat(*head, 8, 1), HeartbeatResponse(*head, 1), install, SnapshotRequest(*head, "lost"),
        TimeoutNow(*head), ForwardWrites(group), WritesRefused(SESSION, 1, "no", "n3"), ForwardReads(1, reads, 5),
        ReadAnswers(1, encode_replies(replies)), ReadsRefused(1, "no"),
        Health(((8, b"digest"),), 1, 8, None, "c:1", 1, "p:1", 1, "leader", 3, 9, 8, ""), Fence(3, "differs"),
        SnapshotOffer("s1", install, (FileInfo("a.sst", 5, 7),)), SnapshotWant("s1", 0, 0, 5), SnapshotChunk("s1", 0, 0, b"12345"),
        SnapshotDone("s1", True), Transfer("n2"), Publish(b"news", b"hello", True), Publish(b"news", b"hello"),
    ]  # fmt: skip
    answers = ReadAnswers(1, encode_replies([b"1", [b"0", []]]))
    return [b"\0" + encode_value(value) for value in values] + [b"\1" + encode_value(value) for value in (*values[12:17], answers)]


TARGET = Target("values", run, seeds)
