"""Moving a snapshot from a leader to a node that needs one, in chunks that the receiver asks for.

The receiver pulls: it asks for one chunk at a time, a few at once, so that it is never sent more than it can write; the sender answers
within a byte budget, so that a transfer does not starve the nodes' other work. While the receiver has nothing to ask for because it
writes or verifies what it has, it says that this moves on, so that a large state on a slow disk is not taken for a dead peer. A transfer
that is interrupted begins where it stopped: the staging area keeps what has arrived, and an offer of the same snapshot finds it. A
checkpoint is made once and serves every peer that needs it at the same time; while it is being sent, the log behind it must stay
(`floor`). Nothing of a state that has turned out to be wrong is sent from then on, nor kept to be sent later (`distrust`).

A transfer may fail for many reasons, and the next one may succeed. An error of the disk is none of them: it is raised, and the node
stops.

Nothing here touches a disk or a socket: files are behind `StateDirectory`, whose methods run in the background; frames leave through
`send`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import TypeVar

import structlog

from raftkv.codec.peer import SnapshotChunk, SnapshotDone, SnapshotOffer, SnapshotWant
from raftkv.errors import Corrupt, DiskFull, ProtocolError, Unavailable
from raftkv.raft.messages import InstallSnapshot
from raftkv.raft.types import Index, NodeId
from raftkv.storage.checkpoint import StateCheckpoint, StateDirectory
from raftkv.storage.staging import Staging

CHUNK_BYTES = 256 << 10
"""The size of one chunk; the last of a file may be shorter."""

CHUNKS_ASKED = 8
"""How many chunks a receiver has asked for and not got."""

ASK_AGAIN_MS = 1_000
"""A receiver that hears nothing for so long asks again."""

GIVE_UP_MS = 15_000
"""A transfer in which nothing moved for so long has failed; the leader starts another when it is still needed."""

KEEP_MS = 60_000
"""A checkpoint whose transfer was interrupted is kept for so long, so that the transfer can go on where it was."""

_Result = TypeVar("_Result")
Background = Callable[[Callable[[], _Result], Callable[[_Result | BaseException], None]], None]


class _Outgoing:
    """One peer's transfer, at the sender."""

    def __init__(self, message: InstallSnapshot) -> None:
        self.message = message
        self.checkpoint: StateCheckpoint | None = None
        self.wants: deque[SnapshotWant] = deque()
        self.quiet_ms = 0


class SnapshotSender:
    """Sends checkpoints to peers that need them.

    Args:
        state: where checkpoints come from.
        background: runs blocking work.
        send: sends a frame to a peer.
        finished: told (peer, ok) when a transfer has ended.
        bytes_per_second: the budget for all transfers together.
    """

    def __init__(
        self,
        state: StateDirectory,
        background: Background,  # type: ignore[type-arg]
        send: Callable[[NodeId, object], bool],
        finished: Callable[[NodeId, bool], None],
        bytes_per_second: int,
    ) -> None:
        self._state = state
        self._background = background
        self._send = send
        self._finished = finished
        self._bytes_per_second = bytes_per_second
        self._budget = bytes_per_second // 10
        self._outgoing: dict[NodeId, _Outgoing] = {}
        self._checkpoint: StateCheckpoint | None = None
        self._making = False
        self._distrusted = False  # what is being made is not to be sent
        self._doubted = False
        """A peer found that the checkpoint differs from what was offered: perhaps it has rotted, so it is not offered again."""
        self._keep_ms = 0
        self._events = structlog.get_logger("raftkv")

    @property
    def floor(self) -> Index | None:
        """The log must keep everything after this index, for a peer that is receiving a snapshot at it. None: no transfer runs."""
        if not self._outgoing:
            return None
        return self._checkpoint.meta.index if self._checkpoint is not None else 0

    def start(self, message: InstallSnapshot) -> None:
        """A peer needs a snapshot at or after `message.snapshot.index`. Does nothing while one is on its way to it."""
        if message.to in self._outgoing:
            return
        transfer = _Outgoing(message)
        self._outgoing[message.to] = transfer
        if self._checkpoint is not None and not self._doubted and self._checkpoint.meta.index >= message.snapshot.index:
            self._offer(transfer, self._checkpoint)
        elif not self._making:
            self._make()

    def wanted(self, peer: NodeId, want: SnapshotWant) -> None:
        """`peer` asks for a chunk, or says that it is at work."""
        transfer = self._outgoing.get(peer)
        if transfer is None or transfer.checkpoint is None or transfer.checkpoint.name != want.id:
            self._send(peer, SnapshotDone(want.id, False, "the snapshot is no longer offered"))
            return
        if want.size and len(transfer.wants) < 2 * CHUNKS_ASKED:
            transfer.wants.append(want)
        transfer.quiet_ms = 0
        self._serve(peer, transfer)

    def done(self, peer: NodeId, done: SnapshotDone) -> None:
        """`peer` has everything, or has given up."""
        transfer = self._outgoing.get(peer)
        if transfer is not None and transfer.checkpoint is not None and transfer.checkpoint.name == done.id:
            self._events.info("snapshot_sent", to=peer, ok=done.ok, reason=done.reason, index=transfer.checkpoint.meta.index)
            # A peer that is busy or has no space says so again and again: a new checkpoint each time would help nobody.
            self._doubted |= done.differs and transfer.checkpoint is self._checkpoint
            self._end(peer, done.ok)

    def peer_lost(self, peer: NodeId) -> None:
        """The connection to `peer` broke."""
        self._end(peer, False)

    def stop_all(self) -> None:
        """This node leads no more."""
        for peer in sorted(self._outgoing):
            self._end(peer, False)

    def distrust(self) -> None:
        """The state here is wrong: end all transfers, and remove what was made of it, also what is being made at this moment. A
        transfer that is started later gets a checkpoint of the state that is live then."""
        self.stop_all()
        self._distrusted = self._making
        self._discard()

    def tick(self, elapsed_ms: int) -> None:
        """Time has passed: the budget fills up, silent transfers end, and so does the wait for those that broke off."""
        if self._keep_ms > 0 and not self._outgoing:
            self._keep_ms -= elapsed_ms
            self._release()
        self._budget = min(self._budget + self._bytes_per_second * elapsed_ms // 1000, self._bytes_per_second // 10)
        for peer, transfer in sorted(self._outgoing.items()):
            if transfer.checkpoint is not None:  # one of a large state takes its time to make
                transfer.quiet_ms += elapsed_ms
            if transfer.quiet_ms > GIVE_UP_MS:
                self._events.warning("snapshot_abandoned", to=peer)
                self._end(peer, False)
            else:
                self._serve(peer, transfer)

    def _make(self) -> None:
        self._making = True
        self._background(self._state.checkpoint, self._made)

    def _made(self, result: StateCheckpoint | BaseException) -> None:
        self._making = False
        distrusted, self._distrusted = self._distrusted, False
        if isinstance(result, DiskFull):
            self._events.warning("checkpoint_failed", reason=str(result))
            self.stop_all()
            return
        if isinstance(result, BaseException):
            raise result
        if distrusted:
            self._background(result.discard, _raise_error)
            if self._outgoing:
                self._make()
            return
        old, self._checkpoint = self._checkpoint, result
        self._doubted = False
        if old is not None and not any(transfer.checkpoint is old for transfer in self._outgoing.values()):
            self._background(old.discard, _raise_error)
        for _, transfer in sorted(self._outgoing.items()):
            if transfer.checkpoint is None:
                self._offer(transfer, result)
        self._release()

    def _offer(self, transfer: _Outgoing, checkpoint: StateCheckpoint) -> None:
        transfer.checkpoint = checkpoint
        asked = transfer.message
        message = InstallSnapshot(asked.sender, asked.to, asked.term, asked.incarnation, checkpoint.meta)
        if self._send(asked.to, SnapshotOffer(checkpoint.name, message, tuple(checkpoint.files))):
            self._events.info("snapshot_offered", to=asked.to, index=checkpoint.meta.index, bytes=sum(f.size for f in checkpoint.files))
        else:  # it may have asked before the connection to it broke: what it asks when it is back must not find a transfer under way
            self._end(asked.to, False)

    def _serve(self, peer: NodeId, transfer: _Outgoing) -> None:
        checkpoint = transfer.checkpoint
        while checkpoint is not None and transfer.wants and self._budget > 0:
            want = transfer.wants.popleft()
            if not 0 <= want.file < len(checkpoint.files) or not 0 < want.size <= CHUNK_BYTES:
                continue
            if not 0 <= want.offset <= checkpoint.files[want.file].size - want.size:
                continue
            self._budget -= want.size
            self._background(_chunk_reader(checkpoint, want), self._chunk_sender(peer, checkpoint, want))

    def _chunk_sender(self, peer: NodeId, checkpoint: StateCheckpoint, want: SnapshotWant) -> Callable[[bytes | BaseException], None]:
        def send(data: bytes | BaseException) -> None:
            transfer = self._outgoing.get(peer)
            if transfer is None or transfer.checkpoint is not checkpoint:
                return
            if isinstance(data, BaseException):
                raise data
            self._send(peer, SnapshotChunk(checkpoint.name, want.file, want.offset, data))

        return send

    def _end(self, peer: NodeId, ok: bool) -> None:
        if self._outgoing.pop(peer, None) is not None:
            self._keep_ms = 0 if ok or self._doubted else KEEP_MS
            self._finished(peer, ok)
            self._release()

    def _release(self) -> None:
        if not self._outgoing and not self._making and self._keep_ms <= 0:
            self._discard()

    def _discard(self) -> None:
        old, self._checkpoint = self._checkpoint, None
        if old is not None:
            self._background(old.discard, _raise_error)


def _chunk_reader(checkpoint: StateCheckpoint, want: SnapshotWant) -> Callable[[], bytes]:
    return lambda: checkpoint.read(want.file, want.offset, want.size)


def _raise_error(result: object) -> None:
    if isinstance(result, BaseException):
        raise result


class _Incoming:
    """The one transfer that a receiver takes part in."""

    def __init__(self, sender: NodeId, offer: SnapshotOffer) -> None:
        self.sender = sender
        self.offer = offer
        self.staging: Staging | None = None
        self.missing: deque[tuple[int, int, int]] = deque()  # stretches (file, offset, size), of any size: not one for each chunk
        self.asked: dict[tuple[int, int], int] = {}
        self.writing = 0
        self.finishing = False
        self.moved = False
        """Set, from any thread, when the work of this node has come forward."""
        self.quiet_ms = 0

    @property
    def at_work(self) -> bool:
        """Whether it is this node's turn, rather than the sender's."""
        return self.staging is None or self.writing > 0 or self.finishing

    def has_moved(self) -> None:
        """The work of this node has come forward."""
        self.moved = True


class SnapshotReceiver:
    """Receives one snapshot at a time; a newer offer takes the place of an older one.

    Args:
        state: where it is staged.
        background: runs blocking work.
        send: sends a frame to a peer.
        received: told (message, staging) when all of it is there, verified and durable. The staging area is then the caller's.
        no_space: told that a transfer has failed for want of space, and how; the next one may find some.
    """

    def __init__(
        self,
        state: StateDirectory,
        background: Background,  # type: ignore[type-arg]
        send: Callable[[NodeId, object], bool],
        received: Callable[[InstallSnapshot, Staging], None],
        no_space: Callable[[str], None],
    ) -> None:
        self._state = state
        self._background = background
        self._send = send
        self._received = received
        self._no_space = no_space
        self._incoming: _Incoming | None = None
        self._events = structlog.get_logger("raftkv")

    def offered(self, sender: NodeId, offer: SnapshotOffer) -> None:
        """The leader offers a snapshot."""
        current = self._incoming
        if current is not None and (current.offer.id == offer.id and current.sender == sender):
            if current.offer.files == offer.files:
                current.offer = offer  # a leader that was elected again offers in its new term, and the core takes nothing of an old one
            return
        if current is not None and (current.finishing or current.writing):
            # Said, because a leader that hears nothing waits long before it offers again.
            self._send(sender, SnapshotDone(offer.id, False, "another snapshot is being received"))
            return
        if any(file.size < 0 for file in offer.files):
            return
        incoming = _Incoming(sender, offer)
        self._incoming = incoming
        meta = offer.message.snapshot

        def staged(staging: Staging | BaseException) -> None:
            if isinstance(staging, BaseException):
                self._failed(incoming, staging)
            elif self._incoming is incoming:
                incoming.staging = staging
                incoming.quiet_ms = 0
                incoming.missing = deque(staging.missing())
                self._events.info("snapshot_receiving", sender=sender, index=meta.index, bytes=sum(size for _, _, size in incoming.missing))
                self._advance(incoming)

        self._background(lambda: self._state.stage(offer.id, meta, offer.files, incoming.has_moved), staged)

    def chunk(self, sender: NodeId, chunk: SnapshotChunk) -> None:
        """A chunk has arrived. One that was not asked for, or has the wrong size, is ignored."""
        incoming = self._incoming
        if incoming is None or incoming.staging is None or incoming.sender != sender or incoming.offer.id != chunk.id:
            return
        place = (chunk.file, chunk.offset)
        if incoming.asked.get(place) != len(chunk.data):
            return
        del incoming.asked[place]
        incoming.quiet_ms = 0
        incoming.writing += 1
        staging = incoming.staging

        def written(result: object) -> None:
            incoming.writing -= 1
            incoming.has_moved()
            if isinstance(result, BaseException):
                self._failed(incoming, result)
            elif self._incoming is incoming:
                self._advance(incoming)

        self._background(lambda: staging.write(chunk.file, chunk.offset, chunk.data), written)

    def stopped(self, sender: NodeId, done: SnapshotDone) -> None:
        """The sender no longer offers what was asked for."""
        incoming = self._incoming
        if incoming is not None and incoming.sender == sender and incoming.offer.id == done.id and not incoming.finishing:
            self._incoming = None

    def tick(self, elapsed_ms: int) -> None:
        """Time has passed: say that the work here moves on, ask again for what was lost, and give up on a sender that is gone."""
        incoming = self._incoming
        if incoming is None:
            return
        before = incoming.quiet_ms
        incoming.quiet_ms += elapsed_ms
        if incoming.quiet_ms > GIVE_UP_MS and not incoming.at_work:
            self._events.warning("snapshot_abandoned", sender=incoming.sender)
            self._incoming = None
        elif incoming.quiet_ms // ASK_AGAIN_MS > before // ASK_AGAIN_MS:
            if incoming.moved:
                incoming.moved = False
                self._send(incoming.sender, SnapshotWant(incoming.offer.id, 0, 0, 0))
            for (file, offset), size in sorted(incoming.asked.items()):
                self._send(incoming.sender, SnapshotWant(incoming.offer.id, file, offset, size))

    def _advance(self, incoming: _Incoming) -> None:
        while incoming.missing and len(incoming.asked) < CHUNKS_ASKED:
            file, offset, left = incoming.missing.popleft()
            size = min(left, CHUNK_BYTES)
            if left > size:
                incoming.missing.appendleft((file, offset + size, left - size))
            incoming.asked[file, offset] = size
            self._send(incoming.sender, SnapshotWant(incoming.offer.id, file, offset, size))
        if not incoming.missing and not incoming.asked and not incoming.writing and not incoming.finishing:
            self._finish(incoming)

    def _finish(self, incoming: _Incoming) -> None:
        staging = incoming.staging
        if staging is None:
            return
        incoming.finishing = True

        def finished(result: object) -> None:
            if isinstance(result, BaseException):
                self._failed(incoming, result)
                return
            self._incoming = None
            self._send(incoming.sender, SnapshotDone(incoming.offer.id, True, ""))
            self._received(incoming.offer.message, staging)

        self._background(staging.finish, finished)

    def _failed(self, incoming: _Incoming, error: BaseException) -> None:
        if not isinstance(error, Corrupt | DiskFull | ProtocolError | Unavailable):
            raise error
        if self._incoming is not incoming:
            return  # it has ended already, and the sender may have begun another of the same snapshot
        self._incoming = None
        self._events.warning("snapshot_failed", sender=incoming.sender, reason=str(error))
        if isinstance(error, DiskFull):
            self._no_space(str(error))
        self._send(incoming.sender, SnapshotDone(incoming.offer.id, False, str(error)[:200], isinstance(error, Corrupt)))
