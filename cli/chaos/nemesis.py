"""What goes wrong in a tortured cluster, and when.

The seed decides the actions: what kind, for how long, how soon the next one follows, and the numbers by which its victims are chosen.
Who leads, and which nodes are up, is the cluster's doing at that moment, so two runs of one seed do the same kinds of things to
nodes that are in different states. Actions overlap now and then. What always holds:

- Each action ends: what it did is undone after its time, or at the latest by `Nemesis.heal`.
- No more nodes than a minority lack something that they had, their state or an entry of their log: before another one loses something, one
  of those before must be whole again. No two logs are rotten at a time.
- A node that something was done to is not a victim of another action that ends or pauses processes, but for the death of all.
- Every action that was done is counted, also the ones that found no victim; where more is known than that, `skipped` says why.

A kind of action is a method of `Nemesis` that does it and returns how to undo it; the table `_acts` is all there is to know of them.
"""

from __future__ import annotations

import enum
import itertools
import random
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator

from msgspec import Struct

from raftkv.errors import StorageError
from raftkv_cli.chaos.members import Members
from raftkv_cli.chaos.proxy import Impairment, Links, Pair
from raftkv_cli.chaos.small_disk import SmallDisk
from raftkv_cli.resp import ErrorReply, Unreachable
from raftkv_cli.status import ask

POLL_SECONDS = 0.05
HEAL_SECONDS = 60.0
"""The longest that `Nemesis.heal` may take."""
VICTIM_SECONDS = 5.0
"""How long an action waits for a victim, such as a leader when there is none, before it is given up."""
STORM_RESETS = 10
MAX_LEFT_BYTES = 4 << 20


class Kind(enum.StrEnum):
    """What can be done."""

    KILL_LEADER = "kill leader"
    KILL_FOLLOWER = "kill follower"
    KILL_ALL = "kill all"
    PAUSE_LEADER = "pause leader"
    PAUSE_FOLLOWER = "pause follower"
    STOP_LEADER = "stop leader"
    STOP_FOLLOWER = "stop follower"
    ISOLATE_LEADER = "isolate leader"
    SPLIT = "split majority from minority"
    ONE_WAY = "cut one way"
    BRIDGE = "cut all but a bridge"
    DELAY = "delay"
    STALL = "stall"
    THROTTLE = "throttle"
    RESETS = "reset storm"
    TRANSFER = "transfer leadership"
    LOSE_STATE = "lose state"
    FILL_DISK = "fill disk"
    ROT = "rot log"
    FAIL_FSYNC = "fail fsync"


class Action(Struct, frozen=True):
    """One thing to do. `choice` chooses among its victims; it is undone after `hold_s`, and the next one follows after `pause_s`."""

    kind: Kind
    choice: int
    hold_s: float
    pause_s: float


HOLD_SECONDS = (0.3, 3.0)
PAUSE_SECONDS = (0.3, 2.5)


def draw(seed: int, kinds: Iterable[Kind] = Kind) -> Iterator[Action]:
    """Actions without end. Of each kind there is one before there is a second one of any."""
    rng, kinds = random.Random(seed), list(kinds)
    while True:
        for kind in rng.sample(kinds, len(kinds)):
            yield Action(kind, rng.getrandbits(32), rng.uniform(*HOLD_SECONDS), rng.uniform(*PAUSE_SECONDS))


Undo = Callable[[], bool]
"""Undoes an action; asked again, soon, until it says True."""


class Nemesis:
    """Does things to one cluster.

    Args:
        members: its nodes.
        links: the links between them.
        disk: the small disk of `on_disk`, if there is one.
        on_disk: the node that lives on it.
    """

    def __init__(self, members: Members, links: Links, disk: SmallDisk, on_disk: str) -> None:
        self.counts: Counter[Kind] = Counter()
        self.in_vain: Counter[Kind] = Counter()
        """Actions for which no victim came."""
        self.skipped: Counter[str] = Counter()
        """Why no victim came, where that says something of the run."""
        self.rotted: Counter[str] = Counter()
        """How often the log of each node has rotted."""
        self._members = members
        self._links = links
        self._disk = disk
        self._on_disk = on_disk
        self._full = False
        self._damaged: set[str] = set()
        """The nodes that have lost something and may not have it again."""
        self._rotten: str | None = None
        self._why_not: str | None = None
        """Why the action that was tried last found no victim."""
        self._undo: list[tuple[float, Undo]] = []
        leading, following = True, False
        self._acts: dict[Kind, Callable[[random.Random], Undo | None]] = {
            Kind.KILL_LEADER: lambda rng: self._kill(rng, leading),
            Kind.KILL_FOLLOWER: lambda rng: self._kill(rng, following),
            Kind.KILL_ALL: self._kill_all,
            Kind.PAUSE_LEADER: lambda rng: self._pause(rng, leading),
            Kind.PAUSE_FOLLOWER: lambda rng: self._pause(rng, following),
            Kind.STOP_LEADER: lambda rng: self._stop(rng, leading),
            Kind.STOP_FOLLOWER: lambda rng: self._stop(rng, following),
            Kind.ISOLATE_LEADER: self._isolate_leader,
            Kind.SPLIT: self._split,
            Kind.ONE_WAY: self._one_way,
            Kind.BRIDGE: self._bridge,
            Kind.DELAY: lambda rng: self._impair(Impairment(delay_s=rng.uniform(0.01, 0.4)), self._some_pairs(rng)),
            Kind.STALL: lambda rng: self._impair(Impairment(stall=True), self._one_link(rng)),
            Kind.THROTTLE: lambda rng: self._impair(Impairment(bytes_per_second=rng.randint(2_000, 100_000)), self._some_pairs(rng)),
            Kind.RESETS: self._resets,
            Kind.TRANSFER: self._transfer,
            Kind.LOSE_STATE: self._lose_state,
            Kind.FILL_DISK: self._fill_disk,
            Kind.ROT: self._rot,
            Kind.FAIL_FSYNC: self._fail_fsync,
        }

    # Running.

    def run(self, actions: Iterable[Action], seconds: float) -> None:
        """Do `actions` until they or the time are over. What was done may still have to be undone: see `heal`."""
        end = time.monotonic() + seconds
        for action in actions:
            patience = min(time.monotonic() + VICTIM_SECONDS, end)
            while not (done := self.act(action)) and time.monotonic() < patience:
                self._wait(time.monotonic() + POLL_SECONDS)
            if not done:
                self.in_vain[action.kind] += 1
                if self._why_not is not None:
                    self.skipped[f"{action.kind}: {self._why_not}"] += 1
            self._wait(min(time.monotonic() + action.pause_s, end))
            if time.monotonic() >= end:
                return
        while self._undo and time.monotonic() < end:
            self._wait(time.monotonic() + POLL_SECONDS)

    def act(self, action: Action) -> bool:
        """Do one thing, which `run` or `heal` undoes. False if there is no victim for it now."""
        self._why_not = None
        undo = self._acts[action.kind](random.Random(action.choice))
        if undo is not None:
            self.counts[action.kind] += 1
            self._undo.append((time.monotonic() + action.hold_s, undo))
        return undo is not None

    def heal(self) -> None:
        """Undo everything now."""
        deadline = time.monotonic() + HEAL_SECONDS
        self._undo = [(0.0, undo) for _, undo in self._undo]
        while self._undo and time.monotonic() < deadline:
            self._wait(time.monotonic() + POLL_SECONDS)
        for name in self._members.names:
            self._members.start(name)

    def _wait(self, until: float) -> None:
        """Undo what is due, and see who died, until then."""
        while True:
            now = time.monotonic()
            due = [each for each in self._undo if each[0] <= now]
            self._undo = [each for each in self._undo if each[0] > now]
            self._undo += [(when, undo) for when, undo in due if not undo()]
            self._members.look()
            if now >= until:
                return
            time.sleep(min(POLL_SECONDS, until - now))

    # Whom it hits.

    def _victim(self, rng: random.Random, leading: bool) -> str | None:
        leader = self._members.leader()
        if leader is None:
            return None
        candidates = [name for name in self._members.up if (name == leader) is leading and not self._spared(name)]
        return rng.choice(candidates) if candidates else None

    def _spared(self, name: str) -> bool:
        """A node cannot start on a full disk, so it is not ended there."""
        return self._full and name == self._on_disk

    def _some_pairs(self, rng: random.Random) -> list[Pair]:
        return rng.sample(self._links.pairs, rng.randint(1, len(self._links.pairs)))

    def _one_link(self, rng: random.Random) -> list[Pair]:
        one, other = rng.choice(self._links.pairs)
        return [(one, other)] if rng.random() < 0.5 else [(one, other), (other, one)]

    def _between(self, some: Iterable[str], others: Iterable[str]) -> list[Pair]:
        return [pair for one, other in itertools.product(some, list(others)) for pair in ((one, other), (other, one))]

    # Processes.

    def _kill(self, rng: random.Random, leading: bool) -> Undo | None:
        name = self._victim(rng, leading)
        if name is None:
            return None
        self._members.kill(name)
        return lambda: self._start(name)

    def _kill_all(self, rng: random.Random) -> Undo | None:
        if self._full:
            return None
        names = [name for name in self._members.names if name not in self._members.down]
        self._members.kill(*names)
        return lambda: self._start(*names)

    def _start(self, *names: str) -> bool:
        for name in names:
            self._members.start(name)
        return True

    def _pause(self, rng: random.Random, leading: bool) -> Undo | None:
        name = self._victim(rng, leading)
        if name is None:
            return None
        self._members.pause(name)

        def resume() -> bool:
            self._members.resume(name)
            return True

        return resume

    def _stop(self, rng: random.Random, leading: bool) -> Undo | None:
        name = self._victim(rng, leading)
        if name is None:
            return None
        self._members.ask_to_stop(name)
        return lambda: self._members.has_stopped(name) and self._start(name)

    def _transfer(self, rng: random.Random) -> Undo | None:
        leader = self._members.leader()
        if leader is None:
            return None
        to = rng.choice([[], *([name] for name in self._members.names if name != leader)])
        try:
            ask(self._members.nodes.spec(leader).client, "RAFTKV.TRANSFER", *to, timeout_s=1.0)
        except (ErrorReply, Unreachable):  # no longer the leader, or nobody is there to take over: the cluster may refuse
            return None
        return lambda: True

    # Links.

    def _impair(self, impairment: Impairment, pairs: list[Pair]) -> Undo:
        self._links.impose(impairment, pairs)

        def lift() -> bool:
            self._links.lift(impairment)
            return True

        return lift

    def _isolate_leader(self, rng: random.Random) -> Undo | None:
        leader = self._members.leader()
        if leader is None:
            return None
        others = [name for name in self._members.names if name != leader]
        return self._impair(Impairment(cut=True), self._between([leader], others))

    def _split(self, rng: random.Random) -> Undo:
        names = rng.sample(self._members.names, len(self._members.names))
        size = rng.randint(1, max(1, (len(names) - 1) // 2))
        return self._impair(Impairment(cut=True), self._between(names[:size], names[size:]))

    def _one_way(self, rng: random.Random) -> Undo:
        name, deaf = rng.choice(self._members.names), rng.random() < 0.5
        return self._impair(Impairment(cut=True), [pair for pair in self._links.pairs if pair[deaf] == name])

    def _bridge(self, rng: random.Random) -> Undo:
        _, *others = rng.sample(self._members.names, len(self._members.names))
        half = len(others) // 2
        return self._impair(Impairment(cut=True), self._between(others[:half], others[half:]))

    def _resets(self, rng: random.Random) -> Undo:
        pairs, left = self._some_pairs(rng), STORM_RESETS

        def reset() -> bool:
            nonlocal left
            self._links.reset(pairs)
            left -= 1
            return left <= 0

        reset()
        return reset

    # Disks.

    def _may_lose(self) -> list[str]:
        """The nodes of which each may lose something now."""
        members = self._members
        self._damaged = {name for name in self._damaged if not members.is_whole(name)}
        if self._rotten not in self._damaged:
            self._rotten = None
        names = [name for name in members.up if not self._spared(name)]
        if len(self._damaged) >= (len(members.names) - 1) // 2:
            names = [name for name in names if name in self._damaged]
        return names

    def _lose_state(self, rng: random.Random) -> Undo | None:
        names = self._may_lose()
        if not names:
            return None
        name = rng.choice(names)
        self._members.kill(name)
        self._members.lose_state(name)
        self._damaged.add(name)
        return lambda: self._start(name)

    def _rot(self, rng: random.Random) -> Undo | None:
        members = self._members
        may_lose = self._may_lose()
        if self._rotten is not None:
            self._why_not = f"the log of {self._rotten} was not whole again yet"
            return None
        names = [name for name in may_lose if members.may_rot(name)]
        if not names:
            what = "no node that might had a closed segment with entries that count" if may_lose else "too many nodes lacked something"
            self._why_not = what
            return None
        name = rng.choice(names)
        members.kill(name)
        try:
            index = members.rot(name, rng)
        except StorageError as error:
            index, self._why_not = None, f"the log of {name} could not be read: {error}"
        else:
            self._why_not = f"the log of {name} had been cut before it could rot"
        if index is None:
            members.start(name)
            return None
        self._damaged.add(name)
        self._rotten = name
        self.rotted[name] += 1
        return lambda: self._start(name)

    def _fail_fsync(self, rng: random.Random) -> Undo | None:
        names = [name for name in self._members.up if not self._spared(name) and self._members.serves(name)]
        if not names:
            return None
        name = rng.choice(names)
        self._members.fail_fsync(name)
        return lambda: self._members.has_failed(name) and self._start(name)

    def _fill_disk(self, rng: random.Random) -> Undo | None:
        members, name = self._members, self._on_disk
        if self._full or self._disk.problem is not None or name not in members.up or not members.serves(name):
            return None
        self._disk.fill(rng.randint(0, MAX_LEFT_BYTES))
        self._full = True

        def release() -> bool:
            self._disk.release()
            self._full = False
            return True

        return release
