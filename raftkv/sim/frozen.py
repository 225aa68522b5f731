"""A Raft core as a value: taken apart into a tuple that can be compared and hashed, and put together again.

Freezing walks the objects of a core by their attributes, so it knows no protocol. What is in `_FORGOTTEN` is not part of the value; it is
set to a constant when a core is thawed. So whatever two equal values are used for, they behave in the same way: what the value leaves
out is not in the core either. Left out are clocks and the timeouts measured by them (whoever explores cores makes time pass as an event
of its own), counters for operators, and what only lease reads use.

What it does not do: freeze a core in the middle of a verb, or one whose configuration was handed in by a snapshot under way.
"""

from __future__ import annotations

import enum
import random
from collections import Counter, deque
from collections.abc import Callable, Hashable
from functools import lru_cache
from operator import attrgetter

from msgspec import Struct

from raftkv.errors import InvariantBroken
from raftkv.raft.candidate import Candidate, PreCandidate
from raftkv.raft.config import Config
from raftkv.raft.follower import Follower
from raftkv.raft.leader import Leader
from raftkv.raft.log import Log, _Write
from raftkv.raft.membership import Membership, View
from raftkv.raft.node import Raft
from raftkv.raft.progress import Progress
from raftkv.raft.reads import Reads
from raftkv.raft.ready import RoleChange
from raftkv.raft.types import Configuration, Entry, EntryId, HardState, SnapshotMeta

ELECTION_TICKS = 7
HEARTBEAT_TICKS = 2
CONFIG = Config(election_ticks=ELECTION_TICKS, heartbeat_ticks=HEARTBEAT_TICKS, lease_ticks=ELECTION_TICKS - 1, max_append_bytes=1)
"""Entries with a payload travel alone, so that they can overtake one another."""


class Earliest(random.Random):
    """Chance that always draws the least: every timeout is as short as it can be."""

    def randrange(self, start: int, stop: int | None = None, step: int = 1) -> int:
        return start

    def randint(self, a: int, b: int) -> int:
        return a


EARLIEST = Earliest()

Frozen = tuple[Hashable, ...]

_FORGOTTEN: dict[type, dict[str, Callable[[], object]]] = {
    Raft: {
        "config": lambda: CONFIG,
        "rng": lambda: EARLIEST,
        "dropped": Counter,
        "ticks": int,
        "_promised_until": int,
        "_suspect_term": int,
    },
    Log: {"_window_bytes": lambda: CONFIG.window_bytes, "_window_entries": lambda: CONFIG.window_entries},
    _Write: {"tick": int},
    Follower: {"announced_commit": int, "_silent_ticks": int, "_timeout": lambda: ELECTION_TICKS},
    PreCandidate: {"_elapsed": int, "_timeout": lambda: ELECTION_TICKS},
    Candidate: {"_elapsed": int, "_timeout": lambda: ELECTION_TICKS},
    Leader: {"_ticks": int, "_rounds": dict},
    Progress: {"recently_active": lambda: True, "incarnation": lambda: 1},
    Reads: {"_lease_ticks": lambda: CONFIG.lease_ticks, "_lease_until": lambda: -1, "_rounds": deque},
}
"""What is left out, and the constant that takes its place."""

_CLASSES = (Raft, Log, _Write, Membership, Follower, PreCandidate, Candidate, Leader, Progress, Reads)
_ATOMS = (int, str, bytes, type(None), enum.Enum, Struct, tuple)
_COMMON = frozenset({int, bool, str, bytes, type(None), tuple, HardState, EntryId, Entry, RoleChange, SnapshotMeta, Configuration})
"""Types of `_ATOMS` that are met most: looking one up is faster than asking for its bases."""
_CORE = "its core"


@lru_cache(maxsize=1024)
def _view(configuration: Configuration) -> View:
    return View(configuration)


@lru_cache(maxsize=64)
def _names(kind: type, attributes: tuple[str, ...]) -> tuple[tuple[str, ...], Callable[[object], tuple[object, ...]]]:
    """The names of the attributes that belong to the value, and a function that gets them all."""
    forgotten = _FORGOTTEN.get(kind, {})
    names = tuple(name for name in attributes if name not in forgotten)
    return names, attrgetter(*names)


def freeze(raft: Raft) -> Frozen:
    """The value of `raft`."""
    frozen = _freeze(raft, raft)
    if not isinstance(frozen, tuple):
        raise InvariantBroken("a core freezes to a tuple")
    return frozen


def thaw(frozen: Frozen) -> Raft:
    """A core of that value."""
    raft = Raft.__new__(Raft)
    _fill(raft, frozen, raft)
    return raft


def _freeze(value: object, raft: Raft) -> Hashable:
    kind = type(value)
    if kind in _COMMON:
        return value
    if kind is list or kind is deque:
        return (kind, *[one if type(one) in _COMMON else _freeze(one, raft) for one in value])  # type: ignore[attr-defined]
    if kind is dict:
        return (dict, *[(key, _freeze(one, raft)) for key, one in sorted(value.items())])  # type: ignore[attr-defined]
    if kind is set:
        return (set, *sorted(value))  # type: ignore[call-overload]
    if kind is View:
        return (View, value.configuration)  # type: ignore[attr-defined]
    if isinstance(value, _ATOMS):
        return value
    if kind not in _CLASSES:
        raise InvariantBroken(f"a core holds a {kind.__name__}, of which nobody has said how it is frozen")
    names, get = _names(kind, tuple(vars(value)) if hasattr(value, "__dict__") else tuple(getattr(kind, "__slots__", ())))
    parts = [part if type(part) in _COMMON else _CORE if part is raft else _freeze(part, raft) for part in get(value)]
    return (kind, names, *parts)


def _thaw(frozen: Hashable, raft: Raft) -> object:
    """Tuples that begin with a class are what `_freeze` made; other tuples are values of the core."""
    if type(frozen) is not tuple or not frozen or type(frozen[0]) is not type:
        return frozen
    kind = frozen[0]
    if kind is list or kind is deque:
        return kind([_thaw(one, raft) for one in frozen[1:]])
    if kind is dict:
        return {key: _thaw(one, raft) for key, one in frozen[1:]}
    if kind is set:
        return set(frozen[1:])
    if kind is View:
        return _view(frozen[1])
    thawed: object = object.__new__(kind)
    _fill(thawed, frozen, raft)
    return thawed


def _fill(thawed: object, frozen: Frozen, raft: Raft) -> None:
    names: tuple[str, ...] = frozen[1]  # type: ignore[assignment]
    for name, part in zip(names, frozen[2:], strict=True):
        setattr(thawed, name, part if type(part) is not tuple and part != _CORE else raft if part == _CORE else _thaw(part, raft))
    for name, make in _FORGOTTEN.get(type(thawed), {}).items():
        setattr(thawed, name, make())
