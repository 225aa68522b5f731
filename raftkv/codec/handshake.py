"""The handshake: two nodes prove to each other, before anything else is said, that they belong to the same cluster.

::

    dialer                                   acceptor
      | -- Hello(facts, nonce, to) ---------> |   checks version, cluster, group, names
      | <--------- Hello(facts, nonce, to) -- |
      | -- Proof(mac as dialer) ------------> |   checks the proof
      | <------------ Welcome(mac as acceptor)|   the connection is open
      either side at any step: Refuse(reason), then the connection is closed

A proof is an HMAC-SHA256 with the cluster secret over the role of its maker and both Hellos, byte for byte: so over both nonces,
names, incarnations, boots and addresses. A recorded proof is of no use for another connection, and neither side's can be played
back as the other's. Proofs are compared in constant time. What always holds:

- `peer` is None until everything was proved; nothing that the other side said is to be acted on before.
- Each side takes exactly one message of each kind, in this order; anything else is refused.
- A message is bounded by MAX_HANDSHAKE_BYTES, and each field of it by its own bound.

Without a secret the key is empty and the proof proves nothing: such a node must talk on loopback only, which settings see to. After
the handshake nothing encrypts or authenticates the frames; whoever can change packets on the way needs TLS against him.

There are no sockets, clocks and random numbers here: the nonce comes with the own Hello, and timeouts are the caller's.
"""

from __future__ import annotations

import enum
import hashlib
import hmac
from collections.abc import Callable
from typing import Annotated

import msgspec
from msgspec import Meta, Struct

from raftkv.codec.frames import Payload, Stream, encode_frame
from raftkv.raft.types import Incarnation, NodeId

PROTOCOL_VERSION = 1
KIND_HANDSHAKE = 1
KIND_VALUE = 2
NONCE_BYTES = 32
MAX_HANDSHAKE_BYTES = 4096

_Text = Annotated[str, Meta(max_length=300)]
_Natural = Annotated[int, Meta(ge=0, le=(1 << 63) - 1)]
_Nonce = Annotated[bytes, Meta(min_length=NONCE_BYTES, max_length=NONCE_BYTES)]
_Mac = Annotated[bytes, Meta(max_length=64)]


class Hello(Struct, frozen=True, array_like=True, tag=48):
    """Who I am. `boot` grows with each start of the node's process. `to` names the node that I believe to talk to."""

    protocol: _Natural
    cluster_id: Annotated[bytes, Meta(max_length=64)]
    node: Annotated[NodeId, Meta(max_length=63)]
    incarnation: Incarnation
    boot: _Natural
    group: _Natural
    client_address: _Text
    peer_address: _Text
    nonce: _Nonce
    to: Annotated[NodeId, Meta(max_length=63)] = ""


class Proof(Struct, frozen=True, array_like=True, tag=49):
    """I, the dialer, know the secret."""

    mac: _Mac


class Welcome(Struct, frozen=True, array_like=True, tag=50):
    """So do I, the acceptor; the connection is open."""

    mac: _Mac


class Refuse(Struct, frozen=True, array_like=True, tag=51):
    """I will not talk to you."""

    reason: Annotated[str, Meta(max_length=1000)]


_Step = Hello | Proof | Welcome | Refuse
_encoder = msgspec.msgpack.Encoder()
_decoder: msgspec.msgpack.Decoder[_Step] = msgspec.msgpack.Decoder(_Step)


class _Awaits(enum.Enum):
    HELLO = "Hello"
    PROOF = "Proof"
    WELCOME = "Welcome"
    NOTHING = "nothing"


class Handshake:
    """One side of one handshake.

    Args:
        own: this node's Hello, with a fresh nonce of NONCE_BYTES random bytes; `to` is filled in here.
        secret: the cluster's secret; empty proves nothing.
        dialed: the node that was dialed, or None at the acceptor.
        admit: asked about the other side's Hello; a reason to refuse it, or None.
    """

    def __init__(self, own: Hello, secret: bytes, dialed: NodeId | None, admit: Callable[[Hello], str | None]) -> None:
        self.refusal: str | None = None
        """Why the connection has to be closed, once it has to be (after sending what `begin` or `receive` returned)."""
        self.peer: Hello | None = None
        """The other side, once it has proved itself."""
        self._own = own
        self._secret = secret
        self._dialed = dialed
        self._admit = admit
        self._awaits = _Awaits.HELLO
        self._candidate: Hello | None = None
        self._own_bytes = b""
        self._transcript = b""

    def begin(self) -> bytes:
        """What to send when the connection is there: the dialer's Hello, or nothing."""
        return b"" if self._dialed is None else self._say_hello(self._dialed)

    def refuse(self, reason: str) -> bytes:
        """End the handshake for a reason of the caller's. What to send before closing."""
        self.refusal = reason
        self._awaits = _Awaits.NOTHING
        return self._frame(Refuse(reason[:1000]))

    def receive(self, payload: Payload) -> bytes:
        """The other side sent `payload`. What to send; then look at `refusal` and `peer`."""
        if payload.kind != KIND_HANDSHAKE:
            return self.refuse("something was sent before the handshake was complete")
        try:
            step = _decoder.decode(payload.data)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            return self.refuse(f"not a handshake of this protocol: {error}")
        if isinstance(step, Refuse):
            self.refusal = f"refused by the other side: {step.reason}"
            self._awaits = _Awaits.NOTHING
            return b""
        if type(step).__name__ != self._awaits.value:
            return self.refuse(f"the handshake expected {self._awaits.value} and got {type(step).__name__}")
        if isinstance(step, Hello):
            return self._on_hello(step, payload.data)
        return self._on_proof(step.mac)

    def _on_hello(self, hello: Hello, encoded: bytes) -> bytes:
        reason = self._objection(hello)
        if reason is not None:
            return self.refuse(reason)
        self._candidate = hello
        if self._dialed is None:
            answer = self._say_hello(hello.node)
            self._transcript = _digest(encoded, self._own_bytes)
            self._awaits = _Awaits.PROOF
            return answer
        self._transcript = _digest(self._own_bytes, encoded)
        self._awaits = _Awaits.WELCOME
        return self._frame(Proof(self._mac(b"dialer")))

    def _on_proof(self, mac: bytes) -> bytes:
        acceptor = self._dialed is None
        if not hmac.compare_digest(mac, self._mac(b"dialer" if acceptor else b"acceptor")):
            return self.refuse("the proof is wrong: do both nodes have the same cluster secret?")
        self._awaits = _Awaits.NOTHING
        self.peer = self._candidate
        return self._frame(Welcome(self._mac(b"acceptor"))) if acceptor else b""

    def _objection(self, hello: Hello) -> str | None:
        """A reason not to talk to whoever said `hello`, or None."""
        own = self._own
        if hello.protocol != own.protocol:
            return f"node {hello.node} speaks version {hello.protocol} of the peer protocol; node {own.node} speaks {own.protocol}"
        if hello.cluster_id != own.cluster_id:
            return (
                f"node {hello.node} belongs to cluster {hello.cluster_id.hex()}; node {own.node} to {own.cluster_id.hex()}: "
                "their names or their initial members differ"
            )
        if hello.group != own.group:
            return f"node {hello.node} means group {hello.group}; node {own.node} hosts group {own.group}"
        if hello.node == own.node:
            return f"both sides say that they are node {own.node}"
        if self._dialed not in (None, hello.node):
            return f"node {self._dialed} was dialed and node {hello.node} answered: is an address wrong?"
        if hello.to != own.node:
            return f"node {hello.to} was meant, and this is node {own.node}: is an address wrong?"
        return self._admit(hello)

    def _say_hello(self, to: NodeId) -> bytes:
        self._own_bytes = _encoder.encode(msgspec.structs.replace(self._own, to=to))
        return encode_frame(KIND_HANDSHAKE, Stream.CONTROL, self._own.group, self._own_bytes, False)

    def _mac(self, role: bytes) -> bytes:
        return hmac.digest(self._secret, b"raftkv peer " + role + b" " + self._transcript, "sha256")

    def _frame(self, step: _Step) -> bytes:
        return encode_frame(KIND_HANDSHAKE, Stream.CONTROL, self._own.group, _encoder.encode(step), False)


def _digest(dialer: bytes, acceptor: bytes) -> bytes:
    """Both Hellos, each hashed, so that no byte of one can pass for a byte of the other."""
    return hashlib.sha256(dialer).digest() + hashlib.sha256(acceptor).digest()
