"""What a simulated node runs on: its clocks and its disk, and what the faults do to them.

A host stays when the node on it dies. Everything that is random comes from the generator that the caller gives.
"""

from __future__ import annotations

import random
from collections.abc import Callable

from raftkv.raft.types import NodeId
from raftkv.sim.disk import SimDisk, Survival
from raftkv.sim.world import World

EPOCH_MS = 1_700_000_000_000


class Host:
    """See the module.

    Args:
        name: the node's name in `world.members`.
        world: what it shares with the others.
        rng: every choice of the node and its surroundings.
    """

    def __init__(self, name: NodeId, world: World, rng: random.Random) -> None:
        self.name = name
        self.world = world
        self._rng = rng
        self.disk = self._new_disk()
        self.disk_pace = ""
        """"slow_disk" or "hung_disk" while it is one."""
        self.faulty_disk = False
        """Its disk fails, or has failed in this life: errors of storage are to be expected."""
        self.wiped = False
        self.rotten = False
        """Something has rotted that keeps the node from starting: the directory is to be moved away."""
        self.rots_snapshot: Callable[[str], None] | None = None
        """The next snapshot here rots; told which file."""
        self.clock_rate = 1.0
        """How fast its clock runs."""
        self.wall_offset_ms = 0
        self._clock_begin = (1_000_000, 0)
        """What its clock showed when its rate changed last, in microseconds, and when that was."""

    # Time.

    @property
    def now_ms(self) -> int:
        """The node's monotonic clock."""
        shown_us, since_us = self._clock_begin
        return int(shown_us + (self.world.schedule.now_us - since_us) * self.clock_rate) // 1_000

    def set_rate(self, rate: float) -> None:
        """From now on the clock runs at this rate."""
        shown_us, since_us = self._clock_begin
        now_us = self.world.schedule.now_us
        self._clock_begin = (int(shown_us + (now_us - since_us) * self.clock_rate), now_us)
        self.clock_rate = rate

    @property
    def wall_ms(self) -> int:
        """The node's wall clock."""
        return EPOCH_MS + self.wall_offset_ms + self.world.schedule.now_us // 1_000

    # The disk.

    def replace_disk(self) -> None:
        """The directory is lost, and the node will start with an empty one."""
        self.disk = self._new_disk()
        self.wiped = True
        self.rotten = False

    def fate(self) -> Survival:
        """What becomes of what is pending when the machine stops in the middle of an operation, where nothing else says so."""
        return Survival.REORDERED if self._rng.random() < 0.5 else Survival.LOST

    def _new_disk(self) -> SimDisk:
        disk = SimDisk(random.Random(self._rng.getrandbits(64)))
        disk.ask_crash = self._before_operation
        return disk

    def _before_operation(self, kind: str, path: str, offset: int) -> Survival | None:
        """The disk is about to do something: does the node die in that, and what survives?"""
        raise NotImplementedError

    def _rot_snapshot(self, prefix: str) -> None:
        """A byte of a file of a snapshot changes where it lies."""
        files = self.disk.files()
        paths = [path for path in files if path.startswith(prefix) and files[path]]
        if paths and self.rots_snapshot is not None:
            path = self._rng.choice(paths)
            self.rots_snapshot(path)
            self.rots_snapshot = None
            self.disk.flip(path, self._rng.randrange(len(files[path])), 0x10)

    def _fsync_us(self) -> int:
        """How long the next write to the log takes."""
        tuning = self.world.tuning
        if self.disk_pace == "hung_disk":
            election_us = 2_000 * tuning.config.election_ticks * tuning.replica.tick_ms
            return self._rng.randint(election_us, 4 * election_us)
        if self.disk_pace or (tuning.stalls and self._rng.random() < tuning.stalls):
            return self._rng.randint(*tuning.stall_us)
        return self._rng.randint(*tuning.fsync_us)
