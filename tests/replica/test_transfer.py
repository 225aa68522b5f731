"""A snapshot on its way from one node to another: all of it, nothing twice that is there, and nothing wrong."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable

import pytest

from raftkv.codec.peer import SnapshotChunk, SnapshotDone, SnapshotOffer, SnapshotWant
from raftkv.errors import DiskFull, StorageError
from raftkv.kv.machine import KvMachine
from raftkv.raft.messages import InstallSnapshot
from raftkv.raft.types import Configuration, SnapshotMeta
from raftkv.sim.disk import SimDisk
from raftkv.sim.store import ModelEngine
from raftkv.startup import snapshot_meta_of
from raftkv.storage.checkpoint import StateDirectory
from raftkv.storage.staging import Staging
from raftkv.transfer import ASK_AGAIN_MS, CHUNK_BYTES, GIVE_UP_MS, KEEP_MS, SnapshotReceiver, SnapshotSender

RATE = 1 << 30


class SlowDisk(SimDisk):
    """A disk on which reading what was staged takes time, in which `meanwhile` happens."""

    meanwhile: Callable[[], None] | None = None

    def observe(self, kind: str, path: str) -> None:
        super().observe(kind, path)
        if self.meanwhile is not None and "/data/" in path:
            self.meanwhile()


class Pair:
    """A leader n1 with state and a follower n2 without, joined by two queues; background work happens at once."""

    def __init__(self, rate: int = RATE) -> None:
        self.disks = [SimDisk(random.Random(1)), SlowDisk(random.Random(2))]
        self.states = [StateDirectory(disk, ModelEngine(disk), snapshot_meta_of) for disk in self.disks]
        machine = KvMachine(self.states[0].store)
        machine.apply_empty(1, 1)
        rng = random.Random(3)
        self.states[0].store.write({b"k%d" % i: rng.randbytes(50_000) for i in range(40)})
        self.frames: deque[tuple[str, object]] = deque()
        self.sent: list[object] = []
        self.finished: list[tuple[str, bool]] = []
        self.received: list[tuple[InstallSnapshot, Staging]] = []
        self.refusals: list[str] = []
        """Why there was no space."""
        self.sender = SnapshotSender(self.states[0], _now, self._sends("n2"), lambda peer, ok: self.finished.append((peer, ok)), rate)
        self.receiver = SnapshotReceiver(
            self.states[1], _now, self._sends("n1"), lambda m, s: self.received.append((m, s)), self.refusals.append
        )

    def _sends(self, to: str) -> Callable[[str, object], bool]:
        def send(node: str, frame: object) -> bool:
            assert node == to
            self.frames.append((to, frame))
            self.sent.append(frame)
            return True

        return send

    def put_off(self, whose: SnapshotSender | SnapshotReceiver) -> deque[Callable[[], None]]:
        """From now on what one side does in the background waits in the answer."""
        work: deque[Callable[[], None]] = deque()

        def background(make: Callable[[], object], done: Callable[[object], None]) -> None:
            work.append(lambda: _now(make, done))

        whose._background = background
        return work

    def start(self) -> None:
        self.sender.start(InstallSnapshot("n1", "n2", 1, 7, SnapshotMeta(0, 0, Configuration())))

    def pass_time(self, ms: int) -> None:
        """Let so much time pass at both nodes, and frames arrive."""
        for _ in range(ms // 100):
            self.sender.tick(100)
            self.receiver.tick(100)
            self.deliver()

    def reads_take(self, ms: int) -> list[int]:
        """From now on each read of a staged file takes so long. The answer will hold an item for each."""
        reads: list[int] = []
        disk = self.disks[1]
        assert isinstance(disk, SlowDisk)

        def meanwhile() -> None:
            reads.append(ms)
            self.pass_time(ms)

        disk.meanwhile = meanwhile
        return reads

    def deliver(self, most: int = 1_000_000) -> None:
        for _ in range(most):
            if not self.frames:
                return
            to, frame = self.frames.popleft()
            match frame:
                case SnapshotOffer():
                    self.receiver.offered("n1", frame)
                case SnapshotChunk():
                    self.receiver.chunk("n1", frame)
                case SnapshotWant():
                    self.sender.wanted("n2", frame)
                case SnapshotDone():
                    (self.sender.done if to == "n1" else self.receiver.stopped)("n2" if to == "n1" else "n1", frame)


def _now(work: Callable[[], object], done: Callable[[object], None]) -> None:
    try:
        result = work()
    except Exception as error:  # as the shell does: `done` decides
        done(error)
    else:
        done(result)


def test_a_transfer_brings_all_of_the_state() -> None:
    """What arrives is verified, installs, and is the sender's state; the sender hears that it went well and keeps no checkpoint."""
    pair = Pair()
    pair.start()
    assert pair.sender.floor is not None
    pair.deliver()
    assert pair.finished == [("n2", True)]
    (message, staging) = pair.received[0]
    assert (message.snapshot.index, message.snapshot.term) == (1, 1)
    store = pair.states[1].install(staging)
    assert store.get(b"k39") == pair.states[0].store.get(b"k39")
    assert pair.sender.floor is None
    assert not [name for name in pair.disks[0].list("state") if name.startswith("snap-")]


def test_no_chunk_is_larger_than_agreed() -> None:
    """A chunk never holds up a heartbeat for longer than CHUNK_BYTES take."""
    pair = Pair()
    pair.start()
    pair.deliver()
    sizes = [len(frame.data) for frame in pair.sent if isinstance(frame, SnapshotChunk)]
    assert max(sizes) == CHUNK_BYTES


def test_the_rate_is_bounded() -> None:
    """Beyond the budget of a moment nothing is sent until time has passed."""
    pair = Pair(rate=4 * CHUNK_BYTES)
    pair.start()
    pair.deliver()
    before = sum(isinstance(frame, SnapshotChunk) for frame in pair.sent)
    assert before == 1
    pair.sender.tick(100)
    pair.deliver()
    assert sum(isinstance(frame, SnapshotChunk) for frame in pair.sent) <= before + 1


def test_lost_frames_are_asked_for_again() -> None:
    """A receiver that hears nothing asks again for exactly what is missing."""
    pair = Pair()
    pair.start()
    pair.deliver(3)
    pair.frames.clear()
    for _ in range(5):
        pair.receiver.tick(ASK_AGAIN_MS)
        pair.deliver()
    assert pair.finished == [("n2", True)]


def test_an_interrupted_transfer_goes_on_where_it_was() -> None:
    """After a break in the connection the same checkpoint is offered again, and what has arrived is not sent twice."""
    pair = Pair()
    pair.start()
    pair.deliver(12)
    arrived = sum(isinstance(frame, SnapshotChunk) for frame in pair.sent) - sum(
        isinstance(frame, SnapshotChunk) for _, frame in pair.frames
    )
    assert arrived > 0
    pair.frames.clear()
    pair.sender.peer_lost("n2")
    pair.receiver.tick(GIVE_UP_MS + 1)
    pair.sent.clear()
    pair.start()
    pair.deliver()
    offer = next(frame for frame in pair.sent if isinstance(frame, SnapshotOffer))
    total = sum(-(-file.size // CHUNK_BYTES) for file in offer.files)
    assert sum(isinstance(frame, SnapshotChunk) for frame in pair.sent) <= total - arrived
    assert pair.received


def test_a_damaged_chunk_fails_the_transfer_and_the_next_one_succeeds() -> None:
    """What does not match its checksum is never handed on; it is fetched again."""
    pair = Pair()
    pair.start()
    pair.deliver(4)
    position = next(at for at, (_, frame) in enumerate(pair.frames) if isinstance(frame, SnapshotChunk))
    to, chunk = pair.frames[position]
    assert isinstance(chunk, SnapshotChunk)
    pair.frames[position] = (to, SnapshotChunk(chunk.id, chunk.file, chunk.offset, b"\0" * len(chunk.data)))
    pair.deliver()
    assert pair.received == []
    assert pair.finished == [("n2", False)]
    pair.start()
    pair.deliver()
    assert len(pair.received) == 1


NO_PLACES: tuple[dict[str, int], ...] = ({"offset": -1}, {"offset": 1 << 40}, {"offset": (1 << 63) - 1})


def test_a_checkpoint_that_has_rotted_is_not_offered_again() -> None:
    """When a peer finds that a file differs, the next transfer is of a new checkpoint, and succeeds."""
    pair = Pair()
    pair.start()
    (name,) = [path for path in pair.disks[0].files() if path.startswith("state/snap-")]
    pair.disks[0].flip(name, 1_000)
    pair.deliver()
    assert pair.finished == [("n2", False)]
    pair.start()
    pair.deliver()
    assert pair.finished == [("n2", False), ("n2", True)]
    assert not [path for path in pair.disks[0].files() if path.startswith("state/snap-")]


@pytest.mark.parametrize("reason", ["another snapshot is being received", "no space"])
def test_a_checkpoint_that_nobody_doubts_is_offered_again(reason: str) -> None:
    """A peer that is busy or has no space refuses each offer: it costs no new checkpoint each time, and at last the same one arrives."""
    pair = Pair()
    names: set[str] = set()
    for _ in range(3):
        pair.start()
        (frame,) = pair.frames
        offer = frame[1]
        assert isinstance(offer, SnapshotOffer)
        names.add(offer.id)
        pair.frames.clear()
        pair.sender.done("n2", SnapshotDone(offer.id, False, reason))
    pair.start()
    pair.deliver()
    assert pair.finished == [("n2", False)] * 3 + [("n2", True)]
    assert len(names) == 1


@pytest.mark.parametrize("change", [{"file": 99}, {"size": 0}, {"size": CHUNK_BYTES + 1}, *NO_PLACES])
def test_a_want_that_makes_no_sense_is_ignored(change: dict[str, int]) -> None:
    """A peer cannot make the sender read what it did not offer."""
    pair = Pair()
    pair.start()
    offer = next(frame for frame in pair.sent if isinstance(frame, SnapshotOffer))
    want = {"file": 0, "offset": 0, "size": 10, **change}
    pair.sender.wanted("n2", SnapshotWant(offer.id, want["file"], want["offset"], want["size"]))
    assert not [frame for frame in pair.sent if isinstance(frame, SnapshotChunk)]


def test_a_silent_peer_is_given_up() -> None:
    """A transfer in which nothing moves ends, and the core may begin another."""
    pair = Pair()
    pair.start()
    pair.sender.tick(GIVE_UP_MS + 1)
    assert pair.finished == [("n2", False)]
    assert pair.sender.floor is None
    pair.sender.tick(KEEP_MS)
    assert not [name for name in pair.disks[0].list("state") if name.startswith("snap-")]


def test_a_leader_that_steps_down_ends_its_transfers() -> None:
    """The receiver learns that the offer no longer stands when it asks for more."""
    pair = Pair()
    pair.start()
    pair.deliver(1)
    pair.sender.stop_all()
    pair.deliver()
    assert pair.finished == [("n2", False)]
    assert pair.received == []
    pair.start()
    pair.deliver()
    assert len(pair.received) == 1


def test_an_offer_made_again_in_a_newer_term_is_the_one_that_counts() -> None:
    """A leader that was elected again meanwhile offers the same checkpoint: what is handed to the core is of its new term."""
    pair = Pair()
    pair.start()
    pair.deliver(4)
    pair.frames.clear()  # so the receiver does not hear that the transfer has ended
    pair.sender.stop_all()
    pair.sender.start(InstallSnapshot("n1", "n2", 3, 7, SnapshotMeta(0, 0, Configuration())))
    for _ in range(3):
        pair.deliver()
        pair.receiver.tick(ASK_AGAIN_MS)
    pair.deliver()
    assert [message.term for message, _ in pair.received] == [3]


def test_a_checkpoint_may_take_long_to_make() -> None:
    """No peer is given up for being silent before anything was offered to it."""
    pair = Pair()
    work: list[Callable[[], None]] = []
    sender = SnapshotSender(
        pair.states[0],
        lambda make, done: work.append(lambda: _now(make, done)),
        pair._sends("n2"),
        lambda peer, ok: pair.finished.append((peer, ok)),
        RATE,
    )
    sender.start(InstallSnapshot("n1", "n2", 1, 7, SnapshotMeta(0, 0, Configuration())))
    sender.tick(GIVE_UP_MS + 1)
    assert pair.finished == []
    work.pop()()
    assert isinstance(pair.sent[-1], SnapshotOffer)
    sender.tick(GIVE_UP_MS + 1)
    assert pair.finished == [("n2", False)]


def test_a_write_that_comes_too_late_does_not_end_the_transfer_that_took_its_place() -> None:
    """Chunks of a transfer that was broken off may still be on their way to the disk when the same snapshot is staged again."""
    pair = Pair()
    work = pair.put_off(pair.receiver)
    pair.start()
    pair.deliver()
    work.popleft()()
    pair.deliver()
    late = list(work)
    work.clear()
    offer = next(frame for frame in pair.sent if isinstance(frame, SnapshotOffer))
    pair.sender.stop_all()
    pair.receiver.stopped("n1", SnapshotDone(offer.id, False, "the leader has stepped down"))
    pair.start()
    pair.deliver()
    work.popleft()()
    for write in late:
        write()
    while work or pair.frames:
        pair.deliver()
        if work:
            work.popleft()()
    assert pair.finished == [("n2", False), ("n2", True)]
    assert len(pair.received) == 1


def test_a_large_snapshot_may_take_long_to_verify() -> None:
    """A receiver that is silent because it compares checksums says that this moves on, and nobody begins anew."""
    pair = Pair()
    pair.start()
    reads = pair.reads_take(10_000)
    pair.deliver()
    assert sum(reads) > GIVE_UP_MS
    assert pair.finished == [("n2", True)]
    assert len(pair.received) == 1
    assert sum(isinstance(frame, SnapshotOffer) for frame in pair.sent) == 1


def test_what_has_arrived_may_take_long_to_verify_before_a_transfer_goes_on() -> None:
    """The same when a transfer that was interrupted is taken up: what is there is read first, and only the rest is fetched."""
    pair = Pair()
    pair.start()
    pair.deliver(13)
    pair.frames.clear()
    pair.sender.peer_lost("n2")
    pair.receiver.tick(GIVE_UP_MS + 1)
    pair.finished.clear()
    pair.sent.clear()
    reads = pair.reads_take(6_000)
    pair.start()
    pair.deliver()
    assert sum(reads) > 2 * GIVE_UP_MS
    assert pair.finished == [("n2", True)]
    chunks = [frame for frame in pair.sent if isinstance(frame, SnapshotChunk)]
    offer = next(frame for frame in pair.sent if isinstance(frame, SnapshotOffer))
    assert 0 < len(chunks) < sum(-(-file.size // CHUNK_BYTES) for file in offer.files)


@pytest.mark.parametrize("jobs", [0, 1, 9])
def test_a_receiver_whose_disk_hangs_is_given_up(jobs: int) -> None:
    """Work that does not move keeps no transfer alive, and so no log on the leader: to stage, to write, or to verify after eight writes."""
    pair = Pair()
    work = pair.put_off(pair.receiver)
    pair.start()
    for _ in range(jobs):
        pair.deliver()
        work.popleft()()
    pair.deliver()
    assert work
    pair.pass_time(GIVE_UP_MS)
    pair.pass_time(2 * ASK_AGAIN_MS)
    assert pair.finished == [("n2", False)]
    assert pair.sender.floor is None


def _snapshots(pair: Pair) -> list[str]:
    return [name for name in pair.disks[0].list("state") if name.startswith("snap-")]


def test_a_checkpoint_of_a_wrong_state_is_not_kept() -> None:
    """A leader whose state has turned out to be wrong removes what it made of it at once, and tells nothing more of it; what it sends when
    it leads again is made anew."""
    pair = Pair()
    pair.start()
    pair.deliver(4)
    pair.sender.distrust()
    assert pair.finished == [("n2", False)]
    assert _snapshots(pair) == []
    pair.deliver()
    assert pair.received == []
    pair.start()
    pair.deliver()
    offers = [frame.id for frame in pair.sent if isinstance(frame, SnapshotOffer)]
    assert len(set(offers)) == 2
    assert pair.received[0][1].offer.name == offers[1]


def test_a_checkpoint_that_is_being_made_of_a_wrong_state_is_not_kept_either() -> None:
    """It is removed when it is made, and another one is made for a transfer that was begun in between."""
    for again in (False, True):
        pair = Pair()
        work = pair.put_off(pair.sender)
        pair.start()
        pair.sender.distrust()
        if again:
            pair.start()
        assert pair.sent == []
        work.popleft()()
        assert pair.sent == []
        (wrong,) = _snapshots(pair)
        work.popleft()()
        assert _snapshots(pair) == []
        while work:
            work.popleft()()
        assert [f"snap-{frame.id}" == wrong for frame in pair.sent if isinstance(frame, SnapshotOffer)] == [False] * again


def _errors_while_receiving(error: StorageError) -> list[str]:
    """Plan `error` for each operation of a receiver's disk in turn. What each came to: it was raised, or the transfer failed and the
    next one succeeded; one of them meets no error."""
    outcomes: list[str] = []
    while "whole" not in outcomes:
        pair = Pair()
        disk = pair.disks[1]
        disk.fail_at(disk.operations + len(outcomes) + 1, error)
        pair.start()
        try:
            pair.deliver()
        except StorageError:
            outcomes.append("raised")
            continue
        if pair.received:
            outcomes.append("whole")
            continue
        assert pair.finished == [("n2", False)]
        assert len(pair.refusals) == isinstance(error, DiskFull)
        pair.start()
        pair.deliver()
        assert pair.finished[1:] == [("n2", True)]
        assert len(pair.received) == 1
        outcomes.append("again")
    return outcomes


def test_an_error_of_the_disk_while_a_snapshot_arrives_stops_the_node() -> None:
    """A disk that fails to write or to sync is not tried again: the error goes to whoever runs the node."""
    outcomes = _errors_while_receiving(StorageError("Input/output error"))
    assert set(outcomes[:-1]) == {"raised"}
    assert len(outcomes) > 10


def test_a_full_disk_while_a_snapshot_arrives_fails_only_the_transfer() -> None:
    """The node goes on when there is no space, and the next transfer succeeds. Only a rename that may have happened is no such case."""
    outcomes = _errors_while_receiving(DiskFull("no space left"))
    assert outcomes.count("raised") <= 2
    assert outcomes.count("again") > 10


def test_an_offer_that_comes_while_another_snapshot_is_verified_is_answered() -> None:
    """A leader whose offer cannot be taken now is told so, and need not wait until its patience is over."""
    pair = Pair()
    held: list[Callable[[], None]] = []

    def sends(node: str, frame: object) -> bool:
        pair.frames.append((node, frame))
        pair.sent.append(frame)
        return True

    def background(work: Callable[[], object], done: Callable[[object], None]) -> None:
        if getattr(work, "__name__", "") == "finish":
            held.append(lambda: _now(work, done))
        else:
            _now(work, done)

    pair.receiver = SnapshotReceiver(pair.states[1], background, sends, lambda m, s: pair.received.append((m, s)), pair.refusals.append)
    pair.start()
    pair.deliver()
    (finish,) = held
    offer = next(frame for frame in pair.sent if isinstance(frame, SnapshotOffer))
    pair.receiver.offered("n3", SnapshotOffer("other", offer.message, offer.files))
    refusal = pair.sent[-1]
    assert isinstance(refusal, SnapshotDone)
    assert (refusal.id, refusal.ok) == ("other", False)
    pair.frames.clear()
    finish()
    assert len(pair.received) == 1


def test_an_offer_that_did_not_leave_is_no_transfer() -> None:
    """A request of a peer is heard after the connection to it broke, or too much waits for it: its next request gets an offer, at once."""
    pair = Pair()
    send = pair.sender._send
    pair.sender._send = lambda node, frame: False
    pair.start()
    assert (pair.finished, pair.sender.floor) == ([("n2", False)], None)
    pair.sender._send = send
    pair.start()
    pair.deliver()
    assert len(pair.received) == 1
