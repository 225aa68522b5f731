"""The state directory and snapshots: what lies on the disk, what a leader offers and sends, and what a follower asks for.

An input is a recipe: it may forge CURRENT, OFFER, PROGRESS and files of an interrupted transfer, and then says what a leader sends.
"""

from __future__ import annotations

import random
from collections.abc import Callable

import google_crc32c
import msgspec

from raftkv.codec.envelope import wrap
from raftkv.codec.peer import FileInfo, SnapshotChunk, SnapshotDone, SnapshotOffer, SnapshotWant, decode_value, encode_value
from raftkv.errors import ProtocolError, RaftkvError, StorageError
from raftkv.raft.messages import InstallSnapshot
from raftkv.raft.types import NodeId, SnapshotMeta
from raftkv.sim.disk import SimDisk
from raftkv.sim.store import ModelEngine
from raftkv.startup import snapshot_meta_of
from raftkv.storage.checkpoint import CURRENT_MAGIC, Current, StateDirectory
from raftkv.storage.damage import damage
from raftkv.storage.staging import OFFER_MAGIC, Offer, Staging
from raftkv.transfer import CHUNK_BYTES, SnapshotReceiver, SnapshotSender
from tests.fuzz.checks import Recipe, bounded, expect, last_piece, piece
from tests.fuzz.target import Target

CAPACITY_BYTES = 256 << 20
MOST_KEPT = 100
"""How many places of a snapshot, of a few files, a receiver keeps that are missing: not one for each chunk."""
_CRC_OF_HELLO = 0x9A71BB4C


class Wiring:
    """Runs what is called background work at once, and keeps what is sent. An error of any other kind than ours is let through."""

    def __init__(self) -> None:
        self.sent: list[object] = []
        self.received: list[Staging] = []

    def background(self, work: Callable[[], object], done: Callable[[object], None]) -> None:
        """As the shell does it, without a thread."""
        try:
            result = work()
        except RaftkvError as error:
            done(error)
            return
        done(result)

    def send(self, node: NodeId, value: object) -> bool:
        """Keep what would be sent, which another node can decode."""
        self.sent.append(value)
        expect(len(self.sent) < 5000, "more is sent than was asked for")
        return True


def run(data: bytes) -> None:
    """A directory opens or is refused; a transfer ends in a snapshot that is verified, or in a refusal, and nothing lies outside."""
    recipe = Recipe(data)
    disk = SimDisk(random.Random(1), capacity_bytes=CAPACITY_BYTES)
    forge(disk, recipe)
    size = sum(map(len, disk.files().values()))
    bounded(data, lambda: _use(disk, recipe), steps=60_000 + 400 * (len(data) + size), peak_bytes=(8 << 20) + 40 * size)


def _use(disk: SimDisk, recipe: Recipe) -> None:
    before = {path for path in disk.files() if not path.startswith("state/")}
    try:
        damage(disk)
        state = StateDirectory(disk, ModelEngine(disk), snapshot_meta_of, token=lambda: "token")
    except StorageError as error:
        expect(bool(str(error)), "an error says nothing")
        return
    expect(_position(state) is not None, "the live state says nothing of itself")
    receive(disk, state, recipe)
    serve(state, recipe)
    state.close()
    expect({path for path in disk.files() if not path.startswith("state/")} == before, "a file was written outside of the state")


def _position(state: StateDirectory) -> SnapshotMeta | None:
    try:
        return snapshot_meta_of(state.store)
    except StorageError:
        return None


def forge(disk: SimDisk, recipe: Recipe) -> None:
    """Files of the directory from the recipe, with right checksums."""
    for _ in range(recipe.number() % 5):
        match recipe.number() % 6:
            case 0:
                disk.put("state/CURRENT", wrap(CURRENT_MAGIC, 1, recipe.piece()))
            case 1:
                disk.put("state/part-p1/OFFER", wrap(OFFER_MAGIC, 1, recipe.piece()))
                disk.put("state/part-p1/data/a.sst", recipe.piece())
            case 2:
                disk.put("state/part-p1/PROGRESS", recipe.piece())
            case 3:
                disk.put("state/CURRENT", recipe.piece())
            case 4:
                disk.put("state/DAMAGED", recipe.piece())
            case _:
                disk.put("state/gen-00000001/ROWS", recipe.piece())


def receive(disk: SimDisk, state: StateDirectory, recipe: Recipe) -> None:
    """What a leader sends, to a receiver."""
    wiring = Wiring()
    receiver = SnapshotReceiver(state, wiring.background, wiring.send, lambda _, staging: wiring.received.append(staging), lambda _: None)
    for _ in range(8):
        if not recipe or wiring.received:  # a node takes no offer before what it has received is installed
            break
        try:
            value = decode_value(recipe.piece())
        except ProtocolError:
            continue
        if isinstance(value, SnapshotOffer):
            receiver.offered("n2", value)
        elif isinstance(value, SnapshotChunk):
            receiver.chunk("n2", value)
        elif isinstance(value, SnapshotDone):
            receiver.stopped("n2", value)
        receiver.tick(400)
        held = 0 if receiver._incoming is None else len(receiver._incoming.missing)
        expect(held <= MOST_KEPT, f"{held} places are kept of what is missing")
    for sent in wiring.sent:
        if isinstance(sent, SnapshotWant | SnapshotDone):
            expect(decode_value(encode_value(sent)) == sent, "what is sent cannot be decoded")
    for staging in wiring.received:
        expect(staging.finished, "a snapshot was handed over and not verified")
        for info in staging.offer.files:
            content = disk.content(f"{staging.path}/data/{info.name}")
            expect((len(content), google_crc32c.value(content)) == (info.size, info.crc), f"{info.name} is not what was offered")
        try:
            state.install(staging)
        except StorageError:
            break


def serve(state: StateDirectory, recipe: Recipe) -> None:
    """What a follower asks for, of a sender."""
    wiring = Wiring()
    sender = SnapshotSender(state, wiring.background, wiring.send, lambda peer, ok: None, 1 << 20)
    sender.start(InstallSnapshot("n1", "n2", 1, 1, SnapshotMeta()))
    for _ in range(4):
        try:
            value = decode_value(recipe.piece())
        except ProtocolError:
            continue
        if isinstance(value, SnapshotWant):
            sender.wanted("n2", value)
        elif isinstance(value, SnapshotDone):
            sender.done("n2", value)
        sender.tick(100)
    chunks = [value for value in wiring.sent if isinstance(value, SnapshotChunk)]
    expect(all(0 < len(chunk.data) <= CHUNK_BYTES for chunk in chunks), "a chunk is empty or too large")


def seeds() -> list[bytes]:
    """Transfers that succeed and fail, directories that were left in the middle of one."""
    install = InstallSnapshot("n2", "n1", 3, 5, SnapshotMeta(9, 2))
    files = (FileInfo("a.sst", 5, _CRC_OF_HELLO), FileInfo("b", 600_000, 5))
    offer = piece(encode_value(SnapshotOffer("p1", install, files[:1])))
    large = piece(encode_value(SnapshotOffer("p2", install, files)))
    huge = piece(encode_value(SnapshotOffer("p3", install, (FileInfo("c", 100 << 20, 5),))))
    chunk = piece(encode_value(SnapshotChunk("p1", 0, 0, b"hello")))
    done = piece(encode_value(SnapshotDone("p2", False, "gone")))
    wants = [piece(encode_value(SnapshotWant("token", 0, offset, 5))) for offset in (0, 3, 1 << 40)]
    kept = piece(msgspec.msgpack.encode(Offer("p1", SnapshotMeta(9, 2), files[:1])))
    progress = piece(msgspec.msgpack.encode(0)[:0] + b"\0" * 12 + (5).to_bytes(8, "little") + _CRC_OF_HELLO.to_bytes(4, "little"))
    current = piece(msgspec.msgpack.encode(Current("gen-00000001")))
    return [
        b"\0" + offer + chunk, b"\0" + large + offer + chunk + done + offer, b"\0" + huge + large, b"\1\0" + current + offer + chunk,
        b"\3\1" + kept + piece(b"hello") + b"\2" + progress + b"\0" + current + large + done, b"\1\4" + piece(b"rot\xff") + offer,
        b"\1\0" + last_piece(current[2:]), b"\1\1" + last_piece(kept[2:]), b"\2\1" + kept + b"\0\0\2" + last_piece(progress[2:] * 2),
        b"\0" + last_piece(large[2:]), b"\1\3" + piece(b"RKVSTATE"), b"\1\5" + piece(b"\0" * 8), b"\0" + piece(b"") * 8 + b"".join(wants),
    ]  # fmt: skip


TARGET = Target("state", run, seeds)
