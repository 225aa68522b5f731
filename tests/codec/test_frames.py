"""Frames: whole payloads in order, control before bulk, nothing damaged let through, everything bounded."""

from __future__ import annotations

import time
import tracemalloc
from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raftkv.codec.frames import (
    HEADER_BYTES,
    MAX_PART_BYTES,
    MAX_PAYLOAD_BYTES,
    FrameDecoder,
    FrameSender,
    Payload,
    Stream,
    encode_frame,
)
from raftkv.errors import ProtocolError
from tests.codec.cutting import cut, every_byte

CONTROL, BULK = Stream.CONTROL, Stream.BULK

sizes = st.sampled_from([0, 1, 100, MAX_PART_BYTES - 1, MAX_PART_BYTES, MAX_PART_BYTES + 1, 2 * MAX_PART_BYTES, 600_000])
payloads = st.lists(st.tuples(st.integers(0, 255), st.sampled_from(list(Stream)), sizes), max_size=6)


def decode(pieces: list[bytes], decoder: FrameDecoder | None = None) -> list[Payload]:
    decoder = decoder or FrameDecoder()
    return [payload for piece in pieces for payload in decoder.feed(piece)]


def frame(data: bytes, stream: int = BULK, more: bool = False, kind: int = 2, group: int = 0) -> bytes:
    return encode_frame(kind, stream, group, data, more)


@settings(max_examples=40, deadline=None)
@given(payloads, st.lists(st.integers(0, 1 << 22), max_size=5), st.sampled_from([1, 70_000, 1 << 20]))
def test_payloads_arrive_whole_and_in_order(wanted: list[tuple[int, Stream, int]], places: list[int], room: int) -> None:
    """Whatever the sizes, the pieces on the way, and how much is taken at a time: each stream delivers what was queued, in order."""
    sender = FrameSender(group=7, max_control_bytes=MAX_PAYLOAD_BYTES)
    contents = [(kind, stream, bytes([number]) * size) for number, (kind, stream, size) in enumerate(wanted)]
    for kind, stream, data in contents:
        assert sender.queue(kind, stream, data)
    taken = b""
    while sender:
        taken += sender.take(room)
    assert sender.queued_bytes == 0
    got = decode(cut(taken, places))
    for stream in Stream:
        assert [(p.kind, p.data) for p in got if p.stream == stream] == [(k, d) for k, s, d in contents if s == stream]
    assert all(payload.group == 7 for payload in got)


def test_one_byte_at_a_time() -> None:
    """A payload is complete with the last byte of its last frame and not before."""
    data = frame(b"ab", more=True) + frame(b"", CONTROL) + frame(b"cd")
    decoder = FrameDecoder()
    *before, last = every_byte(data)
    assert decode(before, decoder) == [Payload(2, CONTROL, 0, b"")]
    assert decoder.feed(last) == [Payload(2, BULK, 0, b"abcd")]


def control_delay(sender: FrameSender, room: int) -> int:
    """The bytes that leave between queueing a control payload behind 32 MiB of bulk and its arrival."""
    sender.queue(2, BULK, bytes(32 << 20))
    decoder = FrameDecoder()
    assert decoder.feed(sender.take(room)) == []
    sender.queue(2, CONTROL, b"heartbeat")
    delay = 0
    while sender:
        taken = sender.take(room)
        delay += len(taken)
        if any(payload.data == b"heartbeat" for payload in decoder.feed(taken)):
            return delay
    raise AssertionError("the heartbeat never arrived")


def test_control_overtakes_bulk() -> None:
    """A heartbeat queued behind 32 MiB leaves with the next bytes, in the middle of the large payload (hazard 62)."""
    assert control_delay(FrameSender(), MAX_PART_BYTES) <= MAX_PART_BYTES + 100


class OneQueue(FrameSender):
    """A planted fault: everything travels in the order in which it was queued."""

    def queue(self, kind: int, stream: Stream, data: bytes) -> bool:
        return super().queue(kind, BULK, data)


def test_a_sender_with_one_queue_is_caught() -> None:
    """The test above fails for a sender that keeps one order for everything."""
    assert control_delay(OneQueue(), MAX_PART_BYTES) > 30 << 20


def test_a_bulk_payload_goes_on_after_being_overtaken() -> None:
    """Frames of the two streams may alternate; each payload is put together from its own."""
    data = frame(b"a", more=True) + frame(b"x", CONTROL, more=True) + frame(b"b", more=True) + frame(b"y", CONTROL) + frame(b"c")
    assert [payload.data for payload in decode([data])] == [b"xy", b"abc"]


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=64), st.data())
def test_a_flipped_bit_is_refused(content: bytes, data: st.DataObject) -> None:
    """No bit of a frame can change unnoticed: it is refused, or the decoder waits for the rest of a longer frame."""
    original = frame(content)
    bit = data.draw(st.integers(0, len(original) * 8 - 1))
    damaged = bytearray(original)
    damaged[bit // 8] ^= 1 << bit % 8
    decoder = FrameDecoder()
    try:
        assert decoder.feed(bytes(damaged)) == []
    except ProtocolError:
        return
    assert 8 <= bit // 8 < 12, "only a changed length can make the decoder wait"
    with pytest.raises(ProtocolError):
        decoder.feed(bytes(2 * MAX_PART_BYTES))


def test_every_flipped_byte_is_refused() -> None:
    """The same for each byte of a frame, with another frame behind it."""
    original = frame(b"payload")
    for at in range(len(original)):
        damaged = bytearray(original + frame(bytes(MAX_PART_BYTES)))
        damaged[at] ^= 0xFF
        with pytest.raises(ProtocolError):
            decode([bytes(damaged)])


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=100), st.lists(st.integers(0, 200), max_size=3))
def test_noise_is_refused(data: bytes, places: list[int]) -> None:
    """Bytes that are not frames are an error or an unfinished frame, and never a payload or a crash."""
    with suppress(ProtocolError):
        assert decode(cut(data, places)) == []


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"*1\r\n$4\r\nPING\r\n*1\r\n", "not raftkv's peer protocol; is a client talking to the peer port"),
        (b"\xa2" + frame(b"")[1:], "layout version 2; this node knows version 1"),
        (frame(b"", 2), "stream 2"),
        (frame(b"")[:2] + b"\x02" + frame(b"")[3:], "flags 2"),
        (frame(b"")[:8] + b"\xff\xff\xff\xff" + frame(b"")[12:], "claims 4294967295 bytes"),
        (frame(b"a", more=True) + frame(b"b", kind=3), "does not continue"),
        (frame(b"a", more=True) + frame(b"b", group=3), "does not continue"),
        (frame(b"", more=True), "is empty although more"),
        (frame(b"a", more=True) + frame(b""), "does not continue"),
    ],
)
def test_violations_are_named(data: bytes, text: str) -> None:
    """The error says what was wrong, so that an operator knows where to look."""
    with pytest.raises(ProtocolError, match=text):
        decode([data])


def test_a_payload_beyond_the_bound_is_refused() -> None:
    """The bound holds for one frame, before its bytes have come, and for the sum of many."""
    with pytest.raises(ProtocolError, match="more than 4096 bytes"):
        decode([frame(bytes(4097))[:HEADER_BYTES]], FrameDecoder(4096))
    with pytest.raises(ProtocolError, match="more than 4096 bytes"):
        decode([frame(bytes(3000), more=True) + frame(bytes(3000))], FrameDecoder(4096))
    assert len(decode([frame(bytes(3000), more=True) + frame(bytes(1096))], FrameDecoder(4096))) == 1


def test_the_bound_may_grow() -> None:
    """After a handshake the large bound holds."""
    decoder = FrameDecoder(4096)
    decoder.max_payload_bytes = MAX_PAYLOAD_BYTES
    assert len(decoder.feed(frame(bytes(5000)))) == 1


def test_a_claimed_length_reserves_nothing() -> None:
    """A header that announces 256 KiB costs no memory until they come."""
    decoder = FrameDecoder()
    header = frame(bytes(MAX_PART_BYTES))[:HEADER_BYTES]
    tracemalloc.start()
    try:
        decoder.feed(header)
        assert tracemalloc.get_traced_memory()[1] < 8 * 1024
    finally:
        tracemalloc.stop()


def test_a_large_payload_in_small_pieces_takes_linear_work() -> None:
    """4 MiB in pieces of 10 bytes: copying what is there of a frame at each piece would move 100 GiB."""
    sender = FrameSender()
    sender.queue(2, BULK, bytes(4 << 20))
    decoder = FrameDecoder()
    started = time.process_time()
    got = 0
    while sender:
        taken = sender.take(1)
        for at in range(0, len(taken), 10):
            got += len(decoder.feed(taken[at : at + 10]))
    assert got == 1
    assert time.process_time() - started < 3


def test_queues_are_bounded_apart() -> None:
    """A full bulk queue refuses, keeps what it has, and leaves room for control; what is taken makes room again."""
    sender = FrameSender(max_control_bytes=100, max_bulk_bytes=1000)
    assert sender.queue(2, BULK, bytes(900))
    assert not sender.queue(2, BULK, bytes(200))
    assert sender.queue(2, CONTROL, bytes(90))
    assert not sender.queue(2, CONTROL, bytes(20))
    assert sender.queued_bytes == 990
    assert [len(payload.data) for payload in decode([sender.take(1 << 20)])] == [90, 900]
    assert sender.queue(2, BULK, bytes(200))


def test_one_payload_larger_than_the_bound_is_taken() -> None:
    """An empty queue takes a payload of any size, so that nothing waits for ever for room."""
    sender = FrameSender(max_bulk_bytes=1000)
    assert sender.queue(2, BULK, bytes(5000))
    assert not sender.queue(2, BULK, b"x")


def test_what_no_receiver_takes_is_not_queued() -> None:
    """A payload beyond MAX_PAYLOAD_BYTES is the sender's error."""
    with pytest.raises(ValueError, match="at most"):
        FrameSender().queue(2, BULK, bytes(MAX_PAYLOAD_BYTES + 1))


def test_the_largest_payload_travels() -> None:
    """What the sender takes, the receiver takes."""
    sender = FrameSender()
    sender.queue(2, BULK, bytes(MAX_PAYLOAD_BYTES))
    decoder = FrameDecoder()
    got: list[Payload] = []
    while sender:
        got += decoder.feed(sender.take(1 << 20))
    assert [len(payload.data) for payload in got] == [MAX_PAYLOAD_BYTES]
