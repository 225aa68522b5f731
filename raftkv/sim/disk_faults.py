"""Faults of disks: slow ones, failing ones, full ones, and bytes that change where they lie.

What has rotted is found when it is read. Where the product repairs it (a slot of the hard state, a copy of the identity, the state
store, a snapshot on its way) nobody has to do anything. Where it refuses to start, an operator does what the message says: the
directory is moved away, and the node comes back with an empty one.
"""

from __future__ import annotations

import random

from raftkv.errors import StorageError
from raftkv.sim.decay import stretches_of_records
from raftkv.sim.node import SimNode
from raftkv.sim.storm import Storm
from raftkv.storage.hard_state import HARD_STATE_PATH, SLOT_BYTES
from raftkv.storage.identity import IDENTITY_PATHS
from raftkv.storage.replay import MANIFEST_PATH

_SLOT_READ_BYTES = 24
"""Of a slot of the hard state, so much is surely read."""


def slow_disk(storm: Storm, rng: random.Random) -> None:
    """Each write takes long."""
    _pace(storm, rng, "slow_disk", (100, 3_000))


def hung_disk(storm: Storm, rng: random.Random) -> None:
    """Each write takes longer than an election."""
    _pace(storm, rng, "hung_disk", (100, 2_000))


def _pace(storm: Storm, rng: random.Random, kind: str, lasts_ms: tuple[int, int]) -> None:
    node = storm.victim(rng)
    if node.disk_pace:
        return
    storm.fired(node, kind)
    node.disk_pace = kind
    storm.undo(rng, lasts_ms, lambda: setattr(node, "disk_pace", ""))


def disk_error(storm: Storm, rng: random.Random) -> None:
    """One of the next operations that change something fails."""
    node = storm.victim(rng)
    if node.alive:
        storm.fired(node, "disk_error")
        node.faulty_disk = True
        node.disk.fail_at(node.disk.operations + rng.randint(1, 20), StorageError("Input/output error"))


def read_error(storm: Storm, rng: random.Random) -> None:
    """The next thing that is read cannot be; perhaps at the next start."""
    node = storm.victim(rng)
    if node.alive:
        storm.fired(node, "read_error")
        if rng.random() < 0.5:
            node.kill()
        node.faulty_disk = True
        node.disk.fail_next_read(StorageError("Input/output error"))


def full_disk(storm: Storm, rng: random.Random) -> None:
    """There is no space for a while, or little."""
    node = storm.victim(rng)
    if node.disk.capacity_bytes is None:
        storm.fired(node, "full_disk")
        used = sum(map(len, node.disk.files().values()))
        node.disk.capacity_bytes = used + rng.choice((0, 5_000, 40_000))
        storm.undo(rng, (200, 3_000), lambda: setattr(node.disk, "capacity_bytes", None))


def lose_state(storm: Storm, rng: random.Random) -> None:
    """The state store of a node is gone."""
    node = storm.expendable(rng)
    if node is not None and node.disk.exists("state"):
        storm.fired(node, "lose_state")
        node.kill()
        node.disk.remove_tree("state")
        node.disk.sync_directory("")
        node.doubtful = True


def wipe(storm: Storm, rng: random.Random) -> None:
    """A node comes back with an empty directory, and perhaps dies once more while it fills it."""
    node = storm.expendable(rng)
    if node is not None:
        storm.fired(node, "wipe")
        node.kill()
        node.replace_disk()
        if rng.random() < 0.5:
            node.crash_in = rng.randint(1, 45), rng


def rot_log(storm: Storm, rng: random.Random) -> None:
    """Up to three bytes of a log rot while its node is down. The other nodes have what was there, if it still counts."""
    node = storm.expendable(rng)
    if node is None:
        return
    node.kill()
    stretches = stretches_of_records(node.disk)
    for path, begin, end in rng.sample(stretches, min(len(stretches), rng.randint(1, 3))):
        storm.fired(node, "rot_log", path, begin)
        node.disk.flip(path, rng.randrange(begin, end), 1 << rng.randrange(8))
        node.doubtful = node.torn = True


def rot_hard_state(storm: Storm, rng: random.Random) -> None:
    """One slot of the hard state rots while the node is down. The other one holds the same."""
    node = storm.victim(rng)
    if node.alive:
        slot = rng.randrange(2)
        _rot(storm, node, "rot_hard_state", HARD_STATE_PATH, slot * SLOT_BYTES + rng.randrange(_SLOT_READ_BYTES))


def rot_identity(storm: Storm, rng: random.Random) -> None:
    """One copy of the identity rots while the node is down."""
    node = storm.victim(rng)
    if node.alive:
        path = rng.choice(IDENTITY_PATHS)
        _rot(storm, node, "rot_identity", path, rng.randrange(len(node.disk.content(path))))


def rot_manifest(storm: Storm, rng: random.Random) -> None:
    """The manifest of the log rots while the node is down: it refuses to start, and its directory is moved away."""
    node = storm.expendable(rng)
    if node is not None:
        _rot(storm, node, "rot_manifest", MANIFEST_PATH, rng.randrange(len(node.disk.content(MANIFEST_PATH))))
        node.rotten = node.doubtful = True


def rot_state(storm: Storm, rng: random.Random) -> None:
    """The state store rots while the node is down: it is set aside, and had again from the log or from another node."""
    node = storm.expendable(rng)
    if node is None:
        return
    stores = [path for path in node.disk.files() if path.startswith("state/gen-") and path.endswith("/ROWS")]
    if stores:
        _rot(storm, node, "rot_state", stores[-1], rng.randrange(len(node.disk.content(stores[-1]))))
        node.doubtful = True


def _rot(storm: Storm, node: SimNode, kind: str, path: str, offset: int) -> None:
    storm.fired(node, kind, path, "at", offset)
    node.kill()
    node.disk.flip(path, offset, 0x10)


def rot_snapshot(storm: Storm, rng: random.Random) -> None:
    """The next snapshot that this node sends or receives rots meanwhile."""
    node = rng.choice(storm.nodes)
    node.rots_snapshot = lambda path: storm.fired(node, "rot_snapshot", path)
