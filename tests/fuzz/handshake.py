"""The handshake: what a stranger says on the peer port, and what a node that was dialed answers.

An input is three messages: what the acceptor gets first and second, and what the dialer gets. The nonces of the target are fixed, so
there is one conversation that succeeds, and it is among the seeds.
"""

from __future__ import annotations

from raftkv.codec.frames import FrameDecoder, Payload
from raftkv.codec.handshake import KIND_HANDSHAKE, MAX_HANDSHAKE_BYTES, PROTOCOL_VERSION, Handshake, Hello
from tests.fuzz.checks import Recipe, bounded, expect, piece
from tests.fuzz.target import Target

SECRET = b"a secret of the fuzz"


def hello(node: str, nonce: int) -> Hello:
    """What `node` says first."""
    return Hello(PROTOCOL_VERSION, b"cluster", node, 5, 1, 0, "127.0.0.1:1", "127.0.0.1:2", bytes([nonce]) * 32)


def sides() -> tuple[Handshake, Handshake]:
    """A dialer n2 and an acceptor n1."""
    return Handshake(hello("n2", 2), SECRET, "n1", lambda _: None), Handshake(hello("n1", 1), SECRET, None, lambda _: None)


def payloads(sent: bytes) -> list[bytes]:
    """What is in the frames that a side sent."""
    return [payload.data for payload in FrameDecoder(MAX_HANDSHAKE_BYTES).feed(sent)]


def conversation() -> tuple[list[bytes], list[bytes]]:
    """What the acceptor gets, and the dialer, when all goes well."""
    dialer, acceptor = sides()
    to_acceptor = payloads(dialer.begin())
    to_dialer: list[bytes] = []
    for turn in range(2):
        to_dialer += payloads(acceptor.receive(Payload(KIND_HANDSHAKE, 0, 0, to_acceptor[turn])))
        if turn == 0:
            to_acceptor += payloads(dialer.receive(Payload(KIND_HANDSHAKE, 0, 0, to_dialer[0])))
    return to_acceptor, to_dialer


_TO_ACCEPTOR, _TO_DIALER = conversation()


def run(data: bytes) -> None:
    """Nobody who does not know the secret gets in, an answer is bounded, and a refused side stays refused."""
    recipe = Recipe(data)
    first, second = recipe.piece(), recipe.piece()
    third, fourth = recipe.piece(), recipe.piece()
    dialer, acceptor = sides()
    dialer.begin()
    bounded(data, lambda: talk(acceptor, [first, second], _TO_ACCEPTOR), steps=3000, peak_bytes=100_000 + 30 * len(data))
    talk(dialer, [third, fourth], _TO_DIALER)


def talk(side: Handshake, messages: list[bytes], honest: list[bytes]) -> None:
    """Give `messages` to `side`."""
    for message in messages:
        refused = side.refusal is not None
        answer = side.receive(Payload(KIND_HANDSHAKE, 0, 0, message))
        expect(len(answer) <= MAX_HANDSHAKE_BYTES + 16, f"an answer has {len(answer)} bytes")
        for sent in payloads(answer):
            expect(len(sent) <= MAX_HANDSHAKE_BYTES, "an answer is too large for the other side")
        if refused:
            expect(side.refusal is not None, "a refusal is taken back")
    if side.peer is not None:
        expect(messages == honest, "a stranger got in")
        expect(side.peer.node in ("n1", "n2"), "another name was proved")


def seeds() -> list[bytes]:
    """The conversation that succeeds, and parts of it."""
    whole = b"".join(map(piece, (*_TO_ACCEPTOR, *_TO_DIALER)))
    refuse = piece(b"\x92\x33\xa3why")
    return [whole, piece(_TO_ACCEPTOR[0]), refuse * 4, piece(b"") * 2 + piece(_TO_DIALER[0]) + refuse]


TARGET = Target("handshake", run, seeds)
