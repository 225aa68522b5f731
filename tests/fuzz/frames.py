"""Frames between nodes: bytes of a connection to payloads."""

from __future__ import annotations

import struct
from collections.abc import Iterable
from random import Random

import google_crc32c

from raftkv.codec.frames import HEADER_BYTES, MAX_PART_BYTES, FrameDecoder, FrameSender, Payload, Stream, encode_frame
from raftkv.errors import ProtocolError
from tests.fuzz.checks import bounded, expect, splits
from tests.fuzz.target import Target

MAX_BYTES = 4096
"""What a node takes before it knows who is speaking."""

_FIELDS = struct.Struct(">BBBBII")


def decode(pieces: Iterable[bytes]) -> tuple[list[Payload], str]:
    """The payloads, and the error that ended them."""
    decoder = FrameDecoder(MAX_BYTES)
    found: list[Payload] = []
    try:
        for piece in pieces:
            found += decoder.feed(piece)
    except ProtocolError as error:
        return found, str(error)
    return found, ""


def run(data: bytes) -> None:
    """The same payloads however the bytes are cut, none above the bound, and encoded again they are decoded to themselves."""
    whole, problem = bounded(data, lambda: decode([data]), steps=200 + 3 * len(data), peak_bytes=20_000 + 40 * len(data))
    for pieces in splits(data)[1:]:
        found, error = decode(pieces)
        # An error takes with it the payloads of the piece that it is found in, so fewer are seen when the pieces are large.
        expect(error == problem, f"cut, the error is {error!r}; whole, it is {problem!r}")
        expect(found[: len(whole)] == whole and (bool(problem) or found == whole), "the payloads depend on the pieces")
    for payload in whole:
        expect(len(payload.data) <= MAX_BYTES, "a payload is above the bound")
    if not problem:
        expect(decode([data, b"\0" * HEADER_BYTES])[0][: len(whole)] == whole, "what follows changes the payloads before it")
    for group in {payload.group for payload in whole}:
        sender = FrameSender(group)
        sent = [payload for payload in whole if payload.group == group]
        for payload in sent:
            expect(sender.queue(payload.kind, Stream(payload.stream), payload.data), "a queue is full")
        taken: list[bytes] = []
        while sender:
            taken.append(sender.take(1000))
        again, error = decode(taken)
        expect(not error, error)
        for stream in Stream:
            expect([p for p in again if p.stream == stream] == [p for p in sent if p.stream == stream], "another encoding, another value")


def repair(data: bytes, rng: Random) -> bytes:
    """`data` with the checksum of every frame set right, as far as its lengths lead. A frame that is not followed by another one may
    get a length that makes it the last."""
    fixed = bytearray(data)
    position = 0
    while position + HEADER_BYTES <= len(fixed):
        length = _FIELDS.unpack_from(fixed, position)[5]
        stop = position + HEADER_BYTES + length
        if fixed[stop : stop + 1] != b"\xa1" and rng.getrandbits(1):
            length = len(fixed) - position - HEADER_BYTES
            struct.pack_into(">I", fixed, position + 8, length)
            stop = len(fixed)
        if length > MAX_PART_BYTES or stop > len(fixed):
            break
        covered = bytes(fixed[position : position + _FIELDS.size] + fixed[position + HEADER_BYTES : stop])
        struct.pack_into(">I", fixed, position + _FIELDS.size, google_crc32c.value(covered))
        position = stop
    return bytes(fixed)


def seeds() -> list[bytes]:
    """Frames of both streams, whole and in parts."""
    one = encode_frame(2, 0, 0, b"small", False)
    parts = [encode_frame(2, 1, 7, b"part %d" % number, number < 3) for number in range(4)]
    return [
        one, b"".join(parts), parts[0] + one + parts[1] + one + parts[2] + parts[3], one + parts[0], one[:10],
        encode_frame(1, 0, 0, bytes(MAX_BYTES), False), encode_frame(2, 1, 0, bytes(4000), True) + encode_frame(2, 1, 0, bytes(96), False),
        encode_frame(2, 1, 0, b"", False), b"*1\r\n$4\r\nPING\r\n" * 2,
    ]  # fmt: skip


TARGET = Target("frames", run, seeds, repair, 8192)
