"""Payloads of log entries: batches, their groups and commands, applied to a machine; and the replies that it keeps.

The first byte of an input chooses how the rest is read: as a whole batch, as the commands of a group, as the numbers of a group, as
reads, or as encoded replies.
"""

from __future__ import annotations

from raftkv.codec.resp import encode_replies as encode_resp
from raftkv.errors import InvariantBroken, ProtocolError, StateDamaged, UnknownFormat
from raftkv.kv.batch import Batch, Group, decode_batch, encode_batch
from raftkv.kv.bit_commands import SetBit
from raftkv.kv.commands import Command, Kind, decode_commands, decode_writes, encode_commands
from raftkv.kv.machine import KvMachine
from raftkv.kv.range_commands import MAX_STRING_BYTES, SetRange
from raftkv.kv.replies import OK, Failure, Reply, decode_replies, encode_replies
from tests.fuzz.checks import bounded, expect
from tests.fuzz.target import Target
from tests.fuzz.values import SESSION, commands
from tests.router.rows import MemoryRows

STAMP_MS = 1_700_000_000_000
_FIRST = encode_batch(
    Batch(1, 1, STAMP_MS, [Group(0, SESSION, 1, 0, 3, commands(b"SET a 1", b"SET b text EX 10", b"SET c 9223372036854775807"))])
)
_BIG_INTEGER = (1 << 64) - 1


def run(data: bytes) -> None:
    """No payload makes a machine fail otherwise than documented, or a command fail inside; every answer can be sent and kept."""
    kind, encoded = data[:1], data[1:]
    match kind:
        case b"\1":
            apply(encode_batch(Batch(1, 1, STAMP_MS + 1, [Group(0, SESSION, 4, 1, _count(encoded), encoded)])))
        case b"\2":
            apply(encode_batch(Batch(1, 1, STAMP_MS + 20_000, _groups(encoded))))
        case b"\3":
            read(encoded)
        case b"\4":
            replies(encoded)
        case _:
            apply(encoded)


def machine() -> tuple[KvMachine, MemoryRows]:
    """A machine with some keys."""
    rows = MemoryRows()
    made = KvMachine(rows)
    made.apply(1, 1, _FIRST)
    return made, rows


def _count(encoded: bytes) -> int:
    try:
        return len(decode_writes(encoded))
    except (ProtocolError, RecursionError):
        return 0


def _bytes_to_make(payload: bytes) -> int:
    """How long the strings are that SETRANGE and SETBIT make in a batch: they are longer than their commands."""
    try:
        writes = [write for group in decode_batch(payload).groups for write in decode_writes(group.commands)]
    except (ProtocolError, RecursionError, ValueError):
        return 0
    return sum(min(write.offset, MAX_STRING_BYTES) for write in writes if isinstance(write, SetRange | SetBit))


def _groups(encoded: bytes) -> list[Group]:
    """Groups with the numbers in `encoded`, eight bytes each, around commands that are sound."""
    numbers = [int.from_bytes(encoded[at : at + 8], "little") for at in range(0, min(len(encoded), 240), 8)]
    numbers += [0] * (-len(numbers) % 3)
    sound = commands(b"INCR n", b"DEL a b")
    return [Group(0, SESSION, first, floor, 2 if count else 0, sound if count else b"\x90") for first, floor, count in _threes(numbers)]


def _threes(numbers: list[int]) -> list[tuple[int, int, int]]:
    return [(numbers[at], numbers[at + 1], numbers[at + 2]) for at in range(0, len(numbers), 3)]


def apply(payload: bytes) -> None:
    """Apply `payload`, and what is left is the same for a machine that starts again on the same rows."""
    made, rows = machine()
    before = (made.position, dict(rows.scan(b"", b"\xff")))
    try:
        size = len(payload)
        peak_bytes = 300_000 + 400 * size + 5 * _bytes_to_make(payload)
        applied = bounded(payload, lambda: made.apply(2, 1, payload), steps=4000 + 300 * size, peak_bytes=peak_bytes)
    except (InvariantBroken, UnknownFormat):
        expect((made.position, dict(rows.scan(b"", b"\xff"))) == before, "a refused entry left something behind")
        return
    expect(not applied.faults, f"a command failed inside: {applied.faults}")
    batch = decode_batch(payload)
    expect(decode_batch(encode_batch(batch)) == batch, "a batch does not survive its encoding")
    for group in applied.groups:
        encode_resp(group.replies, 2)
        encode_replies(group.replies)
    again = KvMachine(rows)
    expect(again.position == made.position, "a restart changes where the machine stands")
    due_ms, found_ms = made.next_expiry_ms, again.next_expiry_ms
    expect(found_ms is None or (due_ms is not None and due_ms <= found_ms), "the machine has forgotten that something will be due")
    for session in {group.session for group in batch.groups[:20]}:
        expect(again.session_last(session) == made.session_last(session), "a restart changes a session")
    made.apply(3, 1, encode_batch(Batch(1, made.machine_version, STAMP_MS + 60_000, [])))


def read(encoded: bytes) -> None:
    """Execute reads that another node sent."""
    try:
        wanted = decode_commands(encoded)
    except ProtocolError:
        return
    made, _ = machine()
    again = encode_commands(wanted)
    expect(encode_commands(decode_commands(again)) == again, "commands do not survive their encoding")
    for command in wanted[:50]:
        if command.kind is Kind.READ:
            answer(made, command)


def answer(made: KvMachine, command: Command) -> None:
    """One read, whose answer can be sent."""
    reply = made.read(command, STAMP_MS + 1)
    encode_resp([reply], 3)
    expect(encode_replies(decode_replies(encode_replies([reply]))) == encode_replies([reply]), "a reply does not survive its encoding")


def replies(encoded: bytes) -> None:
    """Decode replies of another node, or kept ones."""
    try:
        found = bounded(encoded, lambda: decode_replies(encoded), steps=500 + 20 * len(encoded), peak_bytes=50_000 + 200 * len(encoded))
    except (ProtocolError, StateDamaged):
        return
    again = encode_replies(found)
    expect(encode_replies(decode_replies(again)) == again, "replies do not survive their encoding")
    for protocol in (2, 3):
        encode_resp(found, protocol)


def seeds() -> list[bytes]:
    """Batches with every write, groups sent again, reads, replies."""
    writes = commands(
        b"SET k v", b"SET k v NX GET PX 5", b"SET k v KEEPTTL", b"SET k v PXAT 1700000000500", b"INCRBY n -5", b"DEL a b c",
        b"EXPIRE a 10 GT", b"PEXPIRE b 0", b"FLUSHALL", b"INCR c",
    )  # fmt: skip
    again = Group(0, SESSION, 1, 0, 3, commands(b"SET a 1", b"SET b text EX 10", b"SET c 9223372036854775807"))
    whole = Batch(1, 1, STAMP_MS + 11_000, [again, Group(0, SESSION, 4, 2, 10, writes), Group(0, bytes(16), 1, 0, 1, commands(b"INCR x"))])
    some: list[Reply] = [None, 5, -(1 << 63), b"x", OK, Failure("ERR", "no"), [1, [2, b""]], {b"a": 1.5, 1: [True]}, False]
    numbers = b"".join(number.to_bytes(8, "little") for number in (4, 3, 1, 6, 0, 0, 1, 9, 1, _BIG_INTEGER, _BIG_INTEGER, 1))
    reads = commands(b"GET a", b"SCAN 0 MATCH [a-b]* COUNT 3 TYPE string", b"PTTL b", b"TTL a", b"EXISTS a b", b"DBSIZE")
    strings = commands(
        b"SET a 2 IFEQ 1", b"SETEX a 5 v", b"MSETNX x 1 y 2", b"MSET x 1 y 2", b"GETDEL b", b"GETEX a PXAT 1700000000500",
        b"DELEX a IFNE v", b"INCRBYFLOAT n 1.5", b"APPEND a v", b"SETRANGE a 5 v", b"EXPIREAT c 1700000001 NX", b"PERSIST c",
        b"RENAME a b", b"COPY c a REPLACE", b"SETBIT a 7 1", b"BITOP XOR d a b",
    )  # fmt: skip
    more = commands(
        b"MGET a b", b"DIGEST a", b"STRLEN b", b"GETRANGE b -3 2", b"PEXPIRETIME b", b"TYPE a", b"KEYS [a-b]*", b"RANDOMKEY",
        b"GETBIT a 1", b"BITCOUNT a 0 -1 BIT", b"BITPOS a 1 2",
    )  # fmt: skip
    elements = commands(
        b"HSET h f 1 g v", b"HMSET h i 2", b"HSETNX h f 2", b"HDEL h g no", b"HINCRBY h f 5", b"HINCRBYFLOAT h f 0.5", b"SADD s m n o",
        b"SADD t n p", b"SREM s m", b"SPOP s", b"SPOP t 2", b"SMOVE s t o", b"SUNIONSTORE d s t", b"SINTERSTORE h s t", b"SDIFFSTORE s d t",
    )  # fmt: skip
    of_elements = commands(
        b"HGET h f", b"HMGET h f g", b"HGETALL h", b"HLEN h", b"HEXISTS h f", b"HSTRLEN h f", b"HRANDFIELD h -3 WITHVALUES",
        b"HSCAN h 0 MATCH [a-f]* COUNT 2", b"SISMEMBER s m", b"SMISMEMBER s m n", b"SCARD s", b"SRANDMEMBER s 2", b"SSCAN s 0",
        b"SMEMBERS s", b"SUNION s t", b"SINTERCARD 2 s t LIMIT 1",
    )  # fmt: skip
    return [
        *[b"\0" + encode_batch(whole), b"\0" + _FIRST, b"\1" + writes, b"\2" + numbers, b"\3" + reads, b"\4" + encode_replies(some)],
        *[b"\1" + strings, b"\3" + more, b"\1" + elements, b"\3" + of_elements],
    ]


TARGET = Target("batches", run, seeds)
