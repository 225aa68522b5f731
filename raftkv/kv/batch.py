"""The payload of a log entry: many commands, in groups, under one stamp of the log's clock.

A group holds consecutive commands of one session for one machine, already encoded by `kv.commands`, so that a leader can put groups
of other nodes into an entry, and the log can carry them, without decoding a command. The field order is a format on disk.
"""

from __future__ import annotations

import msgspec
from msgspec import Struct

FORMAT_VERSION = 1


class Group(Struct, frozen=True, array_like=True):
    """Commands `first`, `first + 1`, … of `session` (16 bytes; random, drawn by whoever opens it).

    `floor` says that the replies to all commands up to it have arrived, so that they may be forgotten. `commands` is the msgpack
    encoding of a list of commands. A session is opened by a group whose `first` is 1.
    """

    machine: int
    session: bytes
    first: int
    floor: int
    count: int
    commands: bytes


class Batch(Struct, frozen=True, array_like=True):
    """One entry's worth of groups.

    `format` is FORMAT_VERSION. `machine_version` is the version of the rules to apply it with. `stamp_ms` is the leader's reading
    of the log's clock, in milliseconds since the epoch.
    """

    format: int
    machine_version: int
    stamp_ms: int
    groups: list[Group]


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Batch)


def encode_batch(batch: Batch) -> bytes:
    """The bytes of `batch`, the payload of a BATCH entry."""
    return _encoder.encode(batch)


def decode_batch(payload: bytes) -> Batch:
    """The batch in `payload`.

    Raises:
        msgspec.DecodeError, msgspec.ValidationError: the payload is not a batch; a committed one always is.
    """
    return _decoder.decode(payload)
