"""What nodes say to each other once they know each other: the messages of the core, and the frames of the shell around it.

All of it is one tagged union, encoded with msgspec as msgpack arrays that begin with the tag: 1 to 31 belong to the core's messages
(`raft.messages`), 32 to 47 to the shell's values here, 48 and up to the handshake (`codec.handshake`). Tags and the order of fields
are the protocol; a new field goes at the end, with a default, so that a node of the version before reads what it knows.

Decoding checks types, ranges of sizes, and numbers of elements, and nothing else: whether an index makes sense is the receiver's
business. `stream_of` says which values may overtake which.
"""

from __future__ import annotations

import enum
from typing import Annotated

import msgspec
from msgspec import Meta, Struct

from raftkv.codec.frames import Stream
from raftkv.errors import ProtocolError
from raftkv.kv.batch import Group
from raftkv.kv.command import MAX_KEY_BYTES
from raftkv.raft.messages import Append, InstallSnapshot, Message
from raftkv.raft.types import Entry, EntryId, Index, NodeId

Natural = Annotated[int, Meta(ge=0, le=(1 << 63) - 1)]
Checksum = Annotated[int, Meta(ge=0, le=(1 << 32) - 1)]
Session = Annotated[bytes, Meta(min_length=16, max_length=16)]
Digest = Annotated[bytes, Meta(max_length=64)]
Reason = Annotated[str, Meta(max_length=1000)]
Name = Annotated[str, Meta(min_length=1, max_length=255)]

MAX_PUBLISHED_BYTES = 64 << 20
"""The longest message of a channel. Its name is no longer than a key: it is compared with patterns."""


class ForwardWrites(Struct, frozen=True, array_like=True, tag=32):
    """Propose this group of a session of mine. The answer is the entry, when I apply it, or `WritesRefused`."""

    group: Group


class WritesRefused(Struct, frozen=True, array_like=True, tag=33):
    """The group that begins with command `first` of `session`, and those after it, surely do not happen by my doing.

    `leader` is who leads, as far as the sender knows.
    """

    session: Session
    first: Natural
    reason: Reason
    leader: NodeId | None = None


class ForwardReads(Struct, frozen=True, array_like=True, tag=34):
    """Answer these `count` encoded read commands linearizably. `id` is the asker's, and never used twice by one process."""

    id: Natural
    commands: bytes
    count: Natural


class ReadAnswers(Struct, frozen=True, array_like=True, tag=35):
    """The encoded replies to the `ForwardReads` of the same `id`."""

    id: Natural
    replies: bytes


class ReadsRefused(Struct, frozen=True, array_like=True, tag=36):
    """The reads of `id` are not answered here; ask another node, or later."""

    id: Natural
    reason: Reason


class Health(Struct, frozen=True, array_like=True, tag=37):
    """Facts about the sender, told at every heartbeat.

    `digests` are recent (applied index, digest) pairs of its state machine, oldest first. `wall_ms` is its wall clock. `fenced`
    says why its state is not to be trusted, if so. `client_address` is where clients reach it. `machine_version` is the newest
    rules that it can apply.
    """

    digests: Annotated[tuple[tuple[Index, Digest], ...], Meta(max_length=256)]
    wall_ms: int
    applied: Natural
    fenced: Reason | None
    client_address: str
    machine_version: Natural = 1
    peer_address: str = ""
    process_id: Natural = 0
    role: str = ""
    term: Natural = 0
    last: Natural = 0
    committed: Natural = 0
    refusing_writes: Reason = ""


class Fence(Struct, frozen=True, array_like=True, tag=38):
    """Your state differs from the majority's from `index` on: do not serve it, and ask for a snapshot."""

    index: Natural
    reason: Reason


class FileInfo(Struct, frozen=True, array_like=True):
    """One file of a snapshot; `crc` is the CRC32C of all of it."""

    name: Name
    size: Natural
    crc: Checksum


class SnapshotOffer(Struct, frozen=True, array_like=True, tag=39):
    """I have the snapshot `id`, in these files, for you; when you have it, hand `message` to your core."""

    id: Name
    message: InstallSnapshot
    files: Annotated[tuple[FileInfo, ...], Meta(max_length=100_000)]


class SnapshotWant(Struct, frozen=True, array_like=True, tag=40):
    """Send me `size` bytes of file number `file` (its place in the offer) at `offset`. A size of 0 asks for nothing: I am at work on what
    I have, and it moves on."""

    id: Name
    file: Natural
    offset: Natural
    size: Natural


class SnapshotChunk(Struct, frozen=True, array_like=True, tag=41):
    """The bytes that a `SnapshotWant` asked for. Frames protect it on the way, and the file's CRC at its end."""

    id: Name
    file: Natural
    offset: Natural
    data: bytes


class SnapshotDone(Struct, frozen=True, array_like=True, tag=42):
    """The transfer of `id` has ended: all of it is there and verified, or `reason` says why not. `differs`: what has arrived is not what
    was offered."""

    id: Name
    ok: bool
    reason: Reason = ""
    differs: bool = False


class Transfer(Struct, frozen=True, array_like=True, tag=43):
    """Somebody asks that you hand the leadership to `to`; empty for whoever is most up to date."""

    to: Annotated[str, Meta(max_length=255)]


class EntriesWant(Struct, frozen=True, array_like=True, tag=44):
    """My log is rotten. Give me these entries, whatever your role, whether they are committed or not, if your log holds them.

    Each is named by index and term. A term of 0 is not known: then it is the entry of that index in any log that holds `anchor`. `id` is
    the asker's.
    """

    id: Natural
    anchor: EntryId
    entries: Annotated[tuple[EntryId, ...], Meta(max_length=256)]


class Lack(enum.IntEnum):
    """Why entries are not given."""

    NONE = 0
    """They are given, or were not asked for."""
    NOT_HELD = 1
    """My log does not hold them."""
    FORGOTTEN = 2
    """My log begins later."""
    ROTTEN = 3
    """They are rotten here, too."""


class EntriesFound(Struct, frozen=True, array_like=True, tag=45):
    """Some of the entries that the `EntriesWant` of the same `id` asked for; `lack` says why others are not here.

    `leads`: the sender leads in `term` and has a state, so log and state hold everything that was committed in earlier terms.
    """

    id: Natural
    entries: Annotated[tuple[Entry, ...], Meta(max_length=256)]
    lack: Lack
    leads: bool
    term: Natural


class Publish(Struct, frozen=True, array_like=True, tag=46):
    """A client of mine published `message` in `channel`: deliver it to the subscribers there. `shard`: to those of the shard channel of
    that name. There is no answer."""

    channel: Annotated[bytes, Meta(max_length=MAX_KEY_BYTES)]
    message: Annotated[bytes, Meta(max_length=MAX_PUBLISHED_BYTES)]
    shard: bool = False


ShellValue = (
    ForwardWrites
    | WritesRefused
    | ForwardReads
    | ReadAnswers
    | ReadsRefused
    | Health
    | Fence
    | SnapshotOffer
    | SnapshotWant
    | SnapshotChunk
    | SnapshotDone
    | Transfer
    | EntriesWant
    | EntriesFound
    | Publish
)

Value = Message | ShellValue

_encoder = msgspec.msgpack.Encoder()
_decoder: msgspec.msgpack.Decoder[Value] = msgspec.msgpack.Decoder(Value)

# What can be large, or must keep its order with that. An Append without entries must not overtake the appends before it.
_BULK = (Append, InstallSnapshot, ForwardWrites, ForwardReads, ReadAnswers, SnapshotOffer, SnapshotChunk, EntriesFound, Publish)


def stream_of(value: Value) -> Stream:
    """The stream that `value` travels in."""
    return Stream.BULK if isinstance(value, _BULK) else Stream.CONTROL


def encode_value(value: Value) -> bytes:
    """The bytes of `value`."""
    return _encoder.encode(value)


def decode_value(data: bytes) -> Value:
    """The value in `data`.

    Raises:
        ProtocolError: `data` is no value that this node knows.
    """
    try:
        return _decoder.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ProtocolError(f"a payload of {len(data)} bytes is not a value of the peer protocol: {error}") from error
