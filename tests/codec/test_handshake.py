"""The handshake: both sides prove the secret, everything else is refused with a reason, and nothing is believed too early."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raftkv.codec.frames import FrameDecoder, Payload, Stream, encode_frame
from raftkv.codec.handshake import (
    KIND_HANDSHAKE,
    KIND_VALUE,
    MAX_HANDSHAKE_BYTES,
    NONCE_BYTES,
    PROTOCOL_VERSION,
    Handshake,
    Hello,
    Proof,
    Refuse,
    Welcome,
)

SECRET = b"a secret of the cluster"


def hello(name: str, **changes: object) -> Hello:
    number = int(name[1:])
    own = Hello(PROTOCOL_VERSION, b"c" * 16, name, 100 + number, 7, 0, f"h:{number}", f"h:10{number}", bytes([number]) * NONCE_BYTES)
    return msgspec.structs.replace(own, **changes)


def admit_all(_: Hello) -> str | None:
    return None


def dialer(
    own: Hello | None = None, secret: bytes = SECRET, dialed: str = "n2", admit: Callable[[Hello], str | None] = admit_all
) -> Handshake:
    return Handshake(own or hello("n1"), secret, dialed, admit)


def acceptor(own: Hello | None = None, secret: bytes = SECRET, admit: Callable[[Hello], str | None] = admit_all) -> Handshake:
    return Handshake(own or hello("n2"), secret, None, admit)


def payload(data: bytes) -> Payload:
    (found,) = FrameDecoder(MAX_HANDSHAKE_BYTES).feed(data)
    return found


def step(value: object) -> Payload:
    return Payload(KIND_HANDSHAKE, Stream.CONTROL, 0, msgspec.msgpack.encode(value))


def run(one: Handshake, other: Handshake) -> list[type]:
    """Let `one`, the dialer, and `other` talk until nobody says anything; what was said, in order."""
    said: list[type] = []
    data, hearer, speaker = one.begin(), other, one
    while data:
        heard = payload(data)
        said.append(type(msgspec.msgpack.decode(heard.data, type=Hello | Proof | Welcome | Refuse)))
        data = hearer.receive(heard)
        hearer, speaker = speaker, hearer
    return said


def test_both_sides_learn_who_the_other_is() -> None:
    """After four messages each side has the other's Hello, and neither has it before it has the proof."""
    one, other = dialer(), acceptor()
    assert run(one, other) == [Hello, Hello, Proof, Welcome]
    assert (one.refusal, other.refusal) == (None, None)
    assert one.peer == hello("n2", to="n1")
    assert other.peer == hello("n1", to="n2")


def test_nobody_is_believed_before_the_proof() -> None:
    """`peer` stays None at the acceptor until the Proof, and at the dialer until the Welcome."""
    one, other = dialer(), acceptor()
    answer = other.receive(payload(one.begin()))
    assert other.peer is None
    proof = one.receive(payload(answer))
    assert one.peer is None
    welcome = other.receive(payload(proof))
    assert other.peer is not None
    assert one.peer is None
    one.receive(payload(welcome))
    assert one.peer is not None


@pytest.mark.parametrize(
    ("one", "other", "text"),
    [
        (dialer(hello("n1", protocol=2)), acceptor(), "version 2"),
        (dialer(hello("n1", cluster_id=b"d" * 16)), acceptor(), "belongs to cluster 6464"),
        (dialer(hello("n1", group=1)), acceptor(), "means group 1"),
        (dialer(hello("n2"), dialed="n3"), acceptor(), "both sides say that they are node n2"),
        (dialer(dialed="n3"), acceptor(), "node n3 was meant, and this is node n2"),
        (dialer(secret=b"another secret"), acceptor(), "the proof is wrong"),
        (dialer(secret=b""), acceptor(), "the proof is wrong"),
        (dialer(), acceptor(admit=lambda peer: f"{peer.node} is unknown"), "n1 is unknown"),
        (dialer(admit=lambda peer: f"{peer.node} is unknown"), acceptor(), "n2 is unknown"),
    ],
)
def test_refusals_are_told_to_both_sides(one: Handshake, other: Handshake, text: str) -> None:
    """Whoever objects says why, the other side hears it, and neither believes anything."""
    assert run(one, other)[-1] is Refuse
    assert (one.peer, other.peer) == (None, None)
    assert text in str(one.refusal)
    assert text in str(other.refusal)
    assert ["refused by the other side" in str(side.refusal) for side in (one, other)].count(True) == 1


def test_an_acceptor_without_the_secret_is_refused() -> None:
    """The dialer does not take a Welcome on trust: an impostor who lets everybody in proves nothing."""
    one, impostor = dialer(), acceptor(secret=b"a guess")
    proof = one.receive(payload(impostor.receive(payload(one.begin()))))
    assert payload(proof).kind == KIND_HANDSHAKE
    one.receive(step(Welcome(b"\0" * 32)))
    assert one.peer is None
    assert "the proof is wrong" in str(one.refusal)


def test_a_proof_cannot_be_played_back_to_its_maker() -> None:
    """An acceptor that answers the dialer's own proof, having no secret, is refused: the roles are under the proof."""
    one, impostor = dialer(), acceptor(secret=b"a guess")
    proof = payload(one.receive(payload(impostor.receive(payload(one.begin())))))
    mac = msgspec.msgpack.decode(proof.data, type=Proof).mac
    one.receive(step(Welcome(mac)))
    assert one.peer is None


def test_a_recorded_handshake_is_of_no_use() -> None:
    """What a dialer said once does not open another connection: the acceptor's nonce is fresh."""
    one, other = dialer(), acceptor()
    recorded_hello = payload(one.begin())
    recorded_proof = payload(one.receive(payload(other.receive(recorded_hello))))
    later = acceptor(hello("n2", nonce=b"f" * NONCE_BYTES))
    later.receive(recorded_hello)
    later.receive(recorded_proof)
    assert later.peer is None
    assert "the proof is wrong" in str(later.refusal)


@pytest.mark.parametrize("field", ["cluster_id", "node", "incarnation", "boot", "client_address", "peer_address", "nonce"])
def test_the_proof_covers_every_fact(field: str) -> None:
    """A Hello that was changed on the way makes the proof wrong."""
    changed: dict[str, object] = {
        "cluster_id": b"c" * 16 + b"c",
        "node": "n9",
        "incarnation": 1,
        "boot": 1,
        "client_address": "evil:1",
        "peer_address": "evil:2",
        "nonce": b"9" * NONCE_BYTES,
    }
    one = dialer()
    other = acceptor(hello("n2", cluster_id=changed["cluster_id"]) if field == "cluster_id" else None)
    said = msgspec.msgpack.decode(payload(one.begin()).data, type=Hello)
    answer = other.receive(step(msgspec.structs.replace(said, **{field: changed[field]})))
    heard = msgspec.msgpack.decode(payload(answer).data, type=Hello)
    proof = one.receive(step(msgspec.structs.replace(heard, to="n1", cluster_id=b"c" * 16)))
    other.receive(payload(proof))
    assert other.peer is None


@pytest.mark.parametrize(
    ("make", "said", "text"),
    [
        (acceptor, step(Proof(b"x")), "expected Hello and got Proof"),
        (acceptor, step(Welcome(b"x")), "expected Hello and got Welcome"),
        (dialer, step(Proof(b"x")), "expected Hello and got Proof"),
        (acceptor, Payload(KIND_VALUE, 0, 0, b""), "before the handshake was complete"),
        (acceptor, Payload(KIND_HANDSHAKE, 0, 0, b"\xc1"), "not a handshake"),
        (acceptor, Payload(KIND_HANDSHAKE, 0, 0, b""), "not a handshake"),
        (acceptor, Payload(KIND_HANDSHAKE, 0, 0, b"\x92\x33\xa1\x80"), "not a handshake"),
        (acceptor, step(hello("n1", nonce=b"short")), "not a handshake"),
        (acceptor, step(hello("n1", client_address="h" * 301)), "not a handshake"),
        (acceptor, step(hello("n1", boot=-1)), "not a handshake"),
    ],
)
def test_what_does_not_belong_is_refused(make: Callable[[], Handshake], said: Payload, text: str) -> None:
    """A message of the wrong kind, at the wrong time or out of bounds is refused, and nothing is believed."""
    side = make()
    side.begin()
    answer = side.receive(said)
    assert text in str(side.refusal)
    assert side.peer is None
    assert isinstance(msgspec.msgpack.decode(payload(answer).data, type=Refuse), Refuse)


def test_a_second_hello_is_refused() -> None:
    """Each message is taken once: facts cannot be replaced after they were checked."""
    one, other = dialer(), acceptor()
    first = payload(one.begin())
    other.receive(first)
    other.receive(first)
    assert "expected Proof and got Hello" in str(other.refusal)


def test_nothing_is_taken_after_the_end() -> None:
    """A completed or refused handshake refuses whatever comes."""
    one, other = dialer(), acceptor()
    run(one, other)
    other.receive(step(Proof(b"x")))
    assert "expected nothing" in str(other.refusal)


def test_a_refusal_of_the_caller() -> None:
    """A caller may end a handshake for its own reason, which the other side hears."""
    one, other = dialer(), acceptor()
    one.receive(payload(other.refuse("too many connections")))
    assert one.refusal == "refused by the other side: too many connections"


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=200), st.booleans())
def test_noise_is_refused(data: bytes, dialing: bool) -> None:
    """No bytes crash a handshake or complete it."""
    side = dialer() if dialing else acceptor()
    side.begin()
    side.receive(Payload(KIND_HANDSHAKE, Stream.CONTROL, 0, data))
    assert side.peer is None
    assert side.refusal is not None


def test_messages_fit_their_bound() -> None:
    """The largest Hello and the longest reason are within what the other side takes before a handshake."""
    large = Hello(1, b"c" * 64, "n" * 63, (1 << 63) - 1, (1 << 63) - 1, 0, "é" * 300, "é" * 300, b"n" * NONCE_BYTES)
    side = Handshake(large, SECRET, "m" * 63, admit_all)
    assert len(side.begin()) < MAX_HANDSHAKE_BYTES
    assert len(side.refuse("é" * 5000)) < MAX_HANDSHAKE_BYTES
    assert len(encode_frame(KIND_HANDSHAKE, Stream.CONTROL, 0, b"", False)) == 16
