"""Frames: how payloads of any size travel between nodes on one connection, without a large one delaying a small one.

A payload belongs to one of two streams, CONTROL or BULK, and is cut into frames of at most 256 KiB. `FrameSender` writes control
frames before bulk frames, also in the middle of a bulk payload; `FrameDecoder` puts each stream together again. What always holds:

- Payloads of one stream arrive in the order in which they were queued, whole or not at all.
- At most one bulk frame leaves before a control payload that was queued after it (plus what `take` had already handed out).
- A frame with any bit changed is refused: header and payload are under one CRC32C.
- Lengths are compared with the bounds before anything is kept for them, and the work is linear in the bytes fed.

A frame is a header of 16 bytes, big-endian, and its part of the payload::

    u8  magic and version   0xA1: 0xA for raftkv, 1 for this layout
    u8  kind                what the payload is, given to the receiver unchanged
    u8  flags               bit 0: more frames of this payload follow on this stream; other bits are 0
    u8  stream              0 control, 1 bulk
    u32 group               the Raft group; 0 until there are several
    u32 length              of the part that follows, at most 262144
    u32 crc32c              of the 12 bytes before it and the part

There are no sockets here, and nothing is known of what payloads mean. A CRC finds damage, not an attacker.
"""

from __future__ import annotations

import enum
import struct
from collections import deque

import google_crc32c
from msgspec import Struct

from raftkv.errors import ProtocolError

MAGIC_AND_VERSION = 0xA1
MAX_PART_BYTES = 256 * 1024
MAX_PAYLOAD_BYTES = 65 * 1024 * 1024
"""The largest payload: an entry of 64 MiB and what surrounds it."""

_FIELDS = struct.Struct(">BBBBII")
_CRC = struct.Struct(">I")
HEADER_BYTES = _FIELDS.size + _CRC.size
_MORE = 1


class Stream(enum.IntEnum):
    """Which queue a payload travels in."""

    CONTROL = 0
    """Small and urgent: heartbeats, votes, acknowledgements."""
    BULK = 1
    """Everything that can be large."""


class Payload(Struct, frozen=True, gc=False):
    """A payload that has arrived whole."""

    kind: int
    stream: int
    group: int
    data: bytes


def encode_frame(kind: int, stream: int, group: int, part: bytes | memoryview, more: bool) -> bytes:
    """One frame around `part`, which holds at most MAX_PART_BYTES."""
    fields = _FIELDS.pack(MAGIC_AND_VERSION, kind, _MORE if more else 0, stream, group, len(part))
    body = part if isinstance(part, bytes) else bytes(part)
    crc: int = google_crc32c.extend(google_crc32c.value(fields), body)
    return b"".join((fields, _CRC.pack(crc), body))


class FrameSender:
    """Payloads to bytes, control before bulk.

    Args:
        group: the Raft group that the frames name.
        max_control_bytes, max_bulk_bytes: what each queue holds at most. A payload is taken into an empty queue whatever its size.
    """

    def __init__(self, group: int = 0, max_control_bytes: int = 4 << 20, max_bulk_bytes: int = 64 << 20) -> None:
        self._group = group
        self._bounds = (max_control_bytes, max_bulk_bytes)
        self._queues: tuple[deque[tuple[int, bytes]], deque[tuple[int, bytes]]] = (deque(), deque())
        self._queued_bytes = [0, 0]
        self._sent = 0  # bytes of the first bulk payload that `take` has handed out

    def __bool__(self) -> bool:
        """Whether anything waits to be taken."""
        return bool(self._queues[0] or self._queues[1])

    @property
    def queued_bytes(self) -> int:
        """Payload bytes that wait to be taken."""
        return sum(self._queued_bytes)

    def queue(self, kind: int, stream: Stream, data: bytes) -> bool:
        """Queue a payload; False when its queue is full, and then nothing has changed.

        Raises:
            ValueError: `data` is larger than any receiver takes.
        """
        if len(data) > MAX_PAYLOAD_BYTES:
            raise ValueError(f"a payload has {len(data)} bytes; at most {MAX_PAYLOAD_BYTES} can be sent")
        waiting = self._queues[stream]
        if waiting and self._queued_bytes[stream] + len(data) > self._bounds[stream]:
            return False
        waiting.append((kind, data))
        self._queued_bytes[stream] += len(data)
        return True

    def take(self, max_bytes: int) -> bytes:
        """The next frames to write, in whole frames: about `max_bytes`, at least one frame if anything waits."""
        frames: list[bytes] = []
        room = max_bytes
        control, bulk = self._queues
        while control and room > 0:
            kind, data = control[0]
            if len(data) > MAX_PART_BYTES:
                frame = self._split_control(kind, data)
            else:
                frame = encode_frame(kind, Stream.CONTROL, self._group, data, False)
            control.popleft()
            self._queued_bytes[Stream.CONTROL] -= len(data)
            frames.append(frame)
            room -= len(frame)
        while bulk and room > 0:
            frame = self._next_bulk_frame(bulk)
            frames.append(frame)
            room -= len(frame)
        return frames[0] if len(frames) == 1 else b"".join(frames)

    def _next_bulk_frame(self, bulk: deque[tuple[int, bytes]]) -> bytes:
        kind, data = bulk[0]
        begin = self._sent
        if not begin and len(data) <= MAX_PART_BYTES:
            part: bytes | memoryview = data
        else:
            part = memoryview(data)[begin : begin + MAX_PART_BYTES]
        more = begin + len(part) < len(data)
        if more:
            self._sent += len(part)
        else:
            bulk.popleft()
            self._sent = 0
        self._queued_bytes[Stream.BULK] -= len(part)
        return encode_frame(kind, Stream.BULK, self._group, part, more)

    def _split_control(self, kind: int, data: bytes) -> bytes:
        """All frames of a control payload that does not fit in one: rare, and not worth a position of its own."""
        view = memoryview(data)
        starts = range(0, len(data), MAX_PART_BYTES)
        return b"".join(
            encode_frame(kind, Stream.CONTROL, self._group, view[at : at + MAX_PART_BYTES], at + MAX_PART_BYTES < len(data))
            for at in starts
        )


class FrameDecoder:
    """Bytes to payloads.

    `max_payload_bytes` may be changed at any time: it is small before a handshake and large after it.
    """

    def __init__(self, max_payload_bytes: int = MAX_PAYLOAD_BYTES) -> None:
        self.max_payload_bytes = max_payload_bytes
        self._pending = bytearray()
        self._need = HEADER_BYTES
        self._parts: list[bytearray | None] = [None, None]
        self._kinds: list[tuple[int, int]] = [(0, 0), (0, 0)]

    def feed(self, data: bytes) -> list[Payload]:
        """The payloads that `data`, after everything fed before, completes.

        Raises:
            ProtocolError: the bytes are not frames, or a bound is exceeded. The decoder must not be fed again.
        """
        if self._pending:
            self._pending += data
            if len(self._pending) < self._need:
                return []
            data = bytes(self._pending)
            self._pending = bytearray()
        payloads: list[Payload] = []
        position = 0
        end = len(data)
        while end - position >= HEADER_BYTES:
            version, kind, flags, stream, group, length = _FIELDS.unpack_from(data, position)
            if version != MAGIC_AND_VERSION or stream > 1 or flags & ~_MORE or length > MAX_PART_BYTES:
                raise _bad_header(version, flags, stream, length)
            self._check_size(stream, length)
            stop = position + HEADER_BYTES + length
            if stop > end:
                self._need = stop - position
                break
            part = data[position + HEADER_BYTES : stop]
            found: int = google_crc32c.extend(google_crc32c.value(data[position : position + _FIELDS.size]), part)
            if (found,) != _CRC.unpack_from(data, position + _FIELDS.size):
                raise ProtocolError(f"a frame of {length} bytes has a wrong checksum: it was damaged on the way")
            position = stop
            self._collect(payloads, kind, stream, group, part, bool(flags & _MORE))
        else:
            self._need = HEADER_BYTES
        if position < end:
            self._pending = bytearray(data[position:] if position else data)
        return payloads

    def _check_size(self, stream: int, length: int) -> None:
        parts = self._parts[stream]
        size = length + (len(parts) if parts is not None else 0)
        if size > self.max_payload_bytes:
            raise ProtocolError(f"a payload has more than {self.max_payload_bytes} bytes")

    def _collect(self, payloads: list[Payload], kind: int, stream: int, group: int, part: bytes, more: bool) -> None:
        parts = self._parts[stream]
        if parts is None:
            if not more:
                payloads.append(Payload(kind, stream, group, part))
            elif not part:
                raise ProtocolError("a frame is empty although more of its payload follows")
            else:
                self._parts[stream] = bytearray(part)
                self._kinds[stream] = (kind, group)
            return
        if self._kinds[stream] != (kind, group) or not part:
            raise ProtocolError("a frame does not continue the payload before it on its stream")
        parts += part
        if not more:
            self._parts[stream] = None
            payloads.append(Payload(kind, stream, group, bytes(parts)))


def _bad_header(version: int, flags: int, stream: int, length: int) -> ProtocolError:
    if version >> 4 != MAGIC_AND_VERSION >> 4:
        return ProtocolError("the bytes are not raftkv's peer protocol; is a client talking to the peer port?")
    if version != MAGIC_AND_VERSION:
        return ProtocolError(f"a frame has layout version {version & 15}; this node knows version {MAGIC_AND_VERSION & 15}")
    if length > MAX_PART_BYTES:
        return ProtocolError(f"a frame claims {length} bytes; at most {MAX_PART_BYTES} are allowed")
    return ProtocolError(f"a frame has stream {stream} and flags {flags}, which this node does not know")
